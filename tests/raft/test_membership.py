"""Changing who the masters are, in virtual time: what each step does, and what it must not do."""

from __future__ import annotations

import asyncio
import random

import pytest

from chaos.simulation.loop import VirtualLoop, run_virtual
from gfs.errors import (
    AlreadyExists,
    DeadlineExceeded,
    GfsError,
    InvalidArgument,
    NoQuorum,
    NotFound,
    NotLeader,
    Unavailable,
)
from gfs.master.replication.options import RaftOptions
from gfs.vocabulary import MasterId
from tests.raft.cluster import Cluster, Machine, member_at

M1, M2, M3, M4, M5 = (MasterId(f"m{number}") for number in range(1, 6))
SMALL = RaftOptions(checkpoint_log_bytes=3000, segment_bytes=2000)


async def add(cluster: Cluster, name: MasterId) -> None:
    leader = await cluster.elected()
    assert leader.node is not None
    await leader.node.add_member(member_at(name))


async def remove(cluster: Cluster, name: MasterId) -> None:
    """As a client does: whoever is named as the leader is asked next."""
    while True:
        leader = await cluster.elected()
        assert leader.node is not None
        try:
            return await leader.node.remove_member(name)
        except NotLeader:
            await cluster.elected(besides=leader)


async def fill(cluster: Cluster, count: int, prefix: str = "item", length: int = 0) -> None:
    await cluster.elected()
    for number in range(count):
        assert await cluster.propose(b"%s-%d" % (prefix.encode(), number) + b"." * length) is not None


def voters(machine: Machine) -> list[str]:
    assert machine.node is not None
    return [member.id for member in machine.node.members() if member.voter]


def part(machine: Machine) -> str:
    assert machine.node is not None
    return machine.node.status().part


async def same_state(cluster: Cluster, *names: MasterId) -> None:
    machines = [cluster.machines[name] for name in names]
    await cluster.until(lambda: len({m.state.position for m in machines}) == 1)
    cluster.check()


def test_a_cluster_of_one_grows_to_five_and_shrinks_to_one_and_loses_nothing() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, 5, founders=1)
        await cluster.start()
        await fill(cluster, 3, "alone")
        for name in (M2, M3, M4, M5):
            assert part(cluster.machines[name]) == "stranger"
            await add(cluster, name)
            await cluster.until(lambda name=name: part(cluster.machines[name]) == "voter")
            await fill(cluster, 3, f"with {name}")
        await same_state(cluster, *cluster.names)
        assert all(voters(machine) == list(cluster.names) for machine in cluster.running)
        for name in (M1, M3, M5, M2):
            await remove(cluster, name)
            await fill(cluster, 3, f"without {name}")
        await same_state(cluster, M4)
        assert cluster.leader() is cluster.machines[M4] and voters(cluster.machines[M4]) == [M4]
        assert len(cluster.machines[M4].state.items) == 3 * 9

    run_virtual(scenario)


def test_a_grown_cluster_goes_on_without_its_founder_and_starts_again_with_who_was_added() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, 3, founders=1)
        await cluster.start()
        await fill(cluster, 3)
        await add(cluster, M2)
        await add(cluster, M3)
        cluster.machines[M1].kill()
        await cluster.elected()
        await fill(cluster, 3, "later")
        for machine in cluster.machines.values():
            machine.cut_power()
        for machine in cluster.machines.values():
            await machine.start()
        await cluster.elected()
        await cluster.settled()
        assert all(voters(machine) == [M1, M2, M3] for machine in cluster.running)
        cluster.check()

    run_virtual(scenario)


def test_a_founder_of_a_grown_cluster_cannot_decide_anything_alone() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, 3, founders=1)
        await cluster.start()
        await add(cluster, M2)
        await add(cluster, M3)
        for name in (M2, M3):
            cluster.machines[name].kill()
        cluster.machines[M1].kill()
        await cluster.machines[M1].start()
        await asyncio.sleep(5)
        assert cluster.leader() is None
        with pytest.raises(NoQuorum, match="of 3 masters only 1"):
            await cluster.machines[M1].node.propose(b"alone")  # type: ignore[union-attr]

    run_virtual(scenario)


