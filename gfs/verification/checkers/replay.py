"""Checker of the replicated state: equal on all masters at equal index, and when it is replayed (I7, §2.6).

Reads
  sighting `state` of a master: {index, digest}: of all its tables, just after it applied log entry `index`
    (index 0 says nothing);
  audit `state`: {node, index, digest}: the same, at the end;
  audit `replayed`: {node, index, digest, from_index}: what one gets from the checkpoint at `from_index` and
    the log on this master's disk, up to `index`;
  audit `digests`: {index, digest, agreed, voters, split, masters}: all masters compared by the leader at
    one index; `masters`: [[id, verdict, digest], …], verdicts as in messages/cluster;
  audit `rows`: {node, rows}: "sound" when the rows of all tables are those of the digest.

Holds when all digests that were seen at one index are one, whoever told them and in whatever way, and no rows
are "unsound". Undecided where no index was told of twice.
"""

from __future__ import annotations

from gfs.verification.checkers.findings import Findings
from gfs.verification.checkers.interface import Verdict
from gfs.verification.history import Audit, History


class ReplayChecker:
    name = "replay"
    promises = "Masters have equal state at equal index, and checkpoint with log gives that state again."

    def check(self, history: History) -> Verdict:
        findings = Findings(self.name)
        told: list[tuple[int, str, int, str]] = []  # when, by whom, index, digest
        for sighting in history.sightings:
            if sighting.what == "state":
                told.append(
                    (sighting.at_ns, sighting.node, sighting.values["index"], sighting.values["digest"])
                )
        for audit in history.audits:
            if audit.what in ("state", "replayed"):
                who = audit.values["node"] + (", replayed" if audit.what == "replayed" else "")
                told.append((audit.at_ns, who, audit.values["index"], audit.values["digest"]))
            elif audit.what == "rows":
                findings.judged += 1
                if audit.values["rows"] == "unsound":
                    findings.violation(
                        f"the rows of {audit.values['node']} are not those of its digest", at_ns=audit.at_ns
                    )
            elif audit.what == "digests":
                _judge_comparison(findings, audit)
        first: dict[int, tuple[str, str]] = {}
        for at_ns, who, index, digest in sorted(told):
            if not index:
                continue
            findings.judged += 1
            other, expected = first.setdefault(index, (who, digest))
            if digest != expected:
                findings.violation(
                    f"at log entry {index} {who} has the state {digest}, {other} has {expected}", at_ns=at_ns
                )
        if told and len(told) == len(first):
            findings.undecided = "no two states of one log entry were seen"
        return findings.verdict(idle="no master told its state")


def _judge_comparison(findings: Findings, audit: Audit) -> None:
    for master, verdict, digest in audit.values["masters"]:
        findings.judged += 1
        if verdict in ("differs", "unsound", "quarantined"):
            findings.violation(
                f"at log entry {audit.values['index']} {master} is {verdict}: {digest or 'no digest'}, "
                f"where {audit.values['agreed']} of {audit.values['voters']} have {audit.values['digest']}",
                at_ns=audit.at_ns,
            )
    if audit.values["split"]:
        findings.violation(
            f"at log entry {audit.values['index']} masters have different states, none that of a majority",
            at_ns=audit.at_ns,
        )
