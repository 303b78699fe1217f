"""Many runs, one after the other or side by side in processes of their own; what came of them, counted."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing.connection import wait as wait_for_any
from pathlib import Path

from chaos.conduct import conduct
from chaos.plan import Plan
from chaos.report import RunReport

RUNS_PER_PROCESS = 50  # then it is replaced, so that nothing piles up


def sweep(
    plans: Iterable[Plan], out: str | os.PathLike[str], *, jobs: int
) -> Iterator[tuple[Plan, RunReport]]:
    """Each plan with what came of it, as they end. Runs that did not hold leave a directory below `out`."""
    if jobs <= 1:
        for plan in plans:
            yield plan, conduct(plan, directory_of(out, plan), keep_held=False)
        return
    context = multiprocessing.get_context("spawn")
    waiting = iter(plans)
    running: dict[Future[RunReport], Plan] = {}
    with ProcessPoolExecutor(
        jobs, mp_context=context, initializer=end_with_parent, max_tasks_per_child=RUNS_PER_PROCESS
    ) as pool:
        while True:
            while len(running) < 2 * jobs and (following := next(waiting, None)) is not None:
                running[pool.submit(_one, following, str(directory_of(out, following)))] = following
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()


def directory_of(out: str | os.PathLike[str], plan: Plan) -> Path:
    return Path(out) / f"{plan.layer}-{plan.scenario}-{plan.seed}"


def end_with_parent() -> None:
    """This process ends as soon as the one that started it is no more: nobody would read what it plays on.

    A pool's processes wait for work on a pipe that they hold both ends of, and so would never be told.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def watch() -> None:
        wait_for_any([sentinel])
        os._exit(1)  # in the midst of a run: what it leaves is removed by the next (simulation.scratch)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def _one(plan: Plan, directory: str) -> RunReport:
    return conduct(plan, directory, keep_held=False)


@dataclass(slots=True)
class Tally:
    """What came of many runs."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    run_seconds: float = 0.0
    real_seconds: float = 0.0  # of all processes together
    not_held: list[str] = field(default_factory=list)

    def add(self, plan: Plan, result: RunReport) -> None:
        self.outcomes[result.outcome] += 1
        self.faults.update(result.faults_begun)
        for counts in result.operations.values():
            self.operations.update(counts)
        self.run_seconds += result.run_seconds
        self.real_seconds += result.real_seconds
        if result.outcome != "held":
            self.not_held.append(f"{plan.scenario} seed {plan.seed}: {result.outcome}: {reason(result)}")

    def summary(self) -> str:
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        speed = self.run_seconds / self.real_seconds if self.real_seconds else 0.0
        return (
            f"{sum(self.outcomes.values())} runs: {outcomes}; {sum(self.faults.values())} faults, "
            f"{self.operations['ok']} operations acknowledged, {self.operations['fail']} refused, "
            f"{self.operations['info']} unknown; {self.run_seconds:.0f} s of their time at {speed:.1f} times "
            "real time in each process"
        )


def reason(result: RunReport) -> str:
    """Why it did not hold, in one line."""
    if result.harness_error:
        return result.harness_error
    for verdict in result.verdicts:
        if verdict.finding == "violated":
            more = f" (and {len(verdict.violations) - 1} more)" if len(verdict.violations) > 1 else ""
            return (
                f"{verdict.checker}: {verdict.violations[0].says}{more}"
                if verdict.violations
                else (f"{verdict.checker}: {verdict.remark}")
            )
    return "; ".join(f"{v.checker} {v.finding}: {v.remark}" for v in result.verdicts if v.finding != "held")
