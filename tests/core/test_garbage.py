"""What the leader calls garbage, and what it never does (I6, GFS §4.4, §4.5)."""

from __future__ import annotations

import pytest

import gfs.master.core.garbage as room
from gfs.master.core.garbage import STALE_KEPT_SECONDS, Garbage
from gfs.master.core.locations import Locations
from gfs.master.core.state import MasterState
from gfs.master.core.steady_time import SteadyTime
from gfs.master.core.tables import MemoryTables
from gfs.messages import operations as op
from gfs.messages.heartbeat import GarbageReplica, Heartbeat, HeldChunk
from gfs.vocabulary import Address, ChunkHandle, ChunkVersion, ClusterId, ServerId
from tests.core.master_records import A, B, C, D, add_chunk, create, delete, grant, purge, reclaim, record

RIPE = STALE_KEPT_SECONDS + 1.0


class Cluster:
    """One master's state and what servers report to it; a chunk of /f on a, b, c, with version 1."""

    def __init__(self) -> None:
        self.tables = MemoryTables()
        self.state = MasterState(self.tables)
        self.locations = Locations(dead_seconds=5.0)
        self.moving: set[int] = set()
        self.garbage = Garbage(self.locations, is_moving=self.moving.__contains__)
        self.now = 100.0
        made = self(create("/f"))
        assert isinstance(made, op.Done)
        self.inode = made.inode
        self(add_chunk(self.inode, 0))

    def __call__(self, operation: op.AnyOperation) -> op.AnyOutcome:
        outcome = self.state.apply(record(operation))
        assert not isinstance(outcome, op.Refused), outcome
        self.state.save()
        return outcome

    def report(
        self,
        server: ServerId,
        *held: tuple[int, int],
        corrupt: tuple[int, ...] = (),
        guests: tuple[tuple[int, int], ...] = (),
    ) -> None:
        self.locations.hear(
            Heartbeat(
                server=server,
                cluster=ClusterId("c"),
                incarnation="first",
                control=Address(f"{server}:1"),
                data=Address(f"{server}:2"),
                report_page=0,
                report_last=True,
                report=[HeldChunk(ChunkHandle(h), ChunkVersion(v), 1) for h, v in held],
                corrupt=[ChunkHandle(handle) for handle in corrupt],
                guests=[HeldChunk(ChunkHandle(h), ChunkVersion(v), 1) for h, v in guests],
            ),
            now=self.now,
        )

    def named(self, server: ServerId, *, wait: float = RIPE) -> list[tuple[int, int]]:
        """What the server is told to delete once it has held it for long enough and a walk has been made."""
        found: list[GarbageReplica] = self.garbage.look(self.tables, server, now=self.now)
        while not self.garbage.walk(self.tables, chunks_max=1):
            pass
        for known in self.locations.servers():
            known.heard_at += wait
        self.now += wait
        if self.garbage.may_have_stale(server, now=self.now):
            found += self.garbage.stale(self.tables, server, now=self.now)
        self.garbage.check_invariants()
        return [(garbage.handle, garbage.version) for garbage in found]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


