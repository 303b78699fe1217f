"""Leases over changes of leadership: crashes inside a grant, two leaders, lost answers (I1–I3, GFS §4.5)."""

from __future__ import annotations

import pytest

from gfs.errors import (
    NotLeader,
    OutcomeUnknown,
)
from gfs.messages.chunks import AcquireLease, ChunkLease, FileChunks, FindChunks
from gfs.messages.operations import AddChunk, GrantLease
from gfs.vocabulary import InodeId
from tests.fakes.clock import settle
from tests.master.chunkservers import replica_ids, write
from tests.master.lease_world import FIRST, LeaseWorld
from tests.paper.boxes import keeps


async def world(**kind: int) -> LeaseWorld:
    return await LeaseWorld(**kind).start()


def grants(here: LeaseWorld) -> list[AddChunk | GrantLease]:
    operations = (record.operation for record in here.log.records())
    return [operation for operation in operations if isinstance(operation, AddChunk | GrantLease)]


class TestLeaders:
    async def test_follower_names_the_leader(self) -> None:
        here = await world()
        with pytest.raises(NotLeader) as raised:
            await here.acquire(master="m2")
        assert raised.value.details["leader"] == "m1:1"

    async def test_leader_dead_before_any_bump_leaves_a_chunk_the_next_one_can_make(self) -> None:
        here = await world()
        for server in here.servers:
            here.network.drop("m1", server, requests=1)
        asking = here.start_acquire()
        await settle()
        assert len(grants(here)) == 1
        await here.crash_leader()
        asking.cancel()
        lease = await here.acquire()
        assert len(lease.replicas) == 3
        here.check(lease, set())

    @keeps("versions")
    async def test_leader_dead_between_bumps_leaves_a_grant_the_next_one_resolves(self) -> None:
        here = await world()
        lease = await here.acquire()
        write(here.servers, lease.handle, lease.version, lease.primary, 1)
        unbumped = lease.replicas[2].server
        here.network.drop("m1", unbumped, requests=1)
        asking = here.start_acquire(failed_version=lease.version)
        await settle()
        versions = {server: here.version(server, lease.handle) for server in replica_ids(lease.replicas)}
        assert sorted(versions.values()) == [1, 2, 2] and versions[unbumped] == 1
        await here.crash_leader()
        asking.cancel()
        renewed = await here.acquire()
        assert sorted(replica_ids(renewed.replicas)) == sorted(replica_ids(lease.replicas))
        here.check(renewed, {1})

    async def test_leader_dead_before_its_answer_leaves_everything_usable(self) -> None:
        here = await world()
        lease = await here.acquire()
        write(here.servers, lease.handle, lease.version, lease.primary, 1)
        here.network.drop("m1", "client", replies=1)
        asking = here.start_acquire(failed_version=lease.version)
        await settle()
        assert all(here.version(server, lease.handle) == 2 for server in replica_ids(lease.replicas))
        await here.crash_leader()
        asking.cancel()
        renewed = await here.acquire()
        assert len(renewed.replicas) == 3
        here.check(renewed, {1})

    async def test_reader_is_served_while_a_cut_short_grant_waits_for_the_next_writer(self) -> None:
        here = await world()
        lease = await here.acquire()
        write(here.servers, lease.handle, lease.version, lease.primary, 1)
        for server in replica_ids(lease.replicas):
            here.network.drop("m1", server, requests=1)
        asking = here.start_acquire(failed_version=lease.version)
        await settle()
        await here.crash_leader()
        asking.cancel()
        await here.heartbeats()
        assert here.chunk().version == 2
        found = await here.call(FindChunks(path="/f"), FileChunks)
        assert found.chunks[0].version == 1  # what the replicas hold, and would be refused if they did not
        assert len(found.chunks[0].replicas) == 3

    async def test_new_leader_keeps_a_primary_that_is_being_written_to(self) -> None:
        here = await world()
        lease = await here.acquire()
        write(here.servers, lease.handle, lease.version, lease.primary, 1)
        await here.heartbeats()
        await here.crash_leader()
        kept = await here.acquire()
        assert (kept.version, kept.primary) == (lease.version, lease.primary)

    async def test_new_leader_grants_anew_when_nothing_proves_the_old_grant_complete(self) -> None:
        here = await world()
        lease = await here.acquire()
        await here.heartbeats()
        await here.crash_leader()
        assert (await here.acquire()).version == lease.version + 1

    async def test_old_leader_that_sleeps_through_its_successor_cannot_grant(self) -> None:
        here = await world()
        lease = await here.acquire()
        old = here.leader
        here.take_over(unnoticed=True)
        with pytest.raises(NotLeader):
            await here.acquire(master=old.id, failed_version=lease.version)

    async def test_bumps_of_an_old_leader_are_refused_by_replicas_that_know_the_new_one(self) -> None:
        here = await world()
        lease = await here.acquire()
        write(here.servers, lease.handle, lease.version, lease.primary, 1)
        for server in here.servers:  # its bumps of version 2 are on their way for a while
            here.network.delay("m1", server, 0.3)
        asking = here.start_acquire(failed_version=lease.version)
        await settle()
        assert here.chunk().version == 2
        here.take_over(unnoticed=True)
        renewed = await here.acquire(failed_version=lease.version)
        assert renewed.version == 3
        write(here.servers, renewed.handle, renewed.version, renewed.primary, 2)
        error = await here.failure(asking)
        assert isinstance(error, NotLeader), error
        here.check(renewed, {1, 2})
        write(here.servers, renewed.handle, renewed.version, renewed.primary, 3)

    async def test_lease_told_by_an_old_leader_is_powerless(self) -> None:
        here = await world()
        lease = await here.acquire()
        old = here.leader
        here.take_over(unnoticed=True)
        old.replicator.lag = 1000
        renewed = await here.acquire(failed_version=lease.version)
        told = await here.acquire(master=old.id)  # from its table: it has not noticed
        assert told.version == lease.version
        with pytest.raises(Exception, match="not primary of version 1"):
            write(here.servers, told.handle, told.version, told.primary, 5)
        write(here.servers, renewed.handle, renewed.version, renewed.primary, 6)

    async def test_file_an_old_leader_has_not_heard_of_is_not_declared_missing(self) -> None:
        here = await world()
        old = here.leader
        here.take_over(unnoticed=True)
        unknown = AcquireLease(inode=InodeId(99), index=FIRST, create=True)
        with pytest.raises(NotLeader):
            await here.call(unknown, ChunkLease, master=old.id)

    async def test_lost_answer_of_the_log_makes_the_outcome_unknown_and_asking_again_safe(self) -> None:
        here = await world()
        here.leader.replicator.answers_to_lose = 1
        error = await here.failure(here.start_acquire())
        assert isinstance(error, OutcomeUnknown)
        lease = await here.acquire()
        assert len(lease.replicas) == 3
        here.check(lease, set())
