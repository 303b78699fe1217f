"""Chunk servers of one test: real services and replica stores, an in-memory network, virtual time.

No sockets and no masters: the test itself plays the master and the client.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gfs.chunkserver.disk_identity import DiskIdentity
from gfs.chunkserver.push_buffer import PushBuffer, Pushed
from gfs.chunkserver.replica_store import ReplicaStore
from gfs.chunkserver.service import ChunkService
from gfs.chunkserver.stores.memory import MemoryStore
from gfs.chunkserver.tallies import Tallies
from gfs.disk import SystemDisk
from gfs.errors import Unavailable
from gfs.messages.base import Reply, Request
from gfs.messages.chunks import Replica
from gfs.messages.replicas import AppendRecord, AppendReply, BumpReply, BumpVersion, WriteChunk, WriteReply
from gfs.settings import PUSH_BYTES_MAX
from gfs.vocabulary import (
    CHECKSUM_BLOCK_BYTES,
    MIB,
    Address,
    ChunkHandle,
    ChunkVersion,
    ClusterId,
    PushId,
    ServerId,
    Term,
)
from tests.fakes.clock import VirtualClock
from tests.fakes.network import FakeNetwork, FakeServer

try:
    from awscrt.checksums import crc32c
except ImportError:
    from crc32c import crc32c

CLUSTER = ClusterId("cluster-1")
HANDLE = ChunkHandle(0xABC)
LEASE_SECONDS = 60.0
FORWARD_SECONDS = 0.8


class InlineWorkers(Executor):
    """Runs work at once on the caller's thread; while held, keeps it until release()."""

    def __init__(self) -> None:
        self.is_held = False
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._waiting.append((future, lambda: fn(*args, **kwargs)))
        if not self.is_held:
            self._run()
        return future

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def release(self) -> None:
        self.is_held = False
        self._run()

    def _run(self) -> None:
        while self._waiting:
            future, work = self._waiting.popleft()
            try:
                result = work()
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(result)


