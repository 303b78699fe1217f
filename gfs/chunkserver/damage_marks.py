"""Which replicas of this server are damaged: the one place where that is said (GFS §5.2). Finds none itself.

Whoever finds some (a read, a clone, an overwrite's first or last block, the scrubber, a start) marks the
replica here. A mark is kept over restarts, reported to the masters at once, and ends when the replica is
deleted: good bytes come from another server. Only when no replica is whole is one mended where it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from gfs.chunkserver.chunk_index import ChunkIndex
from gfs.errors import GfsError
from gfs.telemetry import logger
from gfs.vocabulary import ChunkHandle

_log = logger("chunkserver")


class DamageMarks:
    """Thread-safe. A mark is in memory at once, and on the disk too; if that is full, after a later flush."""

    def __init__(
        self,
        index: ChunkIndex,
        found_at_start: Mapping[ChunkHandle, str],
        *,
        on_marked: Callable[[ChunkHandle], None],
    ) -> None:
        """`on_marked`: called for each new mark, on the thread that found the damage."""
        self._index = index
        self._on_marked = on_marked
        self._lock = threading.Lock()
        self._unsaved: dict[ChunkHandle, str] = dict(found_at_start)
        self._marks = dict(found_at_start)
        for handle, what in index.noted_damage().items():
            if index.holds(handle):
                self._marks.setdefault(handle, what)
            else:  # a kill came between its deletion and the end of its mark
                self._unsaved[handle] = ""
        for handle, what in found_at_start.items():
            _log.error("a replica is damaged", chunk=f"{handle:x}", damage=what)
        self.save()

    def __contains__(self, handle: ChunkHandle) -> bool:
        return handle in self._marks

    def __len__(self) -> int:
        return len(self._marks)

    def what(self, handle: ChunkHandle) -> str:
        """What is wrong with a replica; "" when nothing is known to be."""
        return self._marks.get(handle, "")

    def handles(self) -> list[ChunkHandle]:
        with self._lock:
            return sorted(self._marks)

    def mark(self, handle: ChunkHandle, what: str, *, is_lasting: bool = True) -> None:
        """Say that a replica is damaged (the first word counts); `is_lasting`: also after a restart."""
        assert what
        with self._lock:
            if handle in self._marks:
                return
            self._marks[handle] = what
            if is_lasting:
                self._unsaved[handle] = what
        _log.error("a replica is damaged", chunk=f"{handle:x}", damage=what)
        self.save()
        self._on_marked(handle)

    def clear(self, handle: ChunkHandle) -> None:
        """The replica has been deleted."""
        with self._lock:
            if self._marks.pop(handle, None) is None:
                return
            self._unsaved[handle] = ""
        self.save()

    def save(self) -> None:
        """Bring to the disk what is not there yet. A failure is no harm: the next scrub finds it too."""
        with self._lock:
            unsaved = dict(self._unsaved)
        if not unsaved:
            return
        try:
            self._index.note_damage(unsaved)
        except GfsError as error:
            _log.warning("marks of damaged replicas wait for the disk", error=error.message)
            return
        with self._lock:
            for handle, what in unsaved.items():
                if self._unsaved.get(handle) == what:
                    del self._unsaved[handle]
