"""§3.1, leases and mutation order, as users see them; the parts are tested where they live."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gfs.settings import ClientSettings, MasterSettings
from gfs.vocabulary import CHUNK_BYTES, KIB, MIB
from tests.client.real_cluster import RealCluster
from tests.paper.boxes import keeps

PIECE_BYTES = 256 * KIB


@keeps("large-writes-split", "mutation-order")
async def test_large_writes_that_overlap_end_alike_on_every_replica(tmp_path: Path) -> None:
    """A write that is large or straddles chunks is cut by the client, and others may come between its parts.

    All replicas hold the same bytes then, though perhaps no one writer's: consistent but undefined.
    """
    begin = CHUNK_BYTES - 2 * MIB
    async with RealCluster(tmp_path) as cluster:
        clients = [await cluster.client(ClientSettings(piece_bytes=PIECE_BYTES)) for _ in range(3)]
        await clients[0].create("/a")
        await clients[0].write("/a", begin - 10, b"0123456789")
        letters = [bytes([65 + number]) for number in range(len(clients))]
        await asyncio.gather(
            *(
                client.write("/a", begin, letter * 4 * MIB)
                for client, letter in zip(clients, letters, strict=True)
            )
        )
        found = await clients[0].read("/a", begin, 4 * MIB)
        for at in range(0, len(found), PIECE_BYTES):
            assert found[at : at + 1] in letters
            assert found[at : at + PIECE_BYTES] == found[at : at + 1] * PIECE_BYTES
        places = await clients[0].chunks("/a")
        assert len(places) == 2
        for place in places:
            contents = {file.read_bytes() for file in cluster.replica_files(place.handle)}
            assert len(place.replicas) == 3 and len(contents) == 1
        for client in clients:
            await client.close()


@keeps("leases")
def test_a_lease_lasts_a_minute_unless_told_otherwise() -> None:
    """The first time limit of a lease is 60 seconds."""
    assert MasterSettings().lease_seconds == 60.0
