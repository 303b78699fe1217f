"""Clusters of whole members in virtual time, one behaviour a test. Random faults are in test_faults."""

from __future__ import annotations

import asyncio

import pytest

from chaos.simulation.disk import ForgetfulDisk
from chaos.simulation.loop import VirtualLoop, run_virtual
from gfs import failpoints
from gfs.disk import read_whole_file
from gfs.errors import (
    CorruptState,
    GfsError,
    InvalidArgument,
    NoQuorum,
    NoSpace,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    WrongCluster,
)
from gfs.master.replication.handshake import Dialer, Introduction
from gfs.master.replication.options import PROPOSAL_BYTES_MAX, RAFT_FRAME_BYTES_MAX, RaftOptions
from gfs.master.replication.raft_messages import frame
from gfs.vocabulary import ClusterId, MasterId
from tests.paper.boxes import keeps
from tests.raft.cluster import CLUSTER, SECRET, Cluster, Machine

SMALL_CHECKPOINTS = RaftOptions(checkpoint_log_bytes=2000, segment_bytes=1000)


def durable_log_bytes(disk: ForgetfulDisk, name: str) -> bytes:
    """What a power cut at this moment would leave of a master's log."""
    return b"".join(
        bytes(i.durable) for path, i in disk._durable_names.items() if path.startswith(f"/{name}/log")
    )


async def fill(cluster: Cluster, count: int, *, prefix: str = "item", size: int = 100) -> None:
    for number in range(count):
        assert await cluster.propose(f"{prefix}-{number}-".encode() + b"." * size) is not None


# --- elections --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_cluster_elects_one_leader_and_commits(size: int) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, size)
        await cluster.start()
        leader = await cluster.elected()
        assert await cluster.propose(b"first") == b"1"
        assert await asyncio.gather(*(cluster.propose(b"%d" % n) for n in range(100))) == [
            b"%d" % n for n in range(2, 102)
        ]
        assert leader.node is not None and await leader.node.read_barrier() >= 2
        await cluster.settled()
        cluster.check()
        assert leader.led == [(True, leader.node.status().term)]

    run_virtual(scenario)


def test_the_others_take_over_at_once_when_the_leaders_connections_break() -> None:
    gaps = []

    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        await fill(cluster, 3)
        killed_at = loop.now
        leader.kill()
        await cluster.elected()
        assert await cluster.propose(b"after") is not None
        gaps.append(loop.now - killed_at)

    for seed in range(30):
        run_virtual(scenario, seed=seed)
    gaps.sort()
    assert gaps[15] < 0.06 and gaps[-1] < 0.2, gaps


def test_the_others_take_over_within_the_election_time_when_the_leader_falls_silent() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        loop.network.isolate(leader.name, list(cluster.names))
        cut_at = loop.now
        await cluster.elected(besides=leader)
        assert loop.now - cut_at < 1.0

    for seed in range(10):
        run_virtual(scenario, seed=seed)


def test_a_master_that_was_cut_off_does_not_unseat_the_leader_when_it_comes_back() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        assert leader.node is not None
        term = leader.node.status().term
        follower = next(m for m in cluster.running if m is not leader)
        loop.network.isolate(follower.name, list(cluster.names))
        await asyncio.sleep(5)
        loop.network.heal()
        await fill(cluster, 5)
        await cluster.settled()
        assert leader.node.status().role == "leader" and leader.node.status().term == term

    run_virtual(scenario)


def test_a_leader_that_stops_hands_over_without_a_gap() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        await fill(cluster, 3)
        assert leader.node is not None
        stopping = loop.create_task(leader.node.stop())
        stopped_at = loop.now
        await cluster.elected(besides=leader)
        assert loop.now - stopped_at < 0.1
        await stopping
        with pytest.raises(NotLeader):
            await leader.node.propose(b"too late")
        leader.node = None
        await leader.start()
        await cluster.settled()
        cluster.check()

    run_virtual(scenario)


# --- what a caller is told ----------------------------------------------------------------------------


