"""What a client does after a failed try: ask again and when, or give up and say what was tried.

It decides; it neither waits nor sends. Times are monotonic seconds, chance is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from gfs.errors import (
    DataUnavailable,
    GfsError,
    NoQuorum,
    NotEnoughChunkServers,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    ReplicaFailed,
    Unavailable,
)

# While a new leader may be moments away (an election takes some 0.3 s) a client asks often: each wait is
# added to the gap its user sees. Later it asks less and less often, so as not to hinder what recovers.
EAGER_SECONDS = 2.0
EAGER_WAIT_MIN = 0.010
EAGER_WAIT_MAX = 0.025
WAIT_MAX = 1.0
# With less time left a try could only time out, and hide what was answered before.
LAST_TRY_SECONDS_MIN = 0.05
TARGETS_TOLD_MAX = 8
assert EAGER_WAIT_MAX < WAIT_MAX

_PASSING: tuple[type[GfsError], ...] = (
    NotLeader,
    NoQuorum,
    Overloaded,
    Unavailable,
    NotEnoughChunkServers,
    DataUnavailable,
    OutcomeUnknown,
    ReplicaFailed,
)
_OF_THIS_MASTER: tuple[type[GfsError], ...] = (NotLeader, NoQuorum, Unavailable, OutcomeUnknown)


def may_pass(error: GfsError) -> bool:
    """True when the same request may succeed later or elsewhere; False when its answer is final."""
    return isinstance(error, _PASSING)


def speaks_of_the_master(error: GfsError) -> bool:
    """True when another master may answer what this one could not."""
    return isinstance(error, _OF_THIS_MASTER)


def wait_seconds(failing_for: float, chance: float) -> float:
    """How long to wait before the next try, having failed for `failing_for` seconds; `chance` in 0..1."""
    assert 0.0 <= chance <= 1.0, chance
    if failing_for < EAGER_SECONDS:
        return EAGER_WAIT_MIN + chance * (EAGER_WAIT_MAX - EAGER_WAIT_MIN)
    # A tenth of the time already waited: the recovery is seen at most that much late.
    longest = min(WAIT_MAX, failing_for / 10)
    return longest * (0.5 + chance / 2)


@dataclass(frozen=True, slots=True)
class TryAgain:
    wait_seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    error: GfsError


class RetryPlan:
    """The tries of one operation, from its first failure until success or the end of its budget.

    `has_effects`: the operation changes something, so a lost answer leaves its outcome unknown, whatever
    later tries were answered.
    """

    def __init__(
        self,
        what: str,
        *,
        started: float,
        budget_seconds: float,
        chance: Callable[[], float],
        has_effects: bool = True,
        quorum_seconds: float = math.inf,
    ) -> None:
        """`quorum_seconds`: give up after so long already, when what is missing is a quorum of masters."""
        assert budget_seconds > 0, budget_seconds
        assert quorum_seconds > 0, quorum_seconds
        self._quorum_ends = started + min(budget_seconds, quorum_seconds)
        self._what = what
        self._started = started
        self._ends = started + budget_seconds
        self._chance = chance
        self._has_effects = has_effects
        self._failing_since: float | None = None
        self._attempts = 0
        self._may_have_happened = False
        self._tried: dict[str, str] = {}

    def seconds_left(self, now: float) -> float:
        return max(0.0, self._ends - now)

    def quorum_seconds_left(self, now: float) -> float:
        return max(0.0, self._quorum_ends - now)

    def after(self, error: GfsError, *, target: str, now: float) -> TryAgain | GiveUp:
        """Decide on the failure of one try at `target`. The first retry is at once."""
        self._attempts += 1
        self._may_have_happened |= self._has_effects and not error.definite
        self.note(target, error)
        if not may_pass(error):
            return GiveUp(error)  # final, also after a lost answer: the request id brought the first outcome
        wait = 0.0
        if self._failing_since is None:
            self._failing_since = now
        else:
            wait = wait_seconds(now - self._failing_since, self._chance())
        ends = self._quorum_ends if isinstance(error, NoQuorum) else self._ends
        if now + wait + LAST_TRY_SECONDS_MIN > ends:
            return GiveUp(self.exhausted(error, now=now))
        return TryAgain(wait)

    def note(self, target: str, error: GfsError) -> None:
        """Remember what a target answered last, to tell it when we give up."""
        self._tried.pop(target, None)
        self._tried[target] = f"{error.code}: {error.message}"
        if len(self._tried) > TARGETS_TOLD_MAX:
            del self._tried[next(iter(self._tried))]

    def exhausted(self, last: GfsError, *, now: float) -> GfsError:
        """The error that ends it: how long, how often, whom we tried and what each said last."""
        told = "; ".join(f"{target} ({answer})" for target, answer in self._tried.items())
        spent = f"{now - self._started:.1f} s" + (f" and {self._attempts} tries" if self._attempts else "")
        message = f"{self._what}: gave up after {spent}. Tried {told}"
        if isinstance(last, NoQuorum) or not self._attempts:  # says best what is wrong
            message = f"{self._what}: {last.message}; gave up after {spent}. Tried {told}"
        details = {**last.details, "tried": ",".join(self._tried), "tries": str(self._attempts)}
        if self._may_have_happened:
            return OutcomeUnknown(message + ". It may have taken effect", details=details)
        kind = Unavailable if isinstance(last, OutcomeUnknown) else type(last)
        return kind(message, hint=last.hint, details=details)
