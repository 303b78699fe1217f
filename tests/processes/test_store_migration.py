"""A running chunk server goes over to another store and back while it is written to, once killed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gfs.vocabulary import KIB, MIB
from tests.processes.cluster import ProcessCluster, eventually

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

FILES = 12


def gfs(cluster: ProcessCluster, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "gfs", "--config", cluster.layout.config_path, *arguments]
    return subprocess.run(command, capture_output=True, timeout=120)


async def test_a_server_changes_its_store_while_it_is_written_to_and_after_a_kill(tmp_path: Path) -> None:
    cluster = ProcessCluster(tmp_path / "cluster", masters=1, chunkservers=1)
    directory = Path(cluster.layout.settings.chunkservers["c1"].directory)
    contents = {f"/small{number}": os.urandom(4 * KIB) for number in range(FILES)}
    contents["/large"] = os.urandom(2 * MIB + 1)
    is_over = asyncio.Event()
    try:
        cluster.start(["m1"])
        cluster.start(["c1"], failpoint="move.compared=kill@5")
        client = await cluster.connect()
        await cluster.ready(client)
        for path, content in contents.items():
            async with await client.open(path, "xb") as file:
                await file.write(content)
        begun = gfs(cluster, "chunkserver", "migrate", "c1", "--to", "lmdb", "--no-wait")
        assert begun.returncode == 0, begun.stderr.decode()
        await cluster.died("c1")
        assert list((directory / "chunks").rglob("*.chunk")), "some had not moved"
        assert (directory / "store-1/packed/packed.lmdb").exists()

        async def keep_writing() -> int:
            number = 0
            while not is_over.is_set():
                contents[f"/more{number}"] = content = os.urandom(4 * KIB)
                async with await client.open(f"/more{number}", "xb") as file:
                    await file.write(content)
                await client.write("/large", number, b"!")
                contents["/large"] = contents["/large"][:number] + b"!" + contents["/large"][number + 1 :]
                number += 1
            return number

        cluster.start(["c1"])

        async def answers() -> bool | None:
            asked = await asyncio.to_thread(gfs, cluster, "chunkserver", "migrate", "c1")
            return asked.returncode == 0 or None

        await eventually(answers, "c1 answers again")
        writing = asyncio.create_task(keep_writing())
        for to, left in (("lmdb", "chunks"), ("file", "store-1")):
            asked = ("-o", "json", "chunkserver", "migrate", "c1", "--to", to)
            ran = await asyncio.to_thread(gfs, cluster, *asked)
            assert ran.returncode == 0, ran.stderr.decode()
            told = json.loads(ran.stdout)
            assert (told["store"], told["leaving"], told["left_chunks"]) == (to, "", 0)
            assert told["moved_chunks"] > 0
            assert not (directory / left).exists()
        is_over.set()
        assert await writing > 0
        cluster.kill(["c1"])
        cluster.start(["c1"])
        await cluster.ready(client)
        for path, content in contents.items():
            async with await client.open(path, "rb") as file:
                assert await file.read() == content, path
        refused = gfs(cluster, "chunkserver", "migrate", "c1", "--to", "tape")
        assert refused.returncode != 0 and b"'tape' is not one of" in refused.stderr
        await client.close()
    finally:
        is_over.set()
        cluster.stop()
