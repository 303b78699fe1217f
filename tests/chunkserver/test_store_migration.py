"""How fast a chunk server moves to another store: by a clock and moves of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gfs.chunkserver.store_migration import StoreMigration
from gfs.chunkserver.stores.plugin import StoreSite
from gfs.chunkserver.stores.store_moves import StoreMoves
from gfs.disk import SystemDisk
from gfs.messages.stores import MigrateStore
from gfs.settings import ChunkServerNode, Settings
from gfs.transport.interface import CallContext
from gfs.vocabulary import CHUNK_BYTES, Address, ChunkHandle
from tests.fakes.clock import VirtualClock, settle

T = TypeVar("T")
CHUNKS = 6
RATE = CHUNK_BYTES / 10


class Moves:
    """Says of each chunk that all its bytes have moved."""

    def __init__(self, moves: StoreMoves) -> None:
        self._moves = moves
        self.moved: list[ChunkHandle] = []

    def move(self, handle: ChunkHandle) -> int:
        self._moves.store.copy(handle, 0, ())
        self._moves.store.depart(handle)
        self.moved.append(handle)
        return CHUNK_BYTES

    def settle(self) -> None:
        self._moves.store.settle()


async def test_chunks_move_no_faster_than_they_may(tmp_path: Path) -> None:
    node = ChunkServerNode(control=Address("a:1"), data=Address("a:2"))
    moves = StoreMoves(Settings(chunkservers={"c1": node}), "c1", StoreSite(SystemDisk(), str(tmp_path)))
    store = moves.open()
    for number in range(1, CHUNKS + 1):
        store.create(ChunkHandle(number))
    clock, mover = VirtualClock(), Moves(moves)

    async def in_worker(work: Callable[[], T]) -> T:
        return work()

    migration = StoreMigration(moves, mover, clock, in_worker=in_worker, bytes_per_second=RATE)
    running = asyncio.ensure_future(migration.run())
    (migrate,) = migration.handlers().values()
    await migrate(MigrateStore(to="lmdb"), CallContext(peer="a test", trace="", seconds_left=1.0))
    await settle()
    assert len(mover.moved) == 2, "a burst of one chunk, and the one that is owed"
    await clock.advance(19.0)
    assert len(mover.moved) == 3
    await clock.advance(100.0)
    assert sorted(mover.moved) == list(range(1, CHUNKS + 1))
    assert not moves.store.is_moving
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    store.close()
