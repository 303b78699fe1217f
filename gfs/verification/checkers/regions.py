"""Checker of written regions: replicas identical, and each byte of one write in one order (GFS §2.7).

Reads
  operation `write`: arguments {path, offset, length, tag, piece}. All its bytes carry `tag` (an integer from
    1, that no other write of the run has). It is applied in pieces that end where the file's offset is a
    multiple of `piece` bytes, and at chunk ends.
  audit `replica_spans`, one for each replica of each chunk: {path, index, handle, version, server, length,
    crc, spans}. `length` and `crc` (CRC32C) are of all its bytes; `spans`: [[offset, length, tag], …] in
    order, offsets in the file; tag 0: zeros; -1: bytes that carry no tag.
  audit `file_spans`: {path, spans}: the same, as read through the SDK.

Holds when
  - replicas of one chunk have one version, and equal bytes except where a write failed or is unknown;
  - every byte carries the tag of a write that covers it and was not refused, or is zero where no acknowledged
    write was;
  - there is one order of all pieces, the same for all bytes, which explains what is seen where pieces
    overlap, and in which a write that began after another had been acknowledged comes later. So where writes
    overlapped in time, what is left may be of several, but changes only at the ends of pieces.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise

from gfs.verification.checkers.findings import Findings
from gfs.verification.checkers.interface import Verdict
from gfs.verification.history import Audit, History, Operation
from gfs.vocabulary import CHUNK_BYTES

Span = tuple[int, int, int]  # first byte, end, tag


class RegionsChecker:
    name = "regions"
    promises = "Replicas are identical, and what they hold is what one order of all writes leaves."

    def check(self, history: History) -> Verdict:
        findings = Findings(self.name)
        writes: dict[str, dict[int, Operation]] = defaultdict(dict)
        for operation in history.operations:
            if operation.function == "write" and "tag" in operation.arguments:
                writes[operation.arguments["path"]][operation.arguments["tag"]] = operation
        copies: dict[tuple[str, int], list[Audit]] = defaultdict(list)
        seen = set()
        for audit in history.audits:
            if audit.what in ("replica_spans", "file_spans"):
                path = audit.values["path"]
                seen.add(path)
                _judge_spans(findings, path, writes.get(path, {}), audit)
                if audit.what == "replica_spans":
                    copies[path, audit.values["index"]].append(audit)
        for (path, index), replicas in copies.items():
            unsure = [w for w in writes.get(path, {}).values() if w.outcome != "ok"]
            doubtful = [(w.arguments["offset"], _end(w), w.arguments["tag"]) for w in unsure]
            _compare(findings, path, index, replicas, doubtful)
        unseen = [
            p
            for p, all_of in writes.items()
            if p not in seen and any(o.outcome == "ok" for o in all_of.values())
        ]
        if unseen:
            findings.undecided = f"nobody looked at {len(unseen)} files after the run, as {unseen[0]}"
        return findings.verdict(idle="no region was looked at")


def spans_of(values: Iterable[Iterable[int]]) -> list[Span]:
    return [(offset, offset + length, tag) for offset, length, tag in values]


def _compare(findings: Findings, path: str, index: int, replicas: list[Audit], doubtful: list[Span]) -> None:
    """`doubtful`: where writes have failed or are unknown: there replicas may differ (GFS §2.7.1)."""
    first = replicas[0]
    for other in replicas[1:]:
        findings.judged += 1
        what = ""
        for key in ("handle", "version"):
            if first.values[key] != other.values[key]:
                what = f"{key}: {first.values[key]} and {other.values[key]}"
        if not doubtful and not what:
            for key in ("length", "crc"):
                if first.values[key] != other.values[key]:
                    what = f"{key}: {first.values[key]} and {other.values[key]}"
        if not what and (apart := _apart(first, other, doubtful)) is not None:
            what = f"bytes {apart[0]}..{apart[1] - 1}"
        if what:
            findings.violation(
                f"{path}: the replicas of chunk {index} on {first.values['server']} and "
                f"{other.values['server']} differ in their {what}",
                at_ns=other.at_ns,
            )


def _apart(one: Audit, other: Audit, doubtful: list[Span]) -> tuple[int, int] | None:
    """The first bytes in which two replicas differ where no write is doubtful."""
    low = one.values["index"] * CHUNK_BYTES
    high = low + max(one.values["length"], other.values["length"])
    lists = []
    for audit in (one, other):
        spans = spans_of(audit.values["spans"])
        lists.append(sorted(spans + list(_holes(spans, low, high))))
    cuts = sorted({s for spans in (*lists, doubtful) for start, end, _ in spans for s in (start, end)})
    at = [0, 0]
    for start, end in pairwise(cuts):
        tags = []
        for side, spans in enumerate(lists):
            while at[side] < len(spans) and spans[at[side]][1] <= start:
                at[side] += 1
            here = at[side] < len(spans) and spans[at[side]][0] <= start
            tags.append(spans[at[side]][2] if here else 0)
        if tags[0] != tags[1] and not any(d[0] <= start and end <= d[1] for d in doubtful):
            return start, end
    return None


def _judge_spans(findings: Findings, path: str, writes: dict[int, Operation], audit: Audit) -> None:
    where = "as it is read" if audit.what == "file_spans" else f"on {audit.values['server']}"
    spans = spans_of(audit.values["spans"])
    low, high = 0, max((end for _, end, _ in spans), default=0)
    if audit.what == "replica_spans":
        low = audit.values["index"] * CHUNK_BYTES
        high = low + audit.values["length"]
    else:
        # A file that ends before acknowledged bytes shows nothing there: that is as bad as zeros.
        acked_end = max((_end(w) for w in writes.values() if w.outcome == "ok"), default=0)
        high = max(high, acked_end)
    holes = list(_holes(spans, low, high))
    for start, end, tag in sorted(spans + holes):
        findings.judged += 1
        if tag == 0:
            continue
        write = writes.get(tag)
        if write is None:
            what = "no write's" if tag < 0 else f"those of write {tag}, which nobody made"
            findings.violation(f"{path} {where}: the bytes {start}..{end - 1} are {what}", at_ns=audit.at_ns)
        elif start < write.arguments["offset"] or end > _end(write):
            findings.violation(
                f"{path} {where}: the bytes {start}..{end - 1} are those of a write of other places",
                at_ns=audit.at_ns,
                operations=(write.number,),
            )
        elif write.outcome == "fail":
            findings.violation(
                f"{path} {where}: the bytes {start}..{end - 1} are of a write that was refused for good "
                f"({write.error})",
                at_ns=audit.at_ns,
                operations=(write.number,),
            )
    _judge_order(findings, path, where, writes, sorted(spans + holes), audit)


def _end(write: Operation) -> int:
    end: int = write.arguments["offset"] + write.arguments["length"]
    return end


def _holes(spans: list[Span], low: int, high: int) -> Iterator[Span]:
    """What no span tells of counts as zeros."""
    at = low
    for start, end, _ in sorted(spans):
        if start > at:
            yield at, start, 0
        at = max(at, end)
    if at < high:
        yield at, high, 0


Piece = tuple[int, int, int]  # first byte, end, tag of its write


def _pieces(write: Operation) -> Iterator[Piece]:
    at, end = write.arguments["offset"], _end(write)
    size = write.arguments["piece"]
    while at < end:
        stop = min(end, (at // size + 1) * size, (at // CHUNK_BYTES + 1) * CHUNK_BYTES)
        yield at, stop, write.arguments["tag"]
        at = stop


def _judge_order(
    findings: Findings, path: str, where: str, writes: dict[int, Operation], spans: list[Span], audit: Audit
) -> None:
    starts = [span[0] for span in spans]
    visible: dict[Piece, list[Span]] = {}  # what lies where the piece was written
    for write in writes.values():
        for piece in _pieces(write):
            if audit.what == "replica_spans" and piece[0] // CHUNK_BYTES != audit.values["index"]:
                continue
            first = max(0, bisect_right(starts, piece[0]) - 1)
            here = []
            for span in spans[first:]:
                if span[0] >= piece[1]:
                    break
                if span[1] > piece[0]:
                    here.append((max(span[0], piece[0]), min(span[1], piece[1]), span[2]))
            visible[piece] = here
    by_tag: dict[int, list[Piece]] = defaultdict(list)
    for piece in visible:
        by_tag[piece[2]].append(piece)
    later: dict[Piece, set[Piece]] = defaultdict(set)
    for piece, here in visible.items():
        write = writes[piece[2]]
        applied = write.outcome == "ok" or any(tag == piece[2] for _, _, tag in here)
        if not applied:
            continue
        findings.judged += 1
        for start, end, tag in here:
            if tag == 0:
                if write.outcome == "ok":
                    findings.violation(
                        f"{path} {where}: the bytes {start}..{end - 1} are lost: a write there was "
                        "acknowledged and they are as if never written",
                        at_ns=audit.at_ns,
                        operations=(write.number,),
                    )
            elif tag != piece[2] and tag in writes:
                for other in by_tag.get(tag, ()):
                    if other[0] < end and other[1] > start:
                        later[piece].add(other)
                if _was_over(writes[tag], write):
                    findings.violation(
                        f"{path} {where}: the bytes {start}..{end - 1} are of a write that was over before "
                        "an acknowledged one began",
                        at_ns=audit.at_ns,
                        operations=(writes[tag].number, write.number),
                    )
    circle = _circle(later)
    if circle:
        numbers = tuple(sorted({writes[piece[2]].number for piece in circle}))
        findings.violation(
            f"{path} {where}: no order of the writes {', '.join(map(str, numbers))} leaves what is there at "
            f"{circle[0][0]}",
            at_ns=audit.at_ns,
            operations=numbers,
        )


def _was_over(shown: Operation, write: Operation) -> bool:
    """`shown` cannot have followed `write`, which certainly was applied."""
    return shown.outcome == write.outcome == "ok" and shown.returned_ns < write.called_ns


def _circle(later: dict[Piece, set[Piece]]) -> list[Piece]:
    """Pieces each of which would have to come before the next, and the last before the first; or none."""
    done: set[Piece] = set()
    for root in later:
        if root in done:
            continue
        way: list[Piece] = [root]
        on_way = {root}
        open_ends = [iter(sorted(later[root]))]
        while way:
            following = next(open_ends[-1], None)
            if following is None:
                done.add(way[-1])
                on_way.discard(way.pop())
                open_ends.pop()
            elif following in on_way:
                return way[way.index(following) :]
            elif following not in done:
                way.append(following)
                on_way.add(following)
                open_ends.append(iter(sorted(later.get(following, ()))))
    return []
