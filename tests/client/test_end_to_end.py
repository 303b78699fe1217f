"""The SDK against real masters and chunk servers: real sockets, disks, log and leases."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

import gfs
from gfs.client.mutator import Mutator
from gfs.errors import AlreadyExists, DirectoryNotEmpty, IsADirectory, NotFound
from gfs.settings import ClientSettings
from gfs.vocabulary import CHUNK_BYTES, KIB, MIB
from tests.client.real_cluster import RealCluster
from tests.client.test_writing import _bytes
from tests.paper.boxes import keeps


async def test_files_and_directories_live_through_all_verbs(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.mkdir("/a/b/c", parents=True)
        await client.mkdir("/a/b/c", parents=True)
        with pytest.raises(AlreadyExists):
            await client.mkdir("/a")
        data = _bytes(300 * KIB + 7)
        await client.write_bytes("/a/b/one", data)
        await client.write_bytes("/a/b/two", b"", atomic=True)
        assert await client.listdir("/a/b") == ["c", "one", "two"]
        assert [entry.path async for entry in client.glob("/a/**/o*")] == ["/a/b/one"]
        assert (await client.stat("/a/b/one")).length_bytes == len(data)
        assert await client.read_bytes("/a/b/one") == data
        assert await client.read_bytes("/a/b/two") == b""
        await client.rename("/a/b", "/z")
        assert await client.read("/z/one", 65_530, 20) == data[65_530:65_550]
        with pytest.raises(DirectoryNotEmpty):
            await client.delete("/z")
        with pytest.raises(IsADirectory):
            await client.read_bytes("/z")
        await client.delete("/z", recursive=True)
        with pytest.raises(NotFound):
            await client.read_bytes("/z/one")


async def test_a_local_file_goes_in_and_out_and_can_be_overwritten_over_a_chunk_boundary(
    tmp_path: Path,
) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        data = _bytes(9 * MIB + 5)
        (tmp_path / "in").write_bytes(data)
        await client.put_file(str(tmp_path / "in"), "/big")
        # What lies between is a hole of both chunks.
        await client.write("/big", CHUNK_BYTES - 10, b"x" * 20)
        assert [len(place.replicas) for place in await client.chunks("/big")] == [3, 3]
        assert (await client.stat("/big")).length_bytes == CHUNK_BYTES + 10
        await client.get_file("/big", str(tmp_path / "out"))
        wanted = data + bytes(CHUNK_BYTES - 10 - len(data)) + b"x" * 20
        assert _digest((tmp_path / "out").read_bytes()) == _digest(wanted)


@pytest.mark.parametrize("closed", ["before the bytes", "after the bytes"])
async def test_acknowledged_bytes_count_when_another_writer_closes_the_file_at_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        file = await client.open("/a", "wb")
        await file.write(b"0123456789")
        await file.flush()

        class Interrupted(Mutator):
            async def write(self, data: bytes | bytearray | memoryview) -> None:
                await file.close()
                await super().write(data)

        if closed == "before the bytes":
            monkeypatch.setattr("gfs.client.client.Mutator", Interrupted)
        await client.write("/a", 8, b"abcd")
        await file.close()
        assert (await client.stat("/a")).length_bytes == 12
        assert await client.read_bytes("/a") == b"01234567abcd"


async def test_a_closed_file_that_is_written_on_under_the_same_lease_has_its_new_length(
    tmp_path: Path,
) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.write_bytes("/a", b"0123456789")
        version = (await client.chunks("/a"))[0].version
        await client.write("/a", 8, b"abcd")
        assert (await client.chunks("/a"))[0].version == version
        assert (await client.stat("/a")).length_bytes == 12
        assert await client.read_bytes("/a") == b"01234567abcd"


async def test_a_chunk_server_lost_in_the_middle_of_a_write_costs_no_byte(tmp_path: Path) -> None:
    async with RealCluster(tmp_path, chunkservers=4) as cluster:
        async with await cluster.client(ClientSettings(piece_bytes=256 * KIB)) as client:
            data = _bytes(6 * MIB)
            async with await client.open("/a", "wb") as file:
                await file.write(data[: 2 * MIB])
                await file.flush()
                place = (await client.chunks("/a"))[0]
                rest = asyncio.create_task(file.write(data[2 * MIB :]))
                await cluster.stop_replica(place.replicas[0])
                await rest
            assert _digest(await client.read_bytes("/a")) == _digest(data)
            await cluster.stop_replica(place.replicas[1])
            assert _digest(await client.read_bytes("/a")) == _digest(data)


@keeps("master-replication")
async def test_a_write_goes_on_through_the_loss_of_the_leading_master(tmp_path: Path) -> None:
    async with RealCluster(tmp_path, masters=3) as cluster:
        async with await cluster.client(ClientSettings(piece_bytes=256 * KIB)) as client:
            data = _bytes(2 * MIB)
            async with await client.open("/a", "wb", atomic=True) as file:
                await file.write(data[:MIB])
                creating = [asyncio.create_task(client.create(f"/{n}")) for n in range(50)]
                await cluster.stop_master(await cluster.leader())
                await asyncio.gather(*creating)
                await file.write(data[MIB:])
            assert await client.read_bytes("/a") == data
            assert len(await client.listdir("/")) == 51


async def test_the_sync_face_works_on_the_same_cluster(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster:

        def work() -> None:
            with gfs.connect(cluster.addresses) as client:
                with client.open("/a", "xb") as file:
                    for n in range(1000):
                        file.write(b"%05d\n" % n)
                with client.open("/a") as stored:
                    assert [int(line) for line in stored] == list(range(1000))
                assert client.cluster_status().health == "ok"

        await asyncio.to_thread(work)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
