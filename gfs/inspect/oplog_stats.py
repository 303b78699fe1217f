"""What an operation log consists of: its segments, and its operations counted. Judges nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal

import msgspec

from gfs.inspect.oplog_lines import LogLine, lines_of
from gfs.inspect.oplog_segments import LogWalk, Segment, SegmentFile, list_segments, read_segment
from gfs.inspect.oplog_words import operation_kind
from gfs.master.replication.log_format import Kind

CLIENTS_COUNTED_MAX = 100_000  # clients told apart; more of them are counted together
CLIENTS_SHOWN = 20

SegmentState = Literal["open", "closed", "continued", "torn", "damaged", "newer"]


class SegmentRow(msgspec.Struct, frozen=True, kw_only=True):
    """One segment. Indices and terms are those of its entries; 0 where it has none.

    `state`: continued in the next segment; the newest one is closed (an orderly stop), open (running, or
    killed) or torn (the power went, or a batch is just being written); any may be damaged, or of a newer
    format.
    """

    segment: int
    file: str
    bytes: int
    records: int
    entries: int
    first_index: int
    last_index: int
    first_term: int
    last_term: int
    state: SegmentState
    fault: str = ""


def segment_rows(directory: str) -> Iterator[SegmentRow]:
    """Raises: NotFound, InvalidArgument."""
    for file in list_segments(directory):
        segment = read_segment(file)
        if segment is not None:
            yield _row(file, segment)


def _row(file: SegmentFile, segment: Segment) -> SegmentRow:
    records = entries = 0
    first = last = (0, 0)
    last_kind = None
    for placed in segment.records():
        records += 1
        last_kind = placed.record.kind
        if last_kind is Kind.ENTRY:
            entries += 1
            last = placed.record.index, placed.record.term
            first = first if entries > 1 else last
    return SegmentRow(
        segment=file.number,
        file=file.name,
        bytes=len(segment.content),
        records=records,
        entries=entries,
        first_index=first[0],
        last_index=last[0],
        first_term=first[1],
        last_term=last[1],
        state=_state(segment, last_kind),
        fault=segment.faults[0].what if segment.faults else "",
    )


def _state(segment: Segment, last_kind: Kind | None) -> SegmentState:
    if any(fault.kind == "newer_format" for fault in segment.faults):
        return "newer"
    if segment.is_damaged:
        return "damaged"
    if segment.faults:
        return "torn"
    if not segment.file.is_last:
        return "continued"
    return "closed" if last_kind is Kind.CLOSED else "open"


class OperationCount(msgspec.Struct, kw_only=True):
    kind: str
    count: int = 0
    bytes: int = 0


class ClientCount(msgspec.Struct, kw_only=True):
    client: str
    count: int


class LogStatistics(msgspec.Struct, kw_only=True):
    """Everything in the log is counted, also entries that were overruled later (see `truncations`)."""

    segments: int = 0
    bytes: int = 0
    entries: int = 0
    operations: int = 0
    elections: int = 0
    votes: int = 0
    readmissions: int = 0
    configurations: int = 0  # changes of who the masters are
    truncations: int = 0
    resets: int = 0
    undecodable: int = 0
    first_at_ms: int = 0
    last_at_ms: int = 0
    kinds: list[OperationCount] = []
    clients: int = 0
    busiest_clients: list[ClientCount] = []
    operations_of_no_client: int = 0

    @property
    def seconds(self) -> float:
        return max(0, self.last_at_ms - self.first_at_ms) / 1000

    @property
    def operations_per_entry(self) -> float:
        return self.operations / self.entries if self.entries else 0.0


def count_log(directory: str) -> tuple[LogStatistics, LogWalk]:
    """Raises: NotFound, InvalidArgument. What could not be read is in the walk's `faults`."""
    walk = LogWalk(directory)
    found = LogStatistics(segments=len(walk.files))
    kinds: dict[str, OperationCount] = {}
    clients: Counter[int] = Counter()
    for placed in walk.records():
        found.bytes += placed.end - placed.byte
        match placed.record.kind:
            case Kind.ENTRY:
                found.entries += 1
            case Kind.VOTE:
                found.votes += 1
            case Kind.TRUNCATE:
                found.truncations += 1
            case Kind.RESET:
                found.resets += 1
            case _:
                continue
        for line in lines_of(placed):
            _count_line(found, line, kinds, clients)
    found.kinds = sorted(kinds.values(), key=lambda kind: (-kind.count, kind.kind))
    found.clients = len(clients)
    found.busiest_clients = [
        ClientCount(client=f"{client:x}", count=count) for client, count in clients.most_common(CLIENTS_SHOWN)
    ]
    return found, walk


_encode = msgspec.msgpack.Encoder().encode


def _count_line(
    found: LogStatistics, line: LogLine, kinds: dict[str, OperationCount], clients: Counter[int]
) -> None:
    found.elections += line.kind == "election"
    found.readmissions += line.kind == "readmission"
    found.configurations += line.kind == "configuration"
    found.undecodable += line.kind == "undecodable"
    record = line.record
    if record is None:
        return
    found.operations += 1
    found.first_at_ms = min(found.first_at_ms or record.at_ms, record.at_ms)
    found.last_at_ms = max(found.last_at_ms, record.at_ms)
    name = operation_kind(record.operation)
    kind = kinds.setdefault(name, OperationCount(kind=name))
    kind.count += 1
    kind.bytes += len(_encode(record))
    if record.request is None:
        found.operations_of_no_client += 1
    elif record.request.client in clients or len(clients) < CLIENTS_COUNTED_MAX:
        clients[record.request.client] += 1
