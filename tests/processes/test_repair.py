"""Real chunk servers are lost, drained and removed; nobody but the leader does anything about it (§4.3)."""

from __future__ import annotations

import os
from pathlib import Path

from gfs.client.client import AsyncClient
from gfs.vocabulary import MIB
from tests.processes.cluster import ProcessCluster, eventually

QUICK = {
    "GFS__MASTER__REPAIR_DELAY_SECONDS": "0",
    "GFS__MASTER__CHUNKSERVER_DEAD_SECONDS": "1.5",
}


async def replicas_of(client: AsyncClient, paths: list[str]) -> list[set[str]]:
    return [
        {replica.server for replica in place.replicas}
        for path in paths
        for place in await client.chunks(path)
    ]


async def ids_by_port(client: AsyncClient, cluster: ProcessCluster) -> dict[str, str]:
    """The configured name of each chunk server by the id it drew."""
    servers = (await client.cluster_status()).chunkservers
    names = {node.control: name for name, node in cluster.layout.settings.chunkservers.items()}
    return {server.id: names[server.control] for server in servers}


async def test_chunks_return_to_their_goal_when_a_chunk_server_is_killed(tmp_path: Path) -> None:
    cluster = ProcessCluster(tmp_path, masters=1, chunkservers=5)
    cluster.start(**QUICK)
    try:
        client = await cluster.connect()
        await cluster.ready(client)
        paths = [f"/f{n}" for n in range(8)]
        contents = {path: os.urandom(MIB + n) for n, path in enumerate(paths)}
        for path, content in contents.items():
            await client.write_bytes(path, content)
        names = await ids_by_port(client, cluster)
        lost = next(iter((await replicas_of(client, paths))[0]))
        cluster.kill([names[lost]])

        async def healed() -> bool | None:
            sets = await replicas_of(client, paths)
            return all(len(one) == 3 and lost not in one for one in sets) or None

        await eventually(healed, "all chunks have three replicas again")
        for path, content in contents.items():
            assert await client.read_bytes(path) == content
        await client.close()
    finally:
        cluster.stop()
