"""When each other master was last heard, and why it is not now: for people who wonder where the quorum is."""

from __future__ import annotations

import os

from gfs.vocabulary import MasterId

CLOSED = "its connection was closed"
SILENT = "it keeps silent"


class Silence:
    """Times are monotonic seconds."""

    def __init__(self) -> None:
        self._heard_at: dict[MasterId, float] = {}
        self._why: dict[MasterId, str] = {}

    def lost(self, member: MasterId, *, heard_at: float, why: str) -> None:
        """A connection has ended over which the member was last heard at `heard_at`."""
        self._heard_at[member], self._why[member] = heard_at, why

    def not_reached(self, member: MasterId, error: OSError) -> None:
        """An attempt to dial it has failed. TimeoutError is an OSError, too."""
        timed_out = isinstance(error, TimeoutError) or error.errno is None
        self._why[member] = "no answer" if timed_out else os.strerror(error.errno or 0).lower()

    def in_words(self, member: MasterId, *, now: float) -> str:
        heard_at = self._heard_at.get(member)
        heard = "not heard since this master started"
        if heard_at is not None:
            heard = f"last heard {max(0.0, now - heard_at):.0f} s ago"
        why = self._why.get(member)
        return f"{heard}: {why}" if why else heard
