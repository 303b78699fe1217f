"""Which replicas go out to the object service, and when: by a clock and a service of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from gfs.chunkserver import tiering_duty as room
from gfs.chunkserver.core.tier_object import EXTENT_BYTES
from gfs.chunkserver.last_uses import LastUses
from gfs.chunkserver.tiering_duty import LocalScrubbing, TieringDuty
from gfs.messages.stores import ShowTier, TierReply
from gfs.settings import TierSettings
from gfs.transport.interface import CallContext
from gfs.vocabulary import ChunkHandle
from tests.chunkserver.replicas import T1, V1, chunk_path, content, create
from tests.chunkserver.test_replica_tiering import TieredMachine
from tests.fakes.clock import VirtualClock

T = TypeVar("T")
IDLE = 100.0
LONG = bytes(2 * EXTENT_BYTES + 5)
H = [ChunkHandle(number) for number in range(1, 9)]


class Bench:
    def __init__(self, path: Path) -> None:
        self.machine = TieredMachine(path)
        self.store = self.machine.open()
        self.clock = VirtualClock()
        self.uses = LastUses(self.clock)
        self._task: asyncio.Task[None] | None = None

    def start(self, *, recall: bool = False, bytes_per_second: int = 2**40) -> None:
        tuning = TierSettings(
            url="fake://",
            idle_seconds=IDLE,
            chunk_bytes_min=EXTENT_BYTES,
            collect_seconds=3 * IDLE,
            recall=recall,
            bytes_per_second=bytes_per_second,
        )
        self.duty = TieringDuty(
            self.machine.tiering,
            self.machine.tier,
            self.store.verifier,
            self.uses,
            self.clock,
            tuning,
            in_worker=self._in_worker,
        )
        self._task = asyncio.ensure_future(self.duty.run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def put(self, *handles: ChunkHandle, data: bytes = LONG) -> None:
        for handle in handles:
            create(self.store, handle)
            self.store.write(handle, V1, 0, data)

    def out(self) -> list[ChunkHandle]:
        return sorted(self.machine.tier.tiered())

    async def shown(self) -> TierReply:
        (handler,) = self.duty.handlers().values()
        reply = await handler(ShowTier(), CallContext(peer="a test", trace="", seconds_left=1.0))
        assert isinstance(reply, TierReply)
        return reply

    async def _in_worker(self, work: Callable[[], T]) -> T:
        return work()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    await made.stop()


async def test_what_nobody_has_used_for_long_goes_out_and_the_rest_stays(bench: Bench) -> None:
    bench.put(H[0], H[1])
    bench.put(H[2], data=b"short")
    bench.start()
    await bench.clock.advance(0.9 * IDLE)
    assert bench.out() == []
    bench.uses.note(H[1])
    await bench.clock.advance(0.7 * IDLE)
    assert bench.out() == [H[0]]
    await bench.clock.advance(0.7 * IDLE)
    assert bench.out() == [H[0], H[1]]
    assert content(bench.store, H[1]) == LONG
    shown = await bench.shown()
    assert (shown.out_chunks, shown.moved_bytes, shown.problem) == (2, 2 * len(LONG), "")
    assert len(bench.uses) == 0, "what is idle is not remembered"


async def test_no_more_than_the_rate_goes_out(bench: Bench) -> None:
    bench.put(*H)
    bench.start(bytes_per_second=len(LONG) // 100)
    await bench.clock.advance(IDLE + 1)
    assert len(bench.out()) == 1
    await bench.clock.advance(300)
    assert 2 <= len(bench.out()) <= 5


async def test_while_the_service_refuses_nothing_moves_and_it_is_said_so(bench: Bench) -> None:
    bench.put(*H)
    bench.start()
    bench.machine.service.fails = {"put"}
    await bench.clock.advance(1.6 * IDLE)
    tries = sum(verb == "put" for verb, _ in bench.machine.service.calls)
    assert 0 < tries <= 2 * room.REFUSALS_MAX, "a round ends early"
    shown = await bench.shown()
    assert "fails to put" in shown.problem
    assert shown.problem_since_ms > 0
    assert bench.duty.gauges()["tier_refusing"][1]() == 1
    bench.machine.service.fails = set()
    await bench.clock.advance(IDLE)
    assert bench.out() == H
    assert (await bench.shown()).problem == ""


async def test_one_damaged_replica_keeps_no_other_from_going_out(bench: Bench) -> None:
    bench.put(*H[:3])
    bench.store.flush()
    bench.machine.disk.flip_bit(chunk_path(H[0]), 70_000)
    bench.start()
    await bench.clock.advance(2 * IDLE)
    assert bench.out() == H[1:3]


async def test_a_recall_brings_everything_back_and_lets_nothing_out(bench: Bench) -> None:
    bench.put(*H[:2])
    for handle in H[:2]:
        bench.machine.tiering.move_out(handle)
    bench.start(recall=True)
    await bench.clock.advance(4 * IDLE)
    assert bench.out() == []
    assert bench.machine.chunk_objects() == [], "and their objects are collected"
    assert content(bench.store, H[1]) == LONG


async def test_the_scrubber_reads_what_is_here_and_passes_over_the_rest(bench: Bench) -> None:
    bench.put(H[0])
    bench.machine.tiering.move_out(H[0])
    scrubbed = LocalScrubbing(bench.store.verifier, bench.machine.tier)
    bench.machine.service.calls.clear()
    buffer = memoryview(bytearray(EXTENT_BYTES))
    assert [scrubbed.verify(H[0], n * EXTENT_BYTES, buffer) for n in range(3)] == [
        EXTENT_BYTES,
        EXTENT_BYTES,
        5,
    ]
    assert bench.machine.service.calls == []
    bench.store.write(H[0], V1, 3, b"here again")
    bench.machine.service.calls.clear()
    assert scrubbed.verify(H[0], 0, buffer) == EXTENT_BYTES
    assert bytes(buffer[3:13]) == b"here again"
    assert bench.machine.service.calls == []


async def test_a_cut_chunk_is_scrubbed_to_its_end(bench: Bench) -> None:
    bench.put(H[0])
    bench.machine.tiering.move_out(H[0])
    bench.store.versions.align(H[0], V1, EXTENT_BYTES + 1, master_term=T1)
    scrubbed = LocalScrubbing(bench.store.verifier, bench.machine.tier)
    buffer = memoryview(bytearray(EXTENT_BYTES))
    assert scrubbed.verify(H[0], EXTENT_BYTES, buffer) == 1
    assert scrubbed.verify(H[0], 2 * EXTENT_BYTES, buffer) == 0
