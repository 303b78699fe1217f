"""Damage on the disks of a real cluster in this process: never returned, out of the set, mended."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

import gfs
from gfs.client.client import AsyncClient
from gfs.errors import DataUnavailable
from gfs.messages.check import CheckFilesReply
from gfs.messages.chunks import ChunkPlace
from gfs.settings import ClientSettings
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, KIB, MIB, ServerId
from tests.client.real_cluster import RealCluster
from tests.client.test_writing import _bytes
from tests.paper.boxes import keeps
from tests.waiting import until

BLOCK = CHECKSUM_BLOCK_BYTES
IMPATIENT = ClientSettings(retry_seconds=3.0)


def node_of(cluster: RealCluster, place: ChunkPlace, server: ServerId) -> str:
    control = next(replica.control for replica in place.replicas if replica.server == server)
    return next(name for name, node in cluster.settings.chunkservers.items() if node.control == control)


def file_of(directory: Path, cluster: RealCluster, place: ChunkPlace, server: ServerId) -> Path:
    (found,) = (directory / node_of(cluster, place, server)).rglob(f"{place.handle:016x}.*")
    return found


def rot(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


async def check(client: AsyncClient, path: str = "/") -> CheckFilesReply:
    (page,) = [page async for page in client.check(path)]
    return page


async def members(client: AsyncClient, path: str) -> set[ServerId]:
    (place,) = await client.chunks(path)
    return {replica.server for replica in place.replicas} | set(place.missing)


@keeps("checksums")
@pytest.mark.parametrize("harm", ["flipped bit", "cut short", "deleted"])
async def test_damage_met_by_a_read_is_never_returned_and_costs_the_replica_its_place(
    tmp_path: Path, harm: str
) -> None:
    """§5.2: at a mismatch the requester is refused and reads elsewhere; the replica is replaced."""
    async with RealCluster(tmp_path, chunkservers=4) as cluster, await cluster.client() as client:
        data = _bytes(5 * BLOCK + 99)
        await client.write_bytes("/f", data)
        (place,) = await client.chunks("/f")
        bad = place.replicas[1].server
        path = file_of(tmp_path, cluster, place, bad)
        if harm == "flipped bit":
            rot(path, 3 * BLOCK + 1)
        elif harm == "cut short":
            with path.open("r+b") as file:
                file.truncate(2 * BLOCK)
        else:
            path.unlink()
        await client.verify_chunk(place)
        await until(lambda: _is_out(client, bad), "it leaves the set")
        for offset in range(0, len(data), BLOCK):
            assert await client.read("/f", offset, BLOCK) == data[offset : offset + BLOCK]
        assert await client.read_bytes("/f") == data
        await until(lambda: _is_whole(client, "/f", replicas=3), "it is replaced")
        assert await client.read_bytes("/f") == data


async def _is_out(client: AsyncClient, server: ServerId) -> bool:
    return server not in await members(client, "/f")


async def test_a_read_that_meets_the_damage_starts_the_same(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        data = _bytes(3 * BLOCK)
        await client.write_bytes("/f", data)
        (place,) = await client.chunks("/f")
        for replica in place.replicas[:2]:
            rot(file_of(tmp_path, cluster, place, replica.server), BLOCK + 7)
        for _ in range(12):  # whichever replica is asked
            assert await client.read_bytes("/f") == data
        assert await client.read_bytes("/f") == data
        await until(lambda: _is_whole(client, "/f", replicas=3), "all is whole again")
        assert await client.read_bytes("/f") == data


async def _is_whole(client: AsyncClient, path: str, *, replicas: int) -> bool:
    """Every replica has been read and verified, and there are as many as there should be."""
    (place,) = await client.chunks(path)
    found = await client.verify_chunk(place)
    is_clean = not found.bad_blocks and not found.unread and not found.differing
    return is_clean and len(place.replicas) == replicas and not place.missing


async def test_the_last_replica_stays_and_its_good_blocks_can_be_read(tmp_path: Path) -> None:
    async with RealCluster(tmp_path, chunkservers=1) as cluster, await cluster.client(IMPATIENT) as client:
        data = _bytes(4 * BLOCK)
        await client.write_bytes("/only", data)
        (place,) = await client.chunks("/only")
        (replica,) = place.replicas
        rot(file_of(tmp_path, cluster, place, replica.server), 2 * BLOCK + 5)
        with pytest.raises(DataUnavailable) as caught:
            await client.read_bytes("/only")
        assert "/only" in caught.value.message and replica.server in caught.value.message
        assert f"{place.handle:x}" in caught.value.message

        async def is_lost() -> bool:
            return (await check(client)).counts["lost"] == 1

        await until(is_lost, "the master knows")
        assert await client.read("/only", 0, 2 * BLOCK) == data[: 2 * BLOCK]
        assert await client.read("/only", 3 * BLOCK, BLOCK) == data[3 * BLOCK :]
        with pytest.raises(DataUnavailable):
            await client.read("/only", 2 * BLOCK, 10)


async def test_replicas_damaged_in_different_blocks_are_made_whole_from_each_other(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client(IMPATIENT) as client:
        data = _bytes(6 * BLOCK + 17)
        await client.write_bytes("/f", data)
        (place,) = await client.chunks("/f")
        for number, replica in enumerate(place.replicas):
            path = file_of(tmp_path, cluster, place, replica.server)
            rot(path, number * BLOCK + 3)
            rot(path, (number + 3) * BLOCK + 3)
        found = await client.verify_chunk(place)
        assert sorted(found.bad_blocks.values()) == [[0, 3], [1, 4], [2, 5]]

        async def reads() -> bool:
            try:
                return await client.read_bytes("/f") == data
            except DataUnavailable:
                return False

        await until(reads, "it is whole again somewhere")


async def test_a_deep_check_finds_what_no_read_has_met_and_a_plain_one_what_the_leader_knows(
    tmp_path: Path,
) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.mkdir("/d")
        for number in range(5):
            await client.write_bytes(f"/d/{number}", _bytes(BLOCK + number))
        await client.create("/d/empty")
        page = await check(client, "/d")
        assert (page.files, page.counts["ok"], page.at_risk) == (6, 5, [])
        (place,) = await client.chunks("/d/3")
        rot(file_of(tmp_path, cluster, place, place.replicas[0].server), 8)
        assert (await check(client)).counts["ok"] == 5  # nobody has looked at it
        (page,) = [page async for page in client.check("/d", with_places=True)]
        assert [file.path for file in page.places] == [f"/d/{n}" for n in range(5)] + ["/d/empty"]
        verified = {
            file.path: await client.verify_chunk(place) for file in page.places for place in file.chunks
        }
        assert [path for path, found in verified.items() if found.bad_blocks] == ["/d/3"]
        assert all(not found.differing and not found.unread for found in verified.values())
        assert verified["/d/0"].verified_bytes == 3 * BLOCK


async def test_a_check_is_the_same_from_the_sync_face(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster:

        def work() -> None:
            with gfs.connect(cluster.addresses) as client:
                client.write_bytes("/f", b"abc")
                (page,) = client.check("/", with_places=True)
                assert (page.files, page.counts["ok"]) == (1, 1)
                ((place,),) = [file.chunks for file in page.places]
                assert client.verify_chunk(place).verified_bytes == 9
                assert client.repair(["/f", "/nothing"]) == 0

        await asyncio.to_thread(work)


async def test_what_nobody_reads_is_found_within_a_scrub_pass(tmp_path: Path) -> None:
    cluster = RealCluster(tmp_path)
    tuning = msgspec.structs.replace(cluster.settings.chunkserver, scrub_pass_seconds=0.5)
    cluster.settings = msgspec.structs.replace(cluster.settings, chunkserver=tuning)
    async with cluster, await cluster.client() as client:
        await client.write_bytes("/f", _bytes(MIB + 100 * KIB))
        (place,) = await client.chunks("/f")
        rot(file_of(tmp_path, cluster, place, place.replicas[2].server), MIB + 5)
        version = place.version

        async def is_replaced() -> bool:
            (now,) = await client.chunks("/f")
            return now.version > version and await _is_whole(client, "/f", replicas=3)

        await until(is_replaced, "the scrubber finds it, and it is made anew")


async def test_rot_in_the_only_member_is_mended_from_a_replica_that_has_left_the_set(tmp_path: Path) -> None:
    """Nobody had read the bad block when the other member was away, and its place was given up."""
    async with RealCluster(tmp_path, chunkservers=2) as cluster, await cluster.client() as client:
        data = _bytes(4 * BLOCK + 5)
        await client.create("/f", replication_goal=2)
        await client.write("/f", 0, data)
        (place,) = await client.chunks("/f")
        rotten, away = place.replicas
        rot(file_of(tmp_path, cluster, place, rotten.server), BLOCK + 9)
        name = node_of(cluster, place, away.server)
        await cluster.stop_replica(away)
        await client.write("/f", len(data), b"and more")

        async def has_left() -> bool:
            return away.server not in await members(client, "/f")

        await until(has_left, "the set goes on without the one that is away")
        await cluster.start_chunkserver(name)
        assert (await client.verify_chunk((await client.chunks("/f"))[0])).bad_blocks

        async def is_whole() -> bool:
            return await _is_whole(client, "/f", replicas=2)

        await until(is_whole, "the bad block came from there")
        assert await client.read_bytes("/f") == data + b"and more"
