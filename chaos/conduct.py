"""One plan from start to verdict: finds the layer and the workloads, performs, judges, writes the report."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import structlog

from chaos import layers, report
from chaos.judge import Judgement, judge
from chaos.overdue import Overdue, limited
from chaos.plan import Plan
from chaos.registries import workloads as known_workloads
from chaos.report import RunReport
from chaos.runner import HarnessFault, Performance, Progress, perform
from chaos.testbed import Testbed
from gfs.verification.history import Header, History
from gfs.verification.workloads.interface import Workload
from gfs.verification.workloads.mix import MixWorkload
from gfs.verification.workloads.traffic import Traffic

# A run on real processes takes its own time and some more; a simulated one far less.
REAL_SECONDS_MAX, REAL_SECONDS_PER_SECOND = 600.0, 3.0


class Silent:
    """Progress that nobody watches."""

    def says(self, text: str) -> None: ...

    def shows(self, text: str) -> None: ...


def conduct(
    plan: Plan,
    directory: str | os.PathLike[str] | None,
    progress: Progress | None = None,
    *,
    keep_held: bool = True,
) -> RunReport:
    """Perform and judge; the report is in `directory` afterwards (None: nowhere).

    A run that held leaves no directory if not `keep_held`. Nothing is raised for a run that broke: its
    outcome is "harness", and `harness_error` says what happened.
    """
    began = time.monotonic()
    scratch = tempfile.mkdtemp(prefix="gfs-chaos-")
    remarks: list[str] = []
    try:
        performance = _performed(plan, scratch, progress or Silent(), remarks)
        judgement = judged(plan, performance.history)
        result = report.report_of(
            plan, judgement, performance, remarks=remarks, real_seconds=time.monotonic() - began
        )
        history = performance.history
    except HarnessFault as fault:
        history = History([Header(layer=plan.layer, scenario=plan.scenario, seed=plan.seed)])
        result = RunReport(
            outcome="harness",
            scenario=plan.scenario,
            seed=plan.seed,
            layer=plan.layer,
            remarks=tuple(remarks),
            harness_error=str(fault),
            real_seconds=round(time.monotonic() - began, 2),
        )
    if directory is not None and (keep_held or result.outcome != "held"):
        report.write(directory, plan, history, result)
        if result.outcome != "held":
            _keep_files(scratch, Path(directory) / "cluster")
    shutil.rmtree(scratch, ignore_errors=True)
    return result


def judged(plan: Plan, history: History) -> Judgement:
    """By today's checkers."""
    known = known_workloads()
    also = [
        checker for name in plan.configuration.workloads if name in known for checker in known[name].checkers
    ]
    return judge(history, plan.checkers, also)


def make_workloads(plan: Plan) -> list[Workload]:
    """Raises: HarnessFault, for a name that no workload has."""
    known, made = known_workloads(), list[Workload]()
    for number, name in enumerate(plan.configuration.workloads, 1):
        if name not in known:
            raise HarnessFault(f"no workload is called {name!r}; there are {', '.join(sorted(known))}")
        workload = known[name](f"/{name}-{number}", plan.chance(f"workload {number}"))
        for part in workload.parts if isinstance(workload, MixWorkload) else [workload]:
            if isinstance(part, Traffic):
                part.pause_seconds *= plan.configuration.pace
        made.append(workload)
    return made


def _performed(plan: Plan, scratch: str, progress: Progress, remarks: list[str]) -> Performance:
    async def body(testbed: Testbed) -> Performance:
        remarks.extend(_remarks(testbed))
        return await perform(plan, testbed, make_workloads(plan), progress)

    try:
        limit = limited(REAL_SECONDS_MAX + REAL_SECONDS_PER_SECOND * _seconds(plan))
        with limit, _quiet() if plan.layer == "sim" else nullcontext():
            return layers.entry(plan.layer).run(plan, scratch, body)
    except HarnessFault:
        raise
    except Overdue as overdue:
        raise HarnessFault(f"layer {plan.layer}: {overdue}") from overdue
    except Exception as error:  # whatever a layer could not do, the next run may be able to
        raise HarnessFault(f"layer {plan.layer}: {type(error).__name__}: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Simulated programs log into this process: nobody reads it, and it takes a good part of the time."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def _seconds(plan: Plan) -> float:
    return plan.calm_seconds + plan.fault_seconds + plan.settle_seconds


def _remarks(testbed: Testbed) -> Sequence[str]:
    """What a reader of the report must know of this layer as it is here, if the testbed says so."""
    return tuple(getattr(testbed, "remarks", ()))


def _keep_files(scratch: str, kept: Path) -> None:
    """The programs' directories, for whoever looks into a run that did not hold."""
    if os.listdir(scratch):
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(scratch, kept, symlinks=True, ignore_dangling_symlinks=True)
