"""The loop of a simulation: it knows on which node each piece of work runs, and what time it is there.

Work belongs to the node in whose context it was begun. Of a node that has died nothing runs any more, not
even its last words. A node's clock may run fast or slow: its timers do, too. No network, no faults.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import os
import random
import secrets
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from pysyncobj import syncobj

from chaos.simulation.loop import VirtualLoop
from chaos.simulation.mortal_disk import Died

EPOCH_MS = 1_700_000_000_000  # what the wall clocks show when a run begins
DISK_SECONDS = (0.002, 0.012)  # one piece of blocking work; as on disks that are not the fastest
TIMERS_CANCELLED_MAX = 2000  # so many may lie among the others
BLOCKED_SECONDS_MAX = 120.0  # a piece of blocking work that would take longer is a fault of the harness


class Life:
    """One process from its start to its death."""

    __slots__ = ("clock", "dead", "node", "paused", "tasks")

    def __init__(self, node: str, clock: NodeClock) -> None:
        self.node, self.clock = node, clock
        self.dead = False
        self.paused: list[asyncio.Handle] | None = None  # what came due while it stood still
        self.tasks: list[asyncio.Task[Any]] = []  # kept, so that collecting one runs nothing of it


life: contextvars.ContextVar[Life | None] = contextvars.ContextVar("life", default=None)


class NodeClock:
    """gfs.clock.Clock of one machine, of which each process has the same.

    The machine's time runs at `rate` of the world's. Changing it changes nothing of the past.
    """

    def __init__(self, loop: World) -> None:
        self._loop = loop
        self._rate = 1.0
        self._world_since = self._here_since = loop.now
        self._wall_offset_seconds = 0.0
        self._strayed_seconds = (
            0.0  # what its monotonic clock is ahead of the world's, as its wall clock knows
        )

    def at(self, world: float) -> float:
        return self._here_since + (world - self._world_since) * self._rate

    def in_world(self, here: float) -> float:
        return self._world_since + (here - self._here_since) / self._rate

    def drift(self, rate: float) -> None:
        assert 0.1 < rate < 10
        now = self._loop.now
        self._here_since, self._world_since, self._rate = self.at(now), now, rate
        if rate == 1.0:  # somebody sets the wall clock, as NTP would; the monotonic one is never set
            strayed = self._here_since - now
            self._wall_offset_seconds -= strayed - self._strayed_seconds
            self._strayed_seconds = strayed

    def jump(self, seconds: float) -> None:
        """Of the wall clock alone."""
        self._wall_offset_seconds += seconds

    def mend(self) -> None:
        """It runs evenly again, and shows the time that all the others show."""
        self.drift(1.0)
        self._wall_offset_seconds = -self._strayed_seconds

    def monotonic(self) -> float:
        return self.at(self._loop.now)

    def wall_ms(self) -> int:
        return EPOCH_MS + int(1000 * (self.monotonic() + self._wall_offset_seconds))

    def sleep(self, seconds: float) -> Coroutine[Any, Any, None]:
        return asyncio.sleep(seconds)


class Wiring(Protocol):
    def listen(self, factory: Callable[[], asyncio.Protocol]) -> Any:  # Any: as asyncio's servers
        ...

    async def connect(
        self, host: str, factory: Callable[[], asyncio.Protocol]
    ) -> tuple[asyncio.Transport, asyncio.Protocol]: ...


class World(VirtualLoop):
    """The whole of a simulation's time and chance."""

    wires: Wiring

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.disk_seconds = DISK_SECONDS
        self._ready: deque[asyncio.Handle]
        # By time, then in the order made. Any: asyncio.TimerHandle, with fields that only loops know.
        self._scheduled: list[tuple[float, int, Any]]
        self._timers_made = 0
        self._timer_cancelled_count: int
        self._stopping: bool
        self.charged_seconds = 0.0  # what the blocking work that runs now has taken so far
        self.set_task_factory(_note_task)

    # --- whose time and work -----------------------------------------------------------------------

    def time(self) -> float:
        here = life.get()
        return self.now if here is None else here.clock.at(self.now)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        here = life.get()
        if here is not None:
            when = max(self.now, here.clock.in_world(when))
        return self._at(when, callback, args, context)

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def outside(self, delay: float, callback: Callable[..., Any], *args: Any) -> asyncio.TimerHandle:
        """Later by the world's time, as work of no node."""
        return self._at(self.now + delay, callback, args, contextvars.Context())

    def _at(
        self,
        when: float,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers_made += 1
        heapq.heappush(self._scheduled, (when, self._timers_made, timer))
        timer._scheduled = True  # type: ignore[attr-defined]  # so that the loop is told when it is cancelled
        return timer

    def _run_once(self) -> None:
        """One turn: all that is ready; if nothing is, time moves to the next timer first.

        In place of asyncio's own, which asks a selector every time: half of what an idle cluster costs.
        """
        ready, timers = self._ready, self._scheduled
        if self._timer_cancelled_count > TIMERS_CANCELLED_MAX:
            for _, _, timer in timers:
                timer._scheduled = not timer._cancelled
            timers[:] = [entry for entry in timers if not entry[2]._cancelled]
            heapq.heapify(timers)
            self._timer_cancelled_count = 0
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)[2]._scheduled = False
            self._timer_cancelled_count -= 1
        if not ready and not self._stopping:
            if not timers:
                raise RuntimeError("nothing is scheduled: the run waits for something that cannot happen")
            self.now = max(self.now, timers[0][0])
        while timers and timers[0][0] <= self.now:
            timer = heapq.heappop(timers)[2]
            timer._scheduled = False
            if timer._cancelled:
                self._timer_cancelled_count -= 1
            else:
                ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            here = handle._context.get(life)  # type: ignore[attr-defined]
            if here is None or (not here.dead and here.paused is None):
                handle._run()
            elif not here.dead:
                here.paused.append(handle)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), Died):
            super().call_exception_handler(context)

    # --- streams, which the network makes -----------------------------------------------------------

    async def create_server(self, factory: Any, host: Any = None, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        return self.wires.listen(factory)

    async def create_connection(self, factory: Any, host: Any = None, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        return await self.wires.connect(host, factory)

    # --- blocking work -----------------------------------------------------------------------------

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Done in one piece, now or a little later by chance, with the answer after the time it has taken."""
        done: asyncio.Future[Any] = self.create_future()
        here = life.get()
        if here is not None and here.dead:
            return done  # never: its last call to the disk is under way on the stack

        def work() -> None:
            if done.done():
                return  # cancelled, and as a real thread pool's work it never began
            outer, self.charged_seconds = self.charged_seconds, 0.0
            result, failure = None, None
            try:
                result = func(*args)
            except Exception as error:
                failure = error
            except Died:
                self.charged_seconds = outer
                return
            taken, self.charged_seconds = self.charged_seconds, outer
            assert taken < BLOCKED_SECONDS_MAX, f"blocking work takes {taken} s"
            self.call_later(taken + self.chance.uniform(*self.disk_seconds), deliver, result, failure)

        def deliver(result: Any, failure: Exception | None) -> None:
            if not done.done():
                if failure is None:
                    done.set_result(result)
                else:
                    done.set_exception(failure)

        if self.chance.random() < 0.5:
            work()
        else:
            self.call_later(self.chance.uniform(*self.disk_seconds), work)
        return done

    def charge(self, seconds: float) -> None:
        """The blocking work that runs now takes so much longer."""
        self.charged_seconds += seconds


def _note_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
    context: contextvars.Context | None = options.get("context")
    here = life.get() if context is None else context.get(life)
    if here is not None:
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # those of a killed process never end
        here.tasks.append(task)
        if len(here.tasks) > 4096:
            here.tasks = [one for one in here.tasks if not one.done()]
    return task


def resume(loop: World, paused: Life) -> None:
    """What came due while the process stood still is done now, in its order."""
    waiting, paused.paused = paused.paused or [], None
    loop._ready.extend(waiting)


@contextmanager
def seeded(loop: World, seed: int) -> Iterator[None]:
    """All chance of this process comes from the seed, and pysyncobj's time from the loop."""
    chance = random.Random(f"{seed}/process")
    patched: list[tuple[Any, str, Any]] = [
        (os, "urandom", chance.randbytes),
        (secrets, "token_bytes", lambda count=32: chance.randbytes(count)),
        (secrets, "token_hex", lambda count=32: chance.randbytes(count).hex()),
        (secrets, "randbits", chance.getrandbits),
        (syncobj, "monotonicTime", loop.time),
        (syncobj, "random", random.Random(f"{seed}/raft")),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in patched]
    for module, name, value in patched:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
