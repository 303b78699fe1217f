"""Chunk bytes in memory: for tests and for scratch clusters. Nothing survives the process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

from gfs.chunkserver.stores.interface import StoreCapabilities, StoreUsage
from gfs.chunkserver.stores.plugin import StoreOptions, StorePlugin, StoreSite
from gfs.disk import Bytes
from gfs.vocabulary import CHUNK_BYTES, ChunkHandle

TOTAL_BYTES = 2**40


class MemoryStore:
    """A ChunkStore. `total_bytes` is what it claims as its disk; OSError is never raised."""

    def __init__(self, total_bytes: int = TOTAL_BYTES) -> None:
        self._total_bytes = total_bytes
        self._lock = threading.Lock()
        self._chunks: dict[ChunkHandle, bytearray] = {}

    def create(self, handle: ChunkHandle) -> None:
        with self._lock:
            self._chunks.setdefault(handle, bytearray())

    def make_local(self, handle: ChunkHandle, offset: int, length: int) -> None:
        return  # it never is anything else

    def write_at(self, handle: ChunkHandle, data: Bytes, offset: int) -> None:
        assert offset >= 0 and offset + len(data) <= CHUNK_BYTES, (offset, len(data))
        with self._lock:
            content = self._chunks[handle]
            if offset > len(content):
                content.extend(bytes(offset - len(content)))
            content[offset : offset + len(data)] = data

    def read_into(self, handle: ChunkHandle, buffer: memoryview, offset: int) -> int:
        with self._lock:
            found = self._chunks[handle][offset : offset + len(buffer)]
        buffer[: len(found)] = found
        return len(found)

    def send(self, handle: ChunkHandle, out: int, offset: int, length: int) -> int:
        with self._lock:
            found = bytes(self._chunks[handle][offset : offset + length])
        return os.write(out, found) if found else 0

    def length(self, handle: ChunkHandle) -> int:
        with self._lock:
            return len(self._chunks[handle])

    def is_stored(self, handle: ChunkHandle) -> bool:
        with self._lock:
            return handle in self._chunks

    def truncate(self, handle: ChunkHandle, length: int) -> None:
        with self._lock:
            content = self._chunks[handle]
            if length < len(content):
                del content[length:]
            else:
                content.extend(bytes(length - len(content)))

    def clone(self, source: ChunkHandle, destination: ChunkHandle) -> None:
        with self._lock:
            self._chunks[destination] = bytearray(self._chunks[source])

    def delete(self, handle: ChunkHandle) -> None:
        with self._lock:
            self._chunks.pop(handle, None)

    def handles(self) -> Iterator[ChunkHandle]:
        with self._lock:
            found = sorted(self._chunks)
        return iter(found)

    def sync(self, handle: ChunkHandle) -> None:
        with self._lock:
            if handle not in self._chunks:
                raise KeyError(handle)

    def sync_names(self) -> None:
        return

    def usage(self) -> StoreUsage:
        with self._lock:
            used = sum(map(len, self._chunks.values()))
        return StoreUsage(self._total_bytes, max(0, self._total_bytes - used))

    def close(self) -> None:
        return


class MemoryOptions(StoreOptions, frozen=True, kw_only=True):
    total_bytes: int = TOTAL_BYTES  # what it claims as its disk

    def fault(self) -> str:
        return "" if self.total_bytes > 0 else f"total_bytes: {self.total_bytes} is not above zero"


def _open_store(_: StoreSite, options: MemoryOptions) -> MemoryStore:
    return MemoryStore(options.total_bytes)


PLUGIN = StorePlugin("memory", MemoryOptions, _open_store, StoreCapabilities(durable=False))
