"""One verification of a running cluster: traffic, the operator's faults, a look at what is left, a judgement.

Everything happens below one directory, which is made here and taken away again with all that the trash has of
it, whatever happens: also after Ctrl-C, and after a run that went wrong.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Literal

import msgspec

from gfs.client.client import AsyncClient
from gfs.errors import GfsError, NotFound, Unavailable
from gfs.verification.checkers.interface import Verdict
from gfs.verification.checkers.registry import CHECKERS
from gfs.verification.history import Header, History, Phase
from gfs.verification.operator_faults import FaultFailed, OperatorFault, hold
from gfs.verification.recorder import Recorder
from gfs.verification.subject import Subject
from gfs.verification.workloads.interface import Workload

Outcome = Literal["held", "violated", "undecided"]
CALM_SHARE = 0.25  # of the time, before the first fault
FAULTS_SHARE = 0.6  # of the time, for all faults, each with a rest as long behind it
CLEANING_SECONDS_MAX = 60.0
CLEANING_PAUSE_SECONDS = 1.0
LOOK_SECONDS = 0.25
ALWAYS_ASKED = ("availability", "fsck", "replay")


class WorkloadDone(msgspec.Struct, frozen=True, kw_only=True):
    """`per_second`: acknowledged, before the first fault; below `floor` the run says nothing."""

    name: str
    acknowledged: int
    refused: int
    unknown: int
    per_second: float
    floor: float


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """`remarks` say why it is undecided where no verdict does."""

    outcome: Outcome
    directory: str
    seed: int
    workloads: list[WorkloadDone]
    verdicts: list[Verdict]
    faults: list[str] = []
    remarks: list[str] = []


@asynccontextmanager
async def own_directory(
    client: AsyncClient, directory: str, say: Callable[[str], None]
) -> AsyncIterator[None]:
    """Raises: AlreadyExists: what was there before is nobody's to take away; PermissionDenied …"""
    try:
        await client.mkdir(directory)
    except GfsError as error:
        if not error.definite:  # it may be there now, and nobody else has such a name
            await _take_away(client, directory)
        raise
    try:
        yield
    finally:
        say(f"taking {directory} away")
        await _take_away(client, directory)


async def _take_away(client: AsyncClient, directory: str) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + CLEANING_SECONDS_MAX
    while True:
        try:
            try:
                await client.delete(directory, recursive=True, skip_trash=True)
            except NotFound:
                pass  # an earlier try, whose answer was lost
            await client.purge(directory, everything=True)
            return
        except GfsError as error:
            if loop.time() > until:
                raise Unavailable(
                    f"{directory} could not be taken away: {error.message}",
                    hint=f"Later: gfs rm -r --skip-trash {directory}; gfs trash purge {directory}",
                ) from error
        await asyncio.sleep(CLEANING_PAUSE_SECONDS)


class Verifier:
    """`history` grows while it runs; `verify()` is called once."""

    def __init__(
        self,
        subject: Subject,
        workloads: Sequence[Workload],
        *,
        directory: str,
        seed: int,
        seconds: float,
        faults: Sequence[OperatorFault] = (),
        say: Callable[[str], None],
    ) -> None:
        self.history = History([Header(layer="running", scenario="verify-cluster", seed=seed)])
        self.seconds = seconds
        self._subject, self._workloads, self._faults, self._say = subject, workloads, faults, say
        self._directory, self._seed = directory, seed
        self._recorder = Recorder(self.history, subject.now_ns)
        self._remarks: list[str] = []
        self._calm_ns = (0, 0)

    async def verify(self) -> Verification:
        """Raises: GfsError, when the cluster cannot be set up or looked at."""
        subject, recorder = self._subject, self._recorder
        for workload in self._workloads:
            await workload.set_up(subject, recorder)
        self._say(f"traffic for {self.seconds:.0f} s")
        await self._traffic()
        self._enter("audit")
        self._say("looking at what is left: every replica, every master")
        for workload in self._workloads:
            await workload.audit(subject, recorder)
        return self._judged()

    def counted(self) -> Counter[str]:
        """Operations so far, by outcome."""
        return Counter(operation.outcome for operation in self.history.operations)

    async def _traffic(self) -> None:
        is_over = False
        running = [
            asyncio.create_task(w.run(self._subject, self._recorder, lambda: is_over))
            for w in self._workloads
        ]
        calm_seconds = self.seconds * CALM_SHARE if self._faults else self.seconds
        try:
            began_ns = self._enter("calm")
            await self._wait(calm_seconds, running)
            self._calm_ns = (began_ns, self._subject.now_ns())
            if self._faults:
                await self._hurt(running)
                self._enter("settling")
                await self._wait(self.seconds * (1 - CALM_SHARE - FAULTS_SHARE), running)
            is_over = True
            await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _hurt(self, running: Sequence[asyncio.Task[None]]) -> None:
        self._enter("faults")
        each_seconds = self.seconds * FAULTS_SHARE / len(self._faults) / 2
        for fault in self._faults:
            self._say(f"fault {fault.name}: {fault.begin}")
            try:
                await hold(fault, self._recorder, each_seconds)
            except FaultFailed as failed:
                self._remarks.append(str(failed))
                self._say(str(failed))
            await self._wait(each_seconds, running)

    async def _wait(self, seconds: float, running: Sequence[asyncio.Task[None]]) -> None:
        """A workload that ends early has failed: nobody waits for the others then."""
        until_ns = self._subject.now_ns() + int(seconds * 1e9)
        while self._subject.now_ns() < until_ns and not any(task.done() for task in running):
            await self._subject.sleep(LOOK_SECONDS)

    def _enter(self, phase: str) -> int:
        now_ns = self._subject.now_ns()
        self.history.add(Phase(now_ns, phase))
        return now_ns

    # --- judgement --------------------------------------------------------------------------------

    def _judged(self) -> Verification:
        done = [self._done_by(workload) for workload in self._workloads]
        for one in done:
            if one.per_second < one.floor:
                self._remarks.append(
                    f"{one.name}: {one.per_second:.1f} acknowledged a second are too few to say anything; "
                    f"{one.floor:.1f} are wanted"
                )
        names = [*(name for workload in self._workloads for name in workload.checkers), *ALWAYS_ASKED]
        verdicts = [CHECKERS[name].check(self.history) for name in dict.fromkeys(names)]
        findings = {verdict.finding for verdict in verdicts}
        outcome: Outcome = "held"
        if "violated" in findings:
            outcome = "violated"
        elif "undecided" in findings or self._remarks or "held" not in findings:
            outcome = "undecided"
        return Verification(
            outcome=outcome,
            directory=self._directory,
            seed=self._seed,
            workloads=done,
            verdicts=verdicts,
            faults=[fault.name for fault in self.history.faults],
            remarks=self._remarks,
        )

    def _done_by(self, workload: Workload) -> WorkloadDone:
        mine = [operation for operation in self.history.operations if operation.workload == workload.name]
        counted = Counter(operation.outcome for operation in mine)
        began_ns, ended_ns = self._calm_ns
        calm = sum(o.outcome == "ok" and began_ns <= o.returned_ns <= ended_ns for o in mine)
        return WorkloadDone(
            name=workload.name,
            acknowledged=counted["ok"],
            refused=counted["fail"],
            unknown=counted["info"],
            per_second=round(calm / max((ended_ns - began_ns) / 1e9, 1e-9), 2),
            floor=workload.floor_per_second,
        )
