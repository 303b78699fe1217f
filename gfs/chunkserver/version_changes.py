"""Versions as the master orders them, against what is under way: granted, aligned, sealed, deleted.

Each change has the chunk for itself (chunk_orders). What becomes of bytes and index is replica_versions', in
which order mutations are applied is core/mutations.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from gfs.chunkserver.chunk_orders import ChunkOrders, VersionOrder
from gfs.chunkserver.core.append_window import AppendWindow
from gfs.chunkserver.core.mutations import Mutation
from gfs.chunkserver.core.primary_order import PrimaryOrder
from gfs.chunkserver.core.secondary_order import SecondaryOrder
from gfs.chunkserver.primary import PrimaryWrites
from gfs.chunkserver.replica_store import ReplicaStore
from gfs.chunkserver.replica_versions import Bumped, ReplicaStatus
from gfs.chunkserver.secondary import OrderedWriter
from gfs.clock import Clock
from gfs.errors import ChunkSealed, InvalidArgument, NotFound, StaleVersion, Superseded
from gfs.messages.base import Ack
from gfs.messages.heartbeat import GarbageReplica
from gfs.messages.replicas import AlignReplica, BumpReply, BumpVersion, SealReplica
from gfs.vocabulary import CHUNK_BYTES, REPLICATION_GOAL_MAX, ChunkVersion, ServerId, Term


class VersionChanges:
    """On the event loop's thread; the caller sees each change to its end."""

    def __init__(
        self,
        me: ServerId,
        replicas: ReplicaStore,
        orders: ChunkOrders,
        writer: OrderedWriter,
        primary: PrimaryWrites,
        clock: Clock,
    ) -> None:
        self._me, self._replicas, self._orders = me, replicas, orders
        self._writer, self._primary, self._clock = writer, primary, clock

    async def bump(self, request: BumpVersion) -> BumpReply:
        """Raises: InvalidArgument; as ReplicaVersions.bump."""
        self._check_grant(request)
        handle, version = request.handle, request.version
        async with self._orders.exclusively(handle) as turn:
            # Whatever is being applied has ended; what waits comes after this, and finds the newer version.
            now = self._clock.monotonic()  # before the disk: the lease never outlasts the master's view of it
            known = turn.order
            if known is not None and known.version == version and not _same_grant(known, request):
                raise StaleVersion(
                    f"version {version} of chunk {handle:x} was granted here for another set (I1)",
                    details={"version": str(known.version)},
                )
            held, bumped = await self._writer.in_worker(lambda: self._bump_on_disk(request))
            if known is not None and known.version < version:
                self._end(known, version, f"version {version} was granted")
            # A bump to the version already on the disk is a repeat. If the order is not in memory, this
            # server has started anew since, and cannot know which mutations of this version it has: it
            # stays without an order, so that the next write brings a newer version (I4).
            if held is None or held.version < version:
                may_be_short = held is not None and held.may_be_short
                window = None
                if request.primary == self._me:
                    window = await self._writer.in_worker(
                        lambda: self._replicas.append_window(handle, version)
                    )
                fresh = self._new_order(
                    request, now, bumped.length_bytes, may_be_short=may_be_short, window=window
                )
                self._orders.install(handle, fresh, now=now)
            elif known is not None and known.version == version:
                may_be_short = known.may_be_short
                if known.lead is not None:
                    known.lead.extend(now=now, lease_seconds=request.lease_seconds)
            else:
                may_be_short = True  # what the first answer said is forgotten: claim less, not more
            return BumpReply(
                replaced_version=bumped.replaced_version,
                length_bytes=bumped.length_bytes,
                may_be_short=may_be_short,
            )

    async def align(self, request: AlignReplica) -> Ack:
        """Raises: InvalidArgument; Superseded (something may have been written under this version); as
        ReplicaVersions.align."""
        _check_length(request.length_bytes)
        async with self._orders.exclusively(request.handle) as turn:
            order = turn.order
            # Cutting is safe only before any client can have had a mutation of this version acknowledged.
            if order is None or order.version != request.version or order.has_begun:
                held = "none" if order is None else f"version {order.version}"
                raise Superseded(
                    f"chunk {request.handle:x} cannot be aligned to version {request.version}: "
                    f"order in memory: {held}, or mutations have begun"
                )
            await self._writer.in_worker(
                lambda: self._replicas.versions.align(
                    request.handle, request.version, request.length_bytes, master_term=request.master_term
                )
            )
            if order.lead is not None:
                order.lead.align(request.length_bytes)
            return Ack()

    async def seal(self, request: SealReplica) -> Ack:
        """Mutations under way are refused. Raises: InvalidArgument; as ReplicaVersions.seal."""
        _check_length(request.length_bytes)
        async with self._orders.exclusively(request.handle) as turn:
            await self._writer.in_worker(
                lambda: self._replicas.versions.seal(
                    request.handle, request.version, request.length_bytes, master_term=request.master_term
                )
            )
            order = turn.order
            if order is not None:
                self._writer.refuse(
                    order, order.local.seal(), ChunkSealed(f"chunk {request.handle:x} is sealed")
                )
                if order.lead is not None:
                    self._primary.end_outstanding(order, order.lead.seal())
            return Ack()

    async def collect(
        self, garbage: GarbageReplica, *, term: Term, known_at: float, was_copied: Callable[[], bool]
    ) -> bool:
        """As ChunkService.collect. `was_copied`: whether it was made a copy of since `known_at`."""
        async with self._orders.exclusively(garbage.handle) as turn:
            if was_copied():
                return False
            order = turn.order
            if order is not None and (order.granted_at >= known_at or order.version > garbage.version):
                return False
            gone = await self._writer.in_worker(
                lambda: self._replicas.delete(garbage.handle, up_to=garbage.version, master_term=term)
            )
            if gone and order is not None:
                self.end(order, "the replica was deleted")
                turn.order = None
            return gone

    def end(self, order: VersionOrder, reason: str) -> None:
        """End an order whose version is over for good: its replica is no member any more."""
        self._end(order, ChunkVersion(order.version + 1), reason)

    def give_up(self, order: VersionOrder, reason: str) -> None:
        """End an order without a newer one: a version that nobody writes to any more."""
        self._end_applied(order, order.local.revoke(reason), reason)

    def _check_grant(self, request: BumpVersion) -> None:
        servers = [replica.server for replica in request.replicas]
        if not 0 < len(servers) <= REPLICATION_GOAL_MAX or len(set(servers)) != len(servers):
            raise InvalidArgument(f"a set of {len(servers)} replicas, {len(set(servers))} of them different")
        if request.primary not in servers or self._me not in servers:
            raise InvalidArgument(f"{request.primary} and {self._me} must be among {servers}")
        if request.version < 1 or not 0 <= request.oldest_version <= request.version:
            raise InvalidArgument(f"version {request.version}, oldest {request.oldest_version}")
        if not request.lease_seconds > 0:
            raise InvalidArgument(f"a lease of {request.lease_seconds} s")

    def _bump_on_disk(self, request: BumpVersion) -> tuple[ReplicaStatus | None, Bumped]:
        """In a worker thread: what the replica was before this, and what the bump made of it."""
        held = None
        try:
            held = self._replicas.status(request.handle, request.version)
        except NotFound:
            pass
        except StaleVersion as stale:
            with suppress(NotFound, StaleVersion):
                held = self._replicas.status(request.handle, ChunkVersion(int(stale.details["version"])))
        bumped = self._replicas.versions.bump(
            request.handle,
            request.version,
            oldest_version=request.oldest_version,
            create=request.create,
            master_term=request.master_term,
            durable=request.durable,
        )
        return held, bumped

    def _end(self, order: VersionOrder, newer: ChunkVersion, reason: str) -> None:
        self._end_applied(order, order.local.supersede(newer), reason)

    def _end_applied(self, order: VersionOrder, never: tuple[Mutation, ...], reason: str) -> None:
        if never:
            self._writer.refuse(order, never, order.local.verdict())
        if order.lead is not None:
            self._primary.end_outstanding(order, order.lead.supersede(reason))

    def _new_order(
        self,
        request: BumpVersion,
        now: float,
        length_bytes: int,
        *,
        may_be_short: bool,
        window: AppendWindow | None,
    ) -> VersionOrder:
        me = self._me
        lead = None
        if request.primary == me:
            lead = PrimaryOrder(
                handle=request.handle,
                version=request.version,
                me=me,
                members=[replica.server for replica in request.replicas],
                length_bytes=length_bytes,
                now=now,
                lease_seconds=request.lease_seconds,
                window=window,
            )
        return VersionOrder(
            version=request.version,
            granted_at=now,
            may_be_short=may_be_short,
            primary=request.primary,
            replicas={replica.server: replica for replica in request.replicas},
            local=SecondaryOrder(
                handle=request.handle, version=request.version, me=me, primary=request.primary
            ),
            lead=lead,
        )


def _same_grant(order: VersionOrder, request: BumpVersion) -> bool:
    return order.primary == request.primary and order.replicas.keys() == {r.server for r in request.replicas}


def _check_length(length_bytes: int) -> None:
    if not 0 <= length_bytes <= CHUNK_BYTES:
        raise InvalidArgument(f"{length_bytes} is not a length of a chunk")