def test_a_follower_names_the_leader_and_a_lonely_leader_says_there_is_no_quorum() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        follower = next(m for m in cluster.running if m is not leader)
        assert leader.node is not None and follower.node is not None
        await cluster.until(lambda: follower.node and follower.node.status().ready)
        with pytest.raises(NotLeader) as refused:
            await follower.node.propose(b"x")
        assert refused.value.details["leader"] == leader.name
        with pytest.raises(NotLeader):
            await follower.node.read_barrier()
        loop.network.isolate(leader.name, list(cluster.names))
        lost = loop.create_task(leader.node.propose(b"on its own"))
        reading = loop.create_task(leader.node.read_barrier())
        with pytest.raises(OutcomeUnknown):
            await lost
        with pytest.raises(GfsError) as unread:
            await reading
        assert unread.value.definite
        await asyncio.sleep(2)
        with pytest.raises(NoQuorum):
            await leader.node.propose(b"x")

    run_virtual(scenario)


def test_a_leader_that_was_stopped_for_longer_than_an_election_answers_nothing_old_when_it_wakes() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        old = await cluster.elected()
        assert old.node is not None
        sleeping = loop.create_task(old.pause(3))
        await cluster.elected(besides=old)
        assert await cluster.propose(b"new") is not None
        reads = [loop.create_task(old.node.read_barrier()) for _ in range(3)]
        await sleeping
        for read in reads:
            with pytest.raises(GfsError):
                await read
        await cluster.settled()
        cluster.check()

    for seed in range(5):
        run_virtual(scenario, seed=seed)


def test_a_cut_off_leader_never_answers_a_read_that_misses_what_its_successor_acknowledged() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        old = await cluster.elected()
        others = [name for name in cluster.names if name != old.name]
        loop.network.isolate(old.name, list(others))
        for name in others:
            loop.network.reset_one_side(name, old.name)
        await cluster.elected(besides=old)
        assert await cluster.propose(b"new") is not None
        assert old.node is not None and old.node.status().role == "leader", "it does not know yet"
        with pytest.raises(GfsError):
            await old.node.read_barrier()

    run_virtual(scenario)


def test_more_waiting_proposals_than_allowed_are_refused_at_once() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, options=RaftOptions(proposals_waiting_max=50))
        await cluster.start()
        leader = await cluster.elected()
        assert leader.node is not None
        results = await asyncio.gather(
            *(leader.node.propose(b"%d" % n) for n in range(80)), return_exceptions=True
        )
        assert sum(isinstance(result, Overloaded) for result in results) == 30
        assert len(leader.state.items) == 50

    run_virtual(scenario)


@pytest.mark.parametrize("size", [64 * 2**10 - 1, 64 * 2**10, 64 * 2**10 + 1, PROPOSAL_BYTES_MAX, 8 * 2**20])
def test_commands_from_64_kib_to_8_mib_are_replicated_whole_or_refused(size: int) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        assert leader.node is not None
        for number in range(5):
            proposal = bytes([number]) * size
            if size > PROPOSAL_BYTES_MAX:
                with pytest.raises(InvalidArgument):
                    await leader.node.propose(proposal)
            else:
                await leader.node.propose(proposal)
        await cluster.settled()
        cluster.check()
        expected = 0 if size > PROPOSAL_BYTES_MAX else 5
        assert [len(machine.state.items) for machine in cluster.running] == [expected] * 3

    run_virtual(scenario)


# --- durability ---------------------------------------------------------------------------------------


@keeps("flushed-before-visible")
def test_f1_an_acknowledged_proposal_is_on_the_disks_of_a_majority_and_the_leader() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        loop.disk_seconds = (0.001, 0.02)
        for number in range(60):
            proposal = b"<%d>" % number
            await cluster.propose(proposal)
            on_disk = [n for n, m in cluster.machines.items() if proposal in durable_log_bytes(m.disk, n)]
            assert leader.name in on_disk and len(on_disk) >= 2

    run_virtual(scenario)


def test_all_masters_losing_power_at_once_lose_nothing_acknowledged() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, options=SMALL_CHECKPOINTS)
        await cluster.start()
        loop.disk_seconds = (0.0005, 0.008)
        for cut in range(12):
            await cluster.elected()
            writers = [loop.create_task(cluster.propose(b"%d-%d-" % (cut, n) + b"." * 60)) for n in range(40)]
            await asyncio.sleep(loop.chance.uniform(0, 0.03))
            for machine in cluster.machines.values():
                machine.cut_power(torn=True)
            await asyncio.gather(*writers)
            for machine in cluster.machines.values():
                await machine.start()
        await cluster.elected()
        await cluster.settled()
        cluster.check()
        assert cluster.acknowledged

    for seed in range(6):
        run_virtual(scenario, seed=seed)


