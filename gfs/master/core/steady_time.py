"""The wall clock as far as it can be believed for deadlines: never ahead of what really passed (GFS §4.4).

Reads no clock. A wall clock that is set forward while a master leads must not make it throw away at once what
people may still have back for days.
"""

from __future__ import annotations


class SteadyTime:
    """From the first call on it follows the monotonic clock, or the wall clock where that is behind."""

    def __init__(self) -> None:
        self._wall_minus_monotonic: float | None = None  # the lowest seen, in milliseconds

    def now_ms(self, *, now: float, wall_ms: int) -> int:
        """`now`: monotonic seconds. Never more than `wall_ms`."""
        ahead = wall_ms - now * 1000
        if self._wall_minus_monotonic is None or ahead < self._wall_minus_monotonic:
            self._wall_minus_monotonic = ahead
        return min(wall_ms, int(now * 1000 + self._wall_minus_monotonic))
