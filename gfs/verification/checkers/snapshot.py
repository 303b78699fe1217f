"""Checker of snapshots: a copy is of one moment between call and return, for all its files (GFS §3.4, I10).

Reads
  operation `count`: arguments {path, value}: the one writer of `path` appends value 1, then 2, … After an
    `info` the same value is tried again (exactly once, or the reader of the copy drops repeats);
  operation `snapshot`: arguments {source, target}: trees or files;
  operation or audit `copy`: {target, files} (an operation has `target` in its arguments, `files` in its
    result): what the copy holds: {path below the target, "" if it is a file itself: highest value}. -1 says
    that its values are not exactly 1 … highest: some are missing, repeated where no try was, or unreadable.
  All paths are whole; files below `source` have the same names below `target`.

Holds when
  - there is a moment within the snapshot's call at which every file had just the values that the copy has:
    for each, none acknowledged before is missing, none begun later is there;
  - a copy that is looked at again has not changed.
"""

from __future__ import annotations

from collections import defaultdict

from gfs.verification.checkers.findings import Findings
from gfs.verification.checkers.interface import Verdict
from gfs.verification.history import History, Operation

Look = tuple[int, dict[str, int]]  # when, what was there


class SnapshotChecker:
    name = "snapshot"
    promises = "A snapshot is its source as it was at one moment between call and return, and stays so."

    def check(self, history: History) -> Verdict:
        findings = Findings(self.name)
        counts: dict[str, list[Operation]] = defaultdict(list)
        snapshots: list[Operation] = []
        looks: dict[str, list[Look]] = defaultdict(list)
        for operation in history.operations:
            match operation.function, operation.outcome:
                case "count", "ok" | "info":
                    counts[operation.arguments["path"]].append(operation)
                case "snapshot", "ok":
                    snapshots.append(operation)
                case "copy", "ok":
                    looks[operation.arguments["target"]].append(
                        (operation.called_ns, operation.result["files"])
                    )
        for audit in history.audits:
            if audit.what == "copy":
                looks[audit.values["target"]].append((audit.at_ns, audit.values["files"]))
        for snapshot in snapshots:
            target = snapshot.arguments["target"]
            if target not in looks:
                continue
            at_ns, files = min(looks[target], key=lambda look: look[0])
            for later_ns, again in looks[target]:
                findings.judged += 1
                if again != files:
                    changed = sorted(n for n in {*files, *again} if files.get(n) != again.get(n))
                    findings.violation(
                        f"the copy {target} has changed since it was made: {changed[0] or target}",
                        at_ns=max(at_ns, later_ns),
                        operations=(snapshot.number,),
                    )
            _judge_moment(findings, snapshot, files, counts)
        return findings.verdict(idle="no copy was looked at")


def _judge_moment(
    findings: Findings, snapshot: Operation, files: dict[str, int], counts: dict[str, list[Operation]]
) -> None:
    source, target = snapshot.arguments["source"], snapshot.arguments["target"]
    earliest, because_of = snapshot.called_ns, snapshot.number
    latest, limited_by = snapshot.returned_ns, snapshot.number
    for path, values in counts.items():
        if path != source and not path.startswith(source + "/"):
            continue
        findings.judged += 1
        name = path[len(source) + 1 :]
        has = files.get(name, 0)
        if has < 0:
            findings.violation(
                f"{target}/{name} does not hold the values from 1 on, each once",
                operations=(snapshot.number,),
            )
            continue
        begun = [o for o in values if o.arguments["value"] == has]
        if has and not begun:
            findings.violation(
                f"{target}/{name} holds the value {has}, which nobody wrote", operations=(snapshot.number,)
            )
            continue
        first_begun = min(begun, key=lambda o: o.called_ns, default=None)
        if first_begun is not None and first_begun.called_ns > earliest:
            earliest, because_of = first_begun.called_ns, first_begun.number
        for o in values:
            if o.outcome == "ok" and o.arguments["value"] > has and o.returned_ns < latest:
                latest, limited_by = o.returned_ns, o.number
    if earliest > latest:
        findings.violation(
            f"{target} is of no single moment: it holds what operation {because_of} wrote, begun at "
            f"{earliest / 1e9:.6f} s, and not what operation {limited_by} wrote, acknowledged at "
            f"{latest / 1e9:.6f} s",
            at_ns=snapshot.returned_ns,
            operations=tuple(sorted({snapshot.number, because_of, limited_by})),
        )
