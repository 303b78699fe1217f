"""Bytes that say whose they are are found again, whatever lies between, and never where they are spoilt."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from gfs.checksums import crc32c
from gfs.verification.workloads.marked_bytes import (
    CELL_BYTES,
    RECORD_BYTES_MIN,
    cells,
    record,
    record_id,
    records_in,
    spans_in,
)


def test_records_are_found_between_padding_and_rubbish() -> None:
    chance = random.Random(1)
    one, two = record(3, 1, 200, chance), record(4, 9, RECORD_BYTES_MIN, chance)
    data = one + bytes(50) + b"rubbish" + two + b"tail"
    found, strange = records_in(data, 1000)
    assert found == [
        (1000, record_id(3, 1), 200, crc32c(one)),
        (1257, record_id(4, 9), RECORD_BYTES_MIN, crc32c(two)),
    ]
    assert strange == [(1250, 7), (1257 + RECORD_BYTES_MIN, 4)]


@given(st.integers(0, 299), st.integers(1, 255))
def test_a_record_with_one_spoilt_byte_is_no_record(place: int, change: int) -> None:
    data = bytearray(record(1, 1, 300, random.Random(2)))
    data[place] ^= change
    found, strange = records_in(bytes(data), 0)
    assert not found and strange


def test_half_a_record_is_strange_and_hides_none_behind_it() -> None:
    chance = random.Random(3)
    one, two = record(1, 1, 300, chance), record(1, 2, 100, chance)
    found, strange = records_in(one[:150] + two, 0)
    assert [seen[1] for seen in found] == ["1-2"] and strange == [(0, 150)]


def test_regions_tell_whose_they_are() -> None:
    data = cells(7, 4 * CELL_BYTES) + bytes(2 * CELL_BYTES) + cells(9, CELL_BYTES) + b"\x01" * CELL_BYTES
    assert spans_in(data, 64) == [(64, 32, 7), (96, 16, 0), (112, 8, 9), (120, 8, -1)]
    assert spans_in(cells(7, 16)[:12], 0) == [(0, 8, 7), (8, 4, -1)]
