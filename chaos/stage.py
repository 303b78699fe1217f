"""Plays the faults of a plan, each at its time, and ends them all. Knows no workload and judges nothing."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from chaos.faults.interface import NANOSECONDS, Ending, NotNow, Scene, refuse_beyond_promise
from chaos.faults.registry import FAULTS
from chaos.faults.targets import resolve
from chaos.plan import Json, Plan, Step
from chaos.testbed import CannotHere
from gfs.verification import history

_BEGIN, _END = 1, 0  # at one moment what ends goes before what begins


@dataclass(slots=True)
class _Held:
    step: Step
    nodes: list[str]
    arguments: dict[str, Json]
    began_ns: int
    ending: Ending


@dataclass(slots=True)
class Stage:
    """`begun` and `not_begun` count faults by name; `says` is told each in a line."""

    scene: Scene
    plan: Plan
    says: Callable[[str], None]
    begun: Counter[str] = field(default_factory=Counter)
    not_begun: Counter[str] = field(default_factory=Counter)
    _held: dict[int, _Held] = field(default_factory=dict)
    _started_ns: int = 0

    async def play(self) -> None:
        """Returns when the time of the faults is over and all have ended.

        Faults begin and end one after the other: what takes long delays the next, so that what a plan says
        is the same order on every layer.
        Raises: what a testbed raises that could not do what it says it can: a fault of the harness.
        """
        self._started_ns = self.scene.testbed.now_ns()
        moments = [(step.at_seconds, _BEGIN, number) for number, step in enumerate(self.plan.steps)]
        heapq.heapify(moments)
        while moments:
            at_seconds, kind, number = heapq.heappop(moments)
            await self._wait_until(at_seconds)
            if kind == _END:
                await self._end(number)
            elif self._now() > max(at_seconds, self.plan.fault_seconds):
                # What came before took that long to bring about; a run must not last as long as it pleases.
                self._leave_out(
                    self.plan.steps[number], "the time of the faults was over before its turn came"
                )
            elif await self._begin(number, self.plan.steps[number]):
                # From when it holds: to bring it about may take long on real machines.
                end = min(self._now() + self.plan.steps[number].seconds, self.plan.fault_seconds)
                heapq.heappush(moments, (end, _END, number))
        await self._wait_until(self.plan.fault_seconds)

    async def _wait_until(self, at_seconds: float) -> None:
        left = at_seconds - self._now()
        if left > 0:
            await self.scene.testbed.sleep(left)

    def _now(self) -> float:
        return (self.scene.testbed.now_ns() - self._started_ns) / NANOSECONDS

    async def _begin(self, number: int, step: Step) -> bool:
        """Whether it holds now, and has to be ended."""
        scene, fault = self.scene, FAULTS[step.fault]
        try:
            nodes = await resolve(scene, step.target or fault.default_target)
            if fault.damages and scene.damaged and step.target not in scene.testbed.chunkservers:
                nodes = sorted(scene.damaged)  # by role: the one whose bytes are spoilt already
            refuse_beyond_promise(scene, fault, step, nodes)
            arguments = dict(step.arguments)
            began_ns = scene.testbed.now_ns()
            programs = [node for node in nodes if node not in scene.testbed.clients]
            if not fault.damages:
                scene.leave(fault, programs)
            try:
                ending = await fault.begin(scene, nodes, arguments)
            except (NotNow, CannotHere):
                if not fault.damages:
                    scene.come_back(fault, programs)
                raise
        except (NotNow, CannotHere) as reason:
            self._leave_out(step, str(reason))
            return False
        scene.last_met = nodes
        self.begun[step.fault] += 1
        held = _Held(step, nodes, arguments, began_ns, ending or _nothing)
        if ending is None:
            if not fault.damages:
                scene.come_back(fault, programs)
            self._record(held)
            self._say(f"{step.fault} {_met(nodes)}")
            return False
        self._held[number] = held
        self._say(f"{step.fault} {_met(nodes)} for {step.seconds:.1f} s")
        return True

    def _leave_out(self, step: Step, reason: str) -> None:
        self.not_begun[step.fault] += 1
        self._say(f"{step.fault} {step.target} not begun: {reason}")

    async def _end(self, number: int) -> None:
        held = self._held.pop(number)
        await held.ending()
        programs = [node for node in held.nodes if node not in self.scene.testbed.clients]
        self.scene.come_back(FAULTS[held.step.fault], programs)
        self._record(held)
        self._say(f"{held.step.fault} {_met(held.nodes)} has ended")

    def _record(self, held: _Held) -> None:
        now = self.scene.testbed.now_ns()
        arguments = {"target": held.step.target, **held.arguments}
        self.scene.history.add(history.Fault(held.step.fault, held.began_ns, now, held.nodes, arguments))

    def _say(self, text: str) -> None:
        self.says(f"{self._now():7.1f} s  {text}")


async def _nothing() -> None:
    """The ending of a single blow."""


def _met(nodes: list[str]) -> str:
    return " ".join(nodes)
