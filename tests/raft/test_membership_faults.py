"""Clusters that grow and shrink while everything goes wrong: nothing acknowledged is lost, never two leaders.

As test_faults, with an operator beside: 1 → 3 → 5 → 3 → 1, each time with others, and masters whose disks are
replaced. More seeds by hand: python -m tests.raft.test_membership_faults FIRST LAST
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Sequence

import pytest

from chaos.simulation.disk import ForgetfulDisk
from chaos.simulation.loop import VirtualLoop, run_virtual
from gfs import failpoints
from gfs.errors import GfsError, Unavailable
from gfs.master.replication.options import RaftOptions
from gfs.vocabulary import MasterId
from tests.raft.cluster import Cluster, Machine, member_at
from tests.raft.test_faults import Nemesis, client

OPTIONS = RaftOptions(checkpoint_log_bytes=3000, segment_bytes=2000, catch_up_patience_seconds=3)
ATTEMPT_SECONDS = 6.0


class Operator:
    """Asks the leader for one change after another, like someone at a shell who does not give up."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.chance = random.Random(cluster.loop.chance.random())
        self.removed: set[MasterId] = set()  # and known to be: their disks may be thrown away
        self.changes = 0

    async def reach(self, wanted: Sequence[MasterId]) -> None:
        reached = False
        while not reached:
            reached = await self._step(set(wanted))
            await asyncio.sleep(0.05)

    async def _step(self, wanted: set[MasterId]) -> bool:
        leader = self.cluster.leader()
        if leader is None or leader.node is None:
            return False
        members = leader.node.members()
        missing = sorted(wanted - {member.id for member in members if member.voter})
        extra = sorted({member.id for member in members} - wanted)
        if not missing and not extra:
            # A leader that was deposed may not know it yet.
            return await self.cluster.propose(b"reached-%d" % self.changes, leader) is not None
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                if missing:
                    await self._add(leader, missing[0], {member.id for member in members})
                else:
                    await self._remove(leader, self.chance.choice(extra))
        except (GfsError, TimeoutError):
            pass
        return False

    async def _add(self, leader: Machine, name: MasterId, members: set[MasterId]) -> None:
        assert leader.node is not None
        if name in self.removed and name not in members:
            self.replace_disk(self.cluster.machines[name])
        self.removed.discard(name)
        await leader.node.add_member(member_at(name))
        self.changes += 1

    async def _remove(self, leader: Machine, name: MasterId) -> None:
        assert leader.node is not None
        await leader.node.remove_member(name)
        self.removed.add(name)
        self.changes += 1

    def replace_disk(self, machine: Machine) -> None:
        machine.kill()
        machine.disk = ForgetfulDisk(seed=self.chance.randrange(2**32))
        machine.lose_state()
        machine.joins = True


async def change_under_fire(loop: VirtualLoop) -> None:
    cluster = Cluster(loop, 5, OPTIONS, founders=1)
    await cluster.start()
    stop = asyncio.Event()
    clients = [loop.create_task(client(cluster, number, stop)) for number in range(3)]
    nemesis, operator = Nemesis(loop, cluster), Operator(cluster)
    chance = operator.chance
    calm = asyncio.Event()

    async def strike() -> None:
        while not calm.is_set():
            await nemesis.strike_for(1)

    storm = loop.create_task(strike())
    sizes = [3, 5, 3, 1, 2, 4]
    for size in sizes:
        wanted = chance.sample(cluster.names, size)
        try:
            async with asyncio.timeout(25):
                await restart_the_dead_beside(operator.reach(wanted), cluster)
        except TimeoutError:
            pass  # too much went wrong; the next goal begins from wherever this one got to
    calm.set()
    await storm
    await nemesis.recover()
    await cluster.elected()
    async with asyncio.timeout(60):
        await restart_the_dead_beside(operator.reach(cluster.names[1:4]), cluster)
    stop.set()
    await asyncio.gather(*clients)
    leader = await cluster.elected()
    assert leader.node is not None
    assert {member.id for member in leader.node.members() if member.voter} == set(cluster.names[1:4])
    await cluster.settled()
    assert await cluster.propose(b"the end") is not None
    await cluster.settled()
    cluster.check()
    assert len(cluster.acknowledged) > 10 and operator.changes >= 2


async def restart_the_dead_beside(work: object, cluster: Cluster) -> None:
    """A supervisor: whoever is down is started again within two seconds."""

    async def supervise() -> None:
        while True:
            await asyncio.sleep(2)
            for machine in cluster.machines.values():
                if machine.node is None and machine.failure is None:
                    machine.disk.space_bytes_left = None
                    await machine.start()

    supervisor = asyncio.ensure_future(supervise())
    try:
        await work  # type: ignore[misc]
    finally:
        supervisor.cancel()


@pytest.mark.parametrize("seed", range(12))
def test_growing_and_shrinking_under_random_faults_loses_nothing(seed: int) -> None:
    run_virtual(change_under_fire, seed=seed)


STEPS = ("member.before_change", "member.changing", "member.changed", "member.caught_up")


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("name", STEPS)
def test_a_leader_killed_at_any_step_of_a_change_leaves_it_to_be_made_again(name: str, nth: int) -> None:
    """The first pass of a step belongs to the learner, the second to the voter it becomes."""
    deaths = 0

    async def scenario(loop: VirtualLoop) -> None:
        nonlocal deaths
        cluster = Cluster(loop, 4, OPTIONS, founders=3)
        await cluster.start()
        await cluster.elected()
        await cluster.propose(b"before")
        passes = 0

        def told(passed: str) -> None:
            nonlocal deaths, passes
            passes += passed == name
            if passed == name and passes == nth and (leader := cluster.leader()) is not None:
                deaths += 1
                leader.kill()
                raise Unavailable("killed here")

        failpoints.intercept(told)
        operator = Operator(cluster)
        async with asyncio.timeout(60):
            await restart_the_dead_beside(operator.reach(cluster.names), cluster)
            if not deaths:  # this step is passed once for each change
                await restart_the_dead_beside(operator.reach(cluster.names[:3]), cluster)
        assert await cluster.propose(b"after") is not None
        await cluster.settled()
        cluster.check()

    try:
        run_virtual(scenario, seed=nth)
    finally:
        failpoints.intercept(None)
    assert deaths == 1 or (name, nth) == ("member.caught_up", 2), "a step never passed proves nothing"


if __name__ == "__main__":
    for number in range(int(sys.argv[1]), int(sys.argv[2])):
        run_virtual(change_under_fire, seed=number)
        sys.stdout.write(f"seed {number} passed\n")
