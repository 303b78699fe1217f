"""One leader, chunk servers that only exist as heartbeats, and moves that take as long as the test says.

The leader's part is the real RepairDuty over a real MasterState; `Moves` stands for replica_moves and checks
what it is asked for.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from random import Random

from gfs.errors import GfsError, Unavailable
from gfs.master.commit import Commits
from gfs.master.core.clone_task import CloneTask
from gfs.master.core.invariants import check_invariants
from gfs.master.core.leases import LeaseTable
from gfs.master.core.locations import Locations
from gfs.master.core.lookup import chunk_by_handle
from gfs.master.core.records import ChunkRecord
from gfs.master.core.repair_queue import Limits
from gfs.master.core.server_pool import ServerPool
from gfs.master.reads import Reads
from gfs.master.repair_duty import RepairDuty
from gfs.master.standing import Standing
from gfs.messages import operations as op
from gfs.messages.heartbeat import Heartbeat, HeldChunk
from gfs.telemetry import Metrics
from gfs.vocabulary import (
    Address,
    ChunkHandle,
    ChunkIndex,
    ChunkVersion,
    ClusterId,
    InodeId,
    ServerId,
)
from tests.fakes.clock import VirtualClock
from tests.fakes.replicator import FakeLog, roster_of

DEAD_SECONDS = 5.0
HEARTBEAT_SECONDS = 0.5
GIB = 2**30
LIMITS = Limits(active_max=8, per_server_max=2, rebalancing_max=2)


@dataclass
class Server:
    id: ServerId
    rack: str
    total_bytes: int
    foreign_bytes: int  # on its disk, but not of this cluster
    chunk_bytes: int
    held: dict[ChunkHandle, ChunkVersion] = field(default_factory=dict)
    removed: list[ChunkHandle] = field(default_factory=list)  # since the last heartbeat
    corrupt: set[ChunkHandle] = field(default_factory=set)
    alive: bool = True

    def delete(self, handle: ChunkHandle) -> None:
        if self.held.pop(handle, None) is not None:
            self.removed.append(handle)
        self.corrupt.discard(handle)

    def heartbeat(self) -> Heartbeat:
        used = self.foreign_bytes + len(self.held) * self.chunk_bytes
        removed, self.removed = self.removed, []
        return Heartbeat(
            server=self.id,
            cluster=ClusterId("c"),
            incarnation="first",
            control=Address(f"{self.id}:1"),
            data=Address(f"{self.id}:2"),
            rack=self.rack,
            disk_total_bytes=self.total_bytes,
            disk_free_bytes=self.total_bytes - used,
            chunk_count=len(self.held),
            report_page=0,
            report_last=True,
            report=[HeldChunk(handle, version, 1) for handle, version in self.held.items()],
            removed=removed,
            corrupt=sorted(self.corrupt),
        )


class Moves:
    """Carries tasks out by the log's rules, after `seconds`; keeps an account."""

    def __init__(self, world: RepairWorld, seconds: float) -> None:
        self.world = world
        self.seconds = seconds
        self.done: list[CloneTask] = []
        self.removed: list[tuple[ChunkHandle, ServerId]] = []
        self.refuse: GfsError | None = None
        self.under_way: list[CloneTask] = []
        self.most_at_once = 0
        self.cancelled = 0

    async def carry_out(self, task: CloneTask) -> None:
        world = self.world
        self.under_way.append(task)
        self.most_at_once = max(self.most_at_once, len(self.under_way))
        per_target = Counter(one.target for one in self.under_way)
        assert max(per_target.values()) <= world.limits.per_server_max
        try:
            await world.clock.sleep(self.seconds)
            if self.refuse is not None:
                raise self.refuse
            self._move(task)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way.remove(task)
        self.done.append(task)

    async def remove_replica(
        self, _inode: InodeId, _index: ChunkIndex, handle: ChunkHandle, server: ServerId
    ) -> None:
        chunk = self.world.chunk(handle)
        assert server in chunk.replicas and len(chunk.replicas) > 1
        self._change(handle, [s for s in chunk.replicas if s != server])
        self.removed.append((handle, server))
        self.world.servers[server].delete(handle)

    def _move(self, task: CloneTask) -> None:
        world = self.world
        good = world.good(task.handle)
        if not good:
            raise Unavailable("nobody to copy from")
        target = world.servers[task.target]
        if not target.alive or task.target in world.chunk(task.handle).replicas:
            raise Unavailable(f"{task.target} cannot take it")
        self._change(task.handle, good)
        self._change(task.handle, [*good, task.target], joined=(task.target,))
        if task.drop in good:
            self._change(task.handle, [s for s in (*good, task.target) if s != task.drop])
            assert task.drop is not None
            world.garbage.append((task.drop, task.handle))

    def _change(
        self, handle: ChunkHandle, replicas: list[ServerId], joined: tuple[ServerId, ...] = ()
    ) -> None:
        world = self.world
        chunk = world.chunk(handle)
        outcome = world.apply(
            op.ChangeReplicas(
                handle=handle,
                from_version=chunk.version,
                replicas=tuple(replicas),
                primary=replicas[0],
                joined=joined,
                held_version=chunk.version if joined else ChunkVersion(0),
            )
        )
        assert isinstance(outcome, op.ChunkGranted)
        for server in replicas:
            world.servers[server].held[handle] = outcome.version
            world.locations.note_bump(server, handle, outcome.version)


