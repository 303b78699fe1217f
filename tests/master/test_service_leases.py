"""AcquireLease and SealChunk over faulty servers and networks: I1–I3, I5, and no waiting (GFS §3.1, §4.5)."""

from __future__ import annotations

import asyncio

import pytest

from gfs.errors import (
    ChunkSealed,
    DataUnavailable,
    NoSpace,
    NotEnoughChunkServers,
    NotFound,
    ReplicaFailed,
)
from gfs.messages.chunks import AcquireLease, ChunkLease, FileChunks, FindChunks, SealChunk
from gfs.messages.cluster import ClusterStatus, ClusterStatusReply
from gfs.messages.namespace import DeletePath, MutationReply, SetLengthHint
from gfs.messages.operations import AddChunk, GrantLease
from gfs.messages.replicas import BumpVersion
from gfs.vocabulary import CHUNK_BYTES, ChunkIndex, ChunkVersion, ServerId
from tests.fakes.clock import settle
from tests.master.chunkservers import replica_ids, write
from tests.master.lease_world import BUMP_SECONDS, DEAD_SECONDS, FIRST, LEASE_SECONDS, LeaseWorld
from tests.paper.boxes import keeps


async def world(**kind: int) -> LeaseWorld:
    return await LeaseWorld(**kind).start()


def grants(here: LeaseWorld) -> list[AddChunk | GrantLease]:
    operations = (record.operation for record in here.log.records())
    return [operation for operation in operations if isinstance(operation, AddChunk | GrantLease)]


