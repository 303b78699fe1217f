"""Which chunks may be under a lease, whoever granted it. Volatile; errs on the side of yes. Revokes nothing.

A master knows of leases by two ways: heartbeats (LeaseTable), and the grants it applies from the log, before
any replica hears of them. A lease is counted as running for twice its time, so that an extension this master
has not heard of, and a clock that is somewhat slow, are covered.
"""

from __future__ import annotations

from collections import OrderedDict

from gfs.master.core.leases import LeaseTable
from gfs.vocabulary import ChunkHandle

GRANTS_KEPT_MAX = 200_000  # beyond it the oldest go, and what is as old counts as unknown


class RecentGrants:
    """Grants applied here, oldest first. Times are monotonic seconds of this master."""

    def __init__(self, *, now: float, lease_seconds: float, kept_max: int = GRANTS_KEPT_MAX) -> None:
        """Before `now` nothing is known: this master has just started."""
        assert lease_seconds > 0 and kept_max > 0
        self._seconds = 2 * lease_seconds
        self._kept_max = kept_max
        self._known_since = now
        self._granted_at: OrderedDict[ChunkHandle, float] = OrderedDict()

    def note(self, handle: ChunkHandle, *, now: float) -> None:
        """A grant of this chunk has been applied from the log."""
        self._granted_at[handle] = now
        self._granted_at.move_to_end(handle)
        while self._granted_at:
            oldest, at = next(iter(self._granted_at.items()))
            if at + self._seconds > now:
                if len(self._granted_at) <= self._kept_max:
                    return
                self._known_since = max(self._known_since, at)
            del self._granted_at[oldest]

    def forget_all(self, *, now: float) -> None:
        """Records were passed over: the state came from another master."""
        self._known_since = now

    def may_be_leased(self, handle: ChunkHandle, leases: LeaseTable, *, now: float) -> bool:
        """Whether some replica may still take mutations of this chunk under a grant made before now."""
        if now < self._known_since + self._seconds:
            return True
        at = self._granted_at.get(handle)
        if at is not None and now < at + self._seconds:
            return True
        return leases.may_run(handle, now=now - self._seconds / 2)
