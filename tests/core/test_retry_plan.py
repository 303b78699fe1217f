"""What a client does after a failed try."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfs.client.core.retry_plan import (
    EAGER_SECONDS,
    EAGER_WAIT_MAX,
    EAGER_WAIT_MIN,
    LAST_TRY_SECONDS_MIN,
    WAIT_MAX,
    GiveUp,
    RetryPlan,
    TryAgain,
    may_pass,
    wait_seconds,
)
from gfs.errors import (
    BY_CODE,
    AlreadyExists,
    ConnectionLost,
    GfsError,
    NoQuorum,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    Unavailable,
)


def _plan(*, has_effects: bool = True, budget_seconds: float = 60.0) -> RetryPlan:
    return RetryPlan(
        "create /a", started=100.0, budget_seconds=budget_seconds, chance=lambda: 0.5, has_effects=has_effects
    )


def test_an_answer_that_is_final_is_given_to_the_caller_as_it_is() -> None:
    error = AlreadyExists("/a exists")
    verdict = _plan().after(error, target="m1", now=101.0)
    assert verdict == GiveUp(error)


def test_the_first_retry_is_at_once_and_later_ones_wait_a_little() -> None:
    plan = _plan()
    assert plan.after(ConnectionLost("gone"), target="m1", now=101.0) == TryAgain(0.0)
    second = plan.after(NotLeader("not me"), target="m2", now=101.0)
    assert isinstance(second, TryAgain) and EAGER_WAIT_MIN <= second.wait_seconds <= EAGER_WAIT_MAX


@given(failing_for=st.floats(0, 1000), chance=st.floats(0, 1))
def test_waits_are_short_while_an_election_may_end_and_bounded_for_ever(
    failing_for: float, chance: float
) -> None:
    wait = wait_seconds(failing_for, chance)
    assert 0 < wait <= WAIT_MAX
    if failing_for < EAGER_SECONDS:
        # Half of it is what a client adds to the gap of a fail-over on average.
        assert EAGER_WAIT_MIN <= wait <= EAGER_WAIT_MAX
    else:
        assert wait <= max(EAGER_WAIT_MAX, failing_for / 10)


def test_a_spent_budget_says_how_long_how_often_and_what_each_target_answered() -> None:
    plan = _plan(budget_seconds=10.0)
    plan.after(Unavailable("refused"), target="m1:9500", now=101.0)
    plan.after(NoQuorum("2 of 3 are away", hint="start them"), target="m2:9500", now=105.0)
    verdict = plan.after(NoQuorum("2 of 3 are away", hint="start them"), target="m2:9500", now=110.0)
    assert isinstance(verdict, GiveUp)
    assert isinstance(verdict.error, NoQuorum)
    assert verdict.error.hint == "start them"
    assert "create /a: 2 of 3 are away; gave up after 10.0 s and 3 tries" in verdict.error.message
    assert "m1:9500 (unavailable: refused)" in verdict.error.message
    assert "m2:9500 (no_quorum: 2 of 3 are away)" in verdict.error.message


def test_what_a_target_answered_is_not_hidden_by_a_last_try_without_time_for_an_answer() -> None:
    plan = _plan(budget_seconds=10.0)
    plan.after(NoQuorum("2 of 3 are away"), target="m1", now=101.0)
    verdict = plan.after(NoQuorum("2 of 3 are away"), target="m1", now=109.98)
    assert isinstance(verdict, GiveUp)
    assert type(verdict.error) is NoQuorum


def test_after_a_lost_answer_giving_up_is_an_unknown_outcome_whatever_came_later() -> None:
    plan = _plan(budget_seconds=10.0)
    plan.after(ConnectionLost("gone"), target="m1", now=101.0)
    verdict = plan.after(NotLeader("not me"), target="m2", now=111.0)
    assert isinstance(verdict, GiveUp)
    assert type(verdict.error) is OutcomeUnknown
    assert not verdict.error.definite


def test_a_read_that_never_got_an_answer_is_unavailable_because_it_has_no_effects() -> None:
    plan = _plan(has_effects=False, budget_seconds=10.0)
    verdict = plan.after(ConnectionLost("gone"), target="m1", now=111.0)
    assert isinstance(verdict, GiveUp)
    assert type(verdict.error) is Unavailable


def test_a_final_answer_after_a_lost_one_is_the_answer_of_the_first_try() -> None:
    plan = _plan()
    plan.after(ConnectionLost("gone"), target="m1", now=101.0)
    error = NotFound("/ has no a")
    assert plan.after(error, target="m2", now=101.1) == GiveUp(error)


@given(
    st.lists(
        st.tuples(st.sampled_from([ConnectionLost, NotLeader, NoQuorum, Overloaded]), st.floats(0, 3)),
        max_size=60,
    )
)
def test_each_try_has_time_for_an_answer_and_the_plan_gives_up_only_when_none_would(
    failures: list[tuple[type[GfsError], float]],
) -> None:
    plan = _plan(budget_seconds=20.0)
    now = 100.0
    for kind, took in failures:
        now += took
        verdict = plan.after(kind("again"), target="m1", now=now)
        if isinstance(verdict, GiveUp):
            assert now + WAIT_MAX + LAST_TRY_SECONDS_MIN > 120.0
            return
        now += verdict.wait_seconds
        assert now + LAST_TRY_SECONDS_MIN <= 120.0


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_every_indefinite_error_of_the_network_may_pass_and_no_error_of_the_caller_does(code: str) -> None:
    kind = BY_CODE[code]
    if issubclass(kind, OutcomeUnknown):
        assert may_pass(kind("x"))
    if kind.exit_status in (2, 3, 4, 5):
        assert not may_pass(kind("x"))


def test_a_lost_quorum_is_given_up_sooner_and_by_its_own_words() -> None:
    plan = RetryPlan("create /a", started=100.0, budget_seconds=60.0, chance=lambda: 0.5, quorum_seconds=20.0)
    lost = NoQuorum("no quorum: 1 of 3 masters reachable (m1), waiting for m2, m3")
    assert isinstance(plan.after(lost, target="m1", now=119.0), TryAgain)
    assert isinstance(plan.after(Unavailable("starting"), target="m1", now=121.0), TryAgain)
    verdict = plan.after(lost, target="m1", now=121.0)
    assert isinstance(verdict, GiveUp) and isinstance(verdict.error, NoQuorum)
    assert "waiting for m2, m3; gave up after 21.0 s" in verdict.error.message
