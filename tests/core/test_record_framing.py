"""Framed records among padding, fragments and garbage: all that are whole are found, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfs.client.core.record_framing import (
    FRAME_BYTES,
    MARK,
    PAYLOAD_BYTES_MAX,
    FramedRecord,
    RecordScanner,
    frame,
)
from gfs.errors import InvalidArgument
from gfs.settings import APPEND_BYTES_MAX
from gfs.vocabulary import CHUNK_BYTES


def id_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def scan(content: bytes, cuts: list[int], *, start: int = 0) -> list[FramedRecord]:
    """Feed `content` in pieces that end at `cuts`, asking for records after each."""
    scanner = RecordScanner(start)
    found: list[FramedRecord] = []
    ends = [*sorted({cut for cut in cuts if cut < len(content)}), len(content)]
    begin = 0
    for end in ends:
        scanner.feed(content[begin:end])
        begin = end
        while (record := scanner.next(is_all=end == len(content))) is not None:
            found.append(record)
    assert scanner.position == start + len(content) == scanner.end_bytes
    return found


def fragment(payload: bytes, bytes_max: int) -> bytes:
    """The beginning of a record, as a dead writer leaves it; what follows does not complete it."""
    whole = frame(payload, id_of(0))
    end = min(bytes_max, len(whole) - 1)
    while end and whole[end] == MARK[0]:  # else what begins the next record may be all that is missing
        end -= 1
    return whole[:end]


GARBAGE = st.one_of(
    st.binary(max_size=80),
    st.integers(0, 300).map(bytes),
    st.integers(0, 5).map(lambda n: MARK * n),
    st.builds(fragment, st.binary(max_size=60), st.integers(0, FRAME_BYTES + 59)),
)


@given(
    st.lists(st.tuples(GARBAGE, st.one_of(st.binary(max_size=100), st.just(MARK * 3))), max_size=8),
    GARBAGE,
    st.lists(st.integers(0, 2000), max_size=6),
    st.integers(0, 1000),
)
def test_all_whole_records_and_nothing_else_are_found_however_the_bytes_come(
    parts: list[tuple[bytes, bytes]], tail: bytes, cuts: list[int], start: int
) -> None:
    content = b""
    expected = []
    for number, (garbage, payload) in enumerate(parts, start=1):
        content += garbage
        expected.append(FramedRecord(start + len(content), id_of(number), payload))
        content += frame(payload, id_of(number))
        assert expected[-1].end_bytes == start + len(content)
    assert scan(content + tail, cuts, start=start) == expected


@given(st.binary(min_size=1, max_size=50), st.data())
def test_a_record_with_any_bit_flipped_is_none(payload: bytes, data: st.DataObject) -> None:
    content = bytearray(frame(payload, id_of(1)))
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    behind = frame(b"behind", id_of(2))
    assert [record.payload for record in scan(bytes(content) + behind, [])] == [b"behind"]


def test_what_is_not_whole_is_waited_for_until_nothing_more_can_come() -> None:
    scanner = RecordScanner()
    content = frame(b"payload", id_of(1))
    scanner.feed(content[:-1])
    assert scanner.next() is None and scanner.position == 0
    scanner.feed(content[-1:])
    record = scanner.next()
    assert record is not None and record.payload == b"payload"
    scanner.feed(content[:-1])
    assert scanner.next(is_all=True) is None
    scanner.skip_to(CHUNK_BYTES)
    scanner.feed(content)
    record = scanner.next()
    assert record is not None and record.offset_bytes == CHUNK_BYTES


def test_a_header_that_reaches_over_the_chunks_end_is_a_fragment() -> None:
    scanner = RecordScanner(CHUNK_BYTES - FRAME_BYTES - 5)
    scanner.feed(frame(b"123456", id_of(1)))
    assert scanner.next() is None
    assert scanner.position > CHUNK_BYTES - FRAME_BYTES - 5


def test_a_payload_that_fits_no_record_is_refused_and_the_longest_one_fits() -> None:
    assert len(frame(bytes(PAYLOAD_BYTES_MAX), id_of(1))) == APPEND_BYTES_MAX
    with pytest.raises(InvalidArgument, match="at most"):
        frame(bytes(PAYLOAD_BYTES_MAX + 1), id_of(1))


def test_an_empty_record_is_one() -> None:
    assert [record.payload for record in scan(frame(b"", id_of(1)) * 2, [3, 40])] == [b"", b""]
