"""Pieces of objects that were read lately, in memory, bounded. Whether they verify, the caller has seen."""

from __future__ import annotations

import threading
from collections import OrderedDict


class RangeCache:
    """Thread-safe. At most `bytes_max` in all: the piece used longest ago goes first."""

    def __init__(self, bytes_max: int) -> None:
        assert bytes_max >= 0
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._pieces: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self.used_bytes = 0

    def get(self, name: str, offset: int) -> bytes | None:
        with self._lock:
            found = self._pieces.get((name, offset))
            if found is not None:
                self._pieces.move_to_end((name, offset))
            return found

    def put(self, name: str, offset: int, piece: bytes) -> None:
        with self._lock:
            before = self._pieces.pop((name, offset), b"")
            self._pieces[name, offset] = piece
            self.used_bytes += len(piece) - len(before)
            while self.used_bytes > self._bytes_max:
                self.used_bytes -= len(self._pieces.popitem(last=False)[1])

    def forget(self, name: str) -> None:
        with self._lock:
            for key in [key for key in self._pieces if key[0] == name]:
                self.used_bytes -= len(self._pieces.pop(key))