def test_masters_that_are_in_no_configuration_never_vote_or_stand() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, 3, founders=1)
        for name in (M2, M3):
            await cluster.machines[name].start()
        await asyncio.sleep(5)
        for machine in cluster.running:
            assert machine.node is not None
            assert part(machine) == "stranger" and machine.node.status().term == 0
        await cluster.machines[M1].start()
        await cluster.elected()
        await asyncio.sleep(3)
        newcomer = cluster.machines[M2].node
        assert newcomer is not None
        assert "gfs admin members add m2" in dict(newcomer.status().kept_out)[M2]

    run_virtual(scenario)


def test_masters_whose_settings_call_them_founders_of_a_running_cluster_do_not_found_another() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, 3, founders=1)
        await cluster.machines[M1].start()
        await fill(cluster, 3)
        cluster.founders = cluster.names  # an operator has written all three into everybody's settings
        for name in (M2, M3):
            await cluster.machines[name].start()
        await asyncio.sleep(5)
        assert cluster.leader() is cluster.machines[M1]
        assert cluster.machines[M2].state.items == [] == cluster.machines[M3].state.items
        cluster.machines[M1].kill()
        await cluster.machines[M1].start()  # with the new settings: who it founded the cluster with is noted
        await cluster.elected()
        assert voters(cluster.machines[M1]) == [M1]
        await add(cluster, M2)
        await add(cluster, M3)
        await same_state(cluster, *cluster.names)

    run_virtual(scenario)


@pytest.mark.parametrize("others_know_it", [True, False])
def test_the_first_master_of_a_grown_cluster_does_not_found_another_one_when_its_disk_is_lost(
    others_know_it: bool,
) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, 3, founders=1)
        await cluster.start()
        await add(cluster, M2)
        await add(cluster, M3)
        await fill(cluster, 5)
        founder = cluster.machines[M1]
        wipe(cluster, founder)
        await cluster.until(lambda: cluster.leader() not in (None, founder))
        if not others_know_it:
            await remove(cluster, M1)
        await founder.start()
        await asyncio.sleep(20)
        assert founder.node is not None and founder.node.status().term == 0
        assert M1 in dict(founder.node.status().kept_out)
        assert cluster.leader() is not founder
        await fill(cluster, 3, "later")
        cluster.check()

    for seed in range(5):
        run_virtual(scenario, seed=seed)


def test_a_new_master_is_a_learner_until_it_has_caught_up() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, 4, RaftOptions(catch_up_patience_seconds=2), founders=3)
        for name in cluster.founders:
            await cluster.machines[name].start()
        await fill(cluster, 3)
        with pytest.raises(DeadlineExceeded, match=r"m4 cannot be reached .* stays a learner"):
            await add(cluster, M4)
        leader = await cluster.elected()
        assert leader.node is not None and voters(leader) == [M1, M2, M3]
        assert [member.id for member in leader.node.members()] == [M1, M2, M3, M4]
        # It counts in no majority: two of the three voters are one.
        victim = next(m for m in cluster.running if m is not leader)
        victim.kill()
        await fill(cluster, 2, "without")
        await victim.start()
        await cluster.machines[M4].start()
        await cluster.until(lambda: part(cluster.machines[M4]) == "learner")
        await add(cluster, M4)
        await cluster.until(lambda: part(cluster.machines[M4]) == "voter")
        await same_state(cluster, *cluster.names)

    run_virtual(scenario)


def test_a_learner_that_was_given_up_can_be_taken_out_again() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, 2, RaftOptions(catch_up_patience_seconds=2), founders=1)
        await cluster.machines[M1].start()
        with pytest.raises(DeadlineExceeded):
            await add(cluster, M2)
        await fill(cluster, 2)
        await remove(cluster, M2)
        node = cluster.machines[M1].node
        assert node is not None and [member.id for member in node.members()] == [M1]
        with pytest.raises(NotFound):
            await remove(cluster, M2)

    run_virtual(scenario)


