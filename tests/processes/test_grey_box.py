"""What is on the disks of real programs after hard times: replicas equal to the last byte, files that outlive
any stop, padding, an ailing disk, and space that comes back (GFS §2.7.1, §3.3, §4.4, §5.1.1)."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gfs.client.client import AsyncClient
from gfs.messages.chunks import ChunkPlace
from gfs.vocabulary import CHUNK_BYTES, KIB, MIB
from tests.paper.boxes import keeps
from tests.processes.cluster import ProcessCluster, eventually

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]

QUICK = {"GFS__MASTER__REPAIR_DELAY_SECONDS": "0", "GFS__MASTER__CHUNKSERVER_DEAD_SECONDS": "1.5"}
RATHER_QUICK = {"GFS__MASTER__REPAIR_DELAY_SECONDS": "8"}  # not during a restart of everything


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ProcessCluster]:
    directory = tmp_path_factory.mktemp("grey-box")
    found = ProcessCluster(directory, masters=3, chunkservers=4)
    found.start(**RATHER_QUICK)
    yield found
    found.stop()
    shutil.rmtree(directory)  # gigabytes, which pytest would keep for three runs


@pytest_asyncio.fixture(loop_scope="module")
async def client(cluster: ProcessCluster) -> AsyncIterator[AsyncClient]:
    async with await cluster.connect() as made:
        await cluster.ready(made)
        yield made


async def on_disks(cluster: ProcessCluster, client: AsyncClient, path: str) -> bytes:
    """The bytes of a file, taken from the disks of all replicas in its sets, which must not differ.

    Waits until those that were lost on the way are made again, and compares them, too. Behind its committed
    bytes a replica may have what nobody was told of; that is left out.
    """
    await eventually(lambda: is_whole(client, path), f"every chunk of {path} has three replicas")
    found = bytearray()
    length = (await client.stat(path)).length_bytes
    for place in await client.chunks(path):
        start = place.index * CHUNK_BYTES
        end = place.length_bytes if place.sealed else min(CHUNK_BYTES, length - start)
        contents = replicas_of(cluster, place, end)
        assert len(contents) == 3, place
        assert len(set(contents.values())) == 1, f"replicas of {path} chunk {place.index} differ: {place}"
        found += bytes(start - len(found)) + next(iter(contents.values()))
    return bytes(found) + bytes(length - len(found))


async def is_whole(client: AsyncClient, path: str) -> bool | None:
    return all(len(place.replicas) == 3 for place in await client.chunks(path)) or None


def replicas_of(cluster: ProcessCluster, place: ChunkPlace, end: int) -> dict[str, bytes]:
    """By chunk server of the set: the first `end` bytes of its local file, which has so many."""
    files = cluster.replica_files(place.handle)
    contents = {}
    for name in (cluster.node_at(replica.control) for replica in place.replicas):
        with files[name].open("rb") as file:
            contents[name] = file.read(end)
        assert len(contents[name]) == end, (name, place)
    return contents


async def append_all(client: AsyncClient, path: str, writer: int, told: dict[bytes, int]) -> None:
    chance = random.Random(writer)
    for number in range(50):
        record = b"%d-%d:" % (writer, number) + chance.randbytes(chance.randrange(20_000))
        told[record] = await client.record_append(path, record, framed=True)


@keeps("fast-recovery", "defined-regions")
async def test_a_shutdown_in_the_middle_of_appends_costs_no_acknowledged_record(
    cluster: ProcessCluster, client: AsyncClient
) -> None:
    """Everything is killed at once while records are under way; after the start their writers just go on."""
    await client.create("/appends")
    told: dict[bytes, int] = {}
    writers = [asyncio.create_task(append_all(client, "/appends", n, told)) for n in range(6)]

    async def in_the_middle() -> bool | None:
        return len(told) > 60 or None

    await eventually(in_the_middle, "60 records are acknowledged")
    cluster.kill()
    before = dict(told)
    assert len(before) < 300
    cluster.start(**RATHER_QUICK)
    async with await cluster.connect() as other:
        await cluster.ready(other)
        early = {record.payload: record.offset_bytes async for record in other.records("/appends")}
        assert before.items() <= early.items()
        await asyncio.gather(*writers)
        records = [record async for record in other.records("/appends")]
        assert {record.payload: record.offset_bytes for record in records} == told
        assert len(records) == len(told) == 300
        content = await on_disks(cluster, other, "/appends")
        assert content == await other.read_bytes("/appends")


@keeps("record-append", "defined-regions")
async def test_records_that_would_cross_a_chunks_end_leave_the_same_padding_everywhere(
    cluster: ProcessCluster, client: AsyncClient
) -> None:
    """Several appenders meet the end of a chunk: what is left of it is zeros on all replicas, and each of
    their records is whole, in one chunk or in the next."""
    await client.create("/padded")
    chance = random.Random(3)
    start = CHUNK_BYTES - MIB
    await client.write("/padded", start - 1, b"|")
    records = [b"<" + chance.randbytes(300 * KIB + n) + b">" for n in range(8)]
    offsets = await asyncio.gather(*(client.record_append("/padded", record) for record in records))
    content = await on_disks(cluster, client, "/padded")
    ends = []
    for offset, record in zip(offsets, records, strict=True):
        assert content[offset : offset + len(record)] == record
        assert offset // CHUNK_BYTES == (offset + len(record) - 1) // CHUNK_BYTES
        ends.append(offset + len(record))
    assert sorted(offset // CHUNK_BYTES for offset in offsets) == [0] * 3 + [1] * 5
    padded_from = max(end for end in ends if end <= CHUNK_BYTES)
    assert content[padded_from:CHUNK_BYTES] == bytes(CHUNK_BYTES - padded_from)
    assert min(offset for offset in offsets if offset >= CHUNK_BYTES) == CHUNK_BYTES
    places = await client.chunks("/padded")
    for path in cluster.replica_files(places[0].handle).values():
        assert path.stat().st_size == CHUNK_BYTES


@keeps("record-append", "defined-regions")
@pytest.mark.parametrize("position", [0, 2], ids=["primary", "last of the chain"])
async def test_a_replica_that_dies_while_a_chunk_is_padded_costs_and_doubles_no_record(
    cluster: ProcessCluster, client: AsyncClient, position: int
) -> None:
    """Whether the chunk was padded or is sealed before its end: each record is where it was told, once, and
    the replicas that remain agree."""
    path = f"/dies-{position}"
    await client.create(path)
    await client.write(path, CHUNK_BYTES - 3 * MIB, b"|")
    victim = cluster.node_at((await client.chunks(path))[0].replicas[position].control)
    told: dict[bytes, int] = {}
    told_some = asyncio.Event()

    async def append(writer: int) -> None:
        chance = random.Random(writer)
        for number in range(5):
            record = b"%d-%d:" % (writer, number) + chance.randbytes(400 * KIB)
            told[record] = await client.record_append(path, record, framed=True)
            if len(told) == 5:
                told_some.set()

    async def kill() -> None:
        await told_some.wait()
        cluster.kill([victim])

    await asyncio.gather(kill(), *map(append, range(4)))
    cluster.start([victim])
    await cluster.ready(client)
    records = [record async for record in client.records(path)]
    assert {record.payload: record.offset_bytes for record in records} == told
    assert len(records) == len(told) == 20
    content = await on_disks(cluster, client, path)
    assert content == await client.read_bytes(path)


@keeps("defined-regions")
async def test_replicas_are_equal_to_the_last_byte_after_writers_lost_a_server(
    cluster: ProcessCluster, client: AsyncClient
) -> None:
    """Each of several writers has a region of one file and appends to another, while a chunk server dies."""
    region = 700 * KIB
    await client.write_bytes("/regions", bytes(4 * region))
    await client.create("/records")
    wanted = bytearray(4 * region)
    told: dict[bytes, int] = {}
    victim = cluster.node_at((await client.chunks("/regions"))[0].replicas[1].control)

    async def write(writer: int) -> None:
        chance = random.Random(writer)
        for number in range(25):
            if (writer, number) == (0, 10):
                cluster.kill([victim])
            at = writer * region + chance.randrange(region - 50_000)
            data = chance.randbytes(chance.randrange(1, 50_000))
            await client.write("/regions", at, data)
            wanted[at : at + len(data)] = data
            record = b"%d:" % writer + data
            told[record] = await client.record_append("/records", record)

    await asyncio.gather(*map(write, range(4)))
    cluster.start([victim])
    await cluster.ready(client)
    assert await on_disks(cluster, client, "/regions") == wanted
    content = await on_disks(cluster, client, "/records")
    for record, offset in told.items():
        assert content[offset : offset + len(record)] == record
    assert await client.read_bytes("/regions") == wanted


@keeps("fast-recovery")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_chunk_servers_and_masters_have_what_they_had_before_a_stop(
    cluster: ProcessCluster, client: AsyncClient, number: signal.Signals
) -> None:
    """Names, versions, places, checksums and bytes, all of them from the disks alone."""
    root = f"/persistent-{number.name}"
    await client.mkdir(root)
    contents = {f"{root}/{n}": os.urandom(70_000 * n + 1) for n in range(6)}
    for path, content in contents.items():
        await client.write_bytes(path, content)
    await client.write(f"{root}/3", 65_000, b"over the end of a block" * 50)
    await client.record_append(f"{root}/4", b"a record")
    contents = {path: await client.read_bytes(path) for path in contents}

    async def seen(by: AsyncClient) -> tuple[object, ...]:
        places = [place for path in contents for place in await by.chunks(path)]
        digest = await cluster.masters_agree()
        verified = [await by.verify_chunk(place) for place in places]
        assert not any(found.bad_blocks or found.differing or found.unread for found in verified)
        held = {(place.handle, place.version): {r.server for r in place.replicas} for place in places}
        assert all(len(servers) == 3 for servers in held.values())
        entries = [entry async for entry in by.list(root)]
        return held, entries, digest

    before = await seen(client)
    cluster.kill(number=number)
    files = [cluster.replica_files(handle) for handle, _ in before[0]]  # type: ignore[attr-defined]
    bytes_before = [{name: path.read_bytes() for name, path in one.items()} for one in files]
    cluster.start(**RATHER_QUICK)
    async with await cluster.connect() as other:
        await cluster.ready(other)

        async def all_back() -> bool | None:
            places = [place for path in contents for place in await other.chunks(path)]
            return all(len(place.replicas) == 3 for place in places) or None

        await eventually(all_back, "all replicas are reported again")
        after = await seen(other)
        assert after == before
        for one, held in zip(files, bytes_before, strict=True):
            assert {name: path.read_bytes() for name, path in one.items()} == held
        for path, content in contents.items():
            assert await other.read_bytes(path) == content


@keeps("failures-are-the-norm")
@pytest.mark.parametrize(
    ("failpoint", "ends"), [("chunk.before_sync=raise@2", True), ("chunk.before_write=raise@3", False)]
)
async def test_an_ailing_disk_leaves_service_and_its_data_is_made_again_elsewhere(
    tmp_path: Path, failpoint: str, ends: bool
) -> None:
    """A sync that fails ends the server: nothing it has in memory is sure any more. A write that fails is
    refused, and the writer goes on without that server. No acknowledged byte is lost either way."""
    ailing = ProcessCluster(tmp_path, masters=1, chunkservers=4)
    ailing.start(["m1", "c1", "c2", "c3"], **QUICK)
    ailing.start(["c4"], failpoint=failpoint)
    try:
        async with await ailing.connect() as client:
            await ailing.ready(client)
            control = ailing.layout.settings.chunkservers["c4"].control
            contents: dict[str, bytes] = {}
            while len(contents) < 12 or (ends and ailing.processes["c4"].poll() is None):
                path = f"/f{len(contents)}"
                contents[path] = os.urandom(100_000 + len(contents))
                await client.write_bytes(path, contents[path])
            if ends:
                assert await ailing.died("c4") == 7
            assert "failpoint" in ailing.log("c4") or not ends
            assert "Traceback" not in ailing.log("c4")

            async def is_made_again() -> bool | None:
                for path in contents:
                    (place,) = await client.chunks(path)
                    servers = {replica.control for replica in place.replicas}
                    if len(servers) != 3 or (ends and control in servers):
                        return None
                return True

            await eventually(is_made_again, "every chunk has three replicas")
            for path, content in contents.items():
                assert await on_disks(ailing, client, path) == content
            if ends:
                ailing.start(["c4"])  # with the disk mended
                await ailing.ready(client)
            for path, content in contents.items():
                assert await client.read_bytes(path) == content
    finally:
        ailing.stop()


CHUNKS = 11


def space_of(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0  # deleted in this moment


@keeps("garbage-collection", "snapshot")
async def test_a_big_file_lives_through_everything_and_leaves_all_its_space(
    cluster: ProcessCluster, client: AsyncClient
) -> None:
    """Written, read, partly written over under a snapshot, deleted and purged, chunk after chunk."""

    handles: set[int] = set()

    async def used() -> int:
        """Bytes that the chunks of the file, old ones and new ones, take on all disks."""
        if await client.exists("/big"):
            handles.update(place.handle for place in await client.chunks("/big"))
        files = (path for handle in handles for path in cluster.replica_files(handle).values())
        return sum(map(space_of, files))

    block = os.urandom(8 * MIB)
    length = CHUNKS * CHUNK_BYTES - 4 * MIB
    async with await client.open("/big", "xb", replication_goal=2) as file:
        for at in range(0, length, len(block)):
            await file.write(block[: length - at])
    assert len(await client.chunks("/big")) == CHUNKS
    assert await used() >= 2 * length
    await client.snapshot("/big", "/big as it was")
    over = os.urandom(3 * MIB)
    await client.write("/big", 5 * CHUNK_BYTES - MIB, over)  # of two chunks, which are copied now
    copied = 4 * CHUNK_BYTES
    assert 2 * length + copied <= await used() <= 2 * length + copied + 4 * MIB

    async def check(path: str, patched: bool) -> None:
        async with await client.open(path) as stream:
            for at in range(0, length, len(block)):
                wanted = bytearray(block[: length - at])
                if patched and at == 5 * CHUNK_BYTES - len(block):
                    wanted[-MIB:] = over[:MIB]
                if patched and at == 5 * CHUNK_BYTES:
                    wanted[: 2 * MIB] = over[MIB:]
                assert await stream.read(len(block)) == wanted, (path, at)
            assert await stream.read(1) == b""

    await check("/big", True)
    await check("/big as it was", False)
    for path in ("/big", "/big as it was"):
        await client.delete(path)
    assert await used() >= 2 * length + copied, "what is in the trash can be had back"
    assert await client.purge("/", everything=True) >= 2

    async def is_free() -> bool | None:
        return await used() == 0 or None

    await eventually(is_free, "the disks have their space back")
