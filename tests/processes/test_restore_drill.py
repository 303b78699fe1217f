"""The drill: a backup under load, all masters' disks destroyed, the state put back, nothing lost."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
import pytest_asyncio

from gfs.client.client import AsyncClient
from gfs.errors import GfsError
from gfs.messages.chunks import ChunkPlace
from tests.processes.cluster import ProcessCluster
from tests.waiting import until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

CHANCE = Random(20)
EAGER = {"GFS__MASTER__REPAIR_DELAY_SECONDS": "0"}


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ProcessCluster]:
    found = ProcessCluster(tmp_path / "cluster", masters=3, chunkservers=3)
    found.start(**EAGER)
    yield found
    found.stop()


async def gfs(cluster: ProcessCluster, *arguments: str, status: int = 0) -> tuple[str, str]:
    """Standard output and error of a command."""
    command = [sys.executable, "-m", "gfs", "--config", cluster.layout.config_path, *arguments]
    ran = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=90)
    assert b"Traceback" not in ran.stderr, ran.stderr.decode()
    assert ran.returncode == status, (arguments, ran.returncode, ran.stderr.decode())
    return ran.stdout.decode(), ran.stderr.decode()


class Load:
    """A client that goes on storing small files; `acknowledged` is what it was told is safe."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self.acknowledged: dict[str, bytes] = {}
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            path, content = f"/load/{number}", CHANCE.randbytes(CHANCE.randrange(1, 30_000))
            await self.client.write_bytes(path, content)
            self.acknowledged[path] = content
            number += 1

    async def stop(self) -> None:
        self._stop.set()
        await self._task


def master_directory(cluster: ProcessCluster, name: str) -> Path:
    return Path(cluster.layout.settings.masters[name].directory)


async def reads(client: AsyncClient, path: str) -> bytes | None:
    try:
        return await client.read_bytes(path)
    except GfsError:
        return None


async def settled(client: AsyncClient) -> None:
    async def is_so() -> bool:
        found = await client.cluster_status()
        return bool(found.leader) and not any("put back: files from before" in one for one in found.reasons)

    await until(is_so, "chunk servers have said what they hold")


async def test_restore_drill(cluster: ProcessCluster, tmp_path: Path) -> None:
    place, old = str(tmp_path / "backups"), tmp_path / "old-m3"
    async with await cluster.connect() as client:
        await cluster.ready(client)
        await client.mkdir("/load")
        await client.mkdir("/kept")
        kept = {f"/kept/{n}": CHANCE.randbytes(40_000) for n in range(5)}
        for path, content in kept.items():
            await client.write_bytes(path, content)
        load = Load(client)
        await until(lambda: _has(load, 10), "the load has begun")
        before = {**kept, **load.acknowledged}
        await gfs(cluster, "backup", "create", place)
        await gfs(cluster, "backup", "verify", place)
        await load.stop()
        # What comes now is lost with the masters, but not from the chunk servers' disks.
        await client.delete("/kept/0")
        await client.write_bytes("/kept/late", b"after the backup")
        late = (await client.chunks("/kept/late"))[0].handle
        cluster.kill(["c3"])
        await client.write("/kept/1", 0, b"newer bytes than the backup knows of")
        newer = (await client.chunks("/kept/1"))[0]
        assert newer.version > 1 and len(newer.replicas) == 2

        cluster.kill(cluster.masters)
        cluster.start(["c3"], **EAGER)  # only now: with its masters there it would be given what it missed
        shutil.copytree(master_directory(cluster, "m3"), old)
        for name in cluster.masters:
            shutil.rmtree(master_directory(cluster, name))
        restored = json.loads((await gfs(cluster, "-o", "json", "backup", "restore", place))[0])
        assert sorted(restored["directories"]) == ["m1", "m2", "m3"]
        cluster.start(cluster.masters, **EAGER)

    async with await cluster.connect() as client:
        await cluster.ready(client)
        await settled(client)
        before["/kept/1"] = b"newer bytes than the backup knows of" + before["/kept/1"][36:]
        for path, content in before.items():
            assert await client.read_bytes(path) == content, path
        # c3 missed a version that the state had never heard of: it is a replica again only as a new copy.
        # The two others stay replicas; while the third is made, a grant may not have been heard from both.
        await until(
            lambda: _on(client, "/kept/1", newer), "both replicas of the newer version are in its set"
        )
        place_now = (await client.chunks("/kept/1"))[0]
        found = await client.verify_chunk(place_now)
        assert not (found.differing or found.bad_blocks or found.unread), found
        assert not await client.exists("/kept/late")

        since = {f"/since/{n}": CHANCE.randbytes(20_000) for n in range(5)}
        await client.mkdir("/since")
        for path, content in since.items():
            await client.write_bytes(path, content)
        handles = {(await client.chunks(path))[0].handle for path in since}
        assert min(handles) > late + 2**32
        await client.write("/kept/2", 0, b"written after the restore")
        before["/kept/2"] = b"written after the restore" + before["/kept/2"][25:]
        assert cluster.replica_files(late)

        cluster.kill()
        cluster.start(**EAGER)
        await cluster.ready(client)
        for path, content in (before | since).items():
            assert await client.read_bytes(path) == content, path

        await gfs(cluster, "admin", "gc", "resume")
        await until(lambda: _gone(cluster, late), "what only the lost time knew is collected")
        await until(lambda: _whole(client, "/kept/1"), "the chunk that lost a replica has three again")
        for path, content in (before | since).items():
            assert await client.read_bytes(path) == content, path
        await cluster.masters_agree()

        await _old_master_is_refused(cluster, client, old)


