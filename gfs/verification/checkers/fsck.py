"""Checker of the whole: replicas at their goal, of one version, readable; no rests (GFS §4.3, §5.2).

Reads audits, made when repair has had its time after the last fault
  `fsck`: {path, files, chunks, counts, at_risk, waited_seconds}: as the leader judges what is below `path`;
    `at_risk`: [[path, risk], …];
  `verified`: {path, index, handle, version, replicas, bad_blocks, unread, differing}: one chunk, each replica
    of which was read and compared: `bad_blocks`: {server: [block, …]}; `unread`: {server: why}; `differing`:
    servers whose bytes have right sums but are not those of most replicas;
  `leftovers`: {node, files}: temporary files on its disk that nobody will ask for again.

Holds when nothing is at risk, no replica is damaged, unread or counted twice, and none differs, except in a
file of which a write or append has failed or is unknown (GFS §2.7 lets its region be inconsistent); and
nothing is left over.
"""

from __future__ import annotations

from gfs.verification.checkers.findings import Findings
from gfs.verification.checkers.interface import Verdict
from gfs.verification.history import Audit, History


class FsckChecker:
    name = "fsck"
    promises = "After the run every chunk has all its replicas, equal and readable, and no rests are left."

    def check(self, history: History) -> Verdict:
        findings = Findings(self.name)
        doubtful = {
            o.arguments["path"]
            for o in history.operations
            if o.outcome != "ok" and o.function in ("write", "append", "count", "publish")
        }
        for audit in history.audits:
            match audit.what:
                case "verified":
                    _judge_chunk(findings, audit, doubtful)
                case "fsck":
                    findings.judged += 1
                    for path, risk in audit.values["at_risk"]:
                        findings.violation(
                            f"{path} is {risk}, {audit.values['waited_seconds']:.0f} s after the last fault",
                            at_ns=audit.at_ns,
                        )
                case "leftovers":
                    findings.judged += 1
                    if files := audit.values["files"]:
                        findings.violation(
                            f"{audit.values['node']} still has {len(files)} temporary files, as {files[0]}",
                            at_ns=audit.at_ns,
                        )
        return findings.verdict(idle="the cluster was not looked over")


def _judge_chunk(findings: Findings, audit: Audit, doubtful: set[str]) -> None:
    values = audit.values
    name = f"chunk {values['index']} of {values['path']} ({values['handle']:x})"
    findings.judged += 1
    if len(set(values["replicas"])) != len(values["replicas"]):
        findings.violation(f"{name} counts one server twice", at_ns=audit.at_ns)
    if not values["replicas"]:
        findings.violation(f"{name} has no replica", at_ns=audit.at_ns)
    for server, blocks in values["bad_blocks"].items():
        if blocks:
            findings.violation(f"{name} on {server}: {len(blocks)} blocks are damaged", at_ns=audit.at_ns)
    for server, why in values["unread"].items():
        findings.violation(f"{name} on {server} cannot be read: {why}", at_ns=audit.at_ns)
    if values["differing"] and values["path"] not in doubtful:
        findings.violation(
            f"{name} on {', '.join(map(str, values['differing']))} differs from the others; nothing written "
            "to it had failed",
            at_ns=audit.at_ns,
        )
