"""Block checksums: whatever is appended, overwritten, skipped or cut, they are those of the bytes."""

from __future__ import annotations

import random
from array import array

import crc32c as reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gfs.checksums import blocks_touched, crc32c, piece_checksums
from gfs.chunkserver.core.checksums import (
    ZERO_BLOCK_CHECKSUM,
    first_bad_block,
    sums_after_gap,
    sums_of_written_blocks,
    zeros_checksum,
)
from gfs.errors import ChecksumMismatch, InvalidArgument
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, CHUNK_BYTES

BLOCK = CHECKSUM_BLOCK_BYTES
sizes = st.one_of(
    st.integers(1, 40),
    st.sampled_from([BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 7]),
    st.integers(1, 3 * BLOCK),
)


def plain_sums(content: bytes | bytearray) -> list[int]:
    return [reference.crc32c(bytes(content[at : at + BLOCK])) for at in range(0, len(content), BLOCK)]


def test_the_polynomial_is_castagnoli() -> None:
    assert crc32c(b"123456789") == 0xE3069283


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_sum_can_be_continued(first: bytes, second: bytes) -> None:
    assert crc32c(second, crc32c(first)) == reference.crc32c(first + second)


def test_the_sum_of_a_hole_is_a_constant() -> None:
    assert reference.crc32c(bytes(BLOCK)) == ZERO_BLOCK_CHECKSUM
    assert zeros_checksum(5, crc32c(b"a")) == reference.crc32c(b"a" + bytes(5))


@given(offset=st.integers(0, CHUNK_BYTES - 3 * BLOCK), length=sizes)
@settings(max_examples=50)
def test_a_piece_has_one_sum_per_block_it_touches(offset: int, length: int) -> None:
    piece = random.Random(offset).randbytes(length)
    sums = piece_checksums(offset, piece)
    assert len(sums) == blocks_touched(offset, length)
    position = 0
    for found in sums:
        stop = min(length, position + BLOCK - (offset + position) % BLOCK)
        assert found == reference.crc32c(piece[position:stop])
        position = stop
    assert position == length


@pytest.mark.parametrize("bad", [0, BLOCK - 1, BLOCK, 2 * BLOCK + 4])
def test_one_flipped_bit_is_found_in_its_block(bad: int) -> None:
    content = bytearray(random.Random(1).randbytes(2 * BLOCK + 5))
    sums = plain_sums(content)
    assert first_bad_block(memoryview(content), sums) == -1
    content[bad] ^= 16
    assert first_bad_block(memoryview(content), sums) == bad // BLOCK


def test_given_sums_must_be_one_per_block() -> None:
    with pytest.raises(InvalidArgument):
        sums_of_written_blocks(10, memoryview(b"abc"), prefix_sum=0, given=[1, 2])


def test_a_given_sum_that_does_not_fit_resummed_bytes_is_found() -> None:
    with pytest.raises(ChecksumMismatch):
        sums_of_written_blocks(10, memoryview(b"abc"), prefix_sum=0, given=[crc32c(b"abd")])


class BlockSums(RuleBasedStateMachine):
    """A chunk as bytes beside a chunk as (length, sums of full blocks, sum of the tail)."""

    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.content = bytearray()
        self.full: array[int] = array("I")
        self.tail = 0

    @rule(gap=st.one_of(st.just(0), sizes), length=sizes, is_given=st.booleans())
    def append(self, gap: int, length: int, is_given: bool) -> None:
        data = self.chance.randbytes(length)
        offset = len(self.content) + gap
        if offset + length > 20 * BLOCK:
            return
        sums, prefix_sum = sums_after_gap(len(self.content), self.tail, offset)
        given_sums = piece_checksums(offset, data) if is_given else None
        sums.extend(sums_of_written_blocks(offset, memoryview(data), prefix_sum=prefix_sum, given=given_sums))
        self.content += bytes(gap) + data
        self._take(len(self.full), sums)

    @rule(where=st.floats(0, 1, exclude_max=True), length=sizes, is_given=st.booleans())
    def overwrite(self, where: float, length: int, is_given: bool) -> None:
        if not self.content:
            return
        offset = int(where * len(self.content))
        data = self.chance.randbytes(length)
        first = offset // BLOCK
        stop = offset + length
        prefix_sum = crc32c(bytes(self.content[first * BLOCK : offset]))
        suffix = bytes(self.content[stop : ((stop - 1) // BLOCK + 1) * BLOCK])
        given_sums = piece_checksums(offset, data) if is_given else None
        sums = sums_of_written_blocks(
            offset, memoryview(data), prefix_sum=prefix_sum, suffix=suffix, given=given_sums
        )
        self.content[offset:stop] = data
        self._take(first, sums)

    def _take(self, first: int, sums: array[int]) -> None:
        full_blocks = len(self.content) // BLOCK
        if first + len(sums) > full_blocks:
            self.tail = sums.pop()
        elif len(self.content) % BLOCK == 0:
            self.tail = 0
        self.full[first : first + len(sums)] = sums

    @invariant()
    def the_sums_are_those_of_the_bytes(self) -> None:
        if not hasattr(self, "content"):
            return
        tail = [self.tail] if len(self.content) % BLOCK else []
        assert [*self.full, *tail] == plain_sums(self.content)


TestBlockSums = BlockSums.TestCase
TestBlockSums.settings = settings(max_examples=30, stateful_step_count=12, deadline=None)
