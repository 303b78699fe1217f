"""From a history to a judgement: asks every checker that was named. Pure but for looking checkers up.

Two findings are the runner's own, and read from the audits it writes under the workload "run":
  traffic   `calm_rate` {of, per_second, floor}: below its floor a run says nothing;
  liveness  `last_write` {of, seconds}: acknowledged so long after all was healed; `no_last_write`
            {of, seconds}: none within that time; `did_not_end` {of, seconds}: a client was still
            waiting so long after its workload had ended; `audit_failed` {of, code, message}: the
            cluster did not answer although all was healed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from chaos.registries import checkers
from gfs.errors import CorruptState
from gfs.verification.checkers.interface import Checker, Verdict, Violation
from gfs.verification.history import History

RUN = "run"  # the workload under which the runner writes audits

Outcome = Literal["held", "violated", "undecided", "harness"]
EXIT_STATUS: dict[Outcome, int] = {"held": 0, "violated": 1, "undecided": 2, "harness": 3}


class Judgement(msgspec.Struct, frozen=True):
    outcome: Outcome
    verdicts: tuple[Verdict, ...]


def judge(history: History, named: Iterable[str], also: Iterable[str] = ()) -> Judgement:
    """`named` must hold, each; `also` must not be violated, nor undecided, but may find nothing to judge.

    A run with too little traffic ended before anything was audited: no checker is asked.
    Raises: CorruptState, for a history read from a file that lacks what it must hold.
    """
    traffic = _traffic(history)
    if traffic.finding != "held":
        return Judgement("undecided", (traffic,))
    known = checkers()
    wanted = list(dict.fromkeys(named))
    others = [name for name in dict.fromkeys(also) if name not in wanted]
    verdicts = [traffic, _liveness(history)]
    for name in (*wanted, *others):
        checker = known.get(name)
        if checker is None:
            verdicts.append(Verdict(name, "undecided", remark="this program has no such checker"))
        else:
            verdicts.append(_asked(checker, history))
    return Judgement(outcome_of(verdicts, may_be_idle=others), tuple(verdicts))


def _asked(checker: Checker, history: History) -> Verdict:
    """A history that a checker cannot read is kept, and judged again when the checker has been mended."""
    try:
        return checker.check(history)
    except CorruptState:
        raise
    except Exception as error:
        return Verdict(checker.name, "undecided", remark=f"the checker broke: {error!r}")


def outcome_of(verdicts: Iterable[Verdict], may_be_idle: Iterable[str] = ()) -> Outcome:
    verdicts, idle = list(verdicts), set(may_be_idle)
    if any(verdict.finding == "violated" for verdict in verdicts):
        return "violated"
    if all(v.finding == "held" or (v.finding == "idle" and v.checker in idle) for v in verdicts):
        return "held"
    return "undecided"


def _traffic(history: History) -> Verdict:
    rates = [a.values for a in history.audits if a.workload == RUN and a.what == "calm_rate"]
    slow = [
        f"{v['of']} {v['per_second']:.2f}/s, wanted {v['floor']:.2f}/s"
        for v in rates
        if v["per_second"] < v["floor"]
    ]
    if slow or not rates:
        remark = "too little traffic before the first fault: " + ("; ".join(slow) or "none was measured")
        return Verdict("traffic", "idle", judged=len(rates), remark=remark)
    return Verdict("traffic", "held", judged=len(rates))


def _liveness(history: History) -> Verdict:
    audits = [a for a in history.audits if a.workload == RUN]
    violations = []
    for audit in audits:
        v = audit.values
        match audit.what:
            case "no_last_write":
                says = f"{v['of']}: nothing acknowledged within {v['seconds']:.0f} s after all was healed"
            case "did_not_end":
                says = f"{v['of']}: a client still waited {v['seconds']:.0f} s after it should have ended"
            case "audit_failed":
                says = f"{v['of']}: after all was healed the audit failed: {v['code']}: {v['message']}"
            case _:
                continue
        violations.append(Violation(says, audit.at_ns))
    written = sum(audit.what == "last_write" for audit in audits)
    if violations:
        return Verdict("liveness", "violated", judged=written, violations=tuple(violations))
    if not written:
        return Verdict("liveness", "idle", remark="the run ended before all was healed")
    return Verdict("liveness", "held", judged=written)
