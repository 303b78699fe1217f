"""The sync face of the SDK: the same verbs, run in one loop thread per client. It decides nothing."""

from __future__ import annotations

import functools
import io
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import IO, Any, Literal, Self, TypeVar, cast, get_args, overload

from gfs import aio
from gfs.client.blocking_files import BlockingReader, BlockingWriter, check_text
from gfs.client.checking import VerifiedChunk
from gfs.client.client import AsyncClient, Names, Places, WriteMode
from gfs.client.file import AsyncWriter
from gfs.client.forks import keep_in_children
from gfs.client.loop_thread import LoopThread
from gfs.client.master_session import Freshness
from gfs.client.operating import Operator, Progress, unheard
from gfs.client.records import Record
from gfs.client.transfer import Progress as TransferProgress
from gfs.client.watching import AsyncWatch
from gfs.errors import InvalidArgument
from gfs.messages.base import Ack, Consistency
from gfs.messages.changes import Change
from gfs.messages.check import CheckFilesReply
from gfs.messages.chunks import ChunkPlace
from gfs.messages.cluster import ClusterStatusReply, CompareStatesReply
from gfs.messages.members import MemberChangeReply, MembersReply
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
from gfs.messages.security import TokensReply
from gfs.messages.trash import TrashEntry
from gfs.settings import ClientSettings
from gfs.vocabulary import MIB

READ_BUFFER_BYTES = 1 * MIB  # of the buffered reader that open() gives

TextMode = Literal["r", "rt", "w", "wt", "x", "xt", "a", "at"]
TEXT_MODES: frozenset[str] = frozenset(get_args(TextMode))

T = TypeVar("T")
C = TypeVar("C")

_connecting_anew = threading.Lock()  # after a fork, by the first of several threads


def _explained_by(original: type) -> Callable[[type[C]], type[C]]:
    """The same verbs are explained once: what has no words of its own here has those of `original`."""

    def explain(face: type[C]) -> type[C]:
        for name, member in vars(face).items():
            if callable(member) and not name.startswith("_") and not member.__doc__:
                member.__doc__ = getattr(original, name).__doc__
        return face

    return explain


def _free_the_lock() -> None:
    # A thread that held it at the moment of the fork is not there in the child to let it go.
    global _connecting_anew
    _connecting_anew = threading.Lock()


os.register_at_fork(after_in_child=_free_the_lock)


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
    return Client(functools.partial(aio.connect, masters, settings=settings, consistency=consistency))


