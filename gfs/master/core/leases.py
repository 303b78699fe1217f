"""Which leases are in force, as far as this master knows (GFS §3.1). Volatile: only grants are logged.

It saves round trips and decides nothing about safety: versions do (I1–I3). A client sent to a superseded
primary is refused there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from gfs.messages.heartbeat import HeldLease
from gfs.vocabulary import ChunkHandle, ChunkVersion, ServerId


@dataclass(frozen=True, slots=True)
class Lease:
    """`confirmed`: every replica of the version's set is known to hold it; clients may have been told.

    `expires_at` is never later than the primary's own expiry by more than clock drift: it counts from before
    the primary heard of the lease.
    """

    version: ChunkVersion
    primary: ServerId
    expires_at: float
    confirmed: bool


class LeaseTable:
    """Leases by chunk handle: confirmed by this leader, or adopted from the heartbeats of living primaries.

    Invariants: at most one lease a chunk, of the highest version heard of; a confirmed lease is never
    replaced by an unconfirmed one of the same version.
    """

    def __init__(self) -> None:
        self._leases: dict[ChunkHandle, Lease] = {}
        self._by_primary: dict[ServerId, int] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def confirm(
        self, handle: ChunkHandle, version: ChunkVersion, primary: ServerId, *, expires_at: float
    ) -> Lease:
        """All replicas of the set hold `version`: from now on clients may be told of it."""
        held = self._leases.get(handle)
        if held is not None and held.version > version:
            return held  # a primary has reported a later grant, made by another leader
        lease = Lease(version, primary, expires_at, confirmed=True)
        self._put(handle, lease)
        return lease

    def forget(self, handle: ChunkHandle) -> None:
        """A newer grant is about to be made, or the chunk is sealed: nobody is told of it any more."""
        lease = self._leases.pop(handle, None)
        if lease is not None:
            self._by_primary[lease.primary] -= 1

    def adopt(self, server: ServerId, held: Iterable[HeldLease], *, now: float) -> None:
        """Learn from a primary's heartbeat which leases it holds; a new leader thus keeps living primaries.

        `active` proves that the grant was completed: only a client told of the version can have sent a
        mutation under it, and clients are told after all replicas have it. Without that proof a lease
        is kept unconfirmed: its grant may have been cut short, so it is never handed out.
        """
        for lease in held:
            known = self._leases.get(lease.handle)
            if known is not None and known.version > lease.version:
                continue
            if lease.seconds_left <= 0:
                continue
            expires_at = now + lease.seconds_left
            confirmed = lease.active
            if known is not None and known.version == lease.version:
                expires_at = max(expires_at, known.expires_at)
                confirmed = confirmed or known.confirmed
            self._put(lease.handle, Lease(lease.version, server, expires_at, confirmed))

    def extend(
        self, server: ServerId, held: Iterable[HeldLease], *, now: float, lease_seconds: float
    ) -> list[ChunkHandle]:
        """Prolong this primary's leases that are being mutated; only a leader calls this.

        Idle leases run out, so that their chunks cost nothing and can move freely.
        Returns: the handles prolonged to `lease_seconds` from `now`.
        """
        extended: list[ChunkHandle] = []
        for lease in held:
            known = self._leases.get(lease.handle)
            if (
                not lease.active
                or known is None
                or known.version != lease.version
                or known.primary != server
                or not known.confirmed
            ):
                continue
            expires_at = max(known.expires_at, now + lease_seconds)
            self._put(lease.handle, Lease(known.version, server, expires_at, confirmed=True))
            extended.append(lease.handle)
        return extended

    def find(self, handle: ChunkHandle, version: ChunkVersion, *, now: float) -> Lease | None:
        """The lease of exactly this version that a client may be told of now, if there is one."""
        lease = self._leases.get(handle)
        if lease is None or lease.version != version or not lease.confirmed or lease.expires_at <= now:
            return None
        return lease

    def was_confirmed(self, handle: ChunkHandle, version: ChunkVersion) -> bool:
        """Whether every replica of the set is known to have held `version`, also when the lease ran out."""
        lease = self._leases.get(handle)
        return lease is not None and lease.version == version and lease.confirmed

    def may_run(self, handle: ChunkHandle, *, now: float) -> bool:
        """Whether a lease of any version is known that had not run out by `now`, told to clients or not."""
        lease = self._leases.get(handle)
        return lease is not None and lease.expires_at > now

    def expire(self, *, now: float, keep_seconds: float) -> int:
        """Drop what ran out more than `keep_seconds` ago; bounds the table. Returns how many were dropped."""
        gone = [h for h, lease in self._leases.items() if lease.expires_at + keep_seconds <= now]
        for handle in gone:
            self.forget(handle)
        return len(gone)

    def newest(self) -> Iterator[tuple[ChunkHandle, Lease]]:
        """All of them, what was confirmed, adopted or extended last first. The table must not change
        meanwhile."""
        return reversed(self._leases.items())

    def count_by_primary(self) -> Mapping[ServerId, int]:
        """Leases in the table by primary, those that ran out lately among them."""
        return self._by_primary

    def check_invariants(self) -> None:
        counts: dict[ServerId, int] = {}
        for lease in self._leases.values():
            assert lease.version > 0
            counts[lease.primary] = counts.get(lease.primary, 0) + 1
        assert counts == {server: count for server, count in self._by_primary.items() if count}

    def _put(self, handle: ChunkHandle, lease: Lease) -> None:
        self.forget(handle)
        self._leases[handle] = lease
        self._by_primary[lease.primary] = self._by_primary.get(lease.primary, 0) + 1
