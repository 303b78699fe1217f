"""Snapshots of files and trees (GFS §3.4): a copy of the metadata in bounded steps, chunks shared by count.

What a writer does to a shared chunk is core/chunk_copies'; leases, and when to step, are the leader's.

A copy grows hidden: its root hangs from no directory but from the snapshot's row in UNFINISHED. Meanwhile
nothing below the source changes and neither path moves, for every record that would is refused as path_busy,
on every master alike. So the copy is of one point of the log (I10), however many records it takes and whoever
leads, and publishing it cannot fail. The leader's locks (master/namespace_locks) spare clients that answer.
"""

from __future__ import annotations

from itertools import islice

import msgspec

from gfs.errors import AlreadyExists, InvalidArgument, NotFound, PathBusy
from gfs.master.core.lookup import NamePath, find, find_directory, handle_of, names_of, names_to_change, spell
from gfs.master.core.quotas import Quotas
from gfs.master.core.records import (
    CONDEMNED_MS,
    ID_MAX,
    TRASH_INODE,
    Counters,
    InodeRecord,
    SnapshotFrame,
    SnapshotJob,
    decode_chunk,
    decode_inode,
    decode_job,
    decode_policy,
    dentry_key,
    dentry_value,
    encode_chunk,
    encode_inode,
    encode_job,
    file_chunk_key,
    handle_value,
    id_key,
    job_key,
    read_dentry,
    read_id,
    trash_key,
)
from gfs.master.core.tables import ReadTables, Table
from gfs.master.core.usage import AccountedTables
from gfs.messages.operations import (
    AbandonSnapshot,
    AnyOperation,
    BeginSnapshot,
    CopySnapshot,
    CreateFile,
    MakeDirectory,
)
from gfs.vocabulary import ROOT_INODE, InodeId

STEP_ROWS_MAX = 256  # entries and chunks one record may copy: keeps its apply under 10 ms
SNAPSHOTS_MAX = 16  # under way at a time; each is looked at for every record meanwhile
# Read at once of one directory. Its subdirectories wait as frames: at most so many on each level.
DIRECTORY_ROWS = 32


def jobs_under_way(tables: ReadTables) -> dict[InodeId, SnapshotJob]:
    """The snapshots that are not whole yet, by the inode of their copy."""
    rows = tables.scan(Table.UNFINISHED, b"s", b"t")
    return {InodeId(read_id(key[1:])): decode_job(row) for key, row in rows}


