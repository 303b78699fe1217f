"""One replica's version, term, length and seal: who may change them, and what is answered (I1, I3, I5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfs.chunkserver.core.chunk_record import ChunkHeader, check_header
from gfs.chunkserver.core.versions import check_cut, header_after_bump, header_after_cut, held
from gfs.errors import (
    ChunkSealed,
    GfsError,
    InvalidArgument,
    NotFound,
    StaleVersion,
    Superseded,
)
from gfs.vocabulary import ChunkHandle, ChunkVersion, Term

CHUNK = ChunkHandle(9)


def bumped(
    header: ChunkHeader | None, version: int, *, oldest: int = 0, create: bool = False, term: int = 5
) -> ChunkHeader:
    return header_after_bump(
        header,
        CHUNK,
        ChunkVersion(version),
        oldest_version=ChunkVersion(oldest),
        create=create,
        master_term=Term(term),
    )


def held_at(version: int, *, term: int = 5, length: int = 100, sealed: bool = False) -> ChunkHeader:
    return ChunkHeader(
        ChunkVersion(version), length, 7, 3, Term(term), ChunkVersion(version - 1), sealed=sealed
    )


def test_a_replica_comes_into_being_only_when_the_master_creates_it() -> None:
    made = bumped(None, 4, create=True)
    assert (made.version, made.replaced_version, made.length_bytes, made.revision) == (4, 0, 0, 1)
    with pytest.raises(NotFound):
        bumped(None, 4)


def test_a_bump_names_the_version_it_replaced_and_so_does_its_repetition() -> None:
    first = bumped(held_at(3), 5, oldest=2)
    assert (first.version, first.replaced_version, first.length_bytes) == (5, 3, 100)
    assert bumped(first, 5, oldest=2) is first
    newer_master = bumped(first, 5, oldest=2, term=6)
    assert (newer_master.replaced_version, newer_master.master_term) == (3, 6)


def test_a_master_of_an_older_term_is_superseded_even_with_a_higher_version() -> None:
    with pytest.raises(Superseded):
        bumped(held_at(3, term=5), 9, term=4)


def test_a_higher_version_held_is_never_lowered() -> None:
    with pytest.raises(StaleVersion) as caught:
        bumped(held_at(6), 5)
    assert caught.value.details["version"] == "6"


def test_a_replica_that_missed_mutations_is_not_brought_up() -> None:
    with pytest.raises(StaleVersion):
        bumped(held_at(3), 9, oldest=4)


@pytest.mark.parametrize(("version", "oldest"), [(0, 0), (-1, 0), (2, 3)])
def test_versions_that_make_no_sense_are_refused(version: int, oldest: int) -> None:
    with pytest.raises(InvalidArgument):
        bumped(None, version, oldest=oldest, create=True)


def test_only_the_version_held_is_served() -> None:
    header = held_at(3)
    assert held(header, CHUNK, ChunkVersion(3)) is header
    for other in (2, 4):
        with pytest.raises(StaleVersion):
            held(header, CHUNK, ChunkVersion(other))
    with pytest.raises(NotFound):
        held(None, CHUNK, ChunkVersion(3))


def test_a_cut_never_lengthens_nor_obeys_an_old_master_nor_breaks_a_seal() -> None:
    check_cut(held_at(3), CHUNK, 40, Term(5))
    with pytest.raises(StaleVersion):
        check_cut(held_at(3), CHUNK, 101, Term(5))
    with pytest.raises(Superseded):
        check_cut(held_at(3), CHUNK, 40, Term(4))
    with pytest.raises(ChunkSealed):
        check_cut(held_at(3, sealed=True), CHUNK, 40, Term(5))
    check_cut(held_at(3, sealed=True), CHUNK, 100, Term(5))
    with pytest.raises(InvalidArgument):
        check_cut(held_at(3), CHUNK, -1, Term(5))


def test_sealing_again_at_the_same_length_changes_nothing() -> None:
    sealed = header_after_cut(held_at(3), 100, tail_sum=7, master_term=Term(5), seal=True)
    assert sealed.sealed
    again = header_after_cut(sealed, 100, tail_sum=7, master_term=Term(5), seal=True)
    assert again is sealed


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6), st.integers(1, 4), st.booleans())))
def test_version_and_term_only_ever_rise(bumps: list[tuple[int, int, int, bool]]) -> None:
    header: ChunkHeader | None = None
    for version, oldest, term, create in bumps:
        before = header
        try:
            header = bumped(header, version, oldest=oldest, create=create, term=term)
        except GfsError:
            continue
        check_header(header)
        if before is not None:
            assert header.version >= before.version and header.master_term >= before.master_term
            assert before.version >= oldest
            assert header.revision == before.revision + (header is not before)
