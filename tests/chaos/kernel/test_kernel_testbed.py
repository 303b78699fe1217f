"""The cluster of layer K: every power bites real programs, and what was acknowledged is there afterwards."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chaos.kernel import machine
from chaos.kernel.testbed import KernelTestbed
from chaos.plan import Configuration
from chaos.testbed import CannotHere, Power
from gfs.client.client import AsyncClient
from gfs.errors import GfsError
from gfs.verification.history import History
from gfs.verification.recorder import Recorder
from tests.waiting import until

pytestmark = [
    pytest.mark.processes,
    pytest.mark.needs_tools("namespaces", "nft", "reset"),
    pytest.mark.timeout(180),
]
# Clients that give up soon: what is refused here is asked again by the test.
HASTY = {
    "client.call_seconds": 1.5,
    "client.data_seconds": 2.0,
    "client.retry_seconds": 3.0,
    "client.quorum_seconds": 3.0,
}
SMALL = Configuration(masters=3, chunkservers=3, replication_goal=3, tunings=HASTY)
SYNCED = Configuration(masters=3, chunkservers=3, replication_goal=3, durability="sync", tunings=HASTY)


@asynccontextmanager
async def cluster(
    directory: Path, *wanted: Power, configuration: Configuration = SMALL
) -> AsyncIterator[tuple[KernelTestbed, AsyncClient]]:
    with machine.taken() as run:
        testbed = KernelTestbed(run, str(directory), configuration, seed=5, wanted=frozenset(wanted))
        try:
            await testbed.start(Recorder(History(), testbed.now_ns))
            client = await testbed.client("someone")
            try:
                yield testbed, client
            finally:
                await client.close()
        finally:
            await testbed.stop()


async def led(testbed: KernelTestbed, but: str = "") -> str:
    found = ""

    async def another() -> bool:
        nonlocal found
        found = await testbed.leader()
        return bool(found) and found != but

    await until(another, "somebody leads")
    return found


async def works_again(client: AsyncClient, path: str) -> None:
    """A write of all replicas is acknowledged, and can be read."""

    async def written() -> bool:
        try:
            await client.write_bytes(path, path.encode() * 1000)
        except GfsError:
            return False
        return True

    await until(written, f"{path} is written")
    assert await client.read_bytes(path) == path.encode() * 1000


async def test_links_are_cut_and_healed_between_programs_and_for_one_client_alone(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (testbed, client):
        await works_again(client, "/before")
        leader = await led(testbed)
        for other in (*testbed.masters, *testbed.chunkservers, "someone"):
            if other != leader:
                await testbed.drop(leader, other)
                await testbed.drop(other, leader)
        assert await led(testbed, but=leader) != leader
        await works_again(client, "/meanwhile")
        await testbed.heal_all()
        await works_again(client, "/healed")
        other = await testbed.client("another")
        for node in (*testbed.masters, *testbed.chunkservers):
            await testbed.cut("someone", node)
            await testbed.cut(node, "someone")
        with pytest.raises(GfsError):
            async with asyncio.timeout(30):
                await client.stat("/before")
        assert (await other.stat("/healed")).path == "/healed"
        await testbed.heal_all()
        await works_again(client, "/end")
        assert await client.read_bytes("/before") == b"/before" * 1000
        await other.close()


async def test_frozen_killed_and_replaced_masters_lose_nothing(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (testbed, client):
        await works_again(client, "/before")
        leader = await led(testbed)
        await testbed.pause(leader)
        second = await led(testbed, but=leader)
        await testbed.kill(leader)  # while it is frozen
        await testbed.restart(leader)
        await testbed.arm(second, "oplog.synced=kill")

        async def dead() -> bool:
            if testbed.programs.runs(second):
                try:
                    await client.create(f"/again-{time.monotonic_ns()}")
                except GfsError:
                    pass
            return not testbed.programs.runs(second)

        await until(dead, "the armed master dies at its failpoint")
        await testbed.restart(second)
        new = await testbed.add_master()
        assert new in testbed.masters
        await testbed.remove_master(new)
        await works_again(client, "/end")
        assert await client.read_bytes("/before") == b"/before" * 1000


@pytest.mark.needs_tools("fuse", "mounts")
async def test_a_power_cut_of_every_machine_loses_nothing_that_was_synced(tmp_path: Path) -> None:
    async with cluster(tmp_path, "power_cut", "slow_disk", configuration=SYNCED) as (testbed, client):
        await works_again(client, "/before")
        await testbed.slow_disk("c1", seconds=0.3)
        began = time.monotonic()
        await works_again(client, "/slowly")
        assert time.monotonic() - began > 0.3
        everybody = (*testbed.masters, *testbed.chunkservers)
        await testbed.power_cut(everybody)
        assert not any(testbed.programs.runs(node) for node in everybody)
        await testbed.heal_all()
        await works_again(client, "/end")
        for path in ("/before", "/slowly"):
            assert await client.read_bytes(path) == path.encode() * 1000


@pytest.mark.needs_tools("libfiu", "mounts")
async def test_disks_that_refuse_fill_up_and_rot_lose_nothing(tmp_path: Path) -> None:
    async with cluster(tmp_path, "disk_errors", "disk_full") as (testbed, client):
        await works_again(client, "/before")

        async def tried(path: str) -> None:
            try:
                await client.write_bytes(path, b"x" * 5000)
            except GfsError:
                pass

        async def has_felt_it() -> bool:
            await tried("/errors")
            return "Input/output error" in Path(testbed.layout.log_path("c1")).read_text()

        await testbed.disk_errors("c1", share=0.5)  # some writes pass, and then their sync fails
        await until(has_felt_it, "c1 meets an error of its disk")
        await testbed.disk_errors("c1", share=0.0)
        await testbed.restart("c1")
        await testbed.disk_full("c2", True)
        assert shutil.disk_usage(testbed.layout.node_directory("c2")).free == 0
        await tried("/full")
        await testbed.disk_full("c2", False)
        await testbed.restart("c2")
        await works_again(client, "/after")
        assert await testbed.bit_rot("c1", bits=4) == 4
        for path in ("/before", "/after"):
            assert await client.read_bytes(path) == path.encode() * 1000


@pytest.mark.needs_tools("libfaketime")
async def test_clocks_that_jump_and_drift_lose_nothing(tmp_path: Path) -> None:
    async with cluster(tmp_path, "clock_jump", "clock_drift") as (testbed, client):
        await works_again(client, "/before")
        leader = await led(testbed)
        await testbed.clock_jump(leader, 600.0)
        await client.create("/by-another-clock")
        made_ms = (await client.stat("/by-another-clock")).created_ms
        assert made_ms - time.time() * 1000 > 500_000 or await testbed.leader() != leader
        other = next(node for node in testbed.masters if node != leader)
        await testbed.clock_drift(other, 0.9)
        with pytest.raises(CannotHere):
            await testbed.clock_jump(other, 5.0)
        await testbed.heal_all()
        await works_again(client, "/end")
        assert await client.read_bytes("/before") == b"/before" * 1000


async def test_what_was_not_asked_for_cannot_be_done_and_is_said_so(tmp_path: Path) -> None:
    with machine.taken() as run:
        testbed = KernelTestbed(run, str(tmp_path), SMALL, seed=5, wanted=frozenset())
        try:
            with pytest.raises(CannotHere, match="was not asked for"):
                await testbed.disk_full("c1", True)
            with pytest.raises(CannotHere, match="FIN"):
                await testbed.slow_close("c1", "c2", seconds=1)
        finally:
            await testbed.stop()
