"""An operation log's segment files, read without touching them, past damage too. Not what entries mean.

Nothing is cut, synced or locked, so a master may be writing the same log. Then the newest segment may end in
the middle of a batch, which looks like a torn tail, and the oldest one may be dropped while it is looked at.
One segment is in memory at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import msgspec

from gfs.errors import InvalidArgument, NotFound
from gfs.master.replication.log import SEGMENT_NAME
from gfs.master.replication.log_format import (
    HEADER,
    LOG_FORMAT,
    MAGIC,
    NewerFormat,
    Record,
    header_fault,
    next_record_offset,
    proves_sync,
    record_at,
)
from gfs.master.replication.recovery import LOG_DIRECTORY

FINDINGS_PER_SEGMENT_MAX = 1000  # holes in one segment that are told one by one

FaultKind = Literal[
    "damaged_header",
    "foreign_segment",
    "newer_format",
    "damaged_record",
    "torn_tail",
    "unreadable",
]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Where a segment's bytes are no log. `is_damage` False: what a crash, or a write under way, leaves."""

    kind: FaultKind
    segment: str
    byte: int
    record: int  # which record of the segment, from 1; 0 is the header
    what: str
    is_damage: bool


class SegmentFile(NamedTuple):
    number: int
    path: str
    is_last: bool

    @property
    def name(self) -> str:
        return os.path.basename(self.path)


class Placed(NamedTuple):
    """A record and where it is. `(segment, byte)` orders the records of a log."""

    record: Record
    segment: int
    byte: int
    end: int  # where the next one starts
    number: int  # within its segment, from 1


def log_directory(directory: str) -> str:
    """The log's directory, given that or its master's. Raises: NotFound, InvalidArgument."""
    if os.path.isfile(directory):
        raise InvalidArgument(
            f"{directory} is a file", hint="Name a master's directory, or its log/: /var/lib/gfs/m1."
        )
    for candidate in (os.path.join(directory, LOG_DIRECTORY), directory):
        if os.path.isdir(candidate) and any(map(SEGMENT_NAME.match, os.listdir(candidate))):
            return candidate
    raise NotFound(
        f"there is no operation log in {directory}",
        hint="Name a master's directory, or its log/: it holds files like 0000000000000001.oplog.",
    )


def list_segments(directory: str) -> list[SegmentFile]:
    """The segments in `directory`, oldest first. Raises: NotFound, InvalidArgument."""
    log = log_directory(directory)
    found = [match for match in map(SEGMENT_NAME.match, sorted(os.listdir(log))) if match]
    last = len(found) - 1
    return [
        SegmentFile(int(match[1]), os.path.join(log, match[0]), position == last)
        for position, match in enumerate(found)
    ]


@dataclass(slots=True)
class Segment:
    """One segment in memory. records() fills in `faults`, which are complete when it has come to its end."""

    file: SegmentFile
    content: bytes
    faults: list[Fault] = field(default_factory=list)

    def records(self) -> Iterator[Placed]:
        """Every valid record in order, also those behind damage."""
        if self.faults or not self._header_is_sound():
            return  # unreadable, or not this log's
        offset, number = HEADER.size, 0
        while offset < len(self.content):
            found = record_at(self.content, offset, segment_number=self.file.number)
            number += 1
            if found is not None:
                record, following = found
                yield Placed(record, self.file.number, offset, following, number)
                offset = following
                continue
            resumed = self._note_bad_record(offset, number)
            if resumed is None or len(self.faults) >= FINDINGS_PER_SEGMENT_MAX:
                return
            offset = resumed

    @property
    def is_damaged(self) -> bool:
        return any(fault.is_damage for fault in self.faults)

    def _header_is_sound(self) -> bool:
        """Whether records can be looked for; a damaged header does not hide them, a newer format does."""
        try:
            fault = header_fault(self.content, segment_number=self.file.number)
        except NewerFormat as newer:
            self._note(
                "newer_format",
                0,
                0,
                f"it has operation log format {newer.args[0]}; this program reads format {LOG_FORMAT}",
            )
            return False
        if fault is None:
            return True
        if len(self.content) < HEADER.size:
            is_damage = not self.file.is_last
            self._note("damaged_header" if is_damage else "torn_tail", 0, 0, fault.what, is_damage=is_damage)
            return False
        magic, _, own_number = HEADER.unpack_from(self.content)
        if (
            magic == MAGIC
            and own_number != self.file.number
            and record_at(self.content, HEADER.size, segment_number=own_number) is not None
        ):
            self._note(
                "foreign_segment",
                0,
                0,
                f"it is segment {own_number} under the name of segment {self.file.number}: "
                "it was renamed, or swapped with another",
            )
            return False
        is_damage = fault.damaged or not self.file.is_last
        self._note("damaged_header" if is_damage else "torn_tail", 0, 0, fault.what, is_damage=is_damage)
        return True

    def _note_bad_record(self, offset: int, number: int) -> int | None:
        """Judge it as a starting master would; returns where valid records go on behind damage."""
        # After a power cut valid records may follow a hole in the last write; a later sync proves damage.
        is_damage = not self.file.is_last or proves_sync(
            self.content, offset, segment_number=self.file.number
        )
        resumed = (
            next_record_offset(self.content, offset, segment_number=self.file.number) if is_damage else None
        )
        left = (resumed or len(self.content)) - offset
        self._note(
            "damaged_record" if is_damage else "torn_tail",
            offset,
            number,
            f"record {number} at byte {offset} is cut short or fails its checksum; "
            f"{left} bytes cannot be read",
            is_damage=is_damage,
        )
        return resumed

    def _note(self, kind: FaultKind, byte: int, record: int, what: str, *, is_damage: bool = True) -> None:
        self.faults.append(
            Fault(kind=kind, segment=self.file.name, byte=byte, record=record, what=what, is_damage=is_damage)
        )


def read_segment(file: SegmentFile) -> Segment | None:
    """The segment as it is now; None when the master has dropped it since it was listed."""
    try:
        with open(file.path, "rb") as opened:
            return Segment(file, opened.read())
    except FileNotFoundError:
        return None
    except OSError as error:
        what = f"it cannot be read: {error.strerror or error}"
        fault = Fault(kind="unreadable", segment=file.name, byte=0, record=0, what=what, is_damage=True)
        return Segment(file, b"", [fault])


class LogWalk:
    """All records of a log in order; `faults` grows while records() is gone through."""

    def __init__(self, directory: str) -> None:
        """Raises: NotFound, InvalidArgument."""
        self.files = list_segments(directory)
        self._before: list[Fault] = []  # of segments read to their end
        self._segment: Segment | None = None

    def records(self) -> Iterator[Placed]:
        for file in self.files:
            self._segment = read_segment(file)
            if self._segment is None:
                continue
            yield from self._segment.records()
            self._before.extend(self._segment.faults)
            self._segment = None

    @property
    def faults(self) -> list[Fault]:
        """What has been found so far."""
        return self._before + (self._segment.faults if self._segment is not None else [])

    @property
    def is_damaged(self) -> bool:
        return any(fault.is_damage for fault in self.faults)
