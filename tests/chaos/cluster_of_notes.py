"""A cluster that is a dictionary, on real asyncio with time that jumps: the ground of runner's tests.

`ListTestbed` writes down every power that is used. Calls of clients fail while too many masters are
out; with `forgets` it loses what was acknowledged, so that a checker has something to find.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from chaos.plan import Plan
from chaos.testbed import Layer, Power
from gfs.errors import NoQuorum
from gfs.verification.checkers.interface import Verdict, Violation
from gfs.verification.history import History
from gfs.verification.recorder import Recorder
from gfs.verification.subject import Subject

T = TypeVar("T")
ALL_POWERS: frozenset[Power] = frozenset(
    {
        "cut",
        "drop",
        "hold",
        "slow",
        "throttle",
        "slice",
        "reset",
        "limit",
        "slow_close",
        "packets",
        "kill",
        "power_cut",
        "pause",
        "failpoint",
        "clock_drift",
        "clock_jump",
        "disk_full",
        "disk_errors",
        "bit_rot",
        "slow_disk",
        "membership",
    }
)


class ListTestbed:
    """Every power is only written down in `done`; time passes when somebody sleeps."""

    layer: Layer = "sim"
    powers = ALL_POWERS
    remarks: tuple[str, ...] = ()

    def __init__(self, masters: int = 3, chunkservers: int = 4) -> None:
        self.masters = tuple(f"m{n}" for n in range(1, masters + 1))
        self.chunkservers = tuple(f"c{n}" for n in range(1, chunkservers + 1))
        self.clients: list[str] = ["writer"]
        self.done: list[tuple[Any, ...]] = []
        self.out: set[str] = set()
        self.values: dict[str, int] = {}
        self.forgets = False
        self.stuck = False  # never heals
        self.leads = "m1"
        self._now_ns = 0

    def __getattr__(self, power: str) -> Callable[..., Awaitable[Any]]:
        if power.startswith("_"):
            raise AttributeError(power)

        async def use(*names: Any, **values: Any) -> Any:
            self.done.append((power, *names, *values.values()))
            self._take_effect(power, names)
            return {"bit_rot": values.get("bits"), "add_master": "m9"}.get(power)

        return use

    def _take_effect(self, power: str, names: tuple[Any, ...]) -> None:
        if power in ("kill", "pause", "arm"):
            self.out.add(names[0])
        elif power == "power_cut":
            self.out.update(names[0])
            if self.forgets:
                self.values.clear()
        elif power in ("restart", "resume") and not self.stuck:
            self.out.discard(names[0])

    def now_ns(self) -> int:
        return self._now_ns

    async def sleep(self, seconds: float) -> None:
        # Whoever sleeps moves the clock, in steps, so that sleepers side by side share the time that passes.
        end = self._now_ns + int(seconds * 1e9)
        while self._now_ns < end:
            await asyncio.sleep(0)
            if self._now_ns < end:
                self._now_ns = min(end, self._now_ns + 20_000_000)

    async def start(self, recorder: Recorder) -> None:
        self.done.append(("start",))
        recorder.saw("m1", "role", role="leader")

    async def look_within(self, recorder: Recorder) -> None: ...

    async def stop(self) -> None:
        self.done.append(("stop",))

    async def leader(self) -> str:
        return self.leads

    async def primary(self, path: str) -> str:
        return "c2"

    async def replicas(self, path: str) -> Sequence[str]:
        return ["c1", "c2", "c3"]

    def put(self, key: str, value: int) -> None:
        if len(self.out & set(self.masters)) > (len(self.masters) - 1) // 2:
            raise NoQuorum("too few masters")
        self.values[key] = value

    def powers_used(self) -> Iterator[str]:
        return (str(entry[0]) for entry in self.done)


class NoteWorkload:
    """Writes numbered notes, and at the end looks which are there."""

    name = "notes"
    checkers = ("notes-kept",)
    floor_per_second = 1.0
    breaks = False

    def __init__(self, directory: str, chance: Any) -> None:
        self.directory, self.chance = directory, chance

    async def set_up(self, subject: Subject, recorder: Recorder) -> None: ...

    async def run(self, subject: Any, recorder: Recorder, ended: Callable[[], bool]) -> None:
        process, number = recorder.process(self.name), 0
        while not ended():
            number += 1
            if self.breaks and number > 20:
                raise ZeroDivisionError("planted")
            key = f"{self.directory}/{number}"

            async def call(key: str = key, number: int = number) -> None:
                subject.put(key, number)

            try:
                await process.run("write", {"path": key}, call())
            except NoQuorum:
                pass
            await subject.sleep(0.1)

    async def audit(self, subject: Any, recorder: Recorder) -> None:
        recorder.audit(self.name, "there", keys=sorted(subject.values))


class NotesKept:
    name = "notes-kept"
    promises = "Every note acknowledged is there at the end."

    def check(self, history: History) -> Verdict:
        there = {key for audit in history.audits if audit.what == "there" for key in audit.values["keys"]}
        acknowledged = [o for o in history.operations if o.outcome == "ok"]
        lost = [o for o in acknowledged if o.arguments["path"] not in there]
        if not history.audits:
            return Verdict(self.name, "idle", remark="nothing was audited")
        found = tuple(Violation(f"{o.arguments['path']} is lost", o.returned_ns, (o.number,)) for o in lost)
        return Verdict(self.name, "violated" if found else "held", len(acknowledged), found)


@dataclass
class ListLayer:
    """What `chaos.layers.entry` gives, for a ListTestbed made by `make`."""

    make: Callable[[], ListTestbed] = ListTestbed
    powers: frozenset[Power] = ALL_POWERS
    missing: dict[str, str] = field(default_factory=dict)
    made: list[ListTestbed] = field(default_factory=list)

    def run(self, plan: Plan, directory: str, body: Callable[[Any], Awaitable[T]]) -> T:
        testbed = self.make()
        self.made.append(testbed)

        async def main() -> T:
            return await body(testbed)

        return asyncio.run(main())
