"""The checkpoint tools on what real masters have written, beside them while they run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes.cluster import ProcessCluster
from tests.waiting import until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


def ask(*arguments: str) -> tuple[int, bytes]:
    command = [sys.executable, "-m", "gfs", "-o", "json", "checkpoint", *arguments]
    ran = subprocess.run(command, capture_output=True, timeout=60)
    assert b"Traceback" not in ran.stderr, ran.stderr.decode()
    return ran.returncode, ran.stdout


async def test_checkpoints_of_a_running_cluster_are_sound_and_tell_what_is_in_it(tmp_path: Path) -> None:
    cluster = ProcessCluster(tmp_path / "cluster", masters=3, chunkservers=3)
    cluster.start(GFS__RAFT__CHECKPOINT_LOG_BYTES="5000")
    try:
        client = await cluster.connect()
        await cluster.ready(client)
        await client.mkdir("/data")
        for number in range(60):
            await client.write_bytes(f"/data/f{number}", b"x" * 1000)
        await client.delete("/data/f0")
        directories = [cluster.layout.node_directory(master) for master in cluster.masters]

        async def all_have_one() -> bool:
            return all(list(Path(directory, "checkpoints").glob("*.manifest")) for directory in directories)

        await until(all_have_one, "a checkpoint on each master")
        await client.close()
    finally:
        cluster.stop()
    for directory in directories:
        status, told = ask("verify", directory)
        (verdict,) = json.loads(told)
        assert status == 0 and verdict["findings"] == [], verdict
        status, told = ask("inspect", directory, "--path", "/data")
        assert status == 0 and json.loads(told)["files_below"] > 0
        status, told = ask(
            "query", directory, "SELECT count(*) AS n FROM replicas JOIN servers USING (server)"
        )
        assert status == 0 and json.loads(told)[0]["n"] >= 3
        status, told = ask("ls", directory)
        assert status == 0 and {row["wholeness"] for row in json.loads(told)} == {"whole"}
