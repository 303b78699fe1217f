"""Checker of record append: at least once, whole, where it was acknowledged, on all replicas (GFS §3.3, I9).

Reads
  operation `append`: arguments {path, id, length, crc, exact}. `id` is the record's own (a string that no
    other record of the run has), `length` and `crc` (CRC32C) are of the whole record as it lies in the file;
    `exact`: by the exactly-once record writer. Result {offset}: in the file, of the record's first byte.
  audit `replica_records`, one for each replica of each chunk of an appended file, from its raw bytes:
    {path, index, handle, version, server, length, records, strange}. `index` and `length` are the chunk's;
    `records`: [[offset, id, length, crc], …] in order, offsets in the file; `strange`: [[offset, length], …],
    bytes that are neither zeros nor part of a record that can be parsed.
  audit `file_records`: {path, records}: the same as a reader finds it through the SDK.

Holds when
  - an acknowledged record is at its offset, whole, on every replica, and in what a reader finds;
  - nothing of an append that definitely failed is anywhere; nor a record that nobody appended, nor two
    contents under one id; strange bytes only where an append of the file has failed or is unknown;
  - a record of the exactly-once writer is in the file once at most;
  - offsets acknowledged to one client in one file rise, and no two acknowledged records overlap.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from gfs.verification.checkers.findings import Findings
from gfs.verification.checkers.interface import Verdict
from gfs.verification.history import Audit, History, Operation
from gfs.vocabulary import CHUNK_BYTES


class AppendChecker:
    name = "append"
    promises = "An acknowledged record is whole, at its offset, on every replica; a refused one is nowhere."

    def check(self, history: History) -> Verdict:
        findings = Findings(self.name)
        by_id: dict[str, Operation] = {}
        by_path: dict[str, list[Operation]] = defaultdict(list)
        for operation in history.operations:
            if operation.function == "append":
                by_id[operation.arguments["id"]] = operation
                by_path[operation.arguments["path"]].append(operation)
        audited: dict[str, list[Audit]] = defaultdict(list)
        for audit in history.audits:
            if audit.what in ("replica_records", "file_records"):
                audited[audit.values["path"]].append(audit)
        unseen = []
        for path, operations in by_path.items():
            acked = [o for o in operations if o.outcome == "ok"]
            _judge_answers(findings, path, acked)
            if path in audited:
                _judge_places(findings, path, acked, audited[path])
            elif acked:
                unseen.append(path)
        for path, audits in audited.items():
            some_failed = any(o.outcome != "ok" for o in by_path.get(path, ()))
            for audit in audits:
                _judge_contents(findings, audit, by_id, some_failed=some_failed)
        if unseen:
            findings.undecided = f"nobody looked at {len(unseen)} files after the run, as {unseen[0]}"
        return findings.verdict(idle="no record was appended")


def _judge_answers(findings: Findings, path: str, acked: list[Operation]) -> None:
    """What clients were told, by itself."""
    findings.judged += len(acked)
    last_of: dict[int, Operation] = {}
    for operation in sorted(acked, key=lambda o: o.called_ns):
        before = last_of.get(operation.process)
        if before is not None and operation.result["offset"] <= before.result["offset"]:
            findings.violation(
                f"{path}: offset {operation.result['offset']} was acknowledged to a client which before had "
                f"{before.result['offset']}",
                at_ns=operation.returned_ns,
                operations=(before.number, operation.number),
            )
        last_of[operation.process] = operation
    end, last = 0, 0
    for operation in sorted(acked, key=lambda o: (o.result["offset"], o.number)):
        offset = operation.result["offset"]
        if offset < end:
            findings.violation(
                f"{path}: two acknowledged records overlap at {offset}",
                at_ns=operation.returned_ns,
                operations=(last, operation.number),
            )
        end, last = offset + operation.arguments["length"], operation.number


def _judge_places(findings: Findings, path: str, acked: list[Operation], audits: list[Audit]) -> None:
    """Acknowledged records are where they were acknowledged, on all that was looked at."""
    copies: dict[int, list[Audit]] = defaultdict(list)
    whole: list[Audit] = []
    for audit in audits:
        if audit.what == "replica_records":
            copies[audit.values["index"]].append(audit)
        else:
            whole.append(audit)
    places = {id(audit): {r[0]: r[1] for r in audit.values["records"]} for audit in audits}
    for operation in acked:
        offset, wanted = operation.result["offset"], operation.arguments["id"]
        replicas = copies.get(offset // CHUNK_BYTES, [])
        if copies and not replicas:
            findings.violation(
                f"{path}: record {wanted} was acknowledged at {offset}, in a chunk without a replica",
                operations=(operation.number,),
            )
        for audit in (*replicas, *whole):
            findings.judged += 1
            found = places[id(audit)].get(offset)
            if found != wanted:
                findings.violation(
                    f"{path}: record {wanted} was acknowledged at {offset}, where {_where(audit)} has "
                    + ("no record" if found is None else f"record {found}"),
                    at_ns=audit.at_ns,
                    operations=(operation.number,),
                )


def _judge_contents(
    findings: Findings, audit: Audit, by_id: dict[str, Operation], *, some_failed: bool
) -> None:
    """Nothing is there that nobody appended."""
    path, where = audit.values["path"], _where(audit)
    for offset, record, length, crc in audit.values["records"]:
        findings.judged += 1
        append = by_id.get(record)
        if append is None or append.arguments["path"] != path:
            findings.violation(
                f"{path}: record {record} at {offset} on {where} was appended by nobody", at_ns=audit.at_ns
            )
        elif append.outcome == "fail":
            findings.violation(
                f"{path}: record {record} is on {where} at {offset} although it was refused for good "
                f"({append.error})",
                at_ns=audit.at_ns,
                operations=(append.number,),
            )
        elif (length, crc) != (append.arguments["length"], append.arguments["crc"]):
            findings.violation(
                f"{path}: record {record} at {offset} on {where} is not what was appended",
                at_ns=audit.at_ns,
                operations=(append.number,),
            )
    for record, times in Counter(r[1] for r in audit.values["records"]).items():
        if times > 1 and record in by_id and by_id[record].arguments["exact"]:
            findings.violation(
                f"{path}: record {record} is on {where} {times} times, though appended exactly once",
                at_ns=audit.at_ns,
                operations=(by_id[record].number,),
            )
    strange = audit.values.get("strange", ())
    if strange and not some_failed:
        offset, length = strange[0]
        findings.violation(
            f"{path}: {length} bytes at {offset} on {where} are of no record, and no append had failed",
            at_ns=audit.at_ns,
        )


def _where(audit: Audit) -> str:
    if audit.what == "file_records":
        return "the file as it is read"
    return f"the replica of chunk {audit.values['index']} on {audit.values['server']}"
