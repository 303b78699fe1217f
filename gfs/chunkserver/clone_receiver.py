"""Copies chunks from other chunk servers, on a master's order (GFS §4.3). Where copies go, guest_store says.

Pulled, block by block, over the bulk port: the source verifies what it sends, the target sums what arrives,
and a copy is whole only when all sums are those of the source. Its own threads: clients wait for none of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from gfs import failpoints
from gfs.checksums import piece_checksums
from gfs.chunkserver.core.token_bucket import TokenBucket
from gfs.chunkserver.guest_store import GuestStore
from gfs.clock import Clock
from gfs.errors import (
    ChecksumMismatch,
    DataUnavailable,
    GfsError,
    InvalidArgument,
    Overloaded,
    StaleVersion,
    Superseded,
)
from gfs.messages.chunks import Replica
from gfs.messages.cluster import CloneProgress
from gfs.messages.replicas import ChunkStatus, ChunkStatusReply, CloneChunk, CloneReply
from gfs.settings import CLONE_PIECE_BYTES, CLONES_RUNNING_MAX, GUEST_IDLE_SECONDS
from gfs.telemetry import logger
from gfs.transport.interface import RpcCaller
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, Address, ChunkHandle, ChunkVersion, ServerId

STATUS_SECONDS = 2.0  # how long a source may take to say what it holds
SWEEP_SECONDS = 30.0  # between two looks for guests that nobody goes on with

_log = logger("chunkserver")
T = TypeVar("T")


class ReadReplica(Protocol):
    """A bulk read, blocking; see DataClient.read_into."""

    def __call__(
        self, address: Address, handle: ChunkHandle, version: ChunkVersion, first: int, buffer: memoryview
    ) -> tuple[int, int]: ...


class Exclusively(Protocol):
    """Run `work`, which makes the chunk a guest or goes on with it, while nobody else changes the chunk."""

    async def __call__(self, handle: ChunkHandle, work: Callable[[], T]) -> T: ...


@dataclass(slots=True)
class _Running:
    request: CloneChunk
    began_at: float
    buffer: memoryview
    source: ServerId
    bucket: TokenBucket | None
    copied_bytes: int = 0
    to_copy_bytes: int = 0


class CloneReceiver:
    """At most one copy of a chunk at a time, and CLONES_RUNNING_MAX in all. On the event loop's thread."""

    def __init__(
        self,
        me: ServerId,
        guests: GuestStore,
        caller: RpcCaller,
        clock: Clock,
        *,
        read: ReadReplica,
        workers: Executor,
        exclusively: Exclusively,
    ) -> None:
        self._me = me
        self._guests = guests
        self._caller = caller
        self._clock = clock
        self._read = read
        self._workers = workers
        self._exclusively = exclusively
        self._running: dict[ChunkHandle, tuple[_Running, asyncio.Task[CloneReply]]] = {}
        self._touched: dict[ChunkHandle, float] = {}  # when a copy last began or became whole (monotonic)

    async def receive(self, request: CloneChunk) -> CloneReply:
        """Bring the guest to what a source holds now; goes on from what an earlier copy has left.

        A newer request for the chunk ends an older one.
        Raises: Superseded, StaleVersion, DataUnavailable (no source can be copied), Overloaded, NoSpace, …
        """
        if any(source.server == self._me for source in request.sources) or not request.sources:
            raise InvalidArgument(f"{self._me} cannot copy a chunk from {request.sources}")
        while (older := self._running.get(request.handle)) is not None:
            older[1].cancel()
            await asyncio.wait({older[1]})
        if len(self._running) >= CLONES_RUNNING_MAX:
            raise Overloaded(f"{self._me} is making {CLONES_RUNNING_MAX} copies already")
        now = self._clock.monotonic()
        bucket = None
        if request.bytes_per_second > 0:
            bucket = TokenBucket(request.bytes_per_second, burst=CLONE_PIECE_BYTES, now=now)
        buffer = memoryview(bytearray(CLONE_PIECE_BYTES))
        running = _Running(request, now, buffer, request.sources[0].server, bucket)
        task = asyncio.get_running_loop().create_task(self._copy(running))
        self._running[request.handle] = running, task

        def ended(_: asyncio.Task[CloneReply]) -> None:
            if self._running.get(request.handle) == (running, task):
                del self._running[request.handle]

        task.add_done_callback(ended)
        try:
            return await task
        except asyncio.CancelledError:
            if task.cancelled() and not _is_cancelling():
                raise Superseded(f"another copy of chunk {request.handle:x} was asked for") from None
            task.cancel()
            raise

    def progress(self) -> list[CloneProgress]:
        now = self._clock.monotonic()
        return [
            CloneProgress(
                handle=handle,
                version=running.request.version,
                source=running.source,
                copied_bytes=running.copied_bytes,
                to_copy_bytes=running.to_copy_bytes,
                seconds=now - running.began_at,
            )
            for handle, (running, _) in self._running.items()
        ]

    def touched_since(self, handle: ChunkHandle, when: float) -> bool:
        """Whether a copy of the chunk has begun, or become whole, at `when` (monotonic) or later."""
        return self._touched.get(handle, -1.0) >= when

    async def stop(self) -> None:
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def sweep_for_ever(self) -> None:
        """Delete guests that nobody goes on with; one that is whole goes only on a leader's word (I6)."""
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            await self.sweep()

    async def sweep(self) -> None:
        idle_since = self._clock.monotonic() - GUEST_IDLE_SECONDS
        for handle, touched in list(self._touched.items()):
            if touched > idle_since or handle in self._running:
                continue
            del self._touched[handle]
            try:
                await self._exclusively(handle, partial(self._guests.drop_unfinished, handle))
            except GfsError as error:
                _log.warning("an unfinished copy could not be deleted", chunk=handle, error=error.message)

    # --- one copy -------------------------------------------------------------------------------

    async def _copy(self, running: _Running) -> CloneReply:
        failures: list[GfsError] = []
        for source in running.request.sources:
            running.source = source.server
            try:
                return await self._copy_from(source, running)
            except (Superseded, Overloaded):
                raise
            except GfsError as error:
                failures.append(error)
        for failure in failures:
            if isinstance(failure, StaleVersion):
                raise failure
        reasons = "; ".join(failure.message for failure in failures)
        raise DataUnavailable(f"chunk {running.request.handle:x} could not be copied: {reasons}")

    async def _copy_from(self, source: Replica, running: _Running) -> CloneReply:
        request = running.request
        handle, version, is_fenced = request.handle, request.version, request.fenced_bytes >= 0
        status = await self._caller.call(
            source.control,
            ChunkStatus(handle=handle, version=version, with_checksums=True, with_append_window=is_fenced),
            ChunkStatusReply,
            deadline_seconds=STATUS_SECONDS,
        )
        sums, length = status.block_checksums, status.length_bytes
        if status.may_be_short:
            raise DataUnavailable(f"{source.server} may have lost bytes of chunk {handle:x} in a power cut")
        if is_fenced and length != request.fenced_bytes:
            raise StaleVersion(f"chunk {handle:x} is {length} bytes long, it was fenced at another length")

        def begin() -> list[tuple[int, int]]:
            self._touched[handle] = self._clock.monotonic()
            return self._guests.begin(handle, version, sums, length, master_term=request.master_term)

        missing = await self._exclusively(handle, begin)
        running.to_copy_bytes = running.copied_bytes + sum(size for _, size in missing)
        for offset, size in missing:
            if not await self._fetch(source, running, offset, size, sums if is_fenced else None):
                break  # the source has been cut meanwhile: the next round sees how far
        if not is_fenced:
            if missing:
                await self._in_thread(partial(self._guests.sync, handle, version))
            return CloneReply(fetched_bytes=running.copied_bytes, length_bytes=length)

        def finish() -> None:
            self._touched[handle] = self._clock.monotonic()
            self._guests.finish(
                handle, version, sums, length, sealed=status.sealed, append_window=status.append_window
            )

        failpoints.hit("clone.before_finish")
        await self._exclusively(handle, finish)
        failpoints.hit("clone.received")
        return CloneReply(fetched_bytes=running.copied_bytes, length_bytes=length)

    async def _fetch(
        self, source: Replica, running: _Running, offset: int, size: int, sums: Sequence[int] | None
    ) -> bool:
        """Fetch and keep one piece; False when the source does not have all of it.

        `sums`: of the whole chunk, when it cannot change; else a writer may be at work, and what differs from
        the source in the end is fetched again.
        """
        if running.bucket is not None:
            wait = running.bucket.take(size, now=self._clock.monotonic())
            if wait > 0:
                await self._clock.sleep(wait)
        handle, version = running.request.handle, running.request.version
        piece = running.buffer[:size]
        got, _ = await self._in_thread(partial(self._read, source.data, handle, version, offset, piece))
        if got != size:
            return False
        if sums is not None:
            first = offset // CHECKSUM_BLOCK_BYTES
            arrived = await self._in_thread(partial(piece_checksums, offset, piece))
            if arrived != list(sums[first : first + len(arrived)]):
                raise ChecksumMismatch(f"chunk {handle:x} from {source.server}: not the bytes it has sums of")
        await self._in_thread(partial(self._guests.put, handle, version, offset, piece))
        failpoints.hit("clone.piece_kept")
        running.copied_bytes += size
        return True

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """A cancelled copy's thread may outlive it by one piece, which its buffer and the guest's version
        allow for: the buffer is its own, and a guest takes only pieces of the copy being made."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)


def _is_cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
