"""CRC32C over 64 KiB blocks: sums of appends, of overwrites, of holes. No I/O, no index.

A chunk's bytes are summed per block of CHECKSUM_BLOCK_BYTES; the last, partial block has the sum of what is
committed in it. CRC32C is incremental, so an append never reads back the block it extends (GFS §5.2).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from gfs.checksums import blocks_touched, crc32c
from gfs.disk import Bytes
from gfs.errors import ChecksumMismatch, InvalidArgument
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, CHUNK_BYTES

SUM_BYTES = 4
_ZEROS = memoryview(bytes(CHECKSUM_BLOCK_BYTES))

assert array("I", [1]).tobytes() == b"\1\0\0\0"  # sums are stored as the machine holds them: 4 bytes, little


def zeros_checksum(length: int, previous: int = 0) -> int:
    """The sum after `length` zero bytes, at most one block of them: what a hole reads as."""
    return crc32c(_ZEROS[:length], previous)


ZERO_BLOCK_CHECKSUM = zeros_checksum(CHECKSUM_BLOCK_BYTES)


def sums_after_gap(length: int, tail_sum: int, offset: int) -> tuple[array[int], int]:
    """Sums when a chunk of `length` bytes is continued by zeros up to `offset`.

    Returns: the sums of the blocks that become full, from block length // CHECKSUM_BLOCK_BYTES on, and the
    sum of the partial block that ends at `offset` (0 when there is none).
    """
    assert length <= offset <= CHUNK_BYTES, (length, offset)
    filled = array("I")
    running = tail_sum
    while length < offset:
        step = min(CHECKSUM_BLOCK_BYTES - length % CHECKSUM_BLOCK_BYTES, offset - length)
        running = ZERO_BLOCK_CHECKSUM if step == CHECKSUM_BLOCK_BYTES else zeros_checksum(step, running)
        length += step
        if length % CHECKSUM_BLOCK_BYTES == 0:
            filled.append(running)
            running = 0
    return filled, running


def sums_of_written_blocks(
    offset: int,
    data: memoryview,
    *,
    prefix_sum: int,
    suffix: Bytes = b"",
    given: Sequence[int] | None = None,
) -> array[int]:
    """Sums of the blocks that `data` at `offset` touches, as they are after the write.

    Args:
        prefix_sum: sum of the first block's bytes before `offset` (0 when `offset` begins a block).
        suffix: committed bytes that follow `data` in its last block.
        given: sums of the piece alone, as piece_checksums() gives them; blocks covered whole take them over.
    Raises:
        InvalidArgument: `given` has another number of blocks.
        ChecksumMismatch: `given` does not fit bytes that had to be summed again: they changed on the way.
    """
    assert data and offset + len(data) <= CHUNK_BYTES, (offset, len(data))
    if given is not None and len(given) != blocks_touched(offset, len(data)):
        raise InvalidArgument(
            f"{len(given)} checksums for {blocks_touched(offset, len(data))} blocks at offset {offset}"
        )
    sums = array("I")
    start = 0
    while start < len(data):
        in_block = (offset + start) % CHECKSUM_BLOCK_BYTES
        stop = min(len(data), start + CHECKSUM_BLOCK_BYTES - in_block)
        alone = crc32c(data[start:stop]) if given is None else given[len(sums)]
        if in_block:
            if given is not None and crc32c(data[start:stop]) != alone:
                raise ChecksumMismatch(f"the piece's bytes for offset {offset} do not have the checksum sent")
            alone = crc32c(data[start:stop], prefix_sum)
        sums.append(alone)
        start = stop
    if suffix:
        sums[-1] = crc32c(suffix, sums[-1])
    return sums


def first_bad_block(data: memoryview, sums: Sequence[int]) -> int:
    """Position in `sums` of the first block of `data` with another sum, or -1. `data` begins a block."""
    assert blocks_touched(0, len(data)) == len(sums), (len(data), len(sums))
    start = 0
    for position, expected in enumerate(sums):
        if crc32c(data[start : start + CHECKSUM_BLOCK_BYTES]) != expected:
            return position
        start += CHECKSUM_BLOCK_BYTES
    return -1
