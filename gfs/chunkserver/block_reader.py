"""Reads a chunk's committed bytes and verifies every block they lie in. Knows nothing of versions.

Or tells the sums by which the reader verifies at its own end what the kernel sends as it is.
"""

from __future__ import annotations

import threading
from array import array

from gfs.checksums import crc32c
from gfs.chunkserver.core.checksums import first_bad_block
from gfs.chunkserver.core.chunk_record import ChunkHeader
from gfs.chunkserver.stores.interface import ChunkStore
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, ChunkHandle

_BLOCK = CHECKSUM_BLOCK_BYTES


class BlockReader:
    """Thread-safe; each thread has one block of scratch memory.

    `header` and `full` may be those of a moment ago: what an append adds behind them does not matter, and a
    concurrent overwrite or cut shows as a bad block, which is to be believed only under the chunk's lock.
    """

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self._own = threading.local()

    def read(
        self, handle: ChunkHandle, header: ChunkHeader, full: array[int], offset: int, buffer: memoryview
    ) -> int:
        """Fill `buffer` from `offset`, all within the committed length; returns a bad block, or -1.

        Blocks covered whole, up to the committed length, are read straight into `buffer`.
        Raises: KeyError (no bytes at all), OSError.
        """
        stop = offset + len(buffer)
        assert offset >= 0 and stop <= header.length_bytes, (offset, len(buffer), header)
        position = offset
        if position % _BLOCK:
            position = min(stop, position - position % _BLOCK + _BLOCK)
            if not self._read_part(handle, header, full, offset, buffer[: position - offset]):
                return offset // _BLOCK
        whole_stop = stop if stop == header.length_bytes else max(position, stop - stop % _BLOCK)
        if position < whole_stop:
            bad = self._read_whole(
                handle, header, full, position, buffer[position - offset : whole_stop - offset]
            )
            if bad >= 0:
                return bad
            position = whole_stop
        if position < stop and not self._read_part(
            handle, header, full, position, buffer[position - offset :]
        ):
            return position // _BLOCK
        return -1

    def sums(
        self, handle: ChunkHandle, header: ChunkHeader, full: array[int], offset: int, length: int
    ) -> array[int] | None:
        """The sum of each block that the bytes from `offset` on touch, over these bytes alone.

        Blocks covered whole, up to the committed length, are not looked at. One covered in part, at either
        end, is verified, and the part summed. None: a bad block, or a cut has taken some away.
        Raises: KeyError, OSError.
        """
        stop = offset + length
        assert 0 <= offset < stop <= header.length_bytes, (offset, length, header)
        first, last = offset // _BLOCK, (stop - 1) // _BLOCK
        sums = _sums(header, full, first, last + 1)
        for block in {first, last}:
            start, end = block * _BLOCK, min(block * _BLOCK + _BLOCK, header.length_bytes)
            if sums and (offset > start or stop < end):
                found = self.block(handle, header, full, block)
                if found is None:
                    return None
                sums[block - first] = crc32c(found[max(0, offset - start) : min(stop, end) - start])
        return sums or None

    def block(
        self, handle: ChunkHandle, header: ChunkHeader, full: array[int], block: int
    ) -> memoryview | None:
        """The committed bytes of one block, verified, in this thread's scratch memory; None: a bad block."""
        start = block * _BLOCK
        committed = min(_BLOCK, header.length_bytes - start)
        assert committed > 0, (block, header)
        scratch = self._scratch()[:committed]
        expected = _sums(header, full, block, block + 1)
        if not expected or self._store.read_into(handle, scratch, start) < committed:
            return None
        return scratch if crc32c(scratch) == expected[0] else None

    def _read_part(
        self, handle: ChunkHandle, header: ChunkHeader, full: array[int], offset: int, part: memoryview
    ) -> bool:
        found = self.block(handle, header, full, offset // _BLOCK)
        if found is None:
            return False
        in_block = offset % _BLOCK
        part[:] = found[in_block : in_block + len(part)]
        return True

    def _read_whole(
        self, handle: ChunkHandle, header: ChunkHeader, full: array[int], offset: int, part: memoryview
    ) -> int:
        first = offset // _BLOCK
        expected = _sums(header, full, first, (offset + len(part) - 1) // _BLOCK + 1)
        if not expected or self._store.read_into(handle, part, offset) < len(part):
            return first
        bad = first_bad_block(part, expected)
        return -1 if bad < 0 else first + bad

    def _scratch(self) -> memoryview:
        scratch: memoryview | None = getattr(self._own, "scratch", None)
        if scratch is None:
            scratch = self._own.scratch = memoryview(bytearray(_BLOCK))
        return scratch


def _sums(header: ChunkHeader, full: array[int], first: int, stop: int) -> array[int]:
    """Sums of blocks first … stop - 1 under `header`; empty when a cut has taken some away meanwhile."""
    sums = full[first : min(stop, header.full_blocks)]
    if stop > header.full_blocks:
        sums.append(header.tail_sum)
    return sums if len(sums) == stop - first else array("I")
