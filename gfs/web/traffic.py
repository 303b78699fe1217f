"""What the master did in the last minutes, sampled for the console's charts. Prometheus has the long run."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import pairwise

import msgspec

from gfs.clock import Clock
from gfs.web.limits import SAMPLE_SECONDS, SAMPLES_KEPT


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """As of one moment; `calls` were answered since the start, `used_bytes` of all living servers' disks."""

    log_index: int
    calls: int
    chunks: int
    used_bytes: int
    leases: int


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One value each `step_seconds`, oldest first."""

    name: str
    unit: str
    step_seconds: float
    values: list[float]


class Traffic:
    def __init__(self, vitals: Callable[[], Vitals], clock: Clock) -> None:
        self._vitals = vitals
        self._clock = clock
        self._samples: deque[tuple[float, Vitals]] = deque(maxlen=SAMPLES_KEPT + 1)

    async def run(self) -> None:
        while True:
            self.sample()
            await asyncio.sleep(SAMPLE_SECONDS)

    def sample(self) -> None:
        self._samples.append((self._clock.monotonic(), self._vitals()))

    def series(self) -> list[Series]:
        return [
            self._rates("log records", "per second", lambda vitals: vitals.log_index),
            self._rates("calls answered", "per second", lambda vitals: vitals.calls),
            self._levels("leases", "held", lambda vitals: vitals.leases),
            self._levels("disk space used", "bytes", lambda vitals: vitals.used_bytes),
        ]

    def _rates(self, name: str, unit: str, count: Callable[[Vitals], int]) -> Series:
        values = [
            # A master that was given another state may have gone back.
            max(0.0, (count(later) - count(earlier)) / max(after - before, 0.001))
            for (before, earlier), (after, later) in pairwise(self._samples)
        ]
        return Series(
            name=name, unit=unit, step_seconds=SAMPLE_SECONDS, values=[round(value, 2) for value in values]
        )

    def _levels(self, name: str, unit: str, level: Callable[[Vitals], int]) -> Series:
        values = [float(level(vitals)) for _, vitals in list(self._samples)[1:]]
        return Series(name=name, unit=unit, step_seconds=SAMPLE_SECONDS, values=values)
