"""Record append through the SDK: what was acknowledged is in the file at the offset told (GFS §3.3)."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

import gfs
from gfs.client.client import AsyncClient
from gfs.errors import InvalidArgument, IsADirectory, NotFound
from gfs.settings import APPEND_BYTES_MAX, ClientSettings
from gfs.vocabulary import CHUNK_BYTES, KIB, MIB
from tests.client.real_cluster import RealCluster

Placed = dict[int, bytes]  # acknowledged records by their offsets


async def append_all(client: AsyncClient, path: str, records: list[bytes], placed: Placed) -> None:
    for record in records:
        offset = await client.record_append(path, record)
        assert offset not in placed
        placed[offset] = record


async def check_placed(client: AsyncClient, path: str, placed: Placed) -> None:
    """Each record is whole at its offset, none overlaps another, and the length covers them all."""
    content = await client.read_bytes(path)
    reached = 0
    for offset, record in sorted(placed.items()):
        assert reached <= offset
        reached = offset + len(record)
        assert content[offset:reached] == record, offset
    assert reached <= len(content) == (await client.stat(path)).length_bytes


def records_of(writer: int, *, count: int, bytes_max: int) -> list[bytes]:
    chance = random.Random(writer)
    return [chance.randbytes(chance.randint(1, bytes_max)) for _ in range(count)]


async def test_appenders_of_several_clients_lose_no_record_when_a_chunk_server_dies(tmp_path: Path) -> None:
    async with RealCluster(tmp_path, chunkservers=4) as cluster:
        async with await cluster.client() as one, await cluster.client() as other:
            # The end of the first chunk lies in the middle of what is appended.
            await one.create("/log")
            await one.write("/log", CHUNK_BYTES - 8 * MIB - 1, b"|")
            placed: Placed = {}
            appending = [
                asyncio.create_task(
                    append_all(
                        (one, other)[writer % 2],
                        "/log",
                        records_of(writer, count=30, bytes_max=128 * KIB),
                        placed,
                    )
                )
                for writer in range(8)
            ]
            while len(placed) < 60:
                await asyncio.wait(appending, timeout=0.01)
            await cluster.stop_replica((await one.chunks("/log"))[-1].replicas[0])
            await asyncio.gather(*appending)
            assert len(placed) == 240
            assert {offset // CHUNK_BYTES for offset in placed} == {0, 1}
            await check_placed(one, "/log", placed)


async def test_the_first_record_makes_the_first_chunk(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.create("/log")
        assert await client.record_append("/log", b"one") == 0
        assert await client.record_append("/log", bytearray(b"two")) == 3
        assert await client.read_bytes("/log") == b"onetwo"


async def test_a_record_that_does_not_fit_goes_whole_to_the_next_chunk(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.create("/log")
        await client.write("/log", CHUNK_BYTES - MIB - 1, b"|")
        large = random.Random(1).randbytes(APPEND_BYTES_MAX)
        assert await client.record_append("/log", large) == CHUNK_BYTES
        assert await client.record_append("/log", b"behind") == CHUNK_BYTES + len(large)
        assert await client.read("/log", CHUNK_BYTES - MIB - 1) == b"|" + bytes(MIB) + large + b"behind"


async def test_records_go_behind_what_a_closed_file_holds_and_count_when_another_writer_closes_it(
    tmp_path: Path,
) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        async with await client.open("/log", "wb") as file:
            await file.write(b"written")
            await file.flush()
            assert await client.record_append("/log", b"appended") == 7
        assert (await client.stat("/log")).length_bytes == 15
        assert await client.record_append("/log", b"more") == 15
        assert await client.read_bytes("/log") == b"writtenappendedmore"


async def test_what_cannot_be_appended_to_says_so(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        with pytest.raises(NotFound):
            await client.record_append("/missing", b"x")
        await client.mkdir("/directory")
        with pytest.raises(IsADirectory):
            await client.record_append("/directory", b"x")
        await client.create("/log")
        for record in (b"", bytes(APPEND_BYTES_MAX + 1)):
            with pytest.raises(InvalidArgument):
                await client.record_append("/log", record)
        await client.record_append("/log", b"old")
        await client.create("/log", replace=True)
        assert await client.record_append("/log", b"new") == 0


async def test_an_append_goes_on_through_the_loss_of_the_leading_master(tmp_path: Path) -> None:
    async with RealCluster(tmp_path, masters=3) as cluster:
        async with await cluster.client(ClientSettings(call_seconds=1.0)) as client:
            await client.create("/log")
            placed: Placed = {}
            appending = asyncio.create_task(
                append_all(client, "/log", records_of(1, count=60, bytes_max=1000), placed)
            )
            while len(placed) < 10:
                await asyncio.wait([appending], timeout=0.01)
            await cluster.stop_master(await cluster.leader())
            await appending
            await check_placed(client, "/log", placed)


async def test_the_sync_face_appends_too(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster:

        def work() -> None:
            with gfs.connect(cluster.addresses) as client:
                client.create("/log")
                assert [client.record_append("/log", b"%d;" % n) for n in range(5)] == [0, 2, 4, 6, 8]
                assert client.read_bytes("/log") == b"0;1;2;3;4;"

        await asyncio.to_thread(work)


async def test_a_file_with_appended_records_is_continued_behind_the_last_and_appended_to_again(
    tmp_path: Path,
) -> None:
    async with RealCluster(tmp_path, chunkservers=3) as cluster, await cluster.client() as client:
        await client.create("/log")
        await client.record_append("/log", b"record")
        async with await client.open("/log", "ab") as file:
            assert file.tell() == 6
            await file.write(b" and bytes")
        assert await client.record_append("/log", b", and a record") == 16
        assert await client.read_bytes("/log") == b"record and bytes, and a record"
