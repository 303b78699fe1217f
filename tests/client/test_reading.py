"""Reads: replicas, fail-over, holes, ends, read-ahead (GFS §2.3, §2.7, §3)."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest

from gfs.client.client import AsyncClient
from gfs.client.reader import Part
from gfs.errors import ChecksumMismatch, DataUnavailable, InvalidArgument, IsADirectory, NotFound, Superseded
from gfs.messages.chunks import AcquireLease, ChunkLease, FindChunks
from gfs.messages.namespace import EntryReply, Stat
from gfs.messages.replicas import ChunkStatus
from gfs.settings import LOOKUP_CHUNKS, READ_LONG_RANGE_BYTES, READ_RANGE_BYTES, ClientSettings
from gfs.vocabulary import CHUNK_BYTES, MIB, ChunkHandle, ChunkIndex, ChunkVersion, ServerId
from tests.client.mini_cluster import Grant, MiniCluster, eventually, lost
from tests.client.test_writing import _bytes
from tests.paper.boxes import keeps

BIG_PIECES = ClientSettings(piece_bytes=4 * MIB, retry_seconds=5.0)
IMPATIENT = ClientSettings(retry_seconds=0.2)


async def _stored(cluster: MiniCluster, client: AsyncClient, path: str, data: bytes) -> ChunkHandle:
    await client.write_bytes(path, data)
    return cluster.nodes[path].chunks[0]


async def test_a_read_past_the_end_is_short_and_one_behind_it_empty() -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        await client.write_bytes("/a", b"0123456789")
        assert await client.read("/a", 4, 100) == b"456789"
        assert await client.read("/a", 10, 5) == b""
        assert await client.read("/a", 10**12, 5) == b""
        assert await client.read("/a", 3, 0) == b""
        assert await client.read("/a", 7) == b"789"
        with pytest.raises(InvalidArgument):
            await client.read("/a", -1, 5)


async def test_any_error_of_a_replica_sends_the_read_to_another_one() -> None:
    data = _bytes(MIB)
    for error in (lost(), ChecksumMismatch("block 3"), DataUnavailable("starting")):
        cluster = MiniCluster(servers=3)
        async with cluster.client() as client:
            await client.write_bytes("/a", data)
            for name in ("cs1", "cs2"):
                cluster.servers[name].read_error = error
            assert await client.read_bytes("/a") == data


async def test_bytes_that_do_not_verify_on_arrival_are_verified_by_the_server_they_came_from() -> None:
    """They may have been overwritten in that moment: that is no reason to think ill of a replica."""
    data = _bytes(MIB)
    cluster = MiniCluster(servers=3)
    async with cluster.client() as client:
        await client.write_bytes("/a", data)
        cluster.bulk.changes_on_the_way = 1
        assert await client.read_bytes("/a") == data
        assert (cluster.bulk.verified_here, len(cluster.bulk.read_ranges)) == (1, 2)
        assert sorted(server.reads for server in cluster.servers.values()) == [0, 0, 2]
        bad = next(server for server in cluster.servers.values() if server.reads)
        bad.read_error = ChecksumMismatch("block 3 does not verify")  # and that is the server's own word
        assert await client.read_bytes("/a") == data
        assert await client.read("/a", 0, 1000) == data[:1000]
    assert cluster.bulk.verified_here == 2, "short ranges are verified by the server"


async def test_a_replica_that_failed_is_not_asked_first_again() -> None:
    cluster = MiniCluster(servers=3)
    async with cluster.client() as client:
        await client.write_bytes("/a", _bytes(MIB))
        for server in cluster.servers.values():
            server.read_error = lost() if server.id != "cs3" else None
        async with await client.open("/a") as file:
            for offset in range(0, MIB, 4096):
                assert len(await file.pread(offset, 4096)) == 4096
    assert cluster.servers["cs1"].reads <= 1 and cluster.servers["cs2"].reads <= 1


async def test_replicas_of_a_newer_version_are_found_by_asking_the_master_again() -> None:
    cluster = MiniCluster()
    data = _bytes(1000)
    async with cluster.client() as client:
        handle = await _stored(cluster, client, "/a", data)
        async with await client.open("/a") as file:
            assert await file.read(10) == data[:10]
            cluster._bump(handle, cluster.grants[handle].servers)  # a writer has met a failure meanwhile
            assert await file.pread(0, 1000) == data


@keeps("unavailable-never-corrupt")
async def test_without_a_good_replica_the_error_names_file_chunk_handle_and_every_server() -> None:
    cluster = MiniCluster(servers=3)
    async with cluster.client(IMPATIENT) as client:
        handle = await _stored(cluster, client, "/dir-a", _bytes(1000))
        await cluster.kill_server("cs1")
        cluster.servers["cs2"].read_error = ChecksumMismatch("block 0")
        cluster.servers["cs3"].read_error = lost()
        with pytest.raises(DataUnavailable) as raised:
            await client.read("/dir-a", 0, 1000)
        message = raised.value.message
        assert f"chunk 0 of /dir-a (handle {handle:x}, version 1)" in message
        assert "cs1 (is not alive)" in message
        assert "cs2 (checksum_mismatch: block 0)" in message
        assert "cs3 (connection_lost" in message
        details = raised.value.details
        assert (details["path"], details["chunk"], details["handle"]) == ("/dir-a", "0", f"{handle:x}")
        assert sorted(details["servers"].split(",")) == ["cs1", "cs2", "cs3"]


@keeps("unavailable-never-corrupt")
async def test_when_all_replicas_are_damaged_the_error_comes_at_once_and_never_the_bytes() -> None:
    cluster = MiniCluster(servers=3)
    async with cluster.client(ClientSettings(retry_seconds=600.0)) as client:
        await client.write_bytes("/a", _bytes(1000))
        for server in cluster.servers.values():
            server.read_error = ChecksumMismatch("block 0")
        with pytest.raises(DataUnavailable):
            await client.read_bytes("/a")


async def test_a_replica_shorter_than_the_closed_file_is_passed_over() -> None:
    cluster = MiniCluster(servers=3)
    data = _bytes(1000)
    async with cluster.client(IMPATIENT) as client:
        handle = await _stored(cluster, client, "/a", data)
        for name in ("cs1", "cs2"):
            del cluster.servers[name].replicas[handle][1][500:]
        assert await client.read_bytes("/a") == data
        assert await client.read("/a", 0, 1000) == data
        del cluster.servers["cs3"].replicas[handle][1][500:]
        with pytest.raises(DataUnavailable):
            await client.read("/a", 0, 1000)


async def test_reads_wait_for_chunk_servers_that_are_coming_back() -> None:
    cluster = MiniCluster(servers=3)
    data = _bytes(1000)
    async with cluster.client() as client:
        await client.write_bytes("/a", data)
        for server in cluster.servers.values():
            server.alive = False
        reading = asyncio.create_task(client.read_bytes("/a"))
        await eventually(lambda: len(cluster.seen(FindChunks)) >= 3)
        cluster.servers["cs2"].alive = True
        assert await reading == data


async def test_a_hole_in_the_middle_of_a_file_reads_as_zeros_up_to_the_next_chunk() -> None:
    cluster = MiniCluster()
    async with cluster.client(BIG_PIECES) as client:
        await client.write_bytes("/a", b"head")
        await client.write("/a", CHUNK_BYTES, b"tail")
        assert await client.read("/a", 0, 8) == b"head\0\0\0\0"
        assert await client.read("/a", CHUNK_BYTES - 3, 10) == b"\0\0\0tail"
        whole = await client.read_bytes("/a")
        assert len(whole) == CHUNK_BYTES + 4
        assert whole.startswith(b"head") and whole.endswith(b"tail")
        assert not any(whole[4:CHUNK_BYTES])


@keeps("chunk-lookup")
async def test_a_file_of_many_chunks_is_read_with_one_lookup_for_several_of_them() -> None:
    cluster = MiniCluster()
    chunks = 2 * LOOKUP_CHUNKS
    async with cluster.client(BIG_PIECES) as client:
        await client.create("/a")
        for index in range(chunks):
            await client.write("/a", index * CHUNK_BYTES, b"start of %d" % index)
        async with await client.open("/a") as file:
            before = len(cluster.seen(FindChunks))
            for index in range(chunks):
                wanted = b"start of %d" % index
                assert await file.pread(index * CHUNK_BYTES - 2 if index else 0, len(wanted) + 2) in (
                    b"\0\0" + wanted,
                    wanted + b"\0\0",
                )
            # One for the second half, and some to tell the last hole from a writer on its way.
            assert len(cluster.seen(FindChunks)) - before <= 4


async def test_a_sequential_reader_has_the_next_ranges_on_their_way_before_it_asks() -> None:
    cluster = MiniCluster()
    data = _bytes(24 * MIB)
    async with cluster.client(BIG_PIECES) as client:
        await client.write_bytes("/a", data)
        async with await client.open("/a") as file:
            found = [await file.read(64 * 1024) for _ in range(64)]
            await eventually(lambda: max(first for first, _ in cluster.bulk.read_ranges) >= 6 * MIB)
            while piece := await file.read(100_000):
                found.append(piece)
        assert b"".join(found) == data
        assert max(length for _, length in cluster.bulk.read_ranges) == READ_RANGE_BYTES
        assert sum(length for _, length in cluster.bulk.read_ranges) < 2 * len(data)


async def test_a_large_read_is_split_over_replicas_and_fetched_side_by_side() -> None:
    cluster = MiniCluster(servers=3)
    data = _bytes(CHUNK_BYTES)
    async with cluster.client(BIG_PIECES) as client:
        await client.write_bytes("/a", data)
        async with await client.open("/a") as file:
            assert await file.read(CHUNK_BYTES) == data
    assert sum(server.reads > 0 for server in cluster.servers.values()) >= 2


async def test_the_longer_a_read_the_longer_and_fewer_are_its_ranges() -> None:
    cluster = MiniCluster()
    data = _bytes(48 * MIB)
    async with cluster.client(BIG_PIECES) as client:
        await client.write_bytes("/a", data)
        async with await client.open("/a") as file:
            buffer = bytearray(2 * READ_LONG_RANGE_BYTES)
            assert await file.readinto(buffer) == len(buffer)
            assert buffer == data[: len(buffer)]
            assert [length for _, length in cluster.bulk.read_ranges] == [READ_LONG_RANGE_BYTES] * 2
            cluster.bulk.read_ranges.clear()
            assert await file.pread(0, READ_LONG_RANGE_BYTES) == data[:READ_LONG_RANGE_BYTES]
            assert {length for _, length in cluster.bulk.read_ranges} == {READ_RANGE_BYTES}


@pytest.mark.parametrize("seed", range(4))
async def test_any_mix_of_reads_and_seeks_gives_the_bytes_at_the_position(seed: int) -> None:
    chance = random.Random(seed)
    cluster = MiniCluster()
    data = _bytes(9 * MIB + 4321, seed)
    async with cluster.client(BIG_PIECES) as client:
        await client.write_bytes("/a", data)
        async with await client.open("/a") as file:
            position = 0
            for _ in range(60):
                action = chance.randrange(4)
                length = chance.choice([0, 1, 100, 65_536, MIB, 5 * MIB, 9 * MIB])
                if action == 0:
                    position = file.seek(chance.randrange(len(data) + 1000))
                elif action == 1:
                    offset = chance.randrange(len(data))
                    assert await file.pread(offset, length) == data[offset : offset + length]
                elif action == 2:
                    buffer = bytearray(length)
                    count = await file.readinto(buffer)
                    assert buffer[:count] == data[position : position + length]
                    position += count
                else:
                    assert await file.read(length) == data[position : position + length]
                    position += len(data[position : position + length])
                assert file.tell() == position


async def test_a_reader_sees_what_a_writer_adds_to_the_last_chunk_after_it_had_read_to_the_end() -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        async with await client.open("/a", "wb") as writer:
            await writer.write(b"first")
            await writer.flush()
            async with await client.open("/a") as reader:
                assert await reader.read(100) == b"first"
                assert await reader.read(100) == b""
                await writer.write(b"second")
                await writer.flush()
                assert await reader.read(100) == b"second"


async def test_a_file_that_grows_is_read_to_its_end_while_a_failed_try_still_holds_its_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Threads and tracebacks of tries at a replica that was lost keep their views of it for a while."""
    cluster = MiniCluster()
    async with cluster.client() as client:
        writer = await client.open("/log", "wb")
        await writer.write(b"first")
        await writer.flush()
        async with await client.open("/log") as file:
            read_into, kept = file._reader.read_into, []

            async def holding(offset: int, view: memoryview) -> Part:
                kept.append(view[:1])
                part = await read_into(offset, view)
                if len(kept) == 1:
                    await writer.write(b"second")
                    await writer.flush()
                return part

            monkeypatch.setattr(file._reader, "read_into", holding)
            assert await file.read() == b"firstsecond"
        await writer.close()


