"""The namespace through a master's handlers: bad input, consistency of reads, session tokens, retries."""

from __future__ import annotations

import asyncio

import pytest

from gfs.errors import (
    AlreadyExists,
    GfsError,
    InvalidArgument,
    InvalidPath,
    IsADirectory,
    NoQuorum,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    Unavailable,
)
from gfs.messages.base import ErrorReply, Reply, Request
from gfs.messages.chunks import FileChunks, FindChunks
from gfs.messages.namespace import (
    CreateFile,
    DeletePath,
    EntriesReply,
    EntryReplies,
    EntryReply,
    Glob,
    ListDirectory,
    MakeDirectory,
    MutationReply,
    RenamePath,
    SetLengthHint,
    Stat,
    StatMany,
)
from gfs.messages.operations import RequestId
from gfs.settings import STATS_TOGETHER_MAX
from gfs.vocabulary import ChunkIndex, ClientId, InodeId
from tests.fakes.clock import settle
from tests.master.lease_world import LeaseWorld


async def world(**kind: int) -> LeaseWorld:
    return await LeaseWorld(**kind).start()


BAD_PATHS = ["", "relative", "/a/../b", "/a/./b", "/nul\0", "/" + "x" * 256, "/" + "x/" * 2100, "/\ud800"]


@pytest.mark.parametrize("path", BAD_PATHS[:-1])  # the last cannot even be encoded by a client
async def test_bad_paths_are_refused_by_every_method_before_the_log(path: str) -> None:
    here = await world()
    logged = len(here.log.proposals)
    calls: list[tuple[Request, type[Reply]]] = [
        (MakeDirectory(path=path), MutationReply),
        (CreateFile(path=path), MutationReply),
        (DeletePath(path=path), MutationReply),
        (RenamePath(source=path, destination="/x"), MutationReply),
        (RenamePath(source="/f", destination=path), MutationReply),
        (Stat(path=path), EntryReply),
        (ListDirectory(path=path), EntriesReply),
        (FindChunks(path=path), FileChunks),
    ]
    for request, expected in calls:
        with pytest.raises(InvalidPath):
            await here.call(request, expected)
    assert len(here.log.proposals) == logged


async def test_refusals_of_the_state_come_back_as_their_own_errors() -> None:
    here = await world()
    with pytest.raises(AlreadyExists):
        await here.call(CreateFile(path="/f"), MutationReply)
    with pytest.raises(NotFound):
        await here.call(DeletePath(path="/missing"), MutationReply)
    await here.call(MakeDirectory(path="/d"), MutationReply)
    with pytest.raises(IsADirectory):
        await here.call(FindChunks(path="/d"), FileChunks)
    with pytest.raises(IsADirectory):
        await here.call(CreateFile(path="/d"), MutationReply)


async def test_goal_and_range_and_length_out_of_bounds_are_refused() -> None:
    here = await world()
    calls: list[tuple[Request, type[Reply]]] = [
        (CreateFile(path="/g", replication_goal=17), MutationReply),
        (CreateFile(path="/g", replication_goal=-1), MutationReply),
        (SetLengthHint(inode=here.inode, length_bytes=-1, closed=False), MutationReply),
        (FindChunks(path="/f", first_index=ChunkIndex(-1)), FileChunks),
    ]
    for request, expected in calls:
        with pytest.raises(InvalidArgument):
            await here.call(request, expected)


async def test_file_without_a_goal_takes_the_clusters() -> None:
    here = await world(goal=2)
    assert (await here.call(Stat(path="/f"), EntryReply)).entry.replication_goal == 2


async def test_many_paths_are_looked_up_in_one_view_and_each_has_its_own_answer() -> None:
    here = await world()
    await here.call(CreateFile(path="/g"), MutationReply)
    asked = StatMany(paths=["/f", "/missing", "/g", "relative", "/f"])
    reply = await here.call(asked, EntryReplies)
    assert reply.applied_index > 0
    first, missing, second, bad, again = reply.replies
    alone = (await here.call(Stat(path="/f"), EntryReply)).entry
    assert isinstance(first, EntryReply) and isinstance(again, EntryReply)
    assert first.entry == again.entry == alone
    assert isinstance(second, EntryReply) and second.entry.path == "/g"
    assert isinstance(missing, ErrorReply) and missing.code == "not_found" and "/missing" in missing.message
    assert isinstance(bad, ErrorReply) and bad.code == "invalid_path"


async def test_more_paths_at_once_than_allowed_are_refused() -> None:
    here = await world()
    await here.call(StatMany(paths=["/f"] * STATS_TOGETHER_MAX), EntryReplies)
    with pytest.raises(InvalidArgument, match="over the limit"):
        await here.call(StatMany(paths=["/f"] * (STATS_TOGETHER_MAX + 1)), EntryReplies)


