"""Snapshots as the leader takes them: leases taken back, copies on write, changes of leader (GFS §3.4)."""

from __future__ import annotations

import asyncio

import pytest

from gfs.errors import (
    AlreadyExists,
    DataUnavailable,
    GfsError,
    InvalidArgument,
    LeaseExpired,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    Unavailable,
)
from gfs.master.core.chunk_copies import is_reserved, reserved_copies
from gfs.master.core.invariants import check_invariants
from gfs.master.core.lookup import chunk_of, stat
from gfs.master.core.records import ChunkRecord
from gfs.master.core.snapshots import jobs_under_way
from gfs.messages import operations as op
from gfs.messages.chunks import AcquireLease, ChunkLease, FileChunks, FindChunks
from gfs.messages.namespace import CreateFile, MakeDirectory, MutationReply, RenamePath, SetLengthHint
from gfs.messages.operations import RequestId
from gfs.messages.snapshots import CopyReplica, RevokeLeases, TakeSnapshot
from gfs.vocabulary import ClientId, InodeId
from tests.fakes.clock import settle
from tests.master.chunkservers import write
from tests.master.lease_world import FIRST, LEASE_SECONDS, LeaseWorld


class World(LeaseWorld):
    """A lease world in which snapshots are taken and files written."""

    async def snapshot(self, source: str = "/f", target: str = "/copy", sequence: int = 0) -> InodeId:
        return (await self.call(self.request(source, target, sequence), MutationReply)).inode

    def request(self, source: str = "/f", target: str = "/copy", sequence: int = 0) -> TakeSnapshot:
        request = RequestId(ClientId(5), sequence, 1) if sequence else None
        return TakeSnapshot(source=source, target=target, request=request)

    def begin(
        self, source: str = "/f", target: str = "/copy", sequence: int = 0
    ) -> asyncio.Task[MutationReply]:
        request = self.request(source, target, sequence)
        return asyncio.ensure_future(
            self.client.call(self.leader.address, request, MutationReply, deadline_seconds=30.0)
        )

    async def lease(self, path: str, **fields: object) -> ChunkLease:
        request = AcquireLease(inode=self.stat(path), index=FIRST, create=True, **fields)  # type: ignore[arg-type]
        return await self.call(request, ChunkLease)

    async def write(self, path: str, mutation: int) -> ChunkLease:
        lease = await self.lease(path)
        write(self.servers, lease.handle, lease.version, lease.primary, mutation)
        return lease

    def stat(self, path: str) -> InodeId:
        return stat(self.leader.replicator.tables, path).inode

    def chunk_at(self, path: str) -> ChunkRecord:
        found = chunk_of(self.leader.replicator.tables, self.stat(path), FIRST)
        assert found is not None
        return found

    def read(self, path: str) -> list[int]:
        """What every member of the chunk's set that is there holds: all the same."""
        chunk = self.chunk_at(path)
        found = [self.servers[member].replicas[chunk.handle].content for member in chunk.replicas]
        assert all(content == found[0] for content in found), found
        return found[0]

    def seen(self, kind: type) -> list[tuple[str, object]]:
        return [(call.server, call.request) for call in self.network.seen if isinstance(call.request, kind)]

    def sound(self) -> None:
        for master in self.masters.values():
            check_invariants(master.replicator.tables)


async def made(**options: int) -> World:
    world = World(**options)
    await world.start()
    return world


# --- leases -------------------------------------------------------------------------------------


async def test_no_client_writes_under_a_lease_it_had_before_the_snapshot() -> None:
    world = await made()
    old = await world.write("/f", 1)
    await world.snapshot()
    with pytest.raises(GfsError):
        write(world.servers, old.handle, old.version, old.primary, 2)
    assert world.read("/copy") == world.read("/f") == [1]
    new = await world.write("/f", 2)
    assert new.handle != old.handle and new.version > old.version
    assert (world.read("/copy"), world.read("/f")) == ([1], [1, 2])
    world.sound()


