"""The master's state made again from a checkpoint and the later log, at any index (I7). Changes neither.

The state is laid out in a temporary directory and applied to by MasterState itself, so that what comes out is
what a master has. Digests that the leader logged on the way are compared with what came out.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec
from crc32c import crc32c

from gfs.disk import SystemDisk, write_file_durably
from gfs.errors import AlreadyExists, CorruptState, InvalidArgument, NoSpace, UnsupportedVersion
from gfs.inspect.oplog_entries import (
    EntryReader,
    KeptCheckpoint,
    LogEntry,
    kept_checkpoints,
    master_directory,
    read_identity,
)
from gfs.inspect.read_only import open_read_only
from gfs.master.checkpoint_directory import checkpoint_name, encode_manifest, verified_pieces
from gfs.master.core.records import APPLIED_KEY, Counters
from gfs.master.core.state import MasterState
from gfs.master.core.tables import ReadTables, Table
from gfs.master.lmdb_tables import LmdbTables
from gfs.master.replication.checkpoints import CHECKPOINT_FORMAT, CheckpointManifest
from gfs.master.replication.configuration import decode_configuration
from gfs.master.replication.group_commit import decode_entry, decode_readmission
from gfs.master.replication.log import FIRST_INDEX
from gfs.master.state_machine import applied_row, copy_to_plain_file, read_applied
from gfs.messages.operations import AnyOutcome, CheckDigest, LogRecord, Refused
from gfs.vocabulary import ClusterId, MasterId

STATE_BYTES_MAX = 64 * 2**30  # address space, not memory
ENTRIES_PER_COMMIT = 1000

Watcher = Callable[[LogEntry, LogRecord, AnyOutcome], None]

_decode_record = msgspec.msgpack.Decoder(LogRecord).decode


class Replay:
    """One state on its way through the log. Made by open_replay()."""

    def __init__(self, log: EntryReader, tables: LmdbTables, base: KeptCheckpoint | None) -> None:
        self._log, self._tables, self._base = log, tables, base
        self._state = MasterState(tables)
        self.applied = read_applied(tables)
        self.began_at = self.applied[0]
        self.members: dict[MasterId, str] = {} if base is None else dict(base.manifest.members)
        self.configuration = () if base is None else base.manifest.configuration
        self.digests_compared = 0
        self.records = 0
        self.last_at_ms = 0 if base is None else base.manifest.made_at_ms

    @property
    def counters(self) -> Counters:
        """How many files and chunks there are, as far as it is applied."""
        return self._state.counters

    @property
    def tables(self) -> ReadTables:
        """The state as far as it is applied."""
        return self._tables

    def run(self, *, to: int, watch: Watcher | None = None) -> None:
        """Apply what follows, up to entry `to`; `watch` sees each record after it was applied.

        Raises: CorruptState (a digest differs, or log and state contradict each other); UnsupportedVersion.
        """
        for entry in self._log.entries(after=self.applied[0]):
            if entry.index > to:
                break
            if entry.index <= self.applied[0]:
                self._check_position(entry)
                continue
            self._check_follows(entry)
            self._apply(entry, watch)
            if entry.index % ENTRIES_PER_COMMIT == 0:
                self._commit()
        self._commit()

    def digest(self) -> str:
        return self._state.digest()

    def write_checkpoint(self, path: str, cluster: ClusterId) -> CheckpointManifest:
        """Write the state as a checkpoint to `path`, and its manifest beside it, durably.

        `path` may be a directory; then both get their usual names.
        Raises: AlreadyExists; OSError.
        """
        self._commit()
        draft = self._draft(cluster)
        if os.path.isdir(path):
            path = os.path.join(path, f"{checkpoint_name(draft)}.lmdb")
        manifest_path = path.removesuffix(".lmdb") + ".manifest"
        for taken in (path, manifest_path):
            if os.path.lexists(taken):
                raise AlreadyExists(f"{taken} is there already", hint="Name a new file; nothing is replaced.")
        temporary = f"{path}.tmp"
        try:
            length, checksum = self._write_file(temporary)
            os.rename(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        manifest = msgspec.structs.replace(draft, length_bytes=length, crc32c=checksum)
        write_file_durably(SystemDisk(), os.path.abspath(manifest_path), encode_manifest(manifest))
        return manifest

    def _draft(self, cluster: ClusterId) -> CheckpointManifest:
        return CheckpointManifest(
            format=CHECKPOINT_FORMAT,
            cluster=cluster,
            index=self.applied[0],
            term=self.applied[1],
            length_bytes=0,
            crc32c=0,
            members=dict(sorted(self.members.items())),
            made_at_ms=self.last_at_ms,
            configuration=self.configuration,
        )

    def _write_file(self, path: str) -> tuple[int, int]:
        length = checksum = 0
        with open(path, "xb") as file:
            for piece in self._tables.pin().pieces():
                file.write(piece)
                length += len(piece)
                checksum = crc32c(piece, checksum)
            file.flush()
            os.fsync(file.fileno())
        return length, checksum

    def _check_position(self, entry: LogEntry) -> None:
        if (entry.index, entry.term) != self.applied:
            raise CorruptState(
                f"entry {entry.index} of the log is of term {entry.term}, but the checkpoint was made from "
                f"one of term {self.applied[1]}",
                hint="Log and checkpoint are of different masters, or one was put back from a backup.",
            )

    def _check_follows(self, entry: LogEntry) -> None:
        index = self.applied[0]
        if entry.index != max(index, FIRST_INDEX) + 1:
            raise CorruptState(f"the log goes on with entry {entry.index} behind entry {index}")

    def _apply_membership(self, entry: LogEntry) -> bool:
        """Whether it is an entry of that kind, with no operations in it."""
        readmission, configuration = decode_readmission(entry.payload), decode_configuration(entry.payload)
        if readmission is not None:
            self.members[readmission.member] = readmission.disk
        if configuration is not None:
            self.configuration = configuration.members
            names = {member.id for member in configuration.members}
            disks = self.members | configuration.disks
            self.members = {member: disk for member, disk in disks.items() if member in names}
        return readmission is not None or configuration is not None

    def _apply(self, entry: LogEntry, watch: Watcher | None) -> None:
        for proposal in [] if self._apply_membership(entry) else decode_entry(entry.payload):
            try:
                record = _decode_record(proposal)
            except msgspec.DecodeError as error:
                raise UnsupportedVersion(
                    f"log entry {entry.index} holds a record unknown here: {error}"
                ) from error
            self._count_digest(record)
            outcome = self._state.apply(record, index=entry.index)
            if isinstance(outcome, Refused) and outcome.code == CorruptState.code:
                raise CorruptState(
                    f"entry {entry.index}: {outcome.message}",
                    hint="This log and checkpoint do not give the state the leader had. An earlier index can "
                    "still be had with '--to'; compare with another master's files.",
                )
            self.records += 1
            self.last_at_ms = record.at_ms
            if watch is not None:
                watch(entry, record, outcome)
        self.applied = entry.index, entry.term

    def _count_digest(self, record: LogRecord) -> None:
        if isinstance(record.operation, CheckDigest):
            index, digest = self._state.digest_mark()
            self.digests_compared += bool(digest) and record.operation.index == index

    def _commit(self) -> None:
        self._state.save()
        self._tables.put(Table.META, APPLIED_KEY, applied_row(*self.applied))
        self._tables.commit()


@contextmanager
def open_replay(
    directory: str, *, log: EntryReader, to: int | None = None, oldest: bool = False, work: str | None = None
) -> Iterator[Replay]:
    """Begin with the newest checkpoint at or before `to`, or with the oldest the log continues from.

    Args:
        work: where the temporary state is laid out; the system's temporary directory by default.
    Raises: InvalidArgument when nothing reaches `to`; CorruptState, UnsupportedVersion, NoSpace.
    """
    base = _choose_base(directory, log, to, oldest=oldest)
    with tempfile.TemporaryDirectory(prefix="gfs-replay-", dir=work) as place:
        path = os.path.join(place, "state.lmdb")
        if base is not None:
            _lay_out(base, path)
        tables = LmdbTables(path, bytes_max=STATE_BYTES_MAX)
        try:
            replay = Replay(log, tables, base)
            if base is None:
                replay.members = _known_members(directory)
            elif replay.applied != (base.manifest.index, base.manifest.term):
                raise CorruptState(f"{base.path} says it is at {base.manifest.index}, its state is not")
            yield replay
        finally:
            tables.close()


def replay_to(
    directory: str, *, index: int, out: str, work: str | None = None
) -> tuple[CheckpointManifest, Replay]:
    """Make a checkpoint at `index` of the log in `directory`, in the file `out`, with its manifest.

    Raises: InvalidArgument (the index is not in reach), AlreadyExists, CorruptState, UnsupportedVersion,
        NoSpace; OSError. Nothing has a final name then.
    """
    log = EntryReader(directory)
    if index > log.last:
        raise InvalidArgument(f"the log in {directory} ends at entry {log.last}; there is no entry {index}")
    with open_replay(directory, log=log, to=index, work=work) as replay:
        cluster = read_cluster(directory)
        replay.run(to=index)
        if replay.applied[0] != index:
            raise InvalidArgument(f"no entry {index} is in the log in {directory}")
        return replay.write_checkpoint(out, cluster), replay


def read_cluster(directory: str) -> ClusterId:
    """Whose log this is; a checkpoint tells it, too. Raises: InvalidArgument."""
    checkpoints = kept_checkpoints(directory)
    return checkpoints[-1].manifest.cluster if checkpoints else read_identity(directory).cluster


def _known_members(directory: str) -> dict[MasterId, str]:
    try:
        return read_identity(directory).members
    except InvalidArgument:
        return {}


def _choose_base(directory: str, log: EntryReader, to: int | None, *, oldest: bool) -> KeptCheckpoint | None:
    """None: the log begins with the cluster, and so does the state."""
    reach = [
        found
        for found in kept_checkpoints(directory)
        if found.manifest.index >= log.base[0] and (to is None or found.manifest.index <= to)
    ]
    from_the_start = log.base[0] <= FIRST_INDEX
    if from_the_start and (oldest or not reach):
        return None
    if reach:
        return reach[0] if oldest else reach[-1]
    wanted = "" if to is None else f" at or before entry {to}"
    raise InvalidArgument(
        f"the log in {directory} begins after entry {log.base[0]}, and {master_directory(directory)} has no "
        f"checkpoint{wanted} that it continues",
        hint="Older entries are gone; 'gfs oplog ls' shows which are there.",
    )


def _lay_out(base: KeptCheckpoint, path: str) -> None:
    try:
        file = open_read_only(base.path)
    except OSError as error:
        raise CorruptState(f"{base.path} cannot be read: {error.strerror or error}") from error
    try:
        copy_to_plain_file(verified_pieces(file, base.manifest), path)
    except OSError as error:
        raise NoSpace(f"the state cannot be laid out in {path}: {error.strerror or error}") from error
    finally:
        file.close()
