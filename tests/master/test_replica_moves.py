"""Replicas made, moved, taken away while clients write, servers die and leaders change (GFS §4.3, I1, I2)."""

from __future__ import annotations

import asyncio

import pytest

from gfs.errors import DataUnavailable, GfsError, InvalidArgument, NotFound, Unavailable
from gfs.master.core.clone_task import CloneReason
from gfs.messages.chunks import ChunkLease, FileChunks, FindChunks, SealChunk
from gfs.messages.namespace import DeletePath, EntryReply, MutationReply, SetLengthHint, Stat
from gfs.messages.operations import ChangeReplicas
from gfs.messages.replicas import CloneChunk
from gfs.vocabulary import ChunkHandle, ServerId
from tests.fakes.clock import settle
from tests.master.chunkservers import replica_ids, write
from tests.master.lease_world import FIRST, LeaseWorld


class Moved:
    """A chunk of which mutations 1 and 2 are acknowledged, and a server without a replica of it."""

    def __init__(self, here: LeaseWorld, lease: ChunkLease) -> None:
        self.here, self.lease = here, lease
        self.members = replica_ids(lease.replicas)
        self.free = next(server for server in here.servers if server not in self.members)
        self.acknowledged = {1, 2}

    @classmethod
    async def world(cls, *, servers: int = 4) -> Moved:
        here = await LeaseWorld(servers=servers).start()
        lease = await here.acquire()
        for mutation in (1, 2):
            write(here.servers, lease.handle, lease.version, lease.primary, mutation)
        await here.heartbeats()
        return cls(here, lease)

    def carry_out(
        self, *, drop: str = "", master: str = "", reason: CloneReason = "lost replica"
    ) -> asyncio.Task[None]:
        task = self.here.task(self.free, drop=drop, reason=reason)
        moves = self.here.masters[master].moves if master else self.here.leader.moves
        return asyncio.ensure_future(moves.carry_out(task))

    async def fenced(self) -> None:
        """Go on until the fence is logged."""
        for _ in range(10_000):
            if self.here.chunk().quiet:
                return
            await asyncio.sleep(0)
        raise AssertionError("no fence")

    async def lease_again(self) -> ChunkLease:
        """A writer gets a lease on the set as it is now, and a third mutation is acknowledged under it."""
        lease = await self.here.acquire(failed_version=self.lease.version)
        self.here.check(lease, self.acknowledged)
        write(self.here.servers, lease.handle, lease.version, lease.primary, 3)
        self.acknowledged.add(3)
        self.here.check_members(self.acknowledged)
        return lease


async def test_lost_replica_is_made_anew_on_another_server() -> None:
    moved = await Moved.world()
    lost = moved.members[-1]
    await moved.here.servers[lost].kill()
    await moved.here.clock.advance(6.0)
    await moved.here.heartbeats()
    await moved.here.finish(moved.carry_out())
    assert set(moved.here.chunk().replicas) == {*moved.members, moved.free} - {lost}
    assert set(replica_ids((await moved.lease_again()).replicas)) == set(moved.here.chunk().replicas)


async def test_moved_replica_leaves_only_once_the_new_one_is_in() -> None:
    moved = await Moved.world()
    drop = moved.members[0]
    await moved.here.finish(moved.carry_out(drop=drop))
    assert set(moved.here.chunk().replicas) == {*moved.members, moved.free} - {drop}
    changes = [record.operation for record in moved.here.log.records()]
    assert [len(one.replicas) for one in changes if isinstance(one, ChangeReplicas)] == [3, 4, 3]
    await moved.lease_again()


async def test_moved_replica_stays_when_another_member_was_lost_meanwhile() -> None:
    moved = await Moved.world()
    drop, lost = moved.members[0], moved.members[1]
    await moved.here.servers[lost].kill()
    await moved.here.clock.advance(6.0)
    await moved.here.heartbeats()
    await moved.here.finish(moved.carry_out(drop=drop))
    assert set(moved.here.chunk().replicas) == {drop, moved.members[2], moved.free}


