"""Open files: a reader with a position, and a writer that publishes what it wrote at close."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Self

from gfs.client.mutator import Mutator
from gfs.client.read_ahead import ReadAhead
from gfs.client.reader import Reader
from gfs.errors import InvalidArgument
from gfs.messages.namespace import Entry
from gfs.settings import READ_RANGE_BYTES

DIRECT_READ_BYTES = 2 * READ_RANGE_BYTES  # as long a read is split and goes straight to its caller's memory
UNASKED_BYTES_MAX = 4 * 2**20  # memory for a longer read is made, and cleared, once it is known what there is


class AsyncReader:
    """A file open for reading, not older than the moment it was opened.

    Positioned reads are for one task at a time; pread() may be in flight any number of times.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._ahead = ReadAhead(reader)
        self._position = 0
        self._read_until = 0  # a read that starts where the last one ended goes on in sequence
        self._closed = False

    @property
    def entry(self) -> Entry:
        """The file as of the newest lookup."""
        return self._reader.entry

    async def length(self) -> int:
        """Exact length in bytes. Raises: DataUnavailable."""
        return await self._reader.exact_length()

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int) -> int:
        """Set the position, in bytes from the start; reads past the end give nothing."""
        if offset < 0:
            raise InvalidArgument(f"cannot seek to {offset}: that is before the start of the file")
        self._position = offset
        return offset

    async def read(self, length_bytes: int = -1) -> bytes:
        """`length_bytes` from the position on, fewer only when the file ends; -1 reads to the end.

        Raises: DataUnavailable naming file, chunk and servers; Superseded when another file took the path.
        """
        self._check_open()
        if length_bytes < 0:
            return await self._read_to_end()
        if length_bytes < DIRECT_READ_BYTES and self._in_sequence:
            slices = await self._read_slices(length_bytes)
            return bytes(slices[0]) if len(slices) == 1 else b"".join(slices)
        buffer = await self._buffer(self._position, length_bytes)
        count = await self._read_direct(memoryview(buffer))
        return bytes(memoryview(buffer)[:count])

    async def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill `buffer` from the position on; the count is smaller only at the end of the file.

        Raises: as read().
        """
        self._check_open()
        view = memoryview(buffer).cast("B")
        if len(view) >= DIRECT_READ_BYTES or not self._in_sequence:
            return await self._read_direct(view)
        filled = 0
        for piece in await self._read_slices(len(view)):
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
        return filled

    async def read_views(self, length_bytes: int) -> list[memoryview]:
        """As read(), in slices of memory of this file's own: they are valid until the next call of it."""
        self._check_open()
        return await self._read_slices(length_bytes)

    async def pread(self, offset: int, length_bytes: int) -> bytes:
        """Bytes at `offset`, whatever the position; fewer only at the end. Raises: as read()."""
        self._check_open()
        if offset < 0 or length_bytes < 0:
            raise InvalidArgument(f"cannot read {length_bytes} bytes at {offset}")
        buffer = await self._buffer(offset, length_bytes)
        part = await self._reader.read_into(offset, memoryview(buffer))
        return bytes(memoryview(buffer)[: part.length_bytes])

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._ahead.drop()
            await self._reader.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def _in_sequence(self) -> bool:
        return self._position == self._read_until

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidArgument("the file is closed")

    async def _buffer(self, offset: int, length_bytes: int) -> bytearray:
        """For so many bytes from `offset`; of a long range no more than the file can fill."""
        if length_bytes > UNASKED_BYTES_MAX:
            length_bytes = min(length_bytes, max(0, await self._reader.exact_length() - offset))
        return bytearray(length_bytes)

    async def _read_slices(self, length_bytes: int) -> list[memoryview]:
        # The first read of a file is in sequence, but says nothing yet about a second one.
        ahead = self._position > 0
        slices = await self._ahead.read(self._position, length_bytes, ahead=ahead)
        self._moved(sum(map(len, slices)))
        return slices

    async def _read_direct(self, view: memoryview) -> int:
        await self._ahead.drop()
        count = (await self._reader.read_into(self._position, view)).length_bytes
        self._moved(count)
        return count

    def _moved(self, count: int) -> None:
        self._position += count
        self._read_until = self._position

    async def _read_to_end(self) -> bytes:
        whole = memoryview(bytearray(max(0, await self._reader.exact_length() - self._position)))
        # Never resized: tries that have failed may hold views of it for as long as their tracebacks live.
        pieces: list[bytes | memoryview] = [whole[: await self._read_direct(whole)]]
        if not self._reader.entry.length_exact:
            # Somebody writes to it: what came meanwhile belongs to what is read.
            while more := await self.read(READ_RANGE_BYTES):
                pieces.append(more)
        return b"".join(pieces)


class AsyncWriter:
    """A file open for writing, from its start. One task at a time.

    write() accepts bytes; they are safe, on every replica, when flush() or close() has returned. Leaving the
    context by an exception discards: an atomic writer's path is then as it was before.
    """

    def __init__(
        self,
        mutator: Mutator,
        *,
        path: str,
        finish: Callable[[int], Awaitable[None]],
        discard: Callable[[], Awaitable[None]],
    ) -> None:
        self._mutator = mutator
        self._path = path
        self._finish = finish  # called once with the length, after all is acknowledged
        self._discard = discard
        self._ended = False

    @property
    def path(self) -> str:
        return self._path

    @property
    def closed(self) -> bool:
        return self._ended

    def tell(self) -> int:
        return self._mutator.offset

    async def write(self, data: bytes | bytearray | memoryview) -> int:
        """Accept all of `data`; it may be changed afterwards. Waits while the pipeline is full.

        Raises: what made an earlier write fail; then the file cannot be written any further.
        """
        self._check_open()
        view = memoryview(data)
        await self._mutator.write(data)
        return view.nbytes

    def space(self) -> memoryview:
        """Memory to put the next bytes into, for writing without a copy; then advance()."""
        self._check_open()
        return self._mutator.space()

    async def advance(self, length_bytes: int) -> None:
        """The first `length_bytes` of space() are the next bytes. Raises: as write()."""
        self._check_open()
        await self._mutator.advance(length_bytes)

    async def flush(self) -> None:
        """Return when every byte written so far is on every replica. Raises: as write()."""
        self._check_open()
        await self._mutator.flush()

    async def close(self) -> None:
        """Flush, tell the master the length, and publish an atomic file under its path.

        Raises: when any byte is not acknowledged; an atomic file is then not published.
        """
        if self._ended:
            return
        try:
            await self._mutator.flush()
            await self._finish(self._mutator.offset)
        except BaseException:
            await self.discard()
            raise
        self._ended = True
        await self._mutator.abort()  # nothing is under way any more but prefetched leases

    async def discard(self) -> None:
        """Stop. An atomic file never appears; another keeps what has been written of it."""
        if self._ended:
            return
        self._ended = True
        await self._mutator.abort()
        await self._discard()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await self.close()
        else:
            await self.discard()

    def _check_open(self) -> None:
        if self._ended:
            raise InvalidArgument(f"{self._path} is closed")
