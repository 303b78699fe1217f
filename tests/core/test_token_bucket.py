"""TokenBucket: a bounded rate, whatever is taken and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfs.chunkserver.core.token_bucket import TokenBucket


def test_a_burst_is_free_and_what_goes_beyond_it_is_paid_by_waiting() -> None:
    bucket = TokenBucket(10.0, burst=5.0, now=0.0)
    assert bucket.take(5.0, now=0.0) == 0.0
    assert bucket.take(10.0, now=0.0) == pytest.approx(1.0)
    assert bucket.take(0.0, now=1.0) == 0.0


def test_idleness_saves_up_no_more_than_a_burst() -> None:
    bucket = TokenBucket(10.0, burst=5.0, now=0.0)
    assert bucket.take(15.0, now=1000.0) == pytest.approx(1.0)


def test_a_clock_read_out_of_order_gives_nothing() -> None:
    bucket = TokenBucket(10.0, burst=5.0, now=10.0)
    bucket.take(5.0, now=10.0)
    assert bucket.take(1.0, now=3.0) == pytest.approx(0.1)


def test_a_new_rate_holds_from_now_on() -> None:
    bucket = TokenBucket(10.0, burst=10.0, now=0.0)
    bucket.take(10.0, now=0.0)
    bucket.set_rate(1.0, now=0.5)  # 5 have come
    assert bucket.take(6.0, now=0.5) == pytest.approx(1.0)


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0, 3)), min_size=1, max_size=60))
def test_no_more_than_the_rate_and_one_burst_is_ever_used(steps: list[tuple[float, float]]) -> None:
    rate, burst, now, used = 4.0, 8.0, 0.0, 0.0
    bucket = TokenBucket(rate, burst=burst, now=now)
    for tokens, pause in steps:
        now += bucket.take(tokens, now=now)  # the tokens are used when the wait is over
        used += tokens
        assert used <= burst + rate * now + 1e-6
        now += pause
