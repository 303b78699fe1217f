"""Which replicas go out to the object service, and when: those idle for long. At a bounded rate, for ever.

One move at a time (replica_tiering). What cannot be moved, because the service is away or the replica is
damaged, is tried again in a later round; clients are served meanwhile as if there were no tier.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

from gfs.chunkserver.core.tier_object import object_bytes
from gfs.chunkserver.core.token_bucket import TokenBucket
from gfs.chunkserver.last_uses import LastUses
from gfs.chunkserver.replica_tiering import ReplicaTiering
from gfs.chunkserver.scrubber import ScrubbedReplicas
from gfs.chunkserver.stores.tiered import TieredStore
from gfs.clock import Clock
from gfs.errors import GfsError
from gfs.messages.base import Request
from gfs.messages.stores import ShowTier, TierReply
from gfs.settings import TierSettings
from gfs.telemetry import logger
from gfs.transport.interface import CallContext, Handlers
from gfs.vocabulary import ChunkHandle

LOOK_SECONDS_MAX = 60.0  # between two rounds
PAGE_CHUNKS = 1024
REFUSALS_MAX = 3
BURST_SECONDS = 4.0  # so much of the rate may pass at once: a whole chunk at the default one
_log = logger("chunkserver")
T = TypeVar("T")


class RunBlocking(Protocol):
    def __call__(self, work: Callable[[], T]) -> Awaitable[T]: ...


class ListedReplicas(Protocol):
    """ReplicaVerifier."""

    def handles_after(self, handle: ChunkHandle, *, limit: int) -> list[ChunkHandle]: ...


class TieringDuty:
    """On the event loop's thread. run() as one task; a stop at any moment loses nothing."""

    def __init__(
        self,
        tiering: ReplicaTiering,
        tier: TieredStore,
        replicas: ListedReplicas,
        uses: LastUses,
        clock: Clock,
        tuning: TierSettings,
        *,
        in_worker: RunBlocking,
    ) -> None:
        """`in_worker`: a thread of its own, so that no client waits behind the object service."""
        self._tiering, self._tier, self._replicas = tiering, tier, replicas
        self._uses, self._clock, self._tuning, self._in_worker = uses, clock, tuning, in_worker
        rate = tuning.bytes_per_second
        self._bucket = TokenBucket(rate, burst=rate * BURST_SECONDS, now=clock.monotonic())
        self._collected_at = clock.monotonic()
        self._moved_chunks = self._moved_bytes = self._back_bytes = 0
        self._problem = ""
        self._problem_ms = 0
        self._refusals = 0

    def handlers(self) -> Handlers:
        return {ShowTier: self._show}

    def gauges(self) -> dict[str, tuple[str, Callable[[], float]]]:
        """Name -> (help, reader)."""
        return {
            "tier_chunks": ("Chunks with bytes on the object service", lambda: len(self._tier.tiered())),
            "tier_moved_bytes": ("Bytes moved to the object service", lambda: self._moved_bytes),
            "tier_refusing": ("1 while the object service cannot be used", lambda: bool(self._problem)),
        }

    async def run(self) -> None:
        while True:
            await self._round()
            await self._clock.sleep(min(LOOK_SECONDS_MAX, self._tuning.idle_seconds / 2))

    async def _round(self) -> None:
        """Look at every replica once. A few refusals in a row end the round: others would meet them, too."""
        self._refusals = 0
        try:
            await (self._bring_all_back() if self._tuning.recall else self._move_idle_out())
            if self._clock.monotonic() - self._collected_at >= self._tuning.collect_seconds:
                self._collected_at = self._clock.monotonic()
                deleted = await self._in_worker(self._tiering.collect)
                _log.debug("objects that no chunk needs were deleted", objects=deleted)
        except GfsError as error:
            if not self._problem:
                self._problem_ms = self._clock.wall_ms()
                _log.warning("chunks cannot be moved to or from the object service", error=error.message)
            self._problem = error.message
        else:
            self._problem = ""

    async def _move_idle_out(self) -> None:
        idle_seconds = self._tuning.idle_seconds
        self._uses.forget_older(idle_seconds)
        after = ChunkHandle(0)
        while True:
            page = await self._in_worker(partial(self._replicas.handles_after, after, limit=PAGE_CHUNKS))
            for handle in page:
                if self._uses.idle_seconds(handle) >= idle_seconds:
                    await self._try_to_move_out(handle)
            if len(page) < PAGE_CHUNKS:
                return
            after = page[-1]

    async def _try_to_move_out(self, handle: ChunkHandle) -> None:
        try:
            moved = await self._in_worker(
                partial(self._tiering.move_out, handle, bytes_min=self._tuning.chunk_bytes_min)
            )
        except GfsError as error:
            self._note_refusal(handle, error)
            return
        if moved:
            self._refusals = 0
            self._moved_chunks += 1
            self._moved_bytes += moved
            await self._pay(moved)

    def _note_refusal(self, handle: ChunkHandle, error: GfsError) -> None:
        _log.warning("a replica stays where it is", chunk=f"{handle:x}", error=error.message)
        self._refusals += 1
        if self._refusals == REFUSALS_MAX:
            raise error

    async def _bring_all_back(self) -> None:
        for handle in self._tiering.out():
            try:
                while back := await self._in_worker(partial(self._tiering.bring_back, handle)):
                    self._refusals = 0
                    self._back_bytes += back
                    await self._pay(back)
            except GfsError as error:
                self._note_refusal(handle, error)

    async def _pay(self, moved_bytes: int) -> None:
        await self._clock.sleep(self._bucket.take(moved_bytes, now=self._clock.monotonic()))

    async def _show(self, request: Request, _: CallContext) -> TierReply:
        assert isinstance(request, ShowTier)
        rows = self._tier.tiered()
        return TierReply(
            url=self._tuning.url,
            recall=self._tuning.recall,
            out_chunks=sum(not row.here for row in rows.values()),
            partly_out_chunks=sum(row.here > 0 for row in rows.values()),
            object_bytes=sum({row.name: object_bytes(row) for row in rows.values()}.values()),
            cached_bytes=self._tier.cached_bytes,
            moved_chunks=self._moved_chunks,
            moved_bytes=self._moved_bytes,
            back_bytes=self._back_bytes,
            problem=self._problem,
            problem_since_ms=self._problem_ms if self._problem else 0,
        )


async def show_no_tier(_request: Request, _: CallContext) -> TierReply:
    """For a server that has none."""
    return TierReply(
        url="",
        recall=False,
        out_chunks=0,
        partly_out_chunks=0,
        object_bytes=0,
        cached_bytes=0,
        moved_chunks=0,
        moved_bytes=0,
        back_bytes=0,
        problem="",
        problem_since_ms=0,
    )


class LocalScrubbing:
    """What the scrubber sees of replicas where some are out: bytes elsewhere count as looked at.

    They were read back when they went out, every read verifies them, and collect() finds lost objects; to
    read all of them in each pass would cost as much traffic as the tier spares disks.
    """

    def __init__(self, replicas: ScrubbedReplicas, tier: TieredStore) -> None:
        self._replicas, self._tier = replicas, tier

    def handles_after(self, handle: ChunkHandle, *, limit: int) -> list[ChunkHandle]:
        return self._replicas.handles_after(handle, limit=limit)

    def verify(self, handle: ChunkHandle, offset: int, buffer: memoryview) -> int:
        """As ReplicaVerifier.verify."""
        if self._tier.is_elsewhere(handle, offset, len(buffer)):
            return min(len(buffer), self._tier.length(handle) - offset)
        return self._replicas.verify(handle, offset, buffer)
