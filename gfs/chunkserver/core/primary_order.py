"""The primary's order of mutations under one version of one chunk (GFS §3.1, §3.3): serial numbers,
offsets of records, what may be acknowledged. No bytes, files or network: shells carry out what is decided.

The primary's own copy is ordered by a SecondaryOrder too, so all replicas obey the same rules.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from gfs.chunkserver.core.append_window import AppendWindow, RecordPlace
from gfs.chunkserver.core.mutations import (
    Acknowledged,
    AppendAt,
    ChunkFull,
    Mutation,
    PadChunk,
    UnderWay,
    fresh,
)
from gfs.errors import (
    ChunkSealed,
    GfsError,
    InvalidArgument,
    LeaseExpired,
    NoSpace,
    Overloaded,
    ReplicaFailed,
    StaleVersion,
)
from gfs.messages.replicas import AppendedRecord, MutationKind
from gfs.settings import ANSWERED_WRITES_KEPT, APPEND_BYTES_MAX, MUTATIONS_IN_FLIGHT_MAX
from gfs.vocabulary import (
    CHUNK_BYTES,
    ChunkHandle,
    ChunkVersion,
    ClientId,
    PushId,
    SerialNumber,
    ServerId,
)

RecordId = tuple[ClientId, int]  # and its sequence


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
        an identified record is outstanding once, and in the window once it is acknowledged (I9);
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
        window: AppendWindow | None = None,
    ) -> None:
        """
        Args:
            length_bytes: what this replica has committed of the chunk as the version begins.
            window: the identified records in that; this order's own from now on.
        """
        self.handle = handle
        self.version = version
        self.me = me
        self.members = frozenset(members)
        assert me in self.members, (me, self.members)
        assert 0 <= length_bytes <= CHUNK_BYTES, length_bytes
        self._end_bytes = length_bytes
        self._window = AppendWindow() if window is None else window
        self._identified: set[RecordId] = set()  # of the outstanding records
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

    def find_record(
        self, client: ClientId, sequence: int, *, repeated: bool, not_before: int
    ) -> RecordPlace | None:
        """Where an identified record is on every replica; None when it is to be ordered, or is outstanding.

        Raises: as AppendWindow.find; what this version ended with, after which a record that is here may
            not be everywhere.
        """
        if self._over is not None:
            raise fresh(self._over)
        return self._window.find(client, sequence, repeated=repeated, not_before=not_before)

    def place_records(
        self, records: Sequence[AppendedRecord], *, push: PushId, version: ChunkVersion, now: float
    ) -> AppendAt | PadChunk | ChunkFull:
        """Choose where records go, on this and every secondary: behind all that is ordered so far.

        Args:
            records: each of 1..APPEND_BYTES_MAX bytes; find_record() does not know them.
            push: names the mutation.
            now: monotonic seconds.
        Returns:
            AppendAt for the first ones, as many as there is room for; or PadChunk when the first one would
            cross the chunk's end: pad every replica from there, all clients then try the next chunk; or
            ChunkFull when nothing is left to pad.
        Raises: as admit().
        Source: GFS §3.3.
        """
        assert records and all(0 < record.length_bytes <= APPEND_BYTES_MAX for record in records), records
        self._check_open(version, now)
        offset_bytes = self._end_bytes
        if offset_bytes == CHUNK_BYTES:
            return ChunkFull()
        fitting: list[AppendedRecord] = []
        end_bytes = offset_bytes
        for record in records:
            if end_bytes + record.length_bytes > CHUNK_BYTES:
                break
            fitting.append(record)
            end_bytes += record.length_bytes
        if not fitting:
            pad = self._order(offset_bytes, CHUNK_BYTES - offset_bytes, push, "pad", now)
            return PadChunk(pad.serial, pad.offset_bytes)
        identified = [(record.client, record.sequence) for record in fitting if record.client]
        assert self._identified.isdisjoint(identified), (push, identified)
        self._identified.update(identified)
        mutation = self._order(offset_bytes, end_bytes - offset_bytes, push, "record", now, tuple(fitting))
        return AppendAt(mutation.serial, offset_bytes, len(fitting))

    def ordered(self, serial: SerialNumber) -> Mutation:
        """The outstanding mutation of this number."""
        return self._outstanding[serial].mutation

    def align(self, length_bytes: int) -> None:
        """This replica was cut to the length that all members have, before any client knew the version."""
        assert not self.has_ordered and 0 <= length_bytes <= CHUNK_BYTES, (self._next_serial, length_bytes)
        self._end_bytes = length_bytes
        self._window.cut(length_bytes)

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
            raise fresh(self._over)
        if now >= self.lease_until:
            raise LeaseExpired(f"the lease of chunk {self.handle:x} version {version} has run out")
        if len(self._outstanding) >= MUTATIONS_IN_FLIGHT_MAX:
            raise Overloaded(f"{MUTATIONS_IN_FLIGHT_MAX} mutations of chunk {self.handle:x} are under way")

    def _order(
        self,
        offset_bytes: int,
        length_bytes: int,
        push: PushId,
        kind: MutationKind,
        now: float,
        records: tuple[AppendedRecord, ...] = (),
    ) -> Mutation:
        assert push not in self._serial_of_push and push not in self._answered  # recall() was asked first
        mutation = Mutation(SerialNumber(self._next_serial), offset_bytes, length_bytes, push, kind, records)
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
        if mutation.records:
            self._identified.difference_update((r.client, r.sequence) for r in mutation.records)
            self._window.note(mutation.records, end_bytes=mutation.end_bytes)
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
        return fresh(self._over)

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
        outstanding_ids = [
            (record.client, record.sequence)
            for outstanding in self._outstanding.values()
            for record in outstanding.mutation.records
            if record.client
        ]
        assert len(outstanding_ids) == len(self._identified) and self._identified.issuperset(outstanding_ids)
        self._window.check_invariants()
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
        self._identified.clear()
        return cut_short

    def _check_repeat(self, first: Mutation, offset_bytes: int, length_bytes: int) -> None:
        if (first.kind, first.offset_bytes, first.length_bytes) != ("write", offset_bytes, length_bytes):
            raise InvalidArgument(
                f"push {first.push} was already ordered at offset {first.offset_bytes}; "
                "bytes are pushed anew for another place"
            )
