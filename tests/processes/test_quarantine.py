"""Real masters, one of which has another state: found by the majority, healed, nothing lost (I7)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gfs.bench.witness import Witness
from gfs.client.client import AsyncClient
from gfs.errors import GfsError, NotFound
from gfs.master.core.records import id_key
from gfs.master.core.state import MasterState
from gfs.master.core.tables import Table
from gfs.master.lmdb_tables import LmdbTables
from gfs.master.state_machine import EVIDENCE_FILE, STATE_FILE
from gfs.messages.namespace import EntryReply, Stat
from gfs.messages.operations import LogRecord, MakeDirectory
from gfs.transport.websocket_client import WebSocketCaller
from gfs.vocabulary import ROOT_INODE, Address
from tests.processes.cluster import ProcessCluster
from tests.waiting import eventually, until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]
STATE_BYTES_MAX = 2**30
CORRUPT = 7  # exit status


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ProcessCluster]:
    found = ProcessCluster(tmp_path / "cluster", masters=3, chunkservers=1)
    found.start()
    yield found
    found.stop()


def state_of(cluster: ProcessCluster, master: str) -> LmdbTables:
    """The state's file of a master that does not run."""
    place = Path(cluster.layout.node_directory(master)) / STATE_FILE
    return LmdbTables(str(place), bytes_max=STATE_BYTES_MAX)


def make_ghost(cluster: ProcessCluster, master: str) -> None:
    """As if one apply() had had another outcome here: rows and digest fit together."""
    tables = state_of(cluster, master)
    state = MasterState(tables)
    state.apply(LogRecord(at_ms=1, operation=MakeDirectory(path="/ghost")))
    state.save()
    tables.commit()
    tables.close()


def rename_a_row(cluster: ProcessCluster, master: str) -> None:
    """As by a hand at the file: the digest knows nothing of it."""
    tables = state_of(cluster, master)
    key, row = next(iter(tables.scan(Table.DENTRIES, id_key(ROOT_INODE))))
    tables.delete(Table.DENTRIES, key)
    tables.put(Table.DENTRIES, id_key(ROOT_INODE) + b"ghost", row)
    tables.commit()
    tables.close()


async def has(cluster: ProcessCluster, master: str, path: str) -> bool | None:
    """Whether this master's own state has it; None while it does not answer."""
    caller = WebSocketCaller(role="test", node="test")
    address = Address(cluster.layout.settings.masters[master].control)
    try:
        await caller.call(address, Stat(path=path, consistency="stale"), EntryReply, deadline_seconds=2.0)
    except NotFound:
        return False
    except GfsError:
        return None
    finally:
        await caller.close()
    return True


async def make_it_lead(client: AsyncClient, master: str) -> None:
    while await all_serve(client) != master:
        await client.operator.transfer_leadership(master)


async def all_serve(client: AsyncClient) -> str:
    async def leader() -> str | None:
        found = await client.cluster_status()
        roles = sorted(row.role for row in found.masters)
        return found.leader if roles == ["follower", "follower", "leader"] else None

    return await eventually(leader, "all masters take part")


async def until_healed(cluster: ProcessCluster, client: AsyncClient, master: str) -> None:
    async def healed() -> bool:
        roles = {row.id: row.role for row in (await client.cluster_status()).masters}
        evidence = Path(cluster.layout.node_directory(master)) / EVIDENCE_FILE
        return evidence.exists() and roles[master] in ("follower", "leader")  # type: ignore[index]

    await until(healed, f"{master} has a new state and serves")
    assert await has(cluster, master, "/ghost") is False
    log = cluster.log(master)
    assert "ALERT: this master is quarantined" in log and "this master is in service again" in log


async def test_leader_with_another_state_is_outvoted_under_load_and_comes_back(
    cluster: ProcessCluster,
) -> None:
    async with await cluster.connect() as client:
        found = await cluster.ready(client)
        await client.mkdir("/d")
        await cluster.masters_agree()
        odd = max(name for name in cluster.masters if name != found.leader)
        cluster.kill([odd])
        make_ghost(cluster, odd)
        cluster.start([odd])

        async def serves_the_ghost() -> bool:
            return await has(cluster, odd, "/ghost") is True

        await until(serves_the_ghost, "it serves what no other master has")
        await make_it_lead(client, odd)
        caller = WebSocketCaller(role="test", node="witness")
        masters = [Address(address) for address in cluster.addresses]
        witness = Witness(client, "/w", masters=masters, caller=caller, writers=2)
        await witness.start()
        try:
            command = [sys.executable, "-m", "gfs", "--config", cluster.layout.config_path, "-o", "json"]

            async def compared() -> tuple[int, str] | None:
                ran = subprocess.run(
                    [*command, "admin", "compare"], capture_output=True, text=True, timeout=60
                )
                return (ran.returncode, ran.stdout) if ran.stdout else None

            status, text = await eventually(compared, "the masters are compared")
            verdicts = {row["id"]: row["verdict"] for row in json.loads(text)["masters"]}
            assert status == CORRUPT and verdicts[odd] == "differs"
            assert sorted(verdicts.values()) == ["differs", "equal", "equal"]
            await until_healed(cluster, client, odd)
        finally:
            await witness.finish()
            await caller.close()
        assert (witness.failed, witness.stale, await witness.lost()) == ([], [], [])
        await cluster.masters_agree()


async def test_row_changed_while_the_leader_was_down_is_found_by_itself(cluster: ProcessCluster) -> None:
    async with await cluster.connect() as client:
        odd = (await cluster.ready(client)).leader
        await client.mkdir("/d")
        await cluster.masters_agree()
        cluster.kill([odd])
        rename_a_row(cluster, odd)
        cluster.start([odd])
        await until_healed(cluster, client, odd)
        assert await has(cluster, odd, "/d")
        await cluster.masters_agree()