def test_what_makes_no_sense_is_refused_and_changes_nothing() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, 2, founders=1)
        await cluster.start()
        leader = await cluster.elected()
        assert leader.node is not None
        with pytest.raises(AlreadyExists):
            await add(cluster, M1)
        with pytest.raises(InvalidArgument, match="the last master"):
            await remove(cluster, M1)
        with pytest.raises(Unavailable, match="no other voter"):
            await leader.node.transfer_leadership(None)
        with pytest.raises(NotFound):
            await leader.node.transfer_leadership(M2)
        with pytest.raises(NotLeader):
            await cluster.machines[M2].node.add_member(member_at(M2))  # type: ignore[union-attr]
        assert await leader.node.transfer_leadership(M1) == M1
        assert voters(leader) == [M1] and leader.node.members() == (member_at(M1),)

    run_virtual(scenario)


def test_two_changes_at_once_are_one_and_a_refusal() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, 3, founders=1)
        await cluster.start()
        await cluster.elected()
        first = asyncio.ensure_future(add(cluster, M2))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="one change at a time"):
            await add(cluster, M3)
        await first

    run_virtual(scenario)


def test_a_change_after_which_the_masters_could_not_go_on_is_refused() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, 3)
        await cluster.start()
        leader = await cluster.elected()
        others = [machine for machine in cluster.running if machine is not leader]
        others[0].kill()
        await cluster.until(lambda: leader.node and others[0].name not in leader.node.status().reachable)
        with pytest.raises(NoQuorum, match="only 1 can be reached"):
            await remove(cluster, others[1].name)
        await remove(cluster, others[0].name)  # the dead one is what should go
        await fill(cluster, 2)
        assert voters(leader) == sorted([leader.name, others[1].name])

    run_virtual(scenario)


def test_a_dead_master_is_replaced_under_its_own_name_with_an_empty_disk() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, 3, SMALL)
        await cluster.start()
        leader = await cluster.elected()
        await fill(cluster, 100)
        dead = next(machine for machine in cluster.running if machine is not leader)
        wipe(cluster, dead)
        await cluster.until(lambda: leader.node and dead.name not in leader.node.status().reachable)
        await remove(cluster, dead.name)
        await fill(cluster, 10, "meanwhile")
        await dead.start()
        await cluster.until(lambda: leader.node and dead.name in leader.node.refusals())
        assert dead.state.items == []
        await add(cluster, dead.name)
        await same_state(cluster, *cluster.names)
        leader.kill()
        await cluster.elected()
        await fill(cluster, 5, "later")
        cluster.check()

    run_virtual(scenario)


def wipe(cluster: Cluster, machine: Machine) -> None:
    machine.kill()
    machine.disk = type(machine.disk)(seed=cluster.loop.chance.randrange(2**32))
    machine.lose_state()


def test_a_leader_that_is_to_go_hands_over_and_its_successor_takes_it_out() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        await fill(cluster, 5)
        assert leader.node is not None
        with pytest.raises(NotLeader) as raised:
            await leader.node.remove_member(leader.name)
        successor = await cluster.elected()
        assert raised.value.details["leader"] == successor.name != leader.name
        await remove(cluster, leader.name)
        await fill(cluster, 5, "later")
        assert leader.name not in voters(successor)
        await cluster.until(lambda: part(leader) == "removed" or leader.node.status().kept_out)  # type: ignore[union-attr]
        cluster.check()

    run_virtual(scenario)


def test_leadership_moves_to_whom_it_was_given_and_no_proposal_fails() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        stop = asyncio.Event()

        async def load(who: int) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                await cluster.propose(b"load-%d-%d" % (who, number))
                await asyncio.sleep(0.0005)

        loads = [loop.create_task(load(who)) for who in range(3)]
        await fill(cluster, 5)
        for _ in range(6):
            target = next(name for name in cluster.names if name != leader.name)
            assert leader.node is not None
            assert await leader.node.transfer_leadership(target) == target
            leader = await cluster.elected(besides=leader)
            assert leader.name == target
        stop.set()
        await asyncio.gather(*loads)
        await cluster.settled()
        cluster.check()

    run_virtual(scenario)


