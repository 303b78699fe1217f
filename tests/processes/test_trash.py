"""Deleted for good on real programs: all disks have their space back, whoever is killed meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gfs.client.client import AsyncClient
from gfs.errors import GfsError
from tests.paper.boxes import keeps
from tests.processes.cluster import ProcessCluster, eventually

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

CONTENT = b"0123456789abcdef" * 4096
FILES = 60


@pytest_asyncio.fixture
async def small_cluster(tmp_path: Path) -> AsyncIterator[ProcessCluster]:
    found = ProcessCluster(tmp_path / "small", masters=1, chunkservers=1)
    found.start()
    async with await found.connect() as client:
        await found.ready(client)
    yield found
    found.stop()


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ProcessCluster]:
    found = ProcessCluster(tmp_path / "cluster", masters=3, chunkservers=4)
    found.start()
    yield found
    found.stop()


def run(cluster: ProcessCluster, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    ran = subprocess.run(
        [sys.executable, "-m", "gfs", "--config", cluster.layout.config_path, *arguments],
        input=stdin,
        capture_output=True,
        timeout=90,
    )
    assert b"Traceback" not in ran.stderr, ran.stderr.decode()
    return ran.returncode, ran.stdout.decode(), ran.stderr.decode()


def gfs(cluster: ProcessCluster, *arguments: str, stdin: bytes = b"") -> str:
    status, out, err = run(cluster, *arguments, stdin=stdin)
    assert status == 0, (arguments, err)
    return out


def replicas_on_disks(cluster: ProcessCluster) -> dict[str, set[str]]:
    """Chunk files by chunk server."""
    nodes = cluster.layout.settings.chunkservers
    return {
        name: {path.name for path in Path(node.directory).rglob("*.chunk")} for name, node in nodes.items()
    }


async def replicas_of(client: AsyncClient, path: str) -> dict[str, set[str]]:
    """Which chunk files of `path` there should be, by control address of the chunk server."""
    wanted: dict[str, set[str]] = {}
    for place in await client.chunks(path):
        for replica in place.replicas:
            wanted.setdefault(replica.control, set()).add(f"{place.handle:016x}.chunk")
    return wanted


@keeps("garbage-collection")
@keeps("versions")
async def test_what_is_purged_leaves_all_disks_and_what_is_stale_too_whoever_dies(
    cluster: ProcessCluster,
) -> None:
    async with await cluster.connect() as client:
        await cluster.ready(client)
        await client.mkdir("/tree/deep", parents=True)
        for number in range(FILES):
            await client.write_bytes(f"/tree/deep/{number}", CONTENT)
        await client.write_bytes("/kept", CONTENT)
        [place] = await client.chunks("/kept")
        nodes = cluster.layout.settings.chunkservers
        away = next(n for n, node in nodes.items() if node.control == place.replicas[0].control)
        cluster.kill([away])
        await client.write("/kept", len(CONTENT), CONTENT)  # its replica on `away` misses this

        gfs(cluster, "rm", "-r", "/tree")
        [entry] = json.loads(gfs(cluster, "-o", "json", "trash", "ls"))
        hidden = entry["entry"]["path"]
        assert entry["path"] == "/tree"
        assert gfs(cluster, "cat", f"{hidden}/deep/7") == CONTENT.decode()
        gfs(cluster, "undelete", "/tree")
        assert await client.read_bytes("/tree/deep/8") == CONTENT
        gfs(cluster, "rm", "-r", "/tree")
        gfs(cluster, "trash", "purge", "/tree")

        leader = (await cluster.ready(client, chunkservers=3)).leader
        cluster.kill([leader])
        cluster.start([leader])

        async def only_kept_is_left() -> bool | None:
            """Where chunk servers live: chunk files as many as /kept has replicas there, and no other."""
            try:
                wanted = await replicas_of(client, "/kept")
            except GfsError:
                return None
            found = {
                name: held
                for name, held in replicas_on_disks(cluster).items()
                if cluster.processes[name].poll() is None
            }
            right = {name: wanted.get(nodes[name].control, set()) for name in found}
            enough = sum(map(len, right.values())) == 3
            return True if enough and found == right else None

        await eventually(only_kept_is_left, "purged chunks leave the disks, and /kept has three replicas")
        assert len(replicas_on_disks(cluster)[away]) >= 1
        cluster.start([away], failpoint="chunk.delete_recorded=kill@3")
        assert await cluster.died(away) == -9  # in the middle of what it was told to delete
        cluster.start([away])
        await cluster.ready(client)
        await eventually(only_kept_is_left, "the server that was away gives up what is stale or an orphan")
        assert await client.read_bytes("/kept") == 2 * CONTENT
        assert json.loads(gfs(cluster, "-o", "json", "trash", "ls")) == []
        await cluster.masters_agree()


async def test_bad_input_is_refused_with_what_to_do_and_nothing_is_lost(
    small_cluster: ProcessCluster,
) -> None:
    for content in (b"first", b"second"):
        gfs(small_cluster, "put", "-", "/f", stdin=content)
        gfs(small_cluster, "rm", "/f")
    gfs(small_cluster, "put", "-", "/f", stdin=b"third")
    refused = {
        ("undelete", "/f"): (4, "/f exists"),
        ("undelete", "/nothing"): (3, "gfs trash ls"),
        ("undelete", "/.trash/4711"): (3, "not any more"),
        ("undelete", "relative"): (2, "relative"),
        ("undelete", "--to", "/x", "/f", "/g"): (2, "--to"),
        ("trash", "purge"): (2, "--all"),
        ("trash", "purge", "/nothing"): (3, "nothing that was deleted"),
        ("trash", "purge", "--all"): (2, "--yes"),  # nobody is there to answer the question
        ("trash", "ls", "relative"): (2, "relative"),
        ("rm", "/.trash/nonsense"): (2, "/.trash/<number>"),
        ("mv", "/f", "/.trash/9"): (2, "not changed"),
        ("cat", "/.trash"): (3, "gfs trash ls"),
    }
    for arguments, (status, said) in refused.items():
        found, out, err = run(small_cluster, *arguments)
        assert (found, said in err) == (status, True), (arguments, found, out, err)
    assert gfs(small_cluster, "cat", "/f") == "third"
    gfs(small_cluster, "undelete", "/f", "--to", "/older/copy")
    assert gfs(small_cluster, "cat", "/older/copy") == "second"
    gfs(small_cluster, "trash", "purge", "--all", "--yes")
    assert gfs(small_cluster, "trash", "ls") == ""
    assert gfs(small_cluster, "cat", "/older/copy") == "second"
