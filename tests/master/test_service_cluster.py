"""Heartbeats, status, digest and what a master does unasked (GFS §2.3, §2.6, §4.5)."""

from __future__ import annotations

import asyncio

import pytest

from gfs.errors import AlreadyExists, InvalidArgument, PermissionDenied, WrongCluster
from gfs.master.core.idle_sessions import GRACE_SECONDS
from gfs.master.core.replication_scan import ReplicationCount, ReplicationScan
from gfs.master.duties import FORGET_SECONDS, TICK_SECONDS, Duties
from gfs.messages.chunks import FileChunks, FindChunks
from gfs.messages.cluster import (
    ClusterStatus,
    ClusterStatusReply,
    StateDigestReply,
    TakeCheckpoint,
)
from gfs.messages.heartbeat import Heartbeat, HeartbeatReply
from gfs.messages.namespace import CreateFile, MutationReply
from gfs.messages.operations import ForgetSessions, RequestId, SetTenure
from gfs.settings import RETRY_SECONDS_MAX
from gfs.vocabulary import Address, ClientId, ClusterId, ServerId
from tests.master.chunkservers import replica_ids, write
from tests.master.lease_world import FakeMaster, LeaseWorld
from tests.paper.boxes import keeps


async def world(**kind: int) -> LeaseWorld:
    return await LeaseWorld(**kind).start()


async def say(here: LeaseWorld, beat: Heartbeat, master: str = "m1") -> HeartbeatReply:
    return await here.call(beat, HeartbeatReply, master=master)


class TestHeartbeats:
    async def test_chunk_server_of_another_cluster_is_refused(self) -> None:
        here = await world()
        beat = here.servers[ServerId("s1")].heartbeat(cluster="other")
        with pytest.raises(WrongCluster, match="belongs to cluster other") as raised:
            await say(here, beat)
        assert raised.value.details["cluster"] == "cluster-of-tests"

    async def test_fresh_disk_learns_the_cluster_it_joins(self) -> None:
        here = await world()
        reply = await say(here, here.servers[ServerId("s1")].heartbeat(cluster=""))
        assert reply.cluster == "cluster-of-tests" and reply.garbage == []

    async def test_copy_of_a_servers_disk_is_refused_while_the_first_one_lives(self) -> None:
        here = await world()
        beat = here.servers[ServerId("s1")].heartbeat()
        copy = Heartbeat(
            server=beat.server,
            cluster=beat.cluster,
            incarnation="copy",
            control=Address("elsewhere:1"),
            data=Address("elsewhere:2"),
        )
        with pytest.raises(AlreadyExists, match="s1 is already alive"):
            await say(here, copy)

    async def test_removed_server_is_refused_until_it_is_taken_back(self) -> None:
        here = await world()
        await here.masters["m1"].commits.commit(SetTenure(server=ServerId("s1"), tenure="removed"))
        with pytest.raises(PermissionDenied, match="s1 was removed") as raised:
            await say(here, here.servers[ServerId("s1")].heartbeat())
        assert "undrain s1" in raised.value.hint
        await here.masters["m1"].commits.commit(SetTenure(server=ServerId("s1"), tenure="serving"))
        await say(here, here.servers[ServerId("s1")].heartbeat())

    async def test_nameless_server_is_refused(self) -> None:
        here = await world()
        beat = Heartbeat(
            server=ServerId(""),
            cluster=ClusterId(""),
            incarnation="a",
            control=Address("x:1"),
            data=Address("x:2"),
        )
        with pytest.raises(InvalidArgument):
            await say(here, beat)

    @keeps("locations-not-persisted")
    async def test_every_master_learns_locations_and_only_one_says_it_leads(self) -> None:
        here = await world()
        lease = await here.acquire()
        await here.heartbeats()
        replies = [await say(here, here.servers[ServerId("s1")].heartbeat(), name) for name in ("m1", "m2")]
        assert [reply.is_leader for reply in replies] == [True, False]
        request = FindChunks(path="/f", consistency="stale")
        found = await here.call(request, FileChunks, master="m2")
        assert replica_ids(found.chunks[0].replicas) == replica_ids(lease.replicas)


