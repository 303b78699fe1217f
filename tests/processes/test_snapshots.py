"""Snapshots on real programs: kill -9 of the leader and of a chunk server at each step of one (§3.4, I10)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gfs.client.client import AsyncClient
from tests.paper.boxes import keeps
from tests.processes.cluster import ProcessCluster, eventually
from tests.processes.test_crashes import make_leader

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]

FILES = 600  # more than one step of a copy takes


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ProcessCluster]:
    found = ProcessCluster(tmp_path_factory.mktemp("snapshots"), masters=3, chunkservers=3)
    found.start()
    client = await found.connect()
    await found.ready(client)
    await _make_tree(client)
    await client.close()
    yield found
    found.stop()


async def _make_tree(client: AsyncClient) -> None:
    await client.mkdir("/tree/deep", parents=True)
    await asyncio.gather(*(client.create(f"/tree/deep/{number}") for number in range(FILES)))
    await client.write_bytes("/tree/a", b"at first")
    await client.create("/tree/records")
    await client.record_append("/tree/records", b"first;")


async def _check(client: AsyncClient, copy: str, records: bytes) -> None:
    assert len(await client.listdir(f"{copy}/deep")) == FILES
    assert await client.read_bytes(f"{copy}/a") == b"at first"
    assert (await client.read_bytes(f"{copy}/records")).replace(b"\0", b"") == records


@pytest.mark.parametrize(
    "point", ["snapshot.begun", "snapshot.leases_revoked", "snapshot.step", "copy.reserved", "copy.made"]
)
@keeps("snapshot")
async def test_a_leader_killed_in_the_middle_leaves_one_whole_snapshot(
    cluster: ProcessCluster, point: str
) -> None:
    """What one leader has begun the next one finishes; the client's call returns as if nothing had been."""
    client = await cluster.connect()
    try:
        node = (await cluster.ready(client)).leader
        cluster.kill([node])
        cluster.start([node], failpoint=f"{point}=kill")
        await make_leader(cluster, node)
        before = (await client.read_bytes("/tree/records")).replace(b"\0", b"")
        copy = f"/{point}"
        await client.snapshot("/tree", copy)
        await client.record_append("/tree/records", point.encode() + b";")
        assert await cluster.died(node) == -9
        cluster.start([node])
        await cluster.ready(client)
        await _check(client, copy, before)
        after = (await client.read_bytes("/tree/records")).replace(b"\0", b"")
        assert after.startswith(before) and after.endswith(point.encode() + b";")
        assert (await client.chunks(f"{copy}/a"))[0].handle == (await client.chunks("/tree/a"))[0].handle
        await cluster.masters_agree()
    finally:
        await client.close()


async def test_a_chunk_server_killed_while_it_copies_a_chunk_costs_no_byte(cluster: ProcessCluster) -> None:
    client = await cluster.connect()
    try:
        await cluster.ready(client)
        await client.write_bytes("/shared", b"at first")
        await client.snapshot("/shared", "/copy of it")
        node = cluster.chunkservers[0]
        cluster.kill([node])
        restarted = time.monotonic()
        cluster.start([node], failpoint="chunk.copied=kill")
        address = cluster.layout.settings.chunkservers[node].control

        async def heard() -> bool | None:
            since = time.monotonic() - restarted
            servers = (await client.cluster_status()).chunkservers
            found = [s for s in servers if s.control == address and s.last_heartbeat_seconds < since]
            return bool(found) or None

        await eventually(heard, f"{node} is back")
        await client.write("/shared", 0, b"later on")
        assert await cluster.died(node) == -9
        cluster.start([node])
        await cluster.ready(client)
        assert await client.read_bytes("/shared") == b"later on"
        assert await client.read_bytes("/copy of it") == b"at first"
    finally:
        await client.close()


async def test_the_command_takes_snapshots_and_says_why_it_does_not(cluster: ProcessCluster) -> None:
    def gfs(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "gfs", "--master", ",".join(cluster.addresses), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
        )

    async def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(gfs, *arguments)

    client = await cluster.connect()
    try:
        await cluster.ready(client)
        taken = await run("snapshot", "/tree/deep", "/by command")
        assert (taken.returncode, taken.stderr) == (0, "")

        async def listed() -> bool | None:
            return len(await client.listdir("/by command")) == FILES or None

        await eventually(listed, "the copy is whole")
        for arguments, status, said in (
            (("/tree", "/tree/in itself"), 2, "into itself"),
            (("/tree", "/by command"), 4, "exists"),
            (("/nowhere", "/x"), 3, "does not exist"),
            (("/", "/x"), 2, "root"),
        ):
            refused = await run("snapshot", *arguments)
            assert refused.returncode == status, refused.stderr
            assert said in refused.stderr and "Traceback" not in refused.stderr
    finally:
        await client.close()
