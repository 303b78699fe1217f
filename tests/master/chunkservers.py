"""Chunk servers of the master's tests: they keep the promises F3 and F4 of core/grants.

A replica's content is a list of mutation ids; its length is how many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gfs.errors import (
    GfsError,
    InvalidArgument,
    LeaseExpired,
    NotFound,
    ReplicaFailed,
    StaleVersion,
    Superseded,
    Unavailable,
)
from gfs.messages.base import Ack, Ping, Reply, Request
from gfs.messages.chunks import Replica
from gfs.messages.heartbeat import GarbageReplica, Heartbeat, HeartbeatReply, HeldChunk, HeldLease
from gfs.messages.replicas import (
    AlignReplica,
    BumpReply,
    BumpVersion,
    ChunkStatus,
    ChunkStatusReply,
    CloneChunk,
    CloneReply,
    SealReplica,
)
from gfs.messages.snapshots import CopyReplica, CopyReply, RevokeLeases, RevokeReply
from gfs.transport.interface import CallContext, Handler
from gfs.vocabulary import Address, ChunkHandle, ChunkVersion, ClusterId, ServerId, Term
from tests.fakes.network import FakeNetwork, FakeServer

CLUSTER = ClusterId("cluster-of-tests")
DISK_BYTES = 100 * 2**30


@dataclass
class HeldReplica:
    version: ChunkVersion
    primary: ServerId | None = None
    members: tuple[ServerId, ...] = ()
    content: list[int] = field(default_factory=list)
    active: bool = False  # mutated since the last round of heartbeats
    lease_ends: float = 0.0
    revoked: bool = False  # nothing of this version is applied any more
    granted_at: float = 0.0
    term: int = 0


@dataclass
class Guest:
    """A copy under way, or `whole`: then it is on the disk, and equal to the source at `version`."""

    version: ChunkVersion
    content: list[int] = field(default_factory=list)
    whole: bool = False
    touched_at: float = 0.0
    term: int = 0


@dataclass(frozen=True)
class Word:
    """What a leader has named as garbage in the answer to a heartbeat written at `told_at`."""

    garbage: GarbageReplica
    term: Term
    told_at: float


class FakeChunkServer:
    """Answers a master's orders, and applies mutations for the client that the test plays."""

    def __init__(self, network: FakeNetwork, name: str, rack: str = "", *, address: str = "") -> None:
        self.id = ServerId(name)
        self.address = Address(address or f"{name}:1")
        self.rack = rack
        self.incarnation = "first"
        self.disk_free_bytes = DISK_BYTES // 2
        self.replicas: dict[ChunkHandle, HeldReplica] = {}
        self.guests: dict[ChunkHandle, Guest] = {}
        self.removed: set[ChunkHandle] = set()
        self.peers: dict[ServerId, FakeChunkServer] = {}  # whom it can copy from
        self.copy_seconds = 0.0  # how long the first half of a copy takes
        self.term = Term(0)
        self.leader_term = Term(0)
        self.words: list[Word] = []
        self.on_collected: Callable[[ServerId, ChunkHandle], None] = lambda server, handle: None
        self.may_be_short = False
        self.unsettled: set[ChunkHandle] = set()  # as if a mutation of these were always under way
        self.refuse: GfsError | None = None
        self.sealed: dict[ChunkHandle, int] = {}
        self.granted: dict[tuple[ChunkHandle, ChunkVersion], tuple[ServerId, tuple[ServerId, ...]]] = {}
        self._network = network
        handlers: dict[type[Request], Handler] = {
            BumpVersion: self._bump,
            AlignReplica: self._align,
            SealReplica: self._seal,
            ChunkStatus: self._status,
            CloneChunk: self._clone,
            Ping: self._ping,
            RevokeLeases: self._revoke,
            CopyReplica: self._copy_replica,
        }
        self.server: FakeServer = network.server(self.address, handlers, name=name, role="chunk server")

    async def kill(self) -> None:
        await self.server.stop()

    def restart(self) -> None:
        self.incarnation += "+"
        for held in self.replicas.values():
            held.primary, held.members, held.active = None, (), False
        self.guests = {handle: guest for handle, guest in self.guests.items() if guest.whole}
        self.words.clear()
        self.leader_term = Term(0)
        self.server.serve()

    def heartbeat(self, *, report: bool = False, cluster: str = CLUSTER) -> Heartbeat:
        """All it holds, as changes or as a one-page report; leases it leads, `active` once it has mutated."""
        chunks = [
            HeldChunk(handle, held.version, len(held.content)) for handle, held in self.replicas.items()
        ]
        now = self._network.clock.monotonic()
        leases = [
            HeldLease(handle, held.version, held.lease_ends - now, held.active)
            for handle, held in self.replicas.items()
            if held.primary == self.id and held.lease_ends > now
        ]
        return Heartbeat(
            server=self.id,
            cluster=ClusterId(cluster),
            incarnation=self.incarnation,
            control=self.address,
            data=Address(f"{self.id}:2"),
            rack=self.rack,
            disk_total_bytes=DISK_BYTES,
            disk_free_bytes=self.disk_free_bytes,
            chunk_count=len(chunks),
            leases=leases,
            report_page=0 if report else -1,
            report_last=report,
            report=chunks if report else [],
            changed=[] if report else chunks,
            removed=[] if report else sorted(self.removed - self.replicas.keys()),
            guests=[HeldChunk(h, guest.version, 0) for h, guest in self.guests.items() if guest.whole],
        )

    def take_heartbeat_reply(self, reply: HeartbeatReply, *, told_at: float) -> None:
        for handle in reply.extended:
            if handle in self.replicas:
                self.replicas[handle].lease_ends = self._network.clock.monotonic() + reply.lease_seconds
        if reply.is_leader and reply.term >= self.leader_term:
            self.leader_term = reply.term
            self.words += [Word(garbage, reply.term, told_at) for garbage in reply.garbage]

    def collect(self) -> None:
        """Delete what leaders have named, but what is newer than their word (I6)."""
        words, self.words = self.words, []
        for word in words:
            handle = word.garbage.handle
            held, guest = self.replicas.get(handle), self.guests.get(handle)
            found = held or guest
            if found is None or found.version > word.garbage.version or found.term > word.term:
                continue
            changed_at = held.granted_at if held else guest.touched_at if guest else 0.0
            if changed_at >= word.told_at:
                continue
            self.replicas.pop(handle, None)
            self.guests.pop(handle, None)
            self.removed.add(handle)
            self.on_collected(self.id, handle)

    def apply(self, handle: ChunkHandle, version: ChunkVersion, offset: int, mutation: int) -> None:
        """What a secondary does, and a primary to itself. A gap is never applied over (I4)."""
        held = self.replicas.get(handle)
        if held is None or held.version != version or self._network.servers.get(self.address) is None:
            raise StaleVersion(f"{self.id} does not hold version {version}")
        if held.revoked:
            raise LeaseExpired(f"{self.id} takes nothing under version {version} any more")
        if offset != len(held.content):
            raise StaleVersion(f"{self.id} is at {len(held.content)}, not {offset}")
        held.content.append(mutation)

    def lead(self, handle: ChunkHandle, version: ChunkVersion) -> HeldReplica:
        held = self.replicas.get(handle)
        now = self._network.clock.monotonic()
        if held is None or held.version != version or held.primary != self.id or held.lease_ends <= now:
            raise LeaseExpired(f"{self.id} is not primary of version {version}")
        return held

    async def _bump(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, BumpVersion)
        if self.id not in [replica.server for replica in request.replicas]:
            raise InvalidArgument(f"{self.id} is not among {request.replicas}")
        self._check_term(request.master_term)
        if self.refuse is not None:
            raise self.refuse
        guest = self.guests.get(request.handle)
        if guest is not None:
            if request.create or not guest.whole or not request.oldest_version <= guest.version:
                raise NotFound(f"{self.id} has no more than a guest of {request.handle}")
            self.replicas[request.handle] = HeldReplica(guest.version, content=guest.content, term=guest.term)
            del self.guests[request.handle]
        held = self.replicas.get(request.handle)
        replaced = ChunkVersion(0) if held is None else held.version
        if held is None and not request.create:
            raise NotFound(f"{self.id} holds no replica of {request.handle}")
        if held is not None and not request.oldest_version <= held.version <= request.version:
            raise StaleVersion(f"{self.id} holds version {held.version}")
        members = tuple(replica.server for replica in request.replicas)
        grant = (request.primary, members)
        assert self.granted.setdefault((request.handle, request.version), grant) == grant  # I1
        if held is None:
            held = self.replicas[request.handle] = HeldReplica(request.version)
        if replaced < request.version:
            held.version, held.active, held.revoked = request.version, False, False
            held.primary, held.members = request.primary, members
            held.granted_at = self._network.clock.monotonic()
            held.lease_ends = held.granted_at + request.lease_seconds
        held.term = request.master_term
        return BumpReply(
            replaced_version=replaced, length_bytes=len(held.content), may_be_short=self.may_be_short
        )

    async def _align(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, AlignReplica)
        self._check_term(request.master_term)
        held = self.replicas.get(request.handle)
        if held is None or held.version != request.version or len(held.content) < request.length_bytes:
            raise StaleVersion(f"{self.id} cannot be cut to that")
        del held.content[request.length_bytes :]
        return Ack()

    async def _seal(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, SealReplica)
        self.sealed[request.handle] = request.length_bytes
        return Ack()

    async def _revoke(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, RevokeLeases)
        lengths = []
        for handle, version in zip(request.handles, request.versions, strict=True):
            held = self.replicas.get(handle)
            if held is not None and held.version <= version:
                held.revoked, held.primary = True, None
            lengths.append(-1 if held is None or held.version != version else len(held.content))
        unsettled = [handle for handle in request.handles if handle in self.unsettled]
        return RevokeReply(lengths=lengths, unsettled=unsettled)

    async def _copy_replica(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, CopyReplica)
        self._check_term(request.master_term)
        if self.refuse is not None:
            raise self.refuse
        held = self.replicas.get(request.handle)
        if held is None:
            raise NotFound(f"{self.id} holds no replica of {request.handle}")
        if not request.oldest_version <= held.version <= request.version:
            raise StaleVersion(f"{self.id} holds version {held.version}")
        assert held.revoked or not held.active, "a chunk is written to while it is shared"
        copy = self.replicas.setdefault(
            request.copy, HeldReplica(request.version, content=list(held.content))
        )
        assert copy.content == held.content
        return CopyReply(length_bytes=len(copy.content), may_be_short=self.may_be_short)

    async def _clone(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, CloneChunk)
        self._check_term(request.master_term)
        held = self.replicas.get(request.handle)
        if held is not None and held.version >= request.version:
            raise StaleVersion(f"{self.id} holds version {held.version}")
        guest = self.guests.get(request.handle)
        if guest is not None and guest.version > request.version:
            raise StaleVersion(f"{self.id} has a guest of version {guest.version}")
        if guest is None or not (guest.whole and guest.version == request.version):
            await self._copy(request, guest or Guest(request.version, list(held.content) if held else []))
        guest = self.guests[request.handle]
        guest.touched_at, guest.term = self._network.clock.monotonic(), request.master_term
        return CloneReply(fetched_bytes=0, length_bytes=len(guest.content))

    async def _copy(self, request: CloneChunk, guest: Guest) -> None:
        """In two halves, between which the source may change, or go away."""
        if self.replicas.pop(request.handle, None) is not None:
            self.removed.add(request.handle)
        guest.version, guest.whole = request.version, False
        self.guests[request.handle] = guest
        source = self.peers.get(request.sources[0].server)
        if source is None:
            raise Unavailable(f"{request.sources[0].server} is gone for good")
        middle = len(self._readable(source, request)) // 2
        guest.content[:middle] = self._readable(source, request)[:middle]
        if self.copy_seconds:
            await self._network.clock.sleep(self.copy_seconds)
        if self.guests.get(request.handle) is not guest or guest.version != request.version or guest.whole:
            raise Superseded(f"{self.id} was asked for another copy")
        guest.content[middle:] = self._readable(source, request)[middle:]
        if request.fenced_bytes >= 0:
            if guest.content != self._readable(source, request) or len(guest.content) != request.fenced_bytes:
                raise StaleVersion(f"{source.id} was not fenced")
            guest.whole = True

    def _readable(self, source: FakeChunkServer, request: CloneChunk) -> list[int]:
        held = source.replicas.get(request.handle)
        if source.address not in self._network.servers or self._network.link(self.id, source.id).cut:
            raise Unavailable(f"{self.id} cannot reach {source.id}")
        if held is None or held.version != request.version:
            raise StaleVersion(f"{source.id} does not hold version {request.version}")
        return held.content

    async def _status(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, ChunkStatus)
        self._check_meant(request.server)
        held = self.replicas.get(request.handle)
        if held is None:
            raise NotFound(f"{self.id} holds no replica of {request.handle}")
        if held.version != request.version:
            raise StaleVersion(f"{self.id} holds it", details={"version": str(held.version)})
        return ChunkStatusReply(
            version=held.version, length_bytes=len(held.content), may_be_short=self.may_be_short
        )

    async def _ping(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, Ping)
        self._check_meant(request.server)
        return Ack()

    def _check_meant(self, server: ServerId) -> None:
        if server and server != self.id:
            raise Unavailable(f"{self.id} is not {server}")

    def _check_term(self, term: Term) -> None:
        if term < self.term:
            raise Superseded(f"{self.id} has heard of term {self.term}")
        self.term = term


def write(
    servers: dict[ServerId, FakeChunkServer],
    handle: ChunkHandle,
    version: ChunkVersion,
    primary: ServerId,
    mutation: int,
    *,
    lost_at: frozenset[ServerId] = frozenset(),
) -> None:
    """One append by a client that was told of this lease: returning is its acknowledgement (F4).

    `lost_at`: secondaries that never get it. Raises: LeaseExpired, StaleVersion, ReplicaFailed.
    """
    held = servers[primary].lead(handle, version)
    offset = len(held.content)
    servers[primary].apply(handle, version, offset, mutation)
    held.active = True
    failed: list[str] = []
    for member in held.members:
        if member == primary:
            continue
        try:
            if member in lost_at:
                raise StaleVersion("lost on the way")
            servers[member].apply(handle, version, offset, mutation)
        except GfsError:
            failed.append(member)
    if failed:
        raise ReplicaFailed("not on all replicas", details={"servers": ",".join(failed)})


def replica_ids(replicas: list[Replica]) -> list[ServerId]:
    return [replica.server for replica in replicas]
