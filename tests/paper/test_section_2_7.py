"""§2.7, the consistency model: what Table 1 says of a file region after a mutation, cell by cell."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from gfs.client.client import AsyncClient
from gfs.errors import AlreadyExists, DataUnavailable, GfsError, NotFound
from gfs.settings import ClientSettings
from gfs.vocabulary import CHUNK_BYTES, KIB, MIB
from tests.client.real_cluster import RealCluster
from tests.paper.boxes import keeps

PIECE_BYTES = 256 * KIB


async def replica_contents(cluster: RealCluster, client: AsyncClient, path: str) -> list[list[bytes]]:
    """For each chunk of the file what each replica of its current set holds."""
    return [
        [file.read_bytes() for file in cluster.replica_files(place.handle)]
        for place in await client.chunks(path)
    ]


async def read_every_replica(cluster: RealCluster, client: AsyncClient, path: str) -> set[bytes]:
    """The file as each of its replicas has it; all of its chunks must have as many."""
    chunks = await replica_contents(cluster, client, path)
    return {b"".join(copies) for copies in zip(*chunks, strict=True)}


@keeps("defined-regions")
async def test_serial_writes_leave_a_region_defined(tmp_path: Path) -> None:
    """After successful writes one after another a region is the same on all replicas, and shows the last
    write in full."""
    chance = random.Random(271)
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        model = bytearray(chance.randbytes(3 * MIB))
        await client.write_bytes("/f", model)
        for _ in range(20):
            offset, length = chance.randrange(2 * MIB), chance.randrange(1, 700_000)
            data = chance.randbytes(length)
            await client.write("/f", offset, data)
            model[offset : offset + length] = data
        assert await read_every_replica(cluster, client, "/f") == {bytes(model)}
        assert await client.read_bytes("/f") == model


@keeps("defined-regions")
async def test_concurrent_writes_leave_a_region_consistent_if_undefined(tmp_path: Path) -> None:
    """After successful concurrent writes all replicas hold the same bytes, which may be a mixture of
    fragments that no one writer wrote."""
    async with RealCluster(tmp_path) as cluster:
        clients = [await cluster.client(ClientSettings(piece_bytes=PIECE_BYTES)) for _ in range(4)]
        await clients[0].create("/f")
        letters = [bytes([ord("a") + number]) for number in range(len(clients))]
        await asyncio.gather(
            *(
                client.write("/f", 0, letter * 3 * MIB)
                for client, letter in zip(clients, letters, strict=True)
            )
        )
        (content,) = await read_every_replica(cluster, clients[0], "/f")
        assert len(content) == 3 * MIB
        for at in range(0, len(content), PIECE_BYTES):  # a fragment is whole
            assert content[at : at + PIECE_BYTES] in [letter * PIECE_BYTES for letter in letters]
        for client in clients:
            await client.close()


async def test_a_failed_write_is_never_acknowledged_and_spares_what_was(tmp_path: Path) -> None:
    """A failed mutation leaves its region inconsistent. The writer is told so; what was acknowledged before
    stays, on every replica, and the next write that succeeds makes the region defined again."""
    hasty = ClientSettings(piece_bytes=PIECE_BYTES, retry_seconds=2.0, call_seconds=1.0)
    async with RealCluster(tmp_path) as cluster, await cluster.client(hasty) as client:
        first, second = random.Random(1).randbytes(MIB), random.Random(2).randbytes(MIB)
        writer = await client.open("/f", "wb")
        await writer.write(first)
        await writer.flush()  # acknowledged
        place = (await client.chunks("/f"))[0]
        # A replica is lost and no master can leave it out: the write cannot reach every replica.
        await cluster.stop_replica(place.replicas[-1])
        await cluster.stop_master("m1")
        with pytest.raises(GfsError) as failed:
            await writer.write(second)
            await writer.flush()
        assert failed.value.exit_status != 0
        for file in cluster.replica_files(place.handle):
            assert file.read_bytes()[: len(first)] == first
        with pytest.raises(GfsError):  # and closing it says so once more
            await writer.close()
        await cluster.start_master("m1")
        async with await cluster.client() as later:
            await later.write("/f", len(first), second)
            assert await later.read_bytes("/f") == first + second
            alive = {replica.server for replica in (await later.chunks("/f"))[0].replicas}
            assert len(alive) == 2
        held = [file.read_bytes() for file in cluster.replica_files(place.handle)]
        assert held.count(first + second) == 2, "defined on each replica of the new set"


@keeps("defined-regions")
async def test_records_are_defined_wherever_they_are_acknowledged(tmp_path: Path) -> None:
    """Record append leaves each record defined at the offset it returns, on every replica; what lies between
    records (padding at the end of a chunk) is not part of any."""
    async with RealCluster(tmp_path) as cluster:
        clients = [await cluster.client() for _ in range(3)]
        await clients[0].create("/log")
        await clients[0].write("/log", CHUNK_BYTES - 2 * MIB, b"|")
        placed: dict[int, bytes] = {}

        async def append(client: AsyncClient, seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(25):
                record = chance.randbytes(chance.randint(1, 100 * KIB))
                placed[await client.record_append("/log", record)] = record

        await asyncio.gather(*(append(client, seed) for seed, client in enumerate(clients)))
        assert len(placed) == 75 and {offset // CHUNK_BYTES for offset in placed} == {0, 1}
        chunks = await replica_contents(cluster, clients[0], "/log")
        for offset, record in placed.items():
            index, start = divmod(offset, CHUNK_BYTES)
            assert len(chunks[index]) == 3
            for copy in chunks[index]:
                assert copy[start : start + len(record)] == record
        for client in clients:
            await client.close()


async def test_a_failed_append_is_not_acknowledged_and_hides_no_record_that_was(tmp_path: Path) -> None:
    """An append that fails leaves its region inconsistent; records acknowledged before and after it are
    defined all the same."""
    hasty = ClientSettings(retry_seconds=1.0, call_seconds=0.5)
    async with RealCluster(tmp_path) as cluster, await cluster.client(hasty) as client:
        await client.create("/log")
        before = await client.record_append("/log", b"before" * 100)
        place = (await client.chunks("/log"))[0]
        await cluster.stop_replica(place.replicas[-1])
        await cluster.stop_master("m1")
        with pytest.raises(GfsError):
            await client.record_append("/log", b"failed" * 100)
        await cluster.start_master("m1")
        async with await cluster.client() as later:
            after = await later.record_append("/log", b"after!" * 100)
            assert await later.read("/log", before, 600) == b"before" * 100
            assert await later.read("/log", after, 600) == b"after!" * 100
            assert after >= before + 600


@keeps("stale-read-window")
async def test_a_reader_sees_a_premature_end_until_its_cache_ends_or_it_opens_again(tmp_path: Path) -> None:
    """Cached metadata lets a client miss what was added lately, for as long as the cache lasts; with files
    that only grow that shows as an early end of the file, never as other bytes."""
    patient = ClientSettings(metadata_cache_seconds=60.0)
    quick = ClientSettings(metadata_cache_seconds=0.1)
    async with (
        RealCluster(tmp_path) as cluster,
        await cluster.client(patient) as old,
        await cluster.client(quick) as young,
        await cluster.client() as writer,
    ):
        first, second = b"1" * CHUNK_BYTES, b"2" * (CHUNK_BYTES + MIB)
        end = 2 * CHUNK_BYTES  # of the chunk that may have been made ready for the first writer
        await writer.write_bytes("/f", first)
        async with await old.open("/f") as cached, await young.open("/f") as expiring:
            for reader in (cached, expiring):
                assert await reader.pread(CHUNK_BYTES - 10, 20) == b"1" * 10
            await writer.write("/f", CHUNK_BYTES, second)
            assert await cached.pread(end, 20) == b"", "early, and not wrong"
            async with asyncio.timeout(20):
                while (found := await expiring.pread(end, 20)) != b"2" * 20:
                    assert found == b""
        async with await old.open("/f") as again:
            assert await again.pread(end, 20) == b"2" * 20


async def test_an_open_file_may_show_what_its_snapshot_holds_until_its_cache_ends_or_it_is_opened_again(
    tmp_path: Path,
) -> None:
    """Where chunks are is cached: once a file's chunk has been copied apart from its snapshot's (§3.4), an
    open file may be read from the latter for as long as the cache lasts; never from anything else."""
    quick = ClientSettings(metadata_cache_seconds=0.1)
    async with (
        RealCluster(tmp_path) as cluster,
        await cluster.client(ClientSettings(metadata_cache_seconds=60.0)) as old,
        await cluster.client(quick) as young,
        await cluster.client() as writer,
    ):
        await writer.write_bytes("/f", b"before")
        async with await old.open("/f") as cached, await young.open("/f") as expiring:
            for reader in (cached, expiring):
                assert await reader.pread(0, 20) == b"before"
            await writer.snapshot("/f", "/copy")
            await writer.write("/f", 0, b"behind")
            assert await cached.pread(0, 20) in (b"before", b"behind")
            async with asyncio.timeout(20):
                while (found := await expiring.pread(0, 20)) != b"behind":
                    assert found == b"before"
            assert await old.read_bytes("/f") == b"behind"
            assert await old.read_bytes("/copy") == b"before"


@keeps("unavailable-never-corrupt")
async def test_a_chunk_without_its_replicas_is_unavailable_and_says_which(tmp_path: Path) -> None:
    """When all replicas of a chunk are gone readers get a clear error and no byte of something else."""
    hasty = ClientSettings(retry_seconds=1.0)
    async with RealCluster(tmp_path) as cluster, await cluster.client(hasty) as client:
        await client.create("/f", replication_goal=1)
        await client.write("/f", 0, b"only copy")
        (place,) = await client.chunks("/f")
        await cluster.stop_replica(place.replicas[0])
        with pytest.raises(DataUnavailable) as lost:
            await client.read_bytes("/f")
        for named in ("/f", f"{place.handle:x}", str(place.replicas[0].server)):
            assert named in lost.value.message


@keeps("namespace-atomic")
async def test_of_many_who_create_one_name_one_succeeds_and_all_see_one_order(tmp_path: Path) -> None:
    """Namespace changes are atomic, and every client sees them in the one order of the log."""
    async with RealCluster(tmp_path, chunkservers=1) as cluster:
        clients = [await cluster.client() for _ in range(4)]
        made = await asyncio.gather(
            *(client.create("/one") for client in clients for _ in range(8)), return_exceptions=True
        )
        assert sum(outcome is None for outcome in made) == 1
        assert all(outcome is None or isinstance(outcome, AlreadyExists) for outcome in made)
        moved = await asyncio.gather(
            *(client.rename("/one", f"/to-{number}") for number, client in enumerate(clients)),
            return_exceptions=True,
        )
        (winner,) = [number for number, outcome in enumerate(moved) if outcome is None]
        assert all(outcome is None or isinstance(outcome, NotFound) for outcome in moved)
        for client in clients:
            assert await client.listdir("/") == [f"to-{winner}"]
            await client.close()