class TestNewChunks:
    async def test_first_lease_makes_the_chunk_on_as_many_servers_as_the_goal_says(self) -> None:
        here = await world()
        lease = await here.acquire()
        assert (lease.version, len(lease.replicas)) == (1, 3)
        assert lease.primary == lease.replicas[0].server
        assert 0 < lease.lease_seconds <= LEASE_SECONDS
        for replica in lease.replicas:
            assert here.version(replica.server, lease.handle) == 1

    @keeps("versions")
    async def test_version_is_in_the_log_before_any_replica_hears_of_it(self) -> None:
        here = await world()
        here.leader.replicator.hold = asyncio.Event()
        asking = here.start_acquire()
        await settle()
        assert not any(isinstance(call.request, BumpVersion) for call in here.network.seen)
        here.leader.replicator.hold.set()
        await here.finish(asking)

    async def test_valid_lease_is_answered_again_without_a_new_grant(self) -> None:
        here = await world()
        first, second = await here.acquire(), await here.acquire()
        assert first.version == second.version == 1
        assert len(grants(here)) == 1

    async def test_callers_at_the_same_time_share_one_grant(self) -> None:
        here = await world()
        leases = [await here.finish(asking) for asking in [here.start_acquire() for _ in range(20)]]
        assert {lease.version for lease in leases} == {1}
        assert len(grants(here)) == 1

    async def test_grant_goes_on_when_the_caller_goes_away(self) -> None:
        here = await world()
        here.network.delay("m1", "s1", 0.1)
        here.network.delay("m1", "s2", 0.1)
        asking = here.start_acquire()
        await settle()
        asking.cancel()
        await here.clock.advance(1.0)
        assert (await here.acquire()).version == 1

    async def test_unreachable_server_is_replaced_so_that_a_new_chunk_has_its_full_goal(self) -> None:
        here = await world(servers=5)
        for dead in ("s1", "s2"):
            await here.servers[ServerId(dead)].kill()
        lease = await here.acquire()
        assert sorted(replica_ids(lease.replicas)) == ["s3", "s4", "s5"]

    async def test_goal_of_one_on_one_server_works(self) -> None:
        here = await world(servers=1, masters=1, goal=1)
        lease = await here.acquire()
        assert replica_ids(lease.replicas) == ["s1"]

    async def test_goal_above_the_number_of_servers_takes_them_all(self) -> None:
        here = await world(servers=2, goal=3)
        assert len((await here.acquire()).replicas) == 2

    async def test_one_living_server_of_several_is_not_enough_for_a_new_chunk(self) -> None:
        here = await world(servers=3)
        for dead in ("s1", "s2"):
            await here.servers[ServerId(dead)].kill()
        await here.clock.advance(6.0)
        await here.heartbeats()
        with pytest.raises(NotEnoughChunkServers, match=r"needs 2 chunk servers.*s1: not alive"):
            await here.acquire()

    async def test_full_disks_are_no_space_and_not_a_lack_of_servers_to_wait_for(self) -> None:
        here = await world(servers=3)
        for full in ("s1", "s2"):
            here.servers[ServerId(full)].disk_free_bytes = CHUNK_BYTES
        await here.heartbeats()
        with pytest.raises(NoSpace, match=r"needs 2 chunk servers.*s1: disk full: 64 MiB free, 128 needed"):
            await here.acquire()

    async def test_a_full_disk_beside_a_dead_server_may_pass_when_that_one_is_back(self) -> None:
        here = await world(servers=3)
        for full in ("s1", "s2"):
            here.servers[ServerId(full)].disk_free_bytes = CHUNK_BYTES
        for dead in ("s2", "s3"):
            await here.servers[ServerId(dead)].kill()
        await here.clock.advance(DEAD_SECONDS + 1.0)
        await here.heartbeats()
        with pytest.raises(NotEnoughChunkServers):
            await here.acquire()

    async def test_full_disks_are_no_final_answer_while_enough_servers_with_room_are_only_away(self) -> None:
        here = await world(servers=4)
        for full in ("s1", "s2"):
            here.servers[ServerId(full)].disk_free_bytes = CHUNK_BYTES
        await here.heartbeats()
        for dead in ("s3", "s4"):
            await here.servers[ServerId(dead)].kill()
        await here.clock.advance(DEAD_SECONDS + 1.0)
        await here.heartbeats()
        with pytest.raises(NotEnoughChunkServers):
            await here.acquire()

    async def test_empty_chunk_left_by_a_failed_attempt_gets_its_full_goal_later(self) -> None:
        here = await world(servers=4)
        for dead in ("s2", "s3", "s4"):
            await here.servers[ServerId(dead)].kill()
        error = await here.failure(here.start_acquire())
        assert isinstance(error, NotEnoughChunkServers), error
        for back in ("s2", "s3", "s4"):
            here.servers[ServerId(back)].restart()
        await here.heartbeats(report=True)
        lease = await here.acquire()
        assert len(lease.replicas) >= 2
        here.check(lease, set())

    async def test_missing_chunk_is_not_made_unless_asked(self) -> None:
        here = await world()
        request = AcquireLease(inode=here.inode, index=FIRST)
        with pytest.raises(NotFound, match="/f has no chunk 0"):
            await here.call(request, ChunkLease)

    async def test_deleted_file_gives_no_lease(self) -> None:
        here = await world()
        await here.call(DeletePath(path="/f"), MutationReply)
        with pytest.raises(NotFound):
            await here.acquire()


