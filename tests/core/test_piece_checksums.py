"""CRC32C of the blocks a piece touches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gfs.checksums import piece_checksums
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES


def _crc32c_bit_by_bit(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_the_checksum_is_crc32c() -> None:
    assert piece_checksums(0, memoryview(b"123456789")) == [0xE3069283]
    data = bytes(range(256)) * 3
    assert piece_checksums(0, memoryview(data)) == [_crc32c_bit_by_bit(data)]


@given(offset=st.integers(0, 3 * CHECKSUM_BLOCK_BYTES), length=st.integers(0, 3 * CHECKSUM_BLOCK_BYTES))
def test_each_touched_block_has_a_checksum_of_exactly_its_touched_bytes(offset: int, length: int) -> None:
    data = memoryview((b"%d" % offset * length)[:length].ljust(length, b"x"))
    found = piece_checksums(offset, data)
    expected = []
    for block in range(offset // CHECKSUM_BLOCK_BYTES, (offset + length - 1) // CHECKSUM_BLOCK_BYTES + 1):
        start = max(offset, block * CHECKSUM_BLOCK_BYTES)
        stop = min(offset + length, (block + 1) * CHECKSUM_BLOCK_BYTES)
        if start < stop:
            expected += piece_checksums(0, data[start - offset : stop - offset])
    assert found == expected
