"""A cluster small enough to read: three masters over one state, chunk servers in memory, faults on demand.

It keeps the promises the client relies on and nothing more. Control goes over FakeNetwork; bulk bytes through
FakeBulk, called from the client's worker threads as the real one is.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from gfs.checksums import piece_checksums
from gfs.client.client import AsyncClient
from gfs.client.connections import Connections
from gfs.client.master_session import MasterSession
from gfs.clock import Clock, SystemClock
from gfs.errors import (
    AlreadyExists,
    ChecksumMismatch,
    ConnectionLost,
    DataUnavailable,
    GfsError,
    LeaseExpired,
    NotEnoughChunkServers,
    NotFound,
    NotLeader,
    PushMissing,
    ReplicaFailed,
    StaleVersion,
    Unavailable,
)
from gfs.messages.base import Ack, ErrorReply, Ping, Reply, Request
from gfs.messages.chunks import AcquireLease, ChunkLease, ChunkPlace, FileChunks, FindChunks, Replica
from gfs.messages.data import PushAnswer
from gfs.messages.members import FindMasters, MastersReply
from gfs.messages.namespace import (
    CreateFile,
    DeletePath,
    EntriesReply,
    Entry,
    EntryReplies,
    EntryReply,
    ListDirectory,
    MakeDirectory,
    MutationReply,
    RenamePath,
    SetLengthHint,
    Stat,
    StatMany,
)
from gfs.messages.operations import RequestId
from gfs.messages.replicas import ChunkStatus, ChunkStatusReply, WriteChunk, WriteReply
from gfs.settings import ClientSettings
from gfs.transport.frames import error_reply
from gfs.transport.interface import CallContext, Handlers
from gfs.vocabulary import (
    KIB,
    ROOT_INODE,
    Address,
    ChunkHandle,
    ChunkIndex,
    ChunkVersion,
    ClientId,
    ClusterId,
    InodeId,
    PushId,
    SerialNumber,
    ServerId,
    Term,
    split_path,
)
from tests.fakes.clock import settle
from tests.fakes.network import FakeNetwork
from tests.waiting import until

PIECE_BYTES = 256 * KIB
LIST_PAGE = 3


@dataclass
class Node:
    """An entry of the namespace; `chunks` are handles by index."""

    inode: InodeId
    kind: str
    chunks: list[ChunkHandle] = field(default_factory=list)
    length_bytes: int = 0
    length_exact: bool = False


@dataclass
class Grant:
    version: ChunkVersion
    servers: list[ServerId]


class Server:
    """One chunk server: replicas by handle, pushed bytes by push id."""

    def __init__(self, name: str) -> None:
        self.id = ServerId(name)
        self.control, self.data = Address(f"{name}:1"), Address(f"{name}:2")
        self.alive = True
        self.replicas: dict[ChunkHandle, tuple[ChunkVersion, bytearray]] = {}
        self.pushes: dict[PushId, bytes] = {}
        self.offsets_ordered: list[int] = []  # of WriteChunk, as they came to this primary
        self.refusals: list[
            GfsError | None
        ] = []  # one is raised by each WriteChunk that comes; None: it is done
        self.read_error: GfsError | None = None
        self.may_be_short = False  # since a power cut
        self.reads = 0
        self.hung: threading.Event | None = None  # a stopped process: what is sent to it waits for this

    @property
    def replica(self) -> Replica:
        return Replica(self.id, self.control, self.data)


class MiniCluster:
    """Masters m1…m3, chunk servers cs1…; `leader` is who may answer, "" while there is none."""

    def __init__(self, *, servers: int = 4, clock: Clock | None = None, knows_stat_many: bool = True) -> None:
        self.knows_stat_many = knows_stat_many
        self.clock: Clock = clock or SystemClock()
        self.network = FakeNetwork(self.clock)
        self.leader = "m1:9500"
        self.masters = [Address(f"m{n}:9500") for n in (1, 2, 3)]
        self.nodes: dict[str, Node] = {"/": Node(ROOT_INODE, "directory")}
        self.grants: dict[ChunkHandle, Grant] = {}
        self.outcomes: dict[tuple[ClientId, int], Reply | GfsError] = {}
        self.mutations_applied: list[Request] = []
        self.leases_asked: list[AcquireLease] = []
        self.replication_goal = 3
        self.servers = {f"cs{n}": Server(f"cs{n}") for n in range(1, servers + 1)}
        self._next_inode, self._next_handle = 10, 100
        self.before_answer: Callable[[str, Request], Awaitable[None]] | None = None
        for address in self.masters:
            self.network.server(address, self._master_handlers(address))
        for server in self.servers.values():
            self.network.server(server.control, self._server_handlers(server))
        self.bulk = FakeBulk(self)

    # --- for tests ------------------------------------------------------------------------------

    def add_master(self, name: str) -> Address:
        address = Address(f"{name}:9500")
        self.masters.append(address)
        self.network.server(address, self._master_handlers(address))
        return address

    def client(self, settings: ClientSettings | None = None, *, masters: Sequence[str] = ()) -> AsyncClient:
        """A client on this cluster, looking for the leader already."""
        settings = settings or ClientSettings(piece_bytes=PIECE_BYTES, retry_seconds=5.0, call_seconds=1.0)
        chance = random.Random(7)
        caller = self.network.caller("client")
        id = ClientId(77)
        session = MasterSession(
            [Address(address) for address in masters] or self.masters,
            caller,
            client=id,
            clock=self.clock,
            chance=chance,
            settings=settings,
        )
        connections = Connections(
            masters=session,
            caller=caller,
            bulk=self.bulk,
            client=id,
            clock=self.clock,
            chance=chance,
            settings=settings,
        )
        session.start()
        return AsyncClient(connections)

    async def kill_server(self, name: str) -> None:
        server = self.servers[name]
        server.alive = False
        running = self.network.servers.get(server.control)
        if running is not None:
            await running.stop()

    async def kill_master(self, address: str) -> None:
        await self.network.servers[Address(address)].stop()

    def contents(self, path: str) -> list[bytes]:
        """What each replica of the path's chunks holds, all joined: one item for each distinct content."""
        node = self.nodes[path]
        found: set[bytes] = set()
        for rank in range(self.replication_goal):
            whole = b""
            for handle in node.chunks:
                members = self.grants[handle].servers
                server = self.servers[members[min(rank, len(members) - 1)]]
                whole += bytes(server.replicas[handle][1])
            found.add(whole)
        return sorted(found)

    def seen(self, kind: type[Request]) -> list[Request]:
        return [call.request for call in self.network.seen if isinstance(call.request, kind)]

    # --- masters --------------------------------------------------------------------------------

    def _master_handlers(self, address: Address) -> Handlers:
        def led(answer: Callable[[Request], Reply]) -> Callable[[Request, CallContext], Awaitable[Reply]]:
            async def handle(request: Request, _: CallContext) -> Reply:
                if self.before_answer is not None:
                    await self.before_answer(address, request)
                if self.leader != address:
                    details = {"leader": self.leader} if self.leader else {}
                    details["masters"] = ",".join(self.masters)
                    raise NotLeader(f"{address} does not lead", details=details)
                return answer(request)

            return handle

        async def find_masters(request: Request, _: CallContext) -> Reply:
            assert isinstance(request, FindMasters)
            return MastersReply(
                cluster=ClusterId("mini"),
                term=Term(1),
                is_leader=self.leader == address,
                masters=self.masters,
            )

        return {
            Ping: _ping,
            FindMasters: find_masters,
            Stat: led(self._stat),
            **({StatMany: led(self._stat_many)} if self.knows_stat_many else {}),
            ListDirectory: led(self._list),
            FindChunks: led(self._find_chunks),
            AcquireLease: led(self._acquire),
            **{
                kind: led(self._mutate)
                for kind in (MakeDirectory, CreateFile, DeletePath, RenamePath, SetLengthHint)
            },
        }

    def _entry(self, path: str) -> Entry:
        node = self.nodes.get("/" + "/".join(split_path(path)))
        if node is None:
            raise NotFound(f"there is no {path}")
        return Entry(
            path=path,
            inode=node.inode,
            kind="file" if node.kind == "file" else "directory",
            created_ms=1,
            modified_ms=1,
            length_bytes=node.length_bytes,
            length_exact=node.length_exact,
            chunk_count=len(node.chunks),
        )

    def _stat(self, request: Request) -> Reply:
        assert isinstance(request, Stat)
        return EntryReply(entry=self._entry(request.path), applied_index=1)

    def _stat_many(self, request: Request) -> Reply:
        assert isinstance(request, StatMany)
        replies: list[EntryReply | ErrorReply] = []
        for path in request.paths:
            try:
                replies.append(EntryReply(entry=self._entry(path)))
            except GfsError as error:
                replies.append(error_reply(error))
        return EntryReplies(replies=replies, applied_index=1)

    def _list(self, request: Request) -> Reply:
        assert isinstance(request, ListDirectory)
        self._entry(request.path)
        top = request.path.rstrip("/") + "/"
        names = sorted(
            path.removeprefix(top)
            for path in self.nodes
            if path != "/" and path.startswith(top) and "/" not in path.removeprefix(top)
        )
        page = [name for name in names if name > request.after][:LIST_PAGE]
        more = bool(page) and page[-1] != names[-1]
        return EntriesReply(
            entries=[self._entry(top + name) for name in page],
            next_after=page[-1] if more else "",
            applied_index=1,
        )

    def _mutate(self, request: Request) -> Reply:
        id = getattr(request, "request", None)
        assert isinstance(id, RequestId)
        known = self.outcomes.get((id.client, id.sequence))
        if known is None:
            try:
                known = self._apply(request)
            except GfsError as error:
                known = error
            self.outcomes[id.client, id.sequence] = known
            self.mutations_applied.append(request)
        if isinstance(known, GfsError):
            raise known
        return known

    def _apply(self, request: Request) -> MutationReply:
        match request:
            case MakeDirectory(path=path) | CreateFile(path=path):
                replace = isinstance(request, CreateFile) and request.replace
                if path in self.nodes and not replace:
                    raise AlreadyExists(f"{path} exists")
                if path.rpartition("/")[0] not in ("", *self.nodes):
                    raise NotFound(f"{path} has no parent")
                self._next_inode += 1
                kind = "directory" if isinstance(request, MakeDirectory) else "file"
                self.nodes[path] = Node(InodeId(self._next_inode), kind, length_exact=kind == "file")
                return MutationReply(inode=self.nodes[path].inode, applied_index=1)
            case DeletePath(path=path):
                self._entry(path)
                del self.nodes[path]
            case RenamePath(source=source, destination=destination, replace=replace):
                self._entry(source)
                if destination in self.nodes and not replace:
                    raise AlreadyExists(f"{destination} exists")
                self.nodes[destination] = self.nodes.pop(source)
            case SetLengthHint(inode=inode, length_bytes=length_bytes, closed=closed):
                node = next(node for node in self.nodes.values() if node.inode == inode)
                node.length_exact = closed or (node.length_exact and length_bytes <= node.length_bytes)
                node.length_bytes = max(node.length_bytes, length_bytes)
        return MutationReply(applied_index=1)

    def _find_chunks(self, request: Request) -> Reply:
        assert isinstance(request, FindChunks)
        entry = self._entry(request.path)
        node = self.nodes[request.path]
        places = []
        last = min(len(node.chunks), request.first_index + request.count)
        for index in range(request.first_index, last):
            handle = node.chunks[index]
            members = [self.servers[name] for name in self.grants[handle].servers]
            places.append(
                ChunkPlace(
                    index=ChunkIndex(index),
                    handle=handle,
                    version=self.grants[handle].version,
                    replicas=[server.replica for server in members if server.alive],
                    missing=[server.id for server in members if not server.alive],
                )
            )
        return FileChunks(entry=entry, chunks=places, applied_index=1)

    def _acquire(self, request: Request) -> Reply:
        assert isinstance(request, AcquireLease)
        self.leases_asked.append(request)
        node = next((node for node in self.nodes.values() if node.inode == request.inode), None)
        if node is None:
            raise NotFound(f"there is no inode {request.inode}")
        node.length_exact = False
        if request.index == len(node.chunks):
            self._next_handle += 1
            handle = ChunkHandle(self._next_handle)
            alive = [server.id for server in self.servers.values() if server.alive]
            members = [name for name in alive if name not in request.suspects][: self.replication_goal]
            if not members:
                raise NotEnoughChunkServers("no chunk server is alive")
            node.chunks.append(handle)
            self.grants[handle] = Grant(ChunkVersion(0), members)
            self._bump(handle, members)
        handle = node.chunks[request.index]
        grant = self.grants[handle]
        if request.failed_version >= grant.version:
            alive = [name for name in grant.servers if self.servers[name].alive]
            members = [name for name in alive if name not in request.suspects] or alive
            if not members:
                raise NotEnoughChunkServers("no replica is alive")
            self._bump(handle, members)
        return ChunkLease(
            index=request.index,
            handle=handle,
            version=grant.version,
            primary=grant.servers[0],
            replicas=[self.servers[name].replica for name in grant.servers],
            lease_seconds=60.0,
        )

    def _bump(self, handle: ChunkHandle, members: list[ServerId]) -> None:
        grant = self.grants[handle]
        grant.version, grant.servers = ChunkVersion(grant.version + 1), members
        # AlignReplica: all members go on from the length every one of them holds.
        held = {
            name: self.servers[name].replicas.get(handle, (ChunkVersion(0), bytearray()))[1]
            for name in members
        }
        shortest = min(map(len, held.values()))
        for name, content in held.items():
            del content[shortest:]
            self.servers[name].replicas[handle] = (grant.version, content)

    # --- chunk servers --------------------------------------------------------------------------

    def _server_handlers(self, server: Server) -> Handlers:
        async def write(request: Request, _: CallContext) -> Reply:
            assert isinstance(request, WriteChunk)
            server.offsets_ordered.append(request.offset_bytes)
            if server.refusals and (refusal := server.refusals.pop(0)) is not None:
                raise refusal
            return self._write(server, request)

        async def status(request: Request, _: CallContext) -> Reply:
            assert isinstance(request, ChunkStatus)
            version, content = server.replicas.get(request.handle, (ChunkVersion(0), bytearray()))
            if version != request.version:
                raise StaleVersion(f"{server.id} holds version {version}", details={"version": str(version)})
            return ChunkStatusReply(
                version=version, length_bytes=len(content), may_be_short=server.may_be_short
            )

        return {Ping: _ping, WriteChunk: write, ChunkStatus: status}

    def _write(self, primary: Server, request: WriteChunk) -> Reply:
        grant = self.grants[request.handle]
        if primary.id != grant.servers[0]:
            raise LeaseExpired(f"{primary.id} is not the primary")
        if request.version != grant.version:
            raise StaleVersion("another version", details={"version": str(grant.version)})
        if request.data:
            assert piece_checksums(request.offset_bytes, request.data) == request.checksums
            for name in grant.servers:
                if self.servers[name].alive:
                    self.servers[name].pushes[request.push] = request.data
        if request.push not in primary.pushes:
            raise PushMissing(f"{request.push} is not here")
        failed = []
        for name in grant.servers:
            member = self.servers[name]
            pushed = member.pushes.pop(request.push, None)
            if not member.alive or pushed is None:
                failed.append(name)
                continue
            content = member.replicas[request.handle][1]
            assert len(pushed) == request.length_bytes
            gap = request.offset_bytes - len(content)
            assert gap <= 0, f"a gap of {gap} bytes: pieces were ordered out of sequence"
            content[request.offset_bytes : request.offset_bytes + len(pushed)] = pushed
        if failed:
            raise ReplicaFailed("not on every replica", details={"servers": ",".join(failed)})
        length = len(primary.replicas[request.handle][1])
        return WriteReply(serial=SerialNumber(1), length_bytes=length)


