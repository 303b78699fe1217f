"""I1–I3 under seeded schedules: two masters, lost messages, deaths, new leaders, writes that fail midway."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from gfs.errors import GfsError
from gfs.messages.chunks import ChunkLease
from gfs.vocabulary import ChunkVersion, ServerId
from tests.fakes.clock import settle
from tests.master.chunkservers import write
from tests.master.lease_world import LeaseWorld

STEPS = 60


class Schedule:
    """One writer with what it was told, one chunk, and chance. Every failure prints the seed."""

    def __init__(self, here: LeaseWorld, seed: int) -> None:
        self.here = here
        self.chance = Random(seed)
        self.lease: ChunkLease | None = None
        self.old_leases: list[ChunkLease] = []
        self.asking: list[asyncio.Task[ChunkLease]] = []
        self.acknowledged: set[int] = set()
        self.next_mutation = 1
        self.told: dict[ChunkVersion, tuple[ServerId, ...]] = {}

    async def step(self) -> None:
        acts = [
            (6, self.write),
            (2, self.write_that_misses_a_secondary),
            (2, self.write_under_an_old_lease),
            (4, self.ask),
            (2, self.lose_messages),
            (2, self.kill_or_restart),
            (2, self.change_leader),
            (2, self.heartbeats),
            (2, self.let_time_pass),
            (1, self.heal),
        ]
        act = self.chance.choices([act for _, act in acts], [weight for weight, _ in acts])[0]
        await act()
        await self.hear_answers()

    async def write(self) -> None:
        if self.lease is not None:
            await self._write(self.lease, frozenset())

    async def write_that_misses_a_secondary(self) -> None:
        if self.lease is not None:
            missed = self.chance.choice(self.lease.replicas).server
            await self._write(self.lease, frozenset([missed]))

    async def write_under_an_old_lease(self) -> None:
        if self.old_leases:
            await self._write(self.chance.choice(self.old_leases), frozenset())

    async def _write(self, lease: ChunkLease, lost_at: frozenset[ServerId]) -> None:
        mutation, self.next_mutation = self.next_mutation, self.next_mutation + 1
        try:
            write(self.here.servers, lease.handle, lease.version, lease.primary, mutation, lost_at=lost_at)
            self.acknowledged.add(mutation)
        except GfsError as error:
            failed = [ServerId(s) for s in error.details.get("servers", "").split(",") if s]
            self._ask(failed_version=lease.version, suspects=failed)

    async def ask(self) -> None:
        self._ask()

    def _ask(self, **fields: object) -> None:
        master = self.chance.choice(list(self.here.masters))
        self.asking.append(self.here.start_acquire(master=master, **fields))

    async def hear_answers(self) -> None:
        await settle()
        for task in [task for task in self.asking if task.done()]:
            self.asking.remove(task)
            error = task.exception()
            if error is not None:
                assert isinstance(error, GfsError), error
                continue
            self._told(task.result())

    def _told(self, lease: ChunkLease) -> None:
        members = tuple(replica.server for replica in lease.replicas)
        assert self.told.setdefault(lease.version, members) == members  # I1
        if self.lease is None or lease.version > self.lease.version:
            if self.lease is not None:
                self.old_leases.append(self.lease)
            self.lease = lease

    async def lose_messages(self) -> None:
        server = self.chance.choice(list(self.here.servers))
        lost = {"requests": 1} if self.chance.random() < 0.5 else {"replies": 1}
        self.here.network.drop(self.here.leader.id, server, **lost)

    async def kill_or_restart(self) -> None:
        dead = [s for s in self.here.servers.values() if s.address not in self.here.network.servers]
        if dead:
            self.chance.choice(dead).restart()
            await self.heartbeats()
        else:
            await self.here.servers[self.chance.choice(list(self.here.servers))].kill()

    async def change_leader(self) -> None:
        self.here.take_over(unnoticed=self.chance.random() < 0.5)

    async def heartbeats(self) -> None:
        await self.here.heartbeats(report=self.chance.random() < 0.3)

    async def let_time_pass(self) -> None:
        await self.here.clock.advance(self.chance.choice((0.1, 0.8, 3.0, 40.0)))

    async def heal(self) -> None:
        self.here.network.heal_all()

    async def end(self) -> None:
        """With everything well again a writer gets a lease, and nothing acknowledged is missing."""
        self.here.network.heal_all()
        for server in self.here.servers.values():
            if server.address not in self.here.network.servers:
                server.restart()
        await self.here.clock.advance(31.0)
        await self.hear_answers()
        await self.here.heartbeats(report=True)
        if self.here.log.leader is not self.here.leader.replicator:
            self.here.log.elect(self.here.leader.replicator)
        version = self.lease.version if self.lease else ChunkVersion(0)
        last = await self.here.acquire(failed_version=version)
        self._told(last)
        self.here.check(last, self.acknowledged)
        await self._write(last, frozenset())
        self.here.check(last, self.acknowledged)
        assert self.next_mutation - 1 in self.acknowledged


@pytest.mark.parametrize("seed", range(40))
async def test_no_schedule_loses_an_acknowledged_mutation_or_names_two_sets_for_a_version(seed: int) -> None:
    here = await LeaseWorld(servers=4, masters=2, seed=seed).start()
    schedule = Schedule(here, seed)
    for _ in range(STEPS):
        await schedule.step()
    await schedule.end()
