"""The sync face of the SDK: the same verbs, run in one loop thread per client. It decides nothing."""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from gfs import aio
from gfs.client.checking import VerifiedChunk
from gfs.client.client import AsyncClient, Names, Places, WriteMode
from gfs.client.file import AsyncReader, AsyncWriter
from gfs.client.master_session import Freshness
from gfs.client.operating import Operator
from gfs.client.records import Record
from gfs.client.transfer import Progress
from gfs.errors import Unavailable
from gfs.messages.base import Consistency
from gfs.messages.check import CheckFilesReply
from gfs.messages.chunks import ChunkPlace
from gfs.messages.cluster import ClusterStatusReply
from gfs.messages.namespace import Entry
from gfs.messages.placement import (
    ChunkServersReply,
    ExplainedChunk,
    ExplainReply,
    RebalanceReply,
    ReplicationQueueReply,
    TenureReply,
)
from gfs.messages.policies import PolicyFields, PolicyReply
from gfs.messages.trash import TrashEntry
from gfs.settings import ClientSettings
from gfs.vocabulary import KIB, MIB

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

READ_BUFFER_BYTES = 1 * MIB  # of the buffered reader that open() gives
WRITE_GATHER_BYTES = 256 * KIB  # small writes are gathered before they cross to the loop's thread

T = TypeVar("T")


def connect(
    masters: str | Sequence[str],
    *,
    settings: ClientSettings | None = None,
    consistency: Consistency = "linearizable",
) -> Client:
    """Connect to a cluster, for code without an event loop; close the client, or use it in `with`.

        with gfs.connect("gfs://127.0.0.1:9500") as fs:
            fs.mkdir("/logs", parents=True)
            fs.write_bytes("/logs/today", b"hello")
            with fs.open("/logs/today") as file:  # rb; wb, xb and ab write
                first = file.read(5)
            at = fs.record_append("/logs/today", b"from many writers, each once")
            names = [entry.path for entry in fs.list("/logs")]

    help(gfs.Client) lists the verbs, help(gfs.aio.AsyncClient) tells what each promises and raises; all
    errors are in gfs.errors. `gfs status` prints the addresses.

    Args:
        masters: "gfs://m1:9500,m2:9500,m3:9500", or a sequence of "host:port"; any one that lives suffices.
        settings: time limits and sizes, by default those of gfs.settings.
        consistency: of all reads that do not name another: "linearizable" sees every write answered before;
            "session" may be older, but never goes back in time; "stale" is answered without a quorum, too.
    Returns: at once; the first request looks for the leader.
    Raises: InvalidArgument for something that is not an address.
    """
    return Client(lambda: aio.connect(masters, settings=settings, consistency=consistency))


