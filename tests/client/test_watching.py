"""Following what changes in the namespace: against real masters, some of which die."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import gfs
from gfs.client.watching import AsyncWatch
from gfs.errors import ChangesForgotten, InvalidArgument
from gfs.messages.changes import Change
from tests.client.real_cluster import RealCluster


async def until(watch: AsyncWatch, path: str, kind: str = "created") -> list[Change]:
    """What is told up to this change."""
    told: list[Change] = []
    async with asyncio.timeout(60):
        async for change in watch:
            told.append(change)
            if (change.path, change.kind) == (path, kind):
                break
    return told


def words(changes: list[Change]) -> list[str]:
    return [" ".join(filter(None, (change.kind, change.source, change.path))) for change in changes]


async def test_what_happens_below_a_path_is_told_and_nothing_else(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.mkdir("/before")
        watch = await client.watch("/w")
        await client.mkdir("/w")
        await client.mkdir("/other")
        await client.write_bytes("/w/f", b"12345")
        await client.snapshot("/w/f", "/w/copy")
        await client.rename("/w/f", "/other/f")
        await client.rename("/other/f", "/w/g")
        await client.delete("/w/g")
        await client.undelete("/w/g")
        await client.create("/w/end")
        told = await until(watch, "/w/end")
        assert [line for line in words(told) if not line.startswith(("extended", "written"))] == [
            "created /w",
            "created /w/f",
            "snapshot /w/copy",
            "renamed /w/f",
            "renamed /w/g",
            "deleted /w/g",
            "undeleted /w/g",
            "created /w/end",
        ]
        [written] = [change for change in told if change.kind == "written" and change.length_bytes == 5]
        assert written.path == "/w/g", "where the file is now"
        assert [change.index for change in told] == sorted(change.index for change in told)

        again = await until(await client.watch("/w", since=told[-2].index), "/w/end")
        assert words(again) == ["undeleted /w/g", "created /w/end"]


async def test_a_watch_goes_on_without_loss_when_the_leader_dies(tmp_path: Path) -> None:
    async with RealCluster(tmp_path, masters=3) as cluster, await cluster.client() as client:
        await client.mkdir("/w")
        watch = await client.watch("/w")
        following = asyncio.create_task(until(watch, "/w/end"))
        for n in range(20):
            await client.create(f"/w/{n}")
        await cluster.stop_master(await cluster.leader())
        for n in range(20, 40):
            await client.create(f"/w/{n}")
        await client.create("/w/end")
        told = await following
        created = [change.path for change in told]
        assert list(dict.fromkeys(created)) == [*(f"/w/{n}" for n in range(40)), "/w/end"]
        assert watch.position > told[0].index


async def test_a_master_that_was_restarted_hands_on_what_the_others_remember(tmp_path: Path) -> None:
    async with RealCluster(tmp_path, masters=3) as cluster, await cluster.client() as client:
        watch = await client.watch("/")
        began = watch.position
        await client.create("/a")
        leader = await cluster.leader()
        await cluster.stop_master(leader)
        await cluster.start_master(leader)
        await client.create("/b")
        assert words(await until(await client.watch("/", since=began), "/b")) == ["created /a", "created /b"]


async def test_an_index_that_nobody_remembers_is_refused_with_what_to_do(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster:
        async with await cluster.client() as client:
            began = (await client.watch("/")).position
            await client.create("/a")
        await cluster.stop_master("m1")
        await cluster.start_master("m1")
        async with await cluster.client() as client:
            with pytest.raises(ChangesForgotten) as caught:
                await anext(await client.watch("/", since=began))
            assert "list again" in caught.value.hint
            anew = await client.watch("/", since=int(caught.value.details["next"]))
            await client.create("/b")
            assert words(await until(anew, "/b"))[-1:] == ["created /b"]
            with pytest.raises(InvalidArgument, match="not come to"):
                await anext(await client.watch("/", since=10**9))


async def test_the_sync_face_follows_as_well_and_a_watch_of_nothing_waits(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster:

        def follow() -> list[str]:
            with gfs.connect(cluster.addresses) as fs:
                watch = fs.watch("/not/there/yet")
                fs.mkdir("/not/there/yet", parents=True)
                fs.create("/not/there/yet/f")
                return [next(watch).path, next(watch).path]

        assert await asyncio.to_thread(follow) == ["/not/there/yet", "/not/there/yet/f"]