class RepairWorld:
    """`racks` names the rack of each server s1, s2, …"""

    def __init__(
        self,
        racks: str = "aaaaa",
        *,
        patience_seconds: float = 6.0,
        move_seconds: float = 0.2,
        limits: Limits = LIMITS,
        levels: bool = False,
        seed: int = 7,
        chunk_bytes: int = GIB // 16,
    ) -> None:
        self.limits = limits
        self.clock = VirtualClock()
        self.log = FakeLog()
        self.replicator = self.log.member("m1")
        self.log.elect(self.replicator)
        self.locations = Locations(dead_seconds=DEAD_SECONDS)
        self.servers: dict[ServerId, Server] = {}
        self.chunk_bytes = chunk_bytes
        for rack in racks:
            self.add_server(rack)
        self.garbage: list[tuple[ServerId, ChunkHandle]] = []
        self.leases = LeaseTable()
        commits = Commits(
            self.replicator,
            self.clock,
            roster=roster_of(self.replicator, ["m1"]),
            metrics=Metrics(),
        )
        self.reads = Reads(
            self.replicator,
            commits,
            self.clock,
            committed=self.replicator.committed_tables,
            applied_index=self.replicator.applied_index,
            standing=Standing(),
        )
        self.commits = commits
        self.pool = ServerPool(self.locations)
        self.moves = Moves(self, move_seconds)
        self.duty = RepairDuty(
            clock=self.clock,
            chance=Random(seed),
            commits=commits,
            reads=self.reads,
            locations=self.locations,
            pool=self.pool,
            leases=self.leases,
            moves=self.moves,
            limits=limits,
            patience_seconds=patience_seconds,
            levels_by_itself=levels,
        )
        # The leader takes its office and looks at nobody before the first heartbeats.
        self.tasks: list[asyncio.Task[None]] = []
        self.log.elect(self.replicator)

    def add_server(self, rack: str, total_bytes: int = 100 * GIB, foreign_bytes: int = 0) -> ServerId:
        name = ServerId(f"s{len(self.servers) + 1}")
        self.servers[name] = Server(name, rack, total_bytes, foreign_bytes, self.chunk_bytes)
        return name

    async def start(self) -> RepairWorld:
        loop = asyncio.get_running_loop()
        self.tasks = [loop.create_task(self._heartbeats()), loop.create_task(self.duty.run())]
        await self.clock.advance(1.0)
        return self

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.replicator.state.save()
        check_invariants(self.replicator.tables)

    async def _heartbeats(self) -> None:
        """Also plays the collector of garbage: what has left a set is gone a moment later."""
        while True:
            for server, handle in self.garbage:
                if server not in self.chunk(handle).replicas:
                    self.servers[server].delete(handle)
            self.garbage.clear()
            self._hear_all()
            await self.clock.sleep(HEARTBEAT_SECONDS)

    # --- what there is -------------------------------------------------------------------------

    def apply(self, operation: op.AnyOperation) -> op.AnyOutcome:
        outcome = self.replicator.state.apply(op.LogRecord(at_ms=self.clock.wall_ms(), operation=operation))
        self.replicator.state.save()
        assert not isinstance(outcome, op.Refused), outcome
        return outcome

    def make_file(self, path: str, *sets: str, goal: int = 3) -> list[ChunkHandle]:
        """A file with one chunk for each of `sets`: "1 2 3" is on s1, s2 and s3."""
        made = self.apply(op.CreateFile(path=path, replication_goal=goal))
        assert isinstance(made, op.Done)
        handles = []
        for index, numbers in enumerate(sets):
            servers = tuple(ServerId(f"s{number}") for number in numbers.split())
            added = self.apply(
                op.AddChunk(inode=made.inode, index=ChunkIndex(index), replicas=servers, primary=servers[0])
            )
            assert isinstance(added, op.ChunkGranted)
            handles.append(added.handle)
            for server in servers:
                self.servers[server].held[added.handle] = added.version
        return handles

    def chunk(self, handle: ChunkHandle) -> ChunkRecord:
        found = chunk_by_handle(self.replicator.tables, handle)
        assert found is not None
        return found

    def good(self, handle: ChunkHandle) -> list[ServerId]:
        """Members that live and hold the bytes."""
        return [
            s
            for s in self.chunk(handle).replicas
            if self.servers[s].alive
            and handle in self.servers[s].held
            and handle not in self.servers[s].corrupt
        ]

    def say(self, server: str, tenure: str) -> None:
        self.apply(op.SetTenure(server=ServerId(server), tenure=tenure))

    def kill(self, *names: str) -> None:
        for name in names:
            self.servers[ServerId(name)].alive = False

    async def hours_later(self) -> None:
        """Time passes in which nothing happens; then there are some minutes to act in."""
        for _ in range(3):
            self.clock.skip(3600.0)
            self._hear_all()
            await self.clock.advance(40.0)

    def _hear_all(self) -> None:
        for server in self.servers.values():
            if server.alive:
                self.locations.hear(server.heartbeat(), now=self.clock.monotonic())

    async def until_quiet(self, *, seconds_max: float = 300.0) -> None:
        """Until nothing is under way, waits or could be moved for some seconds."""
        quiet_since = None
        end = self.clock.monotonic() + seconds_max
        while self.clock.monotonic() < end:
            await self.clock.advance(1.0)
            self.duty.queue.check_invariants()
            busy = self.moves.under_way or self.duty.queue.has_hope()
            quiet_since = None if busy else quiet_since or self.clock.monotonic()
            if quiet_since is not None and self.clock.monotonic() - quiet_since > 25:
                return
        raise AssertionError(
            f"not at rest after {seconds_max} s: {self.duty.queue.waiting} wait, {self.moves.under_way}"
        )
