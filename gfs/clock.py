"""The one door to time. Cores take `now` as an argument; shells take a Clock."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds that never jump; for leases, deadlines and intervals."""
        ...

    def wall_ms(self) -> int:
        """Unix time in milliseconds; for what a person reads and for stamps in the operation log."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
