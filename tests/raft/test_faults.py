"""Whole clusters under random faults in virtual time: nothing acknowledged is lost, all states stay equal.

Faults: cut and one-way links, resets, slow links and disks, kill -9, power cuts of one or all masters with
torn sectors, full disks. Checkpoints are small and frequent, so that they are shipped all the time.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from chaos.simulation.loop import VirtualLoop, run_virtual
from gfs.errors import GfsError
from gfs.master.replication.options import RaftOptions
from tests.paper.boxes import keeps
from tests.raft.cluster import Cluster, Machine

OPTIONS = RaftOptions(checkpoint_log_bytes=3000, segment_bytes=2000)


class Nemesis:
    def __init__(self, loop: VirtualLoop, cluster: Cluster) -> None:
        self.loop, self.cluster = loop, cluster
        self.chance = random.Random(loop.chance.random())
        self.tasks: list[asyncio.Task[None]] = []

    async def strike_for(self, seconds: float) -> None:
        end = self.loop.now + seconds
        faults = [self.isolate, self.split, self.one_way, self.reset, self.slow, self.kill, self.cut_power]
        faults += [self.cut_all_power, self.fill_disk, self.slow_disk, self.lead_astray, self.drop_leader]
        faults += [self.pause_leader]
        while self.loop.now < end:
            await asyncio.sleep(self.chance.uniform(0.05, 1.5))
            await self.chance.choice(faults)()

    async def recover(self) -> None:
        for task in self.tasks:
            await task
        self.cluster.loop.network.heal()
        self.loop.network.latency_seconds = (0.0001, 0.0006)
        self.loop.disk_seconds = (0.0002, 0.002)
        for machine in self.cluster.machines.values():
            machine.disk.space_bytes_left = None
            assert machine.failure is None, machine.failure
            if machine.node is None:
                await machine.start()

    def _names(self) -> list[str]:
        names: list[str] = list(self.cluster.names)
        self.chance.shuffle(names)
        return names

    async def isolate(self) -> None:
        names = self._names()
        self.loop.network.isolate(names[0], names)
        await self._heal_later()

    async def split(self) -> None:
        names = self._names()
        cut = self.chance.randrange(1, len(names))
        for one in names[:cut]:
            for other in names[cut:]:
                self.loop.network.block(one, other)
                self.loop.network.block(other, one)
        await self._heal_later()

    async def one_way(self) -> None:
        names = self._names()
        for other in names[1 : self.chance.randrange(2, len(names) + 1)]:
            pair = (names[0], other) if self.chance.random() < 0.5 else (other, names[0])
            self.loop.network.block(*pair)
        await self._heal_later()

    async def _heal_later(self) -> None:
        await asyncio.sleep(self.chance.uniform(0.1, 2.5))
        self.loop.network.heal()

    async def lead_astray(self) -> None:
        """The leader alone is cut off while the others go on, long enough for a checkpoint to pass it by."""
        leader = self.cluster.leader()
        if leader is not None:
            self.loop.network.isolate(leader.name, list(self.cluster.names))
            await self._heal_later()

    async def pause_leader(self) -> None:
        """It wakes up believing that it leads, with its clients' requests waiting."""
        leader = self.cluster.leader()
        if leader is not None:
            await leader.pause(self.chance.uniform(0.1, 3))

    async def drop_leader(self) -> None:
        """A switch dies: the followers see their connections break, the leader sees nothing at all."""
        leader = self.cluster.leader()
        if leader is None:
            return
        names = [name for name in self.cluster.names if name != leader.name]
        self.loop.network.isolate(leader.name, list(names))
        for name in names:
            self.loop.network.reset_one_side(name, leader.name)
        await self._heal_later()

    async def reset(self) -> None:
        names = self._names()
        self.loop.network.reset(names[0], names[1])

    async def slow(self) -> None:
        self.loop.network.latency_seconds = (0.001, self.chance.choice((0.01, 0.05, 0.2)))
        await asyncio.sleep(self.chance.uniform(0.1, 1))
        self.loop.network.latency_seconds = (0.0001, 0.0006)

    async def slow_disk(self) -> None:
        self.loop.disk_seconds = (0.01, self.chance.choice((0.05, 0.4)))
        await asyncio.sleep(self.chance.uniform(0.1, 1))
        self.loop.disk_seconds = (0.0002, 0.002)

    async def kill(self) -> None:
        machine = self.cluster.machines[self.chance.choice(self.cluster.names)]
        machine.kill()
        self._restart_later(machine)

    async def cut_power(self) -> None:
        machine = self.cluster.machines[self.chance.choice(self.cluster.names)]
        machine.cut_power(torn=self.chance.random() < 0.5)
        self._restart_later(machine)

    async def cut_all_power(self) -> None:
        torn = self.chance.random() < 0.5
        for machine in self.cluster.machines.values():
            machine.cut_power(torn=torn)
            self._restart_later(machine)

    async def fill_disk(self) -> None:
        machine = self.cluster.machines[self.chance.choice(self.cluster.names)]
        machine.disk.space_bytes_left = self.chance.randrange(500)
        await asyncio.sleep(self.chance.uniform(0.1, 1.5))
        machine.disk.space_bytes_left = None

    def _restart_later(self, machine: Machine) -> None:
        async def restart() -> None:
            await asyncio.sleep(self.chance.uniform(0.05, 2))
            if machine.node is None and machine.failure is None:
                machine.disk.space_bytes_left = None
                await machine.start()

        self.tasks.append(self.loop.create_task(restart()))


