"""Masters, chunk servers and one file, connected in memory: where the tests of leases take place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from random import Random
from typing import TypeVar

from gfs.errors import GfsError, OutcomeUnknown
from gfs.master.callers import everybody
from gfs.master.chunk_service import ChunkService
from gfs.master.cluster_service import ClusterService
from gfs.master.commit import Commits
from gfs.master.copy_on_write import CopyOnWrite
from gfs.master.core.clone_task import CloneReason, CloneTask
from gfs.master.core.garbage import Garbage
from gfs.master.core.leases import LeaseTable
from gfs.master.core.locations import Locations
from gfs.master.core.lookup import chunk_of
from gfs.master.core.recent_grants import RecentGrants
from gfs.master.core.records import ChunkRecord, PolicyRecord
from gfs.master.core.replication_scan import ReplicationScan
from gfs.master.core.server_pool import ServerPool
from gfs.master.garbage_collection import GarbageCollection
from gfs.master.granting import Granting
from gfs.master.lease_revocation import LeaseRevocation
from gfs.master.lease_service import LeaseService
from gfs.master.member_service import MemberService
from gfs.master.namespace_service import NamespaceService
from gfs.master.policy_service import PolicyService
from gfs.master.quiet_grants import QuietGrants
from gfs.master.reads import Reads
from gfs.master.replica_calls import ReplicaCalls
from gfs.master.replica_moves import ReplicaMoves
from gfs.master.service import MasterService
from gfs.master.snapshot_service import SnapshotService
from gfs.master.standing import Standing
from gfs.master.trash_service import TrashService
from gfs.messages.base import Reply, Request
from gfs.messages.chunks import AcquireLease, ChunkLease
from gfs.messages.heartbeat import Heartbeat, HeartbeatReply
from gfs.messages.namespace import CreateFile, MutationReply
from gfs.messages.operations import ChunkGranted, Outcome
from gfs.telemetry import Metrics
from gfs.vocabulary import (
    CHUNK_BYTES,
    Address,
    ChunkHandle,
    ChunkIndex,
    ChunkVersion,
    InodeId,
    MasterId,
    ServerId,
)
from tests.fakes.clock import VirtualClock, settle
from tests.fakes.network import FakeNetwork
from tests.fakes.replicator import FakeLog, FakeReplicator, roster_of
from tests.master.chunkservers import CLUSTER, FakeChunkServer

LEASE_SECONDS = 60.0
BUMP_SECONDS = 0.7
DEAD_SECONDS = 5.0
FIRST = ChunkIndex(0)

R = TypeVar("R", bound=Reply)
T = TypeVar("T")


class FakeMaster:
    """One master's services over a FakeReplicator, answering on the network at `<name>:1`."""

    def __init__(self, world: LeaseWorld, name: str, names: list[str], *, goal: int, servers: int) -> None:
        self.id = MasterId(name)
        self.address = Address(f"{name}:1")
        self.standing = Standing()
        self.replicator: FakeReplicator = world.log.member(name)
        clock, rpc = world.clock, world.network.caller(name)
        roster = roster_of(self.replicator, names)
        self.commits = Commits(self.replicator, clock, roster=roster, metrics=Metrics())
        self.reads = Reads(
            self.replicator,
            self.commits,
            clock,
            committed=self.replicator.committed_tables,
            applied_index=self.replicator.applied_index,
            standing=self.standing,
        )
        self.locations = Locations(dead_seconds=DEAD_SECONDS)
        self.leases = LeaseTable()
        self.scan = ReplicationScan()
        self.garbage = GarbageCollection(
            commits=self.commits,
            reads=self.reads,
            clock=clock,
            garbage=Garbage(self.locations, is_moving=lambda handle: self.moves.is_moving(handle)),
            metrics=Metrics(),
        )
        calls = ReplicaCalls(
            rpc,
            self.locations,
            cluster=CLUSTER,
            bump_seconds=BUMP_SECONDS,
            lease_seconds=LEASE_SECONDS,
        )
        granting = Granting(
            commits=self.commits,
            reads=self.reads,
            locations=self.locations,
            pool=ServerPool(self.locations),
            leases=self.leases,
            calls=calls,
            clock=clock,
            chance=Random(world.seed),
            configured_servers=servers,
        )
        copies = CopyOnWrite(
            commits=self.commits,
            reads=self.reads,
            granting=granting,
            calls=calls,
            locations=self.locations,
        )
        leases = LeaseService(
            commits=self.commits,
            reads=self.reads,
            leases=self.leases,
            calls=calls,
            granting=granting,
            copies=copies,
            clock=clock,
            lease_seconds=LEASE_SECONDS,
        )
        grants = QuietGrants(commits=self.commits, reads=self.reads, granting=granting)
        self.recent = RecentGrants(now=clock.monotonic(), lease_seconds=LEASE_SECONDS)

        def note_grant(outcome: Outcome) -> None:
            if isinstance(outcome, ChunkGranted):
                self.recent.note(outcome.handle, now=clock.monotonic())

        self.replicator.applied_listeners.append(note_grant)
        self.snapshots = SnapshotService(
            commits=self.commits,
            reads=self.reads,
            revocation=LeaseRevocation(
                commits=self.commits,
                reads=self.reads,
                locations=self.locations,
                leases=self.leases,
                recent=self.recent,
                service=leases,
                grants=grants,
                calls=calls,
                clock=clock,
            ),
            copies=copies,
            clock=clock,
        )
        self.replicator.on_leadership(self.snapshots.lead)
        self.moves = ReplicaMoves(
            commits=self.commits,
            locations=self.locations,
            grants=grants,
            leases=leases,
            calls=calls,
            clock=clock,
            chance=Random(world.seed),
            bytes_per_second=CHUNK_BYTES,
        )
        namespace = NamespaceService(
            self.commits, self.reads, clock, replication_goal=goal, trash_seconds=world.trash_seconds
        )
        self.service = MasterService(
            namespace=namespace,
            trash=TrashService(
                self.commits,
                self.reads,
                namespace,
                deletion_rank=lambda inode: self.replicator.state.deletion_rank(inode),
            ),
            chunks=ChunkService(self.reads, self.locations, clock),
            policies=PolicyService(
                self.commits,
                self.reads,
                callers=everybody(),
                defaults=PolicyRecord(replicas=goal, racks=1, trash_ms=60_000, durability="flush"),
            ),
            leases=leases,
            snapshots=self.snapshots,
            cluster=ClusterService(
                cluster=CLUSTER,
                replicator=self.replicator,
                commits=self.commits,
                reads=self.reads,
                locations=self.locations,
                leases=self.leases,
                scan=self.scan,
                garbage=self.garbage,
                rpc=rpc,
                clock=clock,
                roster=roster,
                lease_seconds=LEASE_SECONDS,
                replication_goal=goal,
                standing=self.standing,
            ),
        )
        self.members = MemberService(
            cluster=CLUSTER,
            replicator=self.replicator,
            commits=self.commits,
            rpc=rpc,
            clock=clock,
            masters=self.service.cluster.all_masters,
            not_heard_since=lambda since: [
                server.id
                for server in self.locations.alive(now=clock.monotonic())
                if server.heard_at <= since
            ],
            has_secret=world.has_secret,
            allow_insecure_network=True,
        )
        handlers = {**self.service.handlers(), **self.members.handlers()}
        world.network.server(self.address, handlers, name=name, role="master")


