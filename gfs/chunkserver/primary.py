"""The primary's part of a mutation (GFS §3.1 steps 4-7, §3.3): order it, have every replica apply it, answer.

What may be acknowledged, core/primary_order decides; applying to the primary's own copy is secondary's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gfs import failpoints
from gfs.chunkserver.chunk_orders import VersionOrder
from gfs.chunkserver.core.mutations import (
    Acknowledged,
    AppendAt,
    ChunkFull,
    InlineBytes,
    Mutation,
    PadChunk,
    UnderWay,
)
from gfs.chunkserver.push_buffer import PushBuffer, Pushed
from gfs.chunkserver.secondary import OrderedWriter, take_push
from gfs.clock import Clock
from gfs.errors import (
    ChunkSealed,
    GfsError,
    InternalFault,
    LeaseExpired,
    NoSpace,
    NotPrimary,
    PushMissing,
    StaleVersion,
    Superseded,
)
from gfs.messages.base import Ack
from gfs.messages.chunks import Replica
from gfs.messages.replicas import (
    AppendedRecord,
    AppendRecord,
    AppendReply,
    ApplyMutation,
    WriteChunk,
    WriteReply,
)
from gfs.telemetry import logger
from gfs.transport.interface import RpcCaller
from gfs.vocabulary import CHUNK_BYTES, Address, ChunkHandle, SerialNumber, ServerId

_log = logger("chunkserver")

PushCopy = Callable[[Address, Pushed], Awaitable[None]]
"""Push the primary's own copy of a piece to one data address, without a chain; raises GfsError."""

# A replica that answers so is alive and well: it is the version that is over. To name it as failed would
# drive a good replica out of the next set.
_VERSION_IS_OVER = (LeaseExpired, NotPrimary, ChunkSealed, Superseded)


@dataclass(slots=True)
class _Write:
    """A mutation on its way to all members. The piece, if it has one, stays pinned while one may need it."""

    mutation: Mutation
    pushed: Pushed | None
    reply: asyncio.Future[WriteReply]
    members_busy: int
    without_space: set[ServerId] = field(default_factory=set)  # members that had no room for just this


