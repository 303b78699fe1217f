"""§5.1.3, shadow masters: read-only service from masters that may be a little behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfs import aio
from gfs.client.client import AsyncClient
from gfs.errors import NoQuorum
from gfs.messages.base import Consistency
from gfs.settings import ClientSettings
from tests.client.real_cluster import RealCluster
from tests.paper.boxes import keeps

CONTENT = b"file content is never stale" * 1000


async def connect(cluster: RealCluster, consistency: Consistency, *, only: str = "") -> AsyncClient:
    addresses = [cluster.settings.masters[only].control] if only else cluster.addresses
    settings = ClientSettings(retry_seconds=2.0)
    return await aio.connect(addresses, settings=settings, consistency=consistency)


@keeps("shadow-masters")
async def test_shadow_masters_serve_names_and_content_when_the_primary_master_is_down(tmp_path: Path) -> None:
    """Files can still be listed and read through the shadows although no master can take a change; what is
    asked of them is answered from the state they have, and a change is refused with the reason."""
    async with RealCluster(tmp_path, masters=3) as cluster, await cluster.client() as writer:
        await writer.mkdir("/d")
        await writer.write_bytes("/d/f", CONTENT)
        async with await connect(cluster, "session") as reader:
            reader._masters.applied_index = writer._masters.applied_index  # all masters have it from then on
            for name in cluster.masters:
                async with await connect(cluster, "session", only=name) as each:
                    each._masters.applied_index = writer._masters.applied_index
                    await each.stat("/d/f")
        leader = await cluster.leader()
        survivor = next(name for name in cluster.masters if name != leader)
        for name in [name for name in cluster.masters if name != survivor]:
            await cluster.stop_master(name)
        async with await connect(cluster, "stale") as shadow:
            assert [entry.path async for entry in shadow.list("/")] == ["/d"]
            assert await shadow.listdir("/d") == ["f"]
            assert [entry.path async for entry in shadow.glob("/d/*")] == ["/d/f"]
            assert (await shadow.stat("/d/f")).length_bytes == len(CONTENT)
            assert await shadow.exists("/d/f") and not await shadow.exists("/d/g")
            assert len(await shadow.chunks("/d/f")) == 1
            assert await shadow.read_bytes("/d/f") == CONTENT
            age = shadow.freshness
            assert age is not None and age.answered_by == survivor and age.lag_seconds >= 0
            said = r"1 of 3 masters reachable \(m\d\), waiting for m\d \(last heard"
            with pytest.raises(NoQuorum, match=said):
                await shadow.mkdir("/e")


@keeps("shadow-masters")
async def test_a_shadow_says_how_far_it_is_behind_and_that_is_a_fraction_of_a_second(tmp_path: Path) -> None:
    """Shadows lag the primary slightly, typically by fractions of a second."""
    async with RealCluster(tmp_path, masters=3, chunkservers=1) as cluster:
        leader = await cluster.leader()
        follower = next(name for name in cluster.masters if name != leader)
        async with await connect(cluster, "stale", only=follower) as shadow:
            await shadow.stat("/")
            age = shadow.freshness
            assert age is not None and age.answered_by == follower
            assert age.lag_entries == 0 and 0 <= age.lag_seconds < 1.0
        async with await connect(cluster, "stale", only=leader) as primary:
            await primary.stat("/")
            assert primary.freshness == (leader, 0, 0.0)


async def test_a_session_reads_its_own_writes_from_any_master(tmp_path: Path) -> None:
    """Past the paper: a client may read from shadows and still never goes back in time."""
    async with RealCluster(tmp_path, masters=3, chunkservers=1) as cluster:
        async with await connect(cluster, "session") as client:
            for number in range(30):
                await client.create(f"/{number}")
                assert await client.exists(f"/{number}")
                assert str(number) in await client.listdir("/")
            assert client.freshness is not None
