"""A chunk server that finds its disk full says so, naming the directory, and starts when there is room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.simulation.disk import ForgetfulDisk
from gfs.chunkserver.process import ChunkServer
from gfs.errors import NoSpace
from gfs.settings import ChunkServerNode, MasterNode, Settings
from gfs.vocabulary import Address

NOWHERE = Settings(
    masters={"m1": MasterNode(control=Address("127.0.0.1:1"), raft=Address("127.0.0.1:0"))},
    chunkservers={"a": ChunkServerNode(control=Address("127.0.0.1:0"), data=Address("127.0.0.1:0"))},
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB of its own."""
    where = tmp_path / "disk"
    where.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(where)]
    if subprocess.run(mounting, capture_output=True).returncode != 0:
        pytest.skip("this test has to mount a small file system")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def fill(disk: Path, *, leave_bytes: int) -> None:
    """Fill the file system with a file, up to `leave_bytes`."""
    with (disk / "other").open("wb") as other:
        found = os.statvfs(disk)
        other.write(bytes(max(0, found.f_bavail * found.f_frsize - leave_bytes)))


async def test_on_a_full_file_system_it_says_so_and_starts_once_there_is_room(small_disk: Path) -> None:
    directory = small_disk / "a"
    refused = started = 0
    for leave_kib in (0, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512):
        (small_disk / "other").unlink(missing_ok=True)
        fill(small_disk, leave_bytes=leave_kib * 1024)
        server = ChunkServer(NOWHERE, "a", str(directory))
        try:
            await server.start()
        except NoSpace as error:
            assert str(directory) in error.message and error.hint
            refused += 1
        else:
            started += 1
            await server.stop()
    assert refused > 0 and started > 0
    (small_disk / "other").unlink()
    server = ChunkServer(NOWHERE, "a", str(directory))
    await server.start()
    await server.stop()


@pytest.mark.parametrize("space", [0, 10, 100])
async def test_wherever_the_space_ends_the_directory_is_named(tmp_path: Path, space: int) -> None:
    disk = ForgetfulDisk()
    disk.space_bytes_left = space
    with pytest.raises(NoSpace) as caught:
        await ChunkServer(NOWHERE, "a", str(tmp_path / "a"), disk=disk).start()
    assert str(tmp_path / "a") in caught.value.message
    disk.space_bytes_left = None
    server = ChunkServer(NOWHERE, "a", str(tmp_path / "a"), disk=disk)
    await server.start()
    await server.stop()
