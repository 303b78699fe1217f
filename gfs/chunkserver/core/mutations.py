"""Order of mutations under one version of one chunk (GFS §3.1): serial numbers at the primary, strict
order at every replica. No bytes, files or network here: the shells carry out what is decided.

The primary's own copy is ordered by a SecondaryOrder too, so all replicas obey the same rules.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from gfs.errors import (
    ChunkSealed,
    GfsError,
    InvalidArgument,
    LeaseExpired,
    NoSpace,
    NotPrimary,
    Overloaded,
    ReplicaFailed,
    StaleVersion,
)
from gfs.messages.replicas import MutationKind
from gfs.settings import (
    ANSWERED_WRITES_KEPT,
    APPEND_BYTES_MAX,
    APPLIED_MUTATIONS_KEPT,
    MUTATION_RUN_MAX,
    MUTATIONS_IN_FLIGHT_MAX,
)
from gfs.vocabulary import CHUNK_BYTES, ChunkHandle, ChunkVersion, PushId, SerialNumber, ServerId


class Mutation(NamedTuple):
    """One mutation in its place in the order. Two with one serial number are the same only if all is equal.

    `push` of a pad is the record that had no room: it names the pad, none of its bytes are used.
    """

    serial: SerialNumber
    offset_bytes: int
    length_bytes: int
    push: PushId
    kind: MutationKind = "write"

    @property
    def end_bytes(self) -> int:
        return self.offset_bytes + self.length_bytes


class UnderWay(NamedTuple):
    """A repeat of a mutation that is not yet decided: share its outcome."""

    serial: SerialNumber


class Acknowledged(NamedTuple):
    """Every member of the set has the mutation; `length_bytes` is the chunk's after it."""

    serial: SerialNumber
    length_bytes: int


class AppendAt(NamedTuple):
    """A record goes to this offset, on every replica."""

    serial: SerialNumber
    offset_bytes: int


class PadChunk(NamedTuple):
    """A record would cross the chunk's end: every replica gets zeros from this offset to the end."""

    serial: SerialNumber
    offset_bytes: int


class ChunkFull(NamedTuple):
    """The chunk is ordered up to its end already: nothing to be done but to try the next one."""


class _Outstanding:
    __slots__ = ("length_bytes", "missing", "mutation")

    def __init__(self, mutation: Mutation, members: Iterable[ServerId]) -> None:
        self.mutation = mutation
        self.missing = set(members)
        self.length_bytes = 0