async def test_list_and_glob_are_paged() -> None:
    here = await world()
    for n in range(5):
        await here.call(CreateFile(path=f"/part-{n}"), MutationReply)
    seen, after = [], ""
    while True:
        page = await here.call(Glob(pattern="/part-*", after=after, limit=2), EntriesReply)
        seen += [entry.path for entry in page.entries]
        if not (after := page.next_after):
            break
    assert seen == [f"/part-{n}" for n in range(5)]
    first = await here.call(ListDirectory(path="/", limit=2), EntriesReply)
    rest = await here.call(ListDirectory(path="/", after=first.next_after), EntriesReply)
    assert [e.path for e in first.entries + rest.entries] == ["/f", *seen]


async def test_retried_create_is_answered_with_its_first_outcome_by_the_next_leader() -> None:
    here = await world()
    request = CreateFile(path="/once", request=RequestId(ClientId(5), 1, 1))
    here.leader.replicator.answers_to_lose = 1
    with pytest.raises(OutcomeUnknown):
        await here.call(request, MutationReply)
    await here.crash_leader()
    made = await here.call(request, MutationReply)
    assert made.inode == (await here.call(Stat(path="/once"), EntryReply)).entry.inode


async def test_deleted_file_expires_when_the_settings_say() -> None:
    here = await world()
    await here.call(DeletePath(path="/f"), MutationReply)
    operation = here.log.records()[-1].operation
    assert operation.expires_at_ms == here.clock.wall_ms() + 60_000  # type: ignore[union-attr]


class TestConsistency:
    async def test_linearizable_read_waits_for_the_barrier(self) -> None:
        here = await world()
        here.leader.replicator.hold = asyncio.Event()
        reading = asyncio.ensure_future(here.call(Stat(path="/f"), EntryReply))
        await settle()
        assert not reading.done()
        here.leader.replicator.hold.set()
        assert (await reading).entry.path == "/f"

    async def test_old_leader_answers_no_linearizable_read(self) -> None:
        here = await world()
        old = here.leader
        here.take_over(unnoticed=True)
        with pytest.raises(NotLeader) as raised:
            await here.call(Stat(path="/f"), EntryReply, master=old.id)
        assert raised.value.details["leader"] == "m2:1"
        with pytest.raises(NotLeader):
            await here.call(StatMany(paths=["/f", "/g"]), EntryReplies, master=old.id)

    async def test_stale_read_is_answered_by_any_master_as_it_is(self) -> None:
        here = await world()
        here.masters["m2"].replicator.lag = 1
        await here.call(CreateFile(path="/new"), MutationReply)
        with pytest.raises(NotFound):
            await here.call(Stat(path="/new", consistency="stale"), EntryReply, master="m2")

    async def test_session_read_is_never_older_than_what_its_client_saw(self) -> None:
        here = await world()
        follower = here.masters["m2"].replicator
        follower.lag = 1
        made = await here.call(CreateFile(path="/new"), MutationReply)
        request = Stat(path="/new", consistency="session", min_applied_index=made.applied_index)
        reading = asyncio.ensure_future(here.call(request, EntryReply, master="m2"))
        await settle()
        assert not reading.done()
        follower.lag = 0
        follower.catch_up()
        assert (await reading).applied_index >= made.applied_index

    async def test_session_read_on_a_master_that_stays_behind_is_refused_in_time(self) -> None:
        here = await world()
        here.masters["m2"].replicator.lag = 1
        made = await here.call(CreateFile(path="/new"), MutationReply)
        request = Stat(path="/new", consistency="session", min_applied_index=made.applied_index)
        before = here.clock.monotonic()
        with pytest.raises(Unavailable, match="applied the log"):
            await here.call(request, EntryReply, master="m2")
        assert here.clock.monotonic() - before < 1.0

    async def test_master_whose_state_differs_answers_no_read_at_all(self) -> None:
        here = await world()
        here.masters["m2"].standing.report_untrusted("digest at index 5 differs", step="Wait")
        for consistency in ("stale", "session", "linearizable"):
            with pytest.raises(Unavailable, match="quarantined: digest at index 5 differs"):
                request = Stat(path="/f", consistency=consistency)
                await here.call(request, EntryReply, master="m2")

    async def test_full_disk_stops_no_read(self) -> None:
        here = await world()
        here.masters["m2"].standing.report_full("no space")
        found = await here.call(Stat(path="/f", consistency="stale"), EntryReply, master="m2")
        assert found.entry.path == "/f"


async def test_mutation_without_a_quorum_says_who_is_missing() -> None:
    here = await world(masters=3)
    alone = here.masters["m2"]
    here.log.leader = None
    here.log.members[:] = [alone.replicator]
    with pytest.raises(NoQuorum, match="1 of 3 masters reachable \\(m2\\), waiting for m1, m3"):
        await here.call(CreateFile(path="/x"), MutationReply, master="m2")


async def test_error_of_an_unknown_inode_is_definite() -> None:
    here = await world()
    hint = SetLengthHint(inode=InodeId(77), length_bytes=0, closed=True)
    with pytest.raises(GfsError) as raised:
        await here.call(hint, MutationReply)
    assert isinstance(raised.value, NotFound) and raised.value.definite
