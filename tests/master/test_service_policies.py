"""Policies through a master's handlers: what new files, deletions and grants take from them (§4.4, §7)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gfs.errors import InvalidArgument, NotADirectory, NotFound, QuotaExceeded
from gfs.messages.base import Request
from gfs.messages.chunks import AcquireLease, ChunkLease
from gfs.messages.namespace import CreateFile, DeletePath, EntryReply, MakeDirectory, MutationReply, Stat
from gfs.messages.operations import DeletePath as DeletedPath
from gfs.messages.operations import RequestId
from gfs.messages.policies import (
    ChangeMode,
    ChangeOwner,
    PolicyFields,
    PolicyReply,
    SetPolicy,
    ShowPolicy,
)
from gfs.messages.replicas import BumpVersion
from gfs.vocabulary import ChunkIndex, ClientId
from tests.master.lease_world import LeaseWorld
from tests.paper.boxes import keeps


async def world() -> LeaseWorld:
    here = await LeaseWorld().start()
    await mutate(here, MakeDirectory(path="/d/sub", parents=True))
    return here


async def mutate(here: LeaseWorld, request: Request) -> MutationReply:
    return await here.call(request, MutationReply)


async def set_policy(here: LeaseWorld, path: str, unset: tuple[str, ...] = (), **fields: int | str) -> None:
    given = PolicyFields(**fields)  # type: ignore[arg-type]
    await mutate(here, SetPolicy(path=path, fields=given, unset=[*unset]))


@keeps("three-replicas")
async def test_new_files_take_their_replicas_from_the_nearest_policy_unless_their_creator_says() -> None:
    here = await world()
    await set_policy(here, "/d", replicas=2)
    for path, asked, found in (("/d/sub/a", 0, 2), ("/d/sub/b", 4, 4), ("/c", 0, 3)):
        made = await mutate(here, CreateFile(path=path, replication_goal=asked))
        lease = await here.call(AcquireLease(inode=made.inode, index=ChunkIndex(0), create=True), ChunkLease)
        assert len(lease.replicas) == found, path
    await set_policy(here, "/d", replicas=1)
    for path, goal in (("/d/sub/a", 1), ("/d/sub/b", 4)):
        assert (await here.call(Stat(path=path), EntryReply)).entry.replication_goal == goal


async def test_deletions_expire_as_the_nearest_policy_says() -> None:
    here = await world()
    await set_policy(here, "/d", trash_ms=5000)
    for path in ("/d/sub/a", "/b"):
        await mutate(here, CreateFile(path=path))
        await mutate(here, DeletePath(path=path))
    now_ms = here.clock.wall_ms()
    kept = [
        record.operation.expires_at_ms - now_ms
        for record in here.log.records()
        if isinstance(record.operation, DeletedPath)
    ]
    assert kept == [5000, 60_000]


async def test_grants_below_a_durable_directory_ask_every_replica_to_sync_first() -> None:
    here = await world()
    await set_policy(here, "/d", durability="sync")
    await set_policy(here, "/d/sub", durability="flush")
    for path, durable in (("/d/a", True), ("/d/sub/b", False), ("/c", False)):
        made = await mutate(here, CreateFile(path=path))
        here.network.seen.clear()
        await here.call(AcquireLease(inode=made.inode, index=ChunkIndex(0), create=True), ChunkLease)
        bumps = [call.request for call in here.network.seen if isinstance(call.request, BumpVersion)]
        assert [bump.durable for bump in bumps] == [durable] * 3, path


async def test_a_lease_from_before_the_policy_is_not_handed_out_again() -> None:
    here = await world()
    first = await here.acquire()
    await set_policy(here, "/", durability="sync")
    here.network.seen.clear()
    second, third = await here.acquire(), await here.acquire()
    assert (first.version, second.version, third.version) == (1, 2, 2)
    bumps = [call.request for call in here.network.seen if isinstance(call.request, BumpVersion)]
    assert {(bump.version, bump.durable) for bump in bumps} == {(2, True)}
    await set_policy(here, "/", durability="flush")
    assert (await here.acquire()).version == 2, "durable is more than enough"


async def test_a_chunk_over_the_quota_is_refused_without_a_retry_that_could_help() -> None:
    here = await world()
    await set_policy(here, "/d", bytes_max=0)
    made = await mutate(here, CreateFile(path="/d/a"))
    with pytest.raises(QuotaExceeded, match="the quota of /d is 0 bytes") as caught:
        await here.call(AcquireLease(inode=made.inode, index=ChunkIndex(0), create=True), ChunkLease)
    assert caught.value.definite and "Delete something" in caught.value.hint


async def test_show_tells_what_holds_where_it_is_set_and_what_is_used() -> None:
    here = await world()
    await set_policy(here, "/", replicas=2)
    await set_policy(here, "/d", trash_ms=0, files_max=10)
    await mutate(here, CreateFile(path="/d/sub/a"))
    for path in ("/d/sub", "/d/sub/a"):
        shown = await here.call(ShowPolicy(path=path), PolicyReply)
        assert shown.own == PolicyFields()
        assert shown.effective == PolicyFields(replicas=2, racks=1, trash_ms=0, durability="flush")
        assert shown.set_at == {"replicas": "/", "trash_ms": "/d"}
        assert [(use.path, use.files, use.directories, use.files_max) for use in shown.quotas] == [
            ("/d/sub", 1, 0, -1),
            ("/d", 1, 1, 10),
        ]
    shown = await here.call(ShowPolicy(path="/d"), PolicyReply)
    assert shown.own == PolicyFields(trash_ms=0, files_max=10)
    await set_policy(here, "/d", unset=("trash_ms",))
    assert (await here.call(ShowPolicy(path="/d"), PolicyReply)).effective.trash_ms == 60_000


async def test_nonsense_is_refused_before_and_after_the_log() -> None:
    here = await world()
    nothing = SetPolicy(path="/d", fields=PolicyFields())
    for request, error in (
        (nothing, InvalidArgument),
        (SetPolicy(path="/d", fields=PolicyFields(replicas=99)), InvalidArgument),
        (SetPolicy(path="/f", fields=PolicyFields(replicas=1)), NotADirectory),
        (SetPolicy(path="/none", fields=PolicyFields(replicas=1)), NotFound),
        (ChangeMode(path="/d", mode=0o1000), InvalidArgument),
        (ChangeMode(path="/none", mode=0o700), NotFound),
        (ChangeOwner(path="/d"), InvalidArgument),
        (ChangeOwner(path="/d", owner="a:b"), InvalidArgument),
    ):
        with pytest.raises(error):
            await mutate(here, request)


async def test_owner_and_mode_change_once_however_often_it_is_asked() -> None:
    here = await world()
    asked: list[Callable[[RequestId], Request]] = [
        lambda named: ChangeOwner(path="/d", owner="ann", group="crawl", request=named),
        lambda named: ChangeOwner(path="/d", group="staff", request=named),
        lambda named: ChangeMode(path="/d", mode=0o700, request=named),
    ]
    for sequence, request in enumerate(asked):
        for _ in range(2):
            await mutate(here, request(RequestId(ClientId(5), sequence, 0)))
    entry = (await here.call(Stat(path="/d"), EntryReply)).entry
    assert (entry.owner, entry.group, entry.mode) == ("ann", "staff", 0o700)
