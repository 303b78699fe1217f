"""One replica's order of mutations under one version of a chunk (GFS §3.1 step 5): strictly by serial number.
No bytes, files or network: the shells carry out what is decided.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum

from gfs.chunkserver.core.mutations import Mutation, fresh
from gfs.errors import (
    ChunkSealed,
    GfsError,
    LeaseExpired,
    NotPrimary,
    Overloaded,
    ReplicaFailed,
    StaleVersion,
)
from gfs.settings import APPLIED_MUTATIONS_KEPT, MUTATION_RUN_MAX, MUTATIONS_IN_FLIGHT_MAX
from gfs.vocabulary import ChunkHandle, ChunkVersion, SerialNumber, ServerId


class Receipt(Enum):
    """What becomes of a mutation that reached a replica."""

    ACCEPTED = "accepted"  # it will be in a later `next_run`, once those before it are applied
    UNDER_WAY = "under way"  # accepted before; share its outcome
    APPLIED = "applied"  # applied before: acknowledge again


class SecondaryOrder:
    """What one replica knows of the order of one version: what is applied, what waits for its turn.

    The shell applies what `next_run` gives, off the loop's thread, and reports with `finish_run`.

    Invariants:
        exactly the serial numbers 1 … applied_through are applied, once each, in this order (I4);
        at most one run is being applied, it starts at applied_through + 1 and has no holes;
        one primary per version (I3); after a failed application nothing is applied any more.
    """

    def __init__(
        self, *, handle: ChunkHandle, version: ChunkVersion, me: ServerId, primary: ServerId
    ) -> None:
        self.handle = handle
        self.version = version
        self.me = me
        self.primary = primary
        self.applied_through = 0
        self._waiting: dict[int, Mutation] = {}  # accepted and not applied, those of the run included
        self._run_length = 0
        self._applied: OrderedDict[int, Mutation] = OrderedDict()  # the last ones, to recognise repeats
        self._over: GfsError | None = None

    def receive(self, mutation: Mutation, *, version: ChunkVersion, primary: ServerId) -> Receipt:
        """Accept a mutation from the primary, or say what became of it earlier.

        Raises: StaleVersion, NotPrimary (another primary, or other content under a known serial number),
            ChunkSealed, Overloaded (too far ahead), ReplicaFailed (an earlier one failed here).
        """
        if version != self.version:
            raise StaleVersion(
                f"chunk {self.handle:x} has version {self.version} on {self.me}, not {version}",
                details={"version": str(self.version)},
            )
        if primary != self.primary:
            raise NotPrimary(
                f"{self.me} obeys {self.primary} for chunk {self.handle:x} version {version}, not {primary}",
                details={"primary": self.primary},
            )
        serial = mutation.serial
        known = self._applied.get(serial) or self._waiting.get(serial)
        # A primary that started anew under the same version would count from 1 again; its mutations are
        # not the ones applied here under these numbers and must not be taken for repeats.
        if known is not None and known != mutation:
            raise NotPrimary(f"serial {serial} of chunk {self.handle:x} version {version} was given before")
        if serial <= self.applied_through:
            if known is None:
                raise NotPrimary(f"serial {serial} of chunk {self.handle:x} is too old to be recognised")
            return Receipt.APPLIED
        if self._over is not None:
            raise fresh(self._over)
        if known is not None:
            return Receipt.UNDER_WAY
        if serial > self.applied_through + MUTATIONS_IN_FLIGHT_MAX:
            raise Overloaded(
                f"serial {serial} of chunk {self.handle:x} is too far ahead of {self.applied_through}"
            )
        self._waiting[serial] = mutation
        return Receipt.ACCEPTED

    def withdraw(self, serial: SerialNumber) -> bool:
        """Forget a mutation whose turn has not come: its bytes are missing, or it waited too long.

        Returns False when it is being applied or is decided: then wait for its outcome.
        """
        in_run = self.applied_through < serial <= self.applied_through + self._run_length
        if in_run or serial not in self._waiting:
            return False
        del self._waiting[serial]
        return True

    def next_run(self) -> tuple[Mutation, ...]:
        """Take the consecutive mutations to apply now; empty when one must wait for another or a gap."""
        if self._run_length or self._over is not None:
            return ()
        run: list[Mutation] = []
        serial = self.applied_through + 1
        while len(run) < MUTATION_RUN_MAX and (mutation := self._waiting.get(serial)) is not None:
            run.append(mutation)
            serial += 1
        self._run_length = len(run)
        return tuple(run)

    def finish_run(self, applied_count: int, *, failure: str | None = None) -> tuple[Mutation, ...]:
        """The first `applied_count` of the run are applied; with `failure`, the next one was not.

        Returns the mutations that now never will be applied under this version, in order.
        """
        assert 0 <= applied_count <= self._run_length, (applied_count, self._run_length)
        assert (failure is None) == (applied_count == self._run_length)
        for _ in range(applied_count):
            self.applied_through += 1
            self._applied[self.applied_through] = self._waiting.pop(self.applied_through)
            if len(self._applied) > APPLIED_MUTATIONS_KEPT:
                self._applied.popitem(last=False)
        self._run_length = 0
        if failure is None:
            return ()
        return self._end(
            ReplicaFailed(
                f"an earlier mutation of chunk {self.handle:x} version {self.version} "
                f"failed on {self.me}: {failure}",
                details={"servers": self.me, "version": str(self.version)},
            )
        )

    def supersede(self, version: ChunkVersion) -> tuple[Mutation, ...]:
        """A newer version is on this replica: nothing of this one is applied any more (I1, I3)."""
        assert version > self.version and not self._run_length
        return self._end(
            StaleVersion(
                f"chunk {self.handle:x} has version {version} on {self.me}, not {self.version}",
                details={"version": str(version)},
            )
        )

    def seal(self) -> tuple[Mutation, ...]:
        assert not self._run_length
        return self._end(ChunkSealed(f"chunk {self.handle:x} is sealed on {self.me}"))

    def revoke(self, reason: str) -> tuple[Mutation, ...]:
        """The master has taken the lease back: nothing more of this version is applied here (§3.1, §3.4)."""
        assert not self._run_length
        return self._end(LeaseExpired(f"version {self.version} of chunk {self.handle:x}: {reason}"))

    def verdict(self) -> GfsError:
        """The error that a mutation which will never be applied is answered with."""
        assert self._over is not None
        return fresh(self._over)

    @property
    def is_idle(self) -> bool:
        return not self._waiting

    @property
    def is_untouched(self) -> bool:
        """No mutation of this version has been applied or has begun to be."""
        return not self._run_length and self.applied_through == 0

    def check_invariants(self) -> None:
        assert self.applied_through >= 0 and 0 <= self._run_length <= MUTATION_RUN_MAX
        for serial in range(self.applied_through + 1, self.applied_through + 1 + self._run_length):
            assert serial in self._waiting
        for serial, mutation in self._waiting.items():
            assert mutation.serial == serial > self.applied_through
        assert len(self._waiting) <= MUTATIONS_IN_FLIGHT_MAX
        kept = list(self._applied)
        assert kept == list(range(self.applied_through - len(kept) + 1, self.applied_through + 1))
        if self._over is not None:
            assert not self._waiting and not self._run_length

    def _end(self, verdict: GfsError) -> tuple[Mutation, ...]:
        if self._over is None:
            self._over = verdict
        never = tuple(mutation for _, mutation in sorted(self._waiting.items()))
        self._waiting.clear()
        return never
