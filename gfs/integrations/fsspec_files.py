"""Open files as fsspec knows them: buffered ones for threads, streams for event loops. No other verbs.

A written file has a hidden name until it is closed, and is renamed then, so nobody ever reads half of it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fsspec.asyn import AbstractAsyncStreamedFile, sync
from fsspec.spec import AbstractBufferedFile

from gfs.client.file import AsyncReader, AsyncWriter
from gfs.client.publishing import temporary_path
from gfs.errors import AlreadyExists, GfsError, IsADirectory, NotFound, Superseded
from gfs.integrations.os_errors import with_os_errors
from gfs.vocabulary import MIB

if TYPE_CHECKING:
    from gfs.integrations.fsspec_filesystem import GFSFileSystem

BLOCK_BYTES = 4 * MIB  # read at once, and gathered before it is sent


class Publication:
    """A file that is being written: under a hidden name until publish(). Appending has no hidden name."""

    def __init__(self, filesystem: GFSFileSystem, path: str, mode: str) -> None:
        self._filesystem = filesystem
        self._path = path
        self._mode = mode
        self._hidden = "" if mode == "ab" else temporary_path(path)
        self._writer: AsyncWriter | None = None
        self._over = False

    @property
    def length_bytes(self) -> int:
        return self._written.tell()

    async def begin(self) -> None:
        """Make the hidden file. What would be refused at the end is refused now: NotFound, AlreadyExists …"""
        client = await self._filesystem.client()
        if self._mode == "ab":
            self._writer = await self._filesystem.below_parents(
                self._path, lambda: client.open(self._path, "ab")
            )
            return
        try:
            found = await client.stat(self._path)
        except NotFound:
            pass
        else:
            if found.kind == "directory":
                raise IsADirectory(f"{self._path} is a directory")
            if self._mode == "xb":
                raise AlreadyExists(f"{self._path} exists already")
        self._writer = await self._filesystem.below_parents(
            self._path, lambda: client.open(self._hidden, "xb")
        )

    async def write(self, data: bytes | memoryview) -> None:
        await self._written.write(data)

    async def end(self) -> None:
        """Every byte is safe when this returns; the file has its hidden name still."""
        await self._written.close()

    async def publish(self) -> None:
        """Give the ended file its name. Raises: AlreadyExists when mode "xb" lost a race."""
        if self._over:
            return
        self._over = True
        if self._hidden:
            client = await self._filesystem.client()
            await client.rename(self._hidden, self._path, replace=self._mode == "wb")
        self._filesystem.invalidate_cache()

    async def discard(self) -> None:
        """As if it had never been opened; what was appended stays."""
        if self._over:
            return
        self._over = True
        if self._writer is None:
            return
        try:
            await self._writer.discard()
            if self._hidden:
                client = await self._filesystem.client()
                await client.delete(self._hidden, skip_trash=True)
        except GfsError:
            pass  # it is hidden and harms nobody; what made us discard it is what the caller has to hear

    @property
    def _written(self) -> AsyncWriter:
        assert self._writer is not None, "not begun"
        return self._writer


class GFSFile(AbstractBufferedFile):
    """A file open in mode rb, wb, xb or ab. A reader has the bytes of the file that was there when it was
    opened; when another takes its path, reads raise OSError (ESTALE) instead of mixing two files.

    Leaving `with` by an exception, or dropping the file unclosed, publishes nothing.
    """

    DEFAULT_BLOCK_SIZE = BLOCK_BYTES

    def __init__(
        self,
        fs: GFSFileSystem,
        path: str,
        mode: str = "rb",
        *,
        autocommit: bool = True,
        size: int | None = None,
        **kwargs: Any,  # Any: fsspec's options, passed on
    ) -> None:
        """`size` is asked of the cluster all the same: the file may have been replaced since it was told."""
        self._process = os.getpid()
        self._reader: AsyncReader | None = None
        self._publication: Publication | None = None
        if mode == "rb":
            size = sync(fs.loop, self._open_reader, fs, path)
        elif not autocommit and mode == "ab":
            raise NotImplementedError("an append cannot be taken back, so it has no place in a transaction")
        super().__init__(fs, path, mode, autocommit=autocommit, size=size, **kwargs)
        if mode in ("wb", "xb", "ab"):
            self._publication = Publication(fs, path, mode)
            sync(fs.loop, with_os_errors(self._publication.begin))
            self.loc = self._publication.length_bytes

    def commit(self) -> None:
        """Publish what was closed in a transaction."""
        assert self._publication is not None
        sync(self.fs.loop, with_os_errors(self._publication.publish))

    def discard(self) -> None:
        if self._publication is not None:
            self.closed = True
            sync(self.fs.loop, self._publication.discard)

    def close(self) -> None:
        if self.closed:
            return
        try:
            super().close()
        except BaseException:
            self.discard()
            raise
        if self._reader is not None and self._process == os.getpid():
            sync(self.fs.loop, self._reader.close)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._publication is not None:
            self.discard()
        else:
            self.close()

    def __del__(self) -> None:
        # A finalizer may run in any thread, also the loop's own: it can only ask.
        if not self.closed and self._process == os.getpid():
            self.closed = True
            self.fs.end_later(self._reader.close if self._reader else None)
            self.fs.end_later(self._publication.discard if self._publication else None)

    # --- what AbstractBufferedFile asks of a file ------------------------------------------------

    def _fetch_range(self, start: int, end: int) -> bytes:
        return sync(self.fs.loop, self._read_range, start, end)  # type: ignore[no-any-return]  # fsspec: untyped

    def _initiate_upload(self) -> None:
        """Begun when it was opened, so that what would be refused is refused early."""

    def _upload_chunk(self, final: bool = False) -> bool:
        if self._process != os.getpid():
            raise OSError(f"{self.path} is being written by the process that opened it, which was forked")
        sync(self.fs.loop, self._send, self.buffer.getbuffer(), final)
        return True

    @with_os_errors
    async def _send(self, data: memoryview, final: bool) -> None:
        assert self._publication is not None
        if data:
            await self._publication.write(data)
        if final:
            await self._publication.end()
            if self.autocommit:
                await self._publication.publish()

    @with_os_errors
    async def _read_range(self, start: int, end: int) -> bytes:
        if self._process != os.getpid():
            await self._open_again()
        assert self._reader is not None
        return await self._reader.pread(start, max(0, end - start))

    @with_os_errors
    async def _open_reader(self, fs: GFSFileSystem, path: str) -> int:
        client = await fs.client()
        self._reader = await client.open(path, "rb")
        length = await self._reader.length()
        self._details = {**fs.attributes_of(self._reader.entry), "size": length}
        return length

    async def _open_again(self) -> None:
        """In a forked child: by connections of its own. The parent's reader stays referenced, see forks."""
        reader = await (await self.fs.client()).open(self.path, "rb")
        if reader.entry.inode != self.details["inode"]:
            await reader.close()
            raise Superseded(f"another file has taken the path {self.path} since it was opened")
        self._left_behind = self._reader
        self._reader, self._process = reader, os.getpid()