class _LoopThread:
    """An event loop in a daemon thread, and the way into it from any other thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gfs-client", daemon=True)
        self._thread.start()
        self._stopped = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:  # Any: what asyncio sends into a coroutine
        """Run `work` in the loop and wait for it; an interrupt of the waiting thread cancels it."""
        assert threading.current_thread() is not self._thread, "the sync client was called from its own loop"
        if self._stopped:
            work.close()
            raise Unavailable("this client is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError as error:
            raise Unavailable("this client was closed") from error
        except BaseException:
            future.cancel()
            raise

    def each(self, items: AsyncIterator[T]) -> Iterator[T]:
        """The items as they come."""

        async def following() -> T | None:
            return await anext(items, None)

        while (item := self.run(following())) is not None:
            yield item

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` without waiting for it, from any thread; once the loop has stopped, not at all."""
        if self._stopped:
            work.close()
        else:
            asyncio.run_coroutine_threadsafe(work, self._loop)

    def stop(self) -> None:
        """End what other threads still wait for, and the loop."""
        self._stopped = True
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class Client:
    """A connection to a cluster, for code without an event loop. Any number of threads may use it.

    Its verbs are AsyncClient's, with the same promises and errors. Open files belong to one thread at a time.
    """

    def __init__(self, connecting: Callable[[], Coroutine[Any, Any, AsyncClient]]) -> None:
        self._thread = _LoopThread()
        self._closing = threading.Lock()
        self._closed = False
        try:
            self._client = self._thread.run(connecting())
        except BaseException:
            self._thread.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. Open files fail; close them before. May be called again."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._thread.run(self._client.close())
                self._thread.stop()

    @property
    def freshness(self) -> Freshness | None:
        return self._client.freshness

    def stat(self, path: str, *, consistency: Consistency | None = None) -> Entry:
        return self._thread.run(self._client.stat(path, consistency=consistency))

    def exists(self, path: str, *, consistency: Consistency | None = None) -> bool:
        return self._thread.run(self._client.exists(path, consistency=consistency))

    def list(self, path: str, *, consistency: Consistency | None = None) -> Iterator[Entry]:
        return self._each(self._client.list(path, consistency=consistency))

    def listdir(self, path: str, *, consistency: Consistency | None = None) -> Names:
        return self._thread.run(self._client.listdir(path, consistency=consistency))

    def glob(self, pattern: str, *, consistency: Consistency | None = None) -> Iterator[Entry]:
        return self._each(self._client.glob(pattern, consistency=consistency))

    def chunks(self, path: str, *, consistency: Consistency | None = None) -> Places:
        return self._thread.run(self._client.chunks(path, consistency=consistency))

    def cluster_status(self) -> ClusterStatusReply:
        return self._thread.run(self._client.cluster_status())

    @property
    def operator(self) -> BlockingOperator:
        """What operators ask: chunk servers, clones, why replicas are where they are."""
        return BlockingOperator(self._client.operator, self._thread)

    def readmit_master(self, member: str) -> None:
        self._thread.run(self._client.readmit_master(member))

    def check(self, path: str, *, with_places: bool = False) -> Iterator[CheckFilesReply]:
        return self._each(self._client.check(path, with_places=with_places))

    def verify_chunk(self, place: ChunkPlace) -> VerifiedChunk:
        return self._thread.run(self._client.verify_chunk(place))

    def repair(self, paths: Names) -> int:
        return self._thread.run(self._client.repair(paths))

    def mkdir(self, path: str, *, parents: bool = False) -> None:
        self._thread.run(self._client.mkdir(path, parents=parents))

    def create(self, path: str, *, replication_goal: int = 0, replace: bool = False) -> None:
        self._thread.run(self._client.create(path, replication_goal=replication_goal, replace=replace))

    def delete(self, path: str, *, recursive: bool = False, skip_trash: bool = False) -> None:
        self._thread.run(self._client.delete(path, recursive=recursive, skip_trash=skip_trash))

    def trash(self, under: str = "/", *, consistency: Consistency | None = None) -> Iterator[TrashEntry]:
        return self._each(self._client.trash(under, consistency=consistency))

    def undelete(self, path: str, *, destination: str = "") -> str:
        return self._thread.run(self._client.undelete(path, destination=destination))

    def purge(self, path: str, *, everything: bool = False) -> int:
        return self._thread.run(self._client.purge(path, everything=everything))

    def rename(self, source: str, destination: str, *, replace: bool = False) -> None:
        self._thread.run(self._client.rename(source, destination, replace=replace))

    def snapshot(self, source: str, target: str) -> None:
        self._thread.run(self._client.snapshot(source, target))

    def policy(self, path: str, *, consistency: Consistency | None = None) -> PolicyReply:
        return self._thread.run(self._client.policy(path, consistency=consistency))

    def set_policy(self, path: str, fields: PolicyFields, *, unset: Sequence[str] = ()) -> None:
        self._thread.run(self._client.set_policy(path, fields, unset=unset))

    def chmod(self, path: str, mode: int) -> None:
        self._thread.run(self._client.chmod(path, mode))

    def chown(self, path: str, *, owner: str | None = None, group: str | None = None) -> None:
        self._thread.run(self._client.chown(path, owner=owner, group=group))

    @overload
    def open(
        self, path: str, mode: Literal["rb"] = "rb", *, consistency: Consistency | None = ...
    ) -> io.BufferedReader: ...

    @overload
    def open(
        self, path: str, mode: WriteMode, *, atomic: bool = ..., replication_goal: int = ...
    ) -> BlockingWriter: ...

    @overload
    def open(
        self,
        path: str,
        mode: str,
        *,
        atomic: bool = ...,
        replication_goal: int = ...,
        consistency: Consistency | None = ...,
    ) -> io.BufferedReader | BlockingWriter: ...

    def open(
        self,
        path: str,
        mode: str = "rb",
        *,
        atomic: bool = False,
        replication_goal: int = 0,
        consistency: Consistency | None = None,
    ) -> io.BufferedReader | BlockingWriter:
        """A binary file as the io module knows them; modes and promises as AsyncClient.open()."""
        file = self._thread.run(
            self._client.open(
                path, mode, atomic=atomic, replication_goal=replication_goal, consistency=consistency
            )
        )
        if isinstance(file, AsyncWriter):
            return BlockingWriter(file, self._thread)
        return io.BufferedReader(BlockingReader(file, self._thread), READ_BUFFER_BYTES)

    def read(
        self,
        path: str,
        offset: int = 0,
        length_bytes: int = -1,
        *,
        consistency: Consistency | None = None,
    ) -> bytes:
        return self._thread.run(self._client.read(path, offset, length_bytes, consistency=consistency))

    def read_bytes(self, path: str, *, consistency: Consistency | None = None) -> bytes:
        return self._thread.run(self._client.read_bytes(path, consistency=consistency))

    def write(self, path: str, offset: int, data: bytes | bytearray | memoryview) -> None:
        self._thread.run(self._client.write(path, offset, data))

    def record_append(self, path: str, data: bytes | bytearray | memoryview, *, framed: bool = False) -> int:
        return self._thread.run(self._client.record_append(path, data, framed=framed))

    def records(self, path: str, *, offset: int = 0, follow: bool = False) -> Iterator[Record]:
        """As AsyncClient.records(); with `follow`, waiting for the next record can be interrupted."""
        records = self._client.records(path, offset=offset, follow=follow)
        try:
            yield from self._each(records)
        finally:
            self._thread.begin(records.aclose())

    def write_bytes(
        self, path: str, data: bytes | bytearray | memoryview, *, atomic: bool = False, replace: bool = True
    ) -> None:
        self._thread.run(self._client.write_bytes(path, data, atomic=atomic, replace=replace))

    def put_file(
        self,
        source: str,
        destination: str,
        *,
        replace: bool = True,
        atomic: bool = True,
        progress: Progress | None = None,
    ) -> int:
        """As AsyncClient.put_file(); `progress` is called in the client's thread."""
        return self._thread.run(
            self._client.put_file(source, destination, replace=replace, atomic=atomic, progress=progress)
        )

    def get_file(self, source: str, destination: str, *, progress: Progress | None = None) -> int:
        """As AsyncClient.get_file(); `progress` is called in the client's thread."""
        return self._thread.run(self._client.get_file(source, destination, progress=progress))

    def _each(self, items: AsyncIterator[T]) -> Iterator[T]:
        return self._thread.each(items)


