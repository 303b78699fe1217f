"""I6 under seeded schedules: no replica of a live chunk's set is ever collected, all garbage is at last.

Writers, grants, moves of replicas, deaths, new leaders, lost messages, words of leaders that come late, and a
file that is deleted, had back and at last purged.
"""

from __future__ import annotations

import asyncio

import pytest

import gfs.master.core.garbage as garbage_room
import gfs.master.garbage_collection as collection_room
from gfs.errors import GfsError
from gfs.master.core.lookup import chunk_by_handle
from gfs.messages.base import Request
from gfs.messages.namespace import DeletePath, EntryReply, Stat
from gfs.messages.trash import PurgeReply, PurgeTrash, Undelete
from gfs.vocabulary import ChunkHandle, ServerId
from tests.master.lease_world import LeaseWorld
from tests.master.test_replica_moves_schedules import MovingSchedule
from tests.master.test_service_lease_schedules import STEPS

WORDS_LATE = 0.4  # how often a chunk server is slow to do what it was told


class GarbageSchedule(MovingSchedule):
    """As its parent; chunk servers obey whoever leads, or believes so, sooner or later."""

    def __init__(self, here: LeaseWorld, seed: int) -> None:
        super().__init__(here, seed)
        self.collected = 0
        self.asked: list[asyncio.Task[object]] = []
        for server in here.servers.values():
            server.on_collected = self.check_collected

    def check_collected(self, server: ServerId, handle: ChunkHandle) -> None:
        """By what is committed, whoever knows of it: the deletion has just happened."""
        log = self.here.log.leader
        assert log is not None
        log.catch_up()
        chunk = chunk_by_handle(log.tables, handle)
        assert chunk is None or server not in chunk.replicas, (self.here.seed, server, chunk)
        self.collected += 1

    async def step(self) -> None:
        acts = (super().step, self.collect_garbage, self.let_long_time_pass, self.delete, self.have_back)
        act = self.chance.choices(acts, [20, 8, 5, 1, 3])[0]
        await act()
        for task in [task for task in self.asked if task.done()]:
            self.asked.remove(task)
            error = task.exception()
            assert error is None or isinstance(error, GfsError), error

    async def collect_garbage(self) -> None:
        for _ in range(2):  # what is stale is seen first, then the walk finds its goal
            for master in self.here.masters.values():
                await self.here.finish(master.garbage.tick())
            await self.here.heartbeats(report=self.chance.random() < 0.2)
        for server in self.here.servers.values():
            if self.chance.random() > WORDS_LATE:
                server.collect()

    async def let_long_time_pass(self) -> None:
        await self.collect_garbage()
        await self.here.clock.advance(11.0)
        await self.here.heartbeats()

    async def delete(self) -> None:
        self.request(DeletePath(path="/f"))

    async def have_back(self) -> None:
        self.request(Undelete(path="/f"))

    def request(self, request: Request) -> None:
        address = self.chance.choice(list(self.here.masters.values())).address
        work = self.here.client.call(address, request, request.reply, deadline_seconds=5.0)
        self.asked.append(asyncio.ensure_future(work))

    async def end(self) -> None:
        await self.settle_down()
        try:
            await self.here.call(Stat(path="/f"), EntryReply)
        except GfsError:
            await self.here.call(Undelete(path="/f"), Undelete.reply)
        await super().end()
        await self.here.call(DeletePath(path="/f"), DeletePath.reply)
        await self.here.call(PurgeTrash(path="/f"), PurgeReply)
        for _ in range(3):
            await self.here.clock.advance(1.0)
            await self.collect_garbage()
            for server in self.here.servers.values():
                server.collect()
        held = {server.id: (server.replicas, server.guests) for server in self.here.servers.values()}
        assert not any(replicas or guests for replicas, guests in held.values()), (self.here.seed, held)

    async def settle_down(self) -> None:
        self.here.network.heal_all()
        for server in self.here.servers.values():
            if server.address not in self.here.network.servers:
                server.restart()
        if self.here.log.leader is not self.here.leader.replicator:
            self.here.log.elect(self.here.leader.replicator)
        while self.asked or self.moving:
            await self.here.clock.advance(5.0)
            await self.hear_answers()
            self.asked = [task for task in self.asked if not task.done()]
        await self.here.heartbeats(report=True)


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What protects live replicas must not be that their deletion comes late."""
    monkeypatch.setattr(garbage_room, "STALE_KEPT_SECONDS", 0.0)
    monkeypatch.setattr(collection_room, "WALK_REST_SECONDS", 0.0)


async def begin(seed: int) -> GarbageSchedule:
    here = LeaseWorld(servers=5, masters=2, goal=2, seed=seed, trash_seconds=3 * 86400.0)
    return GarbageSchedule(await here.start(), seed)


@pytest.mark.parametrize("seed", range(12))
async def test_no_schedule_collects_a_member_and_all_garbage_goes_in_the_end(seed: int) -> None:
    schedule = await begin(seed)
    for _ in range(2 * STEPS):
        await schedule.step()
    await schedule.end()


async def test_schedules_do_collect_stale_replicas_of_live_chunks() -> None:
    """A schedule in which nothing is collected before the end would prove nothing."""
    collected = 0
    for seed in range(4):
        schedule = await begin(seed)
        for _ in range(2 * STEPS):
            await schedule.step()
        collected += schedule.collected
        for task in (*schedule.moving, *schedule.asking, *schedule.asked):
            task.cancel()
    assert collected >= 2, collected