async def test_a_chunk_whose_replicas_may_differ_gets_a_new_version_before_it_is_shared() -> None:
    world = await made()
    lease = await world.write("/f", 1)
    secondary = next(r.server for r in lease.replicas if r.server != lease.primary)
    world.servers[lease.primary].apply(lease.handle, lease.version, 1, 99)  # ordered, and nowhere else
    world.servers[secondary].unsettled.add(lease.handle)
    await world.snapshot()
    assert world.chunk_at("/copy").version > lease.version
    assert world.read("/copy") == [1]


async def test_a_primary_that_cannot_be_told_is_fenced() -> None:
    world = await made()
    lease = await world.write("/f", 1)
    for name in ("m1", "m2"):
        world.network.cut(name, lease.primary)
    await world.snapshot()
    assert lease.primary not in world.chunk_at("/copy").replicas
    with pytest.raises(GfsError):
        write(world.servers, lease.handle, lease.version, lease.primary, 2)
    assert world.read("/copy") == [1]


@pytest.mark.parametrize(
    "delay", [0.1, 0.4]
)  # with the longer one a replica misses its bump, and is left out
async def test_a_grant_under_way_is_over_before_the_copy_or_comes_after_it(delay: float) -> None:
    world = await made()
    await world.write("/f", 1)
    world.network.delay("m1", "s1", delay)
    granting = world.start_acquire(failed_version=world.chunk().version)
    await settle()
    snapshot = world.begin()
    lease = await world.finish(granting)
    await world.finish(snapshot)
    try:
        write(world.servers, lease.handle, lease.version, lease.primary, 2)
    except GfsError:
        assert lease.handle == world.chunk_at("/copy").handle  # it was granted before, and taken back
    else:
        assert world.read("/f") == [1, 2]
    assert world.read("/copy") == [1]


async def test_a_lease_asked_for_meanwhile_is_granted_afterwards_on_a_copy() -> None:
    world = await made()
    old = await world.write("/f", 1)
    for name in world.servers:
        world.network.delay("m1", name, 0.2)
    snapshot = world.begin()
    await settle()
    assert jobs_under_way(world.leader.replicator.tables)
    asking = world.start_acquire()
    hint = asyncio.ensure_future(
        world.client.call(
            world.leader.address,
            SetLengthHint(inode=world.inode, length_bytes=1, closed=True),
            MutationReply,
            deadline_seconds=30.0,
        )
    )
    await settle()
    assert not asking.done() and not hint.done()
    await world.finish(snapshot)
    lease = await world.finish(asking)
    await world.finish(hint)
    assert lease.handle != old.handle
    assert not stat(world.leader.replicator.tables, "/copy").length_exact
    write(world.servers, lease.handle, lease.version, lease.primary, 2)
    assert (world.read("/copy"), world.read("/f")) == ([1], [1, 2])


async def test_chunks_that_nobody_can_have_a_lease_of_are_left_in_peace() -> None:
    world = await made()
    await world.write("/f", 1)
    await world.clock.advance(4 * LEASE_SECONDS)
    await world.heartbeats()
    await world.snapshot()
    assert world.seen(RevokeLeases) == []
    assert world.chunk_at("/copy").references == 2


async def test_a_snapshot_that_cannot_take_a_lease_back_is_given_up_and_nothing_is_left_of_it() -> None:
    world = await made()
    lease = await world.write("/f", 1)
    for replica in lease.replicas:
        await world.servers[replica.server].kill()
    snapshot = world.begin(sequence=3)
    with pytest.raises((DataUnavailable, Unavailable)):
        await world.finish(snapshot)
    assert not jobs_under_way(world.leader.replicator.tables)
    with pytest.raises(NotFound):
        world.stat("/copy")
    with pytest.raises(DataUnavailable):  # the same request, sent again
        await world.snapshot(sequence=3)
    for replica in lease.replicas:
        world.servers[replica.server].restart()
    await world.heartbeats(report=True)
    await world.snapshot()
    assert world.read("/copy") == [1]


# --- copies on write ----------------------------------------------------------------------------


