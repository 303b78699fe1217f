"""I1, I2, I5, I6 and I10 under seeded schedules of everything a leader does to chunks, at once.

Writers of several files, snapshots, copies on write, moves, removals, garbage collection with late words,
deleted files had back and purged, deaths, exchanged disks, new leaders and old ones that do not know it and
hear of nothing, lost messages and answers.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from random import Random

import pytest

import gfs.master.core.garbage as garbage_room
import gfs.master.garbage_collection as collection_room
from gfs.errors import GfsError
from gfs.master.core.chunk_copies import reserved_copies
from gfs.master.core.clone_task import CloneReason, CloneTask
from gfs.master.core.invariants import check_invariants
from gfs.master.core.lookup import chunk_by_handle, chunk_of, inode_record
from gfs.master.core.records import TRASH_INODE, ChunkRecord
from gfs.master.core.tables import MemoryTables
from gfs.messages.base import Request
from gfs.messages.chunks import AcquireLease, ChunkLease
from gfs.messages.namespace import DeletePath, MutationReply
from gfs.messages.snapshots import TakeSnapshot
from gfs.messages.trash import PurgeTrash, Undelete
from gfs.vocabulary import Address, ChunkHandle, InodeId, ServerId
from tests.fakes.clock import settle
from tests.master.chunkservers import FakeChunkServer, write
from tests.master.lease_world import FIRST, LeaseWorld

STEPS = 160
HEARS_NOTHING = 10**9  # entries of the log
FILES_MAX = 5
SEEDS = range(*(int(part) for part in os.environ.get("GFS_TEST_WHOLE_SEEDS", "0-12").split("-")))


@dataclass
class Written:
    """One file and its only writer. `acknowledged` must be there; of what it was copied from, no more than
    what had begun when the snapshot was answered (`before`)."""

    inode: InodeId
    path: str
    acknowledged: set[int] = field(default_factory=set)
    own: set[int] = field(default_factory=set)
    before: int = 0
    lease: ChunkLease | None = None
    old_leases: list[ChunkLease] = field(default_factory=list)
    purged: bool = False


class WholeSchedule:
    def __init__(self, here: LeaseWorld, seed: int) -> None:
        self.here, self.seed, self.chance = here, seed, Random(seed)
        self.files = [Written(here.inode, "/f")]
        self.next_mutation = 1
        self.copies = 0
        self.asking: list[tuple[Written, asyncio.Task[ChunkLease]]] = []
        self.asked: list[asyncio.Task[object]] = []
        self.done: dict[str, int] = {}
        self.exchanged: set[ServerId] = set()
        for server in here.servers.values():
            server.on_collected = self.check_collected

    # --- what can happen ------------------------------------------------------------------------

    async def step(self) -> None:
        acts = {
            self.write: 12,
            self.write_that_misses_a_secondary: 3,
            self.write_under_an_old_lease: 5,
            self.ask: 5,
            self.snapshot: 4,
            self.move: 6,
            self.remove: 2,
            self.delete: 1,
            self.have_back: 2,
            self.purge: 3,
            self.collect_garbage: 5,
            self.lose_messages: 4,
            self.slow_down: 3,
            self.kill_or_restart: 3,
            self.change_leader: 3,
            self.lose_an_answer: 2,
            self.heartbeats: 3,
            self.let_time_pass: 3,
            self.heal: 1,
            self.exchange_disk: 1,
        }
        act = self.chance.choices(list(acts), list(acts.values()))[0]
        await act()
        await self.here.clock.advance(self.chance.choice((0.0, 0.05, 0.05, 0.3)))
        await self.hear_answers()
        self.check()

    async def write(self) -> None:
        file = self.file()
        if file.lease is not None:
            self.write_to(file, file.lease, frozenset())

    async def write_that_misses_a_secondary(self) -> None:
        file = self.file()
        if file.lease is not None:
            missed = self.chance.choice(file.lease.replicas).server
            self.write_to(file, file.lease, frozenset([missed]))

    async def write_under_an_old_lease(self) -> None:
        file = self.file()
        if file.old_leases:
            self.write_to(file, self.chance.choice(file.old_leases), frozenset())

    def write_to(self, file: Written, lease: ChunkLease, lost_at: frozenset[ServerId]) -> None:
        mutation, self.next_mutation = self.next_mutation, self.next_mutation + 1
        file.own.add(mutation)
        try:
            write(self.here.servers, lease.handle, lease.version, lease.primary, mutation, lost_at=lost_at)
            file.acknowledged.add(mutation)
            self.count("write")
        except (GfsError, KeyError) as error:
            named = error.details.get("servers", "") if isinstance(error, GfsError) else ""
            failed = [ServerId(server) for server in named.split(",") if server]
            self.ask_for(file, failed_version=lease.version, suspects=failed)

    async def ask(self) -> None:
        self.ask_for(self.file())

    def ask_for(self, file: Written, **fields: object) -> None:
        request = AcquireLease(inode=file.inode, index=FIRST, create=True, **fields)  # type: ignore[arg-type]
        call = self.here.client.call(self.any_master(), request, ChunkLease, deadline_seconds=30.0)
        self.asking.append((file, asyncio.ensure_future(call)))

    async def snapshot(self) -> None:
        if len(self.files) >= FILES_MAX:
            return
        source = self.file()
        self.copies += 1
        target = f"/copy{self.copies}"
        before = set(source.acknowledged)

        async def take() -> None:
            call = self.here.client.call(
                self.any_master(),
                TakeSnapshot(source=source.path, target=target),
                MutationReply,
                deadline_seconds=30.0,
            )
            reply = await call
            copy = Written(reply.inode, target, before, before=self.next_mutation)
            copy.own |= source.own
            self.files.append(copy)
            self.count("snapshot")

        self.asked.append(asyncio.ensure_future(take()))

    async def move(self) -> None:
        file, chunk = self.chunk()
        if chunk is None:
            return
        target, drop = self.chance.sample(list(self.here.servers), 2)
        reason: CloneReason = self.chance.choice(("lost replica", "rebalance"))
        task = CloneTask(
            inode=file.inode,
            index=FIRST,
            handle=chunk.handle,
            target=target,
            drop=self.chance.choice((None, drop)),
            reason=reason,
            priority=0,
        )
        moves = self.chance.choice(list(self.here.masters.values())).moves
        self.run(moves.carry_out(task), "move")

    async def remove(self) -> None:
        file, chunk = self.chunk()
        if chunk is not None:
            server = self.chance.choice(list(self.here.servers))
            moves = self.chance.choice(list(self.here.masters.values())).moves
            self.run(moves.remove_replica(file.inode, FIRST, chunk.handle, server), "remove")

    async def delete(self) -> None:
        self.request(DeletePath(path=self.file().path), "delete")

    async def have_back(self) -> None:
        self.request(Undelete(path=self.file().path), "undelete")

    async def purge(self) -> None:
        file = self.file()
        if file.path == "/f":
            return
        if self.in_trash(file):
            file.purged = True
            self.request(PurgeTrash(path=file.path), "purge")
        elif self.chance.random() < 0.5:
            self.request(DeletePath(path=file.path), "delete")

    async def collect_garbage(self) -> None:
        for _ in range(2):
            for master in self.here.masters.values():
                await self.here.finish(master.garbage.tick())
            await self.here.heartbeats(report=self.chance.random() < 0.2)
        for server in self.here.servers.values():
            if self.chance.random() > 0.4:
                server.collect()

    async def lose_messages(self) -> None:
        server = self.chance.choice(list(self.here.servers))
        lost = {"requests": 1} if self.chance.random() < 0.5 else {"replies": 1}
        self.here.network.drop(self.here.leader.id, server, **lost)

    async def slow_down(self) -> None:
        server = self.chance.choice(list(self.here.servers.values()))
        server.copy_seconds = self.chance.choice((0.0, 0.1, 0.3, 1.5))
        for master in self.here.masters:
            if not self.here.network.link(master, server.id).cut:
                self.here.network.delay(master, server.id, self.chance.choice((0.0, 0.04, 0.12)))

    async def kill_or_restart(self) -> None:
        dead = [s for s in self.here.servers.values() if s.address not in self.here.network.servers]
        if dead:
            self.chance.choice(dead).restart()
            await self.heartbeats()
        else:
            await self.here.servers[self.chance.choice(list(self.here.servers))].kill()

    async def exchange_disk(self) -> None:
        """Of a server without which every chunk still has a replica: of two there may be one left."""
        if len(self.exchanged) == 2:
            return
        old = self.chance.choice([s for s in self.here.servers.values() if s.id not in self.exchanged])
        for _, chunk in self.chunks():
            if not set(chunk.replicas) - {old.id, *self.exchanged}:
                return
        await old.kill()
        del self.here.servers[old.id]
        self.exchanged.add(old.id)
        fresh = FakeChunkServer(self.here.network, f"{old.id}-new", address=old.address)
        fresh.peers, fresh.on_collected = self.here.servers, self.check_collected
        self.here.servers[fresh.id] = fresh
        if self.chance.random() < 0.7:
            await self.heartbeats()
        self.count("exchange")

    async def change_leader(self) -> None:
        """The old one may not know it, and may hear of nothing that is committed from now on."""
        unnoticed = self.chance.random() < 0.5
        old = self.here.leader.replicator
        for master in self.here.masters.values():
            master.replicator.lag = 0
        self.here.take_over(unnoticed=unnoticed)
        if unnoticed and self.chance.random() < 0.7:
            old.lag = HEARS_NOTHING

    async def lose_an_answer(self) -> None:
        """The operation is in the log, and who proposed it cannot know."""
        self.here.leader.replicator.answers_to_lose = 1

    async def heartbeats(self) -> None:
        await self.here.heartbeats(report=self.chance.random() < 0.3)

    async def let_time_pass(self) -> None:
        await self.here.clock.advance(self.chance.choice((0.1, 0.8, 3.0, 40.0, 130.0)))

    async def heal(self) -> None:
        self.here.network.heal_all()

    # --- the rest -------------------------------------------------------------------------------

    def file(self) -> Written:
        return self.chance.choice(self.files)

    def any_master(self) -> Address:
        return self.chance.choice(list(self.here.masters.values())).address

    def request(self, request: Request, what: str) -> None:
        call = self.here.client.call(self.any_master(), request, request.reply, deadline_seconds=5.0)
        self.run(call, what)

    def run(self, work: object, what: str) -> None:
        async def counted() -> None:
            await work  # type: ignore[misc]
            self.count(what)

        self.asked.append(asyncio.ensure_future(counted()))

    def count(self, what: str) -> None:
        self.done[what] = self.done.get(what, 0) + 1

    async def hear_answers(self) -> None:
        await settle()
        for entry in [entry for entry in self.asking if entry[1].done()]:
            self.asking.remove(entry)
            file, task = entry
            error = task.exception()
            assert error is None or isinstance(error, GfsError), error
            if error is None:
                lease = task.result()
                known = file.lease
                if known is None or (lease.handle, lease.version) != (known.handle, known.version):
                    if known is not None:
                        file.old_leases.append(known)
                    file.lease = lease
        for work in [work for work in self.asked if work.done()]:
            self.asked.remove(work)
            error = work.exception()
            assert error is None or isinstance(error, GfsError), (self.seed, error)

    def tables(self) -> MemoryTables:
        log = self.here.log.leader
        assert log is not None
        log.catch_up()
        return log.tables

    def in_trash(self, file: Written) -> bool:
        record = inode_record(self.tables(), file.inode)
        return record is None or record.parent == TRASH_INODE

    def chunk(self) -> tuple[Written, ChunkRecord | None]:
        file = self.file()
        return file, self.chunk_at(file)

    def chunk_at(self, file: Written) -> ChunkRecord | None:
        record = inode_record(self.tables(), file.inode)
        return (
            None if record is None or not record.chunk_count else chunk_of(self.tables(), file.inode, FIRST)
        )

    def chunks(self) -> list[tuple[Written, ChunkRecord]]:
        found = [(file, self.chunk_at(file)) for file in self.files]
        return [(file, chunk) for file, chunk in found if chunk is not None]

    def check_collected(self, server: ServerId, handle: ChunkHandle) -> None:
        chunk = chunk_by_handle(self.tables(), handle)
        assert chunk is None or server not in chunk.replicas, (self.seed, server, chunk)
        assert handle not in reserved_copies(self.tables()), (self.seed, server, handle)
        self.count("collect")

    def check(self) -> None:
        check_invariants(self.tables())
        for file, chunk in self.chunks():
            if file.purged:
                continue
            present = set(chunk.replicas) & self.here.servers.keys()
            assert present, (self.seed, "all that is left was exchanged", file, chunk)
            for server in sorted(present):
                content = self.content(server, chunk.handle)
                assert file.acknowledged <= set(content), (self.seed, server, file, chunk, content)
                strangers = {m for m in content if m >= file.before} - file.own
                assert not strangers or not file.before, (self.seed, file, strangers)

    def content(self, server: ServerId, handle: ChunkHandle) -> list[int]:
        held, guest = (
            self.here.servers[server].replicas.get(handle),
            self.here.servers[server].guests.get(handle),
        )
        if held is None and guest is not None:
            # An empty chunk may have been given to a server that was just copying it: it will refuse.
            return guest.content if guest.whole else []
        return held.content if held is not None else []

    async def end(self) -> None:
        self.here.network.heal_all()
        for master in self.here.masters.values():
            master.replicator.lag = master.replicator.answers_to_lose = 0
            master.replicator.catch_up()
        for server in self.here.servers.values():
            server.copy_seconds = 0.0
            if server.address not in self.here.network.servers:
                server.restart()
        if self.here.log.leader is not self.here.leader.replicator:
            self.here.log.elect(self.here.leader.replicator)
        await self.here.clock.advance(31.0)
        while self.asked or self.asking:
            await self.here.clock.advance(5.0)
            await self.hear_answers()
        await self.here.heartbeats(report=True)
        self.check()
        for file in self.files:
            if self.in_trash(file):
                try:
                    await self.here.call(Undelete(path=file.path), Undelete.reply)
                except GfsError:
                    continue  # purged
            await self.here.heartbeats()
            first = await self.lease(file)
            lease = await self.lease(file, failed_version=first.version)
            self.here.check(lease, file.acknowledged)
            self.write_to(file, lease, frozenset())
            assert self.next_mutation - 1 in file.acknowledged, (self.seed, file)
        self.check()

    async def lease(self, file: Written, **fields: object) -> ChunkLease:
        request = AcquireLease(inode=file.inode, index=FIRST, create=True, **fields)  # type: ignore[arg-type]
        return await self.here.call(request, ChunkLease)


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What protects live replicas must not be that their deletion comes late."""
    monkeypatch.setattr(garbage_room, "STALE_KEPT_SECONDS", 0.0)
    monkeypatch.setattr(collection_room, "WALK_REST_SECONDS", 0.0)


async def begin(seed: int) -> WholeSchedule:
    here = LeaseWorld(servers=5, masters=2, goal=2 + seed % 2, seed=seed, trash_seconds=3 * 86400.0)
    return WholeSchedule(await here.start(), seed)


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_schedule_of_everything_at_once_loses_an_acknowledged_mutation(seed: int) -> None:
    schedule = await begin(seed)
    for _ in range(STEPS):
        await schedule.step()
    await schedule.end()


async def test_schedules_do_all_of_it() -> None:
    """A schedule in which something never succeeds would prove nothing of it."""
    done: dict[str, int] = {}
    for seed in range(6):
        schedule = await begin(seed)
        for _ in range(STEPS):
            await schedule.step()
        for what, count in schedule.done.items():
            done[what] = done.get(what, 0) + count
        for task in (*schedule.asked, *(task for _, task in schedule.asking)):
            task.cancel()
    wanted = {"write", "snapshot", "move", "remove", "delete", "undelete", "purge", "exchange", "collect"}
    assert wanted <= done.keys(), done