@pytest.mark.parametrize("reason", ["rebalance", "drain", "goal raised"])
async def test_member_that_is_away_for_a_moment_is_shut_out_by_no_move_that_can_wait(
    reason: CloneReason,
) -> None:
    moved = await Moved.world()
    here, away = moved.here, moved.members[1]
    await here.servers[away].kill()
    await here.clock.advance(6.0)
    await here.heartbeats()
    with pytest.raises(Unavailable, match=f"{away} may come back"):
        await here.finish(moved.carry_out(drop=moved.members[0], reason=reason))
    assert here.chunk().version == moved.lease.version
    here.servers[away].restart()
    await here.heartbeats(report=True)
    await here.finish(moved.carry_out(drop=moved.members[0], reason=reason))
    assert away in here.chunk().replicas


async def test_readers_find_the_new_replica_only_once_it_is_valid() -> None:
    moved = await Moved.world()
    here = moved.here
    here.servers[ServerId(moved.free)].copy_seconds = 2.0
    moving = moved.carry_out()
    await settle()
    assert here.servers[ServerId(moved.free)].guests
    places = await here.call(FindChunks(path="/f"), FileChunks)
    assert moved.free not in replica_ids(places.chunks[0].replicas)
    await here.finish(moving)
    places = await here.call(FindChunks(path="/f"), FileChunks)
    assert set(replica_ids(places.chunks[0].replicas)) == {*moved.members, moved.free}


async def test_writers_go_on_while_the_bulk_is_copied() -> None:
    moved = await Moved.world()
    here, lease = moved.here, moved.lease
    here.servers[ServerId(moved.free)].copy_seconds = 2.0
    moving = moved.carry_out()
    await here.clock.advance(1.0)
    for mutation in (11, 12, 13):
        write(here.servers, lease.handle, lease.version, lease.primary, mutation)
        moved.acknowledged.add(mutation)
    await here.finish(moving)
    await moved.lease_again()


async def test_client_that_asks_during_the_fence_gets_a_lease_soon_after() -> None:
    moved = await Moved.world()
    here = moved.here
    moving = moved.carry_out()
    await moved.fenced()
    asking = here.start_acquire(failed_version=moved.lease.version)
    lease = await here.finish(asking)
    assert moving.done() and moved.free in replica_ids(lease.replicas)
    here.check(lease, moved.acknowledged)


async def test_client_that_asks_during_a_fence_that_comes_to_nothing_gets_a_lease_all_the_same() -> None:
    moved = await Moved.world()
    here = moved.here
    moving = moved.carry_out()
    await moved.fenced()
    await here.servers[ServerId(moved.free)].kill()
    lease = await here.acquire(failed_version=moved.lease.version)
    assert set(replica_ids(lease.replicas)) == set(moved.members)
    with pytest.raises(GfsError):
        await moving


async def test_version_of_a_fence_is_told_to_no_client() -> None:
    moved = await Moved.world()
    here = moved.here
    await here.finish(moved.carry_out())
    quiet = here.chunk().version
    await here.heartbeats()
    lease = await here.acquire()
    assert lease.version == quiet + 1


async def test_sealed_chunk_is_moved_and_stays_sealed() -> None:
    moved = await Moved.world()
    here = moved.here
    await here.call(SealChunk(inode=here.inode, index=FIRST), MutationReply)
    await here.finish(moved.carry_out(drop=moved.members[0]))
    chunk = here.chunk()
    assert chunk.sealed and chunk.length_bytes == 2
    assert moved.free in chunk.replicas and moved.members[0] not in chunk.replicas
    for server in chunk.replicas:
        assert here.content(server, chunk.handle) == [1, 2]
        assert here.servers[server].sealed[chunk.handle] == 2


async def test_move_leaves_the_length_and_the_times_of_the_file_alone() -> None:
    moved = await Moved.world()
    here = moved.here
    await here.call(SetLengthHint(inode=here.inode, length_bytes=2, closed=True), MutationReply)
    before = await here.call(Stat(path="/f"), EntryReply)
    await here.finish(moved.carry_out())
    after = await here.call(Stat(path="/f"), EntryReply)
    assert before.entry == after.entry and after.entry.length_exact


async def test_chunk_of_a_deleted_file_is_moved_too() -> None:
    moved = await Moved.world()
    task = moved.here.task(moved.free)
    await moved.here.call(DeletePath(path="/f"), MutationReply)
    await moved.here.finish(moved.here.leader.moves.carry_out(task))
    assert moved.here.version(ServerId(moved.free), task.handle) > 1


