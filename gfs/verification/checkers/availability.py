"""Checker of availability: acknowledgements resume after each heal, and nobody waits for ever (GFS §5.1).

Reads
  all operations: an acknowledged one of any function counts, for its own workload;
  faults; phases "calm", "faults", "settling";
  audit `deadline`: {seconds}, of a workload: how long its clients' calls may take at most. Without it
    DEADLINE_SECONDS.

Holds when
  - after each fault, once no other holds, every workload that tries gets an acknowledgement within
    RESUME_SECONDS (a quiet time shorter than that says nothing unless one came);
  - in the calm before the first fault every workload that tries gets one;
  - no call takes longer than its deadline and a half, with SLACK_SECONDS: errors, not hangs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict

from gfs.verification.checkers.findings import Findings
from gfs.verification.checkers.interface import Verdict
from gfs.verification.history import History, Operation

RESUME_SECONDS = 30.0  # of a single fault 10 s in nearly all cases; what the slowest was is in the remark
DEADLINE_SECONDS = 60.0
SLACK_SECONDS = 5.0


class AvailabilityChecker:
    name = "availability"
    promises = "After each heal clients are served again within seconds, and no call hangs meanwhile."

    def check(self, history: History) -> Verdict:
        findings = Findings(self.name)
        by_workload: dict[str, list[Operation]] = defaultdict(list)
        for operation in history.operations:
            by_workload[operation.workload].append(operation)
        ends = _ends(history)
        quiet = _quiet_times(history, ends)
        slowest, late = 0.0, 0
        for workload, operations in by_workload.items():
            deadline = _deadline(history, workload)
            _judge_lengths(findings, operations, deadline)
            acks = sorted(o.returned_ns for o in operations if o.outcome == "ok")
            tries = sorted((o.returned_ns, o.called_ns) for o in operations)
            for begin, end in quiet:
                waited = _judge_quiet(findings, workload, begin, end, acks, tries)
                slowest, late = max(slowest, waited), late + (waited > 10)
        remark = f"the slowest return of service took {slowest:.1f} s; {late} took more than 10 s"
        return findings.verdict(idle="nothing was tried", remark=remark)


def _deadline(history: History, workload: str) -> float:
    told = [a.values["seconds"] for a in history.audits if a.what == "deadline" and a.workload == workload]
    return max(told, default=DEADLINE_SECONDS)


def _ends(history: History) -> int:
    """When clients stop: at the audit, or with the last call."""
    audits = [phase.at_ns for phase in history.phases if phase.name == "audit"]
    return min(audits, default=max((o.returned_ns for o in history.operations), default=0))


def _quiet_times(history: History, end: int) -> list[tuple[int, int]]:
    """When no fault held: from each heal, or the calm's beginning, to the next fault."""
    quiet = []
    at = min((p.at_ns for p in history.phases if p.name == "calm"), default=None)
    for fault in sorted(history.faults, key=lambda f: f.began_ns):
        if at is not None and fault.began_ns > at:
            quiet.append((at, fault.began_ns))
        at = fault.ended_ns if at is None else max(at, fault.ended_ns)
    if at is not None and end > at:
        quiet.append((at, end))
    return quiet


def _judge_lengths(findings: Findings, operations: list[Operation], deadline: float) -> None:
    allowed_ns = int((deadline * 1.5 + SLACK_SECONDS) * 1e9)
    for operation in operations:
        findings.judged += 1
        if operation.returned_ns - operation.called_ns > allowed_ns:
            findings.violation(
                f"{operation.workload}: {operation.function} took "
                f"{(operation.returned_ns - operation.called_ns) / 1e9:.1f} s, of at most {deadline:.1f} s",
                at_ns=operation.returned_ns,
                operations=(operation.number,),
            )


def _judge_quiet(
    findings: Findings, workload: str, begin: int, end: int, acks: list[int], tries: list[tuple[int, int]]
) -> float:
    """Returns: the seconds until the first acknowledgement; 0 where none was needed."""
    limit = begin + int(RESUME_SECONDS * 1e9)
    tried = [t for t in tries[bisect_left(tries, (begin, 0)) :] if t[1] < min(end, limit)]
    if not tried:
        return 0.0
    next_ack = bisect_left(acks, begin)
    if next_ack < len(acks) and acks[next_ack] <= min(end, limit):
        findings.judged += 1
        return (acks[next_ack] - begin) / 1e9
    if end < limit:
        return 0.0
    findings.judged += 1
    when = f"{(acks[next_ack] - begin) / 1e9:.1f} s" if next_ack < len(acks) else "never"
    findings.violation(
        f"{workload}: all was healed at {begin / 1e9:.1f} s and nothing was acknowledged within "
        f"{RESUME_SECONDS:.0f} s (first after: {when})",
        at_ns=limit,
    )
    return RESUME_SECONDS
