"""A member whose state is not to be trusted: it does not lead or apply, and its log goes on counting."""

from __future__ import annotations

import asyncio

import pytest

from chaos.simulation.loop import VirtualLoop, run_virtual
from gfs.errors import Unavailable
from gfs.master.replication.checkpoint_duty import CheckpointDuty
from gfs.master.replication.raft_messages import TimeoutNow
from gfs.master.replication.raft_node import RaftNode
from gfs.vocabulary import Address
from tests.raft.cluster import Cluster, Machine

WRONG = b"what no other master has"


def node_of(machine: Machine) -> RaftNode:
    assert machine.node is not None
    return machine.node


def convict(machine: Machine) -> None:
    machine.state.items.append(WRONG)
    node_of(machine).distrust()


def is_healed(machine: Machine) -> bool:
    return machine.node is not None and not machine.node.state_wanted and WRONG not in machine.state.items


async def started(loop: VirtualLoop, size: int = 3) -> tuple[Cluster, Machine, list[Machine]]:
    cluster = Cluster(loop, size)
    await cluster.start()
    leader = await cluster.elected()
    for number in range(10):
        await cluster.propose(b"before-%d" % number)
    await cluster.settled()
    return cluster, leader, [machine for machine in cluster.running if machine is not leader]


def test_convicted_follower_gets_the_leaders_state_and_goes_on_from_its_own_log() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster, leader, (odd, _) = await started(loop)
        convict(odd)
        for number in range(10):
            await cluster.propose(b"after-%d" % number)
        await cluster.until(lambda: is_healed(odd))
        await cluster.settled()
        assert odd.state.items == leader.state.items
        assert cluster.leader() is leader
        cluster.check()

    run_virtual(scenario)


def test_convicted_leader_hands_over_and_is_not_elected_before_it_is_trusted() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster, odd, others = await started(loop)
        began = loop.now
        convict(odd)
        second = await cluster.elected(besides=odd)
        assert loop.now - began < cluster.options.election_seconds_min, (
            "who has everything waits for no time-out"
        )
        await cluster.until(lambda: is_healed(odd))
        led = len(odd.led)
        for machine in others:
            machine.kill()
        await asyncio.sleep(3.0)
        await others[0].start() if others[0] is not second else await others[1].start()
        await asyncio.sleep(3.0)
        assert len(odd.led) == led, "healed, but not compared yet"
        node_of(odd).trust()
        await cluster.until(lambda: cluster.leader() is not None)
        cluster.check()

    run_virtual(scenario)


def test_master_in_doubt_of_itself_does_not_stand_when_it_is_told_to() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster, leader, (odd, _) = await started(loop)
        convict(odd)
        term = node_of(leader).status().term
        node_of(leader).parts.connections.transmit(odd.name, TimeoutNow(term))
        await asyncio.sleep(2.0)
        assert node_of(leader).status().term == term and cluster.leader() is leader
        with pytest.raises(Unavailable, match="quarantined"):
            await node_of(odd).checkpoint()
        await cluster.until(lambda: is_healed(odd))
        node_of(odd).trust()
        await asyncio.sleep(2.0)
        assert node_of(leader).status().term == term, "nor later, when it might"

    run_virtual(scenario)


def test_acknowledgements_of_a_convicted_master_count_and_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster, leader, (odd, other) = await started(loop)
        with monkeypatch.context() as patch:
            patch.setattr(CheckpointDuty, "offer_later_than", lambda *_: None)
            convict(odd)
            other.kill()
            for number in range(5):
                assert await cluster.propose(b"two of three-%d" % number) is not None
            assert node_of(odd).status().applied < node_of(leader).status().applied
            assert node_of(odd).parts.log.end == node_of(leader).parts.log.end
        await cluster.until(lambda: is_healed(odd))
        node_of(odd).trust()
        leader.kill()
        await other.start()
        await cluster.until(lambda: cluster.leader() is odd)
        await cluster.settled()
        cluster.check()

    run_virtual(scenario)


def test_checkpoint_from_before_the_log_of_a_convicted_master_is_no_use() -> None:
    """To install it the log would have to go back to it: what this master has acknowledged would be gone."""

    async def scenario(loop: VirtualLoop) -> None:
        cluster, leader, (odd, _) = await started(loop)
        await node_of(leader).checkpoint()
        early = node_of(leader).parts.given.checkpoints.newest()
        assert early is not None
        for more in range(3):
            for number in range(5):
                await cluster.propose(b"more-%d-%d" % (more, number))
            await cluster.settled()
            await node_of(odd).checkpoint()
        base, end = node_of(odd).parts.log.base.index, node_of(odd).parts.log.end
        assert early.index < base
        convict(odd)
        node_of(odd).parts.checkpointing.take_offer(leader.name, early, Address("-"))
        await cluster.until(lambda: is_healed(odd))
        assert node_of(odd).parts.log.base.index <= base and node_of(odd).parts.log.holds(end)
        newest = node_of(leader).parts.given.checkpoints.newest()
        assert newest is not None and newest.index >= base, "the leader has made another one"
        await cluster.settled()
        assert odd.state.items == leader.state.items

    run_virtual(scenario)


@pytest.mark.parametrize("seed", range(12))
def test_storm_with_convictions_loses_nothing(seed: int) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop, 3 + 2 * (seed % 2))
        await cluster.start()
        chance, quorum = loop.chance, len(cluster.names) // 2 + 1
        for step in range(120):
            await cluster.propose(b"step-%d" % step)
            for machine in cluster.running:
                if is_healed(machine) and node_of(machine).parts.distrust.stands_back:
                    node_of(machine).trust()
            wanting = [m for m in cluster.running if node_of(m).state_wanted]
            dice = chance.random()
            machine = cluster.machines[chance.choice(cluster.names)]
            if dice < 0.08 and not wanting and machine.node is not None:
                convict(machine)
            elif dice < 0.14 and machine not in wanting and len(cluster.running) > quorum:
                machine.kill()
            elif dice < 0.3 and machine.node is None:
                await machine.start()
            elif dice < 0.36:
                others = [name for name in cluster.names if name != machine.name]
                loop.network.isolate(machine.name, others)
            elif dice < 0.5:
                loop.network.heal()
            elif dice < 0.55 and machine.node is not None and machine not in wanting:
                try:
                    await node_of(machine).checkpoint()
                except Unavailable:
                    pass
            await asyncio.sleep(chance.uniform(0.0, 0.3))
        loop.network.heal()
        for machine in cluster.machines.values():
            if machine.node is None:
                assert machine.failure is None, machine.failure
                await machine.start()

        def all_healed() -> bool:
            for machine in cluster.running:
                if is_healed(machine) and node_of(machine).parts.distrust.stands_back:
                    node_of(machine).trust()
            return all(is_healed(machine) for machine in cluster.running)

        await cluster.until(all_healed, seconds=60)
        await cluster.elected()
        await cluster.propose(b"the end")
        await cluster.settled()
        cluster.check()
        assert cluster.acknowledged, "something was done"
        assert all(machine.state.items == cluster.running[0].state.items for machine in cluster.running)

    run_virtual(scenario, seed=seed)