def test_handing_over_to_a_master_that_does_not_take_over_leaves_the_leader_as_it_was() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        await fill(cluster, 2)
        target = next(machine for machine in cluster.running if machine is not leader)
        loop.network.block(leader.name, target.name)
        await fill(cluster, 1, "while it is cut off")
        assert leader.node is not None
        with pytest.raises(Unavailable, match="leads on"):
            await leader.node.transfer_leadership(target.name)
        loop.network.heal()
        assert await cluster.elected() is leader
        await fill(cluster, 3, "later")
        await cluster.settled()
        cluster.check()

    run_virtual(scenario)


def test_a_removed_master_is_told_so_and_disturbs_nobody() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        gone = next(machine for machine in cluster.running if machine is not leader)
        loop.network.isolate(gone.name, list(cluster.names))  # it does not hear of its removal
        await asyncio.sleep(2)
        await remove(cluster, gone.name)
        loop.network.heal()
        assert leader.node is not None and gone.node is not None
        term = leader.node.status().term
        await cluster.until(lambda: gone.node and gone.name in dict(gone.node.status().kept_out))
        await asyncio.sleep(10)
        assert "is not, or no longer, one of the masters" in dict(gone.node.status().kept_out)[gone.name]
        assert leader.node.status().term == term and cluster.leader() is leader
        assert not gone.node.status().reachable
        await fill(cluster, 3)
        assert len(gone.state.items) == 0
        gone.kill()
        await gone.start()
        await asyncio.sleep(5)
        assert cluster.leader() is leader and leader.node.status().term == term
        cluster.check()

    run_virtual(scenario)


def test_a_master_that_slept_through_the_addition_of_the_leader_follows_it() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, 5, SMALL, founders=3)
        await cluster.start()
        leader = await cluster.elected()
        sleeper = next(cluster.machines[n] for n in cluster.founders if n != leader.name)
        third = next(cluster.machines[n] for n in cluster.founders if n not in (leader.name, sleeper.name))
        sleeper.kill()
        await add(cluster, M4)
        await add(cluster, M5)
        await fill(cluster, 200, length=60)
        assert leader.node is not None
        await leader.node.transfer_leadership(M5)
        for machine in (leader, third):
            await remove(cluster, machine.name)
            machine.kill()
        await fill(cluster, 5, "later")
        await sleeper.start()
        await same_state(cluster, sleeper.name, M4, M5)
        assert cluster.leader() in (cluster.machines[M4], cluster.machines[M5])
        assert voters(sleeper) == sorted([sleeper.name, M4, M5])

    run_virtual(scenario)


def test_a_configuration_that_was_never_committed_is_dropped_with_its_entry() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, 4, founders=3)
        await cluster.start()
        leader = await cluster.elected()
        await fill(cluster, 3)
        loop.network.isolate(leader.name, list(cluster.names))
        assert leader.node is not None
        adding = asyncio.ensure_future(leader.node.add_member(member_at(M4)))
        await cluster.until(lambda: len(leader.node.members()) == 4)  # type: ignore[union-attr]
        with pytest.raises(GfsError):
            await adding
        successor = await cluster.elected(besides=leader)
        assert len(successor.node.members()) == 3  # type: ignore[union-attr]
        await fill(cluster, 3, "later")
        loop.network.heal()
        await cluster.until(lambda: leader.node and len(leader.node.members()) == 3)
        await same_state(cluster, *cluster.founders)
        assert part(cluster.machines[M4]) == "stranger"

    run_virtual(scenario)


def test_a_change_whose_leader_dies_is_finished_by_the_next_one() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, 4, founders=3)
        await cluster.start()
        leader = await cluster.elected()
        await fill(cluster, 3)
        assert leader.node is not None
        adding = asyncio.ensure_future(leader.node.add_member(member_at(M4)))
        await cluster.until(lambda: part(cluster.machines[M4]) == "learner")
        leader.kill()
        with pytest.raises(GfsError):
            await adding
        await cluster.elected(besides=leader)
        try:
            await add(cluster, M4)
        except AlreadyExists:
            pass  # the first leader had got as far as that
        await leader.start()
        await same_state(cluster, *cluster.names)
        assert all(voters(machine) == list(cluster.names) for machine in cluster.running)

    for seed in range(8):
        run_virtual(scenario, seed=seed)


