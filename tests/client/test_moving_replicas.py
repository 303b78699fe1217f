"""Replicas that move over real sockets and disks while a client writes and reads (GFS §4.3)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from pathlib import Path

from gfs.client.client import AsyncClient
from gfs.master.core.clone_task import CloneTask
from gfs.messages.chunks import ChunkPlace
from gfs.vocabulary import KIB, MIB, ServerId
from tests.client.real_cluster import RealCluster
from tests.client.test_writing import _bytes


async def move(
    cluster: RealCluster, client: AsyncClient, path: str, *, drop: str = "", avoid: Collection[str] = ()
) -> None:
    """Move the replica on `drop` (any, when not said) of the file's first chunk to a server without one."""
    [place] = await client.chunks(path)
    held = [replica.server for replica in place.replicas]
    servers = [server.id for server in (await client.cluster_status()).chunkservers]
    task = CloneTask(
        inode=(await client.stat(path)).inode,
        index=place.index,
        handle=place.handle,
        target=next(server for server in servers if server not in held and server not in avoid),
        drop=ServerId(drop) if drop else held[0],
        reason="rebalance",
        priority=0,
    )
    await cluster.masters[await cluster.leader()].services.moves.carry_out(task)


def equal_replicas(cluster: RealCluster, place: ChunkPlace, data: bytes) -> int:
    """How many replicas' files hold exactly `data`."""
    return sum(path.read_bytes() == data for path in cluster.replica_files(place.handle))


async def test_replica_moves_and_holds_the_same_bytes(tmp_path: Path) -> None:
    async with RealCluster(tmp_path, chunkservers=4) as cluster, await cluster.client() as client:
        data = _bytes(9 * MIB + 5)
        await client.write_bytes("/f", data)
        [before] = await client.chunks("/f")
        stat = await client.stat("/f")
        await move(cluster, client, "/f")
        [after] = await client.chunks("/f")
        servers = {r.server for r in before.replicas}, {r.server for r in after.replicas}
        assert len(servers[1]) == 3 and len(servers[0] & servers[1]) == 2
        assert after.version == before.version + 3
        assert await client.read_bytes("/f") == data
        assert await client.stat("/f") == stat
        assert equal_replicas(cluster, after, data) >= 3


async def test_writer_is_hardly_held_up_and_loses_nothing_while_its_chunk_moves(tmp_path: Path) -> None:
    async with RealCluster(tmp_path, chunkservers=4) as cluster, await cluster.client() as client:
        piece = _bytes(64 * KIB)
        await client.write_bytes("/f", piece * 64)
        written, stopped = 64, asyncio.Event()
        slowest = 0.0

        async def write_on() -> None:
            nonlocal written, slowest
            while not stopped.is_set() and written < 1000:
                began = time.monotonic()
                await client.write("/f", written * len(piece), piece)
                slowest = max(slowest, time.monotonic() - began)
                written += 1

        writing = asyncio.ensure_future(write_on())
        for _ in range(3):
            await move(cluster, client, "/f")
        stopped.set()
        await writing
        assert written > 64, "nothing was written meanwhile: this shows nothing"
        data = piece * written
        assert await client.read_bytes("/f") == data
        [place] = await client.chunks("/f")
        assert len(place.replicas) == 3
        assert equal_replicas(cluster, place, data) >= 3
        assert slowest < 5.0


async def test_new_replicas_alone_serve_the_whole_file(tmp_path: Path) -> None:
    """Of the replicas there were at first the last one goes: what is read then was copied."""
    async with RealCluster(tmp_path, chunkservers=5) as cluster, await cluster.client() as client:
        data = _bytes(5 * MIB)
        await client.write_bytes("/f", data)
        [before] = await client.chunks("/f")
        first = {replica.server for replica in before.replicas}
        for replica in before.replicas[:2]:
            await move(cluster, client, "/f", drop=replica.server, avoid=first)
        [after] = await client.chunks("/f")
        new = {replica.server for replica in after.replicas}
        assert len(new) == 3 and new & first == {before.replicas[2].server}
        await cluster.stop_replica(before.replicas[2])
        async with await cluster.client() as fresh:
            assert await fresh.read_bytes("/f") == data
