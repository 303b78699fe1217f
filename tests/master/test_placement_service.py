"""What operators are told about chunk servers and replicas, and what becomes of their word (GFS §4.3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest

from gfs.errors import GfsError, InvalidArgument, IsADirectory, NotFound, NotLeader, Unavailable
from gfs.master.placement_service import PlacementService
from gfs.messages.base import Reply, Request
from gfs.messages.methods import PLACEMENT_REQUESTS
from gfs.messages.placement import (
    ChunkServersReply,
    Explain,
    ExplainReply,
    ListChunkServers,
    Rebalance,
    RebalanceReply,
    ReplicationQueue,
    ReplicationQueueReply,
    SetServerTenure,
    TenureReply,
)
from gfs.transport.interface import CallContext
from gfs.vocabulary import ChunkHandle, ChunkIndex, ServerId
from tests.master.repair_world import GIB, RepairWorld

R = TypeVar("R", bound=Reply)


class Desk:
    """An operator before the leader of a RepairWorld."""

    def __init__(self, world: RepairWorld) -> None:
        self.world = world
        self.service = PlacementService(
            commits=world.commits,
            reads=world.reads,
            locations=world.locations,
            pool=world.pool,
            repair=world.duty,
            clock=world.clock,
        )

    async def ask(self, request: Request, expected: type[R]) -> R:
        handler = self.service.handlers()[type(request)]
        work = asyncio.ensure_future(handler(request, CallContext("", "", 10.0)))
        while not work.done():
            await self.world.clock.advance(0.05)
        reply = await work
        assert isinstance(reply, expected)
        return reply

    async def tenure(self, server: str, tenure: str, *, force: bool = False) -> list[str]:
        request = SetServerTenure(server=ServerId(server), tenure=tenure, force=force)
        return (await self.ask(request, TenureReply)).notes

    async def refusal(self, server: str, tenure: str) -> GfsError:
        with pytest.raises(GfsError) as raised:
            await self.tenure(server, tenure)
        return raised.value

    async def explain(self, path: str) -> str:
        reply = await self.ask(Explain(path=path), ExplainReply)
        return "\n".join(sentence for chunk in reply.chunks for sentence in chunk.sentences)


@asynccontextmanager
async def desk(racks: str = "aaaa", **options: Any) -> AsyncIterator[Desk]:  # Any: passed on
    world = RepairWorld(racks, **options)
    try:
        yield Desk(await world.start())
    finally:
        await world.stop()


async def test_every_request_has_its_handler() -> None:
    async with desk() as here:
        assert set(here.service.handlers()) == set(PLACEMENT_REQUESTS)


async def test_a_server_is_drained_to_empty_and_removed_and_forgotten() -> None:
    async with desk() as here:
        [handle] = here.world.make_file("/f", "1 2 3")
        notes = await here.tenure("s1", "draining")
        assert "used until then" in notes[0] and notes[1].startswith("3 other chunk servers")
        refused = await here.refusal("s1", "removed")
        assert isinstance(refused, InvalidArgument) and "sets of 1 chunks" in refused.message
        await here.world.until_quiet()
        rows = (await here.ask(ListChunkServers(), ChunkServersReply)).servers
        assert (rows[0].id, rows[0].tenure, rows[0].chunks) == ("s1", "draining", 0)
        assert await here.tenure("s1", "removed") == []
        assert set(here.world.chunk(handle).replicas) == {"s2", "s3", "s4"}


async def test_a_server_that_is_not_drained_is_not_removed() -> None:
    async with desk() as here:
        refused = await here.refusal("s1", "removed")
        assert isinstance(refused, InvalidArgument) and "drain s1" in refused.hint


async def test_forced_removal_says_what_cannot_be_read_any_more() -> None:
    async with desk("aa", patience_seconds=1000.0) as here:
        here.world.make_file("/precious", "1", goal=1)
        await here.world.clock.advance(12.0)
        await here.tenure("s1", "draining")
        here.world.moves.refuse = Unavailable("not now")
        await here.world.clock.advance(2.0)
        error = await here.refusal("s1", "removed")
        assert "/precious" in error.message and "would be lost" in error.message
        [note] = await here.tenure("s1", "removed", force=True)
        assert "/precious" in note and "cannot be read until s1 is taken back" in note
        [note] = await here.tenure("s1", "serving")
        assert "gets new replicas again" in note


async def test_unknown_servers_and_tenures_are_refused() -> None:
    async with desk() as here:
        assert isinstance(await here.refusal("s9", "draining"), NotFound)
        assert isinstance(await here.refusal("s1", "retired"), InvalidArgument)


async def test_queue_shows_what_is_under_way_what_waits_and_why_it_failed() -> None:
    async with desk(move_seconds=5.0) as here:
        here.world.make_file("/a", "1 2")
        here.world.make_file("/b", "1 2 3 4", goal=5)
        await here.world.clock.advance(12.0)
        reply = await here.ask(ReplicationQueue(), ReplicationQueueReply)
        assert (reply.active, reply.waiting, reply.failed, reply.complete) == (1, 0, 1, True)
        assert [(row.state, row.path) for row in reply.rows] == [("active", "/a"), ("failed", "/b")]
        assert "one more is needed" in reply.rows[1].failure
        await here.world.clock.advance(10.0)
        assert (await here.ask(ReplicationQueue(), ReplicationQueueReply)).made == 1


async def test_explain_tells_where_why_what_blocks_and_what_is_done() -> None:
    async with desk("aab") as here:
        here.world.servers[ServerId("s3")].foreign_bytes = 100 * GIB
        here.world.make_file("/f", "1 2")
        await here.world.clock.advance(12.0)
        text = await here.explain("/f")
        assert "2 good replicas of 3 wanted" in text
        assert "s1 in rack a: good, primary of the last grant" in text
        assert "All its good replicas are in one of 2 racks" in text
        assert "s3: disk full" in text and "tries failed: no chunk server can take a replica" in text
        here.world.servers[ServerId("s3")].foreign_bytes = 0
        await here.world.clock.advance(150.0)
        text = await here.explain("/f")
        assert "3 good replicas of 3 wanted" in text and "in 2 of 2 racks" in text
        assert text.endswith("Nothing is to be done.")


async def test_explain_says_whom_it_waits_for_and_what_only_a_server_can_give_back() -> None:
    async with desk("aaaa", patience_seconds=30.0) as here:
        [handle] = here.world.make_file("/f", "1 2 3")
        here.world.kill("s1")
        await here.world.clock.advance(8.0)
        assert "s1 may come back: it is replaced 30 s after it counts as dead" in await here.explain("/f")
        here.world.kill("s2", "s3")
        await here.world.clock.advance(8.0)
        text = await here.explain("/f")
        assert "No good replica can be reached: start one of s1, s2, s3" in text
        reply = await here.ask(Explain(handle=handle), ExplainReply)
        assert reply.path == "/f" and reply.chunks[0].handle == handle


async def test_explain_of_what_is_not_there_is_refused() -> None:
    async with desk() as here:
        here.world.make_file("/f", "1 2 3")
        for request, kind in (
            (Explain(path="/none"), NotFound),
            (Explain(path="/"), IsADirectory),
            (Explain(path="/f", first_index=ChunkIndex(1)), NotFound),
            (Explain(handle=ChunkHandle(77)), NotFound),
        ):
            with pytest.raises(kind):
                await here.ask(request, ExplainReply)


async def test_rebalancing_is_foretold_and_then_done() -> None:
    async with desk("aaa") as here:
        for n in range(30):
            here.world.make_file(f"/f{n}", "1 2", goal=2)
        await here.world.clock.advance(25.0)
        plan = await here.ask(Rebalance(dry_run=True), RebalanceReply)
        assert not plan.begun and 18 < sum(move.replicas for move in plan.moves) <= 20
        assert {move.receiver for move in plan.moves} == {"s3"}
        assert here.world.moves.done == []
        assert (await here.ask(Rebalance(), RebalanceReply)).begun
        await here.world.until_quiet(seconds_max=3000)
        counts = [len(server.held) for server in here.world.servers.values()]
        assert max(counts) - min(counts) <= 2, counts


async def test_only_the_leader_answers() -> None:
    async with desk() as here:
        here.world.replicator.notice()
        for request in (ListChunkServers(), ReplicationQueue(), Rebalance(), Explain(path="/f")):
            with pytest.raises(NotLeader):
                await here.ask(request, Reply)