class TestFailedReplicas:
    async def test_dead_secondary_is_left_out_and_acknowledged_bytes_stay(self) -> None:
        here = await world()
        lease = await here.acquire()
        write(here.servers, lease.handle, lease.version, lease.primary, 1)
        dead = lease.replicas[2].server
        await here.servers[dead].kill()
        with pytest.raises(ReplicaFailed):
            write(here.servers, lease.handle, lease.version, lease.primary, 2)
        renewed = await here.acquire(failed_version=lease.version, suspects=[dead])
        assert renewed.version > lease.version
        assert sorted(replica_ids(renewed.replicas)) == sorted(set(replica_ids(lease.replicas)) - {dead})
        here.check(renewed, {1})

    @keeps("leases")
    async def test_unreachable_primary_is_fenced_at_once_not_waited_for(self) -> None:
        here = await world()
        lease = await here.acquire()
        here.network.isolate(lease.primary)  # from the master; the client of this test still reaches it
        before = here.clock.monotonic()
        renewed = await here.acquire(failed_version=lease.version, suspects=[lease.primary])
        assert here.clock.monotonic() - before < 1.0 < LEASE_SECONDS
        assert lease.primary not in replica_ids(renewed.replicas)
        with pytest.raises(ReplicaFailed):  # the old primary is alive and powerless
            write(here.servers, lease.handle, lease.version, lease.primary, 9)
        write(here.servers, renewed.handle, renewed.version, renewed.primary, 1)

    async def test_silent_replica_nobody_blames_costs_one_bump_deadline(self) -> None:
        here = await world()
        lease = await here.acquire()
        silent = lease.replicas[1].server
        here.network.drop("m1", silent, requests=100)
        before = here.clock.monotonic()
        renewed = await here.acquire(failed_version=lease.version)
        assert here.clock.monotonic() - before <= BUMP_SECONDS + 0.2
        assert silent not in replica_ids(renewed.replicas)

    async def test_lost_answer_of_a_bump_leaves_the_replica_out_and_nothing_is_lost(self) -> None:
        here = await world()
        lease = await here.acquire()
        write(here.servers, lease.handle, lease.version, lease.primary, 1)
        here.network.drop("m1", lease.replicas[1].server, replies=1)
        renewed = await here.acquire(failed_version=lease.version)
        assert len(renewed.replicas) == 2
        assert renewed.version == lease.version + 2  # nobody was told of the one in between
        here.check(renewed, {1})

    async def test_blamed_replica_that_answers_is_kept_once_and_left_out_the_second_time(self) -> None:
        here = await world()
        lease = await here.acquire()
        blamed = lease.replicas[1].server
        second = await here.acquire(failed_version=lease.version, suspects=[blamed])
        assert blamed in replica_ids(second.replicas) and second.primary != blamed
        third = await here.acquire(failed_version=second.version, suspects=[blamed])
        assert blamed not in replica_ids(third.replicas)

    async def test_last_replica_is_kept_whoever_blames_it(self) -> None:
        here = await world(servers=1, masters=1, goal=1)
        lease = await here.acquire()
        for _ in range(3):
            lease = await here.acquire(failed_version=lease.version, suspects=[ServerId("s1")])
            assert replica_ids(lease.replicas) == ["s1"]

    async def test_replicas_of_different_length_are_cut_to_what_all_hold(self) -> None:
        here = await world()
        lease = await here.acquire()
        write(here.servers, lease.handle, lease.version, lease.primary, 1)
        lost_at = frozenset([lease.replicas[2].server])
        with pytest.raises(ReplicaFailed):
            write(here.servers, lease.handle, lease.version, lease.primary, 2, lost_at=lost_at)
        renewed = await here.acquire(failed_version=lease.version)
        here.check(renewed, {1})
        assert all(here.content(server, lease.handle) == [1] for server in replica_ids(renewed.replicas))

    async def test_replica_that_lost_power_is_left_out_rather_than_the_others_cut(self) -> None:
        here = await world()
        lease = await here.acquire()
        for mutation in (1, 2):
            write(here.servers, lease.handle, lease.version, lease.primary, mutation)
        short = lease.replicas[1].server
        del here.content(short, lease.handle)[1:]
        here.servers[short].may_be_short = True
        renewed = await here.acquire(failed_version=lease.version)
        assert short not in replica_ids(renewed.replicas)
        here.check(renewed, {1, 2})

    @pytest.mark.parametrize("unnoticed", [False, True])
    async def test_set_is_not_narrowed_to_a_replica_that_lost_power(self, unnoticed: bool) -> None:
        """The others are away for a moment and have every byte; left out, they could never come back."""
        here = await world()
        lease = await here.acquire()
        for mutation in (1, 2):
            write(here.servers, lease.handle, lease.version, lease.primary, mutation)
        short, *others = replica_ids(lease.replicas)
        del here.content(ServerId(short), lease.handle)[1:]
        here.servers[ServerId(short)].may_be_short = True
        for server in others:
            await here.servers[ServerId(server)].kill()
        if not unnoticed:
            await here.clock.advance(DEAD_SECONDS + 1)
            await here.heartbeats()
        for _ in range(3):
            with pytest.raises(DataUnavailable, match="power cut"):
                await here.acquire(failed_version=lease.version)
        for server in others:
            here.servers[ServerId(server)].restart()
        await here.heartbeats(report=True)
        renewed = await here.acquire(failed_version=lease.version)
        here.check(renewed, {1, 2})

    async def test_set_is_narrowed_to_a_replica_that_lost_power_after_the_file_was_closed(self) -> None:
        here = await world()
        lease = await here.acquire()
        write(here.servers, lease.handle, lease.version, lease.primary, 1)
        await here.call(SetLengthHint(inode=here.inode, length_bytes=1, closed=True), MutationReply)
        whole, *others = replica_ids(lease.replicas)
        here.servers[ServerId(whole)].may_be_short = True
        for server in others:
            await here.servers[ServerId(server)].kill()
        await here.clock.advance(DEAD_SECONDS + 1)
        await here.heartbeats()
        renewed = await here.acquire(failed_version=lease.version)
        assert replica_ids(renewed.replicas) == [whole]
        here.check(renewed, {1})

    @keeps("versions")
    async def test_older_disk_of_a_server_is_recognised_by_its_version(self) -> None:
        here = await world()
        lease = await here.acquire()
        second = await here.acquire(failed_version=lease.version)
        write(here.servers, second.handle, second.version, second.primary, 1)
        old = second.replicas[2].server
        here.servers[old].replicas[lease.handle].version = lease.version  # yesterday's disk
        here.servers[old].replicas[lease.handle].content.clear()
        third = await here.acquire(failed_version=second.version)
        assert old not in replica_ids(third.replicas)
        here.check(third, {1})

    async def test_disk_shorter_than_the_closed_file_is_left_out(self) -> None:
        here = await world()
        lease = await here.acquire()
        for mutation in (1, 2):
            write(here.servers, lease.handle, lease.version, lease.primary, mutation)
        hint = SetLengthHint(inode=here.inode, length_bytes=2, closed=True)
        await here.call(hint, MutationReply)
        short = lease.replicas[1].server
        del here.content(short, lease.handle)[1:]
        renewed = await here.acquire(failed_version=lease.version)
        assert short not in replica_ids(renewed.replicas)
        here.check(renewed, {1, 2})

    async def test_no_replica_in_reach_is_an_error_naming_file_chunk_and_servers(self) -> None:
        here = await world()
        lease = await here.acquire()
        for server in replica_ids(lease.replicas):
            await here.servers[server].kill()
        for _ in range(3):
            with pytest.raises(DataUnavailable, match=r"chunk 0 of /f") as raised:
                await here.acquire(failed_version=lease.version)
            named = raised.value.details["servers"].split(",")
            assert sorted(named) == sorted(replica_ids(lease.replicas))
        for server in replica_ids(lease.replicas):
            here.servers[server].restart()
        await here.heartbeats(report=True)
        assert (await here.acquire()).version > lease.version

    async def test_unreachable_set_does_not_use_up_versions(self) -> None:
        here = await world()
        lease = await here.acquire()
        for server in replica_ids(lease.replicas):
            await here.servers[server].kill()
        await here.clock.advance(6.0)
        count = len(grants(here))
        for _ in range(3):
            await here.failure(here.start_acquire())
        assert len(grants(here)) == count


