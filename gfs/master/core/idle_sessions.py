"""Since when a client must have been silent for its outcomes to be forgotten. Decides; reads no clock.

Records bear the wall clock of whoever led, and clocks differ and are set. Were a leader whose clock is
ahead to believe stamps alone, it would forget a client of a moment ago, and carry out its retry once more.
"""

from __future__ import annotations

from collections import deque

from gfs.settings import RETRY_SECONDS_MAX, SESSION_IDLE_SECONDS
from gfs.vocabulary import Term

# No client retries for half as long: whoever may still retry was last stamped by this very leadership.
GRACE_SECONDS = 2 * RETRY_SECONDS_MAX
SAMPLE_SECONDS = 1.0
assert RETRY_SECONDS_MAX < GRACE_SECONDS < SESSION_IDLE_SECONDS


class IdleSessions:
    """What the wall clock has shown while this master leads; note() it often, also when it does not lead.

    Invariant: whatever this leadership stamped within GRACE_SECONDS is not below the lowest sample.
    """

    def __init__(self) -> None:
        self._term: Term | None = None
        self._samples: deque[tuple[float, int]] = deque()  # begin of a sample, lowest wall time in it

    def note(self, leads: Term | None, *, now: float, wall_ms: int) -> None:
        """`leads`: the term in which this master leads now; `now`: monotonic seconds."""
        if leads is None or leads != self._term:
            self._term = leads
            self._samples.clear()
        if leads is None:
            return
        if self._samples and now - self._samples[-1][0] < SAMPLE_SECONDS:
            began, lowest = self._samples[-1]
            self._samples[-1] = began, min(lowest, wall_ms)
        else:
            self._samples.append((now, wall_ms))
        while len(self._samples) > 1 and now - self._samples[1][0] >= GRACE_SECONDS:
            self._samples.popleft()

    def idle_since_ms(self, *, now: float, wall_ms: int) -> int | None:
        """Clients last stamped before this are idle; None while this leadership is too young to say."""
        if not self._samples or now - self._samples[0][0] < GRACE_SECONDS:
            return None
        lowest = min(lowest for _, lowest in self._samples)
        return max(0, min(lowest, wall_ms - round(SESSION_IDLE_SECONDS * 1000)))
