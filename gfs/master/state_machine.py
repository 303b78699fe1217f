"""MasterState as replication's StateMachine: log entries in, outcomes out, state on disk. No operations.

The state's file is never synced, and need not be: it is a product of checkpoint and log. A killed process
leaves it whole in the page cache and the next one goes on with it; after a restart of the machine (told by
Disk.boot_id) it is thrown away and made anew from the newest checkpoint, and the later log is applied again.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import msgspec

from gfs import failpoints
from gfs.disk import Disk, read_whole_file, write_file_durably
from gfs.errors import CorruptState, GfsError, NoSpace, UnsupportedVersion
from gfs.master.checkpoint_directory import CheckpointDirectory
from gfs.master.core.lookup import state_digest
from gfs.master.core.records import APPLIED_KEY
from gfs.master.core.state import MasterState
from gfs.master.core.tables import ReadTables, Table
from gfs.master.lmdb_tables import LmdbTables, PinnedCopy
from gfs.messages.operations import AnyOutcome, LogRecord
from gfs.telemetry import logger
from gfs.vocabulary import LogIndex, Term

STATE_FILE = "state.lmdb"
INCOMING_FILE = "state.lmdb.new"
EVIDENCE_FILE = "diverged.lmdb"  # the last state that was given up because it differed from the others'
BOOT_FILE = "BOOT"

AppliedListener = Callable[[LogIndex, LogRecord, AnyOutcome], None]

_APPLIED = struct.Struct(">QQ")
_decode_record = msgspec.msgpack.Decoder(LogRecord).decode
_encode_outcome = msgspec.msgpack.Encoder().encode


def read_applied(tables: ReadTables) -> tuple[LogIndex, Term]:
    """Index and term of the last log entry in these tables; (0, 0) when there is none."""
    row = tables.get(Table.META, APPLIED_KEY)
    index, term = (0, 0) if row is None else _APPLIED.unpack(row)
    return LogIndex(index), Term(term)


def applied_row(index: LogIndex, term: Term) -> bytes:
    """What read_applied() reads, for who makes a state without running a master."""
    return _APPLIED.pack(index, term)


class ReplicatedState:
    """Implements StateMachine over LMDB. All calls on the loop's thread.

    `state` is the live MasterState, with what is applied but not committed yet; readers use committed().
    """

    def __init__(
        self, directory: str, checkpoints: CheckpointDirectory, *, disk: Disk, bytes_max: int
    ) -> None:
        """Go on with the state in `directory` where that is sound, else with the newest sound checkpoint.

        `disk` holds BOOT and the checkpoints; the state's file itself is a plain file, see lmdb_tables.
        Raises: CorruptState, NoSpace, UnsupportedVersion, Unavailable; OSError.
        """
        self._directory = directory
        self._checkpoints = checkpoints
        self._disk = disk
        self.keeps_evidence = False  # when the state is replaced, keep the old one
        self._bytes_max = bytes_max
        self._listeners: list[AppliedListener] = []
        self._replaced_listeners: list[Callable[[], None]] = []
        self._log = logger("state")
        os.makedirs(directory, mode=0o700, exist_ok=True)
        disk.make_directory(directory)
        _remove(self.incoming_path)
        self._tables: LmdbTables
        self.state: MasterState
        self._applied: tuple[LogIndex, Term]  # the last entry that apply() has seen
        self._committed_applied: tuple[LogIndex, Term]  # the last one visible in committed()
        self._use(self._open())

    # --- StateMachine ---------------------------------------------------------------------------

    def applied(self) -> tuple[LogIndex, Term]:
        return self._applied

    def apply(self, index: LogIndex, term: Term, proposals: Sequence[bytes]) -> list[bytes]:
        """Raises: UnsupportedVersion (a newer master wrote this), NoSpace. Both must stop this master."""
        last = self._applied[0]
        assert index == last + 1 or (last == 0 and index == 2), (last, index)
        outcomes: list[bytes] = []
        for proposal in proposals:
            try:
                record = _decode_record(proposal)
            except msgspec.DecodeError as error:
                raise UnsupportedVersion(f"log entry {index} holds a record unknown here: {error}") from error
            outcome = self.state.apply(record, index=index)
            for listener in self._listeners:
                listener(index, record, outcome)
            outcomes.append(_encode_outcome(outcome))
        self._applied = index, term
        failpoints.hit("master.applied")
        return outcomes

    def commit(self) -> None:
        """Raises: NoSpace; this master must stop applying then, committed() stays as it was."""
        if self._applied == self._committed_applied:
            return
        self.state.save()
        self._tables.put(Table.META, APPLIED_KEY, applied_row(*self._applied))
        failpoints.hit("state.before_commit")
        self._tables.commit()
        failpoints.hit("state.committed")
        self._committed_applied = self._applied

    # --- what the services ask ------------------------------------------------------------------

    def committed(self) -> ReadTables:
        """The state at the last commit; valid until control goes back to the loop."""
        return self._tables.committed()

    def committed_index(self) -> LogIndex:
        """Index of the last entry visible in committed()."""
        return self._committed_applied[0]

    def committed_digest(self) -> str:
        """Of the state at the last commit, without reading the rows (I7)."""
        return state_digest(self._tables.committed())

    def held(self) -> AbstractContextManager[ReadTables]:
        """The state at the last commit, for another thread to read at length."""
        return self._tables.held()

    def on_applied(self, listener: AppliedListener) -> None:
        """Call `listener` with every record applied from now on, on each master, before it is committed."""
        self._listeners.append(listener)

    def on_replaced(self, listener: Callable[[], None]) -> None:
        """Call `listener` when a checkpoint from the leader has taken the place of the state."""
        self._replaced_listeners.append(listener)

    def close(self) -> None:
        self._tables.close()

    # --- what checkpoints ask -------------------------------------------------------------------

    @property
    def incoming_path(self) -> str:
        """Where a received checkpoint is laid out before replace_by_incoming()."""
        return f"{self._directory}/{INCOMING_FILE}"

    def pin(self) -> PinnedCopy:
        """Pin the state at applied(), for a checkpoint."""
        self.commit()
        return self._tables.pin()

    def check_incoming(self, expected: tuple[LogIndex, Term]) -> None:
        """Any thread. Raises: CorruptState unless the file at incoming_path is a state at `expected`."""
        tables = LmdbTables(self.incoming_path, bytes_max=self._bytes_max)
        try:
            found = read_applied(tables.committed())
        finally:
            tables.close()
            _unlink(self.incoming_path + "-lock")
        if found != expected:
            raise CorruptState(f"the checkpoint says it is at {expected}, but its state is at {found}")

    def replace_by_incoming(self) -> None:
        """Continue from the file at incoming_path. What was applied but not committed is given up."""
        self._tables.close()
        _unlink(self._path + "-lock")
        if self.keeps_evidence and os.path.exists(self._path):
            os.rename(self._path, f"{self._directory}/{EVIDENCE_FILE}")
        self.keeps_evidence = False
        failpoints.hit("state.before_replace")
        os.rename(self.incoming_path, self._path)
        failpoints.hit("state.replaced")
        self._use(LmdbTables(self._path, bytes_max=self._bytes_max))
        for listener in self._replaced_listeners:
            listener()

    # --- opening --------------------------------------------------------------------------------

    @property
    def _path(self) -> str:
        return f"{self._directory}/{STATE_FILE}"

    def _use(self, tables: LmdbTables) -> None:
        self._tables = tables
        self._applied = self._committed_applied = read_applied(tables.committed())
        self.state = MasterState(tables)
        tables.commit()

    def _open(self) -> LmdbTables:
        boot = self._disk.boot_id()
        same_boot = self._boot_recorded() == boot
        if same_boot and os.path.exists(self._path):
            tables = self._reopen()
            if tables is not None:
                return tables
        # Removed before BOOT says that the file is of this boot: whatever dies in between, no state from
        # before a power cut is ever taken for a sound one.
        _remove(self._path)
        if not same_boot:
            write_file_durably(self._disk, f"{self._directory}/{BOOT_FILE}", boot.encode("ascii"))
        self._restore_newest()
        return LmdbTables(self._path, bytes_max=self._bytes_max)

    def _boot_recorded(self) -> str:
        try:
            content = read_whole_file(self._disk, f"{self._directory}/{BOOT_FILE}")
        except FileNotFoundError:
            return ""
        return content.decode("ascii", "replace")

    def _reopen(self) -> LmdbTables | None:
        """The state a process killed during this boot has left, unless it is damaged or behind."""
        try:
            tables = LmdbTables(self._path, bytes_max=self._bytes_max)
        except NoSpace:
            raise
        except GfsError as error:
            self._log.error("state_discarded", reason=str(error))
            return None
        newest = self._checkpoints.newest()
        if newest is not None and read_applied(tables.committed())[0] < newest.index:
            self._log.info("state_discarded", reason="the newest checkpoint is ahead of it")
            tables.close()
            return None
        return tables

    def _restore_newest(self) -> None:
        while (newest := self._checkpoints.newest()) is not None:
            try:
                copy_to_plain_file(self._checkpoints.pieces(newest), self.incoming_path)
                self.check_incoming((newest.index, newest.term))
            except CorruptState as error:
                self._checkpoints.drop_newest(str(error))
                continue
            failpoints.hit("state.before_restore")
            os.rename(self.incoming_path, self._path)
            failpoints.hit("state.restored")
            self._log.info("state_restored", index=newest.index, bytes=newest.length_bytes)
            return


def copy_to_plain_file(pieces: Iterable[bytes], path: str) -> None:
    """Lay out a checkpoint as a state's file; unsynced, like every state."""
    _remove(path)
    with open(path, "wb", buffering=0) as file:
        for piece in pieces:
            file.write(piece)


def _remove(path: str) -> None:
    """Remove a state's file together with LMDB's lock file."""
    _unlink(path)
    _unlink(path + "-lock")


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