@_explained_by(AsyncClient)
class Client:
    """A connection to a cluster, for code without an event loop. Any number of threads may use it.

    Its verbs are AsyncClient's, with the same promises and errors. Open files belong to one thread at a time.

    A pickle carries how it was connected, and connects anew. So does a forked child when it first uses it;
    files opened before the fork stay the parent's, and say so.
    """

    def __init__(self, connecting: Callable[[], Coroutine[Any, Any, AsyncClient]]) -> None:
        self._connecting = connecting
        self._closed = False
        self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Self], tuple[Callable[[], Coroutine[Any, Any, AsyncClient]]]]:
        return type(self), (self._connecting,)

    @property
    def _thread(self) -> LoopThread:
        self._be_in_this_process()
        return self._own_thread

    @property
    def _client(self) -> AsyncClient:
        self._be_in_this_process()
        return self._own_client

    def _be_in_this_process(self) -> None:
        if self._process == os.getpid():
            return
        with _connecting_anew:
            if self._process != os.getpid() and not self._closed:
                self._connect()

    def _connect(self) -> None:
        thread = LoopThread()
        try:
            client = thread.run(self._connecting())
        except BaseException:
            thread.stop()
            raise
        keep_in_children(thread)
        keep_in_children(client)
        self._closing = threading.Lock()
        self._own_thread, self._own_client = thread, client
        self._process = os.getpid()  # last: until then nobody takes what the parent had for ours

    def close(self) -> None:
        """Hang up. Open files fail; close them before. May be called again."""
        if self._process != os.getpid():
            self._closed = True  # the connections are the parent's
            return
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

    def watch(self, path: str = "/", *, since: int = 0) -> BlockingWatch:
        return BlockingWatch(self._thread.run(self._client.watch(path, since=since)), self._thread)

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

    def replica_bytes(self, server: str, handle: int, version: int, *, capability: bytes = b"") -> bytes:
        return self._thread.run(self._client.replica_bytes(server, handle, version, capability=capability))

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
        mode: TextMode,
        *,
        atomic: bool = ...,
        replication_goal: int = ...,
        consistency: Consistency | None = ...,
        encoding: str | None = ...,
        errors: str | None = ...,
        newline: str | None = ...,
    ) -> io.TextIOWrapper: ...

    @overload
    def open(
        self,
        path: str,
        mode: str,
        *,
        atomic: bool = ...,
        replication_goal: int = ...,
        consistency: Consistency | None = ...,
        encoding: str | None = ...,
        errors: str | None = ...,
        newline: str | None = ...,
    ) -> io.BufferedReader | BlockingWriter | io.TextIOWrapper: ...

    def open(
        self,
        path: str,
        mode: str = "rb",
        *,
        atomic: bool = False,
        replication_goal: int = 0,
        consistency: Consistency | None = None,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> io.BufferedReader | BlockingWriter | io.TextIOWrapper:
        """A file as the io module knows them; modes and promises as AsyncClient.open().

        "r", "w", "x" and "a", also with a "t", are for text: `encoding` (UTF-8 if not said, wherever the
        program runs), `errors` and `newline` then mean what they do for Python's own open(). Without a mode
        a file is read as bytes.
        Raises: InvalidArgument for these three with a binary mode, or for an encoding there is not.
        """
        text = mode in TEXT_MODES
        if not text and (encoding, errors, newline) != (None, None, None):
            raise InvalidArgument(
                f"the binary mode {mode!r} takes no encoding, errors or newline",
                hint="Text is read with mode 'r' and written with 'w', 'x' or 'a'.",
            )
        if text:
            check_text(encoding, errors, newline)  # before a file is made or replaced
            mode = f"{mode[0]}b"
        file = self._thread.run(
            self._client.open(
                path, mode, atomic=atomic, replication_goal=replication_goal, consistency=consistency
            )
        )
        binary: io.BufferedReader | BlockingWriter
        if isinstance(file, AsyncWriter):
            binary = BlockingWriter(file, self._thread)
        else:
            binary = io.BufferedReader(BlockingReader(file, self._thread), READ_BUFFER_BYTES)
        if not text:
            return binary
        return io.TextIOWrapper(cast("IO[bytes]", binary), encoding or "utf-8", errors, newline)

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
        progress: TransferProgress | None = None,
    ) -> int:
        """As AsyncClient.put_file(); `progress` is called in the client's thread."""
        return self._thread.run(
            self._client.put_file(source, destination, replace=replace, atomic=atomic, progress=progress)
        )

    def get_file(self, source: str, destination: str, *, progress: TransferProgress | None = None) -> int:
        """As AsyncClient.get_file(); `progress` is called in the client's thread."""
        return self._thread.run(self._client.get_file(source, destination, progress=progress))

    def _each(self, items: AsyncIterator[T]) -> Iterator[T]:
        return self._thread.each(items)


class BlockingWatch:
    """AsyncWatch for code without an event loop: an endless iterator, for one thread."""

    def __init__(self, watch: AsyncWatch, thread: LoopThread) -> None:
        self._watch, self._thread = watch, thread

    @property
    def position(self) -> int:
        """As AsyncWatch.position."""
        return self._watch.position

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Change:
        return self._thread.run(anext(self._watch))


@_explained_by(Operator)
class BlockingOperator:
    """Operator's verbs, for code without an event loop."""

    def __init__(self, operator: Operator, thread: LoopThread) -> None:
        self._operator = operator
        self._thread = thread

    def members(self) -> MembersReply:
        return self._thread.run(self._operator.members())

    def add_member(
        self, member: str, *, control: str, raft: str, progress: Progress = unheard
    ) -> MemberChangeReply:
        adding = self._operator.add_member(member, control=control, raft=raft, progress=progress)
        return self._thread.run(adding)

    def remove_member(self, member: str, *, progress: Progress = unheard) -> MemberChangeReply:
        return self._thread.run(self._operator.remove_member(member, progress=progress))

    def transfer_leadership(self, to: str = "", *, progress: Progress = unheard) -> MemberChangeReply:
        return self._thread.run(self._operator.transfer_leadership(to, progress=progress))

    def compare_states(self, *, trust: str = "", read_rows: bool = False) -> CompareStatesReply:
        return self._thread.run(self._operator.compare_states(trust=trust, read_rows=read_rows))

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

    def create_token(
        self,
        sha256: str,
        *,
        role: str,
        prefix: str = "/",
        user: str = "",
        note: str = "",
        seconds: float = 0.0,
    ) -> None:
        making = self._operator.create_token(
            sha256, role=role, prefix=prefix, user=user, note=note, seconds=seconds
        )
        self._thread.run(making)

    def tokens(self) -> TokensReply:
        return self._thread.run(self._operator.tokens())

    def inspect_token(self) -> TokensReply:
        return self._thread.run(self._operator.inspect_token())

    def revoke_token(self, token: str) -> TokensReply:
        return self._thread.run(self._operator.revoke_token(token))

    def rotate_keys(self, *, drop_former: bool = False) -> Ack:
        return self._thread.run(self._operator.rotate_keys(drop_former=drop_former))
