"""§3.3, atomic record appends, and §2.7.2, the records that applications make of them."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from gfs.client.client import AsyncClient
from gfs.client.core.record_framing import frame
from gfs.errors import InvalidArgument
from gfs.messages.chunks import ChunkPlace
from gfs.settings import APPEND_BYTES_MAX
from gfs.vocabulary import CHUNK_BYTES, KIB, MIB
from tests.client.real_cluster import RealCluster
from tests.paper.boxes import keeps


async def chunks_of(client: AsyncClient, path: str, cluster: RealCluster) -> list[tuple[ChunkPlace, bytes]]:
    """Each chunk with its bytes, which all its replicas share."""
    found = []
    for chunk in await client.chunks(path):
        contents = {file.read_bytes() for file in cluster.replica_files(chunk.handle)}
        assert len(contents) == 1
        found.append((chunk, contents.pop()))
    return found


@keeps("record-append")
async def test_the_client_gives_only_the_data_and_is_told_the_offset(tmp_path: Path) -> None:
    """The record goes to an offset of the system's choice, alike on every replica."""
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.create("/log")
        chance = random.Random(1)
        records = [chance.randbytes(chance.randint(1, 200 * KIB)) for _ in range(40)]
        offsets = await asyncio.gather(*(client.record_append("/log", record) for record in records))
        ((_, content),) = await chunks_of(client, "/log", cluster)
        assert len(content) == sum(map(len, records))
        for offset, record in zip(offsets, records, strict=True):
            assert content[offset : offset + len(record)] == record


@keeps("record-append")
async def test_a_record_that_would_cross_the_chunks_end_goes_to_the_next_and_all_replicas_are_padded(
    tmp_path: Path,
) -> None:
    """Too little room: the primary pads the chunk, has the secondaries do so, and the client retries."""
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.create("/log")
        await client.write("/log", CHUNK_BYTES - MIB, b"|")
        assert await client.record_append("/log", b"x" * MIB) == CHUNK_BYTES
        (_, first), (_, second) = await chunks_of(client, "/log", cluster)
        assert first[-MIB:] == b"|" + bytes(MIB - 1) and len(first) == CHUNK_BYTES
        assert second == b"x" * MIB


@keeps("record-append")
async def test_a_record_is_at_most_a_quarter_of_a_chunk(tmp_path: Path) -> None:
    """The limit keeps what padding wastes within bounds."""
    assert APPEND_BYTES_MAX == CHUNK_BYTES // 4
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.create("/log")
        longest = random.Random(2).randbytes(APPEND_BYTES_MAX)
        with pytest.raises(InvalidArgument, match=str(APPEND_BYTES_MAX)):
            await client.record_append("/log", longest + b"x")
        assert [await client.record_append("/log", longest) for _ in range(5)] == [
            APPEND_BYTES_MAX * number for number in range(5)
        ]


@keeps("record-append")
async def test_many_append_without_a_lock_and_no_record_is_torn(tmp_path: Path) -> None:
    """Clients on many machines append to one file at once; each record is there as one run of bytes."""
    async with RealCluster(tmp_path) as cluster:
        clients = [await cluster.client() for _ in range(5)]
        await clients[0].create("/log")

        async def append(writer: int) -> None:
            for number in range(20):
                record = b"%03d-%03d." % (writer, number) * 100
                await clients[writer % 5].record_append("/log", record)

        await asyncio.gather(*(append(writer) for writer in range(20)))
        content = await clients[0].read_bytes("/log")
        records = [content[at : at + 800] for at in range(0, len(content), 800)]
        expected = {b"%03d-%03d." % (writer, number) * 100 for writer in range(20) for number in range(20)}
        assert len(records) == len(expected) and set(records) == expected
        for client in clients:
            await client.close()


@keeps("record-library")
async def test_a_reader_passes_over_padding_and_fragments_by_checksum_and_over_repeats_by_id(
    tmp_path: Path,
) -> None:
    """Writers make records that verify themselves; readers discard all else and know repeats by their ids."""
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.create("/log")
        again = frame(b"again", b"an id of 16 byte")
        for data in (again, again[:-2], b"garbage", again, bytes(1000)):
            await client.record_append("/log", data)
        await client.record_append("/log", b"last", framed=True)
        assert [record.payload async for record in client.records("/log")] == [b"again", b"last"]


@keeps("record-library")
async def test_a_file_appears_under_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    """A writer produces a file from beginning to end and renames it atomically when all is written."""
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        file = await client.open("/result", "xb", atomic=True)
        await file.write(bytes(MIB))
        assert not await client.exists("/result")
        await file.close()
        assert (await client.stat("/result")).length_bytes == MIB