def test_a_new_master_gets_a_checkpoint_in_pieces_when_the_log_is_trimmed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gfs.master.replication.checkpoint_shipping.CHECKPOINT_PIECE_BYTES", 1000)

    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, 3, SMALL, founders=1)
        await cluster.machines[M1].start()
        await cluster.elected()
        await fill(cluster, 300, length=60)
        base = cluster.machines[M1].node.parts.log.base.index  # type: ignore[union-attr]
        assert base > 100, "the log no longer goes back to the beginning"
        await cluster.machines[M2].start()
        adding = asyncio.ensure_future(add(cluster, M2))
        while not adding.done():
            await asyncio.sleep(loop.chance.uniform(0.05, 0.4))
            loop.network.reset(M1, M2)
        await adding
        await fill(cluster, 100, "later")
        await cluster.machines[M3].start()
        await add(cluster, M3)
        await same_state(cluster, M1, M2, M3)
        # Whoever starts from a checkpoint alone knows the masters by it.
        await cluster.elected()
        for machine in cluster.running:
            assert machine.node is not None
            await machine.node.checkpoint()
        for machine in cluster.machines.values():
            machine.cut_power()
        for machine in cluster.machines.values():
            await machine.start()
            assert voters(machine) == [M1, M2, M3]
        await cluster.elected()
        await cluster.settled()
        cluster.check()

    for seed in range(4):
        run_virtual(scenario, seed=seed)


def test_a_wiped_master_that_was_added_is_refused_under_its_old_name() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, 3, founders=1)
        await cluster.start()
        await cluster.elected()
        await add(cluster, M2)
        await add(cluster, M3)
        await fill(cluster, 5)
        leader = await cluster.elected()
        victim = next(machine for machine in cluster.running if machine is not leader)
        third = next(m for m in cluster.running if m not in (leader, victim))
        third.kill()  # it has met the victim only by what the log says of it
        wipe(cluster, victim)
        await victim.start()
        await cluster.until(lambda: leader.node and victim.name in leader.node.refusals())
        leader.kill()
        await third.start()
        await asyncio.sleep(5)
        assert cluster.leader() is None, "the wiped one and the third are a majority that has forgotten"
        assert victim.name in third.node.refusals()  # type: ignore[union-attr]
        await leader.start()
        await cluster.elected()
        await fill(cluster, 2, "later")
        cluster.check()

    run_virtual(scenario)


@pytest.mark.parametrize("copied", ["while it runs", "while it is stopped"])
def test_of_two_processes_with_one_disk_copied_the_second_is_refused(copied: str) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        original = next(machine for machine in cluster.running if machine is not leader)
        if copied == "while it is stopped":
            original.kill()
        twin = Machine(cluster, original.name)
        twin.disk = copy_of(original)
        if copied == "while it is stopped":
            await original.start()
        await fill(cluster, 5)
        await cluster.settled()
        loop.network.listeners.pop(original.name)
        await twin.start()
        refused = lambda: twin.node and dict(twin.node.status().kept_out).get(original.name)  # noqa: E731
        await cluster.until(refused)
        await asyncio.sleep(5)
        assert "two processes say that they are" in str(refused())
        assert twin.node is not None and not twin.node.status().reachable and twin.state.items == []
        assert original.node is not None and len(original.node.status().reachable) == 2
        await fill(cluster, 3, "later")
        await cluster.settled()
        cluster.check()
        twin.kill()

    run_virtual(scenario)


def copy_of(machine: Machine) -> object:
    copy = type(machine.disk)(seed=1)
    for path, inode in machine.disk._names.items():
        copy.make_directory(path.rpartition("/")[0])
        file = copy.open(path, create=True)
        file.pwrite(bytes(inode.content), 0)
        file.sync()
    return copy


def test_a_restarted_master_is_let_in_again_at_once() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        victim = next(machine for machine in cluster.running if machine is not leader)
        chance = random.Random(1)
        for _ in range(5):
            victim.kill() if chance.random() < 0.5 else victim.cut_power()
            await victim.start()
            began = loop.now
            await cluster.until(lambda: victim.node and len(victim.node.status().reachable) == 2)
            assert loop.now - began < 3
            await fill(cluster, 2)

    run_virtual(scenario)