class TestOrphans:
    def test_a_reclaimed_chunk_is_an_orphan_at_once(self, cluster: Cluster) -> None:
        cluster.report(A, (1, 1))
        assert cluster.named(A, wait=0.0) == []
        cluster(delete("/f"))
        assert cluster.named(A, wait=0.0) == [], "it can still be undeleted"
        cluster(purge(cluster.inode))
        assert cluster.named(A, wait=0.0) == []
        cluster(reclaim())
        assert cluster.named(A, wait=0.0) == [(1, 1)]

    def test_a_handle_not_given_out_yet_is_left_alone(self, cluster: Cluster) -> None:
        cluster.report(D, (1, 1), (2, 1), (2**40, 7))
        assert cluster.named(D, wait=0.0) == []

    def test_a_copy_under_way_is_no_orphan_until_it_is_forgotten(self, cluster: Cluster) -> None:
        begun = cluster(op.BeginSnapshot(source="/f", target="/g"))
        assert isinstance(begun, op.Done)
        cluster(op.CopySnapshot(copy=begun.inode, rows=9))
        reserved = cluster(
            op.ReserveChunkCopy(
                inode=cluster.inode,
                index=add_chunk(1, 0).index,
                handle=ChunkHandle(1),
                version=ChunkVersion(1),
            )
        )
        assert isinstance(reserved, op.ChunkGranted)
        cluster.report(A, (reserved.handle, 1))
        assert cluster.named(A, wait=0.0) == []
        cluster(op.ForgetChunkCopies(copies=(reserved.handle,)))
        assert cluster.named(A, wait=0.0) == [(reserved.handle, 1)]

    def test_an_orphan_whose_version_cannot_be_read_is_named_as_such(self, cluster: Cluster) -> None:
        cluster(delete("/f"))
        cluster(purge(cluster.inode))
        cluster(reclaim())
        cluster.report(A, corrupt=(1,))
        assert cluster.named(A, wait=0.0) == [(1, 0)]

    def test_a_server_that_has_not_reported_all_it_holds_is_told_nothing(self, cluster: Cluster) -> None:
        assert cluster.named(A) == []

    def test_many_replicas_are_looked_at_a_few_at_a_time(
        self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(room, "GARBAGE_REPLICAS_PER_HEARTBEAT", 3)
        for number in range(10):
            made = cluster(create(f"/{number}"))
            assert isinstance(made, op.Done)
            cluster(add_chunk(made.inode, 0))
            cluster(delete(f"/{number}"))
            cluster(purge(made.inode))
        cluster(reclaim())
        cluster.report(A, (1, 1), *((handle, 1) for handle in range(2, 12)))
        rounds = [cluster.named(A, wait=0.0) for _ in range(4)]
        assert all(len(named) <= 3 for named in rounds)
        assert [handle for named in rounds for handle, _ in named] == list(range(2, 12))
        assert cluster.named(A, wait=0.0)[0] == (2, 1), "from the start again: a server may have missed it"


class TestStaleReplicas:
    def leave_out(self, cluster: Cluster, *members: ServerId) -> None:
        """Grant version 2 to these, and let everybody report."""
        cluster(grant(cluster.inode, 0, 1, 1, *members))
        for server in (A, B, C):
            cluster.report(server, (1, 2 if server in members else 1))

    def test_a_member_is_never_named_whatever_version_it_holds(self, cluster: Cluster) -> None:
        for version in (1, 2, 3):
            cluster(grant(cluster.inode, 0, 1, version, A, B, C))
        for server in (A, B):
            cluster.report(server, (1, 4))
        cluster.report(C, (1, 1))
        assert cluster.named(C) == []

    def test_a_replica_that_left_the_set_goes_though_the_members_were_never_told_of_the_newest_version(
        self, cluster: Cluster
    ) -> None:
        left_out = op.ChangeReplicas(
            handle=ChunkHandle(1),
            from_version=ChunkVersion(1),
            replicas=(A, B),
            primary=A,
            held_version=ChunkVersion(1),
        )
        cluster(left_out)
        for server in (A, B, C):
            cluster.report(server, (1, 1))
        assert cluster.named(A) == []
        assert cluster.named(C) == [(1, 1)], "nothing was written under version 2: both members are complete"
        cluster.report(B, (1, 1), corrupt=(1,))
        assert cluster.named(C) == [], "one of them is damaged"

    def test_a_member_below_what_all_are_known_to_hold_does_not_count(self, cluster: Cluster) -> None:
        self.leave_out(cluster, A, B)
        left_out = op.ChangeReplicas(
            handle=ChunkHandle(1),
            from_version=ChunkVersion(2),
            replicas=(A, B),
            primary=A,
            held_version=ChunkVersion(2),
        )
        cluster(left_out)
        cluster.report(A, (1, 2))
        cluster.report(B, (1, 1))
        assert cluster.named(C) == [], "b is a restored disk"
        cluster.report(B, (1, 2))
        assert cluster.named(C) == [(1, 1)]

    def test_a_replica_that_left_the_set_waits_until_the_chunk_has_its_goal_again(
        self, cluster: Cluster
    ) -> None:
        cluster.report(D)
        self.leave_out(cluster, A, B)
        assert cluster.named(C) == [], "the chunk wants three, and d could have the third"
        fence = op.ChangeReplicas(
            handle=ChunkHandle(1),
            from_version=ChunkVersion(2),
            replicas=(A, B),
            primary=A,
            held_version=ChunkVersion(2),
        )
        cluster(fence)
        joined = op.ChangeReplicas(
            handle=ChunkHandle(1),
            from_version=ChunkVersion(3),
            replicas=(A, B, D),
            primary=A,
            joined=(D,),
            held_version=ChunkVersion(3),
        )
        cluster(joined)
        assert cluster.named(C) == [], "nobody is known to hold the new version yet"
        for server in (A, B, D):
            cluster.report(server, (1, 4))
        cluster.report(C, (1, 1))
        cluster.moving.add(1)
        assert cluster.named(C) == []
        cluster.moving.clear()
        assert cluster.named(C) == [(1, 1)]

    def test_a_stale_replica_stands_not_in_the_way_of_the_only_server_left(self, cluster: Cluster) -> None:
        self.leave_out(cluster, A, B)
        assert cluster.named(C) == [(1, 1)]

    def test_the_last_valid_replica_but_one_is_not_enough_where_there_are_more_servers(
        self, cluster: Cluster
    ) -> None:
        cluster.report(D)
        self.leave_out(cluster, A, B)
        cluster.now += 60.0  # everybody else is away
        cluster.report(A, (1, 2))
        cluster.report(C, (1, 1))
        assert cluster.named(C) == []

    def test_two_stale_replicas_are_kept_while_one_valid_replica_is_all_there_is(
        self, cluster: Cluster
    ) -> None:
        """Each of the two could be brought up to date: neither is a reason to do without a second one."""
        cluster(grant(cluster.inode, 0, 1, 1, A))
        cluster.report(A, (1, 2))
        cluster.report(B, (1, 1))
        cluster.report(C, (1, 1))
        assert cluster.named(B) == [] == cluster.named(C)
        cluster.report(B, (1, 1))
        assert cluster.named(B) == [] == cluster.named(C)

    def test_a_corrupt_replica_of_no_member_counts_as_stale_and_a_members_does_not_count(
        self, cluster: Cluster
    ) -> None:
        self.leave_out(cluster, A, B)
        cluster.report(C, corrupt=(1,))
        cluster.report(B, (1, 2), corrupt=(1,))
        assert cluster.named(C) == [], "only one valid replica is left, of two that could be"
        assert cluster.named(B) == []
        cluster.report(B, (1, 2))
        assert cluster.named(C) == [(1, 0)]

    def test_a_stale_replica_is_kept_for_a_while(self, cluster: Cluster) -> None:
        self.leave_out(cluster, A, B)
        assert cluster.named(C, wait=STALE_KEPT_SECONDS - 0.1) == []
        assert cluster.named(C, wait=0.2) == [(1, 1)]

    def test_a_replica_ahead_of_the_log_is_left_alone(self, cluster: Cluster) -> None:
        self.leave_out(cluster, A, B)
        cluster.report(C, (1, 9))
        assert cluster.named(C) == []

    def test_what_was_stale_and_is_a_member_again_is_not_named(self, cluster: Cluster) -> None:
        self.leave_out(cluster, A, B)
        cluster.garbage.look(cluster.tables, C, now=cluster.now)
        cluster(grant(cluster.inode, 0, 1, 2, A, B, C, fresh=True))
        cluster.report(A, (1, 3))
        cluster.report(B, (1, 3))
        assert cluster.named(C) == []

    def test_a_guest_is_kept_while_its_move_goes_on_and_once_it_has_joined(self, cluster: Cluster) -> None:
        for server in (A, B, C):
            cluster.report(server, (1, 1))
        cluster.report(D, guests=((1, 1), (2, 1)))
        cluster.moving.add(1)
        assert cluster.named(D) == []
        cluster.moving.clear()
        assert cluster.named(D) == [(1, 1)], "the move has failed, and the chunk has what it wants"
        fence = op.ChangeReplicas(
            handle=ChunkHandle(1),
            from_version=ChunkVersion(1),
            replicas=(A, B, C),
            primary=A,
            held_version=ChunkVersion(1),
        )
        cluster(fence)
        joined = op.ChangeReplicas(
            handle=ChunkHandle(1),
            from_version=ChunkVersion(2),
            replicas=(A, B, C, D),
            primary=A,
            joined=(D,),
            held_version=ChunkVersion(2),
        )
        cluster(joined)
        assert cluster.named(D) == [], "it is a member now, though nobody has told it"

    def test_a_guest_of_a_chunk_that_is_gone_is_an_orphan(self, cluster: Cluster) -> None:
        cluster(delete("/f"))
        cluster(purge(cluster.inode))
        cluster(reclaim())
        cluster.report(D, guests=((1, 1),))
        assert cluster.named(D, wait=0.0) == [(1, 1)]

    def test_a_leader_that_begins_anew_remembers_nothing(self, cluster: Cluster) -> None:
        self.leave_out(cluster, A, B)
        cluster.garbage.look(cluster.tables, C, now=cluster.now)
        assert cluster.garbage.stale_count == 1
        cluster.garbage.forget()
        assert cluster.garbage.stale_count == 0
        assert not cluster.garbage.may_have_stale(C, now=cluster.now + RIPE)


class TestSteadyTime:
    def test_a_clock_set_forward_is_not_believed_and_one_set_back_is(self) -> None:
        time = SteadyTime()
        assert time.now_ms(now=10.0, wall_ms=1_000_000) == 1_000_000
        assert time.now_ms(now=11.0, wall_ms=1_000_000 + 86_400_000) == 1_001_000
        assert time.now_ms(now=12.0, wall_ms=900_000) == 900_000
        assert time.now_ms(now=13.0, wall_ms=2_000_000) == 901_000