async def _ping(_: Request, __: CallContext) -> Reply:
    return Ack()


class FakeBulk:
    """A gfs.client.connections.BulkClient over the mini cluster. `gates` hold pushes up, by offset."""

    def __init__(self, cluster: MiniCluster) -> None:
        self._cluster = cluster
        self.gates: dict[int, threading.Event] = {}
        self.pushed_offsets: list[int] = []
        self.read_ranges: list[tuple[int, int]] = []
        self.verified_here = 0  # reads whose sums the client compared
        self.changes_on_the_way = 0  # so many of them find other bytes than the sums are of
        self.lose_pushes = 0  # so many pushes are answered as if they had arrived, and are not there
        self.closed = False
        self.waiting = 0  # calls that came to a server that hung

    def _server(self, address: Address) -> Server:
        server = next(server for server in self._cluster.servers.values() if server.data == address)
        if not server.alive:
            raise Unavailable(f"cannot reach {address}: connection refused")
        if server.hung is not None:
            self.waiting += 1
            assert server.hung.wait(20), "the test never let the server go on"
        return server

    def push(
        self,
        address: Address,
        push_id: PushId,
        data: memoryview,
        *,
        offset: int,
        chain: Sequence[Address],
        checksums: Sequence[int] | None,
        deadline_seconds: float,
        capability: bytes = b"",
    ) -> PushAnswer:
        self.pushed_offsets.append(offset)
        gate = self.gates.get(offset)
        if gate is not None:
            assert gate.wait(20), "the test never opened the gate"
        found = piece_checksums(offset, data)
        assert checksums == found, "the client's checksums are not those of the bytes"
        self._server(address)
        failed: dict[str, str] = {}
        for hop in (address, *chain):
            try:
                server = self._server(hop)
            except Unavailable as error:
                failed[hop] = f"unavailable: {error}"
                continue
            if self.lose_pushes == 0:
                server.pushes[push_id] = bytes(data)
        self.lose_pushes = max(0, self.lose_pushes - 1)
        return PushAnswer(received_bytes=len(data), checksums=found, failed=failed)

    def read_into(
        self,
        address: Address,
        handle: ChunkHandle,
        version: ChunkVersion,
        first: int,
        buffer: memoryview,
        *,
        deadline_seconds: float,
        verify_here: bool = False,
        capability: bytes = b"",
    ) -> tuple[int, int]:
        server = self._server(address)
        server.reads += 1
        self.read_ranges.append((first, len(buffer)))
        if server.read_error is not None:
            # As on the real wire, what is in the buffer then is nobody's bytes.
            buffer[:] = b"\xee" * len(buffer)
            raise server.read_error
        held, content = server.replicas.get(handle, (ChunkVersion(0), bytearray()))
        if held != version:
            raise StaleVersion(f"{server.id} holds {held}", details={"version": str(held)})
        if server.may_be_short and first + len(buffer) > len(content):
            raise DataUnavailable(f"{server.id} may lack bytes after {len(content)}")
        found = bytes(content[first : first + len(buffer)])
        buffer[: len(found)] = found
        if verify_here:
            self.verified_here += 1
            if self.changes_on_the_way:
                self.changes_on_the_way -= 1
                buffer[:] = b"\xee" * len(buffer)
                raise ChecksumMismatch("block 0 arrived with other bytes than its checksum is of")
        return len(found), len(content)

    def close(self) -> None:
        self.closed = True
        for gate in self.gates.values():
            gate.set()


def lost() -> ConnectionLost:
    return ConnectionLost("the connection broke")


async def eventually(condition: Callable[[], bool]) -> None:
    """Let the loop and the worker threads run until `condition` holds."""

    async def holds() -> bool:
        await settle()
        return condition()

    # Asleep in between: a busy loop would keep the threads from working.
    await until(holds, "what the test waits for")
