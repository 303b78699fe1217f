"""§4.3, re-replication and rebalancing: when replicas are made, in which order, within what limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gfs.master.core.repair_queue import Limits
from gfs.messages import operations as op
from gfs.vocabulary import ChunkIndex, InodeId, ServerId
from tests.master.repair_world import RepairWorld
from tests.paper.boxes import keeps

ONE_AT_A_TIME = Limits(active_max=1, per_server_max=1, rebalancing_max=1)


@asynccontextmanager
async def world(racks: str = "aaaaaa", **options: Any) -> AsyncIterator[RepairWorld]:  # Any: passed on
    made = RepairWorld(racks, **options)
    try:
        yield await made.start()
    finally:
        await made.stop()


@keeps("re-replication")
@pytest.mark.parametrize("what", ["server lost", "replica corrupt", "goal raised", "disk lost the chunk"])
async def test_a_chunk_is_re_replicated_as_soon_as_it_has_fewer_replicas_than_its_goal(what: str) -> None:
    """A server is away, says its replica may be corrupt, its disk is disabled, or the goal is raised."""
    async with world() as here:
        [handle] = here.make_file("/f", "1 2" if what == "goal raised" else "1 2 3")
        await here.clock.advance(1.0)
        if what == "server lost":
            here.kill("s1")
        elif what == "replica corrupt":
            here.servers[ServerId("s1")].corrupt.add(handle)
        elif what == "disk lost the chunk":
            here.servers[ServerId("s1")].delete(handle)
        await here.until_quiet()
        assert len(here.good(handle)) == 3


@keeps("re-replication")
async def test_the_farther_from_the_goal_the_sooner() -> None:
    """Who has lost two replicas goes before who has lost one."""
    async with world("aaaaaaaa", limits=ONE_AT_A_TIME) as here:
        one = [here.make_file(f"/one{n}", "1 4 5")[0] for n in range(5)]
        two = [here.make_file(f"/two{n}", "1 2 6")[0] for n in range(5)]
        here.kill("s1", "s2")
        await here.until_quiet()
        order = [task.handle for task in here.moves.done]
        assert max(order.index(handle) for handle in two) < min(order.index(handle) for handle in one)


@keeps("re-replication")
async def test_live_files_go_before_deleted_ones() -> None:
    """Chunks of files in use are preferred to those of files deleted lately."""
    async with world(limits=ONE_AT_A_TIME) as here:
        [deleted] = here.make_file("/deleted", "1 2")
        live = [here.make_file(f"/live{n}", "1 2")[0] for n in range(4)]
        here.apply(op.DeletePath(path="/deleted", expires_at_ms=2**41))
        await here.until_quiet()
        assert [task.handle for task in here.moves.done] == [*live, deleted]


@keeps("re-replication")
async def test_a_chunk_that_blocks_a_client_is_boosted() -> None:
    """To keep what failures do to running programs small."""
    async with world(limits=ONE_AT_A_TIME) as here:
        others = [here.make_file(f"/other{n}", "1 2")[0] for n in range(4)]
        [wanted] = here.make_file("/wanted", "1 2")
        here.duty.note_shortage(InodeId(here.replicator.state.counters.next_inode - 1), ChunkIndex(0))
        await here.until_quiet()
        assert [task.handle for task in here.moves.done] == [wanted, *others]


@keeps("re-replication")
async def test_clones_are_limited_in_the_cluster_and_on_each_server() -> None:
    """So that cloning does not overwhelm the work of clients. (Moves asserts the limit of each server.)"""
    limits = Limits(active_max=3, per_server_max=2, rebalancing_max=1)
    async with world(limits=limits, move_seconds=1.0) as here:
        for n in range(20):
            here.make_file(f"/f{n}", "1 2")
        await here.until_quiet()
        assert here.moves.most_at_once == 3 and len(here.moves.done) == 20


@keeps("rebalancing")
async def test_a_new_server_is_filled_gradually_and_not_swamped() -> None:
    """Replicas move for better use of disks and load, few at a time, until all are about level."""
    async with world("aaa", levels=True) as here:
        for n in range(60):
            here.make_file(f"/f{n}", "1 2 3")
        here.add_server("a")
        await here.until_quiet(seconds_max=2000)
        counts = [len(server.held) for server in here.servers.values()]
        assert here.moves.most_at_once <= here.limits.rebalancing_max
        assert max(counts) - min(counts) <= 12, counts


@keeps("rebalancing")
async def test_what_is_removed_is_removed_where_space_is_short() -> None:
    """The replica to give up is one on a server with less free space than the average."""
    async with world("aaaa") as here:
        here.servers[ServerId("s2")].foreign_bytes = 60 * 2**30
        [handle] = here.make_file("/f", "1 2 3 4")
        await here.until_quiet()
        assert here.chunk(handle).replicas == ("s1", "s3", "s4")