class LeaseWorld:
    """`masters` m1, m2, …, of which m1 leads; chunk servers s1, s2, …, all heard of; one file."""

    def __init__(
        self,
        *,
        servers: int = 4,
        masters: int = 2,
        goal: int = 3,
        seed: int = 7,
        trash_seconds: float = 60.0,
        has_secret: bool = True,
    ) -> None:
        self.seed = seed
        self.has_secret = has_secret
        self.trash_seconds = trash_seconds
        self.clock = VirtualClock()
        self.network = FakeNetwork(self.clock)
        self.log = FakeLog()
        names = [f"m{n + 1}" for n in range(masters)]
        self.masters = {name: FakeMaster(self, name, names, goal=goal, servers=servers) for name in names}
        self.servers = {
            server.id: server
            for server in (FakeChunkServer(self.network, f"s{n + 1}") for n in range(servers))
        }
        for server in self.servers.values():
            server.peers = self.servers
        self.client = self.network.caller("client")
        self.inode = InodeId(0)
        self.leader = self.masters["m1"]

    async def start(self) -> LeaseWorld:
        self.log.elect(self.leader.replicator)
        await self.heartbeats(report=True)
        created = await self.call(CreateFile(path="/f"), MutationReply)
        self.inode = created.inode
        return self

    async def call(self, request: Request, expected: type[R], *, master: str = "") -> R:
        address = Address(f"{master or self.leader.id}:1")
        return await self.finish(self.client.call(address, request, expected, deadline_seconds=30.0))

    async def finish(self, work: Awaitable[T]) -> T:
        """Let `work` run to its end, moving time on whenever everything waits for it."""
        task = asyncio.ensure_future(work)
        await settle()
        while not task.done():
            await self.clock.advance(0.05)
        return await task

    def start_acquire(self, *, master: str = "", **fields: object) -> asyncio.Task[ChunkLease]:
        request = AcquireLease(inode=self.inode, index=FIRST, create=True, **fields)  # type: ignore[arg-type]
        address = Address(f"{master or self.leader.id}:1")
        return asyncio.ensure_future(self.client.call(address, request, ChunkLease, deadline_seconds=30.0))

    async def acquire(self, *, master: str = "", **fields: object) -> ChunkLease:
        return await self.finish(self.start_acquire(master=master, **fields))

    async def failure(self, work: asyncio.Task[ChunkLease]) -> GfsError:
        try:
            lease = await self.finish(work)
        except GfsError as error:
            return error
        raise AssertionError(f"granted {lease}")

    async def heartbeats(self, *, report: bool = False, only: str = "") -> None:
        """Every living chunk server tells every living master."""
        for server in self.servers.values():
            if only and server.id != only:
                continue
            for master in self.masters.values():
                told_at = self.clock.monotonic()
                reply = await self.heartbeat(server, master, report=report)
                if reply is not None:
                    server.take_heartbeat_reply(reply, told_at=told_at)
            for held in server.replicas.values():
                held.active = False

    async def heartbeat(
        self, server: FakeChunkServer, master: FakeMaster, *, report: bool = False
    ) -> HeartbeatReply | None:
        if server.address not in self.network.servers:
            return None
        beat: Heartbeat = server.heartbeat(report=report)
        if self.network.link(server.id, master.id).cut or master.address not in self.network.servers:
            return None
        caller = self.network.caller(server.id)
        work = caller.call(master.address, beat, HeartbeatReply, deadline_seconds=1.0)
        try:
            return await self.finish(work)
        except OutcomeUnknown:
            return None  # lost on the way

    async def crash_leader(self) -> None:
        """End the leader as kill -9 does, and let the other master take over."""
        old = self.leader
        await self.network.servers[old.address].stop()
        for name in (old.id, *self.servers):
            self.network.cut(old.id, name)
        self.take_over()

    def take_over(self, *, unnoticed: bool = False) -> None:
        self.leader = next(master for master in self.masters.values() if master is not self.leader)
        self.log.elect(self.leader.replicator, unnoticed=unnoticed)

    def chunk(self) -> ChunkRecord:
        found = chunk_of(self.leader.replicator.tables, self.inode, FIRST)
        assert found is not None
        return found

    def content(self, server: ServerId, handle: ChunkHandle) -> list[int]:
        return self.servers[server].replicas[handle].content

    def task(
        self,
        target: str,
        *,
        drop: str = "",
        handle: ChunkHandle | None = None,
        reason: CloneReason = "lost replica",
    ) -> CloneTask:
        """The move of the file's chunk to `target`."""
        return CloneTask(
            inode=self.inode,
            index=FIRST,
            handle=self.chunk().handle if handle is None else handle,
            target=ServerId(target),
            drop=ServerId(drop) if drop else None,
            reason=reason,
            priority=0,
        )

    def check_members(self, acknowledged: set[int]) -> None:
        """The claim of core/grants: each member of the logged set has all that was acknowledged on its disk,
        whichever version it holds."""
        chunk = self.chunk()
        for server in chunk.replicas:
            replica, guest = (
                self.servers[server].replicas.get(chunk.handle),
                self.servers[server].guests.get(chunk.handle),
            )
            content = replica.content if replica is not None else []
            if replica is None and guest is not None:
                assert guest.whole, (self.seed, server)
                content = guest.content
            assert acknowledged <= set(content), (self.seed, server, chunk, acknowledged - set(content))

    def version(self, server: ServerId, handle: ChunkHandle) -> ChunkVersion:
        held = self.servers[server].replicas.get(handle)
        return ChunkVersion(0) if held is None else held.version

    def check(self, lease: ChunkLease, acknowledged: set[int]) -> None:
        """What holds whenever a client is told of a lease: I2, and equal length on all replicas."""
        contents = [self.content(replica.server, lease.handle) for replica in lease.replicas]
        assert contents
        assert len({len(content) for content in contents}) == 1, contents
        for replica, content in zip(lease.replicas, contents, strict=True):
            assert acknowledged <= set(content), (self.seed, replica.server, acknowledged, content)
