"""Everything at once on real programs: writers, appenders, snapshots and purges while programs die, and
repair, rebalancing, scrubbing and garbage collection work beside them. What was acknowledged must be there.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gfs.client.client import AsyncClient
from gfs.vocabulary import KIB
from tests.paper.boxes import keeps
from tests.processes.cluster import ProcessCluster, eventually
from tests.processes.workload import Workload

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

SEEDS = range(int(os.environ.get("GFS_TEST_STORM_SEEDS", "1")))
STEPS = 60  # of each worker
APPENDERS = 3
STUCK_SECONDS = 5.0
REGION_BYTES = 300 * KIB
FAULTS = ("kill chunk server", "stop chunk server", "kill master", "stop master", "both")
QUICK = {
    "GFS__MASTER__REPAIR_DELAY_SECONDS": "0",
    "GFS__MASTER__CHUNKSERVER_DEAD_SECONDS": "1.5",
    "GFS__CHUNKSERVER__SCRUB_BYTES_PER_SECOND": "64MiB",
    "GFS__RAFT__CHECKPOINT_LOG_BYTES": "30000",
}


class Progress:
    """How many steps all workers have done: the storm's only clock."""

    def __init__(self) -> None:
        self._steps = 0
        self._changed = asyncio.Condition()
        self.over = False

    async def step(self) -> None:
        async with self._changed:
            self._steps += 1
            self._changed.notify_all()

    async def end(self) -> None:
        async with self._changed:
            self.over = True
            self._changed.notify_all()

    async def pass_by(self, steps: int) -> None:
        """Wait until so many more steps are done, or all are; no longer when all wait for what is away."""
        until = self._steps + steps
        try:
            async with asyncio.timeout(STUCK_SECONDS), self._changed:
                await self._changed.wait_for(lambda: self.over or self._steps >= until)
        except TimeoutError:
            pass


class Appender:
    """One of several that append framed records to one file; each is told the offset of its own."""

    path = "/storm/log"

    def __init__(self, client: AsyncClient, name: int, chance: random.Random) -> None:
        self.client, self.name, self.chance = client, name, chance
        self.acknowledged: dict[bytes, int] = {}

    async def step(self, number: int) -> None:
        payload = b"%d-%d:" % (self.name, number) + self.chance.randbytes(
            self.chance.choice((10, 3000, 70_000))
        )
        self.acknowledged[payload] = await self.client.record_append(self.path, payload, framed=True)


class Regions:
    """One writer of regions of a file, who takes snapshots between writes and knows what each must hold."""

    def __init__(self, client: AsyncClient, chance: random.Random) -> None:
        self.client, self.chance = client, chance
        self.content = bytearray(REGION_BYTES)
        self.snapshots: dict[str, bytes] = {}

    async def set_up(self) -> None:
        await self.client.mkdir("/storm/regions")
        await self.client.write_bytes("/storm/regions/file", bytes(self.content))

    async def step(self, number: int) -> None:
        at = self.chance.randrange(REGION_BYTES)
        data = self.chance.randbytes(self.chance.randrange(1, 40_000))[: REGION_BYTES - at]
        await self.client.write("/storm/regions/file", at, data)
        self.content[at : at + len(data)] = data
        if number % 10 == 5:
            target = f"/storm/snapshot-{number}"
            await self.client.snapshot("/storm/regions", target)
            self.snapshots[f"{target}/file"] = bytes(self.content)

    async def verify(self) -> None:
        assert self.snapshots
        for path, content in {"/storm/regions/file": bytes(self.content), **self.snapshots}.items():
            assert await self.client.read_bytes(path) == content, path


async def work(steps: Callable[[int], Awaitable[object]], progress: Progress) -> None:
    for number in range(STEPS):
        await steps(number)
        await progress.step()


async def nemesis(cluster: ProcessCluster, progress: Progress, chance: random.Random) -> list[str]:
    """At most one master and one chunk server are away at a time; returns what was done."""
    done = []
    while not progress.over:
        fault = chance.choice(
            ("kill chunk server", "stop chunk server", "kill master", "stop master", "both")
        )
        names = [chance.choice(cluster.masters if "master" in fault else cluster.chunkservers)]
        if fault == "both":
            names = [chance.choice(cluster.masters), chance.choice(cluster.chunkservers)]
        done.append(f"{fault} {names}")
        if fault.startswith("stop"):
            cluster.processes[names[0]].send_signal(signal.SIGSTOP)
            await progress.pass_by(chance.randrange(5, 25))
            cluster.processes[names[0]].send_signal(signal.SIGCONT)
        else:
            cluster.kill(names)
            await progress.pass_by(chance.randrange(5, 40))
            cluster.start(names, **QUICK)
        await progress.pass_by(chance.randrange(5, 25))
    return done


async def all_is_well(client: AsyncClient) -> bool | None:
    """Whether every chunk of every file has its goal of replicas."""
    async for page in client.check("/"):
        if any(number and risk != "ok" for risk, number in page.counts.items()):
            return None
    return True


async def replicas_that_differ(client: AsyncClient) -> list[str]:
    """Replicas that hold damaged bytes, or others than the rest of their set, or cannot be asked."""
    return [
        f"{file.path} chunk {place.index}: {found}"
        async for page in client.check("/", with_places=True)
        for file in page.places
        for place in file.chunks
        if (found := await client.verify_chunk(place))
        and (found.bad_blocks or found.differing or found.unread)
    ]


@keeps("failures-are-the-norm", "defined-regions", "snapshot", "record-append", "re-replication")
@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_acknowledged_is_lost_in_a_storm(tmp_path: Path, seed: int) -> None:
    """Constant failure is the norm; the system notices it, bears it and mends itself, and loses nothing."""
    chance = random.Random(seed)
    cluster = ProcessCluster(tmp_path, masters=3, chunkservers=5)
    cluster.start(**QUICK)
    try:
        clients = [await cluster.connect() for _ in range(APPENDERS + 2)]
        await cluster.ready(clients[0])
        await clients[0].mkdir("/storm")
        await clients[0].create(Appender.path)
        files = Workload(clients[0], "/storm/files", seed=seed)
        await files.set_up()
        regions = Regions(clients[1], random.Random(seed + 1))
        await regions.set_up()
        appenders = [Appender(clients[2 + n], n, random.Random(seed + 2 + n)) for n in range(APPENDERS)]
        progress = Progress()

        async def file_step(number: int) -> None:
            await files.step()
            if number % 10 == 9:
                await files.client.purge("/storm/files", everything=True)

        faults = asyncio.create_task(nemesis(cluster, progress, chance))
        steps = [file_step, regions.step, *(appender.step for appender in appenders)]
        try:
            await asyncio.gather(*(work(step, progress) for step in steps))
        finally:
            await progress.end()
            done = await faults
        assert len(done) >= 3, done
        await cluster.ready(clients[0])
        await files.verify()
        await regions.verify()
        found = [record async for record in clients[0].records(Appender.path)]
        wanted = {payload: offset for one in appenders for payload, offset in one.acknowledged.items()}
        assert len(wanted) == APPENDERS * STEPS
        assert {record.payload: record.offset_bytes for record in found} == wanted
        assert len(found) == len(wanted), "a record is there twice"
        await eventually(lambda: all_is_well(clients[0]), "every chunk has its goal of replicas again")
        differing: list[str] = []

        async def all_alike() -> bool | None:
            differing[:] = await replicas_that_differ(clients[0])
            return not differing or None

        await eventually(all_alike, "the replicas of each chunk hold the same bytes", lambda: differing)
        await cluster.masters_agree()
        for client in clients:
            await client.close()
    finally:
        cluster.stop()