async def _has(load: Load, files: int) -> bool:
    return len(load.acknowledged) >= files


async def _on(client: AsyncClient, path: str, place: ChunkPlace) -> bool:
    """Whether all replicas of `place` are replicas of the first chunk still."""
    now = (await client.chunks(path))[0]
    return {r.control for r in now.replicas} >= {r.control for r in place.replicas}


async def _gone(cluster: ProcessCluster, handle: int) -> bool:
    return not cluster.replica_files(handle)


async def _whole(client: AsyncClient, path: str) -> bool:
    return len((await client.chunks(path))[0].replicas) == 3


async def _old_master_is_refused(cluster: ProcessCluster, client: AsyncClient, old: Path) -> None:
    """m3 comes back with the disk it had before the masters were lost."""
    cluster.kill(["m3"])
    aside = master_directory(cluster, "m3")
    aside.rename(aside.with_name("m3-of-this-life"))
    old.rename(aside)
    cluster.start(["m3"], **EAGER)
    said = ""

    async def is_refused() -> bool:
        nonlocal said
        found = await client.cluster_status()
        m3 = next(master for master in found.masters if master.id == "m3")
        said = m3.reason
        return m3.role == "refused"

    await until(is_refused, "m3 is refused")
    assert "before the cluster's state was put back" in said
    await client.write_bytes("/since/without-m3", b"two are enough")
    assert cluster.processes["m3"].poll() is None


async def test_recovery_from_one_surviving_master(cluster: ProcessCluster, tmp_path: Path) -> None:
    async with await cluster.connect() as client:
        await cluster.ready(client)
        await client.mkdir("/d")
        files = {f"/d/{n}": CHANCE.randbytes(10_000) for n in range(8)}
        for path, content in files.items():
            await client.write_bytes(path, content)
        await cluster.masters_agree()
        running = str(master_directory(cluster, "m2"))
        _, refused = await gfs(cluster, "admin", "recover", running, "--accept-data-loss", status=6)
        assert "a master is running" in refused
        cluster.kill(cluster.masters, signal.SIGKILL)
        for name in ("m1", "m3"):
            shutil.rmtree(master_directory(cluster, name))

        _, told = await gfs(cluster, "admin", "recover", running, status=2)
        assert "holds 8 files, 8 chunks" in told
        assert "nothing was changed" in told and "--accept-data-loss" in told
        assert not master_directory(cluster, "m1").exists()
        _, needs = await gfs(cluster, "admin", "recover", running, "--accept-data-loss", status=4)
        assert "--replace" in needs
        out, _ = await gfs(
            cluster, "-o", "json", "admin", "recover", running, "--accept-data-loss", "--replace"
        )
        made = json.loads(out)
        assert (made["files"], len(made["directories"]), len(made["moved_aside"])) == (8, 3, 1)

        cluster.start(cluster.masters, **EAGER)
        await cluster.ready(client)
        await settled(client)
        for path, content in files.items():
            assert await client.read_bytes(path) == content, path
        await client.write_bytes("/d/since", b"goes on")
        await cluster.masters_agree()
