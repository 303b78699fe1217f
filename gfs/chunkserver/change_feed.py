"""Which chunks changed since when, for incremental heartbeats. Handles only; the index says what they are."""

from __future__ import annotations

import threading

from gfs.vocabulary import ChunkHandle

CHANGES_MAX = 100_000  # handles remembered; a reader further behind needs a full report


class ChangeFeed:
    """Each change takes the next number; a handle keeps only its newest.

    Invariant: numbers in the map rise in its order, and every change after `floor` is in it.
    """

    def __init__(self, changes_max: int = CHANGES_MAX) -> None:
        assert changes_max > 0
        self._changes_max = changes_max
        self._lock = threading.Lock()
        self._numbers: dict[ChunkHandle, int] = {}
        self._last = 0
        self._floor = 0

    def changed(self, handle: ChunkHandle) -> None:
        with self._lock:
            self._last += 1
            self._numbers.pop(handle, None)
            self._numbers[handle] = self._last
            if len(self._numbers) > self._changes_max:
                oldest = next(iter(self._numbers))
                self._floor = self._numbers.pop(oldest)

    def since(self, cursor: int) -> tuple[int, list[ChunkHandle], bool]:
        """(cursor for the next time, handles changed after `cursor` oldest first, whether that is all)."""
        with self._lock:
            found: list[ChunkHandle] = []
            for handle in reversed(self._numbers):
                if self._numbers[handle] <= cursor:
                    break
                found.append(handle)
            found.reverse()
            return self._last, found, cursor >= self._floor
