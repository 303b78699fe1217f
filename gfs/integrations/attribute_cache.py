"""What files looked like a moment ago, for callers that ask five times in a row. It asks nobody."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

ATTRIBUTES_MAX = 10_000  # paths remembered; a longer listing leaves the rest to be asked for

Attributes = dict[str, Any]  # Any: fsspec's form of an entry, which has values of several types


class AttributeCache:
    """Attributes by path for `seconds`; every change through the same file system empties it.

    A path that was not there is not remembered: who waits for a file must see it appear at once. An answer
    that was asked for before a change is not remembered after it: `generation` tells.
    """

    def __init__(self, seconds: float, *, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._now = now
        self._known: dict[str, tuple[float, Attributes]] = {}
        self.generation = 0

    def get(self, path: str) -> Attributes | None:
        found = self._known.get(path)
        if found is None or found[0] <= self._now():
            return None
        return dict(found[1])

    def put(self, entries: Iterable[Attributes], *, asked_at: int) -> None:
        """Remember entries that were asked for in generation `asked_at`."""
        if asked_at != self.generation or self._seconds <= 0:
            return
        until = self._now() + self._seconds
        for entry in entries:
            if len(self._known) >= ATTRIBUTES_MAX:
                self._drop_old()
            if len(self._known) >= ATTRIBUTES_MAX:
                return
            self._known[entry["name"]] = (until, dict(entry))

    def clear(self) -> None:
        self.generation += 1
        self._known = {}

    def _drop_old(self) -> None:
        now = self._now()
        self._known = {path: known for path, known in self._known.items() if known[0] > now}
