"""A mounted tree against a model: files as arrays of bytes, changed at random, through several handles."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from gfs.errors import DirectoryNotEmpty, IsADirectory, NotFound
from gfs.mount.open_file import PATCH_BYTES_MAX, WINDOW_BYTES
from gfs.mount.tree import MountedTree
from gfs.vocabulary import CHUNK_BYTES, KIB
from tests.client.real_cluster import RealCluster

pytestmark = pytest.mark.timeout(180)


class Model:
    """What each file has to hold."""

    def __init__(self, tree: MountedTree, chance: Random) -> None:
        self.tree, self.chance = tree, chance
        self.files: dict[str, bytearray] = {}
        self.handles: dict[int, str] = {}

    async def step(self) -> None:
        seldom = [self.create, self.open, self.close, self.cut, self.rename, self.look]
        doing = self.chance.choice([*seldom, *[self.write] * 6, *[self.read] * 5])
        await doing()

    def _path(self) -> str:
        return f"/f{self.chance.randrange(4)}"

    def _handle(self) -> int:
        return self.chance.choice(sorted(self.handles)) if self.handles else 0

    async def create(self) -> None:
        path = self._path()
        if path not in self.files:
            self.handles[(await self.tree.create(path, 0o644)).handle] = path
            self.files[path] = bytearray()

    async def open(self) -> None:
        path = self._path()
        if path in self.files and len(self.handles) < 6:
            truncate = self.chance.random() < 0.2
            self.handles[(await self.tree.open(path, truncate=truncate)).handle] = path
            if truncate:
                self.files[path].clear()

    async def close(self) -> None:
        if handle := self._handle():
            await self.tree.flush(handle)
            await self.tree.release(handle)
            del self.handles[handle]

    async def write(self) -> None:
        if not (handle := self._handle()):
            return
        content = self.files[self.handles[handle]]
        length = self.chance.choice([1, 700, 70_000, PATCH_BYTES_MAX + 5])
        where = self.chance.random()
        offset = len(content)
        if where < 0.3:
            offset = self.chance.randrange(len(content) + 1)
        elif where < 0.4:
            offset += self.chance.randrange(100_000)
        data = self.chance.randbytes(length)
        await self.tree.write(handle, offset, data)
        content.extend(bytes(max(0, offset + length - len(content))))
        content[offset : offset + length] = data

    async def read(self) -> None:
        if handle := self._handle():
            content = self.files[self.handles[handle]]
            offset = self.chance.randrange(len(content) + 10)
            length = self.chance.choice([1, 4096, WINDOW_BYTES, 3 * WINDOW_BYTES])
            assert await self.tree.read(handle, offset, length) == content[offset : offset + length]

    async def cut(self) -> None:
        path = self._path()
        if path in self.files:
            content = self.files[path]
            length = self.chance.choice([0, self.chance.randrange(len(content) + 1), len(content) + 5000])
            await self.tree.truncate(path, length)
            del content[length:]
            content.extend(bytes(length - len(content)))

    async def rename(self) -> None:
        old, new = self._path(), self._path()
        open_paths = set(self.handles.values())
        if old in self.files and old != new and new not in open_paths:
            await self.tree.rename(old, new)
            self.files[new] = self.files.pop(old)
            self.handles = {h: new if path == old else path for h, path in self.handles.items()}

    async def look(self) -> None:
        path = self._path()
        if path in self.files:
            assert (await self.tree.attributes(path)).length_bytes == len(self.files[path])
        else:
            with pytest.raises(NotFound):
                await self.tree.attributes(path)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_files_are_what_was_written_to_them(tmp_path: Path, seed: int) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.mkdir("/top")
        tree = MountedTree(client, "/top")
        model = Model(tree, Random(seed))
        for _ in range(150):
            await model.step()
        await tree.close()
        names = {entry.path.rpartition("/")[2] for entry in await tree.entries("/")}
        assert names == {path[1:] for path in model.files}
        for path, content in model.files.items():
            assert await client.read_bytes("/top" + path) == content


async def test_a_gap_over_a_chunks_end_reads_as_zeros(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        tree = MountedTree(client, "/")
        handle = (await tree.create("/sparse", 0o600)).handle
        await tree.write(handle, CHUNK_BYTES + 10, b"end")
        assert await tree.read(handle, CHUNK_BYTES - 3, 100) == bytes(13) + b"end"
        assert (await tree.attributes("/sparse")).length_bytes == CHUNK_BYTES + 13
        assert (await tree.attributes("/sparse")).entry.mode == 0o600
        await tree.close()


async def test_what_another_client_appends_is_seen(tmp_path: Path) -> None:
    async with (
        RealCluster(tmp_path) as cluster,
        await cluster.client() as client,
        await cluster.client() as other,
    ):
        await client.write_bytes("/log", b"one\n")
        tree = MountedTree(client, "/")
        opened = await tree.open("/log")
        assert await tree.read(opened.handle, 0, 4096) == b"one\n"
        await other.record_append("/log", b"two\n")
        assert (await tree.attributes("/log", opened.handle)).length_bytes == 8
        assert await tree.read(opened.handle, 0, 4096) == b"one\ntwo\n"
        assert (await tree.open("/log")).uncached, "the kernel's own copy would grow old"
        await tree.close()


async def test_directories_are_made_renamed_and_removed_as_a_kernel_expects(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        tree = MountedTree(client, "/")
        await tree.make_directory("/a", 0o750)
        assert (await tree.attributes("/a")).entry.mode == 0o750
        await tree.make_directory("/b", 0o755)
        await tree.rename("/a", "/b")  # an empty one makes room
        handle = (await tree.create("/b/file", 0o644)).handle
        await tree.write(handle, 0, os.urandom(64 * KIB))
        await tree.rename("/b", "/c")
        await tree.write(handle, 64 * KIB, b"written after its directory was renamed")
        await tree.release(handle)
        assert (await client.stat("/c/file")).length_bytes == 64 * KIB + 39
        await tree.make_directory("/d", 0o755)
        with pytest.raises(DirectoryNotEmpty):
            await tree.remove("/c")
        with pytest.raises(DirectoryNotEmpty):
            await tree.rename("/d", "/c")
        with pytest.raises(IsADirectory):
            await tree.open("/c")
        await tree.remove("/c/file")
        await tree.remove("/c")
        assert [entry.path for entry in await tree.entries("/")] == ["/d"]
        space = await tree.space()
        assert 0 < space.free_bytes <= space.total_bytes
