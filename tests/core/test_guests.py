"""What a copy under way may be, what of it has to be fetched, and when it may become a replica (GFS §4.3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfs.chunkserver.core.chunk_record import FILLING, WHOLE, ChunkHeader
from gfs.chunkserver.core.guests import header_to_fill, ranges_missing, require_filling, whole_header
from gfs.chunkserver.core.recovery import may_have_lost_bytes
from gfs.chunkserver.core.versions import header_after_bump, held
from gfs.errors import GfsError, NotFound, StaleVersion, Superseded
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, ChunkHandle, ChunkVersion, Term

CHUNK = ChunkHandle(9)
BLOCK = CHECKSUM_BLOCK_BYTES


def fill(header: ChunkHeader | None, version: int, *, source_bytes: int = 0, term: int = 5) -> ChunkHeader:
    return header_to_fill(
        header, CHUNK, ChunkVersion(version), source_bytes=source_bytes, master_term=Term(term)
    )


def replica(version: int, *, length: int = 0, guest: int = 0, term: int = 5) -> ChunkHeader:
    return ChunkHeader(
        ChunkVersion(version), length, 7 if length % BLOCK else 0, 3, Term(term), ChunkVersion(0), guest=guest
    )


def bump(header: ChunkHeader, version: int, *, oldest: int, create: bool = False) -> ChunkHeader:
    return header_after_bump(
        header,
        CHUNK,
        ChunkVersion(version),
        oldest_version=ChunkVersion(oldest),
        create=create,
        master_term=Term(5),
    )


def test_copy_begins_empty_where_nothing_is() -> None:
    made = fill(None, 4, source_bytes=100)
    assert (made.version, made.length_bytes, made.guest, made.revision) == (4, 0, FILLING, 1)


def test_stale_replica_becomes_the_beginning_of_the_copy_up_to_its_last_full_block() -> None:
    stale = replica(3, length=2 * BLOCK + 5)
    assert fill(stale, 4, source_bytes=9 * BLOCK).length_bytes == 2 * BLOCK
    assert fill(stale, 4, source_bytes=BLOCK + 1).length_bytes == BLOCK
    assert fill(stale, 4, source_bytes=0).guest == FILLING


@pytest.mark.parametrize("version", [4, 5])
def test_replica_of_the_version_or_a_later_one_is_never_turned_into_a_copy(version: int) -> None:
    with pytest.raises(StaleVersion):
        fill(replica(version), 4)
    with pytest.raises(StaleVersion):
        fill(replica(5, guest=FILLING), 4)


def test_master_of_an_older_term_cannot_have_a_copy_made() -> None:
    with pytest.raises(Superseded):
        fill(replica(3, term=6), 4, term=5)
    with pytest.raises(Superseded):
        fill(replica(4, guest=WHOLE, term=6), 4, term=5)


def test_whole_copy_is_left_alone_by_a_repetition_and_refilled_for_a_later_version() -> None:
    whole = replica(4, length=BLOCK, guest=WHOLE)
    assert fill(whole, 4, source_bytes=BLOCK) is whole
    assert fill(whole, 5, source_bytes=BLOCK).guest == FILLING


def test_guest_is_held_by_nobody() -> None:
    for guest in (FILLING, WHOLE):
        with pytest.raises(NotFound):
            held(replica(4, guest=guest), CHUNK, ChunkVersion(4))


def test_only_a_whole_guest_of_the_fenced_version_becomes_a_replica() -> None:
    whole = replica(4, length=BLOCK, guest=WHOLE)
    joined = bump(whole, 5, oldest=4)
    assert (joined.version, joined.replaced_version, joined.guest) == (5, 4, 0)
    assert bump(joined, 5, oldest=4) is joined
    assert bump(whole, 6, oldest=4).replaced_version == 4  # the bump to 5 was lost
    refused: list[tuple[ChunkHeader, int, int, bool]] = [
        (replica(4, guest=FILLING), 5, 4, False),
        (whole, 6, 5, False),  # version 5 was held by all members: the copy lacks what came under it
        (whole, 5, 0, True),
        (whole, 4, 0, False),
    ]
    for header, version, oldest, create in refused:
        with pytest.raises(GfsError):
            bump(header, version, oldest=oldest, create=create)


def test_whole_guest_keeps_its_length_and_is_in_no_doubt_after_a_power_cut() -> None:
    whole = whole_header(replica(4, length=BLOCK, guest=FILLING), sealed=True)
    assert (whole.guest, whole.sealed, whole.length_bytes) == (WHOLE, True, BLOCK)
    assert not may_have_lost_bytes(replica(4, length=BLOCK, guest=WHOLE))


def test_piece_of_another_copy_is_refused() -> None:
    for header in (None, replica(4), replica(4, guest=WHOLE), replica(3, guest=FILLING)):
        with pytest.raises(StaleVersion):
            require_filling(header, CHUNK, ChunkVersion(4))


@given(
    have=st.lists(st.integers(0, 2), max_size=12),
    wanted=st.lists(st.integers(0, 2), max_size=12),
    tail=st.integers(1, BLOCK),
    piece=st.sampled_from([1, 2, 5]),
)
def test_fetching_what_is_missing_makes_the_copy_equal(
    have: list[int], wanted: list[int], tail: int, piece: int
) -> None:
    length = max(0, len(wanted) - 1) * BLOCK + (tail if wanted else 0)
    have = have[: length // BLOCK]
    got: list[int | None] = [*have]
    end = len(have) * BLOCK
    for offset, size in ranges_missing(have, wanted, length, piece_bytes=piece * BLOCK):
        assert 0 < size <= piece * BLOCK and offset % BLOCK == 0
        assert offset + size <= len(have) * BLOCK or offset == end, "a piece is one overwrite or one append"
        blocks = range(offset // BLOCK, -(-(offset + size) // BLOCK))
        for block in blocks:
            if block < len(got):
                assert block >= len(have) or got[block] != wanted[block], "fetched although it was there"
                got[block] = wanted[block]
            else:
                got.append(wanted[block])
        end = max(end, offset + size)
    assert got == wanted and end == length
