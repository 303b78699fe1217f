"""Moves all chunks of a running chunk server to another store, once an operator asks, also after restarts.

One replica is moved at a time (replica_mover), at a bounded rate. What cannot be moved, because it is damaged
or the disk is full, is tried again until the masters have had it replaced and deleted, or there is space.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

from gfs.chunkserver.core.token_bucket import TokenBucket
from gfs.chunkserver.disk_health import undone_on_error
from gfs.chunkserver.stores.store_moves import StoreMoves
from gfs.clock import Clock
from gfs.errors import GfsError
from gfs.messages.base import Request
from gfs.messages.stores import MigrateStore, MigrateStoreReply
from gfs.telemetry import logger
from gfs.transport.interface import CallContext, Handlers
from gfs.vocabulary import CHUNK_BYTES, ChunkHandle

PAGE_CHUNKS = 256
BURST_BYTES = CHUNK_BYTES  # small chunks need not wait for each other
RETRY_SECONDS = 5.0  # before what could not be moved is tried again
_log = logger("chunkserver")
T = TypeVar("T")


class RunBlocking(Protocol):
    def __call__(self, work: Callable[[], T]) -> Awaitable[T]: ...


class MovesReplicas(Protocol):
    """ReplicaMover."""

    def move(self, handle: ChunkHandle) -> int: ...

    def settle(self) -> None: ...


class StoreMigration:
    """On the event loop's thread. run() as one task; a stop at any moment loses nothing."""

    def __init__(
        self,
        moves: StoreMoves,
        mover: MovesReplicas,
        clock: Clock,
        *,
        in_worker: RunBlocking,
        bytes_per_second: float,
    ) -> None:
        """`in_worker`: a thread of its own, one piece of work at a time."""
        self._moves, self._mover, self._clock, self._in_worker = moves, mover, clock, in_worker
        self._bucket = TokenBucket(bytes_per_second, burst=BURST_BYTES, now=clock.monotonic())
        self._wanted = asyncio.Event()
        self._moved_chunks = self._moved_bytes = 0
        self._stuck: dict[ChunkHandle, str] = {}
        self._problem = ""

    def handlers(self) -> Handlers:
        return {MigrateStore: self._migrate}

    async def run(self) -> None:
        while True:
            while self._moves.store.is_moving:
                await self._move_what_is_left()
            self._wanted.clear()
            await self._wanted.wait()

    async def _migrate(self, request: Request, _: CallContext) -> MigrateStoreReply:
        assert isinstance(request, MigrateStore)
        if request.to:
            has_begun = await self._in_worker(partial(self._begin, request.to))
            if has_begun:
                self._moved_chunks = self._moved_bytes = 0
                self._wanted.set()
        mark = self._moves.mark
        return MigrateStoreReply(
            store=mark.store,
            leaving="" if mark.leaving is None else mark.leaving.store,
            left_chunks=self._moves.store.unmoved_count,
            moved_chunks=self._moved_chunks,
            moved_bytes=self._moved_bytes,
            stuck_chunks=len(self._stuck),
            problem=self._problem,
        )

    def _begin(self, to: str) -> bool:
        with undone_on_error(f"going over to the store {to!r}"):
            return self._moves.begin(to)

    async def _move_what_is_left(self) -> None:
        self._stuck, problem = {}, ""
        try:
            while page := self._next_page():
                for handle in page:
                    problem = await self._try_to_move(handle) or problem
                await self._in_worker(self._mover.settle)
            if not self._stuck:
                await self._in_worker(self._end)
                self._problem = ""
                return
        except GfsError as error:
            problem = error.message
        self._problem = problem
        _log.warning("chunks wait to be moved", chunks=self._moves.store.unmoved_count, problem=problem)
        await self._clock.sleep(RETRY_SECONDS)

    def _next_page(self) -> list[ChunkHandle]:
        """Some that have not been tried in this round."""
        found = self._moves.store.unmoved(limit=PAGE_CHUNKS + len(self._stuck))
        return [handle for handle in found if handle not in self._stuck]

    async def _try_to_move(self, handle: ChunkHandle) -> str:
        """Returns: why it could not be moved."""
        try:
            moved_bytes = await self._in_worker(partial(self._mover.move, handle))
        except GfsError as error:
            self._stuck[handle] = error.message
            return error.message
        self._moved_chunks += 1
        self._moved_bytes += moved_bytes
        await self._clock.sleep(self._bucket.take(moved_bytes, now=self._clock.monotonic()))
        return ""

    def _end(self) -> None:
        self._mover.settle()
        with undone_on_error("noting that all chunks have moved"):
            self._moves.end()
