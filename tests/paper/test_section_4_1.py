"""§4.1, namespace management and locking: the paper's example, on a leader with chunk servers in memory."""

from __future__ import annotations

import asyncio

from gfs.master.core.lookup import list_page, names_of, stat
from gfs.master.core.snapshots import jobs_under_way
from gfs.messages import operations as op
from gfs.messages.chunks import AcquireLease, ChunkLease
from gfs.messages.namespace import CreateFile, DeletePath, Entry, MakeDirectory, MutationReply
from gfs.messages.snapshots import TakeSnapshot
from gfs.vocabulary import ChunkIndex
from tests.fakes.clock import settle
from tests.master.lease_world import LeaseWorld
from tests.paper.boxes import keeps


async def a_snapshot_that_takes_its_time(world: LeaseWorld) -> asyncio.Task[MutationReply]:
    """/home/user to /save/user, held up by chunk servers that are slow to give their leases back."""
    for path in ("/home", "/home/user", "/save"):
        await world.call(MakeDirectory(path=path), MutationReply)
    made = await world.call(CreateFile(path="/home/user/file"), MutationReply)
    lease = AcquireLease(inode=made.inode, index=ChunkIndex(0), create=True)
    await world.call(lease, ChunkLease)
    for server in world.servers:
        world.network.delay(world.leader.id, server, 0.3)
    taking = world.client.call(
        world.leader.address,
        TakeSnapshot(source="/home/user", target="/save/user"),
        MutationReply,
        deadline_seconds=30.0,
    )
    task = asyncio.ensure_future(taking)
    await settle()
    assert jobs_under_way(world.leader.replicator.tables)
    return task


def start_create(world: LeaseWorld, path: str) -> asyncio.Task[MutationReply]:
    call = world.client.call(
        world.leader.address, CreateFile(path=path), MutationReply, deadline_seconds=30.0
    )
    return asyncio.ensure_future(call)


@keeps("namespace-locks", "snapshot")
async def test_a_file_is_not_created_below_a_directory_that_is_being_copied() -> None:
    """The snapshot locks /home and /save for reading, /home/user and /save/user for writing; the creation of
    /home/user/foo wants /home/user for reading, so the two come one after the other."""
    world = await LeaseWorld().start()
    snapshot = await a_snapshot_that_takes_its_time(world)
    creation = start_create(world, "/home/user/foo")
    await settle()
    assert not creation.done() and not snapshot.done()
    await world.finish(snapshot)
    await world.finish(creation)
    records = [record.operation for record in world.log.records()]
    created = records.index(next(o for o in records if getattr(o, "path", "") == "/home/user/foo"))
    copied = [n for n, operation in enumerate(records) if isinstance(operation, op.CopySnapshot)]
    assert created > max(copied)
    tables = world.leader.replicator.tables
    assert stat(tables, "/home/user/foo")
    below = {record.path for record in _entries(world, "/save/user")}
    assert below == {"/save/user/file"}


@keeps("namespace-locks")
async def test_creations_beside_what_is_copied_and_in_one_directory_wait_for_nobody() -> None:
    """A creation needs its parent only for reading: it keeps the parent from being deleted, renamed or
    copied, and lets other creations be."""
    world = await LeaseWorld().start()
    snapshot = await a_snapshot_that_takes_its_time(world)
    creations = [start_create(world, f"/home/{name}") for name in ("one", "two", "three")]
    await settle()
    assert all(creation.done() for creation in creations) and not snapshot.done()
    deletion = asyncio.ensure_future(
        world.client.call(
            world.leader.address,
            DeletePath(path="/home", recursive=True),
            MutationReply,
            deadline_seconds=30.0,
        )
    )
    await settle()
    assert not deletion.done()
    await world.finish(snapshot)
    await world.finish(deletion)
    assert {record.path for record in _entries(world, "/")} == {"/f", "/save"}


@keeps("namespace-table")
async def test_locks_are_made_when_needed_and_gone_when_not() -> None:
    """Locks are allocated lazily and deleted once they are not in use."""
    world = await LeaseWorld().start()
    locks = world.leader.commits.freezes.locks
    assert locks.is_idle
    snapshot = await a_snapshot_that_takes_its_time(world)
    assert not locks.is_idle
    await world.finish(snapshot)
    assert locks.is_idle
    async with locks.hold(write=[names_of("/a/b")]):
        locks.check_invariants()
    assert locks.is_idle


def _entries(world: LeaseWorld, path: str) -> list[Entry]:
    return list_page(world.leader.replicator.tables, path)[0]