class FaultyReplicas:
    """A replica store whose writes fail when the test says so; everything else is the real one's."""

    def __init__(self, inner: ReplicaStore) -> None:
        self._inner = inner
        self.write_failure: Exception | None = None

    def write(self, *args: Any, **kwargs: Any) -> int:
        if self.write_failure is not None:
            raise self.write_failure
        return self._inner.write(*args, **kwargs)

    def pad(self, *args: Any, **kwargs: Any) -> int:
        if self.write_failure is not None:
            raise self.write_failure
        return self._inner.pad(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@dataclass
class Node:
    """One chunk server: what survives a restart is `directory` and `store`."""

    name: ServerId
    directory: Path
    store: MemoryStore
    workers: InlineWorkers
    replicas: FaultyReplicas
    pushes: PushBuffer
    service: ChunkService
    identity: DiskIdentity
    tallies: Tallies
    server: FakeServer

    @property
    def control(self) -> Address:
        return control_address(self.name)

    def content(self, version: ChunkVersion, handle: ChunkHandle = HANDLE) -> bytes:
        """The committed bytes, through the verified read."""
        buffer = bytearray(self.replicas.committed_length(handle, version))
        if buffer:
            assert self.replicas.read_into(handle, version, 0, memoryview(buffer)) == len(buffer)
        return bytes(buffer)


@dataclass
class Rig:
    directory: Path
    clock: VirtualClock = field(default_factory=VirtualClock)
    nodes: dict[str, Node] = field(default_factory=dict)
    disk_bytes: int = 2**40
    pieces_read: list[tuple[int, int]] = field(default_factory=list)  # (offset, length), for copies
    joined: list[str] = field(default_factory=list)  # clusters that fresh disks have joined

    def __post_init__(self) -> None:
        self.network = FakeNetwork(self.clock)
        self.master = self.network.caller("master")
        self.client = self.network.caller("client")
        self._push_numbers = itertools.count(1)

    # --- servers ------------------------------------------------------------------------------

    def start(self, *names: str) -> list[Node]:
        return [self._start(name, MemoryStore(self.disk_bytes)) for name in names]

    async def restart(self, name: str) -> Node:
        """Kill -9 and start again on the same disk."""
        node = self.nodes[name]
        await node.server.stop()
        node.replicas.abandon()
        return self.start_again(node)

    def start_again(self, node: Node) -> Node:
        """Start one that was stopped, on the same disk."""
        return self._start(node.name, node.store)

    async def stop(self) -> None:
        for node in self.nodes.values():
            await node.server.stop()
            node.pushes.check_invariants()
            node.replicas.close()

    def _start(self, name: str, store: MemoryStore) -> Node:
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        disk = SystemDisk()
        identity_file = directory / "identity.json"
        if not identity_file.exists():
            identity_file.write_text(f'{{"format":1,"server":"{name}","cluster":"{CLUSTER}"}}')
        identity = DiskIdentity.load_or_create(disk, str(directory))

        def on_fatal(reason: str) -> None:
            raise AssertionError(reason)

        replicas = FaultyReplicas(ReplicaStore.open(str(directory), store, disk, on_fatal=on_fatal))
        workers = InlineWorkers()
        pushes = PushBuffer(64 * MIB, 600.0, self.clock)
        tallies = Tallies()
        service = ChunkService(
            identity,
            replicas,  # type: ignore[arg-type]  # the real one behind a switch for write failures
            pushes,
            self.network.caller(name),
            workers,
            self.clock,
            push_copy=self._push_copy,
            read_replica=self._read_replica,
            clone_workers=workers,
            forward_seconds=FORWARD_SECONDS,
            tallies=tallies,
            on_joined=self.joined.append,
        )
        server = self.network.server(control_address(name), service.handlers(), name=name, role="chunkserver")
        node = Node(
            ServerId(name), directory, store, workers, replicas, pushes, service, identity, tallies, server
        )
        self.nodes[name] = node
        return node

    async def _push_copy(self, address: Address, pushed: Pushed) -> None:
        name = address.removeprefix("data-").split(":")[0]
        if self.nodes[name].server.address not in self.network.servers:
            raise Unavailable(f"no connection to {address}")
        self._receive(self.nodes[name], pushed.push_id, bytes(pushed.data), pushed.offset)

    def _read_replica(
        self, address: Address, handle: ChunkHandle, version: ChunkVersion, first: int, buffer: memoryview
    ) -> tuple[int, int]:
        node = self.nodes[address.removeprefix("data-").split(":")[0]]
        if node.server.address not in self.network.servers:
            raise Unavailable(f"no connection to {address}")
        self.pieces_read.append((first, len(buffer)))
        got = node.replicas.read_into(handle, version, first, buffer)
        return got, node.replicas.committed_length(handle, version)

    # --- the master ---------------------------------------------------------------------------

    async def bump(
        self,
        name: str,
        version: int,
        members: list[str],
        *,
        primary: str = "",
        create: bool = False,
        **other: Any,
    ) -> BumpReply:
        request = BumpVersion(
            cluster=other.get("cluster", CLUSTER),
            master_term=Term(other.get("master_term", 1)),
            handle=HANDLE,
            version=ChunkVersion(version),
            oldest_version=ChunkVersion(other.get("oldest_version", 0)),
            create=create,
            primary=ServerId(primary or members[0]),
            replicas=[replica(member) for member in members],
            lease_seconds=LEASE_SECONDS,
        )
        return await self.master.call(control_address(name), request, BumpReply, deadline_seconds=5.0)

    async def grant(self, version: int, *members: str, create: bool = False) -> list[BumpReply]:
        """Bump all members; the first is the primary."""
        return [await self.bump(name, version, list(members), create=create) for name in members]

    async def three(self) -> list[Node]:
        """Servers a, b, c with version 1 of the chunk; a is the primary."""
        nodes = self.start("a", "b", "c")
        await self.grant(1, "a", "b", "c", create=True)
        return nodes

    # --- the client ---------------------------------------------------------------------------

    def push(self, data: bytes, offset: int = 0, to: str = "abc") -> PushId:
        push_id = PushId(f"push-{next(self._push_numbers)}")
        for name in to:
            self._receive(self.nodes[name], push_id, data, offset)
        return push_id

    async def write(
        self,
        push: PushId,
        length: int,
        offset: int = 0,
        *,
        version: int = 1,
        to: str = "a",
        seconds: float = 5.0,
    ) -> WriteReply:
        request = WriteChunk(
            handle=HANDLE,
            version=ChunkVersion(version),
            offset_bytes=offset,
            length_bytes=length,
            push=push,
        )
        return await self.ask(to, request, WriteReply, seconds=seconds)

    async def put(self, data: bytes, offset: int = 0, *, version: int = 1, to: str = "abc") -> WriteReply:
        """Push and write; the first of `to` is the primary."""
        return await self.write(self.push(data, offset, to), len(data), offset, version=version, to=to[0])

    async def append(
        self, data: bytes, *, version: int = 1, to: str = "abc", push: PushId | None = None
    ) -> AppendReply:
        """Push and append; the first of `to` is the primary."""
        request = AppendRecord(
            handle=HANDLE,
            version=ChunkVersion(version),
            length_bytes=len(data),
            push=push or self.push(data, 0, to),
        )
        return await self.ask(to[0], request, AppendReply)

    async def ask(self, name: str, request: Request, expected: type[Any], *, seconds: float = 5.0) -> Any:
        reply: Reply = await self.client.call(
            control_address(name), request, expected, deadline_seconds=seconds
        )
        return reply

    def begin(self, waiting: Any) -> asyncio.Task[Any]:
        return asyncio.ensure_future(waiting)

    def _receive(self, node: Node, push_id: PushId, data: bytes, offset: int) -> None:
        assert 0 < len(data) <= PUSH_BYTES_MAX
        reservation = node.pushes.reserve(push_id, len(data), offset)
        reservation.memory[:] = data
        node.pushes.complete(reservation, block_checksums(data, offset))


def block_checksums(data: bytes, offset: int) -> list[int]:
    sums, at = [], 0
    while at < len(data):
        end = min(len(data), at + CHECKSUM_BLOCK_BYTES - (offset + at) % CHECKSUM_BLOCK_BYTES)
        sums.append(crc32c(data[at:end]))
        at = end
    return sums


def control_address(name: str) -> Address:
    return Address(f"control-{name}:1")


def replica(name: str) -> Replica:
    return Replica(ServerId(name), control_address(name), Address(f"data-{name}:2"))