async def test_second_move_of_a_chunk_waits_for_another_time() -> None:
    moved = await Moved.world()
    moved.here.servers[ServerId(moved.free)].copy_seconds = 1.0
    first = moved.carry_out()
    await settle()
    with pytest.raises(Unavailable, match="already"):
        await moved.here.finish(moved.carry_out())
    await moved.here.finish(first)
    await moved.here.finish(moved.carry_out())  # is in by now: nothing to do


async def test_chunk_that_nobody_holds_is_not_copied() -> None:
    moved = await Moved.world()
    for server in moved.members:
        await moved.here.servers[server].kill()
    await moved.here.clock.advance(6.0)
    await moved.here.heartbeats()
    with pytest.raises(DataUnavailable, match="can be reached"):
        await moved.here.finish(moved.carry_out())
    task = moved.here.task(moved.free, handle=ChunkHandle(99))
    with pytest.raises(NotFound):
        await moved.here.finish(moved.here.leader.moves.carry_out(task))


async def test_corrupt_replica_is_no_source_and_no_member_afterwards() -> None:
    moved = await Moved.world()
    here, bad = moved.here, moved.members[0]
    known = here.leader.locations.get(bad)
    assert known is not None
    known.corrupt.add(moved.lease.handle)
    await here.finish(moved.carry_out())
    sources = [s for c in here.network.seen if isinstance(c.request, CloneChunk) for s in c.request.sources]
    assert bad not in replica_ids(sources)
    assert set(here.chunk().replicas) == {*moved.members, moved.free} - {bad}


async def test_grant_that_was_cut_short_does_not_keep_a_chunk_from_being_copied() -> None:
    """The leader died between the log and the replicas: no member holds the version logged last."""
    moved = await Moved.world()
    here = moved.here
    for server in moved.members:
        here.network.delay(here.leader.id, server, 0.3)
    asking = here.start_acquire(failed_version=moved.lease.version)
    for _ in range(10_000):
        if here.chunk().version > moved.lease.version:
            break
        await asyncio.sleep(0)
    await here.crash_leader()
    asking.cancel()
    await here.heartbeats(report=True)
    assert {here.version(server, moved.lease.handle) for server in moved.members} == {moved.lease.version}
    await here.finish(moved.carry_out())
    assert moved.free in here.chunk().replicas
    await moved.lease_again()


class TestRemoving:
    async def test_removed_replica_is_in_no_later_set(self) -> None:
        moved = await Moved.world()
        here, surplus = moved.here, moved.members[0]
        chunk = here.chunk()
        removing = here.leader.moves.remove_replica(here.inode, FIRST, chunk.handle, surplus)
        await here.finish(removing)
        assert set(here.chunk().replicas) == set(moved.members[1:])
        assert here.chunk().version == chunk.version + 1
        await here.finish(here.leader.moves.remove_replica(here.inode, FIRST, chunk.handle, surplus))
        assert here.chunk().version == chunk.version + 1
        await moved.lease_again()

    async def test_only_replica_is_never_removed(self) -> None:
        moved = await Moved.world()
        here, handle = moved.here, moved.lease.handle
        for server in moved.members[:2]:
            await here.finish(here.leader.moves.remove_replica(here.inode, FIRST, handle, server))
        with pytest.raises(InvalidArgument, match="only replica"):
            await here.finish(here.leader.moves.remove_replica(here.inode, FIRST, handle, moved.members[2]))

    async def test_replica_is_not_removed_while_the_others_cannot_be_reached(self) -> None:
        moved = await Moved.world()
        here, handle = moved.here, moved.lease.handle
        for server in moved.members[1:]:
            await here.servers[server].kill()
        await here.clock.advance(6.0)
        await here.heartbeats()
        with pytest.raises(DataUnavailable):
            await here.finish(here.leader.moves.remove_replica(here.inode, FIRST, handle, moved.members[0]))
        assert set(here.chunk().replicas) == set(moved.members)


