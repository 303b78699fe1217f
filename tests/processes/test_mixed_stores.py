"""Chunk servers with different stores in one cluster: bytes come back from each, also after kill -9."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gfs.vocabulary import KIB, MIB
from tests.processes.cluster import ProcessCluster

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

STORES = {"c1": "file", "c2": "lmdb", "c3": "memory"}


async def test_files_small_and_large_are_kept_by_all_stores_and_outlive_a_kill(tmp_path: Path) -> None:
    cluster = ProcessCluster(tmp_path / "cluster", masters=1, chunkservers=3)
    assert sorted(cluster.chunkservers) == sorted(STORES)
    with open(cluster.layout.config_path, "a", encoding="utf-8") as config:
        config.write("\n[chunkserver.store_options.lmdb]\npacked_bytes_max = '16KiB'\n")
    own = {f"GFS__CHUNKSERVERS__{node.upper()}__STORE": store for node, store in STORES.items()}
    contents = {f"/small{number}": os.urandom(4 * KIB) for number in range(20)}
    contents["/large"] = os.urandom(3 * MIB + 1)
    try:
        cluster.start(**own)
        client = await cluster.connect()
        await cluster.ready(client)
        for path, content in contents.items():
            async with await client.open(path, "xb") as file:
                await file.write(content)
        await client.snapshot("/large", "/copy")
        await client.write("/copy", 0, b"changed")
        contents["/copy"] = b"changed" + contents["/large"][7:]
        assert len(list(Path(cluster.layout.settings.chunkservers["c1"].directory).rglob("*.chunk"))) == 22
        assert len(list(Path(cluster.layout.settings.chunkservers["c2"].directory).rglob("*.chunk"))) == 2
        # The only ones left that have the bytes are those that keep them over a kill.
        cluster.kill(["c1", "c2", "c3"])
        for node in ("c2", "c1"):
            cluster.start([node], **own)
            await cluster.ready(client, 1)
            for path, content in contents.items():
                async with await client.open(path, "rb") as file:
                    assert await file.read() == content, (node, path)
            cluster.kill([node])
        await client.close()
    finally:
        cluster.stop()