class Snapshots:
    """Every method checks first and writes after: when it raises, nothing was written."""

    def __init__(self, tables: AccountedTables, counters: Counters, quotas: Quotas) -> None:
        self._tables = tables
        self._quotas = quotas
        self._counters = counters
        # source inode and both paths of each job, as they are in the tables
        self._held: dict[int, tuple[int, NamePath, NamePath]] = {}
        for copy, job in jobs_under_way(tables).items():
            self._held[copy] = job.source, names_of(job.source_path), names_of(job.target_path)
        self.any_under_way = bool(self._held)

    def require_free(self, operation: AnyOperation) -> None:
        """Raises: PathBusy when the record would change what a snapshot under way copies, or where to.

        Paths and inodes are taken from all records that have such fields, also of kinds added later.
        """
        for field in ("path", "source", "destination", "target"):
            path: str | None = getattr(operation, field, None)
            if path is not None:
                makes = isinstance(operation, CreateFile | MakeDirectory)
                self._require_path_free(names_of(path), moves=not makes)
        # Grants, too: a lease could be told of after all leases have been taken back. Fences name no inode.
        inode: int = getattr(operation, "inode", 0)
        if inode:
            self._require_inode_free(inode)

    def begin(self, operation: BeginSnapshot) -> InodeId:
        """Raises: InvalidPath, InvalidArgument, NotFound, NotADirectory, AlreadyExists, PathBusy,
        QuotaExceeded.
        """
        # What is in the trash may be reclaimed at any time, also half-way through a copy.
        source, target = names_to_change(operation.source), names_to_change(operation.target)
        if not source:
            raise InvalidArgument("the root directory cannot be copied: the copy would lie within it")
        if not target:
            raise AlreadyExists("/ exists")
        inode, is_directory = find(self._tables, source)
        if target == source:
            raise AlreadyExists(f"{spell(target)} exists")
        if target[: len(source)] == source and is_directory:
            raise InvalidArgument(f"{spell(source)} cannot be copied into itself, to {spell(target)}")
        parent = find_directory(self._tables, target[:-1])
        if self._tables.get(Table.DENTRIES, dentry_key(parent, target[-1])) is not None:
            raise AlreadyExists(f"{spell(target)} exists")
        if len(self._held) >= SNAPSHOTS_MAX:
            raise PathBusy(f"{SNAPSHOTS_MAX} snapshots are under way already")
        whole = self._tables.usage_with(inode)
        # Asked once: what others add to the quota meanwhile does not stop a copy half-way.
        self._quotas.check_entries(parent, whole.entries, whole.content_bytes)
        record = self._inode(inode)
        copy = self._add_copy(inode, record, TRASH_INODE)
        job = SnapshotJob(
            source=inode,
            source_path=spell(source, whole=True),
            target_path=spell(target, whole=True),
            frames=(SnapshotFrame(inode, copy, b"" if is_directory else 0),),
        )
        self._tables.insert(Table.UNFINISHED, job_key(copy), encode_job(job))
        self._held[copy] = inode, source, target
        self.any_under_way = True
        return copy

    def copy(self, operation: CopySnapshot) -> InodeId:
        """One step. Returns: the copy when this step has published it, else 0.

        Raises: NotFound: it was published before.
        """
        key, row, job = self._job(operation.copy)
        frames = list(job.frames)
        rows_left = min(max(1, operation.rows), STEP_ROWS_MAX)
        while frames and rows_left > 0:
            frame = frames.pop()
            if isinstance(frame.after, bytes):
                rows_left -= self._copy_entries(frame, frames, rows_left)
            else:
                rows_left -= self._copy_chunks(frame, frames, rows_left)
        if frames:
            left = msgspec.structs.replace(job, frames=tuple(frames), begun=True)
            self._tables.replace(Table.UNFINISHED, key, old=row, new=encode_job(left))
            return InodeId(0)
        self._end(operation.copy, key, row)
        return self._publish(operation.copy, job)

    def abandon(self, operation: AbandonSnapshot) -> None:
        """Raises: NotFound; InvalidArgument when steps have been made: it is finished instead."""
        key, row, job = self._job(operation.copy)
        if job.begun:
            raise InvalidArgument(f"the snapshot to {job.target_path} has begun")
        self._end(operation.copy, key, row)
        self._tables.insert(Table.TRASH, trash_key(CONDEMNED_MS, operation.copy), b"")

    def _job(self, copy: int) -> tuple[bytes, bytes, SnapshotJob]:
        """The key, the row, and what it says. Raises: NotFound."""
        key = job_key(copy) if 0 < copy <= ID_MAX else b""
        row = self._tables.get(Table.UNFINISHED, key) if key else None
        if row is None:
            raise NotFound(f"no snapshot to inode {copy} is under way")
        return key, row, decode_job(row)

    def _end(self, copy: int, key: bytes, row: bytes) -> None:
        self._tables.remove(Table.UNFINISHED, key, old=row)
        del self._held[copy]
        self.any_under_way = bool(self._held)

    # --- what is held still ---------------------------------------------------------------------

    def _require_path_free(self, names: NamePath, *, moves: bool) -> None:
        for _, source, target in self._held.values():
            for held in (source, target):
                is_below = names[: len(held)] == held
                if is_below or (moves and held[: len(names)] == names):
                    raise PathBusy(
                        f"{spell(names)} has to stay as it is while the snapshot of {spell(source)} "
                        f"to {spell(target)} is made"
                    )

    def _require_inode_free(self, inode: int) -> None:
        sources = {held[0] for held in self._held.values()}
        at = inode
        while at not in (ROOT_INODE, TRASH_INODE):
            if at in sources:
                raise PathBusy(f"inode {inode} is part of a snapshot that is being made")
            row = self._tables.get(Table.INODES, id_key(at)) if 0 < at <= ID_MAX else None
            if row is None:
                return
            at = decode_inode(row).parent

    # --- copying --------------------------------------------------------------------------------

    def _copy_entries(self, frame: SnapshotFrame, frames: list[SnapshotFrame], rows_max: int) -> int:
        """Copy the next entries of a directory; returns how many rows that was."""
        assert isinstance(frame.after, bytes)
        wanted = min(rows_max, DIRECTORY_ROWS)
        # The shortest name behind `after`: no name holds a NUL.
        start = dentry_key(frame.source, frame.after + b"\0") if frame.after else id_key(frame.source)
        stop = id_key(frame.source + 1)
        entries = list(islice(self._tables.scan(Table.DENTRIES, start, stop), wanted))
        if len(entries) == wanted:
            frames.append(SnapshotFrame(frame.source, frame.copy, entries[-1][0][8:]))
        rows = 1  # an empty directory is work too
        for key, value in entries:
            inode, is_directory = read_dentry(value)
            record = self._inode(inode)
            copy = self._add_copy(inode, record, frame.copy)
            entry = dentry_value(copy, is_directory=is_directory)
            self._tables.insert(Table.DENTRIES, dentry_key(frame.copy, key[8:]), entry)
            rows += 1
            if is_directory:
                frames.append(SnapshotFrame(inode, copy, b""))
            elif record.chunk_count == 1:
                self._share(record.first_chunk)
            elif record.chunk_count:
                frames.append(SnapshotFrame(inode, copy, 0))
        return rows

    def _copy_chunks(self, frame: SnapshotFrame, frames: list[SnapshotFrame], rows_max: int) -> int:
        """Share the next chunks of a file with its copy; returns how many rows that was."""
        assert isinstance(frame.after, int)
        tables = self._tables
        record = self._inode(frame.source)
        stop = min(record.chunk_count, frame.after + rows_max)
        for index in range(frame.after, stop):
            handle = handle_of(tables, frame.source, record, index)
            self._share(handle)
            if index > 0:
                tables.insert(Table.FILE_CHUNKS, file_chunk_key(frame.copy, index), handle_value(handle))
        old = tables.get(Table.INODES, id_key(frame.copy))
        assert old is not None, frame
        parent = decode_inode(old).parent
        if stop < record.chunk_count:
            frames.append(SnapshotFrame(frame.source, frame.copy, stop))
            new = _partial(record, parent, stop)
        else:
            new = msgspec.structs.replace(record, parent=parent)
        self._rewrite(frame.copy, old, new)
        return max(1, stop - frame.after)

    def _add_copy(self, source: int, record: InodeRecord, parent: int) -> InodeId:
        """A new inode like `record`. One with several chunks has none until _copy_chunks gives them to it."""
        copy = self._counters.next_inode
        assert copy <= ID_MAX
        self._counters.next_inode = copy + 1
        if record.is_directory:
            self._counters.directories += 1
            self._copy_policy(source, copy)
        else:
            self._counters.files += 1
        is_whole = record.chunk_count == 0 or (record.chunk_count == 1 and parent != TRASH_INODE)
        new = msgspec.structs.replace(record, parent=parent) if is_whole else _partial(record, parent, 0)
        self._tables.insert(Table.INODES, id_key(copy), encode_inode(new))
        return InodeId(copy)

    def _copy_policy(self, source: int, copy: int) -> None:
        """What a directory itself says goes along; what it inherits comes from where the copy is."""
        row = self._tables.get(Table.POLICIES, id_key(source))
        if row is not None:
            self._tables.insert(Table.POLICIES, id_key(copy), row)
            self._quotas.set_limits(copy, decode_policy(row))

    def _share(self, handle: int) -> None:
        key = id_key(handle)
        row = self._tables.get(Table.CHUNKS, key)
        assert row is not None, handle
        chunk = decode_chunk(row)
        shared = msgspec.structs.replace(chunk, references=chunk.references + 1)
        self._tables.replace(Table.CHUNKS, key, old=row, new=encode_chunk(shared))

    def _publish(self, copy: InodeId, job: SnapshotJob) -> InodeId:
        tables = self._tables
        names = names_of(job.target_path)
        record = self._inode(copy)
        row = encode_inode(record)
        try:
            parent = find_directory(tables, names[:-1])
            if tables.get(Table.DENTRIES, dentry_key(parent, names[-1])) is not None:
                raise AlreadyExists(job.target_path)
        except (NotFound, AlreadyExists):
            # Not reached, as both paths were held; were it, the copy would be reclaimed like what is purged.
            tables.insert(Table.TRASH, trash_key(CONDEMNED_MS, copy), b"")
            return InodeId(0)
        entry = dentry_value(copy, is_directory=record.is_directory)
        tables.insert(Table.DENTRIES, dentry_key(parent, names[-1]), entry)
        self._rewrite(copy, row, msgspec.structs.replace(record, parent=parent))
        return copy

    def _inode(self, inode: int) -> InodeRecord:
        row = self._tables.get(Table.INODES, id_key(inode))
        assert row is not None, inode
        return decode_inode(row)

    def _rewrite(self, inode: int, old: bytes, record: InodeRecord) -> None:
        new = encode_inode(record)
        if new != old:
            self._tables.replace(Table.INODES, id_key(inode), old=old, new=new)


def _partial(record: InodeRecord, parent: int, chunks: int) -> InodeRecord:
    """A file of which only the first `chunks` chunks are there: it claims no more than that."""
    return msgspec.structs.replace(
        record,
        parent=parent,
        chunk_count=chunks,
        first_chunk=record.first_chunk if chunks else 0,
        length_bytes=0,
        length_exact=False,
    )
