"""CRC32C, and the sums of a pushed piece: what clients, chunk servers and the bulk wire share. No I/O."""

from __future__ import annotations

from collections.abc import Callable

from crc32c import crc32c as _plain_crc32c

from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, CHUNK_BYTES

Crc32c = Callable[..., int]  # (data, previous=0) -> sum

_PROBE = bytes(range(256)) * 5


def _choose() -> Crc32c:
    try:
        from awscrt.checksums import crc32c as fast  # 2.5 times as fast, but an extra
    except ImportError:
        return _plain_crc32c
    assert fast(_PROBE, 7) == _plain_crc32c(_PROBE, 7)
    assert fast(memoryview(_PROBE)[3:1001]) == _plain_crc32c(_PROBE[3:1001])
    return fast  # type: ignore[no-any-return]  # the package is not typed


crc32c: Crc32c = _choose()
"""crc32c(data, previous=0): the sum of the bytes summed in `previous` followed by `data`."""


def blocks_touched(offset: int, length: int) -> int:
    """How many blocks the bytes offset … offset + length - 1 lie in; 0 for no bytes."""
    if length == 0:
        return 0
    return (offset + length - 1) // CHECKSUM_BLOCK_BYTES - offset // CHECKSUM_BLOCK_BYTES + 1


def piece_checksums(offset: int, piece: bytes | bytearray | memoryview) -> list[int]:
    """One sum per block that `piece`, placed at `offset` of its chunk, touches; over its own bytes alone.

    Releases the interpreter lock block by block, so a worker thread may do it beside the event loop.
    """
    view = memoryview(piece)
    assert offset >= 0 and offset + len(view) <= CHUNK_BYTES, (offset, len(view))
    sums: list[int] = []
    start = 0
    while start < len(view):
        stop = min(len(view), start + CHECKSUM_BLOCK_BYTES - (offset + start) % CHECKSUM_BLOCK_BYTES)
        sums.append(crc32c(view[start:stop]))
        start = stop
    return sums