def test_a_failed_sync_ends_that_master_and_the_others_go_on() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        await fill(cluster, 3)
        leader.disk.failing_sync = True
        assert await cluster.propose(b"lost in the disk", leader) is None
        assert isinstance(leader.failure, OSError) and leader.node is None
        await cluster.elected()
        await fill(cluster, 3, prefix="after")
        leader.failure = None
        cluster.check()

    run_virtual(scenario)


def test_a_full_disk_makes_the_leader_step_down_and_room_brings_it_back() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        await fill(cluster, 3)
        leader.disk.space_bytes_left = 10
        assert await cluster.propose(b"does not fit") is None
        successor = await cluster.elected(besides=leader)
        await fill(cluster, 5, prefix="meanwhile")
        assert leader.node is not None and leader.failure is None
        assert leader.state.items[:3] == successor.state.items[:3], "reads of what was applied go on"
        with pytest.raises(NotLeader):
            await leader.node.propose(b"x")
        for machine in cluster.running:
            machine.disk.space_bytes_left = 0
        await cluster.propose(b"nobody has room")
        await asyncio.sleep(2)
        with pytest.raises(NoSpace):
            await leader.node.propose(b"x")
        assert leader.node.status().disk_full
        for machine in cluster.running:
            machine.disk.space_bytes_left = None
        await cluster.elected()
        await fill(cluster, 3, prefix="again")
        await cluster.settled()
        cluster.check()

    run_virtual(scenario)


def test_full_disks_of_a_majority_are_told_to_clients_in_moments_and_room_mends_it() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        await fill(cluster, 3)
        for machine in cluster.running:
            if machine is not leader:
                machine.disk.space_bytes_left = 0
        began = loop.now
        assert leader.node is not None
        with pytest.raises(OutcomeUnknown, match="may still be written"):
            await leader.node.propose(b"in flight")
        assert loop.now - began < 4.5, "within the deadline of one call"
        others = sorted(machine.name for machine in cluster.running if machine is not leader)
        with pytest.raises(NoQuorum, match=f"1 of 3 masters keep .* {others[0]}, {others[1]}"):
            await leader.node.propose(b"refused at once")
        assert loop.now - began < 4.6
        assert await leader.node.read_barrier() > 0, "reads go on"
        for machine in cluster.running:
            machine.disk.space_bytes_left = None
        await cluster.until(lambda: leader.node and not leader.node.status().stalled)
        await fill(cluster, 3, prefix="again")
        await cluster.settled()
        assert b"refused at once" not in leader.state.items
        cluster.check()

    run_virtual(scenario)


def test_a_follower_without_room_for_a_checkpoint_does_not_fetch_it_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, options=SMALL_CHECKPOINTS)
        await cluster.start()
        leader = await cluster.elected()
        follower = next(m for m in cluster.running if m is not leader)
        loop.network.isolate(follower.name, list(cluster.names))
        await fill(cluster, 120)
        assert leader.node is not None and leader.node.parts.log.base.index > 60
        asked: list[float] = []
        serve = leader.node.parts.events.serve_piece

        def counting(request: object) -> object:
            asked.append(loop.now)
            return serve(request)  # type: ignore[arg-type]

        monkeypatch.setattr(leader.node.parts.events, "serve_piece", counting)
        follower.disk.space_bytes_left = 0
        loop.network.heal()
        await asyncio.sleep(20)
        assert 1 <= len(asked) <= 12, len(asked)
        follower.disk.space_bytes_left = None
        await cluster.settled()
        assert len(follower.state.items) == 120
        cluster.check()

    run_virtual(scenario)


def test_a_failpoint_without_space_is_treated_like_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, 1)
        await cluster.start()
        leader = await cluster.elected()
        monkeypatch.setattr(failpoints, "_armed", failpoints._parse("oplog.before_write=nospace"))
        assert await cluster.propose(b"no room") is None
        assert leader.failure is None
        with pytest.raises(NoSpace):
            assert leader.node is not None
            await leader.node.propose(b"no room")
        monkeypatch.setattr(failpoints, "_armed", {})
        await cluster.elected()
        assert await cluster.propose(b"room") is not None

    run_virtual(scenario)


