"""§2.1, assumptions: what files there are, and how they are read and written."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

from gfs.client.records import Record
from gfs.settings import ClientSettings
from gfs.vocabulary import CHUNK_BYTES, KIB, MIB
from tests.client.real_cluster import RealCluster
from tests.paper.boxes import keeps


@keeps("many-and-small-files")
async def test_files_of_every_size_come_back(tmp_path: Path) -> None:
    """Large files are what the system is for; small ones need not be fast, but must work."""
    chance = random.Random(21)
    sizes = [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1] + [chance.randrange(5000) for _ in range(60)]
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.mkdir("/small")
        contents = {f"/small/{number}": chance.randbytes(size) for number, size in enumerate(sizes)}
        contents["/large"] = chance.randbytes(MIB) * 65
        for path, content in contents.items():
            await client.write_bytes(path, content)
        assert len(await client.chunks("/large")) == 2
        for path, content in contents.items():
            assert await client.read_bytes(path) == content, path


@keeps("streams-and-small-reads")
async def test_streams_and_small_random_accesses_agree_with_a_local_file(tmp_path: Path) -> None:
    """Long sequential writes and reads; reads and writes of a few KB anywhere; appends at the end."""
    chance = random.Random(22)
    local = bytearray()
    async with RealCluster(tmp_path) as cluster:
        async with await cluster.client(ClientSettings(piece_bytes=512 * KIB)) as client:
            async with await client.open("/a", "wb") as file:
                for _ in range(6):
                    piece = chance.randbytes(MIB)
                    local += piece
                    await file.write(piece)
            for _ in range(40):
                at = chance.randrange(len(local))
                if chance.random() < 0.3:
                    small = chance.randbytes(chance.randrange(1, 5000))
                    await client.write("/a", at, small)
                    local[at : at + len(small)] = small
                elif chance.random() < 0.2:
                    record = chance.randbytes(chance.randrange(1, 5000))
                    assert await client.record_append("/a", record) == len(local)
                    local += record
                else:
                    length = chance.randrange(5000)
                    assert await client.read("/a", at, length) == local[at : at + length]
            async with await client.open("/a") as stream:
                found = bytearray()
                while piece := await stream.read(MIB):
                    found += piece
            assert found == local
    assert len(local) < CHUNK_BYTES


@keeps("hundreds-of-appenders")
async def test_two_hundred_append_to_a_queue_while_a_consumer_reads_it(tmp_path: Path) -> None:
    """Files often serve as queues; the consumer may read through the file while it is being written."""
    chance = random.Random(23)
    told: dict[bytes, int] = {}
    async with RealCluster(tmp_path) as cluster:
        clients = [await cluster.client() for _ in range(20)]
        await clients[0].create("/queue")

        async def produce(producer: int) -> None:
            for number in range(3):
                record = b"%d-%d:" % (producer, number) + chance.randbytes(chance.randrange(2000))
                told[record] = await clients[producer % 20].record_append("/queue", record, framed=True)

        async def consume() -> list[Record]:
            found: list[Record] = []
            async with contextlib.aclosing(clients[0].records("/queue", follow=True)) as records:
                async for record in records:
                    found.append(record)
                    if len(found) == 3 * 200:
                        break
            return found

        consumer = asyncio.create_task(consume())
        await asyncio.gather(*map(produce, range(200)))
        consumed = await consumer
        assert {record.payload: record.offset_bytes for record in consumed} == told
        assert len(told) == len(consumed)
        offsets = [record.offset_bytes for record in consumed]
        assert offsets == sorted(offsets), "a queue has one order"
        for client in clients:
            await client.close()
