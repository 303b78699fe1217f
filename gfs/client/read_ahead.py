"""Read-ahead of one sequential reader: ranges on their way before they are asked for, in recycled memory."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from gfs.client.core.striping import part_end
from gfs.client.reader import Part, Reader
from gfs.settings import READ_AHEAD_RANGES, READ_RANGE_BYTES
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, CHUNK_BYTES, KIB

WINDOW_BYTES_MIN = 256 * KIB
RECYCLED_BYTES_MIN = READ_RANGE_BYTES // 4  # smaller windows, at the start of a read, get memory of their own
assert WINDOW_BYTES_MIN % CHECKSUM_BLOCK_BYTES == 0
assert WINDOW_BYTES_MIN <= READ_RANGE_BYTES


@dataclass(slots=True, eq=False)
class _Window:
    """Bytes of the file from `offset`, on their way or here; `memory` is what `view` is cut from."""

    offset: int
    view: memoryview
    memory: bytearray
    part: asyncio.Task[Part]

    @property
    def end(self) -> int:
        return self.offset + len(self.view)


class ReadAhead:
    """Windows of a file, one behind the other without a gap, ahead of where the reader is.

    They grow from WINDOW_BYTES_MIN to READ_RANGE_BYTES as long as the reader goes on in sequence, so that
    a look at the head of a file costs little and a long read keeps several replicas busy.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._windows: deque[_Window] = deque()
        self._next_window_bytes = WINDOW_BYTES_MIN
        self._spent: list[bytearray] = []  # memory of slices given out by the present read
        self._free: list[bytearray] = []

    async def read(self, position: int, length_bytes: int, *, ahead: bool) -> list[memoryview]:
        """Slices that make up the bytes from `position`; fewer bytes only at the end of the file.

        They are valid until the next call. `ahead`: the reader goes on in sequence, more will be wanted.
        """
        self._free += self._spent[: READ_AHEAD_RANGES + 1 - len(self._free)]
        self._spent.clear()
        if self._windows and not self._windows[0].offset <= position <= self._windows[-1].end:
            await self.drop()
        slices: list[memoryview] = []
        wanted = position + length_bytes
        while position < wanted:
            while self._windows and self._windows[0].end <= position:
                self._retire(self._windows.popleft())
            self._top_up(position, ahead=ahead)
            window = self._windows[0]
            part = await self._arrival(window)
            start = position - window.offset
            piece = window.view[start : min(part.length_bytes, start + wanted - position)]
            slices.append(piece)
            position += len(piece)
            if part.at_end and start + len(piece) >= part.length_bytes:
                # By the next read the file may have grown, and what is behind its end is of no use.
                self._retire(self._windows.popleft())
                await self.drop()
                break
        return slices

    async def drop(self) -> None:
        """Forget all windows; returns when no thread writes to one any more."""
        dropped = [window.part for window in self._windows]
        self._windows.clear()
        self._next_window_bytes = WINDOW_BYTES_MIN
        for part in dropped:
            part.cancel()
        await asyncio.gather(*dropped, return_exceptions=True)

    async def _arrival(self, window: _Window) -> Part:
        # Shielded: a read that is given up leaves its windows for the next one.
        try:
            return await asyncio.shield(window.part)
        except BaseException:
            if window.part.done():
                await self.drop()
            raise

    def _top_up(self, position: int, *, ahead: bool) -> None:
        if not self._windows:
            self._start(position)
        entry = self._reader.entry
        known_end = entry.length_bytes if entry.length_exact else entry.chunk_count * CHUNK_BYTES
        while ahead and len(self._windows) < READ_AHEAD_RANGES and self._windows[-1].end < known_end:
            self._start(self._windows[-1].end)

    def _start(self, offset: int) -> None:
        length = part_end(offset, self._next_window_bytes) - offset
        self._next_window_bytes = min(READ_RANGE_BYTES, self._next_window_bytes * 2)
        if length < RECYCLED_BYTES_MIN:
            memory = bytearray(length)
        else:
            memory = self._free.pop() if self._free else bytearray(READ_RANGE_BYTES)
        view = memoryview(memory)[:length]
        part = asyncio.get_running_loop().create_task(self._reader.read_into(offset, view))
        self._windows.append(_Window(offset, view, memory, part))

    def _retire(self, window: _Window) -> None:
        if window.part.done() and len(window.memory) == READ_RANGE_BYTES:
            self._spent.append(window.memory)
