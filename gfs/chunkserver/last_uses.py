"""When each chunk was last written or read for somebody, since this process began. In memory; a hint."""

from __future__ import annotations

from gfs.clock import Clock
from gfs.vocabulary import ChunkHandle


class LastUses:
    """Thread-safe. What has not been used since the start counts as used then."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self._last: dict[ChunkHandle, float] = {}

    def __len__(self) -> int:
        return len(self._last)

    def note(self, handle: ChunkHandle) -> None:
        self._last[handle] = self._clock.monotonic()

    def idle_seconds(self, handle: ChunkHandle) -> float:
        return self._clock.monotonic() - self._last.get(handle, self._began)

    def forget_older(self, seconds: float) -> None:
        """Drop what was used longer ago: it counts as idle since the start, which is longer."""
        before = self._clock.monotonic() - seconds
        for handle, at in list(self._last.items()):
            if at < before:
                self._last.pop(handle, None)
