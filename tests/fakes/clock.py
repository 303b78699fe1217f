"""A clock that moves only when the test says so. No real time passes in it."""

from __future__ import annotations

import asyncio
import heapq
import itertools

SETTLE_TURNS = 100  # turns of the loop given to woken tasks; each costs about a microsecond


async def settle(turns: int = SETTLE_TURNS) -> None:
    """Let every task that can run without real I/O run as far as it gets."""
    for _ in range(turns):
        await asyncio.sleep(0)


class VirtualClock:
    """A `gfs.clock.Clock` whose sleepers wake, in the order of their due times, inside `advance()`."""

    def __init__(self, *, monotonic: float = 1000.0, wall_ms: int = 1_700_000_000_000) -> None:
        self._now = monotonic
        self._wall_offset_ms = wall_ms - monotonic * 1000
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._sequence = itertools.count()

    def monotonic(self) -> float:
        return self._now

    def wall_ms(self) -> int:
        return round(self._now * 1000 + self._wall_offset_ms)

    def step_wall_ms(self, difference_ms: int) -> None:
        """Set the wall clock forward or back, as an operator or NTP does; monotonic time is untouched."""
        self._wall_offset_ms += difference_ms

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._sequence), woken))
        await woken

    def sleepers(self) -> int:
        """How many tasks sleep now."""
        return sum(not woken.done() for _, _, woken in self._sleepers)

    def skip(self, seconds: float) -> None:
        """Time passes while the whole process stands still."""
        self._now += seconds

    async def advance(self, seconds: float) -> None:
        """Move time on by `seconds`, stopping at each due sleeper to let it run (and sleep again)."""
        assert seconds >= 0, seconds
        await settle()  # what was just started reaches its first sleep
        end = self._now + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, woken = heapq.heappop(self._sleepers)
            if woken.done():
                continue  # its task was cancelled
            self._now = max(self._now, due)
            woken.set_result(None)
            await settle()
        self._now = end