@keeps("no-data-through-master", "stale-read-window")
async def test_places_are_cached_and_looked_up_anew_at_each_open() -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        await client.write_bytes("/a", b"old")
        async with await client.open("/a") as file:
            before = len(cluster.seen(FindChunks))
            for _ in range(5):
                assert await file.pread(0, 3) == b"old"
            assert len(cluster.seen(FindChunks)) == before
        await cluster.client().write_bytes("/a", b"new")  # by somebody else
        assert await client.read_bytes("/a") == b"new"


async def test_a_file_replaced_under_a_reader_is_never_mixed_with_the_new_one() -> None:
    cluster = MiniCluster()
    async with cluster.client(ClientSettings(metadata_cache_seconds=1e-9)) as client:
        await client.write_bytes("/a", b"old")
        async with await client.open("/a") as file:
            await client.write_bytes("/a", b"new and longer")
            with pytest.raises(Superseded):
                await file.read(100)
        assert await client.read_bytes("/a") == b"new and longer"


async def test_the_length_of_a_file_being_written_is_asked_of_its_last_chunks_replicas() -> None:
    cluster = MiniCluster(servers=3)
    async with cluster.client() as client:
        file = await client.open("/a", "wb")
        await file.write(b"12345")
        await file.flush()
        entry = await client.stat("/a")
        assert (entry.length_bytes, entry.length_exact) == (5, True)
        await cluster.kill_server("cs1")
        await cluster.kill_server("cs2")
        assert (await client.stat("/a")).length_bytes == 5
        await cluster.kill_server("cs3")
        assert not (await client.stat("/a")).length_exact  # said openly, and at once
        assert cluster.seen(ChunkStatus)
        await file.discard()


