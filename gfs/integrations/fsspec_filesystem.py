"""The fsspec file system `gfs://` for pandas, pyarrow, duckdb, dask, zarr. Open files: fsspec_files.

    pandas.read_parquet("gfs://m1:9500,m2:9500,m3:9500/data/part-0.parquet")
    fs = fsspec.filesystem("gfs", masters="m1:9500,m2:9500,m3:9500")

Deleted and replaced files go to the trash, as by any other client. Errors are OSErrors with our sentences.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import os
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, ClassVar, TypeVar

from fsspec.asyn import AsyncFileSystem, get_loop, sync_wrapper
from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from gfs.client.client import AsyncClient
from gfs.client.publishing import temporary_path
from gfs.errors import AlreadyExists, DirectoryNotEmpty, GfsError, IsADirectory, NotADirectory, NotFound
from gfs.integrations.attribute_cache import AttributeCache, Attributes
from gfs.integrations.fsspec_files import GFSFile, GFSStream, Publication
from gfs.integrations.os_errors import with_os_errors
from gfs.integrations.published import published
from gfs.integrations.which_cluster import Clients, find_cluster
from gfs.messages.base import Consistency
from gfs.messages.namespace import Entry
from gfs.vocabulary import TRASH_DIRECTORY

SCHEME = "gfs://"
ATTRIBUTE_SECONDS = 1.0  # how long info() may repeat itself; see AttributeCache
GLOB_DEPTH_MAX = 8  # a search no deeper asks once a level; a deeper one asks once a directory
_MAGIC = re.compile(r"[*?\[]")

T = TypeVar("T")


class GFSFileSystem(AsyncFileSystem):
    """A cluster as fsspec sees it. One instance serves any number of threads, and forked children."""

    protocol: ClassVar[tuple[str, ...]] = ("gfs",)
    root_marker = "/"
    async_impl = True

    def __init__(
        self,
        masters: str = "",
        *,
        config: str = "",
        user: str = "",
        groups: str = "",
        token_file: str = "",
        ca_file: str = "",
        retry_seconds: float = 0.0,
        consistency: Consistency = "linearizable",
        auto_mkdir: bool = True,
        attribute_seconds: float = ATTRIBUTE_SECONDS,
        **options: Any,  # Any: fsspec's own: asynchronous, loop, batch_size …
    ) -> None:
        """Nothing connects yet; the first call does.

        Args:
            masters, config, user, groups, token_file, ca_file, retry_seconds: which cluster, see
                find_cluster(). A token stays in its file: these arguments travel in pickles and task graphs.
            consistency: of reads; see gfs.aio.AsyncClient.
            auto_mkdir: make the missing parents of what is written, as object stores have it.
            attribute_seconds: how old an answer of info() and exists() may be, when another program changed
                the path; open() always asks. 0: never old.
        """
        super().__init__(**options)
        self._pid: int = os.getpid()  # of the process that `loop` belongs to
        which = partial(
            find_cluster,
            masters=masters,
            config=config,
            user=user,
            groups=groups,
            token_file=token_file,
            ca_file=ca_file,
            retry_seconds=retry_seconds,
        )
        self._clients = Clients(which, consistency=consistency)
        self._auto_mkdir = auto_mkdir
        self._attributes = AttributeCache(attribute_seconds)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:  # Any: a path or a list of them, as fsspec has it
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        text = os.fspath(path)
        if text.startswith(SCHEME):
            _, slash, below = text.removeprefix(SCHEME).partition("/")
            text = slash + below
        return "/" + text.strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        host = path.removeprefix(SCHEME).partition("/")[0] if path.startswith(SCHEME) else ""
        return {"masters": host} if host else {}

    @property
    def fsid(self) -> str:
        return f"gfs-{self._fs_token}"

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """Where the sync verbs run; in a forked child a loop of its own."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            if not self.asynchronous:
                self._loop = get_loop()
        return self._loop  # type: ignore[no-any-return]  # fsspec: untyped

    async def client(self) -> AsyncClient:
        """The SDK's client of the running loop, for what fsspec has no verb for. Raises GfsError."""
        return await self._clients.here()

    def end_later(self, work: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
        """Have the loop do `work` some time; nobody waits for it."""
        if work is not None and self._loop is not None and self._loop.is_running():
            asyncio.run_coroutine_threadsafe(work(), self._loop)

    async def below_parents(self, path: str, make: Callable[[], Awaitable[T]]) -> T:
        """Do `make`; when a parent of `path` is missing, make that first, unless `auto_mkdir` is off."""
        try:
            return await make()
        except NotFound:
            if not self._auto_mkdir:
                raise
        await (await self.client()).mkdir(self._parent(path), parents=True)
        return await make()

    def invalidate_cache(self, path: str | None = None) -> None:
        self._attributes.clear()

    # --- looking --------------------------------------------------------------------------------

    @staticmethod
    def attributes_of(entry: Entry) -> Attributes:
        """An entry in fsspec's form; times are seconds since 1970, `mode` is nine bits."""
        return {
            "name": entry.path,
            "size": entry.length_bytes if entry.kind == "file" else 0,
            "type": entry.kind,
            "created": entry.created_ms / 1000,
            "mtime": entry.modified_ms / 1000,
            "inode": entry.inode,
            "mode": entry.mode,
            "owner": entry.owner,
            "group": entry.group,
            "chunks": entry.chunk_count,
            "replication_goal": entry.replication_goal,
        }

    @with_os_errors
    async def _info(self, path: str, **_: Any) -> Attributes:
        path = self._strip_protocol(path)
        found = self._attributes.get(path)
        if found is not None:
            return found
        asked_at = self._attributes.generation
        try:
            entry = await (await self.client()).stat(path)
        except NotADirectory as error:  # something above it is a file, so it is not there
            raise NotFound(error.message) from error
        attributes = self.attributes_of(entry)
        self._attributes.put([attributes], asked_at=asked_at)
        return attributes

    @with_os_errors
    async def _ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = self._strip_protocol(path)
        client, asked_at = await self.client(), self._attributes.generation
        try:
            entries = [entry async for entry in client.list(path)]
        except NotADirectory:
            entries = [await client.stat(path)]
        listed = await self._all_attributes(entries)
        self._attributes.put(listed, asked_at=asked_at)
        return listed if detail else [one["name"] for one in listed]

    async def _find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, **kwargs: Any
    ) -> Any:
        """All files below `path`: a page of a thousand in each question, however many directories."""
        detail, prefix = kwargs.pop("detail", False), kwargs.pop("prefix", "")
        path = self._strip_protocol(path)
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        if maxdepth is not None and maxdepth > GLOB_DEPTH_MAX:
            return await super()._find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail)
        start = (path.rstrip("/") + "/" + prefix) if prefix else ""
        asked_at = self._attributes.generation
        entries = [
            entry
            for entry in await self._entries_below(path, maxdepth)
            if (withdirs or entry.kind == "file") and entry.path.startswith(start)
        ]
        attributes = await self._all_attributes(entries)
        self._attributes.put(attributes, asked_at=asked_at)
        found = {one["name"]: one for one in sorted(attributes, key=lambda one: str(one["name"]))}
        return found if detail else list(found)

    @with_os_errors
    async def _entries_below(self, path: str, maxdepth: int | None) -> list[Entry]:
        """`path` itself and what is below it, no deeper than `maxdepth`; nothing when it is not there."""
        client = await self.client()
        base = _MAGIC.sub(lambda found: f"[{found[0]}]", path).rstrip("/")
        if maxdepth is None:
            patterns = [base + "/**"]
        else:
            patterns = [base or "/", *(base + "/*" * depth for depth in range(1, maxdepth + 1))]
        entries = [entry for pattern in patterns async for entry in client.glob(pattern)]
        in_trash = path.startswith(TRASH_DIRECTORY)
        return [entry for entry in entries if in_trash or not entry.path.startswith(TRASH_DIRECTORY)]

    async def _all_attributes(self, entries: Iterable[Entry]) -> list[Attributes]:
        return [self.attributes_of(entry) for entry in await published(await self.client(), entries)]

    async def _created(self, path: str) -> datetime.datetime:
        return _as_time((await self._info(path))["created"])

    async def _modified(self, path: str) -> datetime.datetime:
        return _as_time((await self._info(path))["mtime"])

    created = sync_wrapper(_created)
    modified = sync_wrapper(_modified)

    async def _checksum(self, path: str) -> int:
        """A number that is another one after the file was replaced, written to or appended to."""
        info = await self._info(path)
        told = f"{info['inode']}-{info['mtime']}-{info['size']}-{info['chunks']}"
        return int.from_bytes(hashlib.sha256(told.encode()).digest()[:8], "big")

    checksum = sync_wrapper(_checksum)

    def ukey(self, path: str) -> str:
        return f"{self.checksum(path):016x}"

    # --- bytes ----------------------------------------------------------------------------------

    @with_os_errors
    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        client = await self.client()
        path = self._strip_protocol(path)
        if start is None and end is None:
            return await client.read_bytes(path)
        async with await client.open(path, "rb") as file:
            length = await file.length() if end is None or (start or 0) < 0 or end < 0 else None
            first, beyond, _unused = slice(start, end).indices(length if length is not None else end or 0)
            return await file.pread(first, max(0, beyond - first))

    @with_os_errors
    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        client = await self.client()
        path = self._strip_protocol(path)
        await self.below_parents(
            path, lambda: client.write_bytes(path, value, atomic=True, replace=mode != "create")
        )
        self.invalidate_cache()

    @with_os_errors
    async def _put_file(
        self,
        lpath: str,
        rpath: str,
        mode: str = "overwrite",
        callback: Callback = DEFAULT_CALLBACK,
        **_: Any,
    ) -> None:
        rpath = self._strip_protocol(rpath)
        client = await self.client()
        if os.path.isdir(lpath):
            await client.mkdir(rpath, parents=True)
        else:
            callback.set_size(os.path.getsize(lpath))
            await self.below_parents(
                rpath,
                lambda: client.put_file(
                    lpath, rpath, replace=mode != "create", progress=callback.relative_update
                ),
            )
        self.invalidate_cache()

    @with_os_errors
    async def _get_file(
        self, rpath: str, lpath: Any, callback: Callback = DEFAULT_CALLBACK, **_: Any
    ) -> None:
        rpath = self._strip_protocol(rpath)
        client = await self.client()
        if hasattr(lpath, "write"):
            async with await client.open(rpath, "rb") as file:
                while data := await file.read(GFSFile.DEFAULT_BLOCK_SIZE):
                    lpath.write(data)
            return
        try:
            await client.get_file(rpath, os.fspath(lpath), progress=callback.relative_update)
        except IsADirectory:
            os.makedirs(lpath, exist_ok=True)

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any) -> GFSFile:
        return GFSFile(self, path, mode, block_size=block_size or GFSFile.DEFAULT_BLOCK_SIZE, **kwargs)

    @with_os_errors
    async def open_async(self, path: str, mode: str = "rb", **_: Any) -> GFSStream:
        """A stream for code with an event loop, in mode rb, wb, xb or ab. Written files appear at close."""
        path = self._strip_protocol(path)
        if mode == "rb":
            return GFSStream(self, path, mode, await (await self.client()).open(path, "rb"))
        if mode not in ("wb", "xb", "ab"):
            raise ValueError(f"mode {mode!r}: a stream is opened in mode rb, wb, xb or ab")
        publication = Publication(self, path, mode)
        await publication.begin()
        return GFSStream(self, path, mode, publication)

    @with_os_errors
    async def _record_append(self, path: str, data: bytes) -> int:
        """Append one record, whoever else does; returns its offset. The file must be there. GFS §3.3."""
        offset = await (await self.client()).record_append(self._strip_protocol(path), data)
        self.invalidate_cache()
        return offset

    record_append = sync_wrapper(_record_append)

    # --- changing names -------------------------------------------------------------------------

    @with_os_errors
    async def _mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        client, path = await self.client(), self._strip_protocol(path)
        if create_parents and self._parent(path) != self.root_marker:
            await client.mkdir(self._parent(path), parents=True)
        await client.mkdir(path)
        self.invalidate_cache()

    @with_os_errors
    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        client, path = await self.client(), self._strip_protocol(path)
        if not exist_ok and await client.exists(path):
            raise AlreadyExists(f"{path} exists already")
        await client.mkdir(path, parents=True)
        self.invalidate_cache()

    @with_os_errors
    async def _rm_file(self, path: str, **_: Any) -> None:
        client, path = await self.client(), self._strip_protocol(path)
        try:
            await client.delete(path)
        except DirectoryNotEmpty as error:
            raise IsADirectory(f"{path} is a directory") from error
        self.invalidate_cache()

    async def _rm(
        self,
        path: Any,
        recursive: bool = False,
        batch_size: int | None = None,
        maxdepth: int | None = None,
        **_: Any,
    ) -> None:
        """Into the trash; a whole tree in one step."""
        if maxdepth is not None:
            await super()._rm(path, recursive=recursive, batch_size=batch_size, maxdepth=maxdepth)
            return
        for one in path if isinstance(path, list) else [path]:
            names = await self._glob(one) if _MAGIC.search(one) else [self._strip_protocol(one)]
            if not names:
                raise FileNotFoundError(one)
            for name in names:
                await (self._rm_tree(name) if recursive else self._rm_file(name))

    @with_os_errors
    async def _rm_tree(self, path: str) -> None:
        await (await self.client()).delete(path, recursive=True)
        self.invalidate_cache()

    @with_os_errors
    async def _rmdir(self, path: str) -> None:
        client, path = await self.client(), self._strip_protocol(path)
        if (await client.stat(path)).kind != "directory":
            raise NotADirectory(f"{path} is not a directory")
        await client.delete(path)
        self.invalidate_cache()

    rmdir = sync_wrapper(_rmdir)

    @with_os_errors
    async def _cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """A copy as of one moment; no byte is moved until one of the two is written to. GFS §3.4."""
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        client = await self.client()
        if (await client.stat(source)).kind == "directory":
            await client.mkdir(target, parents=True)
        else:
            hidden = temporary_path(target)
            await self.below_parents(target, lambda: client.snapshot(source, hidden))
            try:
                await client.rename(hidden, target, replace=True)
            except GfsError:
                await client.delete(hidden, skip_trash=True)
                raise
        self.invalidate_cache()

    @with_os_errors
    async def _mv_file(self, path1: str, path2: str) -> None:
        """One rename, of a file or of a whole tree; a file in its way goes to the trash."""
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        client = await self.client()
        await self.below_parents(target, lambda: client.rename(source, target, replace=True))
        self.invalidate_cache()

    async def _mv(self, path1: Any, path2: Any, recursive: bool = False, **_: Any) -> None:
        """Into `path2` when that is a directory or ends with '/', else to that name. One step for each."""
        if isinstance(path1, list) and isinstance(path2, list):
            pairs = list(zip(path1, path2, strict=True))
        else:
            sources = path1 if isinstance(path1, list) else [path1]
            names = [
                name
                for one in sources
                for name in (await self._glob(one) if _MAGIC.search(one) else [self._strip_protocol(one)])
            ]
            several = isinstance(path1, list) or _MAGIC.search(path1) is not None
            into = several or path2.endswith("/") or await self._isdir(path2)
            folder = self._strip_protocol(path2).rstrip("/")
            pairs = [(name, f"{folder}/{name.rpartition('/')[2]}" if into else path2) for name in names]
        for source, target in pairs:
            await self._mv_file(source, target)

    mv = sync_wrapper(_mv)

    @with_os_errors
    async def _touch(self, path: str, truncate: bool = True, **_: Any) -> None:
        """An empty file; with `truncate` off one that is there stays as it is, its times too."""
        client, path = await self.client(), self._strip_protocol(path)
        try:
            await self.below_parents(path, lambda: client.create(path, replace=truncate))
        except AlreadyExists:
            if truncate:
                raise
        self.invalidate_cache()

    touch = sync_wrapper(_touch)


def _as_time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC)