class PrimaryWrites:
    """Carries out the writes and record appends of all chunks this server is primary of."""

    def __init__(
        self,
        me: ServerId,
        writer: OrderedWriter,
        pushes: PushBuffer,
        caller: RpcCaller,
        clock: Clock,
        *,
        push_copy: PushCopy,
        forward_seconds: float,
        on_acknowledged: Callable[[], None],
    ) -> None:
        self._me = me
        self._writer = writer
        self._pushes = pushes
        self._caller = caller
        self._clock = clock
        self._push_copy = push_copy
        self._forward_seconds = forward_seconds
        self._on_acknowledged = on_acknowledged
        self._forwards: set[asyncio.Task[None]] = set()

    async def write(
        self,
        handle: ChunkHandle,
        order: VersionOrder,
        request: WriteChunk,
        inline: InlineBytes | None = None,
    ) -> WriteReply:
        """Order one write, apply it on every replica, and answer when all have it (I2).

        `inline`: its bytes, verified, when they came with it. Up to the first await nothing else runs, so
        writes are ordered as they arrive.
        Raises: definite errors before it is ordered; ReplicaFailed afterwards.
        """
        lead = order.lead
        assert lead is not None and lead.handle == handle
        known = lead.recall(
            request.push, offset_bytes=request.offset_bytes, length_bytes=request.length_bytes
        )
        match known:
            case Acknowledged(serial, length_bytes):
                return WriteReply(serial=serial, length_bytes=length_bytes)
            case UnderWay(serial):
                return await asyncio.shield(order.writes[serial])
        pushed = None
        if inline is None:
            pushed = take_push(
                self._pushes, request.push, request.length_bytes, offset_bytes=request.offset_bytes
            )
        try:
            mutation = lead.admit(
                request.push,
                version=request.version,
                offset_bytes=request.offset_bytes,
                length_bytes=request.length_bytes,
                now=self._clock.monotonic(),
            )
        except GfsError:
            if pushed is not None:
                self._pushes.release(pushed, used=False)
            raise
        # Shielded: a client that goes away must not leave a gap in the order.
        return await asyncio.shield(self.send_everywhere(handle, order, mutation, pushed, inline))

    async def append_pushed(
        self, handle: ChunkHandle, order: VersionOrder, request: AppendRecord
    ) -> AppendReply:
        """Place one pushed record, or pad the chunk that has no room for it, on every replica (§3.3).

        As for write(): no await before it is ordered, and the same errors.
        """
        lead = order.lead
        assert lead is not None and lead.handle == handle
        placed = lead.recall_record(request.push, record_bytes=request.length_bytes)
        if placed is not None:
            waiting = order.writes.get(placed.serial)  # none: acknowledged before
        else:
            pushed = take_push(self._pushes, request.push, request.length_bytes)
            try:
                record = AppendedRecord(
                    request.client, request.sequence, request.settled_below, request.length_bytes
                )
                new = lead.place_records(
                    [record],
                    push=request.push,
                    version=request.version,
                    now=self._clock.monotonic(),
                )
            except GfsError:
                self._pushes.release(pushed, used=False)
                raise
            if not isinstance(new, AppendAt):
                self._pushes.release(pushed, used=True)  # it is pushed anew for the next chunk
            match new:
                case AppendAt(serial):
                    waiting = self.send_everywhere(handle, order, lead.ordered(serial), pushed)
                case PadChunk(serial):
                    waiting = self.send_everywhere(handle, order, lead.ordered(serial), None)
                case ChunkFull():
                    return AppendReply(serial=SerialNumber(0), offset_bytes=CHUNK_BYTES, padded=True)
            placed = new
        if waiting is not None:
            await asyncio.shield(waiting)
        return AppendReply(
            serial=placed.serial, offset_bytes=placed.offset_bytes, padded=isinstance(placed, PadChunk)
        )

    def end_outstanding(self, order: VersionOrder, cut_short: tuple[SerialNumber, ...]) -> None:
        """Answer writes that were under way when their version ended."""
        lead = order.lead
        assert lead is not None
        for serial in cut_short:
            reply = order.writes.pop(serial)
            if not reply.done():
                reply.set_exception(lead.verdict())

    async def drain(self) -> None:
        while self._forwards:
            await asyncio.wait(self._forwards)

    def send_everywhere(
        self,
        handle: ChunkHandle,
        order: VersionOrder,
        mutation: Mutation,
        pushed: Pushed | None,
        inline: InlineBytes | None = None,
    ) -> asyncio.Future[WriteReply]:
        """Have every replica apply a mutation that has its place; `pushed` stays pinned meanwhile."""
        failpoints.hit("write.ordered")
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[WriteReply] = loop.create_future()
        reply.add_done_callback(_retrieve)
        order.writes[mutation.serial] = reply
        write = _Write(mutation, pushed, reply, members_busy=len(order.replicas))
        request = ApplyMutation(
            handle=handle,
            version=order.version,
            serial=mutation.serial,
            primary=self._me,
            offset_bytes=mutation.offset_bytes,
            length_bytes=mutation.length_bytes,
            push=mutation.push,
            kind=mutation.kind if inline is None else "record",
            records=list(mutation.records),
            data=b"" if inline is None else inline.data,
            checksums=[] if inline is None else list(inline.checksums),
        )
        for server, replica in order.replicas.items():
            if server != self._me:
                task = loop.create_task(self._forward(order, write, request, replica))
                self._forwards.add(task)
                task.add_done_callback(self._forwards.discard)
        self._apply_here(handle, order, write, inline)
        return reply

    def _apply_here(
        self, handle: ChunkHandle, order: VersionOrder, write: _Write, inline: InlineBytes | None
    ) -> None:
        try:
            applied = self._writer.submit(
                handle, order, write.mutation, version=order.version, primary=self._me, inline=inline
            )
        except GfsError as error:
            self._member_failed(order, write, self._me, error)
            self._member_finished(order, write)
            return
        assert applied is not None  # a serial number is given once, so it cannot have been applied before
        applied.add_done_callback(lambda future: self._applied_here(order, write, future))

    def _applied_here(self, order: VersionOrder, write: _Write, applied: asyncio.Future[int]) -> None:
        error = applied.exception()
        if error is None:
            assert order.lead is not None
            self._acknowledge(
                order, write, order.lead.applied_here(write.mutation.serial, length_bytes=applied.result())
            )
        else:
            self._member_failed(order, write, self._me, error)
        self._member_finished(order, write)

    async def _forward(
        self, order: VersionOrder, write: _Write, request: ApplyMutation, replica: Replica
    ) -> None:
        assert order.lead is not None
        try:
            try:
                await self._call(replica, request)
            except PushMissing:
                if write.pushed is None:
                    raise
                # It lost the piece (its buffer is an LRU); we still have ours. Same serial number: no gap.
                await self._push_copy(replica.data, write.pushed)
                await self._call(replica, request)
            failpoints.hit("write.forwarded")
        except GfsError as error:
            self._member_failed(order, write, replica.server, error)
        except Exception:
            _log.exception("forwarding a mutation failed unexpectedly", server=replica.server)
            self._member_failed(
                order, write, replica.server, InternalFault("the primary could not forward the mutation")
            )
        else:
            self._acknowledge(order, write, order.lead.applied_on(request.serial, replica.server))
        finally:
            self._member_finished(order, write)

    async def _call(self, replica: Replica, request: ApplyMutation) -> None:
        await self._caller.call(replica.control, request, Ack, deadline_seconds=self._forward_seconds)

    def _acknowledge(self, order: VersionOrder, write: _Write, done: Acknowledged | None) -> None:
        if done is None:
            return
        failpoints.hit("write.before_reply")
        self._on_acknowledged()
        del order.writes[done.serial]
        write.reply.set_result(WriteReply(serial=done.serial, length_bytes=done.length_bytes))
        failpoints.hit("write.replied")

    def _member_failed(
        self, order: VersionOrder, write: _Write, server: ServerId, error: BaseException
    ) -> None:
        lead = order.lead
        assert lead is not None
        assert isinstance(error, GfsError), error
        if isinstance(error, _VERSION_IS_OVER) or _is_ahead(error, order):
            cut_short = lead.supersede(f"{server} says: {error.message}")
        else:
            cut_short = lead.member_failed(server, error)
            if cut_short:
                _log.warning(
                    "a replica failed a mutation", chunk=f"{lead.handle:x}", version=lead.version,
                    server=server, error=error.message,
                )  # fmt: skip
        if isinstance(error, NoSpace):
            write.without_space.add(server)
            if cut_short and len(order.replicas) > 1:
                return  # if the others have no space either, it is nowhere: worth waiting for their word
        self.end_outstanding(order, cut_short)

    def _member_finished(self, order: VersionOrder, write: _Write) -> None:
        write.members_busy -= 1
        assert write.members_busy >= 0
        if write.members_busy == 0 and order.lead is not None and order.lead.is_over:
            self._answer_late(order, write)
        if write.members_busy == 0 and write.pushed is not None:
            acknowledged = write.reply.done() and write.reply.exception() is None
            # Kept after a failure: the client tries again under a newer version, with these very bytes.
            self._pushes.release(write.pushed, used=acknowledged)

    def _answer_late(self, order: VersionOrder, write: _Write) -> None:
        """All members have spoken about a mutation whose version was broken by a full disk meanwhile."""
        serial = write.mutation.serial
        if order.writes.get(serial) is not write.reply:
            return  # it has its answer
        del order.writes[serial]
        assert order.lead is not None
        verdict = order.lead.verdict()
        if write.without_space == order.replicas.keys():
            order.nowhere_from = min(serial, order.nowhere_from or serial)
        if order.nowhere_from is not None and serial >= order.nowhere_from:
            # No member has it, and what comes behind a gap is applied by none (I4): a definite refusal.
            named = ", ".join(order.replicas)
            verdict = NoSpace(
                f"chunk {order.lead.handle:x}: no space is left on any of its chunk servers ({named})",
                hint="Free space on their disks, or delete files; see 'gfs status'.",
                details={"servers": ",".join(order.replicas), "version": str(order.version)},
            )
        if not write.reply.done():
            write.reply.set_exception(verdict)


def _is_ahead(error: GfsError, order: VersionOrder) -> bool:
    """Whether a replica refused because it holds a newer version already: this primary has been fenced."""
    theirs = error.details.get("version", "") if isinstance(error, StaleVersion) else ""
    return theirs.isdigit() and int(theirs) > order.version


def _retrieve(future: asyncio.Future[WriteReply]) -> None:
    """The client may have gone; an outcome nobody reads is no reason for a warning from asyncio."""
    if not future.cancelled():
        future.exception()