class GFSStream(AbstractAsyncStreamedFile):
    """A file for code with an event loop: `async with await fs.open_async(path, "wb") as file`."""

    def __init__(self, fs: GFSFileSystem, path: str, mode: str, opened: AsyncReader | Publication) -> None:
        # fsspec's own would make a cache and ask for the length, which blocks.
        self.fs, self.path, self.mode = fs, path, mode
        self._opened = opened
        self._closed = False
        if isinstance(opened, AsyncReader):
            self.details = fs.attributes_of(opened.entry)

    @with_os_errors
    async def read(self, length: int = -1) -> bytes:
        return await self._reading.read(length)

    async def seek(self, loc: int, whence: int = 0) -> int:
        if whence == 1:
            loc += self._reading.tell()
        elif whence == 2:
            loc += await with_os_errors(self._reading.length)()
        if loc < 0:
            raise ValueError("Seek before start of file")
        return self._reading.seek(loc)

    async def tell(self) -> int:
        return self._opened.tell() if isinstance(self._opened, AsyncReader) else self._opened.length_bytes

    @with_os_errors
    async def write(self, data: bytes | memoryview) -> int:
        await self._writing.write(data)
        return memoryview(data).nbytes

    @with_os_errors
    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if isinstance(self._opened, AsyncReader):
            await self._opened.close()
            return
        try:
            await self._opened.end()
            await self._opened.publish()
        except BaseException:
            await self._opened.discard()
            raise

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and isinstance(self._opened, Publication):
            self._closed = True
            await self._opened.discard()
        else:
            await self.close()

    def __del__(self) -> None:
        """Nothing: fsspec's own would look for a buffer that a stream has not."""

    @property
    def _reading(self) -> AsyncReader:
        if self._closed or not isinstance(self._opened, AsyncReader):
            raise ValueError(f"{self.path} is not open for reading")
        return self._opened

    @property
    def _writing(self) -> Publication:
        if self._closed or not isinstance(self._opened, Publication):
            raise ValueError(f"{self.path} is not open for writing")
        return self._opened
