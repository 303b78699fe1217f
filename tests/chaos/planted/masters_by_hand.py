"""Two trials of single masters, in which the harness plays the others: a voter that is asked twice in one
term, and a leader that is cut off and does not know it."""

from __future__ import annotations

import random

from chaos.simulation.loop import VirtualLoop, run_virtual
from gfs.errors import GfsError
from gfs.master.replication.raft_messages import Message, Vote, VoteRequest
from gfs.vocabulary import MasterId, Term
from tests.raft.cluster import Cluster, Machine

ROUNDS = 4


def voter_asked_twice(seed: int) -> None:
    """It votes for one master, dies and comes back, and is asked by another in the same term."""

    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        await cluster.propose(b"something to have voted on")
        await cluster.settled()
        chance = random.Random(seed)
        voter = cluster.machines[chance.choice([name for name in cluster.names if name != leader.name])]
        for machine in cluster.machines.values():
            if machine is not voter:
                machine.kill()
        candidates = [name for name in cluster.names if name != voter.name]
        for _ in range(ROUNDS):
            assert voter.node is not None
            term = Term(voter.node.status().term + chance.randrange(1, 4))
            chance.shuffle(candidates)
            granted = [await _asks(cluster, voter, candidates[0], term)]
            voter.kill() if chance.random() < 0.5 else voter.cut_power(torn=True)
            await voter.start()
            granted.append(await _asks(cluster, voter, candidates[1], term))
            assert granted.count(True) <= 1, f"{voter.name} has voted for two masters in term {term}"
        assert any(granted), "a voter that never votes proves nothing"

    run_virtual(scenario, seed=seed)


async def _asks(cluster: Cluster, voter: Machine, candidate: MasterId, term: Term) -> bool:
    """Whether the voter's vote for `candidate` leaves it."""
    assert voter.node is not None
    transport = voter.node.parts.raft_transport
    sent: list[tuple[MasterId, Message]] = []
    as_it_was = transport._wire.transmit

    def transmit(member: MasterId, message: Message) -> bool:
        sent.append((member, message))
        return as_it_was(member, message)

    transport._wire.transmit = transmit  # type: ignore[method-assign]
    last = transport._log.end
    transport.receive(candidate, VoteRequest(term, last.index + 1, last.term))
    deadline = cluster.loop.now + 0.1  # its disk has long answered by then
    await cluster.until(lambda: cluster.loop.now >= deadline)
    return any(member == candidate and message == Vote(term) for member, message in sent)


def leader_cut_off(seed: int) -> None:
    """The others have a leader and go on, while it believes that it leads and is asked for what there is."""

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
        assert old.node is not None
        try:
            await old.node.read_barrier()
        except GfsError:
            return
        assert b"new" in old.state.items, "a read that passed the barrier misses what was acknowledged"

    run_virtual(scenario, seed=seed)
