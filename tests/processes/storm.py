"""What a storm consists of but its faults: workers that remember what was acknowledged, and all that must
hold afterwards. Which faults come, and when, is the tests' affair.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from gfs.client.client import AsyncClient
from gfs.vocabulary import KIB
from tests.processes.cluster import ProcessCluster, eventually
from tests.processes.workload import Workload

STEPS = 60  # of each worker
APPENDERS = 3
STUCK_SECONDS = 5.0
REGION_BYTES = 300 * KIB
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


async def _work(steps: Callable[[int], Awaitable[object]], progress: Progress) -> None:
    for number in range(STEPS):
        await steps(number)
        await progress.step()


class Storm:
    """The workers on one cluster, each with a client of its own; `client` is for who watches."""

    def __init__(self, cluster: ProcessCluster, clients: list[AsyncClient], seed: int) -> None:
        self.cluster, self.client = cluster, clients[0]
        self.progress = Progress()
        self.files = Workload(clients[1], "/storm/files", seed=seed)
        self.regions = Regions(clients[2], random.Random(seed + 1))
        self.appenders = [
            Appender(client, n, random.Random(seed + 2 + n)) for n, client in enumerate(clients[3:])
        ]
        self.log_snapshots: dict[str, dict[bytes, int]] = {}  # what each copy of the log must have

    async def rage(self, faults: Awaitable[None]) -> None:
        """Let all workers do their steps while `faults` come; it must end when `progress` is over."""
        raging = asyncio.ensure_future(faults)
        steps = [self._file_step, self.regions.step, *(one.step for one in self.appenders)]
        try:
            await asyncio.gather(*(_work(step, self.progress) for step in steps))
        finally:
            await self.progress.end()
            await raging

    async def verify(self) -> None:
        """Everything acknowledged is there, once; then all is whole again and alike, with nobody's help."""
        await self.cluster.ready(self.client)
        await self.files.verify()
        await self.regions.verify()
        wanted = self._acknowledged()
        assert len(wanted) == APPENDERS * STEPS
        assert await self._records(Appender.path) == wanted
        assert self.log_snapshots
        for path, before in self.log_snapshots.items():
            assert before.items() <= (await self._records(path)).items(), path
        await eventually(lambda: all_is_well(self.client), "every chunk has its goal of replicas again")
        differing: list[str] = []

        async def all_alike() -> bool | None:
            # What was damaged and not read since is found only now; then it is mended like all damage.
            differing[:] = await replicas_that_differ(self.client)
            return not differing or None

        await eventually(all_alike, "the replicas of each chunk hold the same bytes", lambda: differing)
        await self.cluster.masters_agree()

    async def _file_step(self, number: int) -> None:
        await self.files.step()
        if number % 10 == 9:
            await self.files.client.purge("/storm/files", everything=True)
        if number % 15 == 7:
            before = self._acknowledged()
            await self.files.client.snapshot(Appender.path, f"/storm/log-{number}")
            self.log_snapshots[f"/storm/log-{number}"] = before

    def _acknowledged(self) -> dict[bytes, int]:
        return {payload: at for one in self.appenders for payload, at in one.acknowledged.items()}

    async def _records(self, path: str) -> dict[bytes, int]:
        found = [record async for record in self.client.records(path)]
        held = {record.payload: record.offset_bytes for record in found}
        assert len(held) == len(found), f"a record is twice in {path}"
        return held


@asynccontextmanager
async def prepared_storm(directory: Path, seed: int) -> AsyncIterator[Storm]:
    """Three masters, five chunk servers, and workers ready to begin."""
    cluster = ProcessCluster(directory, masters=3, chunkservers=5)
    cluster.start(**QUICK)
    clients: list[AsyncClient] = []
    try:
        for _ in range(APPENDERS + 3):
            clients.append(await cluster.connect())
        storm = Storm(cluster, clients, seed)
        await cluster.ready(storm.client)
        await storm.client.mkdir("/storm")
        await storm.client.create(Appender.path)
        await storm.files.set_up()
        await storm.regions.set_up()
        yield storm
    finally:
        for client in clients:
            await client.close()
        cluster.stop()


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
