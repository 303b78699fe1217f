"""Bytes that say who wrote them are found again, whatever lies between, and never where they are spoilt."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from gfs.checksums import crc32c
from gfs.client.core.record_framing import FRAME_BYTES, frame
from gfs.verification.workloads.marks import (
    CELL_BYTES,
    RECORD_HEAD_BYTES,
    find_records,
    find_spans,
    make_cells,
    make_record,
    record_id,
)


def test_records_are_found_between_padding_and_rubbish() -> None:
    chance = random.Random(1)
    one, two = make_record(3, 1, 200, chance), make_record(4, 9, 0, chance)
    data = one + bytes(50) + b"rubbish" + two + b"tail"
    found = find_records(data, 1000)
    second = 1000 + len(one) + 57
    assert found.records == [
        (1000, record_id(3, 1), len(one), crc32c(one)),
        (second, record_id(4, 9), RECORD_HEAD_BYTES, crc32c(two)),
    ]
    assert found.strange == [(second - 7, 7), (second + len(two), 4)]


def test_a_framed_record_is_found_where_its_frame_begins() -> None:
    record = make_record(5, 2, 70, random.Random(4))
    data = bytes(16) + frame(record, bytes(range(16))) + frame(record, bytes(16))
    assert [(r.offset, r.id, r.length) for r in find_records(data).records] == [
        (16, record_id(5, 2), len(record)),
        (16 + FRAME_BYTES + len(record), record_id(5, 2), len(record)),
    ]


@given(st.integers(0, 299), st.integers(1, 255))
def test_a_record_with_one_spoilt_byte_is_no_record(place: int, change: int) -> None:
    data = bytearray(make_record(1, 1, 300 - RECORD_HEAD_BYTES, random.Random(2)))
    data[place] ^= change
    found = find_records(bytes(data))
    assert not found.records and found.strange


def test_half_a_record_is_strange_and_hides_none_behind_it() -> None:
    chance = random.Random(3)
    one, two = make_record(1, 1, 300, chance), make_record(1, 2, 100, chance)
    found = find_records(one[:150] + two)
    assert [seen.id for seen in found.records] == [record_id(1, 2)] and found.strange == [(0, 150)]


def test_cells_tell_whose_they_are() -> None:
    data = (
        make_cells(7, 4 * CELL_BYTES)
        + bytes(2 * CELL_BYTES)
        + make_cells(9, CELL_BYTES)
        + b"\x01" * (2 * CELL_BYTES)
    )
    assert find_spans(data, 64) == [(64, 32, 7), (96, 16, 0), (112, 8, 9), (120, 16, -1)]
    assert find_spans(make_cells(7, 16)[:12]) == [(0, 8, 7), (8, 4, -1)]


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(1, 1500)), max_size=8))
def test_spans_cover_all_bytes_once_and_say_what_each_cell_says(parts: list[tuple[int, int]]) -> None:
    def cell(tag: int) -> bytes:
        return b"\xff" * CELL_BYTES if tag < 0 else make_cells(tag, CELL_BYTES) if tag else bytes(CELL_BYTES)

    data = b"".join(cell(tag) * count for tag, count in parts)
    tags = [tag for tag, count in parts for _ in range(count)]
    told = [tag for _, length, tag in find_spans(data) for _ in range(length // CELL_BYTES)]
    assert told == tags


def test_a_record_behind_megabytes_of_zeros_is_found() -> None:
    record = make_record(1, 1, 10, random.Random(1))
    for zeros in (2**20 - 1, 2**20, 3 * 2**20 + 5):
        assert [r.offset for r in find_records(bytes(zeros) + record).records] == [zeros]
        assert find_records(bytes(zeros)) == ([], [])
