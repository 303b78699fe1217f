"""Decisions at start: replay of one chunk's records, what verifies after a power cut, index against store."""

from __future__ import annotations

import random
from array import array

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfs.checksums import crc32c
from gfs.chunkserver.core.checksums import sums_after_gap, sums_of_written_blocks
from gfs.chunkserver.core.chunk_record import (
    ChunkHeader,
    Deleted,
    Mutated,
    Record,
    Redo,
    RedoDropped,
    decode_records,
    encode_records,
)
from gfs.chunkserver.core.recovery import ChunkReplay, Repair, doubted, may_have_lost_bytes, repair_of
from gfs.errors import CorruptState
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, CHUNK_BYTES, ChunkHandle, ChunkVersion, Term

CHUNK = ChunkHandle(5)
BLOCK = CHECKSUM_BLOCK_BYTES


def header_of(length: int, *, revision: int = 1, sealed: bool = False, tail_sum: int = 0) -> ChunkHeader:
    return ChunkHeader(ChunkVersion(1), length, tail_sum, revision, Term(1), ChunkVersion(0), sealed=sealed)


class Writer:
    """Makes the records of appends to one chunk, beside its bytes."""

    def __init__(self) -> None:
        self.content = b""
        self.header = header_of(0)
        self.records: list[Mutated] = [Mutated(CHUNK, self.header, data_synced=True)]

    def append(self, data: bytes, *, synced: bool = False) -> None:
        sums, prefix = sums_after_gap(len(self.content), self.header.tail_sum, len(self.content))
        sums.extend(sums_of_written_blocks(len(self.content), memoryview(data), prefix_sum=prefix))
        before = self.header
        self.content += data
        tail_sum = sums.pop() if len(self.content) % BLOCK else 0
        self.header = header_of(len(self.content), revision=before.revision + 1, tail_sum=tail_sum)
        self.records.append(Mutated(CHUNK, self.header, before.full_blocks, sums.tobytes(), synced))


def replayed(records: list[Record]) -> ChunkReplay:
    replay = ChunkReplay(CHUNK, None, array("I"))
    for record in records:
        replay.feed(record)
    return replay


def test_records_survive_their_encoding() -> None:
    writer = Writer()
    writer.append(bytes(BLOCK + 3))
    records: list[Record] = [
        *writer.records,
        Redo(writer.records[-1], 7, b"new"),
        RedoDropped(CHUNK),
        Deleted(CHUNK),
    ]
    assert decode_records(encode_records(records)) == records


def test_a_missing_record_is_noticed() -> None:
    writer = Writer()
    for _ in range(3):
        writer.append(b"x")
    with pytest.raises(CorruptState, match="revision 2 to 4"):
        replayed([*writer.records[:2], *writer.records[3:]])


def test_a_redo_waits_until_it_is_concluded_dropped_or_redone() -> None:
    writer = Writer()
    writer.append(b"old")
    outcome = Mutated(CHUNK, header_of(3, revision=3, tail_sum=crc32c(b"new")), data_synced=True)
    redo = Redo(outcome, 0, b"new")
    begun = replayed([*writer.records, redo])
    assert begun.redo == redo and begun.header == writer.header
    assert begun.concluded_redo() == outcome
    assert begun.header == outcome.header and begun.redo is None
    assert replayed([*writer.records, redo, outcome]).redo is None
    dropped = replayed([*writer.records, redo, RedoDropped(CHUNK)])
    assert dropped.redo is None and dropped.header == writer.header
    assert dropped.concluded_redo() is None


def test_a_deleted_chunk_may_begin_a_new_life() -> None:
    writer = Writer()
    writer.append(bytes(2 * BLOCK))
    gone = replayed([*writer.records, Deleted(CHUNK)])
    assert gone.header is None and not gone.full
    again = Mutated(CHUNK, header_of(0), data_synced=True)
    assert replayed([*writer.records, Deleted(CHUNK), again]).header == again.header


@given(
    pieces=st.lists(
        st.tuples(
            st.one_of(st.integers(1, 2000), st.sampled_from([BLOCK, BLOCK + 1, 2 * BLOCK])), st.booleans()
        ),
        min_size=1,
        max_size=12,
    ),
    kept=st.floats(0, 1),
    damaged=st.one_of(st.none(), st.floats(0, 1)),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_after_a_power_cut_the_newest_length_whose_bytes_all_verify_is_taken(
    pieces: list[tuple[int, bool]], kept: float, damaged: float | None, seed: int
) -> None:
    chance = random.Random(seed)
    writer = Writer()
    lengths, synced = [0], 0
    for piece_bytes, is_synced in pieces:
        writer.append(chance.randbytes(piece_bytes), synced=is_synced)
        lengths.append(len(writer.content))
        synced = lengths[-1] if is_synced else synced
    # What was synced is there; of the rest a prefix, and one byte in it may be wrong.
    stored = bytearray(writer.content[: synced + int(kept * (len(writer.content) - synced))])
    good = len(stored)
    if damaged is not None and len(stored) > synced:
        good = synced + int(damaged * (len(stored) - synced - 1))
        stored[good] ^= 1

    def verifies(block: int, committed: int, expected: int) -> bool:
        found = bytes(stored[block * BLOCK : block * BLOCK + committed])
        return len(found) == committed and crc32c(found) == expected

    replay = replayed(list(writer.records))
    replay.cut_to_verified(verifies)
    assert replay.header is not None
    best = max(length for length in lengths if length <= good)
    assert replay.header.length_bytes == best
    assert len(replay.full) == best // BLOCK
    assert replay.header.tail_sum == (
        crc32c(writer.content[best - best % BLOCK : best]) if best % BLOCK else 0
    )


def test_what_was_synced_is_not_looked_at_again() -> None:
    writer = Writer()
    writer.append(bytes(BLOCK + 9), synced=True)
    replay = replayed(list(writer.records))
    assert replay.unverified_blocks() == []
    writer.append(b"abc")
    replay.feed(writer.records[-1])
    assert replay.unverified_blocks() == [(1, 12, writer.header.tail_sum)]


@pytest.mark.parametrize(
    ("header", "stored_bytes", "repair"),
    [
        (header_of(10), 10, Repair()),
        (header_of(10), 25, Repair(cut_to=10)),
        (header_of(0), None, Repair(make=True)),
        (None, None, Repair()),
        (None, 0, Repair(drop=True)),
    ],
)
def test_index_and_store_are_compared(
    header: ChunkHeader | None, stored_bytes: int | None, repair: Repair
) -> None:
    assert repair_of(header, stored_bytes) == repair


@pytest.mark.parametrize("stored_bytes", [None, 0, 9])
def test_missing_bytes_are_damage_never_a_shorter_chunk(stored_bytes: int | None) -> None:
    repair = repair_of(header_of(10), stored_bytes)
    assert repair.corrupt and repair.cut_to is None and not repair.drop and not repair.make


def test_only_a_chunk_that_can_grow_may_have_lost_its_end() -> None:
    assert may_have_lost_bytes(header_of(10))
    assert not may_have_lost_bytes(header_of(10, sealed=True))
    assert not may_have_lost_bytes(header_of(CHUNK_BYTES))
    header = msgspec.structs.replace(header_of(10), version=ChunkVersion(4))
    assert doubted(header).short_version == 4
