"""§3.4, snapshot, as users see it; the parts are tested where they live."""

from __future__ import annotations

from pathlib import Path

from gfs.settings import ClientSettings
from gfs.vocabulary import KIB
from tests.client.real_cluster import RealCluster
from tests.paper.boxes import keeps

SETTINGS = ClientSettings(piece_bytes=256 * KIB)


@keeps("snapshot")
async def test_a_tree_is_copied_without_its_bytes_and_parted_by_the_first_write(tmp_path: Path) -> None:
    """A snapshot doubles the metadata; both files point to the same chunks, until one of them is written.

    Then every chunk server that has the chunk makes a copy of it on its own disk.
    """
    async with RealCluster(tmp_path) as cluster, await cluster.client(SETTINGS) as client:
        await client.mkdir("/home/user", parents=True)
        await client.mkdir("/save")
        await client.write_bytes("/home/user/file", b"x" * 100 * KIB)
        before = (await client.chunks("/home/user/file"))[0]
        chunks = (await client.cluster_status()).chunks
        await client.snapshot("/home/user", "/save/user")
        assert (await client.cluster_status()).chunks == chunks
        assert (await client.chunks("/save/user/file"))[0].handle == before.handle

        await client.write("/home/user/file", 10, b"new")
        after = (await client.chunks("/home/user/file"))[0]
        assert after.handle != before.handle
        assert {r.server for r in after.replicas} == {r.server for r in before.replicas}
        assert await client.read("/home/user/file", 8, 7) == b"xxnewxx"
        assert await client.read_bytes("/save/user/file") == b"x" * 100 * KIB


@keeps("snapshot")
async def test_a_lease_from_before_the_snapshot_is_of_no_use_after_it(tmp_path: Path) -> None:
    """Leases are revoked first, so that the next write has to ask the master, which can then make a copy."""
    async with RealCluster(tmp_path) as cluster, await cluster.client(SETTINGS) as client:
        async with await client.open("/log", "wb") as log:  # keeps its lease as long as it is open
            await log.write(b"before")
            await log.flush()
            await client.snapshot("/log", "/copy")
            await client.snapshot("/copy", "/copy of the copy")
            await log.write(b", after")
        assert await client.read_bytes("/log") == b"before, after"
        assert await client.read_bytes("/copy") == b"before"
        assert await client.read_bytes("/copy of the copy") == b"before"
