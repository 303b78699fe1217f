"""§2.2, the interface: every operation the paper names, in one story."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfs.errors import DirectoryNotEmpty, InvalidArgument, NotFound
from tests.client.real_cluster import RealCluster
from tests.paper.boxes import keeps


@keeps("operations")
async def test_every_operation_of_a_file_system_and_snapshot_and_record_append(tmp_path: Path) -> None:
    """Names in a hierarchy; create, delete, open, close, read and write; and snapshot and record append.

    Rename, the way back from a deletion, and patterns of names belong to it, too.
    """
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.mkdir("/web/pages", parents=True)
        await client.create("/web/pages/index")  # create
        assert (await client.stat("/web/pages/index")).length_bytes == 0
        async with await client.open("/web/pages/index", "wb") as written:  # open, write, close
            await written.write(b"hello, ")
            await written.write(b"world")
        assert written.closed
        await client.write("/web/pages/index", 7, b"WORLD")
        opened = await client.open("/web/pages/index")  # read: in sequence, anywhere, to the end
        assert await opened.read(5) == b"hello"
        assert await opened.pread(7, 5) == b"WORLD"
        assert await opened.read() == b", WORLD"
        await opened.close()
        with pytest.raises(InvalidArgument, match="closed"):
            await opened.read(1)

        await client.snapshot("/web", "/saved")  # snapshot, of a tree
        assert await client.record_append("/web/pages/index", b"!") == 12  # record append
        assert await client.read_bytes("/web/pages/index") == b"hello, WORLD!"
        assert await client.read_bytes("/saved/pages/index") == b"hello, WORLD"

        await client.rename("/web/pages/index", "/web/home")  # rename, over directories
        assert await client.listdir("/web/pages") == []
        await client.rename("/saved", "/web/saved")
        found = {entry.path async for entry in client.glob("/web/**/index")}  # glob
        assert found == {"/web/saved/pages/index"}
        assert {entry.path async for entry in client.glob("/web/h?m*")} == {"/web/home"}

        with pytest.raises(DirectoryNotEmpty, match="/web"):
            await client.delete("/web")
        await client.delete("/web/home")  # delete
        with pytest.raises(NotFound, match="/web/home"):
            await client.open("/web/home")
        assert await client.undelete("/web/home") == "/web/home"  # undelete
        assert await client.read_bytes("/web/home") == b"hello, WORLD!"
        await client.delete("/web", recursive=True)
        assert await client.listdir("/") == []
