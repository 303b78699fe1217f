"""How proposals share log entries: few at a time never wait for each other, many gather."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from chaos.simulation.loop import VirtualLoop, run_virtual
from gfs.master.replication.group_commit import GroupCommit, decode_entry
from gfs.master.replication.log import Position
from gfs.master.replication.options import RaftOptions
from gfs.vocabulary import LogIndex, Term
from tests.paper.boxes import keeps
from tests.raft.cluster import Cluster

NOTHING = LogIndex(0)


class Placing:
    """A GroupCommit whose entries get consecutive indices."""

    def __init__(self) -> None:
        self.group = GroupCommit(RaftOptions())
        self.index = 0

    def submit(self, count: int) -> None:
        for number in range(count):
            self.group.submit(b"%d" % number)

    def place(self) -> int:
        """Make an entry; how many proposals are in it."""
        self.index += 1
        proposals = decode_entry(self.group.next_entry())
        self.group.placed(Position(LogIndex(self.index), Term(1)))
        return len(proposals)


async def test_a_proposal_with_nothing_under_way_is_placed_at_once() -> None:
    placing = Placing()
    assert not placing.group.may_place(NOTHING)
    placing.submit(1)
    assert placing.group.may_place(NOTHING)


async def test_single_proposals_do_not_wait_for_each_other() -> None:
    placing = Placing()
    placing.submit(1)
    assert placing.place() == 1
    placing.submit(1)
    assert placing.group.may_place(NOTHING), "as many as are under way"


@keeps("flushed-before-visible")
async def test_proposals_gather_until_they_are_as_many_as_are_being_committed() -> None:
    placing = Placing()
    placing.submit(10)
    assert placing.place() == 10
    placing.submit(9)
    assert not placing.group.may_place(NOTHING)
    placing.submit(1)
    assert placing.group.may_place(NOTHING)
    assert placing.place() == 10


async def test_what_has_gathered_is_placed_once_the_entry_before_is_committed() -> None:
    placing = Placing()
    placing.submit(10)
    placing.place()
    placing.submit(3)
    assert not placing.group.may_place(NOTHING)
    assert placing.group.may_place(LogIndex(1)), "committed, though not applied yet"


async def test_entries_that_wait_to_be_applied_are_limited() -> None:
    placing = Placing()
    for _ in range(RaftOptions().entries_in_flight_max):
        placing.submit(1)
        placing.place()
    placing.submit(1000)
    assert not placing.group.may_place(LogIndex(placing.index))
    placing.group.applied(Position(LogIndex(1), Term(1)), [b""])
    assert placing.group.may_place(LogIndex(placing.index))


def test_the_next_entry_is_on_its_way_to_the_disks_while_the_one_before_is_applied() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.elected()
        node = leader.node
        assert node is not None
        seen: list[tuple[int, int, bool]] = []
        apply = leader.state.apply

        def watched(index: LogIndex, term: Term, proposals: Sequence[bytes]) -> list[bytes]:
            seen.append((len(proposals), node.parts.log.end.index - index, node.parts.writer.is_idle))
            return apply(index, term, proposals)

        leader.state.apply = watched  # type: ignore[method-assign]
        first = [asyncio.ensure_future(cluster.propose(b"a%d" % number)) for number in range(5)]
        await asyncio.sleep(0)  # they are submitted,
        await asyncio.sleep(0)  # and placed in a turn
        assert node.parts.group.in_flight == 1
        second = [asyncio.ensure_future(cluster.propose(b"b%d" % number)) for number in range(3)]
        await asyncio.gather(*first, *second)
        assert seen == [(5, 1, False), (3, 0, True)]
        await cluster.settled()
        cluster.check()

    run_virtual(scenario)
