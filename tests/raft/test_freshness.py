"""How far a follower says it is behind: never less than it is."""

from __future__ import annotations

import pytest

from gfs.master.replication.freshness import LAG_UNKNOWN, Freshness


def test_before_any_word_of_a_leader_the_lag_is_unknown() -> None:
    assert Freshness().lag(applied=7, now=100.0) == (0, LAG_UNKNOWN)


def test_state_is_as_fresh_as_the_last_word_it_has_come_up_to() -> None:
    fresh = Freshness()
    fresh.leader_said(10, applied=10, now=1.0)
    assert fresh.lag(applied=10, now=1.5) == (0, 0.5)
    fresh.leader_said(12, applied=10, now=2.0)
    assert fresh.lag(applied=10, now=3.0) == (2, 2.0)
    assert fresh.lag(applied=12, now=3.0) == (0, 1.0)


def test_words_that_run_ahead_of_a_slow_follower_count_once_it_has_come_up_to_them() -> None:
    fresh = Freshness()
    fresh.leader_said(0, applied=0, now=0.0)
    for second in range(1, 10):
        fresh.leader_said(10 * second, applied=0, now=float(second))
    assert fresh.lag(applied=9, now=10.0) == (81, 10.0)
    assert fresh.lag(applied=10, now=10.0) == (80, 9.0)
    assert fresh.lag(applied=90, now=10.0) == (0, 1.0)


def test_silence_of_the_leader_makes_the_state_older() -> None:
    fresh = Freshness()
    fresh.leader_said(5, applied=5, now=0.0)
    assert fresh.lag(applied=5, now=60.0)[1] == pytest.approx(60.0)


def test_who_led_until_now_was_the_newest_until_then() -> None:
    found = Freshness()
    found.leading(now=50.0)
    assert found.lag(applied=7, now=53.5) == (0, 3.5)