class TestExtension:
    @keeps("leases")
    async def test_lease_in_use_is_extended_by_heartbeats_for_ever(self) -> None:
        here = await world()
        lease = await here.acquire()
        for number in range(10):
            write(here.servers, lease.handle, lease.version, lease.primary, number)
            await here.clock.advance(LEASE_SECONDS / 2)
            await here.heartbeats()
        assert (await here.acquire()).version == lease.version

    @keeps("leases")
    async def test_idle_lease_runs_out_and_the_next_writer_gets_a_new_version(self) -> None:
        here = await world()
        lease = await here.acquire()
        for _ in range(3):
            await here.clock.advance(LEASE_SECONDS / 2)
            await here.heartbeats()
        assert (await here.acquire()).version == lease.version + 1

    async def test_only_the_leader_extends(self) -> None:
        here = await world()
        lease = await here.acquire()
        write(here.servers, lease.handle, lease.version, lease.primary, 1)
        primary = here.servers[lease.primary]
        by_leader = await here.heartbeat(primary, here.masters["m1"])
        by_follower = await here.heartbeat(primary, here.masters["m2"])
        assert by_leader is not None and by_leader.extended == [lease.handle]
        assert by_follower is not None and by_follower.extended == []

    async def test_lease_with_a_dead_member_is_not_handed_out(self) -> None:
        here = await world()
        lease = await here.acquire()
        dead = lease.replicas[1].server
        await here.servers[dead].kill()
        await here.clock.advance(6.0)
        await here.heartbeats()
        renewed = await here.acquire()
        assert renewed.version > lease.version and dead not in replica_ids(renewed.replicas)


