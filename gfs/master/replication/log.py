"""The operation log (GFS §2.6.1): entries, term and vote in segment files, whole after any crash.

In memory it is pysyncobj's journal: a list of (payload, index, term) that starts at a base entry, whose
payload is gone because a checkpoint holds it. On disk it is a sequence of records, and every change is one
of them, so that no death between two steps can leave half a truncation or half a reset.

Nothing is durable until a batch is: take_batch() on the loop, write() on the one worker thread, settle() on
the loop again. Whatever promises something (an acknowledgement, a vote) waits until durable_sequence has
reached the sequence it was made at. Source: Raft §5.1-5.3, persistent state; the layout is in log_format.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, overload

from pysyncobj.journal import Journal

from gfs import failpoints
from gfs.disk import Disk, OpenFile, read_whole_file
from gfs.errors import CorruptState, UnsupportedVersion
from gfs.master.replication.log_format import (
    LOG_FORMAT,
    Kind,
    NewerFormat,
    Record,
    Scan,
    encode_header,
    encode_records,
    scan_segment,
)
from gfs.vocabulary import LogIndex, MasterId, Term

Entry = tuple[bytes, int, int]  # pysyncobj's order: payload, index, term

FIRST_INDEX = LogIndex(1)  # exists from the start on every master and holds nothing, as in pysyncobj
BASE_PAYLOAD = b"\x01"  # pysyncobj's no-op

SEGMENT_NAME = re.compile(r"^(\d{16})\.oplog$")
_HINT = "Do not delete it. Move the directory aside and readmit this master: 'gfs admin members readmit'."


def segment_path(directory: str, number: int) -> str:
    return f"{directory}/{number:016d}.oplog"


def bytes_on_disk(directory: str, disk: Disk) -> int:
    """How long the segments in `directory` are together; for who watches, while the log is written."""
    total = 0
    for name in disk.listdir(directory):
        if not SEGMENT_NAME.match(name):
            continue
        try:
            file = disk.open(f"{directory}/{name}")
        except FileNotFoundError:
            continue  # dropped meanwhile, behind a checkpoint
        try:
            total += file.length()
        finally:
            file.close()
    return total


class Position(NamedTuple):
    """One entry, named. Two logs that hold the same position are equal up to it (Raft §5.3)."""

    index: LogIndex  # type: ignore[assignment]  # the tuple method this hides is never called
    term: Term


class Batch(NamedTuple):
    """Records on their way to the disk, and what is durable once they are there."""

    content: bytes
    file: OpenFile | None  # None: a new segment, created by write()
    path: str
    offset: int
    sequence: int
    last_index: LogIndex
    truncations: int


class _Segment:
    __slots__ = ("number", "path", "top_index")

    def __init__(self, number: int, path: str, top_index: LogIndex) -> None:
        self.number, self.path, self.top_index = number, path, top_index


class OperationLog(Journal):
    """Invariants: indices are consecutive; durable_index <= end.index; at most one batch is under way."""

    def __init__(
        self, directory: str, disk: Disk, *, segment_bytes: int, base: Position | None = None
    ) -> None:
        """Open or create the log in `directory`, cutting what a power cut has torn.

        Args:
            segment_bytes: a batch that would start beyond this goes to a new file.
            base: the newest checkpoint's position. A log that ends before it, or contradicts it, starts over
                from there: what it held is in the checkpoint, or was never committed.
        Raises: CorruptState naming file, byte and record; UnsupportedVersion.
        """
        self._directory, self._disk, self._segment_bytes = directory, disk, segment_bytes
        self._entries: list[Entry] = [(BASE_PAYLOAD, FIRST_INDEX, 0)]
        self._term, self._vote = Term(0), MasterId("")
        self._waiting: list[Record] = []
        self._segments: list[_Segment] = []
        self._file: OpenFile | None = None
        self._offset = 0  # where the next batch goes
        self._under_way = False
        self._truncations = 0
        self.sequence = 0  # of the last change made
        self.durable_sequence = 0  # of the last change that is on the disk
        self.durable_index = LogIndex(0)
        self.bytes_appended = 0  # payload bytes ever added, also by reading at the start
        self._closed = False
        disk.make_directory(directory)
        self._read_segments()
        self._taken_end, self._taken_term, self._taken_vote = self.end, self._term, self._vote
        if base is not None:
            if base.index < self.base.index:
                raise CorruptState(
                    f"the operation log in {directory} starts after entry {self.base.index}, but the newest "
                    f"checkpoint ends at entry {base.index}",
                    hint="A checkpoint is missing. Restore it, or readmit this master with an empty disk.",
                )
            if not self.holds(base):
                self.reset(base)
        if self._file is None and not self._waiting:
            self._note(Kind.VOTE, LogIndex(0), self._term)
        self.durable_index = self.end.index
        self.flush()

    @staticmethod
    def exists_in(directory: str, disk: Disk) -> bool:
        return any(SEGMENT_NAME.match(name) for name in disk.listdir(directory))

    # --- what is in it ----------------------------------------------------------------------------

    @property
    def base(self) -> Position:
        return Position(LogIndex(self._entries[0][1]), Term(self._entries[0][2]))

    @property
    def end(self) -> Position:
        return Position(LogIndex(self._entries[-1][1]), Term(self._entries[-1][2]))

    def term_at(self, index: int) -> Term | None:
        """Term of an entry from the base on, None when it is not here."""
        place = index - self._entries[0][1]
        return Term(self._entries[place][2]) if 0 <= place < len(self._entries) else None

    def holds(self, position: Position) -> bool:
        return self.term_at(position.index) == position.term

    def entries_after(self, index: LogIndex) -> Sequence[Entry]:
        assert index >= self.base.index
        return self._entries[index - self._entries[0][1] + 1 :]

    # --- pysyncobj's Journal ----------------------------------------------------------------------

    def add(self, command: bytes, idx: int, term: int) -> None:
        if not self._entries:
            self.reset(Position(LogIndex(idx), Term(term)))
            return
        assert idx == self._entries[-1][1] + 1, "a log has no gaps"
        payload = bytes(command)
        self._entries.append((payload, idx, term))
        self.bytes_appended += len(payload)
        self._note(Kind.ENTRY, LogIndex(idx), Term(term), payload)

    def clear(self) -> None:
        """Written together with the base that add() gives next: an empty log never reaches the disk."""
        self._entries = []

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802,N803 pysyncobj's names
        assert entryFrom > 0, "the base stays"
        if entryFrom < len(self._entries):
            self.truncate_after(LogIndex(self._entries[entryFrom - 1][1]))

    def deleteEntriesTo(self, entryTo: int) -> None:  # noqa: N802,N803
        if 0 < entryTo < len(self._entries):
            self.compact_to(LogIndex(self._entries[entryTo][1]))

    @overload
    def __getitem__(self, item: int) -> Entry: ...
    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...
    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        return self._entries[item]

    def __len__(self) -> int:
        return len(self._entries)

    def _destroy(self) -> None:
        """Closing is the writer's: a batch may be under way."""

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802,N803
        """Not kept: learnt again from the leader (Raft §5.2, volatile state)."""

    def getRaftCommitIndex(self) -> int:  # noqa: N802
        return FIRST_INDEX

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:  # noqa: N802,N803
        vote = MasterId(votedForNodeId or "")
        if (term, vote) != (self._term, self._vote):
            self._term, self._vote = Term(term), vote
            self._note(Kind.VOTE, LogIndex(0), self._term, vote.encode())

    def getCurrentTerm(self) -> int:  # noqa: N802
        return self._term

    def getVotedForNodeId(self) -> MasterId | None:  # noqa: N802
        return self._vote or None

    # --- changes pysyncobj has no name for --------------------------------------------------------

    def truncate_after(self, index: LogIndex) -> None:
        """Drop every entry after `index`: a leader has shown that they are not committed (Raft §5.3)."""
        kept = index - self._entries[0][1] + 1
        assert kept > 0, "the base stays"
        if kept >= len(self._entries):
            return
        del self._entries[kept:]
        self._truncations += 1
        self.durable_index = min(self.durable_index, index)
        self._note(Kind.TRUNCATE, index, self.end.term)

    def reset(self, base: Position) -> None:
        """Start over after `base`: a checkpoint that was just installed holds everything up to it."""
        self._entries = [(BASE_PAYLOAD, base.index, base.term)]
        self._truncations += 1
        self.durable_index = LogIndex(0)
        self._note(Kind.RESET, base.index, base.term)

    def compact_to(self, index: LogIndex, *, files_to: LogIndex | None = None) -> list[str]:
        """Forget entries before `index`, which a durable checkpoint holds; keep files back to `files_to`.

        Returns: segment files that nothing needs any more, for drop_segments().
        """
        assert index <= self.durable_index, "what is compacted is on the disk"
        place = index - self._entries[0][1]
        if place > 0:
            self._entries[0 : place + 1] = [(BASE_PAYLOAD, index, self._entries[place][2])]
        files_to = index if files_to is None else files_to
        assert files_to <= index
        unneeded: list[str] = []
        while len(self._segments) > 1 and self._segments[0].top_index <= files_to:
            unneeded.append(self._segments.pop(0).path)
        return unneeded

    def drop_segments(self, paths: Sequence[str]) -> None:
        """Worker thread. In order: a crash leaves a log that merely starts earlier.

        Each is gone for good before the next goes: a file system may keep directory changes in any order, and
        a hole in the middle is damage.
        """
        for path in paths:
            failpoints.hit("oplog.before_drop")
            self._disk.unlink(path)
            failpoints.hit("oplog.dropped")
            self._disk.sync_directory(self._directory)

    # --- making it durable ------------------------------------------------------------------------

    def take_batch(self) -> Batch | None:
        """Loop thread: all changes since the last batch, or None. Then write() it, then settle() it."""
        assert not self._under_way
        if not self._waiting:
            return None
        records, self._waiting = self._waiting, []
        front = b""
        file, path, offset = self._file, "", self._offset
        if file is None or offset >= self._segment_bytes:
            number = self._segments[-1].number + 1 if self._segments else 1
            path = segment_path(self._directory, number)
            self._segments.append(_Segment(number, path, LogIndex(0)))
            front = encode_header(number)
            file, offset = None, 0
            # Older segments may be dropped, so each new one says where it starts and what was voted before.
            vote = Record(Kind.VOTE, LogIndex(0), self._taken_term, self._taken_vote.encode())
            records = [Record(Kind.START, *self._taken_end, b""), vote, *records]
        segment = self._segments[-1]
        segment.top_index = max(segment.top_index, *(record.index for record in records))
        content = front + encode_records(records, segment_number=segment.number, synced_bytes=offset)
        self._taken_end, self._taken_term, self._taken_vote = self.end, self._term, self._vote
        self._under_way = True
        last_index, truncations = self.end.index, self._truncations
        return Batch(content, file, path, offset, self.sequence, last_index, truncations)

    def write(self, batch: Batch) -> OpenFile:
        """Worker thread: put a batch on the disk. Repeating it after NoSpace writes the same bytes again.

        Raises: OSError. ENOSPC may be tried again; after any other failure, above all of a sync, nobody knows
        what is on the disk, and the process has to end.
        """
        failpoints.hit("oplog.before_write")
        file = batch.file
        if file is None:
            file = self._disk.open(batch.path, create=True)
            file.truncate(0)  # an earlier try may have run out of space
        file.pwrite(batch.content, batch.offset)
        failpoints.hit("oplog.written")
        file.sync()
        if batch.file is None:
            failpoints.hit("oplog.segment_synced")
            self._disk.sync_directory(self._directory)
            failpoints.hit("oplog.segment_created")
        failpoints.hit("oplog.synced")
        return file

    def settle(self, batch: Batch, file: OpenFile) -> None:
        """Loop thread: the batch is on the disk."""
        assert self._under_way
        self._under_way = False
        if self._file is not file and self._file is not None:
            self._file.close()
        self._file = file
        self._offset = batch.offset + len(batch.content)
        self.durable_sequence = batch.sequence
        if batch.truncations == self._truncations:
            # Otherwise entries of this batch may have been dropped since; the next batch settles them.
            self.durable_index = max(self.durable_index, batch.last_index)
        assert self.durable_index <= self.end.index

    def flush(self) -> None:
        """All three steps at once, for starting and stopping. Raises: OSError."""
        batch = self.take_batch()
        if batch is not None:
            self.settle(batch, self.write(batch))

    def close(self) -> None:
        """An orderly stop: sync, and say so; damage to the last batch is then not taken for a power cut."""
        if self._closed:
            return
        self._closed = True
        self._note(Kind.CLOSED, LogIndex(0), Term(0))
        self.flush()
        if self._file is not None:
            self._file.close()

    def _note(self, kind: Kind, index: LogIndex, term: Term, payload: bytes = b"") -> None:
        self._waiting.append(Record(kind, index, term, payload))
        self.sequence += 1

    # --- starting ---------------------------------------------------------------------------------

    def _read_segments(self) -> None:
        found = [match for match in map(SEGMENT_NAME.match, self._disk.listdir(self._directory)) if match]
        for position, match in enumerate(found):
            path, number = f"{self._directory}/{match[0]}", int(match[1])
            if self._segments and number != self._segments[-1].number + 1:
                raise CorruptState(
                    f"the operation log has a gap: {self._segments[-1].path} is followed by {path}",
                    hint=f"Restore the missing segment. {_HINT}",
                )
            content = read_whole_file(self._disk, path)
            scan = self._judge(path, number, content, is_last=position == len(found) - 1)
            if not scan.records:
                # The power went while this segment was being created: nothing was ever promised from it.
                self._disk.unlink(path)
                self._disk.sync_directory(self._directory)
                continue
            if scan.valid_bytes < len(content):
                self._cut_tail(path, scan.valid_bytes)
            self._segments.append(_Segment(number, path, self._replay(path, scan.records)))
            self._offset = scan.valid_bytes
        if self._segments:
            self._file = self._disk.open(self._segments[-1].path)
            # A kill between writing a batch and syncing it has left it in the page cache only. It is counted
            # as durable from here on, so it has to be; older segments were synced before this one was made.
            self._file.sync()
            self._disk.sync_directory(self._directory)

    def _judge(self, path: str, number: int, content: bytes, *, is_last: bool) -> Scan:
        try:
            scan = scan_segment(content, segment_number=number)
        except NewerFormat as newer:
            raise UnsupportedVersion(
                f"{path} has operation log format {newer.args[0]}; this program reads format {LOG_FORMAT}",
                hint="A newer gfs wrote it. Start that one, or upgrade this one.",
            ) from newer
        if scan.fault is not None and (scan.damaged or not is_last):
            record_number = len(scan.records) + 1
            raise CorruptState(
                f"{path}: {scan.fault} (byte {scan.valid_bytes}, record {record_number}), although it was on "
                "the disk before later records were written: this is damage, not a crash",
                hint=_HINT,
                details={"file": path, "byte": str(scan.valid_bytes), "record": str(record_number)},
            )
        return scan

    def _cut_tail(self, path: str, length: int) -> None:
        file = self._disk.open(path)
        try:
            file.truncate(length)
            failpoints.hit("oplog.tail_cut")
            file.sync()
        finally:
            file.close()

    def _replay(self, path: str, records: list[Record]) -> LogIndex:
        """Do to the list what the records say; returns the highest index the segment is needed for."""
        top = LogIndex(0)
        for number, (kind, index, term, payload) in enumerate(records, start=1):
            top = max(top, index)
            match kind:
                case Kind.START if not self._segments:  # older ones were dropped: a checkpoint holds them
                    self._entries = [(BASE_PAYLOAD, index, term)]
                case Kind.START:
                    self._demand(
                        (index, term) == self.end, path, number, "does not continue the segment before"
                    )
                case Kind.ENTRY:
                    self._demand(index == self.end.index + 1, path, number, f"skips to entry {index}")
                    self._entries.append((payload, index, term))
                    self.bytes_appended += len(payload)
                case Kind.VOTE:
                    self._demand(term >= self._term, path, number, f"goes back to term {term}")
                    self._term, self._vote = term, MasterId(payload.decode())
                case Kind.TRUNCATE:
                    self._demand(
                        index <= self.end.index, path, number, f"truncates after unknown entry {index}"
                    )
                    if index > self.base.index:
                        del self._entries[index - self.base.index + 1 :]
                    else:
                        # Its entries were in segments that are dropped by now: a checkpoint covers them.
                        self._entries = [(BASE_PAYLOAD, index, term)]
                case Kind.RESET:
                    self._entries = [(BASE_PAYLOAD, index, term)]
                case Kind.CLOSED:
                    pass
        return top

    def _demand(self, holds: bool, path: str, number: int, what: str) -> None:
        if not holds:
            details = {"file": path, "record": str(number)}
            raise CorruptState(f"{path}: record {number} {what}", hint=_HINT, details=details)