async def client(cluster: Cluster, number: int, stop: asyncio.Event) -> None:
    chance = random.Random(cluster.loop.chance.random())
    sequence = 0
    while not stop.is_set():
        machine = chance.choice(cluster.running) if cluster.running and chance.random() < 0.3 else None
        before = len(cluster.acknowledged)
        try:
            async with asyncio.timeout(3):
                if (
                    chance.random() < 0.3
                    and cluster.running
                    and (reader := chance.choice(cluster.running)).node
                ):
                    await read_linearly(cluster, reader, before)
                else:
                    sequence += 1
                    padding = b"." * chance.choice((0, 10, 300))
                    await cluster.propose(b"%d-%d" % (number, sequence) + padding, machine)
        except TimeoutError:
            pass
        await asyncio.sleep(chance.uniform(0.0005, 0.05))


async def read_linearly(cluster: Cluster, reader: Machine, acknowledged_before: int) -> None:
    assert reader.node is not None
    try:
        await reader.node.read_barrier()
    except GfsError:
        return
    missing = set(cluster.acknowledged[:acknowledged_before]) - set(reader.state.items)
    assert not missing, "a read that passed the barrier does not see what was acknowledged before it"


async def survive(loop: VirtualLoop, size: int, seconds: float) -> None:
    cluster = Cluster(loop, size, OPTIONS)
    await cluster.start()
    stop = asyncio.Event()
    clients = [loop.create_task(client(cluster, number, stop)) for number in range(4)]
    nemesis = Nemesis(loop, cluster)
    await nemesis.strike_for(seconds)
    await nemesis.recover()
    await cluster.elected()
    stop.set()
    await asyncio.gather(*clients)
    await cluster.settled()
    assert await cluster.propose(b"the end") is not None
    await cluster.settled()
    cluster.check()
    assert len(cluster.acknowledged) > 10


@pytest.mark.parametrize("seed", range(24))
@keeps("namespace-atomic")
def test_three_masters_lose_nothing_under_random_faults(seed: int) -> None:
    run_virtual(lambda loop: survive(loop, 3, 15), seed=seed)


@pytest.mark.parametrize("seed", range(6))
def test_five_masters_lose_nothing_under_random_faults(seed: int) -> None:
    run_virtual(lambda loop: survive(loop, 5, 12), seed=seed)
