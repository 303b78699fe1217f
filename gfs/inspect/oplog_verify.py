"""Everything that can be wrong with an operation log, found by reading it once. Mends nothing.

The rules are those a starting master holds the log to (replication/log), and more: a master starts from a log
it can read, while this also reads what it would have to apply.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Literal

import msgspec

from gfs.inspect.oplog_lines import lines_of
from gfs.inspect.oplog_segments import (
    FaultKind,
    Placed,
    Segment,
    SegmentFile,
    list_segments,
    log_directory,
    read_segment,
)
from gfs.master.replication.log import SEGMENT_NAME
from gfs.master.replication.log_format import Kind
from gfs.master.replication.member_disks import IDENTITY_FILE
from gfs.vocabulary import LogIndex, Term

FindingKind = (
    FaultKind
    | Literal[
        "missing_segment",
        "no_start",
        "broken_continuation",
        "index_gap",
        "index_repeated",
        "term_falls",
        "vote_term_falls",
        "second_vote",
        "undecodable_vote",
        "unknown_truncation",
        "undecodable_entry",
        "stray_file",
    ]
)


class LogFinding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing found. `is_damage` False: an ordinary stop leaves it, or it does no harm."""

    kind: FindingKind
    segment: str
    byte: int
    record: int
    what: str
    is_damage: bool = True


class LogSummary(msgspec.Struct, kw_only=True):
    """What verify_log() has gone through."""

    directory: str
    segments: int = 0
    bytes: int = 0
    entries: int = 0
    records: int = 0  # clients' and the leader's operations
    first_index: int = 0
    last_index: int = 0
    findings: int = 0
    damage: int = 0


class LogVerdict(msgspec.Struct, frozen=True, kw_only=True):
    summary: LogSummary
    findings: list[LogFinding]