def test_a_follower_with_a_slow_disk_stays_visible_and_the_leader_stays() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        loop.disk_seconds = (1.0, 1.2)
        assert await cluster.propose(b"slowly") is not None
        assert leader.node is not None and leader.node.status().role == "leader"
        assert len(cluster.leaders_by_term) == 1

    run_virtual(scenario)


def test_f3_an_exception_in_apply_ends_the_master_and_a_restart_does_not_skip_the_entry() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        await fill(cluster, 2)
        await cluster.settled()
        for machine in cluster.machines.values():
            machine.state.fail_on = b"poison"
        assert leader.node is not None
        with pytest.raises(OutcomeUnknown):
            await leader.node.propose(b"poison")
        assert isinstance(leader.failure, ZeroDivisionError)
        for _ in range(3):
            for machine in cluster.machines.values():
                if machine.node is None:
                    await machine.start()
            # Without a quorum the last one cannot know that the entry is committed.
            await cluster.until(lambda: len(cluster.running) == 1)
        assert all(len(machine.state.items) == 2 for machine in cluster.machines.values())

    run_virtual(scenario)


# --- catching up, checkpoints -------------------------------------------------------------------------


def test_a_follower_behind_by_more_than_any_message_holds_catches_up_from_the_log() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        follower = next(m for m in cluster.running if m is not leader)
        loop.network.isolate(follower.name, list(cluster.names))
        await fill(cluster, 14, size=2**20 - 100)
        loop.network.heal()
        await cluster.settled()
        cluster.check()
        assert len(follower.state.items) == 14

    run_virtual(scenario)


def test_a_follower_the_log_no_longer_reaches_gets_a_checkpoint_in_pieces_while_links_break(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gfs.master.replication.checkpoint_shipping.CHECKPOINT_PIECE_BYTES", 700)

    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, options=SMALL_CHECKPOINTS)
        await cluster.start()
        leader = await cluster.elected()
        follower = next(m for m in cluster.running if m is not leader)
        loop.network.isolate(follower.name, list(cluster.names))
        await fill(cluster, 120)
        assert leader.node is not None and leader.node.parts.log.base.index > 60
        loop.network.heal()
        for _ in range(6):
            await asyncio.sleep(loop.chance.uniform(0.002, 0.02))
            loop.network.reset(leader.name, follower.name)
        cut = loop.chance.uniform(0.1, 0.3)
        await asyncio.sleep(cut)
        loop.network.isolate(follower.name, list(cluster.names))
        await fill(cluster, 5, prefix="while cut")
        loop.network.heal()
        await cluster.settled()
        cluster.check()
        assert len(follower.state.items) == 125

    for seed in range(5):
        run_virtual(scenario, seed=seed)


def test_receiving_a_checkpoint_resumes_where_it_broke_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gfs.master.replication.checkpoint_shipping.CHECKPOINT_PIECE_BYTES", 1000)

    async def scenario(loop: VirtualLoop) -> None:
        options = RaftOptions(checkpoint_log_bytes=2**30)
        cluster = Cluster(loop, options=options)
        await cluster.start()
        leader = await cluster.elected()
        follower = next(m for m in cluster.running if m is not leader)
        loop.network.isolate(follower.name, list(cluster.names))
        assert leader.node is not None
        for number in range(2):
            await fill(cluster, 100, prefix=str(number))
            await leader.node.checkpoint()
        asked: list[int] = []
        serve = leader.node.parts.events.serve_piece

        def counting(request: object) -> object:
            asked.append(request.offset)  # type: ignore[attr-defined]
            return serve(request)  # type: ignore[arg-type]

        monkeypatch.setattr(leader.node.parts.events, "serve_piece", counting)
        loop.network.heal()
        await cluster.until(lambda: len(asked) >= 6)
        loop.network.reset(leader.name, follower.name)
        await cluster.settled()
        cluster.check()
        assert len(set(asked)) >= len(asked) - 1, "at most the piece under way is asked for twice"

    run_virtual(scenario)


