"""CRC32C of the blocks a piece touches, as the bulk wire's Gfs-Checksums carries them. No I/O."""

from __future__ import annotations

from collections.abc import Callable

from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, CHUNK_BYTES


def _choose() -> Callable[[memoryview], int]:
    try:
        from awscrt.checksums import crc32c as fast  # 2.5 times as fast, but an extra
    except ImportError:
        from crc32c import crc32c as plain

        return lambda data: int(plain(data))
    return lambda data: int(fast(data))


_crc32c = _choose()


def piece_checksums(offset: int, piece: memoryview) -> list[int]:
    """One CRC32C per 64 KiB block that `piece`, placed at `offset` of its chunk, touches.

    A block touched in part is summed over the touched bytes alone. Releases the interpreter lock block
    by block, so a worker thread may do it beside the event loop.
    """
    assert offset >= 0 and offset + len(piece) <= CHUNK_BYTES, (offset, len(piece))
    checksums: list[int] = []
    start = 0
    while start < len(piece):
        stop = min(len(piece), start + CHECKSUM_BLOCK_BYTES - (offset + start) % CHECKSUM_BLOCK_BYTES)
        checksums.append(_crc32c(piece[start:stop]))
        start = stop
    return checksums
