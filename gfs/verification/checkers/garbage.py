"""Checker of deletion: what can be had back can, what lives is never deleted, orphans vanish (GFS §4.4, I6).

Reads
  operation `delete`: arguments {path, retention_seconds}: for how long it can be had back at least. Result as
    may be. Only paths that are deleted once are judged here, and no operation with a partition: what is
    replaced there is deleted, too: `linearizability` judges it. With `skip_trash` true it is gone at once;
  audit `presence`: {path, expected, exists}: `expected` "there" or "gone" by all that was acknowledged;
  operation `undelete`: arguments {path, destination}; `purge`: {path};
  sighting `granted` (see `leases`): `replicas`, the nodes of the newest set of a chunk;
  sighting `deleted` of a chunk server: {chunk, version}: it has deleted its replica;
  sighting `unseen` (some sightings were lost): then nothing is said of deletions by servers;
  audit `live_chunks`: {chunks}: [[handle, version], …] of all files at the end, also of those in the trash;
    and `verified` (see `fsck`), whose chunks live, too;
  audit `orphans`: {server, chunks}: [[handle, version], …] that this server still has when two or more
    rounds of garbage collection have passed since the last fault: of no file, or of old versions.

Holds when
  - an undelete within DRIFT of the retention, with nothing else done to that path, is not `not_found`;
    one after an acknowledged purge, or of what was deleted past the trash, is not acknowledged;
  - no replica of a live chunk is deleted by a server which is in the newest granted set, at that version or
    a newer one;
  - no orphan is left.
"""

from __future__ import annotations

from collections import defaultdict

from gfs.verification.checkers.findings import Findings
from gfs.verification.checkers.interface import Verdict
from gfs.verification.history import History, Operation

DRIFT = 0.85  # clocks of masters may be fast by a tenth
HEARD_LATE_NS = 3_000_000_000


class GarbageChecker:
    name = "garbage"
    promises = "Deleted files can be had back until their time is over; no chunk of a living file is deleted."

    def check(self, history: History) -> Verdict:
        findings = Findings(self.name)
        by_path: dict[str, list[Operation]] = defaultdict(list)
        for operation in history.operations:
            if operation.partition:
                continue
            refused = operation.outcome == "fail"
            tells = operation.function == "undelete" and operation.error == "not_found"
            if operation.function in ("delete", "undelete", "purge") and (tells or not refused):
                by_path[operation.arguments["path"]].append(operation)
        for path, operations in by_path.items():
            _judge_undeletes(findings, path, operations)
        _judge_deletions(findings, history)
        for audit in history.audits:
            if audit.what == "presence" and audit.values["expected"] in ("there", "gone"):
                findings.judged += 1
                if audit.values["exists"] != (audit.values["expected"] == "there"):
                    now = "is there" if audit.values["exists"] else "is gone"
                    findings.violation(
                        f"{audit.values['path']} {now}, and should be {audit.values['expected']}",
                        at_ns=audit.at_ns,
                    )
            elif audit.what == "orphans":
                findings.judged += 1
                if audit.values["chunks"]:
                    handle, version = audit.values["chunks"][0]
                    findings.violation(
                        f"{audit.values['server']} still has {len(audit.values['chunks'])} replicas of no "
                        f"file, as chunk {handle:x} of version {version}",
                        at_ns=audit.at_ns,
                    )
        return findings.verdict(idle="nothing was deleted")


def _judge_undeletes(findings: Findings, path: str, operations: list[Operation]) -> None:
    deletes = [o for o in operations if o.function == "delete"]
    if len(deletes) != 1 or deletes[0].outcome != "ok":
        return
    (delete,) = deletes
    purges = [o for o in operations if o.function == "purge"]
    undeletes = [o for o in operations if o.function == "undelete"]
    retention = delete.arguments.get("retention_seconds")
    for undelete in undeletes:
        if undelete.outcome == "info":
            continue
        findings.judged += 1
        others = [o for o in (*purges, *undeletes) if o is not undelete and o.outcome != "fail"]
        in_time = (
            retention is not None
            and not delete.arguments.get("skip_trash")
            and undelete.called_ns > delete.returned_ns
            and undelete.returned_ns < delete.called_ns + int(DRIFT * retention * 1e9)
        )
        untouched = all(o.outcome == "ok" and o.called_ns > undelete.returned_ns for o in others)
        if undelete.outcome == "fail" and in_time and untouched:
            findings.violation(
                f"{path} could not be had back {(undelete.returned_ns - delete.called_ns) / 1e9:.1f} s after "
                f"it was deleted, of {retention} s",
                at_ns=undelete.returned_ns,
                operations=(delete.number, undelete.number),
            )
        over = [o for o in others if o.outcome == "ok" and o.returned_ns < undelete.called_ns]
        if delete.arguments.get("skip_trash") and delete.returned_ns < undelete.called_ns:
            over.append(delete)
        if undelete.outcome == "ok" and over:
            findings.violation(
                f"{path} was given back although it had left the trash before",
                at_ns=undelete.returned_ns,
                operations=(over[0].number, undelete.number),
            )


def _judge_deletions(findings: Findings, history: History) -> None:
    live = {handle for a in history.audits if a.what == "live_chunks" for handle, _ in a.values["chunks"]}
    live |= {audit.values["handle"] for audit in history.audits if audit.what == "verified"}
    if any(sighting.what == "unseen" for sighting in history.sightings):
        return
    newest: dict[int, tuple[int, list[str]]] = {}
    # Logs of several programs are read one after the other: a grant may be told after what it led to.
    order = {"granted": 0, "deleted": HEARD_LATE_NS}
    seen = [s for s in history.sightings if s.what in order]
    for sighting in sorted(seen, key=lambda s: s.at_ns + order[s.what]):
        if sighting.what == "granted":
            chunk, version = sighting.values["chunk"], sighting.values["version"]
            if version >= newest.get(chunk, (0, []))[0]:
                newest[chunk] = version, sighting.values["replicas"]
        else:
            chunk, version = sighting.values["chunk"], sighting.values["version"]
            findings.judged += 1
            granted, replicas = newest.get(chunk, (0, []))
            if chunk in live and granted and version >= granted and sighting.node in replicas:
                findings.violation(
                    f"{sighting.node} deleted version {version} of chunk {chunk:x}, which belongs to a "
                    "file and counts on that replica",
                    at_ns=sighting.at_ns,
                )