def test_dying_anywhere_while_a_checkpoint_is_made_or_installed_loses_nothing() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, options=SMALL_CHECKPOINTS)
        await cluster.start()
        leader = await cluster.elected()
        victim = next(m for m in cluster.running if m is not leader)
        loop.network.isolate(victim.name, list(cluster.names))
        await fill(cluster, 60)
        loop.network.heal()
        victim.disk.cut_power_after(loop.chance.randrange(30), torn=True)
        await asyncio.sleep(0.5)
        victim.disk.operations_until_cut = None
        victim.cut_power()
        victim.failure = None
        await victim.start()
        await fill(cluster, 5, prefix="after")
        await cluster.settled()
        cluster.check()

    for seed in range(40):
        run_virtual(scenario, seed=seed)


def test_dying_before_an_install_is_an_ordinary_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, options=SMALL_CHECKPOINTS)
        await cluster.start()
        leader = await cluster.elected()
        victim = next(m for m in cluster.running if m is not leader)
        loop.network.isolate(victim.name, list(cluster.names))
        await fill(cluster, 60)
        monkeypatch.setattr(failpoints, "_armed", failpoints._parse("checkpoint.before_install=raise"))
        loop.network.heal()
        await cluster.until(lambda: victim.failure is not None)
        monkeypatch.setattr(failpoints, "_armed", {})
        await victim.start()
        await cluster.settled()
        cluster.check()

    run_virtual(scenario)


@keeps("checkpoint-by-log-size")
def test_a_restart_applies_nothing_twice_and_needs_no_log_behind_the_checkpoint() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, options=SMALL_CHECKPOINTS)
        await cluster.start()
        await cluster.elected()
        for round_number in range(4):
            await fill(cluster, 30, prefix=str(round_number))
            for machine in cluster.machines.values():
                machine.kill()
                if round_number % 2:
                    machine.lose_state()
                await machine.start()
            await cluster.elected()
        await cluster.settled()
        cluster.check()
        leader = cluster.leader()
        assert leader is not None and len(leader.state.items) == 120
        assert len([name for name in leader.disk.listdir(f"/{leader.name}/log") if "oplog" in name]) < 20

    run_virtual(scenario)


def test_a_state_that_does_not_fit_its_log_is_refused() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        await fill(cluster, 3)
        leader.kill()
        index, term = leader.state.position
        leader.state.position = (type(index)(index + 10), term)
        with pytest.raises(CorruptState, match="the operation log ends at"):
            await leader.start()
        leader.state.position = (index, type(term)(term + 1))
        with pytest.raises(CorruptState, match="was made from one of term"):
            await leader.start()

    run_virtual(scenario)


# --- who may take part --------------------------------------------------------------------------------


def wipe(machine: Machine) -> None:
    machine.kill()
    machine.disk = ForgetfulDisk(seed=99)
    machine.lose_state()


def test_a_wiped_master_is_refused_under_its_old_name_until_it_is_readmitted() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        await fill(cluster, 3)
        await cluster.settled()
        victim = next(m for m in cluster.running if m is not leader)
        wipe(victim)
        await victim.start()
        await cluster.until(lambda: leader.node and victim.name in leader.node.refusals())
        assert leader.node is not None and victim.node is not None
        assert "another disk" in leader.node.refusals()[victim.name]
        await cluster.until(lambda: victim.node and len(victim.node.refusals()) == 2)
        # Each of the two that speak knows which of them is kept out, and what is to be done about it.
        assert [member for member, _ in leader.node.status().kept_out] == [victim.name]
        assert [member for member, _ in victim.node.status().kept_out] == [victim.name]
        assert "gfs admin members readmit" in dict(leader.node.status().kept_out)[victim.name]
        assert "gfs admin members readmit" in dict(victim.node.status().kept_out)[victim.name]
        await asyncio.sleep(3)
        assert victim.node.status().term == 0 and not victim.node.status().reachable
        # The other two without the one that remembers would otherwise be a majority that has forgotten.
        leader.kill()
        await asyncio.sleep(3)
        assert cluster.leader() is None
        await leader.start()
        leader = await cluster.elected()
        await cluster.until(lambda: leader.node and victim.name in leader.node.refusals())
        assert leader.node is not None
        await leader.node.readmit(victim.name)
        await cluster.settled()
        assert len(victim.state.items) == 3 and len(cluster.running) == 3
        cluster.check()
        with pytest.raises(InvalidArgument):
            await leader.node.readmit(victim.name)

    run_virtual(scenario)


