"""Which records a chunk is known to hold (I9): found, settled, cut off, forgotten; never a wrong answer."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfs.chunkserver.core.append_window import AppendWindow, RecordPlace, decode_window, encode_window
from gfs.errors import InvalidArgument, RecordForgotten
from gfs.messages.replicas import AppendedRecord
from gfs.settings import RECORDS_REMEMBERED_MAX
from gfs.vocabulary import ClientId

Steps = list[list[tuple[int, int]] | int]  # records as (client, length), or a length to cut to


def record(client: int, sequence: int, length_bytes: int = 10, *, settled_below: int = 0) -> AppendedRecord:
    return AppendedRecord(ClientId(client), sequence, settled_below, length_bytes)


def find(window: AppendWindow, client: int, sequence: int, *, not_before: int = 0) -> RecordPlace | None:
    return window.find(ClientId(client), sequence, repeated=True, not_before=not_before)


def test_each_record_of_a_batch_is_found_at_its_own_offset() -> None:
    window = AppendWindow()
    window.note([record(1, 1, 5), record(0, 0, 7), record(2, 1, 9)], end_bytes=121)
    assert find(window, 1, 1) == RecordPlace(100, 5)
    assert find(window, 2, 1) == RecordPlace(112, 9)
    assert find(window, 1, 2) is None
    assert len(window) == 2  # nobody asks for one without a client


def test_settled_records_are_dropped_and_a_late_repeat_of_one_is_refused() -> None:
    window = AppendWindow()
    window.note([record(1, 1), record(1, 2)], end_bytes=20)
    window.note([record(1, 3, settled_below=3)], end_bytes=30)
    assert len(window) == 1
    with pytest.raises(InvalidArgument, match="settled"):
        find(window, 1, 2)
    assert find(window, 2, 2) is None


def test_what_is_cut_off_is_gone_and_may_be_appended_anew() -> None:
    window = AppendWindow()
    window.note([record(1, 1), record(1, 2), record(2, 1)], end_bytes=30)
    window.cut(29)
    assert (find(window, 1, 2), find(window, 2, 1)) == (RecordPlace(10, 10), None)
    window.cut(10)
    assert (find(window, 1, 1), find(window, 1, 2)) == (RecordPlace(0, 10), None)
    window.check_invariants()


def test_a_repeat_that_may_be_forgotten_is_never_taken_for_new() -> None:
    window = AppendWindow()
    for number in range(RECORDS_REMEMBERED_MAX + 1):
        window.note([record(1 + number, 1)], end_bytes=10 * (number + 1))
        window.check_invariants()
    assert len(window) <= RECORDS_REMEMBERED_MAX
    forgotten = window.forgotten_bytes
    assert forgotten > 0
    with pytest.raises(RecordForgotten):
        find(window, 1, 1)
    with pytest.raises(RecordForgotten):  # not there, but who can say?
        find(window, 10**9, 1, not_before=forgotten - 1)
    assert find(window, 10**9, 1, not_before=forgotten) is None
    assert window.find(ClientId(10**9), 1, repeated=False) is None  # a first try cannot be there
    assert find(window, RECORDS_REMEMBERED_MAX, 1) is not None  # the newest are kept


@dataclass
class Model:
    """The chunk as a list of records, of which nothing is ever forgotten."""

    held: list[tuple[AppendedRecord, RecordPlace]] = field(default_factory=list)
    settled: dict[int, int] = field(default_factory=dict)

    @property
    def end_bytes(self) -> int:
        return self.held[-1][1].end_bytes if self.held else 0


@given(
    st.lists(
        st.one_of(
            st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50)), min_size=1, max_size=5),
            st.integers(0, 200),
        ),
        max_size=30,
    )
)
def test_the_window_tells_of_exactly_the_records_below_the_length(
    steps: list[list[tuple[int, int]] | int],
) -> None:
    window, model = AppendWindow(), Model()
    sequences = dict.fromkeys(range(4), 0)
    for step in steps:
        if isinstance(step, int):
            length = min(step, model.end_bytes)
            window.cut(length)
            model.held = [(r, place) for r, place in model.held if place.end_bytes <= length]
        else:
            batch = []
            offset = model.end_bytes
            for client, length in step:
                sequences[client] += 1
                # Each client has at most two records under way.
                settled = max(0, sequences[client] - 1)
                batch.append(record(client, sequences[client], length, settled_below=settled))
                model.held.append((batch[-1], RecordPlace(offset, length)))
                offset += length
                if client:
                    model.settled[client] = settled
            window.note(batch, end_bytes=offset)
        window = decode_window(encode_window(window))
        window.check_invariants()
        for kept, place in model.held:
            if kept.client and kept.sequence >= model.settled[kept.client]:
                assert find(window, kept.client, kept.sequence) == place
        for client in (1, 2, 3):
            there = {r.sequence for r, _ in model.held if r.client == client}
            for sequence in range(model.settled.get(client, 0), sequences[client] + 2):
                if sequence not in there:
                    assert find(window, client, sequence) is None


def test_an_empty_window_takes_no_room_on_the_disk() -> None:
    assert encode_window(AppendWindow()) == b""
    assert len(decode_window(b"")) == 0
