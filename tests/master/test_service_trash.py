"""The trash as clients call it: list, undelete, purge, read (GFS §4.4), and retries over lost answers."""

from __future__ import annotations

import pytest

import gfs.master.core.trash as trash_room
from gfs.errors import AlreadyExists, GfsError, InvalidArgument, NotFound, NotLeader, OutcomeUnknown
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
from gfs.messages.operations import RequestId
from gfs.messages.trash import ListTrash, PurgeReply, PurgeTrash, TrashReply, Undelete, UndeleteReply
from gfs.vocabulary import ClientId
from tests.master.lease_world import LeaseWorld

TRASH_SECONDS = 60.0  # of LeaseWorld's masters


async def world() -> LeaseWorld:
    here = await LeaseWorld().start()
    await here.call(MakeDirectory(path="/d"), MutationReply)
    return here


async def make(here: LeaseWorld, path: str) -> int:
    return (await here.call(CreateFile(path=path), MutationReply)).inode


async def delete(here: LeaseWorld, path: str) -> int:
    return (await here.call(DeletePath(path=path, recursive=True), MutationReply)).inode


async def trash(here: LeaseWorld, under: str = "/") -> list[str]:
    reply = await here.call(ListTrash(under=under), TrashReply)
    return [f"{found.path} {found.entry.path}" for found in reply.entries]


async def test_what_was_deleted_is_listed_with_its_times_and_comes_back() -> None:
    here = await world()
    inode = await make(here, "/d/f")
    await here.clock.advance(1.0)
    now_ms = here.clock.wall_ms()
    await delete(here, "/d/f")
    [found] = (await here.call(ListTrash(under="/d"), TrashReply)).entries
    assert (found.path, found.entry.inode, found.entry.kind) == ("/d/f", inode, "file")
    assert (found.deleted_ms, found.expires_ms) == (now_ms, now_ms + TRASH_SECONDS * 1000)
    back = await here.call(Undelete(path="/d/f"), UndeleteReply)
    assert (back.path, back.inode) == ("/d/f", inode)
    assert await trash(here) == []


async def test_of_several_deleted_from_one_path_the_last_comes_back_or_the_one_that_is_named() -> None:
    here = await world()
    inodes = []
    for _ in range(3):
        inodes.append(await make(here, "/f1"))
        await here.clock.advance(1.0)
        await delete(here, "/f1")
    assert (await here.call(Undelete(path="/f1"), UndeleteReply)).inode == inodes[2]
    with pytest.raises(AlreadyExists):
        await here.call(Undelete(path="/f1"), UndeleteReply)
    hidden = Undelete(path=f"/.trash/{inodes[0]}", destination="/d/first")
    assert (await here.call(hidden, UndeleteReply)).path == "/d/first"
    assert await trash(here) == [f"/f1 /.trash/{inodes[1]}"]


async def test_the_last_deleted_comes_back_although_the_clock_was_set_back_between() -> None:
    here = await world()
    await make(here, "/f1")
    here.clock.step_wall_ms(600_000)
    await delete(here, "/f1")
    here.clock.step_wall_ms(-600_000)
    last = await make(here, "/f1")
    await delete(here, "/f1")
    assert (await here.call(Undelete(path="/f1"), UndeleteReply)).inode == last


async def test_it_can_be_read_under_its_hidden_name() -> None:
    here = await world()
    lease = await here.acquire()
    await delete(here, "/f")
    hidden = f"/.trash/{here.inode}"
    assert (await here.call(Stat(path=hidden), EntryReply)).entry.chunk_count == 1
    found = await here.call(FindChunks(path=hidden), FileChunks)
    assert found.chunks[0].handle == lease.handle and len(found.chunks[0].replicas) == 3
    for request in (CreateFile(path=f"{hidden}/x"), RenamePath(source=hidden, destination="/g")):
        with pytest.raises(InvalidArgument, match="trash"):
            await here.call(request, MutationReply)


async def test_nothing_found_says_what_was_deleted_instead() -> None:
    here = await world()
    await make(here, "/d/f")
    directory = await delete(here, "/d")
    with pytest.raises(NotFound, match="/d with everything in it") as raised:
        await here.call(Undelete(path="/d/f"), UndeleteReply)
    assert f"/.trash/{directory}/f" in raised.value.hint
    with pytest.raises(NotFound, match="nothing that was deleted from /nonsense"):
        await here.call(Undelete(path="/nonsense"), UndeleteReply)
    with pytest.raises(NotFound, match=r"does not hold /\.trash/4711"):
        await here.call(Undelete(path="/.trash/4711"), UndeleteReply)
    with pytest.raises(InvalidArgument, match="as a whole"):
        await here.call(Undelete(path=f"/.trash/{directory}/f"), UndeleteReply)


