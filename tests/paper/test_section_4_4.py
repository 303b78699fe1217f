"""GFS §4.4, garbage collection, and the part of §4.5 on what becomes of stale replicas."""

from __future__ import annotations

import pytest

from gfs.errors import NotFound
from gfs.master.core.garbage import STALE_KEPT_SECONDS
from gfs.messages import operations as op
from gfs.messages.chunks import FileChunks, FindChunks
from gfs.messages.namespace import (
    CreateFile,
    DeletePath,
    EntryReply,
    MakeDirectory,
    MutationReply,
    RenamePath,
    Stat,
)
from gfs.messages.trash import ListTrash, TrashReply, Undelete, UndeleteReply
from gfs.settings import GARBAGE_REPLICAS_PER_HEARTBEAT, MasterSettings
from gfs.vocabulary import ChunkHandle
from tests.master.lease_world import LeaseWorld
from tests.paper.boxes import keeps

DAY_SECONDS = 86400.0


async def world(*, servers: int = 3) -> tuple[LeaseWorld, ChunkHandle]:
    """A file /f with one chunk on every server."""
    here = await LeaseWorld(servers=servers, goal=3, trash_seconds=MasterSettings().trash_seconds).start()
    handle = (await here.acquire()).handle
    await here.heartbeats()
    return here, handle


def holders(here: LeaseWorld, handle: ChunkHandle) -> list[str]:
    return [server.id for server in here.servers.values() if handle in server.replicas]


async def collect(here: LeaseWorld) -> None:
    """A turn of every master's duties, a heartbeat of every chunk server, and what it is told to do."""
    for master in here.masters.values():
        await here.finish(master.garbage.tick())
    await here.clock.advance(0.5)
    await here.heartbeats()
    for server in here.servers.values():
        server.collect()


@keeps("garbage-collection")
async def test_a_deletion_is_logged_at_once_and_takes_no_storage_back() -> None:
    """The master logs a deletion immediately, like other changes; space is not reclaimed at once."""
    here, handle = await world()
    await here.call(DeletePath(path="/f"), MutationReply)
    assert isinstance(here.log.records()[-1].operation, op.DeletePath)
    await collect(here)
    assert len(holders(here, handle)) == 3


@keeps("garbage-collection")
async def test_a_deleted_file_has_a_hidden_name_with_the_time_and_can_be_read_and_had_back() -> None:
    """It is only renamed, to a hidden name that tells when; it is read by that name and can be undeleted."""
    here, handle = await world()
    now_ms = here.clock.wall_ms()
    await here.call(DeletePath(path="/f"), MutationReply)
    with pytest.raises(NotFound):
        await here.call(Stat(path="/f"), EntryReply)
    [hidden] = (await here.call(ListTrash(), TrashReply)).entries
    assert (hidden.path, hidden.deleted_ms) == ("/f", now_ms)
    found = await here.call(FindChunks(path=hidden.entry.path), FileChunks)
    assert [(place.handle, len(place.replicas)) for place in found.chunks] == [(handle, 3)]
    assert (await here.call(Undelete(path="/f"), UndeleteReply)).path == "/f"
    assert (await here.call(Stat(path="/f"), EntryReply)).entry.inode == here.inode


@keeps("garbage-collection")
@keeps("background-scan")
async def test_after_three_days_the_scan_removes_it_and_then_its_chunks_go_by_heartbeat() -> None:
    """The scan removes hidden files older than three days (that is configurable), which orphans their chunks;
    in its heartbeat a server names some of what it has, and the master answers with what is there no more."""
    assert MasterSettings().trash_seconds == 3 * DAY_SECONDS
    assert GARBAGE_REPLICAS_PER_HEARTBEAT > 0
    here, handle = await world()
    await here.call(DeletePath(path="/f"), MutationReply)
    here.clock.skip(3 * DAY_SECONDS - 60.0)
    await here.heartbeats()
    await collect(here)
    assert len(holders(here, handle)) == 3
    await here.clock.advance(60.0)
    await here.heartbeats()
    await collect(here)
    assert holders(here, handle) == []
    with pytest.raises(NotFound):
        await here.call(Undelete(path="/f"), UndeleteReply)