async def test_both_files_of_a_shared_chunk_are_copied_apart_once() -> None:
    world = await made()
    await world.write("/f", 1)
    await world.snapshot("/f", "/a")
    await world.snapshot("/a", "/b")
    for number, path in enumerate(("/a", "/f", "/b"), start=2):
        await world.write(path, number)
    assert [world.read(path) for path in ("/a", "/f", "/b")] == [[1, 2], [1, 3], [1, 4]]
    assert len({world.chunk_at(path).handle for path in ("/a", "/f", "/b")}) == 3
    # The last one kept the chunk: nobody shared it any more.
    assert len({request.copy for _, request in world.seen(CopyReplica)}) == 2  # type: ignore[attr-defined]
    world.sound()


async def test_a_server_that_does_not_copy_is_left_out_of_the_copys_set() -> None:
    world = await made()
    lease = await world.write("/f", 1)
    await world.snapshot()
    world.servers[lease.primary].refuse = Unavailable("its disk is full")
    new = await world.lease("/f")
    assert lease.primary not in [replica.server for replica in new.replicas]
    world.servers[lease.primary].refuse = None
    assert lease.primary in world.chunk_at("/copy").replicas


async def test_no_copy_is_made_of_replicas_that_may_be_short_while_a_whole_one_is_away() -> None:
    world = await made()
    lease = await world.write("/f", 1)
    await world.snapshot()
    await world.servers[lease.primary].kill()
    for server in world.servers.values():
        server.may_be_short = True
    with pytest.raises(DataUnavailable):
        await world.lease("/f")
    assert not reserved_copies(world.leader.replicator.tables)
    assert world.chunk_at("/f").references == 2


async def test_readers_find_the_copy_at_once() -> None:
    world = await made()
    await world.write("/f", 1)
    await world.snapshot()
    lease = await world.write("/f", 2)
    found = await world.call(FindChunks(path="/f"), FileChunks)
    assert found.chunks[0].handle == lease.handle
    assert [replica.server for replica in found.chunks[0].replicas]


class Crash(Exception):
    pass


