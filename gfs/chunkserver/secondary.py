"""Applies mutations to this server's replicas in serial order, off the event loop's thread (GFS §3.1 step 5).

A primary applies to its own copy through the same door. What the order is, core/secondary_order decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Protocol, TypeVar

from gfs.checksums import piece_checksums
from gfs.chunkserver.chunk_orders import ChunkOrders, ChunkTurn, VersionOrder, WaitingMutation
from gfs.chunkserver.core.mutations import InlineBytes, Mutation
from gfs.chunkserver.core.secondary_order import Receipt
from gfs.chunkserver.disk_health import disk_error
from gfs.chunkserver.push_buffer import PushBuffer, Pushed
from gfs.clock import Clock
from gfs.disk import Bytes
from gfs.errors import (
    ChecksumMismatch,
    DeadlineExceeded,
    GfsError,
    InternalFault,
    InvalidArgument,
)
from gfs.messages.replicas import AppendedRecord
from gfs.telemetry import logger
from gfs.vocabulary import (
    CHECKSUM_BLOCK_BYTES,
    ChunkHandle,
    ChunkVersion,
    PushId,
    SerialNumber,
    ServerId,
)

_log = logger("chunkserver")
T = TypeVar("T")


class MutableReplicas(Protocol):
    """What ordered mutations need of the replica store; blocking, called from worker threads."""

    def write(
        self,
        handle: ChunkHandle,
        version: ChunkVersion,
        offset: int,
        data: Bytes,
        checksums: Sequence[int] | None,
        records: Sequence[AppendedRecord] = (),
    ) -> int: ...

    def pad(self, handle: ChunkHandle, version: ChunkVersion, offset: int) -> int: ...


class OrderedWriter:
    """Applies each chunk's mutations one after another, different chunks at the same time."""

    def __init__(
        self,
        replicas: MutableReplicas,
        pushes: PushBuffer,
        orders: ChunkOrders,
        workers: Executor,
        clock: Clock,
        *,
        on_applied: Callable[[int], None],
    ) -> None:
        self._replicas = replicas
        self._pushes = pushes
        self._orders = orders
        self._workers = workers
        self._clock = clock
        self._on_applied = on_applied
        self._driving: set[asyncio.Task[None]] = set()

    def submit(
        self,
        handle: ChunkHandle,
        order: VersionOrder,
        mutation: Mutation,
        *,
        version: ChunkVersion,
        primary: ServerId,
        inline: InlineBytes | None = None,
    ) -> asyncio.Future[int] | None:
        """Accept one mutation; None says that it was applied before. No await: arrival order is kept.

        `inline`: its bytes, when they were not pushed.
        Await the future shielded: the mutation has its place in the order whether or not anybody waits.
        Raises: PushMissing (may be sent again under the same serial number), InvalidArgument, and what
            SecondaryOrder.receive raises.
        """
        receipt = order.local.receive(mutation, version=version, primary=primary)
        if receipt is Receipt.APPLIED:
            return None
        if receipt is Receipt.UNDER_WAY:
            return order.waiting[mutation.serial].applied
        try:
            pushed = None if inline is not None else self._take(mutation)
        except GfsError:
            withdrawn = order.local.withdraw(mutation.serial)
            assert withdrawn
            raise
        applied = asyncio.get_running_loop().create_future()
        applied.add_done_callback(_retrieve)
        order.waiting[mutation.serial] = WaitingMutation(mutation, pushed, inline, applied)
        self._drive(handle)
        return applied

    async def wait_applied(
        self, order: VersionOrder, serial: SerialNumber, applied: asyncio.Future[int], *, seconds_max: float
    ) -> int:
        """Wait for a mutation's outcome; one that waits for a gap before it gives up after `seconds_max`.

        Raises: DeadlineExceeded for a gap that was not filled; what made the mutation fail.
        """
        if serial == order.local.applied_through + 1 or applied.done():
            return await asyncio.shield(applied)
        limit = asyncio.ensure_future(self._clock.sleep(seconds_max))
        try:
            await asyncio.wait((applied, limit), return_when=asyncio.FIRST_COMPLETED)
        finally:
            limit.cancel()
        if not applied.done() and order.local.withdraw(serial):
            self._release(order.waiting.pop(serial), used=False)
            raise DeadlineExceeded(
                f"serial {serial} of chunk {order.local.handle:x} waited {seconds_max} s for those before it"
            )
        return await asyncio.shield(applied)

    def refuse(self, order: VersionOrder, never: Sequence[Mutation], error: GfsError) -> None:
        """Answer mutations that will never be applied under this version."""
        for mutation in never:
            waiting = order.waiting.pop(mutation.serial)
            self._release(waiting, used=False)
            if not waiting.applied.done():
                waiting.applied.set_exception(
                    type(error)(error.message, hint=error.hint, details=error.details)
                )

    async def in_worker(self, work: Callable[[], T]) -> T:
        """Run blocking store work; its OSError becomes ours.

        Raises: NoSpace, Unavailable (the disk failed), any GfsError of the work.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._workers, work)
        except OSError as error:
            raise disk_error(error, "the chunk server's storage") from error

    async def drain(self) -> None:
        """Wait until no accepted mutation can go on any further."""
        while self._driving:
            await asyncio.wait(self._driving)

    def _drive(self, handle: ChunkHandle) -> None:
        turn = self._orders.turn(handle)
        if turn.is_driven:
            return
        turn.is_driven = True
        task = asyncio.get_running_loop().create_task(self._apply_runs(handle, turn))
        self._driving.add(task)
        task.add_done_callback(self._driving.discard)

    async def _apply_runs(self, handle: ChunkHandle, turn: ChunkTurn) -> None:
        try:
            while True:
                async with turn.lock:
                    # A bump may have had the turn before: look up the order anew each time.
                    order = turn.order
                    run = () if order is None else order.local.next_run()
                    if order is None or not run:
                        return
                    work = [order.waiting[mutation.serial] for mutation in run]
                    lengths, failure = await asyncio.get_running_loop().run_in_executor(
                        self._workers, self._write_run, handle, order.version, work
                    )
                    self._settle(order, work, lengths, failure)
        finally:
            turn.is_driven = False

    def _write_run(
        self, handle: ChunkHandle, version: ChunkVersion, work: Sequence[WaitingMutation]
    ) -> tuple[list[int], GfsError | None]:
        """In a worker thread: apply consecutive mutations until one fails; chunk lengths after each."""
        lengths: list[int] = []
        for waiting in work:
            try:
                lengths.append(self._apply(handle, version, waiting))
            except GfsError as error:
                return lengths, error
            except OSError as error:
                return lengths, disk_error(error, "applying a mutation")
            except Exception:
                _log.exception("applying a mutation failed unexpectedly", chunk=f"{handle:x}")
                return lengths, InternalFault("applying the mutation failed; the server's log tells why")
        return lengths, None

    def _apply(self, handle: ChunkHandle, version: ChunkVersion, waiting: WaitingMutation) -> int:
        offset, records = waiting.mutation.offset_bytes, waiting.mutation.records
        if waiting.inline is not None:
            data, sums = waiting.inline
            if piece_checksums(offset, data) != list(sums):
                raise ChecksumMismatch(f"the bytes for offset {offset} are not those that were sent")
            return self._replicas.write(handle, version, offset, data, sums, records)
        pushed = waiting.pushed
        if pushed is None:
            return self._replicas.pad(handle, version, offset)
        return self._replicas.write(handle, version, offset, pushed.data, sums_at(pushed, offset), records)

    def _take(self, mutation: Mutation) -> Pushed | None:
        match mutation.kind:
            case "write":
                return take_push(
                    self._pushes, mutation.push, mutation.length_bytes, offset_bytes=mutation.offset_bytes
                )
            case "record":
                return take_push(self._pushes, mutation.push, mutation.length_bytes)
            case "pad":
                return None

    def _release(self, waiting: WaitingMutation, *, used: bool) -> None:
        if waiting.pushed is not None:
            self._pushes.release(waiting.pushed, used=used)

    def _settle(
        self,
        order: VersionOrder,
        work: Sequence[WaitingMutation],
        lengths: Sequence[int],
        failure: GfsError | None,
    ) -> None:
        handle = order.local.handle
        never = order.local.finish_run(len(lengths), failure=None if failure is None else failure.message)
        for waiting, length_bytes in zip(work, lengths, strict=False):
            del order.waiting[waiting.mutation.serial]
            # A primary keeps its copy until all replicas have theirs: one of them may need it pushed again.
            self._release(waiting, used=order.lead is None)
            self._on_applied(waiting.mutation.length_bytes)
            if not waiting.applied.done():
                waiting.applied.set_result(length_bytes)
        if failure is None:
            return
        _log.warning(
            "a mutation failed here", chunk=f"{handle:x}", version=order.version, error=failure.message
        )
        self.refuse(order, never[:1], failure)
        if never[1:]:
            self.refuse(order, never[1:], order.local.verdict())


def take_push(
    pushes: PushBuffer, push: PushId, length_bytes: int, *, offset_bytes: int | None = None
) -> Pushed:
    """Pin pushed bytes that were meant for exactly this place; a record's place (None) came after its push.

    Raises: PushMissing; InvalidArgument when they were pushed for another offset or length.
    """
    pushed = pushes.take(push)
    meant = pushed.offset if offset_bytes is None else offset_bytes
    if pushed.offset != meant or len(pushed.data) != length_bytes:
        found = f"{len(pushed.data)} bytes for offset {pushed.offset}"
        pushes.release(pushed, used=False)
        raise InvalidArgument(f"push {push} is {found}, not {length_bytes} bytes for offset {meant}")
    return pushed


def sums_at(pushed: Pushed, offset_bytes: int) -> Sequence[int] | None:
    """The block sums of pushed bytes for where they go; None when they have to be summed anew there.

    A record was summed before its offset was known. Sums cut at other places are only good for telling that
    the bytes are still those that came.
    Raises: ChecksumMismatch when they are not.
    """
    if (offset_bytes - pushed.offset) % CHECKSUM_BLOCK_BYTES == 0:
        return pushed.checksums
    if piece_checksums(pushed.offset, pushed.data) != list(pushed.checksums):
        raise ChecksumMismatch(f"the bytes of push {pushed.push_id} have changed since they came")
    return None


def _retrieve(future: asyncio.Future[int]) -> None:
    """Nobody may be waiting for this outcome any more; that is no reason for a warning from asyncio."""
    if not future.cancelled():
        future.exception()