class TestSeal:
    async def test_seal_agrees_on_what_all_replicas_hold_and_ends_all_mutations(self) -> None:
        here = await world()
        lease = await here.acquire()
        write(here.servers, lease.handle, lease.version, lease.primary, 1)
        with pytest.raises(ReplicaFailed):
            write(
                here.servers,
                lease.handle,
                lease.version,
                lease.primary,
                2,
                lost_at=frozenset([lease.replicas[1].server]),
            )
        for _ in range(2):  # a repeat is harmless
            await here.call(SealChunk(inode=here.inode, index=FIRST), MutationReply)
        assert here.chunk().sealed and here.chunk().length_bytes == 1
        assert all(here.servers[s].sealed == {lease.handle: 1} for s in replica_ids(lease.replicas))
        with pytest.raises(Exception, match="not primary"):
            write(here.servers, lease.handle, lease.version, lease.primary, 3)
        with pytest.raises(ChunkSealed):
            await here.acquire()
        found = await here.call(FindChunks(path="/f"), FileChunks)
        assert found.chunks[0].sealed and found.chunks[0].length_bytes == 1
        assert len(found.chunks[0].replicas) == 3

    async def test_seal_goes_on_without_a_dead_replica(self) -> None:
        here = await world()
        lease = await here.acquire()
        write(here.servers, lease.handle, lease.version, lease.primary, 1)
        await here.servers[lease.primary].kill()
        await here.call(SealChunk(inode=here.inode, index=FIRST), MutationReply)
        assert here.chunk().length_bytes == 1

    async def test_chunk_that_does_not_exist_cannot_be_sealed(self) -> None:
        here = await world()
        with pytest.raises(NotFound):
            await here.call(SealChunk(inode=here.inode, index=ChunkIndex(3)), MutationReply)


class TestStarting:
    async def test_master_just_started_waits_for_heartbeats_rather_than_leave_a_replica_out(self) -> None:
        here = await world()
        lease = await here.acquire()
        await here.crash_leader()
        new = here.leader
        now = here.clock.monotonic()
        new.locations.unsettle(until=now + 1.0)
        new.locations._servers.clear()  # as after a start: nobody has been heard of
        asking = here.start_acquire()
        await here.clock.advance(0.2)
        assert not asking.done()
        await here.heartbeats(report=True)
        renewed = await here.finish(asking)
        assert sorted(replica_ids(renewed.replicas)) == sorted(replica_ids(lease.replicas))

    async def test_bump_goes_with_the_floor_the_log_knows(self) -> None:
        here = await world()
        await here.acquire()
        await here.acquire(failed_version=ChunkVersion(1))
        bumps = [call.request for call in here.network.seen if isinstance(call.request, BumpVersion)]
        assert {(b.version, b.oldest_version, b.create) for b in bumps} == {(1, 0, True), (2, 1, False)}

    async def test_status_counts_the_chunk(self) -> None:
        here = await world()
        await here.acquire()
        status = await here.call(ClusterStatus(), ClusterStatusReply)
        assert (status.chunks, status.files, status.health) == (1, 1, "ok")