@keeps("garbage-collection")
async def test_deleting_what_is_deleted_already_expedites_the_reclamation() -> None:
    """If a deleted file is explicitly deleted again, its storage is reclaimed soon."""
    here, handle = await world()
    await here.call(DeletePath(path="/f"), MutationReply)
    await here.call(DeletePath(path=f"/.trash/{here.inode}"), MutationReply)
    await collect(here)
    assert holders(here, handle) == []


@keeps("garbage-collection")
async def test_a_part_of_the_namespace_can_be_removed_at_once_or_kept_for_longer() -> None:
    """Users may set for parts of the namespace how long deleted files are kept: in some tree they are removed
    from the file system state immediately and for good."""
    here, handle = await world()
    await here.call(MakeDirectory(path="/scratch"), MutationReply)
    await here.call(MakeDirectory(path="/records"), MutationReply)
    await here.leader.commits.commit(op.SetPolicy(path="/scratch", trash_ms=0))
    await here.leader.commits.commit(op.SetPolicy(path="/records", trash_ms=30 * 86_400_000))
    await here.call(RenamePath(source="/f", destination="/scratch/f"), MutationReply)
    await here.call(CreateFile(path="/records/r"), MutationReply)
    now_ms = here.clock.wall_ms()
    for path in ("/scratch/f", "/records/r"):
        await here.call(DeletePath(path=path), MutationReply)
    kept = {found.path: found.expires_ms for found in (await here.call(ListTrash(), TrashReply)).entries}
    assert kept == {"/scratch/f": now_ms, "/records/r": now_ms + 30 * 86_400_000}
    await collect(here)
    assert holders(here, handle) == []
    assert [found.path for found in (await here.call(ListTrash(), TrashReply)).entries] == ["/records/r"]


@keeps("garbage-collection")
async def test_replicas_the_master_never_heard_of_being_made_are_cleaned_up_all_the_same() -> None:
    """Where creation succeeds on some servers and not on others, or a deletion message is lost, the ordinary
    exchange cleans up: it is one uniform and dependable way for replicas that are of no use."""
    here, handle = await world(servers=4)
    lost = next(server for server in here.servers.values() if handle not in server.replicas)
    keeper = next(server for server in here.servers.values() if handle in server.replicas)
    await here.call(CreateFile(path="/g"), MutationReply)
    await here.call(DeletePath(path="/f"), MutationReply)
    await here.call(DeletePath(path=f"/.trash/{here.inode}"), MutationReply)
    for master in here.masters.values():
        await here.finish(master.garbage.tick())
    lost.replicas[handle] = keeper.replicas[handle]  # a message of old times has reached it only now
    here.network.drop(lost.id, "m1", replies=1)
    await collect(here)
    assert holders(here, handle) == [lost.id]
    await here.clock.advance(0.5)
    await collect(here)
    assert holders(here, handle) == []


@keeps("garbage-collection")
@keeps("stale-replicas-out")
async def test_a_stale_replica_is_collected_once_the_chunk_does_without_it() -> None:
    """A replica that missed mutations while its server was down is found by its version when the server is
    back, and removed in the regular garbage collection; until then it counts as not being there (§4.5)."""
    here, handle = await world(servers=4)
    lease = await here.acquire()
    stale = here.servers[lease.replicas[2].server]
    await stale.kill()
    newer = await here.acquire(failed_version=lease.version, suspects=[stale.id])
    stale.restart()
    await here.heartbeats(report=True)
    found = await here.call(FindChunks(path="/f"), FileChunks)
    assert stale.id not in [replica.server for replica in found.chunks[0].replicas]
    other = next(server for server in here.servers.values() if handle not in server.replicas)
    for _ in range(3):
        await here.clock.advance(STALE_KEPT_SECONDS)
        await here.heartbeats()
        await collect(here)
    assert handle in stale.replicas, "two replicas are valid, and a third one can be had from them only"
    await here.finish(here.leader.moves.carry_out(here.task(other.id, handle=handle)))
    for _ in range(3):
        await here.clock.advance(1.0)
        await here.heartbeats()
        await collect(here)
    assert holders(here, handle) == sorted([*(r.server for r in newer.replicas), other.id])