async def test_what_a_writer_has_not_reached_yet_is_no_hole_though_the_next_chunk_is_ready() -> None:
    cluster = MiniCluster(servers=3)
    async with cluster.client() as client:
        await client.write_bytes("/a", b"12345")
        await client._masters.ask_leader(
            AcquireLease(inode=cluster.nodes["/a"].inode, index=ChunkIndex(1), create=True),
            ChunkLease,
            "test",
        )
        assert len(cluster.nodes["/a"].chunks) == 2
        assert await client.read("/a", 0, 100) == b"12345"
        assert (await client.stat("/a")).length_bytes == 5
        assert await client.read_bytes("/a") == b"12345"


async def test_bytes_missing_at_a_replica_that_has_missed_a_grant_are_no_hole() -> None:
    cluster = MiniCluster(servers=3)
    async with cluster.client() as client, cluster.client() as other:
        await other.write_bytes("/a", b"12345")
        file = await client.open("/a")
        handle = cluster.nodes["/a"].chunks[0]
        for kept in (["cs2", "cs3"], ["cs3"]):
            cluster._bump(handle, [ServerId(name) for name in kept])
        await other.write("/a", 5, b"678")
        await other.write("/a", CHUNK_BYTES, b"tail")
        # Another reader of this client has seen the new chunk; where the old one is was known before.
        entry = await client._masters.ask_leader(Stat(path="/a"), EntryReply, "test")
        file._reader._entry = entry.entry
        assert await file.pread(0, 10) == b"12345678" + bytes(2)
        await file.close()