class BlockingOperator:
    """Operator's verbs, for code without an event loop."""

    def __init__(self, operator: Operator, thread: _LoopThread) -> None:
        self._operator = operator
        self._thread = thread

    def chunkservers(self) -> ChunkServersReply:
        return self._thread.run(self._operator.chunkservers())

    def set_tenure(self, server: str, tenure: str, *, force: bool = False) -> TenureReply:
        return self._thread.run(self._operator.set_tenure(server, tenure, force=force))

    def replication_queue(self, *, limit: int = 100) -> ReplicationQueueReply:
        return self._thread.run(self._operator.replication_queue(limit=limit))

    def rebalance(self, *, dry_run: bool = False) -> RebalanceReply:
        return self._thread.run(self._operator.rebalance(dry_run=dry_run))

    def explain_chunk(self, handle: int) -> ExplainReply:
        return self._thread.run(self._operator.explain_chunk(handle))

    def explain(self, path: str, *, index: int | None = None) -> Iterator[ExplainedChunk]:
        return self._thread.each(self._operator.explain(path, index=index))


class BlockingReader(io.RawIOBase):
    """A file open for reading; what io.BufferedReader and shutil.copyfileobj need of a raw file."""

    def __init__(self, file: AsyncReader, thread: _LoopThread) -> None:
        self._file = file
        self._thread = thread

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        return self._thread.run(self._file.readinto(view))

    def readall(self) -> bytes:
        return self._thread.run(self._file.read())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self._file.tell()
        elif whence == io.SEEK_END:
            offset += self._thread.run(self._file.length())
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            try:
                self._thread.run(self._file.close())
            finally:
                super().close()


class BlockingWriter(io.RawIOBase):
    """A file open for writing; every write() takes all it is given. Small writes are gathered.

    Leaving `with` by an exception discards: an atomic file then never appears.
    """

    def __init__(self, file: AsyncWriter, thread: _LoopThread) -> None:
        self._file = file
        self._thread = thread
        self._gathered = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        """Accept all of `data`. Raises: what made an earlier write fail."""
        self._check_open()
        view = memoryview(data).cast("B")
        if len(self._gathered) + len(view) < WRITE_GATHER_BYTES:
            self._gathered += view
        else:
            self._hand_over()
            self._thread.run(self._file.write(data if isinstance(data, bytes) else view))
        return len(view)

    def tell(self) -> int:
        return self._file.tell() + len(self._gathered)

    def flush(self) -> None:
        """Return when every byte written so far is on every replica."""
        if not self.closed:
            self._hand_over()
            self._thread.run(self._file.flush())

    def close(self) -> None:
        """Flush and publish. Raises: when any byte is not acknowledged."""
        if self.closed:
            return
        try:
            self._hand_over()
            self._thread.run(self._file.close())
        except BaseException:
            self._end_by_discarding()
            raise
        self._end()

    def discard(self) -> None:
        """Stop. An atomic file never appears; another keeps what has been written of it."""
        if not self.closed:
            self._end_by_discarding()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        # io's finalizer would close, and so publish, what its owner has dropped in the middle.
        pass

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")  # what the io module promises

    def _hand_over(self) -> None:
        if self._gathered:
            gathered, self._gathered = self._gathered, bytearray()
            self._thread.run(self._file.write(gathered))

    def _end_by_discarding(self) -> None:
        try:
            self._thread.run(self._file.discard())
        finally:
            self._end()

    def _end(self) -> None:
        self._gathered = bytearray()
        # RawIOBase.close() would flush first; there is nothing left to flush.
        self._is_closed = True

    _is_closed = False

    @property
    def closed(self) -> bool:
        return self._is_closed