def test_a_wiped_master_is_readmitted_by_the_leader_that_knows_what_it_had_acknowledged() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        await fill(cluster, 5)
        await cluster.settled()
        victim = next(m for m in cluster.running if m is not leader)
        wipe(victim)
        await victim.start()
        await cluster.until(lambda: leader.node and victim.name in leader.node.refusals())
        assert leader.node is not None
        await leader.node.readmit(victim.name)
        await cluster.settled()
        assert len(victim.state.items) == 5 and not leader.node.refusals()
        assert not leader.node.status().kept_out and not victim.node.status().kept_out
        cluster.check()

    run_virtual(scenario)


def test_a_master_whose_disk_lost_synced_entries_is_refused_by_its_leader() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        await cluster.settled()
        victim = next(m for m in cluster.running if m is not leader)
        early = {path: bytes(inode.content) for path, inode in victim.disk._names.items()}
        await fill(cluster, 5)
        await cluster.settled()
        victim.kill()
        for path, content in early.items():
            file = victim.disk.open(path, create=True)
            file.truncate(0)
            file.pwrite(content, 0)
        victim.lose_state()
        await victim.start()
        await cluster.until(lambda: leader.node and victim.name in leader.node.refusals())
        assert leader.node is not None
        assert "has acknowledged" in leader.node.refusals()[victim.name]
        assert [member for member, _ in leader.node.status().kept_out] == [victim.name]

    run_virtual(scenario)


@pytest.mark.parametrize("kept", ["nothing", "identity.json"])
def test_a_log_that_was_lost_alone_is_noticed_at_the_start(kept: str) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        await cluster.elected()
        await fill(cluster, 3)
        await cluster.settled()
        victim = cluster.running[0]
        victim.kill()
        for name in set(victim.disk.listdir(f"/{victim.name}/log")) - {kept}:
            victim.disk.unlink(f"/{victim.name}/log/{name}")
        with pytest.raises(CorruptState, match="although this master has been in use"):
            await victim.start()

    run_virtual(scenario)


def test_a_directory_of_another_master_or_cluster_is_refused() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        machine = cluster.machines[MasterId("m1")]
        await machine.start()
        machine.kill()
        with pytest.raises(WrongCluster):
            await machine.start(cluster=ClusterId("other"))

    run_virtual(scenario)


@pytest.mark.parametrize("wrong", ["secret", "cluster"])
def test_a_peer_without_the_secret_or_of_another_cluster_is_kept_out(wrong: str) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        for name in ("m1", "m2"):
            await cluster.machines[MasterId(name)].start()
        stranger = cluster.machines[MasterId("m3")]
        if wrong == "secret":
            await stranger.start(secret=b"another secret")
        else:
            await stranger.start(cluster=ClusterId("another"))
        leader = await cluster.elected()
        await fill(cluster, 5)
        await asyncio.sleep(2)
        assert stranger.node is not None and leader is not stranger
        assert stranger.node.status().applied <= 1 and not stranger.node.status().reachable
        assert stranger.state.items == []
        if wrong == "secret":
            assert "secret" in stranger.node.refusals()[MasterId("m1")]
        else:
            assert leader.node is not None and "another" in leader.node.refusals()[stranger.name]

    run_virtual(scenario)


class _RawPeer(asyncio.Protocol):
    def __init__(self) -> None:
        self.received, self.closed = b"", False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True

    def say(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]


