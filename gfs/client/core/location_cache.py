"""Which chunks a file has and where they are, for a limited time (GFS §2.3, §2.7.2). Never asks anybody.

Invariants: no more than `places_max` places are held; what is older than `seconds` is never given out;
all places of a path belong to one inode, the one of its entry.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from gfs.messages.chunks import ChunkPlace
from gfs.messages.namespace import Entry
from gfs.vocabulary import ChunkIndex


@dataclass(slots=True)
class _File:
    entry: Entry
    entry_at: float
    places: dict[ChunkIndex, tuple[ChunkPlace, float]] = field(default_factory=dict)


class LocationCache:
    """Entries and chunk places by path, least recently used files out first."""

    def __init__(self, *, seconds: float, places_max: int) -> None:
        assert seconds > 0 and places_max > 0, (seconds, places_max)
        self._seconds = seconds
        self._places_max = places_max
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._place_count = 0

    def store(self, path: str, entry: Entry, places: Iterable[ChunkPlace], *, now: float) -> None:
        """Keep what a master just answered. Another inode at `path` drops all that was known of it."""
        known = self._files.get(path)
        if known is not None and known.entry.inode != entry.inode:
            self.forget(path)
            known = None
        if known is None:
            known = self._files[path] = _File(entry, now)
        known.entry, known.entry_at = entry, now
        for place in places:
            self._place_count += place.index not in known.places
            known.places[place.index] = (place, now)
        self._files.move_to_end(path)
        self._make_room(path)

    def entry(self, path: str, *, now: float) -> Entry | None:
        known = self._files.get(path)
        if known is None or now - known.entry_at >= self._seconds:
            return None
        return known.entry

    def place(self, path: str, index: ChunkIndex, *, now: float) -> ChunkPlace | None:
        known = self._files.get(path)
        if known is None:
            return None
        found = known.places.get(index)
        if found is None or now - found[1] >= self._seconds:
            return None
        self._files.move_to_end(path)
        return found[0]

    def forget(self, path: str) -> None:
        """Drop a file: it is being opened again, or its chunks were not where we thought."""
        known = self._files.pop(path, None)
        if known is not None:
            self._place_count -= len(known.places)

    def forget_tree(self, path: str) -> None:
        """Drop `path` and everything below it: a rename or a delete went over it."""
        below = path.rstrip("/") + "/"
        for known in [name for name in self._files if name == path or name.startswith(below)]:
            self.forget(known)

    def _make_room(self, kept: str) -> None:
        # A file counts as one place even when it has no chunk, so that empty files cannot pile up.
        while self._place_count + len(self._files) > self._places_max and len(self._files) > 1:
            oldest = next(iter(self._files))
            assert oldest != kept, kept
            self.forget(oldest)
        only = self._files[kept]
        while self._place_count + len(self._files) > self._places_max and len(only.places) > 1:
            del only.places[next(iter(only.places))]
            self._place_count -= 1

    def check_invariants(self) -> None:
        assert self._place_count == sum(len(known.places) for known in self._files.values())
        assert self._place_count + len(self._files) <= max(self._places_max, 2)