async def test_a_length_is_not_taken_from_a_replica_that_has_missed_a_grant() -> None:
    cluster = MiniCluster(servers=3)
    async with cluster.client() as client, cluster.client() as other:
        file = await other.open("/a", "wb")
        await file.write(b"12345")
        await file.flush()
        assert await client.read("/a", 0, 5) == b"12345"  # and now it knows where the replicas are
        handle = cluster.nodes["/a"].chunks[0]
        for left_out in ("cs1", "cs2"):  # cut off from the masters, but not from this client
            kept = [server for server in cluster.grants[handle].servers if server != left_out]
            cluster._bump(handle, kept)
        await file.write(b"678")
        await file.flush()
        assert (await client.stat("/a")).length_bytes == 8
        await file.discard()


async def test_the_end_of_a_replica_that_lost_power_is_not_believed() -> None:
    data = _bytes(5000)
    cluster = MiniCluster(servers=3)
    async with cluster.client(IMPATIENT) as client:
        file = await client.open("/a", "wb")
        await file.write(data)
        await file.flush()
        handle = cluster.nodes["/a"].chunks[0]
        for name, lost_bytes in (("cs1", 3000), ("cs2", 2000)):
            cluster.servers[name].may_be_short = True
            del cluster.servers[name].replicas[handle][1][len(data) - lost_bytes :]
        assert await client.read("/a", 0, 9000) == data
        assert (await client.stat("/a")).length_bytes == len(data)
        await cluster.kill_server("cs3")
        assert await client.read("/a", 0, 3000) == data[:3000]  # what is there is right
        with pytest.raises(DataUnavailable):
            await client.read("/a", 0, 9000)
        assert not (await client.stat("/a")).length_exact
        await file.discard()