@pytest.mark.parametrize(
    "point", ["copy.reserved", "copy.made", "copy.adopted", "lease.granted", "lease.bumped_all"]
)
async def test_a_leader_that_dies_in_the_middle_of_a_copy_loses_nothing(
    point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await made()
    await world.write("/f", 1)
    await world.snapshot()
    reached = asyncio.Event()

    def hit(name: str) -> None:
        if name == point and not reached.is_set():
            reached.set()
            raise Crash

    monkeypatch.setattr("gfs.failpoints.hit", hit)
    asking = world.start_acquire()
    while not reached.is_set():
        await world.clock.advance(0.05)
    await world.crash_leader()
    await asyncio.wait({asking})
    await settle()
    await world.heartbeats(report=True)
    assert not reserved_copies(world.leader.replicator.tables)
    lease = await world.write("/f", 2)
    assert (world.read("/copy"), world.read("/f")) == ([1], [1, 2])
    held = set(world.servers[lease.primary].replicas)
    known = {world.chunk_at("/f").handle, world.chunk_at("/copy").handle}
    orphans = {handle for handle in held - known if not is_reserved(world.leader.replicator.tables, handle)}
    assert len(orphans) <= 1
    world.sound()


# --- changes of leader --------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["snapshot.begun", "snapshot.leases_revoked", "snapshot.step"])
async def test_the_next_leader_finishes_what_one_has_begun_and_the_clients_retry_is_answered(
    point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await made()
    await world.call(MakeDirectory(path="/d"), MutationReply)
    for number in range(20):
        await world.call(CreateFile(path=f"/d/{number}"), MutationReply)
    await world.write("/d/7", 1)
    monkeypatch.setattr("gfs.master.snapshot_service.STEP_ROWS_MAX", 4)
    reached = asyncio.Event()

    def hit(name: str) -> None:
        if name == point and not reached.is_set():
            reached.set()
            raise Crash

    monkeypatch.setattr("gfs.failpoints.hit", hit)
    first = world.begin("/d", "/copy", sequence=9)
    while not reached.is_set():
        await world.clock.advance(0.05)
    assert len(jobs_under_way(world.leader.replicator.tables)) == 1
    old = world.chunk_at("/d/7")
    await world.crash_leader()
    await asyncio.wait({first})
    creating = asyncio.ensure_future(world.call(CreateFile(path="/d/late"), MutationReply))
    inode = await world.snapshot("/d", "/copy", sequence=9)
    await creating
    assert world.stat("/copy") == inode
    assert world.stat("/d/late")
    with pytest.raises(NotFound):
        world.stat("/copy/late")
    assert world.chunk_at("/copy/7").handle == old.handle
    new = await world.write("/d/7", 2)
    assert new.handle != old.handle
    assert (world.read("/copy/7"), world.read("/d/7")) == ([1], [1, 2])
    world.sound()


async def test_a_snapshot_whose_begin_was_never_answered_does_not_keep_its_source_for_ever() -> None:
    """As when the disks of a majority were full for a while: the leader leads on, and the client is gone."""
    world = await made()
    await world.write("/f", 1)
    world.leader.replicator.answers_to_lose = 1
    with pytest.raises(OutcomeUnknown):
        await world.snapshot()
    assert jobs_under_way(world.leader.replicator.tables)
    # A change of the source waits until its copy is whole.
    await world.call(SetLengthHint(inode=world.inode, length_bytes=1, closed=True), MutationReply)
    assert not jobs_under_way(world.leader.replicator.tables)
    await world.write("/f", 2)
    assert (world.read("/copy"), world.read("/f")) == ([1], [1, 2])
    world.sound()


async def test_a_copy_whose_reservation_was_never_answered_is_forgotten() -> None:
    world = await made()
    await world.write("/f", 1)
    await world.snapshot()
    world.leader.replicator.answers_to_lose = 1
    with pytest.raises(OutcomeUnknown):
        await world.lease("/f")
    assert reserved_copies(world.leader.replicator.tables)
    await world.clock.advance(3.0)
    assert reserved_copies(world.leader.replicator.tables) == []
    await world.write("/f", 2)
    assert (world.read("/copy"), world.read("/f")) == ([1], [1, 2])
    world.sound()


async def test_a_leader_that_does_not_know_it_was_replaced_hands_out_no_lease_that_works() -> None:
    world = await made()
    await world.write("/f", 1)
    world.masters["m1"].replicator.lag = 10**6  # it hears of nothing any more
    world.take_over(unnoticed=True)
    await world.heartbeats()
    await world.snapshot()
    stale = await world.acquire(master="m1")
    with pytest.raises(LeaseExpired):
        write(world.servers, stale.handle, stale.version, stale.primary, 2)
    assert world.read("/copy") == [1]


# --- requests -----------------------------------------------------------------------------------


async def test_bad_requests_are_told_so() -> None:
    world = await made()
    await world.call(MakeDirectory(path="/d"), MutationReply)
    for source, target, kind in (
        ("/d", "/d/in", InvalidArgument),
        ("/", "/x", InvalidArgument),
        ("/d", "/f", AlreadyExists),
        ("/nowhere", "/x", NotFound),
        ("/d", "/nowhere/x", NotFound),
    ):
        with pytest.raises(kind):
            await world.snapshot(source, target)
    with pytest.raises(NotLeader):
        await world.call(world.request(), MutationReply, master="m2")


async def test_snapshots_of_one_tree_to_two_places_come_one_after_the_other() -> None:
    world = await made()
    await world.write("/f", 1)
    one, two, same = world.begin(target="/a"), world.begin(target="/b"), world.begin(target="/a")
    await world.finish(one)
    await world.finish(two)
    with pytest.raises(AlreadyExists):
        await world.finish(same)
    assert world.chunk_at("/f").references == 3


async def test_a_rename_out_of_the_source_waits_for_the_snapshot() -> None:
    world = await made()
    await world.call(MakeDirectory(path="/d"), MutationReply)
    await world.call(CreateFile(path="/d/x"), MutationReply)
    snapshot = world.begin("/d", "/copy")
    renaming = asyncio.ensure_future(world.call(RenamePath(source="/d/x", destination="/x"), MutationReply))
    await world.finish(snapshot)
    await renaming
    records = [type(record.operation) for record in world.log.records()]
    assert records.index(op.RenamePath) > records.index(op.CopySnapshot)
    assert world.stat("/copy/x") and world.stat("/x")
