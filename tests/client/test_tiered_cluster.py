"""Files whose chunks have gone out to an object service, in a real cluster in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfs.client.client import AsyncClient
from gfs.errors import GfsError
from gfs.messages.chunks import ChunkPlace
from gfs.settings import ClientSettings, TierSettings
from gfs.vocabulary import KIB, MIB
from tests.client.real_cluster import RealCluster
from tests.client.test_writing import _bytes
from tests.fakes.object_service import FakeObjectService
from tests.waiting import until

IMPATIENT = ClientSettings(retry_seconds=2.0)
SOON = TierSettings(url="fake://", idle_seconds=0.2, chunk_bytes_min=KIB, collect_seconds=0.5)
DATA = _bytes(2 * MIB + 777)


class TieredCluster(RealCluster):
    """Each chunk server has objects in a service that they share."""

    def __init__(self, directory: Path, *, masters: int = 1, chunkservers: int = 3) -> None:
        self.service = FakeObjectService()
        super().__init__(
            directory,
            masters=masters,
            chunkservers=chunkservers,
            tier=SOON,
            open_service=lambda url: self.service,
        )

    async def until_out(self, client: AsyncClient, path: str) -> ChunkPlace:
        """No chunk server has a byte of the file any more."""
        (place,) = await client.chunks(path)

        async def is_out() -> bool:
            files = self.replica_files(place.handle)
            return bool(files) and all(file.suffix == ".row" for file in files)

        await until(is_out, "all replicas are out")
        return place


@pytest.mark.timeout(120)
async def test_a_file_that_is_out_is_read_overwritten_and_appended_to_while_the_leader_changes(
    tmp_path: Path,
) -> None:
    async with TieredCluster(tmp_path, masters=3) as cluster, await cluster.client() as client:
        await client.write_bytes("/f", DATA)
        await cluster.until_out(client, "/f")
        assert await client.read_bytes("/f") == DATA
        await cluster.stop_master(await cluster.leader())
        await client.write("/f", MIB - 3, b"across two extents")
        async with await client.open("/f", "ab") as file:
            await file.write(b"and at the end")
        expected = bytearray(DATA)
        expected[MIB - 3 : MIB + 15] = b"across two extents"
        found = await client.read_bytes("/f")
        assert found[: len(DATA)] == expected
        assert b"and at the end" in found[len(DATA) :]
        await cluster.until_out(client, "/f")
        assert await client.read_bytes("/f") == found


@pytest.mark.timeout(120)
async def test_a_snapshot_of_a_file_that_is_out_shares_its_objects(tmp_path: Path) -> None:
    async with TieredCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.write_bytes("/f", DATA)
        await cluster.until_out(client, "/f")
        await client.snapshot("/f", "/copy")
        await client.write("/copy", 0, b"changed")
        assert await client.read_bytes("/f") == DATA
        assert await client.read_bytes("/copy") == b"changed" + DATA[7:]


@pytest.mark.timeout(120)
async def test_while_the_service_is_away_reads_fail_and_nothing_is_called_damaged(tmp_path: Path) -> None:
    async with TieredCluster(tmp_path) as cluster, await cluster.client(IMPATIENT) as client:
        await client.write_bytes("/f", DATA)
        place = await cluster.until_out(client, "/f")
        cluster.service.fails = {"read", "put", "delete", "names"}
        with pytest.raises(GfsError):
            await client.read("/f", 0, 100)
        cluster.service.fails = set()
        assert await client.read_bytes("/f") == DATA
        assert (await client.chunks("/f"))[0].replicas == place.replicas


@pytest.mark.timeout(120)
async def test_deleted_files_leave_no_object(tmp_path: Path) -> None:
    async with TieredCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.write_bytes("/f", DATA)
        await cluster.until_out(client, "/f")
        await client.delete("/f", skip_trash=True)

        async def is_clean() -> bool:
            return all(name.endswith("/here") for name in cluster.service.objects)

        await until(is_clean, "the objects are collected")