class TestFindChunks:
    async def test_replica_just_bumped_is_handed_out_before_its_next_heartbeat(self) -> None:
        here = await world()
        lease = await here.acquire()
        found = await here.call(FindChunks(path="/f"), FileChunks)
        assert replica_ids(found.chunks[0].replicas) == replica_ids(lease.replicas)
        assert found.chunks[0].missing == []

    @keeps("stale-replicas-out")
    async def test_dead_and_stale_replicas_are_missing(self) -> None:
        here = await world()
        lease = await here.acquire()
        await here.heartbeats()
        left_out = lease.replicas[2].server
        await here.servers[left_out].kill()
        second = await here.acquire(failed_version=lease.version, suspects=[left_out])
        here.servers[left_out].restart()
        await here.heartbeats(report=True)  # it is back, one version behind
        found = await here.call(FindChunks(path="/f"), FileChunks)
        assert left_out not in replica_ids(found.chunks[0].replicas)
        dead = second.replicas[1].server
        await here.servers[dead].kill()
        await here.clock.advance(6.0)
        await here.heartbeats()
        found = await here.call(FindChunks(path="/f"), FileChunks)
        assert found.chunks[0].missing == [dead]
        assert dead not in replica_ids(found.chunks[0].replicas)

    async def test_chunk_whose_servers_are_all_away_is_listed_without_replicas(self) -> None:
        here = await world()
        lease = await here.acquire()
        await here.clock.advance(6.0)
        found = await here.call(FindChunks(path="/f"), FileChunks)
        assert found.chunks[0].replicas == []
        assert found.chunks[0].missing == replica_ids(lease.replicas)


class TestStatus:
    async def test_leader_shows_masters_servers_and_health(self) -> None:
        here = await world(masters=3)
        status = await here.call(ClusterStatus(), ClusterStatusReply)
        assert [(m.id, m.role) for m in status.masters] == [
            ("m1", "leader"),
            ("m2", "follower"),
            ("m3", "follower"),
        ]
        assert (status.leader, status.answered_by, status.health) == ("m1", "m1", "ok")
        assert [server.id for server in status.chunkservers] == ["s1", "s2", "s3", "s4"]

    async def test_status_says_who_is_being_drained(self) -> None:
        here = await world()
        await here.masters["m1"].commits.commit(SetTenure(server=ServerId("s2"), tenure="draining"))
        status = await here.call(ClusterStatus(), ClusterStatusReply)
        assert [server.tenure for server in status.chunkservers] == [
            "serving",
            "draining",
            "serving",
            "serving",
        ]

    async def test_follower_finds_out_who_is_unreachable_in_bounded_time(self) -> None:
        here = await world(masters=3)
        here.network.cut("m2", "m3")
        here.network.drop("m2", "m1", requests=1)
        before = here.clock.monotonic()
        status = await here.call(ClusterStatus(), ClusterStatusReply, master="m2")
        assert here.clock.monotonic() - before < 1.0
        assert [m.role for m in status.masters] == ["unreachable", "follower", "unreachable"]
        assert status.health == "down"
        assert status.reasons[0].startswith("no quorum: 1 of 3 masters reachable (m2), waiting for m1, m3")

    async def test_lag_of_a_follower_is_shown(self) -> None:
        here = await world()
        here.masters["m2"].replicator.lag = 3
        await here.acquire()
        for _ in range(2):
            await here.acquire(failed_version=here.chunk().version)
        status = await here.call(ClusterStatus(), ClusterStatusReply)
        assert status.masters[1].lag_entries > 0 == status.masters[0].lag_entries

    async def test_checkpoint_is_taken_on_demand_and_masters_are_equal_then(self) -> None:
        here = await world()
        await here.acquire()
        one = await here.call(TakeCheckpoint(), StateDigestReply)
        other = await here.call(TakeCheckpoint(), StateDigestReply, master="m2")
        assert one == other
        assert here.leader.replicator.checkpoints == [one.applied_index]


