"""Snapshots through the SDK, on real masters and chunk servers: the bytes of both sides (§3.4, I10)."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from gfs.client.client import AsyncClient
from gfs.errors import AlreadyExists, GfsError, InvalidArgument, NotFound
from gfs.settings import ClientSettings
from gfs.vocabulary import CHUNK_BYTES, KIB
from tests.client.real_cluster import RealCluster

SETTINGS = ClientSettings(piece_bytes=64 * KIB)


async def test_a_snapshot_keeps_its_bytes_whatever_is_done_to_the_original(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(300 * KIB + 7)
    async with RealCluster(tmp_path) as cluster, await cluster.client(SETTINGS) as client:
        await client.mkdir("/d/e", parents=True)
        await client.write_bytes("/d/e/a", data)
        await client.create("/d/records")
        offsets = [await client.record_append("/d/records", b"record %d" % number) for number in range(3)]
        await client.snapshot("/d", "/save")
        before = {path: await client.read_bytes(f"/save/{path}") for path in ("e/a", "records")}
        assert before["e/a"] == data

        await client.write("/d/e/a", 1000, b"overwritten")
        offsets.append(await client.record_append("/d/records", b"record 3"))
        assert len(set(offsets)) == 4
        await client.write("/save/e/a", 0, b"the copy can be written, too")
        assert await client.read_bytes("/d/e/a") == data[:1000] + b"overwritten" + data[1011:]
        assert await client.read_bytes("/save/records") == before["records"]
        assert (await client.read("/d/records", offsets[3], 8)) == b"record 3"
        copied = await client.read_bytes("/save/e/a")
        assert copied == b"the copy can be written, too" + data[28:]
        await client.delete("/d", recursive=True)
        assert await client.read_bytes("/save/e/a") == copied


async def test_a_writer_with_an_open_file_goes_on_through_a_snapshot(tmp_path: Path) -> None:
    data = random.Random(2).randbytes(2 * 2**20)
    async with RealCluster(tmp_path) as cluster, await cluster.client(SETTINGS) as client:
        async with await client.open("/f", "wb") as file:
            await file.write(data[: 2**20])
            await file.flush()
            await client.snapshot("/f", "/copy")
            await file.write(data[2**20 :])
        assert await client.read_bytes("/f") == data
        assert await client.read_bytes("/copy") == data[: 2**20]
        handles = [(await client.chunks(path))[0].handle for path in ("/f", "/copy")]
        assert handles[0] != handles[1]


async def test_chunks_are_shared_until_one_is_written(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client(SETTINGS) as client:
        await client.write_bytes("/f", b"first")
        await client.write("/f", CHUNK_BYTES + 5, b"second")
        await client.snapshot("/f", "/a")
        await client.snapshot("/a", "/b")
        assert len({tuple(p.handle for p in await client.chunks(path)) for path in ("/f", "/a", "/b")}) == 1
        await client.write("/a", CHUNK_BYTES, b"other")
        assert [p.handle for p in await client.chunks("/f")] == [p.handle for p in await client.chunks("/b")]
        ours, theirs = await client.chunks("/a"), await client.chunks("/f")
        assert ours[0].handle == theirs[0].handle and ours[1].handle != theirs[1].handle
        # Copied where it was, not sent over the network.
        assert {replica.server for replica in ours[1].replicas} == {r.server for r in theirs[1].replicas}
        assert await client.read("/a", CHUNK_BYTES, 20) == b"othersecond"
        assert await client.read("/b", CHUNK_BYTES, 20) == bytes(5) + b"second"


async def test_bad_snapshots_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    async with RealCluster(tmp_path, masters=1) as cluster, await cluster.client(SETTINGS) as client:
        await client.mkdir("/d")
        await client.write_bytes("/f", b"x")
        for source, target, kind in (
            ("/d", "/d/in/itself", InvalidArgument),
            ("/d", "/f", AlreadyExists),
            ("/none", "/x", NotFound),
            ("/d", "/none/x", NotFound),
        ):
            with pytest.raises(kind):
                await client.snapshot(source, target)
        assert await client.listdir("/") == ["d", "f"]


async def test_a_snapshot_under_writers_is_one_point_of_all_that_they_did(tmp_path: Path) -> None:
    """Each writer appends its numbers in order, to two files by turns, the next only once the last is kept.

    So a snapshot must hold of each writer a run without gaps: a number that is there, and one before it that
    is not, would be two points of time. What was acknowledged before the call is there; what began after the
    return is not.
    """
    async with RealCluster(tmp_path) as cluster, await cluster.client(SETTINGS) as client:
        await client.mkdir("/d")
        for number in range(4):
            await client.create(f"/d/{number}")
        kept = [0, 0]
        begun = [0, 0]
        stop = asyncio.Event()
        moved = asyncio.Condition()

        async def writer(me: int) -> None:
            while not stop.is_set():
                begun[me] += 1
                path = f"/d/{2 * me + begun[me] % 2}"
                await client.record_append(path, b"%d:%08d;" % (me, begun[me]))
                async with moved:
                    kept[me] = begun[me]
                    moved.notify_all()

        writers = [asyncio.create_task(writer(me)) for me in (0, 1)]
        for number in range(4):
            wanted = 5 * (number + 1)
            async with moved:
                await moved.wait_for(lambda wanted=wanted: min(kept) >= wanted)  # type: ignore[misc]
            before = list(kept)
            await client.snapshot("/d", f"/save{number}")
            after = list(begun)
            found = await _numbers(client, f"/save{number}")
            for me in (0, 1):
                assert found[me] == set(range(1, len(found[me]) + 1)), (me, found[me])
                assert before[me] <= len(found[me]) <= after[me], (before, len(found[me]), after)
            await client.snapshot(f"/save{number}", f"/again{number}")
        stop.set()
        await asyncio.gather(*writers)
        for number in range(4):
            assert await _numbers(client, f"/save{number}") == await _numbers(client, f"/again{number}")
        found = await _numbers(client, "/d")
        assert [len(numbers) for numbers in found] == kept


async def _numbers(client: AsyncClient, directory: str) -> list[set[int]]:
    found: list[set[int]] = [set(), set()]
    for number in range(4):
        content = (await client.read_bytes(f"{directory}/{number}")).replace(b"\0", b"")
        for record in content.split(b";")[:-1]:
            me, value = record.split(b":")
            found[int(me)].add(int(value))
    return found


async def test_a_snapshot_is_answered_although_the_leader_goes_away(tmp_path: Path) -> None:
    async with RealCluster(tmp_path, masters=3) as cluster, await cluster.client(SETTINGS) as client:
        await client.mkdir("/d")
        for number in range(30):
            await client.create(f"/d/{number}")
        await client.write_bytes("/d/data", b"data")
        taking = asyncio.create_task(client.snapshot("/d", "/save"))
        await cluster.stop_master(await cluster.leader())
        try:
            await taking
        except GfsError as error:
            raise AssertionError(error.message) from error
        assert len(await client.listdir("/save")) == 31
        assert await client.read_bytes("/save/data") == b"data"
        await client.write("/d/data", 0, b"DATA")
        assert await client.read_bytes("/save/data") == b"data"
