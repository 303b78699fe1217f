"""Checker of reads: never older than the last write acknowledged before they began (GFS §2.7, §4.5, I5).

Reads
  operation `write` (see `regions`) and operation `read`: arguments {path, offset, length}, result {spans}:
    [[offset, length, tag], …], as in `regions`; what no span covers was beyond the end of the file;
  operation `append` (see `append`) and operation `read_records`: arguments {path, offset}, result {records,
    end}: [[offset, id], …] of all records found from `offset` up to `end`, where the reader stopped: the
    end of the file as it was told;
  operation `publish`: arguments {path, length, crc}, and operation `read_file`: arguments {path}, result
    {length, crc}. Where its outcome is `fail` with error `not_found`, nothing was there.
    Files that are also deleted, renamed or given back are not judged: `linearizability` looks at names.
  Each read is linearizable: default consistency, a reader opened after the call.

Holds when what a read shows is of a write that was not refused and had begun before the read was over, and
no write of the same bytes that began after that one was over had been acknowledged before the read began;
and records that were acknowledged before, from `offset` on, are among those found.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict

from gfs.verification.checkers.findings import Findings
from gfs.verification.checkers.interface import Verdict
from gfs.verification.checkers.regions import spans_of
from gfs.verification.history import History, Operation


class StaleReadsChecker:
    name = "stale_reads"
    promises = "A read is never older than the last write that was acknowledged before it began."

    def check(self, history: History) -> Verdict:
        findings = Findings(self.name)
        writes: dict[str, list[Operation]] = defaultdict(list)
        appends: dict[str, list[Operation]] = defaultdict(list)
        published: dict[str, list[Operation]] = defaultdict(list)
        reads: list[Operation] = []
        moved: set[str] = set()
        for operation in history.operations:
            match operation.function:
                case "write" if "tag" in operation.arguments:
                    writes[operation.arguments["path"]].append(operation)
                case "append":
                    appends[operation.arguments["path"]].append(operation)
                case "publish":
                    published[operation.arguments["path"]].append(operation)
                case "delete" | "rename" | "undelete" | "snapshot":
                    moved |= {operation.arguments.get(key, "") for key in ("path", "source", "destination")}
                case "read" | "read_records" | "read_file":
                    reads.append(operation)
        regions = {path: _Writes(of) for path, of in writes.items()}
        records = {path: _Appends(of) for path, of in appends.items()}
        for read in reads:
            path = read.arguments["path"]
            if read.function == "read" and read.outcome == "ok":
                regions.get(path, _Writes([])).judge(findings, read)
            elif read.function == "read_records" and read.outcome == "ok":
                records.get(path, _Appends([])).judge(findings, read)
            elif read.function == "read_file" and path not in moved:
                _judge_file(findings, read, published.get(path, []))
        return findings.verdict(idle="nothing was read")


def is_stale(shown: Operation | None, covering: list[Operation], read: Operation) -> Operation | None:
    """A write that `read` should have seen rather than `shown` (None: as if never written); None if none."""
    for write in covering:
        if write is shown or write.outcome != "ok" or write.returned_ns >= read.called_ns:
            continue
        if shown is None or (shown.outcome == "ok" and shown.returned_ns < write.called_ns):
            return write
    return None


class _Writes:
    """The writes of one file, by place."""

    def __init__(self, writes: list[Operation]) -> None:
        self._by_tag = {w.arguments["tag"]: w for w in writes}
        self._sorted = sorted(writes, key=lambda w: int(w.arguments["offset"]))
        self._starts = [w.arguments["offset"] for w in self._sorted]
        self._longest = max((w.arguments["length"] for w in writes), default=0)

    def covering(self, start: int, end: int) -> list[Operation]:
        first = bisect_left(self._starts, start - self._longest)
        last = bisect_left(self._starts, end)
        return [w for w in self._sorted[first:last] if w.arguments["offset"] + w.arguments["length"] > start]

    def judge(self, findings: Findings, read: Operation) -> None:
        path, begin = read.arguments["path"], read.arguments["offset"]
        at, stop = begin, begin + read.arguments["length"]
        shown = sorted(spans_of(read.result["spans"]))
        for start, end, tag in [*shown, (stop, stop, 0)]:
            if at < start:
                self._judge_span(findings, path, at, start, 0, read)
            if start < end:
                self._judge_span(findings, path, start, end, tag, read)
            at = max(at, end)

    def _judge_span(
        self, findings: Findings, path: str, start: int, end: int, tag: int, read: Operation
    ) -> None:
        findings.judged += 1
        shown = self._by_tag.get(tag)
        says = ""
        if tag and shown is None:
            says = "bytes that nobody wrote"
        elif shown is not None:
            offset, length = shown.arguments["offset"], shown.arguments["length"]
            if start < offset or end > offset + length:
                says = "bytes that were written elsewhere"
            elif shown.outcome == "fail":
                says = f"a write that was refused for good ({shown.error})"
            elif shown.called_ns > read.returned_ns:
                says = "a write that had not begun"
        if says:
            numbers = (read.number,) if shown is None else (shown.number, read.number)
            findings.violation(
                f"{path}: a read of {start}..{end - 1} shows {says}",
                at_ns=read.returned_ns,
                operations=numbers,
            )
            return
        newer = is_stale(shown, self.covering(start, end), read)
        if newer is not None:
            findings.violation(
                f"{path}: a read of {start}..{end - 1} does not show a write that was acknowledged "
                f"{(read.called_ns - newer.returned_ns) / 1e9:.3f} s before it began",
                at_ns=read.returned_ns,
                operations=(newer.number, read.number),
            )


class _Appends:
    """The appends of one file, by offset."""

    def __init__(self, appends: list[Operation]) -> None:
        self._by_id = {a.arguments["id"]: a for a in appends}
        self._acked = sorted((a for a in appends if a.outcome == "ok"), key=lambda a: int(a.result["offset"]))
        self._offsets = [a.result["offset"] for a in self._acked]

    def judge(self, findings: Findings, read: Operation) -> None:
        path, found = read.arguments["path"], {record for _, record in read.result["records"]}
        for offset, record in read.result["records"]:
            findings.judged += 1
            append = self._by_id.get(record)
            if append is None or append.outcome == "fail" or append.called_ns > read.returned_ns:
                findings.violation(
                    f"{path}: a reader found record {record} at {offset}, which nobody had appended",
                    at_ns=read.returned_ns,
                    operations=(read.number,),
                )
        for append in self._acked[bisect_left(self._offsets, read.arguments["offset"]) :]:
            if append.returned_ns >= read.called_ns:
                continue
            findings.judged += 1
            if append.arguments["id"] not in found:
                findings.violation(
                    f"{path}: a reader did not find record {append.arguments['id']} at "
                    f"{append.result['offset']}, acknowledged before",
                    at_ns=read.returned_ns,
                    operations=(append.number, read.number),
                )


def _judge_file(findings: Findings, read: Operation, published: list[Operation]) -> None:
    if read.outcome != "ok" and read.error != "not_found":
        return
    findings.judged += 1
    path = read.arguments["path"]
    shown: list[Operation | None] = [None]
    if read.outcome == "ok":
        key = read.result["length"], read.result["crc"]
        shown = [
            p
            for p in published
            if (p.arguments["length"], p.arguments["crc"]) == key
            and p.outcome != "fail"
            and p.called_ns <= read.returned_ns
        ]
    if not shown:
        findings.violation(
            f"{path}: a read shows what nobody had published",
            at_ns=read.returned_ns,
            operations=(read.number,),
        )
        return
    newer = [is_stale(one, published, read) for one in shown]
    if all(newer):
        missed = newer[0]
        assert missed is not None
        findings.violation(
            f"{path}: a read does not show what was published and acknowledged before it began",
            at_ns=read.returned_ns,
            operations=(missed.number, read.number),
        )