class LogVerifier:
    """Goes through a log once. `summary` is complete when findings() has come to its end."""

    def __init__(self, directory: str) -> None:
        """Raises: NotFound, InvalidArgument."""
        self._files = list_segments(directory)
        self._log_directory = log_directory(directory)
        self.summary = LogSummary(directory=self._log_directory)
        self._end: tuple[LogIndex, Term] | None = None  # of the last entry; None: nothing to continue from
        self._vote: tuple[Term, bytes] = (Term(0), b"")
        self._found: list[LogFinding] = []
        self._file = self._files[0]
        self._faults_taken = 0

    def findings(self) -> Iterator[LogFinding]:
        """Every finding, segment by segment."""
        for finding in self._walk():
            self.summary.findings += 1
            self.summary.damage += finding.is_damage
            yield finding

    def _walk(self) -> Iterator[LogFinding]:
        yield from _stray_files(self._log_directory)
        previous: SegmentFile | None = None
        for file in self._files:
            self._file = file
            if previous is not None and file.number != previous.number + 1:
                missing = (
                    f"segment {previous.number + 1} is"
                    if file.number == previous.number + 2
                    else f"segments {previous.number + 1} to {file.number - 1} are"
                )
                self._note("missing_segment", None, f"{missing} missing before it")
            segment = read_segment(file)
            if segment is None and previous is None:
                continue  # the master has dropped it since: a checkpoint holds it
            previous = file
            if segment is None:
                self._note("missing_segment", None, "it has gone while the log was read")
            else:
                self._check_segment(segment)
            yield from self._found
            self._found.clear()

    def _check_segment(self, segment: Segment) -> None:
        self.summary.segments += 1
        self.summary.bytes += len(segment.content)
        is_first, self._faults_taken = True, 0
        for placed in segment.records():
            self._take_faults(segment)
            if is_first and placed.record.kind is Kind.START:
                self._check_start(placed)
            else:
                if is_first and not segment.faults:
                    self._note("no_start", placed, "it does not say which entry it continues after")
                self._check_record(placed)
            is_first = False
        self._take_faults(segment)

    def _take_faults(self, segment: Segment) -> None:
        """Those found since the last call, so that findings come in the order of the bytes."""
        for fault in segment.faults[self._faults_taken :]:
            self._found.append(LogFinding(**msgspec.structs.asdict(fault)))
        self._faults_taken = len(segment.faults)

    def _check_start(self, placed: Placed) -> None:
        index, term = placed.record.index, placed.record.term
        if self._end is not None and (index, term) != self._end:
            self._note(
                "broken_continuation",
                placed,
                f"it continues after entry {index} of term {term}, but the segments before it end at entry "
                f"{self._end[0]} of term {self._end[1]}",
            )
        self._end = index, term

    def _check_record(self, placed: Placed) -> None:
        record = placed.record
        match record.kind:
            case Kind.START:
                self._note(
                    "broken_continuation", placed, "it says a second time which entry it continues after"
                )
                self._end = record.index, record.term
            case Kind.ENTRY:
                self._check_entry(placed)
            case Kind.VOTE:
                self._check_vote(placed)
            case Kind.TRUNCATE:
                self._check_truncation(placed)
            case Kind.RESET:
                self._end = record.index, record.term
            case Kind.CLOSED:
                pass

    def _check_entry(self, placed: Placed) -> None:
        index, term = placed.record.index, placed.record.term
        if self._end is not None:
            end, end_term = self._end
            if index > end + 1:
                lost = f"entry {end + 1} is" if index == end + 2 else f"entries {end + 1} to {index - 1} are"
                self._note("index_gap", placed, f"{lost} missing before entry {index}")
            elif index <= end:
                self._note("index_repeated", placed, f"entry {index} comes after entry {end}")
            if term < end_term:
                self._note(
                    "term_falls",
                    placed,
                    f"entry {index} is of term {term}, the one before of term {end_term}",
                )
        self._end = index, term
        summary = self.summary
        summary.entries += 1
        summary.first_index = summary.first_index or index
        summary.last_index = index
        for line in lines_of(placed):
            summary.records += line.kind == "operation"
            if line.kind == "undecodable":
                where = f"operation {line.place} of entry {index}" if line.place else f"entry {index}"
                self._note("undecodable_entry", placed, f"{where}: {line.words}")

    def _check_vote(self, placed: Placed) -> None:
        term, name = placed.record.term, placed.record.payload
        before, voted = self._vote
        if term < before:
            self._note("vote_term_falls", placed, f"it goes back from term {before} to term {term}")
        elif term == before and voted and name and name != voted:
            self._note(
                "second_vote",
                placed,
                f"a second vote in term {term}: for {name.decode('utf-8', 'replace')} after "
                f"{voted.decode('utf-8', 'replace')}",
            )
        try:
            name.decode("utf-8")
        except UnicodeDecodeError as error:
            self._note("undecodable_vote", placed, f"the name voted for is no text: {error}")
        self._vote = term, name

    def _check_truncation(self, placed: Placed) -> None:
        index, term = placed.record.index, placed.record.term
        if self._end is not None and index > self._end[0]:
            self._note(
                "unknown_truncation",
                placed,
                f"it drops what is after entry {index}, but the log ends at entry {self._end[0]}",
            )
        self._end = index, term
        self.summary.last_index = min(self.summary.last_index, index)

    def _note(self, kind: FindingKind, placed: Placed | None, what: str) -> None:
        byte, number = (placed.byte, placed.number) if placed is not None else (0, 0)
        self._found.append(
            LogFinding(kind=kind, segment=self._file.name, byte=byte, record=number, what=what)
        )


def _stray_files(directory: str) -> Iterator[LogFinding]:
    for name in sorted(os.listdir(directory)):
        if not SEGMENT_NAME.match(name) and name not in (IDENTITY_FILE, f"{IDENTITY_FILE}.tmp"):
            yield LogFinding(
                kind="stray_file",
                segment=name,
                byte=0,
                record=0,
                what="it is no part of an operation log; no master reads it",
                is_damage=False,
            )
