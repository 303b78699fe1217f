"""The log as lines: one for each record of the log, in words and with every field. Prints nothing."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator

import msgspec

from gfs.errors import CorruptState
from gfs.inspect.oplog_segments import (
    Fault,
    LogWalk,
    Placed,
    SegmentFile,
    list_segments,
    read_segment,
)
from gfs.inspect.oplog_words import moment, record_in_words, touches
from gfs.master.replication.configuration import Configuration, decode_configuration
from gfs.master.replication.group_commit import decode_entry, decode_readmission
from gfs.master.replication.log_format import Kind, Record, record_at
from gfs.messages.operations import LogRecord

_decode_record = msgspec.msgpack.Decoder(LogRecord).decode


class LogLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the log. `kind`: operation, election, readmission, configuration, vote, start, truncate,
    reset, closed, or undecodable.

    An entry that several clients' operations share gives one line each, `place` counting from 1.
    """

    segment: int
    byte: int
    kind: str
    index: int = 0
    term: int = 0
    place: int = 0
    words: str = ""
    record: LogRecord | None = None


def lines_of(placed: Placed) -> Iterator[LogLine]:
    """The lines of one record of a segment."""
    record = placed.record
    if record.kind is Kind.ENTRY:
        yield from _entry_lines(placed)
        return
    words = _PLAIN_WORDS[record.kind].format(index=record.index, term=record.term, name=_name(record))
    yield LogLine(
        segment=placed.segment,
        byte=placed.byte,
        kind=record.kind.name.lower(),
        index=record.index,
        term=record.term,
        words=words,
    )


_PLAIN_WORDS = {
    Kind.START: "this segment continues after entry {index} of term {term}",
    Kind.VOTE: "term {term}, vote for {name}",
    Kind.TRUNCATE: "every entry after {index} is dropped: another leader has overruled it",
    Kind.RESET: "start over after entry {index} of term {term}: a checkpoint holds everything up to it",
    Kind.CLOSED: "stopped in order",
}


def _name(record: Record) -> str:
    return record.payload.decode("utf-8", "replace") or "nobody"


def _entry_lines(placed: Placed) -> Iterator[LogLine]:
    record = placed.record

    def line(kind: str, words: str, *, place: int = 0, found: LogRecord | None = None) -> LogLine:
        return LogLine(
            segment=placed.segment,
            byte=placed.byte,
            kind=kind,
            index=record.index,
            term=record.term,
            place=place,
            words=words,
            record=found,
        )

    try:
        readmission = decode_readmission(record.payload)
        if readmission is not None:
            yield line(
                "readmission", f"{readmission.member} votes from the disk {readmission.disk} from now on"
            )
            return
        configuration = decode_configuration(record.payload)
        if configuration is not None:
            yield line("configuration", _members_in_words(configuration))
            return
        proposals = decode_entry(record.payload)
    except CorruptState as error:
        yield line("undecodable", error.message)
        return
    if not proposals:
        yield line("election", f"a leader of term {record.term} begins")
    for place, proposal in enumerate(proposals, start=1):
        try:
            found = _decode_record(proposal)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            yield line("undecodable", f"a record unknown to this program: {error}", place=place)
        else:
            yield line("operation", record_in_words(found), place=place, found=found)


def _members_in_words(configuration: Configuration) -> str:
    voters = ", ".join(member.id for member in configuration.members if member.voter)
    learners = ", ".join(member.id for member in configuration.members if not member.voter)
    disks = "".join(f"; {member} votes from the disk {disk}" for member, disk in configuration.disks.items())
    return f"the masters are {voters}" + (f"; {learners} is still learning" if learners else "") + disks


def in_words(line: LogLine) -> str:
    """A line as text: index.place, term, when, what."""
    position = f"{line.index}.{line.place}" if line.place else str(line.index or "-")
    at = moment(line.record.at_ms) if line.record is not None else "-"
    return f"{position:>12}  {line.term:>5}  {at:<24}  {line.words}"


def select_lines(
    walk: LogWalk, *, first: int | None = None, last: int | None = None, path: str | None = None
) -> Iterator[LogLine]:
    """Lines of entries from index `first` to `last`; with `path` only operations that name it.

    Without any condition also votes and everything else the log holds.
    """
    everything = first is None and last is None and path is None
    for placed in walk.records():
        if not everything:
            if placed.record.kind is not Kind.ENTRY:
                continue
            if first is not None and placed.record.index < first:
                continue
            if last is not None and placed.record.index > last:
                continue
        for line in lines_of(placed):
            if path is None or (line.record is not None and touches(line.record.operation, path)):
                yield line


class Tail:
    """The end of a log, and what is added to it while somebody looks."""

    def __init__(self, directory: str) -> None:
        """Raises: NotFound, InvalidArgument."""
        self._directory = directory
        self._number, self._offset = 0, 0  # how far new_lines() has come
        self.faults: list[Fault] = []

    def last_lines(self, count: int) -> list[LogLine]:
        """The last `count` lines as of now; new_lines() goes on behind them."""
        assert count >= 0
        pages: deque[list[LogLine]] = deque()
        left = count
        for file in reversed(list_segments(self._directory)):
            segment = read_segment(file)
            if segment is None:
                break
            newest: deque[LogLine] = deque(maxlen=max(left, 1))
            end = 0
            for placed in segment.records():
                newest.extend(lines_of(placed))
                end = placed.end
            self.faults.extend(segment.faults)
            if file.is_last:
                self._number, self._offset = file.number, end
            if left:
                pages.appendleft(list(newest))
                left -= len(newest)
            if left <= 0:
                break
        return [line for page in pages for line in page]

    def new_lines(self) -> Iterator[LogLine]:
        """What has been added since the last call. A batch half written is left for the next one."""
        for file in list_segments(self._directory):
            if file.number < self._number:
                continue
            if file.number > self._number:
                self._number, self._offset = file.number, 0
            if os.path.exists(file.path) and os.path.getsize(file.path) <= self._offset:
                continue
            yield from self._rest_of(file)

    def _rest_of(self, file: SegmentFile) -> Iterator[LogLine]:
        if self._offset == 0:
            segment = read_segment(file)
            for placed in segment.records() if segment is not None else ():
                yield from lines_of(placed)
                self._offset = placed.end
            return
        try:
            with open(file.path, "rb") as opened:
                opened.seek(self._offset)
                content = opened.read()
        except FileNotFoundError:  # dropped: a checkpoint holds it
            return
        base, offset = self._offset, 0
        while (found := record_at(content, offset, segment_number=file.number)) is not None:
            record, following = found
            yield from lines_of(Placed(record, file.number, base + offset, base + following, 0))
            offset = following
            self._offset = base + offset
