"""The verbs of a mounted tree, as a kernel asks for them, on the SDK. Async; knows no FUSE (see fuse_door).

Names and attributes are the masters' at once; bytes are open_file's. Differences to a local file system are
listed in README, "As a directory".
"""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from typing import NamedTuple

from gfs.client.client import AsyncClient
from gfs.errors import AlreadyExists, InvalidArgument, IsADirectory, NotFound
from gfs.messages.namespace import Entry
from gfs.mount.open_file import OpenFile
from gfs.vocabulary import InodeId

RECENT_SECONDS = 1.0  # a listing answers the lookups that follow it for so long
RECENT_MAX = 20_000
HANDLES_MAX = 65_536


class Attributes(NamedTuple):
    entry: Entry
    length_bytes: int


class Opened(NamedTuple):
    handle: int
    uncached: bool  # others may write to the file: the kernel's own copy of its pages would grow old


class Space(NamedTuple):
    total_bytes: int
    free_bytes: int
    files: int


class MountedTree:
    def __init__(self, client: AsyncClient, top: str, *, skip_trash: bool = False) -> None:
        """`top`: the directory of the cluster that is mounted. `skip_trash`: what is deleted is gone."""
        self._client = client
        self._top = top.rstrip("/")
        self._skip_trash = skip_trash
        self._files: dict[InodeId, OpenFile] = {}
        self._handles: dict[int, OpenFile] = {}
        self._numbers = itertools.count(1)
        self._recent: OrderedDict[str, tuple[Entry, float]] = OrderedDict()

    def _remote(self, path: str) -> str:
        return (self._top + path.rstrip("/")) or "/"

    # --- names ----------------------------------------------------------------------------------

    async def attributes(self, path: str, handle: int = 0) -> Attributes:
        file = self._handles.get(handle)
        remote = file.path if file is not None else self._remote(path)
        entry = self._recently(remote) if file is None else None
        entry = entry or await self._client.stat(remote)
        file = file or self._files.get(entry.inode)
        if file is not None and file.is_dirty:
            return Attributes(entry, file.length_bytes)
        if entry.kind == "file" and not entry.length_exact and entry.chunk_count:
            return Attributes(entry, await self._length(entry, file))
        return Attributes(entry, entry.length_bytes)

    async def _length(self, entry: Entry, file: OpenFile | None) -> int:
        """Of a file that somebody may be writing to: only its last chunk's replicas know."""
        if file is not None:
            return await file.look_again()
        async with await self._client.open(entry.path, "rb") as reader:
            return await reader.length()

    async def entries(self, path: str) -> list[Entry]:
        found = []
        now = time.monotonic()
        async for entry in self._client.list(self._remote(path)):
            found.append(entry)
            self._recent[entry.path] = (entry, now)
            while len(self._recent) > RECENT_MAX:
                self._recent.popitem(last=False)
        return found

    def _recently(self, remote: str) -> Entry | None:
        entry, seen_at = self._recent.get(remote, (None, 0.0))
        return entry if entry is not None and time.monotonic() - seen_at < RECENT_SECONDS else None

    async def make_directory(self, path: str, mode: int) -> None:
        self._recent.clear()
        remote = self._remote(path)
        await self._client.mkdir(remote)
        await self._have_mode(remote, mode)

    async def _have_mode(self, remote: str, mode: int) -> None:
        entry = await self._client.stat(remote)
        if entry.mode != mode & 0o777:
            await self._client.chmod(remote, mode & 0o777)

    async def remove(self, path: str) -> None:
        """A file, or an empty directory. Raises: NotFound, DirectoryNotEmpty."""
        self._recent.clear()
        await self._client.delete(self._remote(path), skip_trash=self._skip_trash)

    async def rename(self, old: str, new: str) -> None:
        """In one step; a file or an empty directory at `new` makes room for one of its own kind."""
        self._recent.clear()
        source, target = self._remote(old), self._remote(new)
        try:
            await self._client.rename(source, target, replace=True)
        except AlreadyExists:
            if (await self._client.stat(target)).kind != "directory":
                raise
            await self._client.delete(target, skip_trash=True)  # refused unless it is empty
            await self._client.rename(source, target)
        for file in self._files.values():
            if file.path == source or file.path.startswith(source + "/"):
                file.path = target + file.path[len(source) :]

    async def change_mode(self, path: str, mode: int) -> None:
        self._recent.clear()
        remote = self._remote(path)
        await self._client.chmod(remote, mode & 0o777)
        for file in self._files.values():
            if file.path == remote:
                file.mode_changed(mode & 0o777)

    async def change_owner(self, path: str, owner: str | None, group: str | None) -> None:
        self._recent.clear()
        await self._client.chown(self._remote(path), owner=owner, group=group)

    async def space(self) -> Space:
        status = await self._client.cluster_status()
        alive = [server for server in status.chunkservers if server.alive]
        return Space(
            sum(server.disk_total_bytes for server in alive),
            sum(server.disk_free_bytes for server in alive),
            status.files + status.directories,
        )

    # --- open files -----------------------------------------------------------------------------

    async def open(self, path: str, *, truncate: bool = False) -> Opened:
        remote = self._remote(path)
        entry = await self._client.stat(remote)
        if entry.kind == "directory":
            raise IsADirectory(f"{remote} is a directory")
        file = self._files.get(entry.inode)
        if file is None:
            length = entry.length_bytes
            if not entry.length_exact and entry.chunk_count:
                length = await self._length(entry, None)
            file = self._files.setdefault(entry.inode, OpenFile(self._client, entry, length))
        opened = Opened(self._given(file), uncached=entry.appended or not entry.length_exact)
        if truncate:
            await self._truncate(file, 0)
        return opened

    async def create(self, path: str, mode: int) -> Opened:
        self._recent.clear()
        remote = self._remote(path)
        try:
            await self._client.create(remote)
        except AlreadyExists:  # somebody was quicker; who wanted it for himself alone is told by the kernel
            return await self.open(path, truncate=True)
        await self._have_mode(remote, mode)
        entry = await self._client.stat(remote)
        file = self._files.setdefault(entry.inode, OpenFile(self._client, entry, 0))
        return Opened(self._given(file), uncached=False)

    def _given(self, file: OpenFile) -> int:
        if len(self._handles) >= HANDLES_MAX:
            raise InvalidArgument(f"more than {HANDLES_MAX} files are open in this mount")
        handle = next(self._numbers)
        self._handles[handle] = file
        file.handles += 1
        return handle

    async def read(self, handle: int, offset: int, length_bytes: int) -> bytes:
        return await self._of(handle).read(offset, length_bytes)

    async def write(self, handle: int, offset: int, data: bytes) -> None:
        self._recent.clear()
        await self._of(handle).write(offset, data)

    async def flush(self, handle: int) -> None:
        await self._of(handle).flush()

    async def truncate(self, path: str, length_bytes: int, handle: int = 0) -> None:
        self._recent.clear()
        file = self._handles.get(handle)
        if file is not None:
            await self._truncate(file, length_bytes)
            return
        opened = await self.open(path)
        try:
            await self._truncate(self._of(opened.handle), length_bytes)
        finally:
            await self.release(opened.handle)

    async def _truncate(self, file: OpenFile, length_bytes: int) -> None:
        self._recent.clear()
        before = file.inode
        await file.truncate(length_bytes)
        if file.inode != before:
            self._files.pop(before, None)
            self._files[file.inode] = file

    async def release(self, handle: int) -> None:
        file = self._handles.pop(handle)
        file.handles -= 1
        if file.handles == 0:
            self._files.pop(file.inode, None)
            await file.close()

    def _of(self, handle: int) -> OpenFile:
        file = self._handles.get(handle)
        if file is None:
            raise NotFound(f"no file is open under handle {handle}")
        return file

    async def close(self) -> None:
        for handle in list(self._handles):
            await self.release(handle)
