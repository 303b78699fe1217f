"""The chunk server's answers to CHUNKSERVER_REQUESTS: checks at the door, then the room that does it.

Bytes and index are replica_store's, order is told in core/mutations, heartbeats are elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

from gfs import failpoints
from gfs.checksums import piece_checksums
from gfs.chunkserver.chunk_orders import ChunkOrders, VersionOrder
from gfs.chunkserver.clone_receiver import CloneReceiver, ReadReplica
from gfs.chunkserver.core.mutations import InlineBytes, Mutation
from gfs.chunkserver.disk_health import undone_on_error
from gfs.chunkserver.disk_identity import DiskIdentity
from gfs.chunkserver.primary import PrimaryWrites, PushCopy
from gfs.chunkserver.push_buffer import PushBuffer
from gfs.chunkserver.record_appends import RecordAppends
from gfs.chunkserver.replica_store import ReplicaStore
from gfs.chunkserver.secondary import OrderedWriter
from gfs.chunkserver.snapshot_orders import SnapshotOrders
from gfs.chunkserver.tallies import Tallies
from gfs.chunkserver.version_changes import VersionChanges
from gfs.clock import Clock
from gfs.errors import (
    ChecksumMismatch,
    ChunkSealed,
    GfsError,
    InvalidArgument,
    LeaseExpired,
    NotPrimary,
    Unavailable,
)
from gfs.messages.base import Ack, Ping, Reply, Request
from gfs.messages.cluster import DiskStatus, DiskStatusReply
from gfs.messages.heartbeat import GarbageReplica
from gfs.messages.replicas import (
    AlignReplica,
    AppendRecord,
    ApplyMutation,
    BumpVersion,
    ChunkStatus,
    ChunkStatusReply,
    CloneChunk,
    FindRecord,
    FindRecordReply,
    SealReplica,
    WriteChunk,
)
from gfs.messages.snapshots import CopyReplica, RevokeLeases
from gfs.settings import (
    APPEND_BYTES_MAX,
    INLINE_RECORD_BYTES_MAX,
    INLINE_WRITE_BYTES_MAX,
    PUSH_BYTES_MAX,
    RECORD_BATCH_MAX,
)
from gfs.telemetry import logger
from gfs.transport.interface import CallContext, Handlers, RpcCaller
from gfs.vocabulary import (
    CHUNK_BYTES,
    REPLICATION_GOAL_MAX,
    ChunkHandle,
    ChunkVersion,
    ClusterId,
    ServerId,
    Term,
)

_log = logger("chunkserver")
T = TypeVar("T")


class ChunkService:
    """One chunk server's part in versions, leases and mutations (I1-I5). On the event loop's thread."""

    def __init__(
        self,
        identity: DiskIdentity,
        replicas: ReplicaStore,
        pushes: PushBuffer,
        caller: RpcCaller,
        workers: Executor,
        clock: Clock,
        *,
        push_copy: PushCopy,
        read_replica: ReadReplica,
        clone_workers: Executor,
        forward_seconds: float,
        tallies: Tallies,
        on_joined: Callable[[ClusterId], None],
    ) -> None:
        self.orders = ChunkOrders()
        self._identity = identity
        self._replicas = replicas
        self._pushes = pushes
        self._clock = clock
        self._forward_seconds = forward_seconds
        self._on_joined = on_joined
        self._writer = OrderedWriter(
            replicas, pushes, self.orders, workers, clock, on_applied=tallies.mutation_applied
        )
        self._primary = PrimaryWrites(
            identity.server,
            self._writer,
            pushes,
            caller,
            clock,
            push_copy=push_copy,
            forward_seconds=forward_seconds,
            on_acknowledged=tallies.write_acknowledged,
        )
        self._appends = RecordAppends(identity.server, self._primary, clock)
        self._versions = VersionChanges(
            identity.server, replicas, self.orders, self._writer, self._primary, clock
        )
        self._snapshots = SnapshotOrders(replicas, self.orders, self._writer, give_up=self._versions.give_up)
        self.clones = CloneReceiver(
            identity.server,
            replicas.guests,
            caller,
            clock,
            read=read_replica,
            workers=clone_workers,
            exclusively=self._change_guest,
        )
        self._changing: set[asyncio.Task[Any]] = set()  # Any: each change has its own result
        self._out_of_service = ""  # why no change is taken any more

    def handlers(self) -> Handlers:
        return {
            Ping: self._ping,
            BumpVersion: self._bump,
            AlignReplica: self._align,
            ChunkStatus: self._chunk_status,
            CloneChunk: self._clone,
            SealReplica: self._seal,
            WriteChunk: self._write,
            AppendRecord: self._append,
            ApplyMutation: self._apply,
            FindRecord: self._find_record,
            DiskStatus: self._disk_status,
            RevokeLeases: self._revoke,
            CopyReplica: self._copy,
        }

    def join(self, cluster: ClusterId) -> bool:
        """Belong to `cluster`; a fresh disk joins the first that speaks to it. True when that was just now.

        Raises: WrongCluster; InvalidArgument (none named); Unavailable (it cannot be noted on the disk).
        """
        if not cluster:
            raise InvalidArgument("no cluster is named")
        if self._identity.cluster == cluster:
            return False
        with undone_on_error("joining the cluster"):
            self._identity.adopt_cluster(cluster)  # once in a disk's life: the loop waits for one sync
        _log.info("joined the cluster", cluster=cluster)
        self._on_joined(cluster)
        return True

    def take_out_of_service(self, reason: str) -> None:
        """Refuse every change of a chunk from now on, for good; reads are still answered."""
        self._out_of_service = self._out_of_service or reason

    async def stop(self) -> None:
        """Take no more mutations, and let those that have their place in the order come to their end."""
        self.take_out_of_service("this chunk server is stopping")
        await self.clones.stop()
        while self._changing:
            await asyncio.wait(self._changing)
        await self._appends.drain()
        await self._writer.drain()
        await self._primary.drain()

    async def collect(self, garbage: GarbageReplica, *, term: Term, known_at: float) -> bool:
        """Delete a replica that the leader of `term` has named (I6), by what it was told at `known_at`
        (monotonic).

        Returns False, and keeps the replica, when it is newer than the leader's word: held at a higher
        version, bumped by a later leader, granted here or made a copy of since. It will be named again if
        still meant.
        """
        return await self._finish(
            self._versions.collect(
                garbage,
                term=term,
                known_at=known_at,
                was_copied=lambda: self.clones.touched_since(garbage.handle, known_at),
            )
        )

    # --- versions: from the master ------------------------------------------------------------

    async def _bump(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, BumpVersion)
        self.join(request.cluster)
        return await self._finish(self._versions.bump(request))

    async def _align(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, AlignReplica)
        self.join(request.cluster)
        return await self._finish(self._versions.align(request))

    async def _seal(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, SealReplica)
        self.join(request.cluster)
        return await self._finish(self._versions.seal(request))

    # --- copies: for the master -----------------------------------------------------------------

    async def _clone(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, CloneChunk)
        self._check_in_service()
        self.join(request.cluster)
        if len(request.sources) > REPLICATION_GOAL_MAX or request.fenced_bytes > CHUNK_BYTES:
            raise InvalidArgument(f"{len(request.sources)} sources, {request.fenced_bytes} bytes fenced")
        if request.version < 1 or request.bytes_per_second < 0:
            raise InvalidArgument(f"version {request.version} at {request.bytes_per_second} bytes/s")
        return await self.clones.receive(request)

    async def _change_guest(self, handle: ChunkHandle, work: Callable[[], T]) -> T:
        self._check_in_service()
        async with self.orders.exclusively(handle) as turn:
            done = await self._writer.in_worker(work)
            if turn.order is not None:
                # What was here is a copy being made now: the order was of a version that is over for good.
                self._versions.end(turn.order, "its replica is stale")
                turn.order = None
            return done

    async def _chunk_status(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, ChunkStatus)
        self._check_meant(request.server)
        status = await self._writer.in_worker(
            lambda: self._replicas.status(
                request.handle,
                request.version,
                with_checksums=request.with_checksums,
                with_append_window=request.with_append_window,
            )
        )
        return ChunkStatusReply(
            version=status.version,
            length_bytes=status.length_bytes,
            sealed=status.sealed,
            block_checksums=list(status.block_checksums),
            may_be_short=status.may_be_short,
            append_window=status.append_window,
        )

    async def _find_record(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, FindRecord)
        final, offset_bytes = await self._writer.in_worker(
            lambda: self._replicas.find_record(
                request.handle,
                request.client,
                request.sequence,
                not_before=request.not_before,
                sealed_version=request.sealed_version,
            )
        )
        return FindRecordReply(final=final, offset_bytes=offset_bytes)

    async def _revoke(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, RevokeLeases)
        self.join(request.cluster)
        return await self._finish(self._snapshots.revoke(request))

    async def _copy(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, CopyReplica)
        self.join(request.cluster)
        return await self._finish(self._snapshots.copy(request))

    # --- mutations ------------------------------------------------------------------------------

    async def _write(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, WriteChunk)
        self._check_mutation(request.offset_bytes, request.length_bytes)
        inline = _inline_write(request)
        order = await self._led_order(request.handle, request.version)
        return await self._primary.write(request.handle, order, request, inline)

    async def _append(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, AppendRecord)
        self._check_in_service()
        _check_record(request)
        order = await self._led_order(request.handle, request.version)
        return await self._appends.append(request.handle, order, request)

    async def _led_order(self, handle: ChunkHandle, version: ChunkVersion) -> VersionOrder:
        """The order this server leads. Raises: NotPrimary; StaleVersion … when there is none here."""
        order = self.orders.find(handle)
        if order is None or order.version != version:
            raise await self._why_unordered(handle, version)
        if order.lead is None:
            raise NotPrimary(
                f"{order.primary} is the primary of chunk {handle:x} version {order.version}",
                details={"primary": order.primary},
            )
        return order

    async def _apply(self, request: Request, context: CallContext) -> Reply:
        assert isinstance(request, ApplyMutation)
        self._check_mutation(request.offset_bytes, request.length_bytes)
        order = self.orders.find(request.handle)
        if order is None or order.version != request.version:
            raise await self._why_unordered(request.handle, request.version)
        if request.serial < 1:
            raise InvalidArgument("serial numbers count from 1")
        mutation = Mutation(
            request.serial,
            request.offset_bytes,
            request.length_bytes,
            request.push,
            request.kind,
            tuple(request.records),
        )
        inline = _inline_bytes(request)
        if mutation.kind == "pad" and mutation.end_bytes != CHUNK_BYTES:
            raise InvalidArgument(f"padding ends at {mutation.end_bytes}, not at the chunk's end")
        applied = self._writer.submit(
            request.handle,
            order,
            mutation,
            version=request.version,
            primary=request.primary,
            inline=inline,
        )
        if applied is not None:
            await self._writer.wait_applied(
                order, request.serial, applied, seconds_max=min(self._forward_seconds, context.seconds_left)
            )
        failpoints.hit("write.before_ack")
        return Ack()

    async def _why_unordered(self, handle: ChunkHandle, version: ChunkVersion) -> GfsError:
        """Why there is no order of this version here. Raises: NotFound, StaleVersion."""
        status = await self._writer.in_worker(lambda: self._replicas.status(handle, version))
        if status.sealed:
            return ChunkSealed(f"chunk {handle:x} is sealed")
        return LeaseExpired(
            f"{self._identity.server} knows no lease of chunk {handle:x} version {version}",
            hint="Ask the master for a newer version: this server has started anew since it was granted.",
        )

    def _check_mutation(self, offset_bytes: int, length_bytes: int) -> None:
        self._check_in_service()
        if not (0 < length_bytes <= PUSH_BYTES_MAX and 0 <= offset_bytes <= CHUNK_BYTES - length_bytes):
            raise InvalidArgument(
                f"{length_bytes} bytes at offset {offset_bytes}: a mutation is 1 to {PUSH_BYTES_MAX} bytes "
                f"within a chunk of {CHUNK_BYTES}"
            )

    def _check_in_service(self) -> None:
        if self._out_of_service:
            raise Unavailable(self._out_of_service)

    # --- the rest -------------------------------------------------------------------------------

    async def _ping(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, Ping)
        self._check_meant(request.server)
        return Ack()

    def _check_meant(self, server: ServerId) -> None:
        """An empty disk at the old address must not speak for the one that had the chunks."""
        if server and server != self._identity.server:
            raise Unavailable(f"chunk server {server} is gone: {self._identity.server} is at its address now")

    async def _disk_status(self, _request: Request, _: CallContext) -> Reply:
        usage = await self._writer.in_worker(self._replicas.usage)
        return DiskStatusReply(
            server=self._identity.server,
            cluster=self._identity.cluster,
            disk_total_bytes=usage.total_bytes,
            disk_free_bytes=usage.free_bytes,
            chunk_count=self._replicas.chunk_count,
            push_buffer_bytes=self._pushes.used_bytes,
            clones=self.clones.progress(),
        )

    async def _finish(self, change: Coroutine[Any, Any, T]) -> T:
        """Run a change of a chunk to its end even if the caller goes away: half of it must not be left."""
        if self._out_of_service:
            change.close()
            raise Unavailable(self._out_of_service)
        task = asyncio.get_running_loop().create_task(change)
        self._changing.add(task)
        task.add_done_callback(self._changing.discard)
        return await asyncio.shield(task)


def _inline_write(request: WriteChunk) -> InlineBytes | None:
    """The bytes that came with a write. Raises: InvalidArgument; ChecksumMismatch."""
    if not request.data:
        return None
    if len(request.data) != request.length_bytes or request.length_bytes > INLINE_WRITE_BYTES_MAX:
        raise InvalidArgument(
            f"{len(request.data)} bytes came with a write of {request.length_bytes}: all of them come with "
            f"it, at most {INLINE_WRITE_BYTES_MAX}, or all are pushed"
        )
    if piece_checksums(request.offset_bytes, request.data) != request.checksums:
        raise ChecksumMismatch(
            f"the bytes for offset {request.offset_bytes} did not arrive as they were sent"
        )
    return InlineBytes(request.data, request.checksums)


def _check_record(request: AppendRecord) -> None:
    if not 0 < request.length_bytes <= APPEND_BYTES_MAX:
        raise InvalidArgument(f"a record of {request.length_bytes} bytes: 1 to {APPEND_BYTES_MAX} can be")
    inline = len(request.data)
    if inline and (inline != request.length_bytes or inline > INLINE_RECORD_BYTES_MAX or request.push):
        raise InvalidArgument(
            f"{inline} bytes came with a record of {request.length_bytes}: all of them come with it, at most "
            f"{INLINE_RECORD_BYTES_MAX}, or all are pushed"
        )
    if request.client and not 0 <= request.settled_below <= request.sequence:
        raise InvalidArgument(f"record {request.sequence} is repeated though it was settled")


def _inline_bytes(request: ApplyMutation) -> InlineBytes | None:
    records = request.records
    if records and (
        request.kind != "record"
        or len(records) > RECORD_BATCH_MAX
        or min(record.length_bytes for record in records) <= 0
        or sum(record.length_bytes for record in records) != request.length_bytes
    ):
        raise InvalidArgument(f"{len(records)} records do not make up {request.length_bytes} bytes")
    if not request.data:
        return None
    if request.kind != "record" or len(request.data) != request.length_bytes:
        raise InvalidArgument(f"{len(request.data)} bytes came with a mutation of {request.length_bytes}")
    return InlineBytes(request.data, request.checksums)
