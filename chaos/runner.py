"""One run over any testbed: calm traffic, faults by plan, all healed, last writes, audits. Judges nothing.

Time is the testbed's only (virtual or real). First the safety phase, in which nothing may be lost whatever
happens; then the liveness phase: all is healed, and everything must answer within bounds.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from chaos.faults.interface import NANOSECONDS, Scene
from chaos.judge import RUN
from chaos.plan import Plan
from chaos.stage import Stage
from chaos.testbed import Testbed
from gfs.errors import GfsError
from gfs.verification.history import Header, History, Phase
from gfs.verification.recorder import Recorder
from gfs.verification.workloads.interface import Workload

POLL_SECONDS = 0.25
SELDOM_PACE = 12.0  # see Configuration.pace
QUIET_SECONDS = 3.0  # of traffic after the last writes, before the audit
ENDING_SECONDS_MAX = 90.0  # from the end of a workload until its last client has its answer
AUDIT_SECONDS_MAX = 300.0
STATUS_SECONDS = 1.0  # between two updates of the line of figures


class HarnessFault(Exception):
    """The run itself went wrong: it says nothing of the cluster. The text says what."""


class Progress(Protocol):
    def says(self, text: str) -> None:
        """A line that stays."""
        ...

    def shows(self, text: str) -> None:
        """How far it is: a line that the next one replaces."""
        ...


@dataclass(slots=True)
class Performance:
    """What was done, beside the history."""

    history: History
    begun: Counter[str] = field(default_factory=Counter)
    not_begun: Counter[str] = field(default_factory=Counter)
    enough_traffic: bool = True


async def perform(
    plan: Plan, testbed: Testbed, workloads: Sequence[Workload], progress: Progress
) -> Performance:
    """Play the plan to its end. The testbed is started and stopped here.

    Raises: HarnessFault, when a workload, the testbed or the start of the cluster fails.
    """
    history = History()
    history.add(Header(layer=plan.layer, scenario=plan.scenario, seed=plan.seed))
    performance = Performance(history)
    recorder = Recorder(history, testbed.now_ns)
    run = _Run(plan, testbed, workloads, progress, recorder, performance)
    try:
        await testbed.start(recorder)
        await run.to_its_end()
    except HarnessFault:
        raise
    except Exception as error:
        raise HarnessFault(f"{type(error).__name__}: {error}") from error
    finally:
        await run.cancel()
        await testbed.stop()
    return performance


@dataclass(slots=True)
class _Run:
    plan: Plan
    testbed: Testbed
    workloads: Sequence[Workload]
    progress: Progress
    recorder: Recorder
    performance: Performance
    _ended: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _counted: int = 0
    _acknowledged: Counter[str] = field(default_factory=Counter)
    _outcomes: Counter[str] = field(default_factory=Counter)

    async def to_its_end(self) -> None:
        testbed, history = self.testbed, self.performance.history
        for workload in self.workloads:
            await workload.set_up(testbed, self.recorder)
        self._enter("calm")
        self._tasks = [
            asyncio.create_task(w.run(testbed, self.recorder, lambda: self._ended)) for w in self.workloads
        ]
        await self._figures_while(testbed.sleep(self.plan.calm_seconds))
        if not self._floors_met():
            self.performance.enough_traffic = False
            self._ended = True
            return
        self._enter("faults")
        scene = Scene(testbed, self.plan.configuration, self.plan.chance("targets"), history)
        stage = Stage(scene, self.plan, self.progress.says)
        self.performance.begun, self.performance.not_begun = stage.begun, stage.not_begun
        await self._figures_while(stage.play())
        await self._figures_while(self._settle())
        self._ended = True
        await self._wait_for_clients()
        self._enter("audit")
        for workload in self.workloads:
            await self._audit(workload)
        self.progress.shows("a look within")
        await testbed.look_within(self.recorder)

    # --- liveness ------------------------------------------------------------------------------

    async def _settle(self) -> None:
        testbed = self.testbed
        await testbed.heal_all()
        for node in (*testbed.masters, *testbed.chunkservers):
            await testbed.restart(node)
        healed_ns = testbed.now_ns()
        self._enter("settling")
        waiting = {workload.name for workload in self.workloads}
        looked_at = len(self.recorder.history.operations)
        # Clients that call seldom may meet nothing but refusals (of names that are not there) for a while.
        patience = self.plan.settle_seconds * max(1.0, self.plan.configuration.pace / SELDOM_PACE)
        while waiting and testbed.now_ns() - healed_ns < patience * NANOSECONDS:
            await testbed.sleep(POLL_SECONDS)
            operations = self.recorder.history.operations
            for operation in operations[looked_at:]:
                if (
                    operation.workload in waiting
                    and operation.outcome == "ok"
                    and operation.called_ns >= healed_ns
                    and _changes_something(operation.function)
                ):
                    waiting.discard(operation.workload)
                    seconds = (operation.returned_ns - healed_ns) / NANOSECONDS
                    self.recorder.audit(RUN, "last_write", of=operation.workload, seconds=seconds)
            looked_at = len(operations)
        for name in sorted(waiting):
            self.recorder.audit(RUN, "no_last_write", of=name, seconds=patience)
        await testbed.sleep(QUIET_SECONDS)

    async def _wait_for_clients(self) -> None:
        began_ns = self.testbed.now_ns()
        while not all(task.done() for task in self._tasks):
            waited = (self.testbed.now_ns() - began_ns) / NANOSECONDS
            if waited >= ENDING_SECONDS_MAX:
                break
            await self.testbed.sleep(POLL_SECONDS)
        for workload, task in zip(self.workloads, self._tasks, strict=True):
            if task.done():
                _raise_what_ended(workload, task)
            else:
                self.recorder.audit(RUN, "did_not_end", of=workload.name, seconds=ENDING_SECONDS_MAX)
        await self.cancel()

    async def _audit(self, workload: Workload) -> None:
        self.progress.shows(f"audit of {workload.name}")
        task = asyncio.create_task(workload.audit(self.testbed, self.recorder))
        self._tasks = [task]
        began_ns = self.testbed.now_ns()
        while not task.done():
            if (self.testbed.now_ns() - began_ns) / NANOSECONDS > AUDIT_SECONDS_MAX:
                await self.cancel()
                self.recorder.audit(
                    RUN,
                    "audit_failed",
                    of=workload.name,
                    code="hung",
                    message=f"no answer within {AUDIT_SECONDS_MAX:.0f} s",
                )
                return
            await self.testbed.sleep(POLL_SECONDS)
        error = task.exception()
        if isinstance(error, GfsError):
            self.recorder.audit(RUN, "audit_failed", of=workload.name, code=error.code, message=error.message)
        else:
            _raise_what_ended(workload, task)

    # --- traffic -------------------------------------------------------------------------------

    def _floors_met(self) -> bool:
        calm_seconds = max(self.plan.calm_seconds, 1e-9)
        self._count()
        met = True
        for name in sorted({workload.name for workload in self.workloads}):
            same = [workload for workload in self.workloads if workload.name == name]
            rate = self._acknowledged[name] / calm_seconds
            floor = len(same) * same[0].floor_per_second / self.plan.configuration.pace
            self.recorder.audit(RUN, "calm_rate", of=name, per_second=rate, floor=floor)
            self.progress.says(f"{name}: {rate:.1f} acknowledged a second without faults (floor {floor:.1f})")
            met = met and rate >= floor
        return met

    def _count(self) -> None:
        operations = self.recorder.history.operations
        for operation in operations[self._counted :]:
            self._outcomes[operation.outcome] += 1
            if operation.outcome == "ok":
                self._acknowledged[operation.workload] += 1
        self._counted = len(operations)

    async def _figures_while(self, work: Coroutine[object, object, None]) -> None:
        """Do the work; a workload that breaks meanwhile ends the run."""
        task = asyncio.create_task(work)
        shown_ns = self.testbed.now_ns()
        try:
            while not task.done():
                await self.testbed.sleep(POLL_SECONDS)
                for workload, running in zip(self.workloads, self._tasks, strict=True):
                    if running.done():
                        _raise_what_ended(workload, running)
                        raise HarnessFault(f"workload {workload.name} ended before it was told to")
                if (self.testbed.now_ns() - shown_ns) / NANOSECONDS >= STATUS_SECONDS:
                    shown_ns = self.testbed.now_ns()
                    self._show()
        finally:
            task.cancel()  # no effect once it is done
            await asyncio.gather(task, return_exceptions=True)
        task.result()

    def _show(self) -> None:
        self._count()
        counts, phase = self._outcomes, self.performance.history.phases[-1].name
        self.progress.shows(
            f"{phase}: {counts['ok']} acknowledged, {counts['fail']} refused, {counts['info']} unknown"
        )

    def _enter(self, phase: str) -> None:
        self.performance.history.add(Phase(self.testbed.now_ns(), phase))
        self.progress.says(f"--- {phase}")

    async def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


_READING = ("read", "stat", "list", "get", "glob", "exists", "check", "follow", "open")


def _changes_something(function: str) -> bool:
    return not function.startswith(_READING)


def _raise_what_ended(workload: Workload, task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        raise HarnessFault(f"workload {workload.name} broke: {type(error).__name__}: {error}") from error
