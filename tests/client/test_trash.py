"""Deleting, undeleting and purging over real programs: bytes come back, or leave the disks (GFS §4.4)."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfs.client.client import AsyncClient
from gfs.errors import AlreadyExists, NotFound
from tests.client.mini_cluster import eventually
from tests.client.real_cluster import RealCluster
from tests.paper.boxes import keeps

CONTENT = bytes(range(256)) * 1000


def chunk_files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*.chunk"))


def stored_bytes(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*.chunk"))


async def trash_of(client: AsyncClient) -> list[str]:
    return [found.path async for found in client.trash()]


@keeps("garbage-collection")
async def test_a_deleted_file_is_read_under_its_hidden_name_and_comes_back(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.mkdir("/d")
        await client.write_bytes("/d/f", CONTENT)
        await client.delete("/d", recursive=True)
        assert not await client.exists("/d/f")
        [found] = [entry async for entry in client.trash()]
        assert found.path == "/d" and found.entry.kind == "directory"
        assert await client.read_bytes(f"{found.entry.path}/f") == CONTENT
        assert await client.undelete("/d") == "/d"
        assert await client.read_bytes("/d/f") == CONTENT
        with pytest.raises(NotFound):
            await client.undelete("/d")
        await client.delete("/d/f")
        await client.write_bytes("/d/f", b"newer")
        with pytest.raises(AlreadyExists):
            await client.undelete("/d/f")
        assert await client.undelete("/d/f", destination="/d/older") == "/d/older"
        assert await client.read_bytes("/d/older") == CONTENT
        assert await client.read_bytes("/d/f") == b"newer"


@keeps("garbage-collection")
async def test_purged_bytes_leave_every_disk_and_others_stay(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.write_bytes("/kept", CONTENT)
        kept = chunk_files(tmp_path)
        for number in range(5):
            await client.write_bytes(f"/f{number}", CONTENT)
        full = stored_bytes(tmp_path)
        assert len(chunk_files(tmp_path)) == 3 * 6
        for number in range(4):
            await client.delete(f"/f{number}")
        assert await client.purge("/f0") == 1
        assert await client.purge("/", everything=True) == 3
        await client.delete("/f4", skip_trash=True)
        assert await trash_of(client) == []
        await eventually(lambda: chunk_files(tmp_path) == kept)
        assert stored_bytes(tmp_path) <= full / 5
        assert await client.read_bytes("/kept") == CONTENT
        counted = await client.cluster_status()
        assert counted.files == counted.chunks == 1


async def test_a_chunk_server_that_comes_back_gets_rid_of_what_was_purged_meanwhile(tmp_path: Path) -> None:
    async with RealCluster(tmp_path, chunkservers=4) as cluster, await cluster.client() as client:
        await client.write_bytes("/f", CONTENT)
        [place] = await client.chunks("/f")
        away = place.replicas[0]
        await cluster.stop_replica(away)
        name = next(n for n, node in cluster.settings.chunkservers.items() if node.control == away.control)
        await client.delete("/f", skip_trash=True)
        await eventually(lambda: len(chunk_files(tmp_path)) == 1)
        await cluster.start_chunkserver(name)
        await eventually(lambda: not chunk_files(tmp_path))


async def test_what_was_never_published_is_not_kept_in_the_trash(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        writer = await client.open("/f", "wb", atomic=True)
        await writer.write(CONTENT)
        await writer.flush()
        assert chunk_files(tmp_path)
        await writer.discard()
        assert await trash_of(client) == []
        await eventually(lambda: not chunk_files(tmp_path))
