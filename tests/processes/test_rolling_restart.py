"""All masters restarted one by one under load: no call fails, no linearizable read is stale (§5.1.1)."""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path

import pytest

from gfs.bench.fixture import local_cluster
from gfs.bench.witness import Witness
from gfs.client.client import AsyncClient
from gfs.errors import GfsError, Unavailable
from gfs.local.rolling import restart_masters
from gfs.local.supervisor import Supervisor
from gfs.master.directory import process_of
from gfs.transport.websocket_client import WebSocketCaller
from gfs.vocabulary import KIB, Address

ROUNDS = 1  # by hand: more
STALL_SECONDS_MAX = 10.0  # on a machine that does much else besides; a quiet one shows well under one


class DataWriter:
    """Writes small files and reads each back."""

    def __init__(self, client: AsyncClient, root: str) -> None:
        self._client, self._root = client, root
        self._chance = random.Random(root)
        self.files = 0
        self.failed: list[str] = []
        self.stopping = False

    async def run(self) -> None:
        await self._client.mkdir(self._root)
        while not self.stopping:
            path, content = f"{self._root}/{self.files}", self._chance.randbytes(100 * KIB)
            try:
                await self._client.write_bytes(path, content)
                if await self._client.read_bytes(path) != content:
                    self.failed.append(f"{path} has other bytes")
            except GfsError as error:
                self.failed.append(f"{path}: {error.code}: {error.message}")
            self.files += 1


async def test_masters_are_restarted_one_by_one_without_a_failed_call(tmp_path: Path) -> None:
    async with local_cluster() as (supervisor, client):
        caller = WebSocketCaller(role="test", node="witness")
        masters = [Address(node.control) for node in supervisor.settings.masters.values()]
        witness = Witness(client, "/w", masters=masters, caller=caller, writers=4)
        data = DataWriter(client, "/data")
        writing = asyncio.create_task(data.run())
        await witness.start()
        before = {name: _process(supervisor, name) for name in supervisor.settings.masters}
        try:
            for _ in range(ROUNDS):
                done = await restart_masters(
                    client.cluster_status, lambda node: _restart(supervisor, node), say=print
                )
                assert sorted(done) == sorted(supervisor.settings.masters)
        finally:
            data.stopping = True
            await writing
            await witness.finish()
            await caller.close()
        after = {name: _process(supervisor, name) for name in supervisor.settings.masters}
        assert not set(before.values()) & set(after.values()), "every process is a new one"
        assert all(after.values())
        assert (witness.failed, witness.stale, data.failed) == ([], [], [])
        assert await witness.lost() == []
        assert data.files > 0 and witness.reads > 0
        stall = witness.longest_gap(since=0.0)
        told = (
            f"{len(witness.acknowledged)} writes, {witness.reads} linearizable reads, {data.files} files; "
            f"longest stall {stall * 1000:.0f} ms"
        )
        (tmp_path / "told").write_text(told)  # by hand: pytest --basetemp
        assert stall < STALL_SECONDS_MAX, told


async def test_restart_goes_no_further_when_a_master_does_not_come_back() -> None:
    async with local_cluster(chunkservers=1) as (supervisor, client):
        asked: list[str] = []

        async def stop_only(node: str) -> None:
            asked.append(node)
            supervisor.signal(node, signal.SIGTERM)
            await supervisor.ended(node)

        with pytest.raises(Unavailable, match="not all masters take part") as raised:
            await restart_masters(client.cluster_status, stop_only, say=print, seconds=2.0)
        assert len(asked) == 1 and asked[0] in raised.value.message
        await client.mkdir("/the others serve")


def _process(supervisor: Supervisor, name: str) -> int:
    return process_of(supervisor.layout.node_directory(name))


async def _restart(supervisor: Supervisor, node: str) -> None:
    supervisor.signal(node, signal.SIGTERM)
    assert await supervisor.ended(node) == 0
    await supervisor.start_node(node)
