"""A data handler that keeps pushes and chunks in memory, and can be told to misbehave."""

from __future__ import annotations

import os
import threading

from gfs.checksums import piece_checksums
from gfs.errors import ChecksumMismatch, NotFound, StaleVersion
from gfs.messages.data import PushAnswer
from gfs.transport.data_head import PushHead
from gfs.vocabulary import ChunkHandle, ChunkVersion


class MemorySink:
    def __init__(self, handler: MemoryDataHandler, head: PushHead) -> None:
        self._handler, self.head = handler, head
        self.memory = memoryview(bytearray(head.length))
        self.abandoned = threading.Event()
        self.arrivals: list[int] = []
        self.some_arrived = threading.Event()

    def arrived(self, end: int) -> None:
        self.arrivals.append(end)
        self.some_arrived.set()

    def finish(self) -> PushAnswer:
        if self._handler.finish_error is not None:
            raise self._handler.finish_error
        self._handler.pushed[self.head.push_id] = bytes(self.memory)
        sums = piece_checksums(self.head.offset, self.memory)
        if self._handler.answers_other_checksums:
            sums = [checksum ^ 1 for checksum in sums]
        return PushAnswer(received_bytes=self.head.length, checksums=sums)

    def abandon(self) -> None:
        self.abandoned.set()


class MemoryReader:
    def __init__(self, handler: MemoryDataHandler, chunk: bytes, first: int, last: int | None) -> None:
        self._handler, self._chunk, self._first = handler, chunk, first
        end = len(chunk) if last is None else min(len(chunk), last + 1)
        self.length, self.committed_length = max(0, end - first), len(chunk)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        bad = self._handler.bad_from
        if bad is not None and offset + len(buffer) > bad:
            raise ChecksumMismatch(f"the block at {bad} does not verify")
        piece = self._chunk[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)

    def checksums(self) -> list[int] | None:
        if not self._handler.gives_sums:
            return None
        return piece_checksums(self._first, self._chunk[self._first : self._first + self.length])

    def send_to(self, out: int, offset: int, length: int) -> int:
        on_disk = self._handler.on_disk
        piece = (self._chunk if on_disk is None else on_disk)[offset : offset + length]
        return os.write(out, piece) if piece else 0


class MemoryDataHandler:
    """`chunks`: (handle, version) → bytes. `bad_from`: bytes at and after it do not verify."""

    def __init__(self) -> None:
        self.chunks: dict[tuple[int, int], bytes] = {}
        self.pushed: dict[str, bytes] = {}
        self.sinks: list[MemorySink] = []
        self.begun = threading.Semaphore(0)
        self.begin_error: Exception | None = None
        self.finish_error: Exception | None = None
        self.read_error: Exception | None = None
        self.answers_other_checksums = False
        self.bad_from: int | None = None
        self.gives_sums = True
        self.on_disk: bytes | None = None  # what is sent unverified, when it is not what the sums are of

    def begin_push(self, head: PushHead) -> MemorySink:
        if self.begin_error is not None:
            raise self.begin_error
        sink = MemorySink(self, head)
        self.sinks.append(sink)
        self.begun.release()
        return sink

    def open_read(
        self, handle: ChunkHandle, version: ChunkVersion, first: int, last: int | None
    ) -> MemoryReader:
        if self.read_error is not None:
            raise self.read_error
        if (handle, version) not in self.chunks:
            if any(held == handle for held, _ in self.chunks):
                raise StaleVersion(f"chunk {handle} is not at version {version}")
            raise NotFound(f"no chunk {handle}")
        return MemoryReader(self, self.chunks[handle, version], first, last)
