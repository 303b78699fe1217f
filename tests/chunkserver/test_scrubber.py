"""The scrubber: finds rot in chunks nobody reads, at a bounded rate, from where it stopped (GFS §5.2)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from gfs.chunkserver import scrubber as room
from gfs.chunkserver.replica_store import ReplicaStore
from gfs.chunkserver.scrubber import Scrubber
from gfs.settings import SCRUB_BUSY_DIVISOR, SCRUB_PIECE_BYTES
from gfs.vocabulary import CHUNK_BYTES, MIB, ChunkHandle
from tests.chunkserver.replicas import BLOCK, T1, V1, V2, Machine, chunk_path, create
from tests.fakes.clock import VirtualClock

T = TypeVar("T")
RATE = 4 * MIB
PASS_SECONDS = 3600.0
H = [ChunkHandle(n) for n in range(1, 9)]


class Bench:
    def __init__(self, path: Path) -> None:
        self.machine = Machine(path)
        self.store: ReplicaStore = self.machine.open()
        self.clock = VirtualClock()
        self.work = 0
        self.visited: list[ChunkHandle] = []
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.scrubber = Scrubber(
            self,
            self.clock,
            self.machine.disk,
            self.machine.directory,
            in_worker=self._in_worker,
            client_work=lambda: self.work,
            bytes_per_second=RATE,
            pass_seconds=PASS_SECONDS,
        )
        self._task = asyncio.ensure_future(self.scrubber.run())

    async def kill(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def put(self, handle: ChunkHandle, data: bytes) -> None:
        create(self.store, handle)
        if data:
            self.store.write(handle, V1, 0, data)

    def rot(self, handle: ChunkHandle, offset: int) -> None:
        file = self.machine.disk.open(chunk_path(handle))
        (byte,) = file.pread(1, offset)
        file.pwrite(bytes([byte ^ 1]), offset)
        file.close()

    def handles_after(self, handle: ChunkHandle, *, limit: int) -> list[ChunkHandle]:
        return self.store.verifier.handles_after(handle, limit=limit)

    def verify(self, handle: ChunkHandle, offset: int, buffer: memoryview) -> int:
        if offset == 0:
            self.visited.append(handle)
        return self.store.verifier.verify(handle, offset, buffer)

    async def _in_worker(self, work: Callable[[], T]) -> T:
        return work()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    await made.kill()
    made.store.abandon()


async def test_rot_in_every_place_of_a_chunk_nobody_reads_is_found_in_one_pass(bench: Bench) -> None:
    places = [0, BLOCK - 1, 3 * BLOCK, 16 * BLOCK + 5, 20 * BLOCK + 99]  # the last in the partial block
    for handle, place in zip(H, places, strict=False):
        bench.put(handle, os.urandom(20 * BLOCK + 100))
        bench.rot(handle, place)
    bench.put(H[5], os.urandom(MIB))  # and one that is whole
    bench.start()
    await bench.clock.advance(60.0)
    assert bench.store.corrupt() == H[:5]
    assert (bench.scrubber.progress.damaged, bench.scrubber.progress.chunks) == (5, 6)


async def test_a_missing_and_a_short_file_are_found(bench: Bench) -> None:
    for handle in H[:4]:
        bench.put(handle, os.urandom(3 * BLOCK))
    bench.machine.disk.unlink(chunk_path(H[0]))
    for handle, length in ((H[1], 2 * BLOCK + 7), (H[2], 0)):
        file = bench.machine.disk.open(chunk_path(handle))
        file.truncate(length)
        file.close()
    bench.start()
    await bench.clock.advance(60.0)
    assert bench.store.corrupt() == H[:3]
    assert bench.store.corruption(H[0]) == "its bytes are missing"


async def test_the_rate_is_kept_and_is_lower_while_clients_are_served(bench: Bench) -> None:
    for handle in H:
        bench.put(handle, bytes(8 * MIB))

    bench.start()

    async def bytes_in(seconds: float) -> int:
        before = bench.scrubber.progress.verified_bytes
        for _ in range(round(seconds * 10)):
            await bench.clock.advance(0.1)
        return bench.scrubber.progress.verified_bytes - before

    idle = await bytes_in(4.0)
    assert 4 * RATE - 2 * SCRUB_PIECE_BYTES <= idle <= 4 * RATE + 2 * SCRUB_PIECE_BYTES
    real_verify = bench.verify

    def verify_under_load(handle: ChunkHandle, offset: int, buffer: memoryview) -> int:
        bench.work += 1
        return real_verify(handle, offset, buffer)

    bench.verify = verify_under_load  # type: ignore[method-assign]
    busy = await bytes_in(8.0)
    assert 0 < busy <= 8 * RATE / SCRUB_BUSY_DIVISOR + 2 * SCRUB_PIECE_BYTES


async def test_small_chunks_are_not_charged_like_large_ones(bench: Bench) -> None:
    for handle in range(1, 200):
        bench.put(ChunkHandle(handle), b"small")
    bench.start()
    await bench.clock.advance(200 * BLOCK / RATE + 1.0)
    assert bench.scrubber.progress.chunks == 199


async def test_after_a_kill_it_goes_on_where_it_stopped(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "SCRUB_SAVE_SECONDS", 0.0)
    for handle in H:
        bench.put(handle, bytes(4 * MIB))
    bench.start()
    await bench.clock.advance(4.1)
    await bench.kill()
    last = bench.visited[-1]
    assert H[0] < last < H[-1]
    bench.visited.clear()
    bench.start()
    await bench.clock.advance(60.0)
    assert bench.visited == [handle for handle in H if handle >= last]
    assert bench.scrubber.progress.passes == 0  # it is still the first pass


async def test_passes_begin_as_far_apart_as_the_settings_say_also_over_a_restart(bench: Bench) -> None:
    bench.put(H[0], b"a")
    bench.start()
    await bench.clock.advance(PASS_SECONDS - 10)
    assert len(bench.visited) == 1
    await bench.clock.advance(20.0)
    assert len(bench.visited) == 2
    await bench.kill()
    bench.start()
    await bench.clock.advance(PASS_SECONDS - 20)
    assert len(bench.visited) == 3  # the kill forgot how far the pass had come, not when it began
    await bench.clock.advance(20.0)
    assert len(bench.visited) == 4


async def test_a_chunk_written_and_granted_anew_while_it_is_scrubbed_is_not_called_damaged(
    bench: Bench,
) -> None:
    bench.put(H[0], os.urandom(6 * MIB))
    bench.start()
    for step in range(20):
        await bench.clock.advance(0.1)
        bench.store.write(H[0], V1, step * 100_000, os.urandom(70_000))
    bench.store.versions.bump(H[0], V2, oldest_version=V1, create=False, master_term=T1)
    await bench.clock.advance(60.0)
    assert bench.store.corrupt() == []
    assert bench.scrubber.progress.damaged == 0


async def test_a_chunk_deleted_while_it_is_scrubbed_is_no_damage(bench: Bench) -> None:
    bench.put(H[0], bytes(CHUNK_BYTES // 4))
    bench.put(H[1], b"next")
    bench.start()
    await bench.clock.advance(1.0)
    bench.store.delete(H[0])
    await bench.clock.advance(10.0)
    assert bench.store.corrupt() == [] and bench.visited == H[:2]


async def test_progress_that_cannot_be_kept_or_read_stops_no_scrub(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "SCRUB_SAVE_SECONDS", 0.0)
    file = bench.machine.disk.open(os.path.join(bench.machine.directory, room.PROGRESS_FILE), create=True)
    file.pwrite(b"{ no progress", 0)
    file.close()
    bench.put(H[0], bytes(MIB))
    bench.rot(H[0], 5)
    bench.machine.disk.space_bytes_left = 0
    bench.start()
    await bench.clock.advance(10.0)
    assert bench.store.corrupt() == [H[0]]
