"""Which silent clients may be forgotten when clocks differ and are set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gfs.master.core.idle_sessions import GRACE_SECONDS, IdleSessions
from gfs.settings import RETRY_SECONDS_MAX, SESSION_IDLE_SECONDS
from gfs.vocabulary import Term

IDLE_MS = round(SESSION_IDLE_SECONDS * 1000)
BEGIN_MS = 1000 * IDLE_MS


def test_a_new_leader_forgets_nobody_until_all_stamps_in_question_are_its_own() -> None:
    idle = IdleSessions()
    for second in range(round(GRACE_SECONDS)):
        idle.note(Term(3), now=second, wall_ms=BEGIN_MS)
        assert idle.idle_since_ms(now=second, wall_ms=BEGIN_MS) is None
    assert idle.idle_since_ms(now=GRACE_SECONDS, wall_ms=BEGIN_MS) == BEGIN_MS - IDLE_MS
    idle.note(Term(5), now=GRACE_SECONDS, wall_ms=BEGIN_MS)  # somebody else has led in between
    assert idle.idle_since_ms(now=GRACE_SECONDS + 1, wall_ms=BEGIN_MS) is None


@given(st.lists(st.tuples(st.floats(0.1, 40), st.integers(-3, 3)), min_size=30, max_size=60))
def test_what_was_stamped_within_a_retry_is_never_idle(steps: list[tuple[float, int]]) -> None:
    idle, now, hours = IdleSessions(), 0.0, 0
    stamped: list[tuple[float, int]] = []
    for seconds, hours_set in steps:
        now, hours = now + seconds, hours + hours_set
        wall_ms = BEGIN_MS + round(now * 1000) + hours * 3_600_000
        idle.note(Term(1), now=now, wall_ms=wall_ms)
        stamped.append((now, wall_ms))
        since = idle.idle_since_ms(now=now, wall_ms=wall_ms)
        young = [stamp for at, stamp in stamped if now - at <= RETRY_SECONDS_MAX]
        assert since is None or all(stamp >= since for stamp in young)
