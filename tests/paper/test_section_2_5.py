"""§2.5, chunk size: its hot spots, and what helps against them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gfs.client.client import AsyncClient
from gfs.messages.policies import PolicyFields
from gfs.vocabulary import KIB
from tests.client.real_cluster import RealCluster
from tests.paper.boxes import keeps
from tests.processes.cluster import eventually

READERS = 40
CONTENT = bytes(8 * KIB)


def bytes_read(cluster: RealCluster) -> list[float]:
    """What each chunk server has read for others so far."""
    metrics = [server.metrics.registry for server in cluster.chunkservers.values()]
    return [one.get_sample_value("gfs_chunkserver_read_bytes_total") or 0.0 for one in metrics]


async def read_by_many(cluster: RealCluster, path: str) -> list[float]:
    """Many clients read a file at once; returns what each chunk server had to do for it."""
    before = bytes_read(cluster)
    clients = [await cluster.client() for _ in range(READERS)]

    async def read(client: AsyncClient) -> None:
        async with client:
            assert await client.read_bytes(path) == CONTENT

    await asyncio.gather(*map(read, clients))
    return [after - first for after, first in zip(bytes_read(cluster), before, strict=True)]


@keeps("hot-spots")
async def test_an_executable_that_everyone_starts_gets_more_replicas_and_its_readers_spread(
    tmp_path: Path,
) -> None:
    """A small file that hundreds of machines read at once overloads its few chunk servers: it gets more."""
    async with RealCluster(tmp_path, chunkservers=4) as cluster, await cluster.client() as client:
        await client.mkdir("/bin")
        await client.set_policy("/bin", PolicyFields(replicas=1))
        await client.write_bytes("/bin/program", CONTENT)
        loads = await read_by_many(cluster, "/bin/program")
        assert sorted(loads)[:3] == [0, 0, 0] and max(loads) >= READERS * len(CONTENT)

        await client.set_policy("/bin", PolicyFields(replicas=4))

        async def has_more() -> bool | None:
            (place,) = await client.chunks("/bin/program")
            return len(place.replicas) == 4 or None

        await eventually(has_more, "the chunk has four replicas")
        loads = await read_by_many(cluster, "/bin/program")
        assert min(loads) > 0 and max(loads) < READERS * len(CONTENT) * 0.6, loads