class TestGuestsThatNeverJoined:
    """A whole copy may be in a logged set: only a leader that knows the log lets it go (I6)."""

    async def left_behind(self) -> Moved:
        """The leader dies after the copy is whole, and before it lets the target join."""
        moved = await Moved.world()
        target = moved.here.servers[ServerId(moved.free)]
        moving = moved.carry_out()
        for _ in range(10_000):
            if any(guest.whole for guest in target.guests.values()):
                break
            await asyncio.sleep(0)
        await moved.here.crash_leader()
        moving.cancel()
        assert moved.free not in moved.here.chunk().replicas and target.guests
        return moved

    async def collect(self, here: LeaseWorld, *, rounds: int = 8) -> None:
        for number in range(rounds):
            await here.heartbeats(report=number == 0)
            for server in here.servers.values():
                server.collect()
            await here.leader.garbage.tick()
            await here.clock.advance(2.0)

    async def test_copy_that_no_set_will_have_is_named_as_garbage(self) -> None:
        moved = await self.left_behind()
        await self.collect(moved.here)
        assert not moved.here.servers[ServerId(moved.free)].guests
        await moved.lease_again()

    async def test_copy_of_a_chunk_being_moved_is_not_named(self) -> None:
        moved = await self.left_behind()
        moved.here.servers[ServerId(moved.free)].copy_seconds = 1.0
        moving = moved.carry_out()
        await self.collect(moved.here, rounds=1)
        await moved.here.finish(moving)
        assert moved.free in moved.here.chunk().replicas

    async def test_copy_of_a_member_that_has_not_heard_so_is_kept(self) -> None:
        moved = await Moved.world()
        here = moved.here
        target = here.servers[ServerId(moved.free)]
        moving = moved.carry_out()
        for _ in range(10_000):
            if any(guest.whole for guest in target.guests.values()):
                break
            await asyncio.sleep(0)
        here.network.drop(here.leader.id, target.id, requests=1)  # the bump
        for _ in range(10_000):
            if moved.free in here.chunk().replicas:
                break
            await asyncio.sleep(0)
        assert moved.free in here.chunk().replicas and target.guests
        moving.cancel()
        await here.crash_leader()
        await self.collect(here)
        assert target.guests
        lease = await moved.lease_again()
        assert moved.free in replica_ids(lease.replicas)


class TestCrashes:
    """At every step somebody dies; what was acknowledged stays, the chunk can be written and moved again."""

    @pytest.mark.parametrize("step", range(0, 60, 2))
    async def test_leader_dies(self, step: int) -> None:
        moved = await Moved.world()
        here = moved.here
        here.servers[ServerId(moved.free)].copy_seconds = 0.01
        moving = moved.carry_out(drop=moved.members[0])
        await self.steps(here, moving, step)
        await here.crash_leader()
        moving.cancel()
        await self.recover(moved)

    @pytest.mark.parametrize("step", range(0, 60, 3))
    @pytest.mark.parametrize("who", ["target", "drop", "source"])
    async def test_chunk_server_dies(self, step: int, who: str) -> None:
        moved = await Moved.world()
        here = moved.here
        here.servers[ServerId(moved.free)].copy_seconds = 0.01
        moving = moved.carry_out(drop=moved.members[0])
        await self.steps(here, moving, step)
        dying = {"target": moved.free, "drop": moved.members[0], "source": moved.members[2]}[who]
        await here.servers[ServerId(dying)].kill()
        try:
            await here.finish(moving)
        except GfsError:
            pass
        here.check_members(moved.acknowledged)
        await self.recover(moved)

    async def steps(self, here: LeaseWorld, moving: asyncio.Task[None], steps: int) -> None:
        for number in range(steps):
            await asyncio.sleep(0)
            if number % 10 == 9:
                await here.clock.advance(0.005)

    async def recover(self, moved: Moved) -> None:
        here = moved.here
        here.check_members(moved.acknowledged)
        for server in here.servers.values():
            if server.address not in here.network.servers:
                server.restart()
        await here.heartbeats(report=True)
        lease = await moved.lease_again()
        if moved.free not in replica_ids(lease.replicas):
            await here.finish(moved.carry_out())
        assert moved.free in here.chunk().replicas
        moved.lease = lease
        last = await here.acquire(failed_version=lease.version)
        here.check(last, moved.acknowledged)