class PrimaryOrder:
    """What a primary knows of the one version it orders. Seconds are monotonic.

    Invariants:
        serial numbers are given from 1 without holes; an outstanding one is below the next;
        an outstanding mutation is missing at least one member, an acknowledged one none (I2);
        once a member has failed, or a newer version has fenced this one, nothing is outstanding,
        and nothing is admitted or acknowledged any more: the failed member has a gap (I4);
        every mutation ordered under this version ends at or before `end_bytes`, and a record begins where
        `end_bytes` was: so no two records overlap, acknowledged or not (§3.3).
    """

    def __init__(
        self,
        *,
        handle: ChunkHandle,
        version: ChunkVersion,
        me: ServerId,
        members: Iterable[ServerId],
        length_bytes: int,
        now: float,
        lease_seconds: float,
    ) -> None:
        """`length_bytes`: what this replica has committed of the chunk as the version begins."""
        self.handle = handle
        self.version = version
        self.me = me
        self.members = frozenset(members)
        assert me in self.members, (me, self.members)
        assert 0 <= length_bytes <= CHUNK_BYTES, length_bytes
        self._end_bytes = length_bytes
        self.lease_until = now + lease_seconds
        self.admitted_at = -1.0  # when the last mutation was admitted; -1 before the first
        self._next_serial = 1
        self._outstanding: dict[SerialNumber, _Outstanding] = {}
        self._serial_of_push: dict[PushId, SerialNumber] = {}
        self._answered: OrderedDict[PushId, tuple[Mutation, Acknowledged]] = OrderedDict()
        self._failed: dict[ServerId, GfsError] = {}
        self._over: GfsError | None = None

    # --- writes from clients --------------------------------------------------------------------

    def recall(self, push: PushId, *, offset_bytes: int, length_bytes: int) -> UnderWay | Acknowledged | None:
        """Recognise a write that came before: its answer was lost, or it is not decided yet.

        A repeat must not be ordered again: the bytes may have left the push buffers with the first one.
        Raises: InvalidArgument when the same push was ordered at another place.
        """
        serial = self._serial_of_push.get(push)
        if serial is not None:
            self._check_repeat(self._outstanding[serial].mutation, offset_bytes, length_bytes)
            return UnderWay(serial)
        answered = self._answered.get(push)
        if answered is None:
            return None
        self._check_repeat(answered[0], offset_bytes, length_bytes)
        return answered[1]

    def admit(
        self, push: PushId, *, version: ChunkVersion, offset_bytes: int, length_bytes: int, now: float
    ) -> Mutation:
        """Give a write its place in the order, to be applied here and on every secondary.

        Raises:
            StaleVersion, ChunkSealed, LeaseExpired, Overloaded: nothing was ordered.
            ReplicaFailed: a member of this version has failed; only a newer version can go on.
        Source: GFS §3.1 step 4.
        """
        assert 0 <= offset_bytes < offset_bytes + length_bytes <= CHUNK_BYTES  # the service refuses others
        self._check_open(version, now)
        return self._order(offset_bytes, length_bytes, push, "write", now)

    # --- records from clients -------------------------------------------------------------------

    def recall_record(self, push: PushId, *, record_bytes: int) -> AppendAt | PadChunk | None:
        """Recognise a record that came before, decided or not; only its place is told, see is_outstanding().

        Raises: InvalidArgument when the same push was ordered as something else.
        """
        serial = self._serial_of_push.get(push)
        if serial is not None:
            first = self._outstanding[serial].mutation
        elif push in self._answered:
            first = self._answered[push][0]
        else:
            return None
        if first.kind == "pad":
            return PadChunk(first.serial, first.offset_bytes)
        if first.kind == "write" or first.length_bytes != record_bytes:
            raise InvalidArgument(
                f"push {push} was already ordered as a {first.kind} of {first.length_bytes} bytes"
            )
        return AppendAt(first.serial, first.offset_bytes)

    def place_record(
        self, record_bytes: int, *, push: PushId, version: ChunkVersion, now: float
    ) -> AppendAt | PadChunk | ChunkFull:
        """Choose where one record goes, on this and every secondary: behind all that is ordered so far.

        Args:
            record_bytes: 1..APPEND_BYTES_MAX.
            now: monotonic seconds.
        Returns:
            AppendAt; or PadChunk when the record would cross the chunk's end: pad every replica from
            there, the client then tries the next chunk; or ChunkFull when nothing is left to pad.
        Raises: as admit().
        Source: GFS §3.3.
        """
        assert 0 < record_bytes <= APPEND_BYTES_MAX, record_bytes  # the service refuses others
        self._check_open(version, now)
        offset_bytes = self._end_bytes
        if offset_bytes == CHUNK_BYTES:
            return ChunkFull()
        if offset_bytes + record_bytes > CHUNK_BYTES:
            pad = self._order(offset_bytes, CHUNK_BYTES - offset_bytes, push, "pad", now)
            return PadChunk(pad.serial, pad.offset_bytes)
        record = self._order(offset_bytes, record_bytes, push, "record", now)
        return AppendAt(record.serial, record.offset_bytes)

    def ordered(self, serial: SerialNumber) -> Mutation:
        """The outstanding mutation of this number."""
        return self._outstanding[serial].mutation

    def align(self, length_bytes: int) -> None:
        """This replica was cut to the length that all members have, before any client knew the version."""
        assert not self.has_ordered and 0 <= length_bytes <= CHUNK_BYTES, (self._next_serial, length_bytes)
        self._end_bytes = length_bytes

    @property
    def has_ordered(self) -> bool:
        return self._next_serial > 1

    def _check_open(self, version: ChunkVersion, now: float) -> None:
        if version != self.version:
            raise StaleVersion(
                f"chunk {self.handle:x} has version {self.version} here, not {version}",
                details={"version": str(self.version)},
            )
        if self._over is not None:
            raise _fresh(self._over)
        if now >= self.lease_until:
            raise LeaseExpired(f"the lease of chunk {self.handle:x} version {version} has run out")
        if len(self._outstanding) >= MUTATIONS_IN_FLIGHT_MAX:
            raise Overloaded(f"{MUTATIONS_IN_FLIGHT_MAX} mutations of chunk {self.handle:x} are under way")

    def _order(
        self, offset_bytes: int, length_bytes: int, push: PushId, kind: MutationKind, now: float
    ) -> Mutation:
        assert push not in self._serial_of_push and push not in self._answered  # recall() was asked first
        mutation = Mutation(SerialNumber(self._next_serial), offset_bytes, length_bytes, push, kind)
        self._next_serial += 1
        self._end_bytes = max(self._end_bytes, mutation.end_bytes)
        self._outstanding[mutation.serial] = _Outstanding(mutation, self.members)
        self._serial_of_push[push] = mutation.serial
        self.admitted_at = now
        return mutation

    def applied_here(self, serial: SerialNumber, *, length_bytes: int) -> Acknowledged | None:
        """The primary's own copy has the mutation; the chunk is now `length_bytes` long."""
        outstanding = self._outstanding.get(serial)
        if outstanding is not None:
            outstanding.length_bytes = length_bytes
        return self.applied_on(serial, self.me)

    def applied_on(self, serial: SerialNumber, member: ServerId) -> Acknowledged | None:
        """A member has the mutation. Returns Acknowledged when it was the last one missing (I2)."""
        assert member in self.members, (member, self.members)
        assert 0 < serial < self._next_serial, serial
        outstanding = self._outstanding.get(serial)
        if outstanding is None:
            return None  # answered already, as a failure
        outstanding.missing.discard(member)
        if outstanding.missing:
            return None
        del self._outstanding[serial]
        mutation = outstanding.mutation
        del self._serial_of_push[mutation.push]
        done = Acknowledged(serial, outstanding.length_bytes)
        self._answered[mutation.push] = (mutation, done)
        if len(self._answered) > ANSWERED_WRITES_KEPT:
            self._answered.popitem(last=False)
        return done

    # --- the end of a version -------------------------------------------------------------------

    def member_failed(self, member: ServerId, error: GfsError) -> tuple[SerialNumber, ...]:
        """A member does not have a mutation and never will under this version: the version is broken.

        Returns the outstanding serial numbers, all of which are to be answered with `verdict()`: a
        later mutation on the other members would be applied over the failed member's gap (I4).
        """
        assert member in self.members, (member, self.members)
        self._failed.setdefault(member, error)
        failed = sorted(self._failed.items())
        named = "; ".join(f"{server}: {cause.message}" for server, cause in failed)
        details = {
            "servers": ",".join(server for server, _ in failed),
            "reasons": ",".join(cause.code for _, cause in failed),
            "version": str(self.version),
        }
        if self._failed.keys() == self.members and all(isinstance(e, NoSpace) for e in self._failed.values()):
            # Nowhere applied, and there is no other member to go on with: a definite refusal.
            return self._end(NoSpace(f"chunk {self.handle:x}: {named}", details=details))
        return self._end(
            ReplicaFailed(
                f"chunk {self.handle:x} version {self.version} did not reach every replica ({named})",
                hint="Ask the master for a newer version without these servers.",
                details=details,
            )
        )

    def supersede(self, reason: str) -> tuple[SerialNumber, ...]:
        """This version is over and no replica is to blame: a newer version, or a replica that started anew.

        Returns the outstanding serial numbers; they may be on any of the replicas, hence ReplicaFailed,
        which is indefinite, with no server named.
        """
        if self._failed:
            return ()  # keep the names: they say more
        return self._end(
            ReplicaFailed(
                f"chunk {self.handle:x} version {self.version} is over: {reason}",
                hint="Ask the master for the chunk's newer version.",
                details={"servers": "", "version": str(self.version)},
            )
        )

    def seal(self) -> tuple[SerialNumber, ...]:
        """No mutation ever again. Returns the outstanding serial numbers: nobody can say how they ended."""
        cut_short = self.supersede("the chunk was sealed")
        self._over = ChunkSealed(f"chunk {self.handle:x} is sealed")
        return cut_short

    def verdict(self) -> GfsError:
        """The error that every mutation of a version that is over is answered with."""
        assert self._over is not None
        return _fresh(self._over)

    @property
    def is_over(self) -> bool:
        return self._over is not None

    # --- the lease ------------------------------------------------------------------------------

    def extend(self, *, now: float, lease_seconds: float) -> None:
        """A leader has prolonged the lease to `lease_seconds` from now; never shortens it."""
        if self._over is None:
            self.lease_until = max(self.lease_until, now + lease_seconds)

    @property
    def outstanding_count(self) -> int:
        return len(self._outstanding)

    def is_idle(self, *, now: float) -> bool:
        """Forgetting this order loses nothing but the lease."""
        return not self._outstanding and (self._over is not None or now >= self.lease_until)

    def check_invariants(self) -> None:
        assert self._next_serial >= 1
        assert 0 <= self._end_bytes <= CHUNK_BYTES
        reached = 0  # by the outstanding mutations so far, which are in serial order
        for serial, outstanding in self._outstanding.items():
            assert 0 < serial < self._next_serial
            mutation = outstanding.mutation
            assert mutation.kind == "write" or mutation.offset_bytes >= reached, (mutation, reached)
            assert mutation.kind != "pad" or mutation.end_bytes == CHUNK_BYTES
            reached = max(reached, mutation.end_bytes)
            assert reached <= self._end_bytes
            assert outstanding.mutation.serial == serial
            assert outstanding.missing and outstanding.missing <= self.members
            assert self._serial_of_push[outstanding.mutation.push] == serial
            assert outstanding.mutation.push not in self._answered
        assert len(self._serial_of_push) == len(self._outstanding) <= MUTATIONS_IN_FLIGHT_MAX
        assert len(self._answered) <= ANSWERED_WRITES_KEPT
        if self._over is not None:
            assert not self._outstanding
        assert not self._failed or self._over is not None
        assert self._failed.keys() <= self.members

    def _end(self, verdict: GfsError) -> tuple[SerialNumber, ...]:
        if isinstance(self._over, ChunkSealed):
            return ()
        self._over = verdict
        cut_short = tuple(self._outstanding)
        self._outstanding.clear()
        self._serial_of_push.clear()
        return cut_short

    def _check_repeat(self, first: Mutation, offset_bytes: int, length_bytes: int) -> None:
        if (first.kind, first.offset_bytes, first.length_bytes) != ("write", offset_bytes, length_bytes):
            raise InvalidArgument(
                f"push {first.push} was already ordered at offset {first.offset_bytes}; "
                "bytes are pushed anew for another place"
            )


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
            raise _fresh(self._over)
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

    def verdict(self) -> GfsError:
        """The error that a mutation which will never be applied is answered with."""
        assert self._over is not None
        return _fresh(self._over)

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


def _fresh(error: GfsError) -> GfsError:
    """A new exception for each raise: a shared one would collect tracebacks and contexts."""
    return type(error)(error.message, hint=error.hint, details=error.details)
