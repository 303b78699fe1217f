"""One chunk's header, sums and append window in memory, shared by everybody who uses the chunk. No I/O."""

from __future__ import annotations

import threading
from array import array
from dataclasses import dataclass

from gfs.chunkserver.core.append_window import AppendWindow
from gfs.chunkserver.core.checksums import SUM_BYTES
from gfs.chunkserver.core.chunk_record import (
    SUMS_PER_ROW,
    ChunkHeader,
    Deleted,
    Mutated,
    Record,
    apply_sums,
    check_header,
    window_after,
)
from gfs.vocabulary import ChunkHandle


class ChunkState:
    """One chunk in memory; the same object for everybody who uses the chunk at a time.

    `lock` is held by whoever mutates the chunk. `header` None: there is no such chunk. Readers without the
    lock take `header` once and use only what it covers.
    """

    __slots__ = (
        "__weakref__",
        "broken",
        "full",
        "handle",
        "has_surplus",
        "header",
        "lock",
        "rows_changed",
        "window",
    )

    def __init__(
        self,
        handle: ChunkHandle,
        header: ChunkHeader | None,
        full: array[int],
        window: AppendWindow | None = None,
    ) -> None:
        self.handle, self.header, self.full = handle, header, full
        self.window = AppendWindow() if window is None else window  # changes only with `lock` held
        self.lock = threading.Lock()
        self.rows_changed: set[int] = set()
        self.has_surplus = False  # the store may hold bytes past the committed length
        self.broken = False  # an overwrite failed half-way and could not be undone

    def apply(self, record: Record) -> None:
        """Take a journalled change over. Called under the index's lock."""
        if isinstance(record, Deleted):
            self.header = None
            self.full = array("I")
            self.window = AppendWindow()
            self.rows_changed.clear()
        elif isinstance(record, Mutated):
            check_header(record.header)
            if self.header is not None and record.header.length_bytes < self.header.length_bytes:
                self.header = record.header  # before the sums go, so that no reader misses one it needs
            if record.sums:
                last = record.first_block + len(record.sums) // SUM_BYTES - 1
                self.rows_changed.update(range(record.first_block // SUMS_PER_ROW, last // SUMS_PER_ROW + 1))
            apply_sums(self.full, record)
            self.window = window_after(self.window, record)
            self.header = record.header


@dataclass(frozen=True, slots=True)
class Change:
    state: ChunkState
    record: Record
