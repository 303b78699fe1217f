"""Real chunk servers are lost, drained and removed; nobody but the leader does anything about it (§4.3)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from gfs.client.client import AsyncClient
from gfs.vocabulary import MIB
from tests.processes.cluster import ProcessCluster, eventually

QUICK = {
    "GFS__MASTER__REPAIR_DELAY_SECONDS": "0",
    "GFS__MASTER__CHUNKSERVER_DEAD_SECONDS": "1.5",
}


def gfs(cluster: ProcessCluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gfs", "--config", cluster.layout.config_path, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


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


async def test_a_chunk_server_is_drained_to_empty_and_removed_while_files_are_read(tmp_path: Path) -> None:
    cluster = ProcessCluster(tmp_path, masters=3, chunkservers=4)
    cluster.start(**QUICK)
    try:
        client = await cluster.connect()
        await cluster.ready(client)
        contents = {f"/f{n}": os.urandom(200_000 + n) for n in range(6)}
        for path, content in contents.items():
            await client.write_bytes(path, content)
        names = await ids_by_port(client, cluster)
        leaving = next(iter((await replicas_of(client, ["/f0"]))[0]))

        early = gfs(cluster, "admin", "chunkservers", "remove", leaving)
        assert early.returncode == 2 and "is not draining" in early.stderr
        drained = gfs(cluster, "admin", "chunkservers", "drain", leaving)
        assert drained.returncode == 0 and "3 other chunk servers can take replicas" in drained.stdout

        async def empty() -> bool | None:
            for path, content in contents.items():
                assert await client.read_bytes(path) == content
            ran = gfs(cluster, "-o", "jsonl", "admin", "chunkservers", "ls")
            assert ran.returncode == 0, ran.stderr
            rows = {row["id"]: row for row in map(json.loads, ran.stdout.splitlines())}
            assert rows[leaving]["tenure"] == "draining"
            return rows[leaving].get("chunks") == 0 or None

        await eventually(empty, "the drained server is in no replica set")
        told = gfs(cluster, "explain", "/f0")
        assert told.returncode == 0 and "3 good replicas of 3 wanted" in told.stdout, told
        assert f"{leaving}: draining" in told.stdout and "Nothing is to be done." in told.stdout
        queue = gfs(cluster, "admin", "replication", "queue")
        assert queue.returncode == 0 and "every chunk has its replicas" in queue.stderr
        level = gfs(cluster, "admin", "rebalance", "--dry-run")
        assert level.returncode == 0, level.stderr

        removed = gfs(cluster, "admin", "chunkservers", "remove", leaving)
        assert removed.returncode == 0, removed.stderr
        leader = (await client.cluster_status()).leader
        cluster.kill([leader])  # the word is in the log, and binds the next leader, too

        async def refused() -> bool | None:
            return "was removed from the cluster" in cluster.log(names[leaving]) or None

        await eventually(refused, "the removed server is told so")

        async def forgotten() -> bool | None:
            return leaving not in {s.id for s in (await client.cluster_status()).chunkservers} or None

        await eventually(forgotten, "nobody counts the removed server any more")
        cluster.kill([names[leaving]])
        for path, content in contents.items():
            assert await client.read_bytes(path) == content
        await client.close()
    finally:
        cluster.stop()
