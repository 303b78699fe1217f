"""I1, I2 under seeded schedules in which replicas come and go while writers, servers and leaders do, too."""

from __future__ import annotations

import asyncio

import pytest

from gfs.errors import GfsError
from gfs.master.core.clone_task import CloneReason
from gfs.vocabulary import ChunkHandle, ServerId
from tests.master.lease_world import FIRST, LeaseWorld
from tests.master.test_service_lease_schedules import STEPS, Schedule


class MovingSchedule(Schedule):
    """As its parent, and any master may at any time move the replica of any server to any other."""

    def __init__(self, here: LeaseWorld, seed: int) -> None:
        super().__init__(here, seed)
        self.moving: list[asyncio.Task[None]] = []
        self.moved = 0

    async def step(self) -> None:
        act = self.chance.choices([super().step, self.move, self.remove, self.slow_down], [20, 6, 1, 3])[0]
        await act()
        if self.moving:  # time enough for one message: a write may come between any two steps of a move
            await self.here.clock.advance(0.05)
        await self.hear_answers()
        if self.acknowledged:
            self.here.check_members(self.acknowledged)

    async def move(self) -> None:
        names = list(self.here.servers)
        target, drop = self.chance.sample(names, 2)
        if chunk := self.chunk():
            reason: CloneReason = self.chance.choice(("lost replica", "rebalance"))
            task = self.here.task(target, drop=self.chance.choice(("", drop)), handle=chunk, reason=reason)
            moves = self.chance.choice(list(self.here.masters.values())).moves
            self.moving.append(asyncio.ensure_future(moves.carry_out(task)))

    async def remove(self) -> None:
        server = ServerId(self.chance.choice(list(self.here.servers)))
        if chunk := self.chunk():
            moves = self.chance.choice(list(self.here.masters.values())).moves
            work = moves.remove_replica(self.here.inode, FIRST, chunk, server)
            self.moving.append(asyncio.ensure_future(work))

    async def slow_down(self) -> None:
        server = self.chance.choice(list(self.here.servers.values()))
        server.copy_seconds = self.chance.choice((0.0, 0.1, 0.3, 1.5))
        for master in self.here.masters:
            if not self.here.network.link(master, server.id).cut:
                self.here.network.delay(master, server.id, self.chance.choice((0.0, 0.04, 0.12)))

    async def hear_answers(self) -> None:
        await super().hear_answers()
        for task in [task for task in self.moving if task.done()]:
            self.moving.remove(task)
            error = task.exception()
            assert error is None or isinstance(error, GfsError), error
            self.moved += error is None

    def chunk(self) -> ChunkHandle | None:
        return self.lease.handle if self.lease else None

    async def end(self) -> None:
        await super().end()
        while self.moving:
            await self.here.clock.advance(5.0)
            await self.hear_answers()
        self.here.check_members(self.acknowledged)
        for server in self.here.servers.values():
            server.copy_seconds = 0.0
        await self.here.heartbeats(report=True)
        for target in self.here.servers:
            await self.here.finish(self.here.leader.moves.carry_out(self.here.task(target)))
        assert self.lease is not None
        last = await self.here.acquire(failed_version=self.lease.version)
        assert len(last.replicas) == len(self.here.servers)
        self.here.check(last, self.acknowledged)


@pytest.mark.parametrize("seed", range(60))
async def test_no_schedule_with_moves_loses_an_acknowledged_mutation(seed: int) -> None:
    here = await LeaseWorld(servers=5, masters=2, seed=seed).start()
    schedule = MovingSchedule(here, seed)
    for _ in range(2 * STEPS):
        await schedule.step()
    await schedule.end()


async def test_schedules_do_move_replicas() -> None:
    """A schedule in which no move succeeds would prove nothing."""
    moved = 0
    for seed in range(5):
        schedule = MovingSchedule(await LeaseWorld(servers=5, masters=2, seed=seed).start(), seed)
        for _ in range(STEPS):
            await schedule.step()
        moved += schedule.moved
        for task in schedule.moving:
            task.cancel()
    assert moved >= 5
