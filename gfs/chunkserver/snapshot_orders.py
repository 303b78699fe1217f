"""The chunk server's part in snapshots (GFS §3.4): leases given up, shared chunks copied on the same disk.

Which chunks, and when, the master decides; bytes and checksums are replica_store's.
"""

from __future__ import annotations

from collections.abc import Callable

from gfs.chunkserver.chunk_orders import ChunkOrders, VersionOrder
from gfs.chunkserver.replica_store import ReplicaStore
from gfs.chunkserver.secondary import OrderedWriter
from gfs.errors import GfsError, InvalidArgument
from gfs.messages.snapshots import CopyReplica, CopyReply, RevokeLeases, RevokeReply
from gfs.settings import REVOKED_CHUNKS_MAX
from gfs.vocabulary import ChunkHandle, ChunkVersion


class SnapshotOrders:
    """Used on the event loop's thread; the caller sees a change to its end."""

    def __init__(
        self,
        replicas: ReplicaStore,
        orders: ChunkOrders,
        writer: OrderedWriter,
        *,
        give_up: Callable[[VersionOrder, str], None],
    ) -> None:
        """`give_up` ends an order: nothing of it that has not been applied ever is."""
        self._replicas = replicas
        self._orders = orders
        self._writer = writer
        self._give_up = give_up

    async def revoke(self, request: RevokeLeases) -> RevokeReply:
        """End the orders of these chunks: volatile, and yet for ever, as a new order needs a newer version.

        Raises: InvalidArgument.
        """
        if len(request.handles) != len(request.versions) or len(request.handles) > REVOKED_CHUNKS_MAX:
            raise InvalidArgument(f"{len(request.handles)} chunks, {len(request.versions)} versions")
        unsettled: list[ChunkHandle] = []
        for handle, version in zip(request.handles, request.versions, strict=True):
            if self._orders.find(handle) is not None and not await self._revoke_one(handle, version):
                unsettled.append(handle)
        lengths = await self._writer.in_worker(
            lambda: list(map(self._length_at, request.handles, request.versions))
        )
        return RevokeReply(lengths=lengths, unsettled=unsettled)

    async def _revoke_one(self, handle: ChunkHandle, version: ChunkVersion) -> bool:
        """Whether this replica is certainly what all others of the set are."""
        async with self._orders.exclusively(handle) as turn:
            order = turn.order
            if order is None or order.version > version:
                return False  # deleted or granted anew while we waited
            settled = order.version == version and order.local.is_idle
            if order.lead is not None:
                settled = settled and not order.lead.is_over and order.lead.outstanding_count == 0
            self._give_up(order, "the lease was revoked for a snapshot")
            turn.order = None
            return settled

    def _length_at(self, handle: ChunkHandle, version: ChunkVersion) -> int:
        """In a worker thread."""
        try:
            return self._replicas.status(handle, version).length_bytes
        except GfsError:
            return -1

    async def copy(self, request: CopyReplica) -> CopyReply:
        """Raises: as ReplicaVersions.copy_replica; InvalidArgument."""
        if not 0 < request.handle < request.copy:
            # Handles only grow; and two copies that each wait for the other's chunk cannot come about.
            raise InvalidArgument(f"chunk {request.copy:x} cannot be a copy of {request.handle:x}")
        async with self._orders.exclusively(request.handle), self._orders.exclusively(request.copy):
            copied = await self._writer.in_worker(
                lambda: self._replicas.versions.copy_replica(
                    request.handle,
                    request.copy,
                    request.version,
                    oldest_version=request.oldest_version,
                    master_term=request.master_term,
                )
            )
        return CopyReply(length_bytes=copied.length_bytes, may_be_short=copied.may_be_short)
