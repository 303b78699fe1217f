"""Framed records through the SDK: appended by many, read each once, and followed (GFS §2.7.2, §3.3)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import gfs
from gfs.client.client import AsyncClient
from gfs.client.core.record_framing import FRAME_BYTES, PAYLOAD_BYTES_MAX, frame
from gfs.client.records import Record
from gfs.errors import InvalidArgument, IsADirectory, NotFound
from gfs.settings import INLINE_RECORD_BYTES_MAX
from gfs.vocabulary import CHUNK_BYTES, KIB, MIB
from tests.client.real_cluster import RealCluster


async def all_records(client: AsyncClient, path: str, *, offset: int = 0) -> list[Record]:
    return [record async for record in client.records(path, offset=offset)]


async def take(client: AsyncClient, path: str, count: int, found: list[bytes]) -> None:
    records = client.records(path, follow=True)
    async for record in records:
        found.append(record.payload)
        if len(found) == count:
            break
    await records.aclose()


async def test_records_are_read_at_the_offsets_their_appends_were_told(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.create("/log")
        # Inline and pushed, empty and of several blocks.
        lengths = (0, 1, 100, INLINE_RECORD_BYTES_MAX - FRAME_BYTES, INLINE_RECORD_BYTES_MAX, 300 * KIB)
        payloads = [bytes([number]) * length for number, length in enumerate(lengths)]
        offsets = [await client.record_append("/log", payload, framed=True) for payload in payloads]
        assert await all_records(client, "/log") == list(map(Record, offsets, payloads))
        assert await all_records(client, "/log", offset=offsets[2]) == list(
            map(Record, offsets[2:], payloads[2:])
        )
        assert await all_records(client, "/log", offset=offsets[2] + 1) == list(
            map(Record, offsets[3:], payloads[3:])
        )


async def test_padding_garbage_fragments_and_records_appended_again_are_passed_over(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.create("/log")
        again = frame(b"again", b"i" * 16)
        await client.record_append("/log", b"garbage that somebody appended by hand")
        await client.record_append("/log", again)
        await client.record_append("/log", frame(b"cut short", b"j" * 16)[:-1])
        await client.record_append("/log", again)
        # The end of the first chunk is near: the next record does not fit, and it is padded.
        await client.write("/log", CHUNK_BYTES - MIB, again)
        await client.record_append("/log", bytes(2 * MIB), framed=True)
        await client.record_append("/log", b"last", framed=True)
        found = await all_records(client, "/log")
        assert [record.payload for record in found] == [b"again", bytes(2 * MIB), b"last"]
        assert found[1].offset_bytes == CHUNK_BYTES


async def test_the_longest_record_is_a_quarter_of_a_chunk_and_longer_ones_are_refused(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.create("/log")
        longest = bytes(range(256)) * (PAYLOAD_BYTES_MAX // 256) + b"x" * (PAYLOAD_BYTES_MAX % 256)
        await client.record_append("/log", longest, framed=True)
        with pytest.raises(InvalidArgument, match="at most"):
            await client.record_append("/log", longest + b"x", framed=True)
        assert [record.payload for record in await all_records(client, "/log")] == [longest]


async def test_what_holds_no_records_says_so(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        with pytest.raises(NotFound):
            await all_records(client, "/missing")
        await client.mkdir("/directory")
        with pytest.raises(IsADirectory):
            await all_records(client, "/directory")
        with pytest.raises(InvalidArgument):
            client.records("/log", offset=-1)
        await client.create("/empty")
        assert await all_records(client, "/empty") == []


async def test_a_follower_sees_every_record_once_while_many_append_and_a_chunk_server_dies(
    tmp_path: Path,
) -> None:
    async with RealCluster(tmp_path, chunkservers=4) as cluster:
        async with await cluster.client() as one, await cluster.client() as other:
            await one.create("/log")
            await one.write("/log", CHUNK_BYTES - MIB, b"|")  # the chunk ends among the records
            found: list[bytes] = []
            expected = {b"%d-%d-" % (writer, n) + bytes(8 * KIB) for writer in range(16) for n in range(20)}
            following = asyncio.create_task(take(other, "/log", len(expected), found))

            async def append(writer: int) -> None:
                for n in range(20):
                    record = b"%d-%d-" % (writer, n) + bytes(8 * KIB)
                    await (one, other)[writer % 2].record_append("/log", record, framed=True)
                    acknowledged.append(record)
                    if len(acknowledged) == 60:
                        sixty.set()

            acknowledged: list[bytes] = []
            sixty = asyncio.Event()
            appending = [asyncio.create_task(append(writer)) for writer in range(16)]
            await sixty.wait()
            await cluster.stop_replica((await one.chunks("/log"))[-1].replicas[0])
            await asyncio.gather(*appending)
            await following
            assert len(found) == len(set(found)) and set(found) == expected
            assert {record.payload for record in await all_records(one, "/log")} == expected


async def test_a_follower_waits_for_a_file_to_grow_from_nothing_and_over_chunks(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.create("/log")
        found: list[bytes] = []
        following = asyncio.create_task(take(client, "/log", 3, found))
        for number in range(3):
            await client.record_append("/log", b"%d" % number, framed=True)
            while len(found) <= number:
                await asyncio.wait([following], timeout=0.01)
                if following.done():
                    break
            assert len(found) == number + 1
            await client.write("/log", (number + 1) * CHUNK_BYTES - 1, b"|")
        await following
        assert found == [b"0", b"1", b"2"]


async def test_a_file_that_lost_a_replica_and_has_no_spare_server_is_followed_on(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster:
        async with await cluster.client() as writer:
            await writer.create("/log")
            for number in range(10):
                await writer.record_append("/log", b"%d" % number, framed=True)
        async with await cluster.client() as client:
            await cluster.stop_replica((await client.chunks("/log"))[0].replicas[0])
            found: list[bytes] = []
            await take(client, "/log", 10, found)
            assert found == [b"%d" % number for number in range(10)]


async def test_the_sync_face_appends_and_follows(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster:

        def work() -> None:
            with gfs.connect(cluster.addresses) as client:
                client.create("/log")
                for number in range(3):
                    client.record_append("/log", b"%d" % number, framed=True)
                assert [record.payload for record in client.records("/log")] == [b"0", b"1", b"2"]
                following = client.records("/log", follow=True)
                assert [next(following).payload for _ in range(3)] == [b"0", b"1", b"2"]
                client.record_append("/log", b"more", framed=True)
                assert next(following).payload == b"more"

        await asyncio.to_thread(work)
