"""Real programs lose a server, and die while a replica is made: chunks get their replicas (GFS §4.3)."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfs.client.client import AsyncClient
from gfs.errors import GfsError
from gfs.messages.chunks import ChunkPlace
from tests.paper.boxes import keeps
from tests.processes.cluster import ProcessCluster, eventually

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

DATA = bytes(range(256)) * 20_000  # 4.9 MiB
FAST = {"GFS__MASTER__CHUNKSERVER_DEAD_SECONDS": "2", "GFS__MASTER__REPAIR_DELAY_SECONDS": "1"}


async def full_again(client: AsyncClient, path: str, *, without: str, before: ChunkPlace) -> ChunkPlace:
    async def look() -> ChunkPlace | None:
        try:
            [place] = await client.chunks(path)
        except GfsError:
            return None  # no leader at the moment
        servers = {replica.server for replica in place.replicas}
        return place if len(servers) == 3 and without not in servers and not place.missing else None

    place = await eventually(look, f"{path} has three replicas again")
    assert place.version > before.version
    return place


def replica_files(cluster: ProcessCluster, place: ChunkPlace) -> list[Path]:
    root = Path(cluster.layout.config_path).parent
    return [path for path in root.rglob(f"{place.handle:016x}.*") if path.is_file()]


@keeps("re-replication")
@pytest.mark.parametrize(
    ("failpoint", "at"),
    [
        ("", ""),
        ("clone.before_fence=kill", "master"),
        ("clone.after_fence=kill", "master"),
        ("clone.before_grant=kill", "master"),
        ("clone.received=kill", "target"),
    ],
)
async def test_chunk_has_three_equal_replicas_again_after_one_server_died(
    tmp_path: Path, failpoint: str, at: str
) -> None:
    cluster = ProcessCluster(tmp_path, masters=1, chunkservers=4)
    try:
        cluster.start(cluster.masters, failpoint=failpoint if at == "master" else "", **FAST)
        cluster.start(cluster.chunkservers)
        async with await cluster.connect() as client:
            await cluster.ready(client)
            await client.write_bytes("/f", DATA)
            [before] = await client.chunks("/f")
            names = {
                replica.server: name
                for name, node in cluster.layout.settings.chunkservers.items()
                for replica in before.replicas
                if node.control == replica.control
            }
            lost = before.replicas[0].server
            [free] = set(cluster.chunkservers) - set(names.values())
            if at == "target":
                cluster.kill([free])
                cluster.start([free], failpoint=failpoint)
                await cluster.ready(client)
            cluster.kill([names[lost]])
            if at:
                dying = cluster.masters[0] if at == "master" else free
                await cluster.died(dying)
                cluster.start([dying], **FAST)
            after = await full_again(client, "/f", without=lost, before=before)
            assert await client.read_bytes("/f") == DATA
            equal = [path for path in replica_files(cluster, after) if path.read_bytes() == DATA]
            assert len(equal) == 4  # and that of the dead server
            await client.write("/f", len(DATA), b"more")
            assert await client.read_bytes("/f") == DATA + b"more"
    finally:
        cluster.stop()