async def test_purging_takes_what_is_named_and_deleting_again_does_the_same() -> None:
    here = await world()
    for path in ("/a", "/b", "/d/c", "/d/e"):
        await make(here, path)
    gone = {path: await delete(here, path) for path in ("/a", "/b", "/d/c", "/d/e")}
    assert (await here.call(PurgeTrash(path="/a"), PurgeReply)).entries == 1
    assert await delete(here, f"/.trash/{gone['/b']}") == gone["/b"]
    with pytest.raises(NotFound):
        await delete(here, f"/.trash/{gone['/b']}")
    with pytest.raises(NotFound):
        await here.call(PurgeTrash(path="/d"), PurgeReply)  # it was not deleted itself
    assert (await here.call(PurgeTrash(path="/d", everything=True), PurgeReply)).entries == 2
    assert (await here.call(PurgeTrash(path="/", everything=True), PurgeReply)).entries == 0
    assert await trash(here) == []


async def test_a_long_trash_is_purged_in_parts_and_searched_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trash_room, "TRASH_SCAN_MAX", 7)
    monkeypatch.setattr("gfs.master.trash_service.PURGE_ENTRIES_MAX", 10)
    here = await world()
    for number in range(25):
        await make(here, f"/f{number}")
        await here.clock.advance(0.01)
        await delete(here, f"/f{number}")
    assert (await here.call(Undelete(path="/f24"), UndeleteReply)).path == "/f24"
    replies = [await here.call(PurgeTrash(path="/", everything=True), PurgeReply) for _ in range(3)]
    assert [(reply.entries, reply.more) for reply in replies] == [(10, True), (10, True), (4, False)]


@pytest.mark.parametrize("what", ["undelete", "purge", "delete again"])
async def test_a_retry_whose_first_try_was_carried_out_is_answered_as_the_first(what: str) -> None:
    here = await world()
    inode = await make(here, "/f1")
    await delete(here, "/f1")
    id = RequestId(ClientId(5), 1, 0)
    request, reply = {
        "undelete": (Undelete(path="/f1", request=id), UndeleteReply),
        "purge": (PurgeTrash(path="/f1", request=id), PurgeReply),
        "delete again": (DeletePath(path=f"/.trash/{inode}", request=id), MutationReply),
    }[what]
    here.leader.replicator.answers_to_lose = 1
    with pytest.raises(OutcomeUnknown):
        await here.call(request, reply)
    done = await here.call(request, reply)
    if isinstance(done, UndeleteReply):
        assert (done.inode, done.path) == (inode, "/f1")
    other: list[GfsError] = []
    for again in (Undelete(path="/f1"), PurgeTrash(path="/f1")):
        with pytest.raises(NotFound) as raised:
            await here.call(again, again.reply)
        other.append(raised.value)
    assert len(other) == 2


async def test_a_follower_lists_but_gives_nothing_back() -> None:
    here = await world()
    inode = await make(here, "/f1")
    await delete(here, "/f1")
    listed = await here.call(ListTrash(consistency="stale"), TrashReply, master="m2")
    assert [found.entry.inode for found in listed.entries] == [inode]
    with pytest.raises(NotLeader):
        await here.call(Undelete(path="/f1"), UndeleteReply, master="m2")


async def test_the_leader_reclaims_what_has_expired_and_no_sooner() -> None:
    here = await world()
    await here.acquire()
    await delete(here, "/f")
    await here.clock.advance(TRASH_SECONDS - 1.0)
    await here.finish(here.leader.garbage.tick())
    assert here.leader.replicator.state.counters.chunks == 1
    await here.clock.advance(2.0)
    for master in here.masters.values():
        await here.finish(master.garbage.tick())
    assert here.leader.replicator.state.counters.chunks == 0
    assert here.masters["m2"].replicator.state.counters.chunks == 0
    with pytest.raises(NotFound):
        await here.call(Undelete(path="/f"), UndeleteReply)


async def test_a_master_whose_state_is_not_trusted_names_no_garbage_and_reclaims_nothing() -> None:
    here = await world()
    lease = await here.acquire()
    await here.heartbeats()
    await delete(here, "/f")
    await here.call(PurgeTrash(path="/f"), PurgeReply)
    here.leader.standing.report_untrusted("its digest differs", step="Wait")
    await here.finish(here.leader.garbage.tick())
    assert here.leader.replicator.state.counters.chunks == 1
    here.leader.standing.report_trusted()
    await here.finish(here.leader.garbage.tick())
    assert here.leader.replicator.state.counters.chunks == 0
    here.leader.standing.report_untrusted("its digest differs", step="Wait")
    await here.heartbeats()
    assert not any(server.words for server in here.servers.values())
    here.leader.standing.report_trusted()
    await here.heartbeats()
    named = [word.garbage.handle for server in here.servers.values() for word in server.words]
    assert named == [lease.handle] * 3


def test_order_of_deletions_forgets_the_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trash_room, "DELETIONS_REMEMBERED_MIN", 4)
    order = trash_room.DeletionOrder()
    for inode in (30, 20, 10, 30, 40, 50, 60):
        order.note(inode)
    ranks = [order.rank(inode) for inode in (20, 10, 30, 40, 50, 60)]
    assert ranks == sorted(ranks), "30 was deleted again after 10"
    assert min(ranks[3:]) > 0 and order.rank(70) == 0
    assert sum(rank > 0 for rank in ranks) < 4 + 4
