"""Checker of durability: what was acknowledged is there after the last fault. Looks at no order in time.

Reads
  operations of `linearizability` that change the namespace, and the audit `tree`: {partition, entries}, all
    entries of that partition at the end: [[path, kind, inode], …], kind "file" or "directory";
  operation `publish`: arguments {path, length, crc}: a file that appears whole under its name, replacing
    what was there (`crc`: CRC32C of its bytes), and audit `file`: {path, exists, length, crc}, of each such
    path (what the SDK reads; `exists` False where there is none; `error`, a code, where it cannot be read).
  What appends and writes are for is judged by `append` and `regions`.

Holds when
  - what an acknowledged operation made is in the tree, and what one deleted is not, unless an operation that
    was over later or is unknown names it or moves what is above it;
  - nothing is in the tree that no operation which may have happened could have put there;
  - each published file is, whole, the one acknowledged last, or one that may have followed it.
"""

from __future__ import annotations

from collections import defaultdict

from gfs.verification.checkers.findings import Findings
from gfs.verification.checkers.interface import Verdict
from gfs.verification.history import Audit, History, Operation

CHANGES = frozenset({"create", "mkdir", "delete", "rename", "snapshot", "undelete", "purge"})


class DurabilityChecker:
    name = "durability"
    promises = "Nothing that was acknowledged is lost."

    def check(self, history: History) -> Verdict:
        findings = Findings(self.name)
        changes: dict[str, list[Operation]] = defaultdict(list)
        published: dict[str, list[Operation]] = defaultdict(list)
        for operation in history.operations:
            if operation.outcome == "fail":
                continue
            if operation.function in CHANGES and operation.partition:
                changes[operation.partition].append(operation)
            elif operation.function == "publish":
                published[operation.arguments["path"]].append(operation)
        for audit in history.audits:
            if audit.what == "tree":
                _judge_tree(findings, changes.get(audit.values["partition"], []), audit)
            elif audit.what == "file" and audit.values["path"] in published:
                _judge_file(findings, published[audit.values["path"]], audit)
        return findings.verdict(idle="nothing that was acknowledged was looked at")


def _judge_tree(findings: Findings, changes: list[Operation], audit: Audit) -> None:
    found = {path: kind for path, kind, *_ in audit.values["entries"]}
    touching: dict[str, list[Operation]] = defaultdict(list)  # by every path that an operation names
    bringing: dict[str, list[Operation]] = defaultdict(list)  # by what lies above that, and may be made
    for operation in changes:
        for path in _paths(operation):
            touching[path].append(operation)
            for part in _above(path):
                bringing[part].append(operation)
    for path, operations in touching.items():
        last = max(operations, key=lambda o: (o.called_ns, o.number))
        moved = [o for part in _above(path) for o in touching.get(part, ()) if _moves(o)]
        others = [o for o in operations + moved if o is not last]
        if last.outcome != "ok" or any(_may_follow(o, last) for o in others):
            continue
        findings.judged += 1
        there = last.function in ("create", "mkdir", "snapshot") or (
            last.function == "rename" and path == last.arguments["destination"]
        )
        gone = last.function == "delete" or (
            last.function == "rename" and path != last.arguments["destination"]
        )
        if last.function == "snapshot" and path == last.arguments["source"]:
            continue
        if there and path not in found:
            findings.violation(
                f"{path} is gone: {last.function} was acknowledged, and nothing was done to it later",
                at_ns=audit.at_ns,
                operations=(last.number,),
            )
        elif gone and path in found and not any(_may_follow(o, last) for o in bringing.get(path, ())):
            findings.violation(
                f"{path} is there again: {last.function} was acknowledged, and nothing made it later",
                at_ns=audit.at_ns,
                operations=(last.number,),
            )
    _judge_origins(findings, changes, found, audit)


def _may_follow(operation: Operation, last: Operation) -> bool:
    return operation.outcome == "info" or operation.returned_ns >= last.called_ns


def _judge_origins(findings: Findings, changes: list[Operation], found: dict[str, str], audit: Audit) -> None:
    named = {path for operation in changes for path in _paths(operation)}
    brought = {  # below these anything may have come along
        operation.arguments.get(key, "")
        for operation in changes
        for key in ("destination", "target")
        if operation.function in ("rename", "snapshot", "undelete")
    } | {operation.arguments["path"] for operation in changes if operation.function == "undelete"}
    parents = {part for o in changes if o.arguments.get("parents") for part in _above(o.arguments["path"])}
    parents |= {part for path in brought if path for part in _above(path)}
    for path in found:
        findings.judged += 1
        if path == audit.values["partition"] or path in named or path in parents:
            continue
        if not any(part in brought for part in _above(path)):
            findings.violation(f"{path} is there, and nobody made it", at_ns=audit.at_ns)


def _judge_file(findings: Findings, published: list[Operation], audit: Audit) -> None:
    findings.judged += 1
    path, values = audit.values["path"], audit.values
    acked = [o for o in published if o.outcome == "ok"]
    if values.get("error"):
        findings.violation(f"{path} cannot be read: {values['error']}", at_ns=audit.at_ns)
        return
    if not values["exists"]:
        if acked:
            findings.violation(
                f"{path} was published and acknowledged, and is gone",
                at_ns=audit.at_ns,
                operations=(acked[-1].number,),
            )
        return
    newest_call = max((o.called_ns for o in acked), default=-1)
    may_be_last = [o for o in published if o.outcome == "info" or o.returned_ns >= newest_call]
    if not any(
        (values["length"], values["crc"]) == (o.arguments["length"], o.arguments["crc"]) for o in may_be_last
    ):
        findings.violation(
            f"{path} holds {values['length']} bytes which are not those that were published last",
            at_ns=audit.at_ns,
            operations=tuple(o.number for o in may_be_last),
        )


def _paths(operation: Operation) -> list[str]:
    keys = ("path", "source", "destination", "target")
    return [operation.arguments[key] for key in keys if operation.arguments.get(key)]


def _moves(operation: Operation) -> bool:
    """It may take away, or bring, what is below the paths it names."""
    return operation.function not in ("create", "mkdir")


def _above(path: str) -> list[str]:
    names = path.split("/")
    return ["/".join(names[:count]) for count in range(2, len(names))]
