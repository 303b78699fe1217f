"""One file that is open in a mount: reads with read-ahead, writes gathered behind the caller. Knows no FUSE.

All handles of one file share it, so that each sees what the others wrote. Bytes at the end go through one
writer with several pieces in flight; a write before the end is gathered into a run and overwrites in place.
What write() has accepted is safe when flush() has returned; until then an error may still come, as with a
local file that is not synced.
"""

from __future__ import annotations

import asyncio

from gfs.client.client import AsyncClient
from gfs.client.file import AsyncReader, AsyncWriter
from gfs.errors import GfsError, Superseded
from gfs.messages.namespace import Entry
from gfs.vocabulary import CHUNK_BYTES, MIB

WINDOW_BYTES = MIB  # what a sequential reader is given ahead, at a time
WINDOWS_AHEAD = 3
WINDOWS_KEPT = 8
PATCH_BYTES_MAX = MIB  # of an overwrite that goes on where it ended
COPY_BYTES = 4 * MIB


class OpenFile:
    def __init__(self, client: AsyncClient, entry: Entry, length_bytes: int) -> None:
        self._client = client
        self.path = entry.path  # as it is now: a rename changes it
        self.inode = entry.inode
        self.length_bytes = length_bytes
        self.handles = 0
        self._mode = entry.mode
        self._changing = asyncio.Lock()
        self._tail: AsyncWriter | None = None
        self._patch = bytearray()
        self._patch_offset = 0
        self._failure: GfsError | None = None
        self._reader: AsyncReader | None = None
        self._reader_path = ""
        self._windows: dict[int, asyncio.Task[bytes]] = {}
        self._next_window = 0

    @property
    def is_dirty(self) -> bool:
        return self._tail is not None or bool(self._patch)

    # --- reading --------------------------------------------------------------------------------

    async def read(self, offset: int, length_bytes: int) -> bytes:
        """Bytes as of now, with all that was written here before; fewer only at the end."""
        if self.is_dirty:
            await self.flush()
        index = offset // WINDOW_BYTES
        if index not in self._windows and index != self._next_window:
            return await self._pread(offset, length_bytes)
        found = bytearray()
        while len(found) < length_bytes:
            at = offset + len(found)
            window = await self._window(at // WINDOW_BYTES)
            start = at % WINDOW_BYTES
            piece = window[start : start + length_bytes - len(found)]
            found += piece
            if start + len(piece) < WINDOW_BYTES and len(found) < length_bytes:
                break  # the file ends in this window
        return bytes(found)

    async def _window(self, index: int) -> bytes:
        for ahead in range(index, index + 1 + WINDOWS_AHEAD):
            if ahead not in self._windows and (ahead == index or ahead * WINDOW_BYTES < self.length_bytes):
                reading = self._pread(ahead * WINDOW_BYTES, WINDOW_BYTES)
                self._windows[ahead] = asyncio.get_running_loop().create_task(reading)
        task = self._windows[index]
        self._next_window = index + 1
        while len(self._windows) > WINDOWS_KEPT:
            oldest = next(iter(self._windows))
            if oldest == index:
                break
            self._forget_window(oldest)
        try:
            window = await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            # The file has changed meanwhile, and what was read ahead was dropped.
            return await self._pread(index * WINDOW_BYTES, WINDOW_BYTES)
        except BaseException:
            self._windows.pop(index, None)
            raise
        if len(window) < WINDOW_BYTES:
            self._windows.pop(index, None)  # the file may grow by the next read
        return window

    def _forget_window(self, index: int) -> None:
        task = self._windows.pop(index)
        task.cancel()

    async def _pread(self, offset: int, length_bytes: int) -> bytes:
        try:
            return await (await self._open_reader()).pread(offset, length_bytes)
        except Superseded:
            await self._drop_reader()  # it was replaced, here or elsewhere; the file at the path is read now
            return await (await self._open_reader()).pread(offset, length_bytes)

    async def _open_reader(self) -> AsyncReader:
        if self._reader is None or self._reader_path != self.path:
            await self._drop_reader()
            path = self.path
            self._reader, self._reader_path = await self._client.open(path, "rb"), path
        return self._reader

    async def _drop_reader(self) -> None:
        for index in list(self._windows):
            self._forget_window(index)
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()

    async def look_again(self) -> int:
        """The length as of now; somebody else may write to the file, too."""
        if not self.is_dirty:
            await self._drop_reader()
            self.length_bytes = await (await self._open_reader()).length()
        return self.length_bytes

    # --- writing --------------------------------------------------------------------------------

    async def write(self, offset: int, data: bytes) -> None:
        """Accept all of `data`. Raises: what made an earlier write fail; then it goes on failing."""
        async with self._changing:
            if self._failure is not None:
                raise self._failure
            try:
                await self._write(offset, data)
            except GfsError as error:
                await self._fail(error)
                raise

    async def _write(self, offset: int, data: bytes) -> None:
        if self._reader is not None:
            await self._drop_reader()
        if offset > self.length_bytes:
            await self._grow(offset)
        before = data[: max(0, self.length_bytes - offset)]
        if before:
            await self._overwrite(offset, before)
        behind = data[len(before) :]
        if behind:
            await self._append(behind)

    async def _append(self, data: bytes) -> None:
        await self._write_patch()
        if self._tail is None:
            self._tail = await self._client.open(self.path, "ab")
            self.length_bytes = self._tail.tell()  # whoever else appends to it, nothing of theirs is lost
        await self._tail.write(data)
        self.length_bytes += len(data)

    async def _overwrite(self, offset: int, data: bytes) -> None:
        await self._end_tail()
        goes_on = self._patch and offset == self._patch_offset + len(self._patch)
        if not goes_on or len(self._patch) + len(data) > PATCH_BYTES_MAX:
            await self._write_patch()
            self._patch_offset = offset
        self._patch += data

    async def _write_patch(self) -> None:
        if self._patch:
            patch, self._patch = bytes(self._patch), bytearray()
            await self._client.write(self.path, self._patch_offset, patch)

    async def _end_tail(self) -> None:
        tail, self._tail = self._tail, None
        if tail is not None:
            await tail.close()

    async def _grow(self, length_bytes: int) -> None:
        """Zeros up to there. A chunk is filled by writing its last byte; none may be left out."""
        await self._settle()
        while self.length_bytes < length_bytes:
            chunk_end = (self.length_bytes // CHUNK_BYTES + 1) * CHUNK_BYTES
            last = min(chunk_end, length_bytes) - 1
            await self._client.write(self.path, last, b"\0")
            self.length_bytes = last + 1

    async def flush(self) -> None:
        """Return when every byte is on every replica, and masters know the length. Raises: as write()."""
        async with self._changing:
            if self._failure is not None:
                raise self._failure
            try:
                await self._settle()
            except GfsError as error:
                await self._fail(error)
                raise

    async def _settle(self) -> None:
        await self._end_tail()
        await self._write_patch()

    async def _fail(self, error: GfsError) -> None:
        self._failure, self._patch = error, bytearray()
        tail, self._tail = self._tail, None
        if tail is not None:
            await tail.discard()

    async def truncate(self, length_bytes: int) -> None:
        """Cut off, or fill up with zeros. Chunks are never shortened: what is kept is copied to a new file,
        which takes the name; the old one goes to the trash."""
        async with self._changing:
            await self._settle()
            await self._drop_reader()
            if length_bytes > self.length_bytes:
                await self._grow(length_bytes)
            elif length_bytes < self.length_bytes:
                await self._cut(length_bytes)

    async def _cut(self, length_bytes: int) -> None:
        if length_bytes == 0:
            await self._client.create(self.path, replace=True)
        else:
            async with (
                await self._client.open(self.path, "rb") as old,
                await self._client.open(self.path, "wb", atomic=True) as new,
            ):
                left = length_bytes
                while left and (piece := await old.read(min(left, COPY_BYTES))):
                    await new.write(piece)
                    left -= len(piece)
        entry = await self._client.stat(self.path)
        if entry.mode != self._mode:
            await self._client.chmod(self.path, self._mode)
        self.inode, self.length_bytes = entry.inode, length_bytes

    def mode_changed(self, mode: int) -> None:
        self._mode = mode

    async def close(self) -> None:
        """After the last handle. What was not flushed was told to nobody."""
        try:
            if self._failure is None:
                await self.flush()
        finally:
            await self._drop_reader()
