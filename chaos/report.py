"""What a run leaves in its directory: verdict.json, report.md, history.jsonl, plan.json, timeline.svg."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from chaos import plan as plans
from chaos.judge import RUN, Judgement, Outcome
from chaos.plan import Plan
from chaos.runner import Performance
from chaos.timeline import timeline
from gfs.errors import CorruptState
from gfs.verification.checkers.interface import Verdict
from gfs.verification.history import History

HISTORY, PLAN, VERDICT, REPORT, TIMELINE = (
    "history.jsonl",
    "plan.json",
    "verdict.json",
    "report.md",
    "timeline.svg",
)
VIOLATIONS_SHOWN = 20  # of one checker in report.md; verdict.json has all
FORMAT_VERSION = 1


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """verdict.json. `outcome`: held, violated, undecided (or too little traffic), harness (the run broke)."""

    version: int = FORMAT_VERSION
    outcome: Outcome
    scenario: str
    seed: int
    layer: str
    verdicts: tuple[Verdict, ...] = ()
    faults_begun: dict[str, int] = {}
    faults_not_begun: dict[str, int] = {}
    operations: dict[str, dict[str, int]] = {}  # workload -> outcome -> how many
    last_writes: dict[str, float] = {}  # workload -> seconds after all was healed
    remarks: tuple[str, ...] = ()  # what of this layer here is not as it should be: a stand-in …
    harness_error: str = ""
    real_seconds: float = 0.0
    run_seconds: float = 0.0  # in the run's own time


def report_of(
    plan: Plan,
    judgement: Judgement,
    performance: Performance,
    *,
    remarks: Sequence[str] = (),
    real_seconds: float = 0.0,
) -> RunReport:
    history = performance.history
    operations: dict[str, Counter[str]] = {}
    for operation in history.operations:
        operations.setdefault(operation.workload, Counter())[operation.outcome] += 1
    return RunReport(
        outcome=judgement.outcome,
        scenario=plan.scenario,
        seed=plan.seed,
        layer=plan.layer,
        verdicts=judgement.verdicts,
        faults_begun=dict(performance.begun),
        faults_not_begun=dict(performance.not_begun),
        operations={name: dict(counts) for name, counts in sorted(operations.items())},
        last_writes={
            audit.values["of"]: round(audit.values["seconds"], 3)
            for audit in history.audits
            if audit.workload == RUN and audit.what == "last_write"
        },
        remarks=tuple(remarks),
        real_seconds=round(real_seconds, 2),
        run_seconds=round(max((p.at_ns for p in history.phases), default=0) / 1e9, 2),
    )


def write(directory: str | os.PathLike[str], plan: Plan, history: History, report: RunReport) -> None:
    """Everything a person or a later program needs of this run. The directory comes into being."""
    here = Path(directory)
    here.mkdir(parents=True, exist_ok=True)
    plans.save(plan, here / PLAN)
    history.save(here / HISTORY)
    (here / VERDICT).write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    violations = [violation for verdict in report.verdicts for violation in verdict.violations]
    (here / TIMELINE).write_text(timeline(history, violations), encoding="utf-8")
    (here / REPORT).write_text("\n".join(_markdown(plan, report, str(here))) + "\n", encoding="utf-8")


def load_verdict(directory: str | os.PathLike[str]) -> RunReport:
    """Raises: CorruptState, when what is there is no verdict; OSError."""
    path = Path(directory) / VERDICT
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunReport)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptState(f"{path} is no verdict of a run: {error}") from error


def replay_command(directory: str) -> str:
    return f"python -m chaos replay {directory}"


OUTCOME_WORDS: dict[Outcome, str] = {
    "held": "All that was promised held.",
    "violated": "A promise was broken.",
    "undecided": "Undecided: it proves neither that the promises held nor that one was broken.",
    "harness": "The run itself went wrong; it says nothing of the cluster.",
}


def _markdown(plan: Plan, report: RunReport, directory: str) -> list[str]:
    lines = [
        f"# {plan.scenario}, seed {plan.seed}, layer {plan.layer}",
        "",
        f"**{OUTCOME_WORDS[report.outcome]}**",
        "",
        f"{report.run_seconds:.0f} s of the run's time in {report.real_seconds:.0f} s.",
        "",
    ]
    if report.harness_error:
        lines += [f"What went wrong: {report.harness_error}", ""]
    lines += [f"- {remark}" for remark in report.remarks] + ([""] if report.remarks else [])
    lines += ["![what happened when](timeline.svg)", "", "## Findings", ""]
    lines += ["| checker | finding | facts looked at | remark |", "|---|---|---|---|"]
    lines += [f"| {v.checker} | {v.finding} | {v.judged} | {v.remark} |" for v in report.verdicts]
    for verdict in report.verdicts:
        if verdict.violations:
            lines += ["", f"### {verdict.checker}", ""]
            for violation in verdict.violations[:VIOLATIONS_SHOWN]:
                at = f"{violation.at_ns / 1e9:.3f} s: " if violation.at_ns else ""
                proof = f" (operations {', '.join(map(str, violation.operations[:10]))})" * bool(
                    violation.operations
                )
                lines.append(f"- {at}{violation.says}{proof}")
            left = len(verdict.violations) - VIOLATIONS_SHOWN
            lines += [f"- … and {left} more in {VERDICT}"] if left > 0 else []
    lines += [
        "",
        "## Traffic",
        "",
        "| workload | acknowledged | refused | unknown | last write after healing |",
    ]
    lines += ["|---|---|---|---|---|"]
    for name, counts in report.operations.items():
        last = f"{report.last_writes[name]:.2f} s" if name in report.last_writes else "none"
        row = (str(counts.get(outcome, 0)) for outcome in ("ok", "fail", "info"))
        lines.append(f"| {name} | {' | '.join(row)} | {last} |")
    lines += ["", "## Faults", "", "| fault | begun | not begun |", "|---|---|---|"]
    for name in sorted({*report.faults_begun, *report.faults_not_begun}):
        lines.append(
            f"| {name} | {report.faults_begun.get(name, 0)} | {report.faults_not_begun.get(name, 0)} |"
        )
    lines += ["", "## The plan", "", "```", *plans.describe(plan), "```", ""]
    return [*lines, f"Replay: `{replay_command(directory)}`"]
