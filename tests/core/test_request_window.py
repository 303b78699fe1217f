"""Request ids of a client: unique, ascending, and honest about which may still be retried."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gfs.client.core.request_window import RequestWindow
from gfs.vocabulary import ClientId


def test_an_old_open_request_keeps_its_outcome_wanted_and_then_shuts_the_window() -> None:
    window = RequestWindow(ClientId(9), window=4)
    first = window.open()
    assert first == 1
    for _ in range(3):
        sequence = window.open()
        assert sequence is not None
        window.close(sequence)
    assert window.open() is None  # a fifth would push the first one's outcome out of the master's window
    assert window.request_id(first).first_open == 1
    window.close(first)
    following = window.open()
    assert following == 5
    assert window.request_id(following).first_open == 5


@given(st.lists(st.integers(0, 7), max_size=200))
def test_sequences_are_given_once_and_first_open_is_the_lowest_open_one(steps: list[int]) -> None:
    window = RequestWindow(ClientId(9), window=8)
    open_now: list[int] = []
    given_out: list[int] = []
    for step in steps:
        if step < 4:
            sequence = window.open()
            if sequence is None:
                assert given_out[-1] + 1 - open_now[0] >= 8
            else:
                given_out.append(sequence)
                open_now.append(sequence)
        elif open_now:
            window.close(open_now.pop(step % len(open_now)))
        window.check_invariants()
        for sequence in open_now:
            assert window.request_id(sequence).first_open == min(open_now)
    assert given_out == list(range(1, len(given_out) + 1))