def duties_of(here: LeaseWorld, master: FakeMaster) -> Duties:
    return Duties(
        clock=here.clock,
        commits=master.commits,
        reads=master.reads,
        locations=master.locations,
        leases=master.leases,
        scan=master.scan,
        garbage=master.garbage,
        settle_seconds=1.5,
    )


class TestDuties:
    async def test_idle_sessions_are_forgotten_by_the_leader_only(self) -> None:
        here = await world()
        leader, follower = duties_of(here, here.masters["m1"]), duties_of(here, here.masters["m2"])
        await leader.tick()
        await here.clock.advance(max(FORGET_SECONDS, GRACE_SECONDS) + 1)
        await follower.tick()
        assert not any(isinstance(r.operation, ForgetSessions) for r in here.log.records())
        await leader.tick()
        await leader.tick()
        assert sum(isinstance(r.operation, ForgetSessions) for r in here.log.records()) == 1

    async def test_leader_whose_clock_is_far_ahead_forgets_no_client_that_may_still_retry(self) -> None:
        here = await world()
        duties = duties_of(here, here.masters["m2"])
        await duties.tick()
        await here.clock.advance(FORGET_SECONDS + 1)
        request = RequestId(ClientId(5), 1, 1)
        made = await here.call(CreateFile(path="/once", request=request), MutationReply)
        here.take_over()  # the answer was lost; m2's clock is two hours ahead of m1's
        here.clock.step_wall_ms(2 * 3600 * 1000)
        await duties.tick()
        await here.clock.advance(RETRY_SECONDS_MAX)
        await duties.tick()
        again = await here.call(CreateFile(path="/once", request=request), MutationReply)
        assert again.inode == made.inode

    async def test_pause_of_the_process_unsettles_what_it_knows_of_the_servers(self) -> None:
        here = await world()
        master = here.masters["m1"]
        duties = duties_of(here, master)
        await here.clock.advance(2.0)
        await duties.tick()
        assert not master.locations.is_settled(now=here.clock.monotonic())
        await here.clock.advance(1.6)
        assert master.locations.is_settled(now=here.clock.monotonic())

    async def test_scan_counts_chunks_short_of_their_goal(self) -> None:
        here = await world()
        lease = await here.acquire()
        write(here.servers, lease.handle, lease.version, lease.primary, 1)
        duties = duties_of(here, here.masters["m1"])
        await duties.tick()
        assert here.masters["m1"].scan.result == ReplicationCount(chunks=1, short=0, lonely=0, lost=0)
        for dead in replica_ids(lease.replicas)[:2]:
            await here.servers[dead].kill()
        await here.clock.advance(11.0)
        await here.heartbeats()
        await duties.tick()
        assert here.masters["m1"].scan.result == ReplicationCount(chunks=1, short=1, lonely=1, lost=0)

    @keeps("background-scan")
    async def test_scan_in_small_pieces_counts_each_chunk_once(self) -> None:
        here = await world()
        await here.acquire()
        scan, master = ReplicationScan(), here.masters["m1"]
        now = here.clock.monotonic()
        ended = [
            scan.step(master.replicator.tables, master.locations, now=now, chunks_max=1) for _ in range(2)
        ]
        assert ended[-1] or ended[0]
        assert scan.result is not None and scan.result.chunks == 1

    async def test_duties_run_on_their_own(self) -> None:
        here = await world()
        running = asyncio.ensure_future(duties_of(here, here.masters["m1"]).run())
        await here.clock.advance(4 * TICK_SECONDS)
        assert here.masters["m1"].scan.result is not None
        running.cancel()