GARBAGE = {
    "random bytes": b"\x93\x01\x02GET / HTTP/1.1\r\n\r\n" * 3,
    "an announced giant": (2**31).to_bytes(4, "little"),
    "more than a handshake needs": (5000).to_bytes(4, "little") + bytes(5000),
    "an empty frame": bytes(4),
    "deeply nested msgpack": (4000).to_bytes(4, "little") + b"\x91" * 4000,
    "another step of the handshake": frame(Introduction("d", {}, 1)),
    "half a frame": (100).to_bytes(4, "little") + b"half",
    "silence": b"",
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_on_the_raft_port_closes_that_connection_and_nothing_else(kind: str) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        _, raw = await loop.create_connection(_RawPeer, f"stranger>{leader.name}", 1)
        assert isinstance(raw, _RawPeer)
        raw.say(GARBAGE[kind])
        await cluster.until(lambda: raw.closed, seconds=3)
        assert await cluster.propose(b"undisturbed") is not None
        assert leader.node is not None and not leader.node.parts.connections.unfinished
        cluster.check()

    run_virtual(scenario)


async def _shake_hands(
    loop: VirtualLoop, me: MasterId, leader: Machine, introduction: Introduction
) -> _RawPeer:
    """Reach the leader as `me`, knowing the secret, once its own connection is not of this moment."""
    await asyncio.sleep(RaftOptions().lesser_dials_seconds)
    _, raw = await loop.create_connection(_RawPeer, f"impostor>{leader.name}", 1)
    assert isinstance(raw, _RawPeer)
    dialer = Dialer(me=me, cluster=CLUSTER, secret=SECRET)
    raw.say(frame(dialer.hello(leader.name, "raft")))
    await asyncio.sleep(0.01)
    body = raw.received[4 : 4 + int.from_bytes(raw.received[:4], "little")]
    raw.say(frame(dialer.respond(body, introduction)))
    await asyncio.sleep(0.01)
    return raw


@pytest.mark.parametrize("kind", ["garbage", "oversize", "nonsense"])
def test_an_authenticated_peer_that_breaks_the_rules_loses_its_connection(kind: str) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        assert leader.node is not None
        other = next(m for m in cluster.running if m is not leader)
        introduction = other.node.parts.events.introduce()  # type: ignore[union-attr]
        raw = await _shake_hands(loop, other.name, leader, introduction)
        assert not raw.closed
        if kind == "garbage":
            raw.say((8).to_bytes(4, "little") + b"\xff" * 8)
        elif kind == "oversize":
            raw.say((RAFT_FRAME_BYTES_MAX + 1).to_bytes(4, "little"))
        else:
            raw.say(frame(introduction))
        await cluster.until(lambda: raw.closed, seconds=1)
        await cluster.elected()
        assert await cluster.propose(b"undisturbed") is not None
        await cluster.settled()
        cluster.check()

    run_virtual(scenario)


def test_a_superseded_connection_can_no_longer_speak() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        assert leader.node is not None
        other = next(m for m in cluster.running if m is not leader)
        introduction = other.node.parts.events.introduce()  # type: ignore[union-attr]
        first = await _shake_hands(loop, other.name, leader, introduction)
        second = await _shake_hands(loop, other.name, leader, introduction)
        assert first.closed and not second.closed

    run_virtual(scenario)


def test_a_recorded_handshake_cannot_be_replayed() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        other = next(m for m in cluster.running if m is not leader)
        introduction = other.node.parts.events.introduce()  # type: ignore[union-attr]
        dialer = Dialer(me=other.name, cluster=CLUSTER, secret=SECRET)
        hello = frame(dialer.hello(leader.name, "raft"))
        _, raw = await loop.create_connection(_RawPeer, f"x>{leader.name}", 1)
        assert isinstance(raw, _RawPeer)
        raw.say(hello)
        await asyncio.sleep(0.01)
        body = raw.received[4 : 4 + int.from_bytes(raw.received[:4], "little")]
        response = frame(dialer.respond(body, introduction))
        _, replay = await loop.create_connection(_RawPeer, f"x>{leader.name}", 1)
        assert isinstance(replay, _RawPeer)
        replay.say(hello)
        replay.say(response)
        await cluster.until(lambda: replay.closed, seconds=1)

    run_virtual(scenario)


def test_a_peer_that_cannot_be_remembered_for_want_of_space_is_let_in_later() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, 2)
        for machine in cluster.machines.values():
            await machine.start()
            machine.disk.space_bytes_left = 0
        await asyncio.sleep(2)
        assert cluster.leader() is None and len(cluster.running) == 2
        for machine in cluster.machines.values():
            machine.disk.space_bytes_left = None
        await cluster.elected()

    run_virtual(scenario)


def test_identity_and_log_of_a_master_are_files_a_person_can_find() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        await cluster.elected()
        await cluster.settled()
        machine = cluster.running[0]
        assert b'"member":"m1"' in read_whole_file(machine.disk, "/m1/log/identity.json")
        assert machine.disk.listdir("/m1/log") == ["0000000000000001.oplog", "identity.json"]

    run_virtual(scenario)
