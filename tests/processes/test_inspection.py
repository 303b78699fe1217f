"""Logs and disks of running programs looked at from outside: sound, and equal to what the programs have."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gfs.master.core.lookup import state_digest
from gfs.master.lmdb_tables import LmdbTables
from gfs.messages.cluster import StateDigest, StateDigestReply
from gfs.transport.websocket_client import WebSocketCaller
from gfs.vocabulary import Address
from tests.processes.cluster import ProcessCluster

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ProcessCluster]:
    found = ProcessCluster(tmp_path / "cluster", masters=3, chunkservers=3)
    found.start()
    yield found
    found.stop()


def gfs(*arguments: str) -> str:
    ran = subprocess.run([sys.executable, "-m", "gfs", *arguments], capture_output=True, timeout=90)
    assert ran.returncode == 0, (arguments, ran.stdout.decode(), ran.stderr.decode())
    return ran.stdout.decode()


async def digest_of(address: str) -> StateDigestReply:
    caller = WebSocketCaller(role="test", node="test")
    try:
        return await caller.call(Address(address), StateDigest(), StateDigestReply, deadline_seconds=5.0)
    finally:
        await caller.close()


async def test_logs_and_disks_of_running_programs_are_sound_and_tell_what_was_done(
    cluster: ProcessCluster, tmp_path: Path
) -> None:
    async with await cluster.connect() as client:
        await cluster.ready(client)
        await client.mkdir("/a")
        for number in range(20):
            async with await client.open(f"/a/f{number}", "wb") as file:
                await file.write(bytes([number]) * 100_000)
        await client.rename("/a/f3", "/a/moved")
        await client.rename("/a", "/b")
        await client.delete("/b/f5")
        for node in cluster.layout.settings.masters.values():
            told = json.loads(gfs("-o", "json", "oplog", "verify", node.directory))
            assert told["summary"]["damage"] == 0 and told["summary"]["records"] > 60
            blamed = json.loads(gfs("-o", "json", "oplog", "blame", node.directory, "/b/moved"))
            effects = [line["effect"] for line in blamed["lines"]]
            assert effects[0] == "made" and effects[-2:] == ["moved", "moved"]
            assert "chunk" in effects and "content" in effects
        for node in cluster.layout.settings.chunkservers.values():
            told = json.loads(gfs("-o", "json", "chunk", "verify", node.directory))
            assert told["summary"]["damage"] == 0
            assert told["summary"]["replicas"] == 20
            assert told["summary"]["verified_bytes"] == 20 * 100_000
        await cluster.masters_agree()
        states = {
            name: await digest_of(node.control) for name, node in cluster.layout.settings.masters.items()
        }
    cluster.kill()
    for name, state in states.items():
        directory = cluster.layout.settings.masters[name].directory
        out = tmp_path / f"{name}.lmdb"
        gfs("oplog", "replay", directory, "--to", str(state.applied_index), "--out", str(out))
        gfs("checkpoint", "verify", str(out))
        tables = LmdbTables(str(out), bytes_max=2**30)
        try:
            assert state_digest(tables.committed()) == state.digest
        finally:
            tables.close()
