"""Whom the leader asks before a linearizable read: as few as needed, and not for ever the same."""

from __future__ import annotations

import asyncio
from typing import Any

from chaos.simulation.loop import VirtualLoop, run_virtual
from gfs.errors import GfsError
from gfs.master.replication.options import RaftOptions
from gfs.master.replication.raft_messages import Message, ReadIndexRequest
from gfs.master.replication.read_index import ReadIndex
from gfs.vocabulary import LogIndex, MasterId, Term
from tests.raft.cluster import Cluster, Machine

A, B, C, D = (MasterId(name) for name in "abcd")


def watch_requests(leader: Machine) -> list[MasterId]:
    """Whom `leader` asks to confirm reads, from now on."""
    assert leader.node is not None
    asked: list[MasterId] = []
    connections: Any = leader.node.parts.connections  # Any: one method is replaced
    transmit = connections.transmit

    def watched(member: MasterId, message: Message) -> bool:
        if isinstance(message, ReadIndexRequest):
            asked.append(member)
        return bool(transmit(member, message))

    connections.transmit = watched
    return asked


async def test_who_has_confirmed_last_is_asked_first() -> None:
    reads = ReadIndex(A)
    assert reads.by_promptness([B, C, D]) == [B, C, D]
    reads.submit()
    number = reads.begin(term=Term(1), commit_index=LogIndex(5), now=0.0)
    assert number is not None
    reads.confirm(C, term=1, number=number)
    reads.confirm(D, term=1, number=number)
    assert reads.by_promptness([B, C, D]) == [D, C, B]
    assert reads.by_promptness([B, C]) == [C, B], "only those who are members"


def test_a_read_asks_no_more_members_than_make_a_majority() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        for size, needed in ((1, 0), (2, 1), (3, 1), (5, 2)):
            cluster = Cluster(loop, size)
            await cluster.start()
            leader = await cluster.elected()
            asked = watch_requests(leader)
            assert leader.node is not None
            await leader.node.read_barrier()
            assert len(asked) == needed
            for machine in cluster.running:
                machine.kill()

    run_virtual(scenario)


def test_readers_that_wait_share_a_round_and_who_comes_during_it_waits_for_the_next() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        assert leader.node is not None
        asked = watch_requests(leader)
        first = [loop.create_task(leader.node.read_barrier()) for _ in range(100)]
        await cluster.until(lambda: asked)
        second = [loop.create_task(leader.node.read_barrier()) for _ in range(100)]
        await asyncio.gather(*first, *second)
        assert len(asked) == 2

    run_virtual(scenario)


def test_a_silent_follower_delays_one_read_and_no_later_one() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        assert leader.node is not None
        asked = watch_requests(leader)
        await leader.node.read_barrier()
        silent, options = asked[-1], RaftOptions()
        other = next(name for name in cluster.names if name not in (leader.name, silent))
        loop.network.isolate(silent, [leader.name, other])
        began = loop.now
        await leader.node.read_barrier()
        assert loop.now - began < options.read_patience_seconds + 2 * options.tick_seconds
        began, before = loop.now, len(asked)
        await leader.node.read_barrier()
        assert loop.now - began < options.read_patience_seconds
        assert asked[before:] == [other]

    run_virtual(scenario)


def test_a_follower_that_is_not_connected_is_passed_over() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        assert leader.node is not None
        asked = watch_requests(leader)
        await leader.node.read_barrier()
        cluster.machines[asked[-1]].kill()
        node = leader.node
        await cluster.until(lambda: len(node.status().reachable) == 1)
        began = loop.now
        await node.read_barrier()
        assert loop.now - began < RaftOptions().read_patience_seconds

    run_virtual(scenario)


def test_nobody_confirming_fails_the_read() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        assert leader.node is not None
        loop.network.isolate(leader.name, [name for name in cluster.names if name != leader.name])
        try:
            await leader.node.read_barrier()
        except GfsError:
            return
        raise AssertionError("a read passed without a majority")

    run_virtual(scenario)
