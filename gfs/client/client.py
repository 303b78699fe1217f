"""The verbs of the async SDK. How requests reach the leader and bytes the replicas is told elsewhere."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Literal, Self, overload

from gfs.client import checking, listing, publishing, transfer
from gfs.client.backups import Backups
from gfs.client.connections import Connections
from gfs.client.core.record_framing import frame
from gfs.client.core.striping import chunk_start, locate
from gfs.client.file import AsyncReader, AsyncWriter
from gfs.client.master_session import Freshness
from gfs.client.mutator import Mutator
from gfs.client.operating import Operator
from gfs.client.paths import checked_path
from gfs.client.reader import Reader
from gfs.client.record_appender import RecordAppenders
from gfs.client.records import Record, RecordReader
from gfs.client.stat_batches import StatBatches
from gfs.client.transfer import Progress
from gfs.client.watching import AsyncWatch
from gfs.errors import (
    GfsError,
    InvalidArgument,
    IsADirectory,
    NotADirectory,
    NotFound,
    OutcomeUnknown,
    Superseded,
    Unavailable,
    WrongCluster,
)
from gfs.messages.base import Ack, Consistency
from gfs.messages.check import CheckFilesReply
from gfs.messages.chunks import ChunkPlace
from gfs.messages.cluster import ClusterStatus, ClusterStatusReply, ReadmitMaster
from gfs.messages.namespace import (
    DeletePath,
    Entry,
    EntryReply,
    MakeDirectory,
    RenamePath,
    Stat,
)
from gfs.messages.policies import (
    ChangeMode,
    ChangeOwner,
    PolicyFields,
    PolicyReply,
    SetPolicy,
    ShowPolicy,
)
from gfs.messages.snapshots import TakeSnapshot
from gfs.messages.trash import (
    PurgeReply,
    PurgeTrash,
    TrashEntry,
    Undelete,
    UndeleteReply,
)
from gfs.settings import APPEND_BYTES_MAX, ClientSettings
from gfs.vocabulary import (
    TRASH_DIRECTORY,
    Address,
    ChunkHandle,
    ChunkIndex,
    ChunkVersion,
    MasterId,
    split_path,
)

STATUS_SECONDS = 1.5
REOPEN_MAX = 8  # a file replaced under a whole-file read is read anew, so often

WriteMode = Literal["wb", "xb", "ab"]
Names = list[str]  # within the class `list` is a verb
Places = list[ChunkPlace]


class AsyncClient:
    """A connection to a cluster. Made by gfs.aio.connect(); any number of tasks may use it at once.

    Every method raises GfsError: InvalidPath for a path that cannot be one, NotFound, AlreadyExists … as the
    master answered, Unavailable or OutcomeUnknown when `retry_seconds` were not enough.
    Namespace mutations take effect exactly once, also over retries and changes of the leader.

    Reads take a `consistency`, by default the one given to connect(): "linearizable" sees every change that
    was acknowledged before; "session" is answered by any master, and is never older than what this client
    has seen or done; "stale" is answered by any master from what it has, also when there is no quorum (GFS
    §5.1.3). `freshness` then tells how old. File content is never stale, only what a name stands for.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._masters = connections.masters
        self._stats = StatBatches(connections.masters)
        self.operator = Operator(connections)
        self.backups = Backups(connections)
        self._appenders = RecordAppenders(connections)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up. Open files fail; flush or close them before."""
        await self._appenders.close()
        await self._connections.close()

    @property
    def freshness(self) -> Freshness | None:
        """How old the state was that the last session or stale read was answered from, and by whom."""
        return self._masters.freshness

    @property
    def masters(self) -> list[str]:
        """Control addresses this client asks: those it was given, and those the cluster has named since."""
        return list(self._masters.known_masters)

    @property
    def settings(self) -> ClientSettings:
        """The time limits and sizes this client was made with."""
        return self._connections.settings

    # --- looking --------------------------------------------------------------------------------

    async def stat(self, path: str, *, consistency: Consistency | None = None) -> Entry:
        """The entry at `path`. A file's length is exact, also while it is written, if its end can be asked;
        otherwise `length_exact` stays False."""
        found = await self._stat(path, consistency)
        return await listing.with_exact_length(self._connections, found.entry, consistency)

    async def exists(self, path: str, *, consistency: Consistency | None = None) -> bool:
        """True when there is a file or directory at `path`."""
        try:
            await self._stat(path, consistency)
        except (NotFound, NotADirectory):
            return False
        return True

    async def list(self, path: str, *, consistency: Consistency | None = None) -> AsyncIterator[Entry]:
        """Entries of a directory in byte order of their names, fetched page by page.

        Each page is of one moment; a long listing may see some of what changes meanwhile.
        """
        async for entry in listing.entries_of(self._connections, checked_path(path), consistency):
            yield entry

    async def listdir(self, path: str, *, consistency: Consistency | None = None) -> Names:
        """Names in a directory, in byte order."""
        return [split_path(entry.path)[-1] async for entry in self.list(path, consistency=consistency)]

    async def glob(self, pattern: str, *, consistency: Consistency | None = None) -> AsyncIterator[Entry]:
        """Entries matching `pattern`: `*`, `?`, `[…]` within a name, `**` for any depth."""
        async for entry in listing.entries_matching(self._connections, checked_path(pattern), consistency):
            yield entry

    async def chunks(self, path: str, *, consistency: Consistency | None = None) -> Places:
        """All chunks of a file with their replicas, as the master knows them now."""
        return await listing.all_chunks(self._connections, checked_path(path), consistency)

    async def watch(self, path: str = "/", *, since: int = 0) -> AsyncWatch:
        """Follow what changes at `path` and below: created, deleted, renamed, written … (see Change).

            watch = await client.watch("/logs")  # first watch, then list: so nothing is missed between
            known = await client.listdir("/logs")
            async for change in watch:
                print(change.kind, change.path, change.index)

        Args:
            since: index of a log entry to go on from, as an earlier Change or `position` told it; by default
                all that is acknowledged from now on is told.
        Raises: while it is followed, ChangesForgotten when `since` is too long ago: masters remember some
            50,000 changes since they started. Then watch anew, and list again.
        """
        if since < 0:
            raise InvalidArgument(f"no log entry has the index {since}")
        watch = AsyncWatch(self._connections, checked_path(path), since)
        await watch.begin()
        return watch

    async def cluster_status(self) -> ClusterStatusReply:
        """How the cluster is: the leader's word, or without a leader that of a master that can be reached.

        Raises: WrongCluster when another cluster's programs answer; Unavailable naming every master when
            none does.
        """
        answers = await self._masters.ask_everyone(
            ClusterStatus(), ClusterStatusReply, seconds=STATUS_SECONDS
        )
        replies = [answer for answer in answers.values() if isinstance(answer, ClusterStatusReply)]
        foreign = [answer for answer in answers.values() if isinstance(answer, WrongCluster)]
        if not replies and foreign:
            raise foreign[0]
        if not replies:
            told = "; ".join(f"{address} ({answer})" for address, answer in answers.items())
            raise Unavailable(
                f"no master can be reached: {told}",
                hint="See that the masters run, and that these are their addresses.",
                details={"tries": "0"},
            )
        return max(replies, key=lambda reply: (reply.answered_by == reply.leader, reply.term))

    async def check(self, path: str, *, with_places: bool = False) -> AsyncIterator[CheckFilesReply]:
        """How safe every chunk at and below `path` is, page by page, as the leader knows.

        `with_places`: with where the replicas are, for verify_chunk().
        """
        async for page in checking.check_pages(
            self._connections, checked_path(path), with_places=with_places
        ):
            yield page

    async def verify_chunk(self, place: ChunkPlace) -> checking.VerifiedChunk:
        """Have every replica of a chunk read and verified now. Damage found is repaired by the cluster."""
        return await checking.verify_chunk(self._connections, place)

    async def replica_bytes(
        self, server: str, handle: int, version: int, *, capability: bytes = b""
    ) -> bytes:
        """All committed bytes of the replica that the chunk server with this control address has, from it
        alone. For who compares replicas; reading a file asks whichever is nearest. `capability`: of the
        chunk's place, as chunks() has it.

        Raises: NotFound when the masters know no such server, or it has no such chunk; StaleVersion;
            ChecksumMismatch.
        """
        known = {one.control: one.data for one in (await self.cluster_status()).chunkservers}
        if server not in known:
            raise NotFound(f"the masters know no chunk server at {server}")
        return await checking.replica_bytes(
            self._connections,
            control=Address(server),
            data=known[Address(server)],
            handle=ChunkHandle(handle),
            version=ChunkVersion(version),
            capability=capability,
        )

    async def repair(self, paths: Names) -> int:
        """Have these files repaired before others; returns how many of their chunks are at risk."""
        return await checking.repair(self._connections, [checked_path(path) for path in paths])

    async def readmit_master(self, member: str) -> None:
        """Let a master vote again that came back with an empty disk; see 'gfs status' for who is kept out.

        Raises: InvalidArgument when the leader has not refused that master.
        """
        request = ReadmitMaster(member=MasterId(member))
        await self._masters.ask_leader(request, Ack, f"readmit {member}", effects=True)

    # --- changing the namespace -----------------------------------------------------------------

    async def mkdir(self, path: str, *, parents: bool = False) -> None:
        """Make a directory; with `parents` missing ancestors too, and an existing one is no error."""
        checked = checked_path(path)
        await self._masters.mutate(
            lambda request: MakeDirectory(path=checked, parents=parents, request=request), f"mkdir {path}"
        )

    async def create(self, path: str, *, replication_goal: int = 0, replace: bool = False) -> None:
        """Make an empty file. `replace`: an existing file goes to the trash first."""
        await publishing.create(
            self._connections, checked_path(path), replication_goal=replication_goal, replace=replace
        )

    async def delete(self, path: str, *, recursive: bool = False, skip_trash: bool = False) -> None:
        """Move `path` to the trash, with everything below it when `recursive`.

        What is in the trash already, /.trash/<id>, is reclaimed at once; with `skip_trash` what is deleted
        now is, too. Then nobody can have it back.
        """
        checked = checked_path(path)
        done = await self._masters.mutate(
            lambda request: DeletePath(path=checked, recursive=recursive, request=request), f"delete {path}"
        )
        self._connections.places.forget_tree(checked)
        if skip_trash and not checked.startswith(TRASH_DIRECTORY + "/"):
            await self.purge(f"{TRASH_DIRECTORY}/{done.inode}")

    async def trash(
        self, under: str = "/", *, consistency: Consistency | None = None
    ) -> AsyncIterator[TrashEntry]:
        """What was deleted from `under` or from below it and can be had back, soonest reclaimed first."""
        async for entry in listing.trash_of(self._connections, checked_path(under), consistency):
            yield entry

    async def undelete(self, path: str, *, destination: str = "") -> str:
        """Give back what was deleted last from `path`, or the entry /.trash/<id>; returns where it is now.

        It goes to `destination`, by default to where it was; parents that are gone are made.
        Raises: NotFound; AlreadyExists when something else is there by now.
        """
        checked, to = checked_path(path), checked_path(destination) if destination else ""
        done = await self._masters.mutate(
            lambda request: Undelete(path=checked, destination=to, request=request),
            f"undelete {path}",
            UndeleteReply,
        )
        self._connections.places.forget_tree(done.path)
        return done.path

    async def purge(self, path: str, *, everything: bool = False) -> int:
        """Reclaim at once what was deleted from `path`, or the entry /.trash/<id>; nobody can have it back.

        Args:
            everything: what was deleted from below `path` as well; then it is no error if there is nothing.
        Returns: how many entries of the trash that were, as far as the last try at each part could tell.
        """
        checked, purged = checked_path(path), 0
        while True:
            done = await self._masters.mutate(
                lambda request: PurgeTrash(path=checked, everything=everything, request=request),
                f"purge {path}",
                PurgeReply,
            )
            purged += done.entries
            if not done.more:
                return purged

    async def rename(self, source: str, destination: str, *, replace: bool = False) -> None:
        """Move a file or a tree in one step. `replace`: a file at `destination` goes to the trash."""
        old, new = checked_path(source), checked_path(destination)
        await self._masters.mutate(
            lambda request: RenamePath(source=old, destination=new, replace=replace, request=request),
            f"rename {source} to {destination}",
        )
        self._connections.places.forget_tree(old)
        self._connections.places.forget_tree(new)

    async def snapshot(self, source: str, target: str) -> None:
        """Make `target` a copy of the file or tree `source`, as it is at one moment between call and return.

        It holds every write acknowledged before the call, and none begun after the return. No byte is copied
        now: source and copy share their chunks until one of them is written to. Writers under `source` wait
        meanwhile, for a second or so with 20,000 files.
        Raises: NotFound; AlreadyExists when there is something at `target`; InvalidArgument into itself;
            DataUnavailable when a chunk is being written and none of its replicas can be reached.
        """
        old, new = checked_path(source), checked_path(target)
        await self._masters.mutate(
            lambda request: TakeSnapshot(source=old, target=new, request=request),
            f"snapshot {source} to {target}",
        )
        self._connections.places.forget_tree(new)

    # --- policies, owners and modes -------------------------------------------------------------

    async def policy(self, path: str, *, consistency: Consistency | None = None) -> PolicyReply:
        """What is set at `path`, what holds there and whence, and what counts against which quota."""
        how = consistency or self._connections.consistency
        request = ShowPolicy(path=checked_path(path), consistency=how, min_applied_index=self._seen())
        return await self._connections.ask(request, PolicyReply, f"policy of {path}", how)

    async def set_policy(self, path: str, fields: PolicyFields, *, unset: Sequence[str] = ()) -> None:
        """Set some fields of a directory's policy and unset others; see `PolicyFields` for units."""
        checked = checked_path(path)
        await self._masters.mutate(
            lambda request: SetPolicy(path=checked, fields=fields, unset=[*unset], request=request),
            f"set policy of {path}",
        )

    async def chmod(self, path: str, mode: int) -> None:
        """Change the mode, nine bits rwxrwxrwx. For the owner and the superuser."""
        checked = checked_path(path)
        await self._masters.mutate(
            lambda request: ChangeMode(path=checked, mode=mode, request=request), f"chmod {path}"
        )

    async def chown(self, path: str, *, owner: str | None = None, group: str | None = None) -> None:
        """Change owner (the superuser may), group (the owner may, to one of his), or both."""
        checked = checked_path(path)
        await self._masters.mutate(
            lambda request: ChangeOwner(path=checked, owner=owner, group=group, request=request),
            f"chown {path}",
        )

    # --- files ----------------------------------------------------------------------------------

    @overload
    async def open(
        self, path: str, mode: Literal["rb"] = "rb", *, consistency: Consistency | None = ...
    ) -> AsyncReader: ...

    @overload
    async def open(
        self, path: str, mode: WriteMode, *, atomic: bool = ..., replication_goal: int = ...
    ) -> AsyncWriter: ...

    @overload
    async def open(
        self,
        path: str,
        mode: str,
        *,
        atomic: bool = ...,
        replication_goal: int = ...,
        consistency: Consistency | None = ...,
    ) -> AsyncReader | AsyncWriter: ...

    async def open(
        self,
        path: str,
        mode: str = "rb",
        *,
        atomic: bool = False,
        replication_goal: int = 0,
        consistency: Consistency | None = None,
    ) -> AsyncReader | AsyncWriter:
        """Open a file.

        Args:
            mode: "rb"; "wb" writes from scratch, a file that exists goes to the trash; "xb" wants none; "ab"
                goes on where the file ends when it is opened. That is for one writer at a time: two of them
                write over each other. Use record_append() for any number.
            atomic: write under a hidden name and publish at close, so that no reader sees half a file.
            replication_goal: replicas of each chunk; 0 takes the cluster's default.
            consistency: of the lookups of a reader.
        Raises: InvalidArgument for another mode; NotFound; IsADirectory; AlreadyExists in mode "xb".
        """
        match mode:
            case "rb" if not atomic:
                reader = Reader(self._connections, checked_path(path), consistency=consistency)
                await reader.open()
                return AsyncReader(reader)
            case "wb" | "xb":
                open_writer = publishing.open_atomic if atomic else publishing.open_in_place
                return await open_writer(
                    self._connections,
                    checked_path(path),
                    replace=mode == "wb",
                    replication_goal=replication_goal,
                )
            case "ab" if not atomic:
                return await publishing.open_at_end(
                    self._connections, checked_path(path), replication_goal=replication_goal
                )
            case "ab" | "rb":
                raise InvalidArgument(
                    f"cannot open {path} in mode {mode!r} with atomic=True",
                    hint="Only a whole new file can appear in one step: modes wb and xb.",
                )
        raise InvalidArgument(
            f"cannot open {path} in mode {mode!r}",
            hint="Modes are rb, wb, xb and ab; files hold bytes, so encode text first. write() changes bytes "
            "in an existing file, record_append() appends from many writers.",
        )

    async def read(
        self,
        path: str,
        offset: int = 0,
        length_bytes: int = -1,
        *,
        consistency: Consistency | None = None,
    ) -> bytes:
        """Bytes of a file from `offset`; fewer than `length_bytes` only at its end, -1 reads to the end."""
        async with await self.open(path, "rb", consistency=consistency) as file:
            if length_bytes >= 0:
                return await file.pread(offset, length_bytes)
            file.seek(offset)
            return await file.read()

    async def read_bytes(self, path: str, *, consistency: Consistency | None = None) -> bytes:
        """All bytes of a file, of one file even when it is replaced meanwhile."""
        for _ in range(REOPEN_MAX):
            try:
                return await self.read(path, consistency=consistency)
            except Superseded:
                continue
        return await self.read(path, consistency=consistency)

    async def write(self, path: str, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write into an existing file at `offset`; returns when every replica has it.

        Concurrent writes to one region leave it undefined, as in the paper (§2.7.1). What lies between the
        end and `offset` reads as zeros; no chunk may be left out.
        Raises: InvalidArgument for an offset before the start or beyond the next chunk; OutcomeUnknown when
            it failed, for certain or not, after a part of it may have been written.
        """
        checked = checked_path(path)
        if offset < 0:
            raise InvalidArgument(f"cannot write at {offset}: that is before the start of the file")
        entry = (await self._masters.ask_leader(Stat(path=checked), EntryReply, f"write {path}")).entry
        if entry.kind == "directory":
            raise IsADirectory(f"{path} is a directory")
        end = offset + memoryview(data).nbytes
        if end == offset:
            return
        if locate(offset)[0] > entry.chunk_count:
            raise InvalidArgument(
                f"cannot write at {offset}: {path} has {entry.chunk_count} chunks, and the next one ends at "
                f"{chunk_start(ChunkIndex(entry.chunk_count + 1))}",
                hint="Files have no missing chunks: write what lies between first.",
            )
        mutator = Mutator(self._connections, inode=entry.inode, path=path, first_offset=offset)
        written = False
        try:
            await mutator.write(data)
            await mutator.flush()
            written = True
            await publishing.tell_reached(self._connections, entry, end)
        except GfsError as error:
            if error.definite and (written or mutator.may_be_written):
                raise OutcomeUnknown(
                    f"{error.message}; some of the bytes may be written",
                    hint=error.hint,
                    details=error.details,
                ) from error
            raise
        finally:
            await mutator.abort()
            self._connections.places.forget(checked)

    async def record_append(
        self, path: str, data: bytes | bytearray | memoryview, *, framed: bool = False
    ) -> int:
        """Append one record to an existing file, whoever else appends to it; returns its offset in the file.

        Exactly once, over retries, new primaries and sealed chunks; on error, or when cancelled, it is in the
        file once or not at all. Chunks may end in padding or a hole (§2.7.1, §3.3). A writer under way in the
        same file may write over records: its offsets are its own. The path is looked up anew after
        `metadata_cache_seconds`.
        Args:
            data: 1 to APPEND_BYTES_MAX bytes; they stay together, in one chunk.
            framed: put length, id and checksum before them, as records() reads it; at most PAYLOAD_BYTES_MAX.
        Raises: InvalidArgument for another length; NotFound; IsADirectory; RecordForgotten when no chunk
            server can say any more what became of an earlier try.
        """
        checked = checked_path(path)
        record = frame(data, self._connections.new_record_id()) if framed else bytes(data)
        if not 0 < len(record) <= APPEND_BYTES_MAX:
            raise InvalidArgument(f"a record of {len(record)} bytes: 1 to {APPEND_BYTES_MAX} can be appended")
        return await self._appenders.append(checked, record)

    def records(self, path: str, *, offset: int = 0, follow: bool = False) -> AsyncGenerator[Record, None]:
        """The framed records of a file, whole and verified, in order; padding and garbage are passed over.

        Each once, although it was appended again (within IDS_KEPT records).
        Args:
            offset: where to begin, at a record or anywhere; records from there on.
            follow: do not end, but wait for more. Only what cannot be lost any more is given out then, at
                most FOLLOW_SECONDS_MAX late while all replicas are alive. Close the generator to stop.
        Raises: NotFound, IsADirectory; Superseded when another file takes the path; DataUnavailable.
        """
        if offset < 0:
            raise InvalidArgument(f"cannot read at {offset}: that is before the start of the file")
        return RecordReader(self._connections, checked_path(path), offset, follow=follow).records()

    async def write_bytes(
        self, path: str, data: bytes | bytearray | memoryview, *, atomic: bool = False, replace: bool = True
    ) -> None:
        """Make `data` the whole content of the file at `path`."""
        mode: WriteMode = "wb" if replace else "xb"
        async with await self.open(path, mode, atomic=atomic) as file:
            await file.write(data)

    async def put_file(
        self,
        source: str,
        destination: str,
        *,
        replace: bool = True,
        atomic: bool = True,
        progress: Progress | None = None,
    ) -> int:
        """Store the local file `source` at `destination`; returns its length in bytes.

        Raises: OSError besides, when the local file cannot be read.
        """
        mode: WriteMode = "wb" if replace else "xb"
        async with await self.open(destination, mode, atomic=atomic) as file:
            return await transfer.put(self._connections, source, file, progress)

    async def get_file(self, source: str, destination: str, *, progress: Progress | None = None) -> int:
        """Fetch `source` to the local file `destination`, which appears only when it is whole.

        Several ranges are fetched side by side. Returns the length in bytes. Raises OSError besides.
        """
        reader = Reader(self._connections, checked_path(source))
        try:
            await reader.open()
            return await transfer.get(self._connections, reader, destination, progress)
        finally:
            await reader.close()

    # --- helpers --------------------------------------------------------------------------------

    def _seen(self) -> int:
        return self._masters.applied_index

    async def _stat(self, path: str, consistency: Consistency | None) -> EntryReply:
        how = consistency or self._connections.consistency
        if how == "linearizable":
            return await self._stats.stat(checked_path(path))
        request = Stat(path=checked_path(path), consistency=how, min_applied_index=self._seen())
        return await self._masters.ask_any(request, EntryReply, f"stat {path}")