async def test_when_all_replicas_lost_power_the_longest_has_the_end() -> None:
    data = _bytes(5000)
    cluster = MiniCluster(servers=3)
    async with cluster.client(IMPATIENT) as client:
        file = await client.open("/a", "wb")
        await file.write(data)
        await file.flush()
        handle = cluster.nodes["/a"].chunks[0]
        for lost_bytes, server in enumerate(cluster.servers.values(), start=1000):
            server.may_be_short = True
            del server.replicas[handle][1][len(data) - lost_bytes :]
        assert await client.read("/a", 0, 9000) == data[:4000]
        assert await client.read("/a", 4000, 10) == b""
        await file.discard()


async def test_chunks_tells_all_places_over_several_pages() -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        await client.create("/a")
        for n in range(600):
            handle = ChunkHandle(5000 + n)
            cluster.nodes["/a"].chunks.append(handle)
            cluster.grants[handle] = Grant(ChunkVersion(1), [])
        assert [place.index for place in await client.chunks("/a")] == list(range(600))


async def test_directories_and_missing_files_cannot_be_read() -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        await client.mkdir("/d")
        with pytest.raises(IsADirectory):
            await client.open("/d")
        with pytest.raises(NotFound):
            await client.open("/d/a")


async def test_a_cancelled_read_ends_after_the_threads_that_write_to_its_memory() -> None:
    cluster = MiniCluster(servers=1)
    cluster.replication_goal = 1
    async with cluster.client() as client:
        await client.write_bytes("/a", b"12345")
        async with await client.open("/a") as file:
            cluster.servers["cs1"].hung = go_on = threading.Event()
            buffer = bytearray(5)
            file.seek(1)
            reading = asyncio.create_task(file.readinto(buffer))
            await eventually(lambda: cluster.bulk.waiting > 0)
            reading.cancel()
            await eventually(lambda: True)
            assert not reading.done()
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await reading
