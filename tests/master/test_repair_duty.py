"""What the leader does about lost, corrupt and badly placed replicas (GFS §4.3), over virtual hours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from gfs.errors import Unavailable
from gfs.master.core.repair import BLOCKS_CLIENT, IN_USE, LAST_COPY
from gfs.master.core.repair_queue import Limits
from gfs.messages import operations as op
from gfs.vocabulary import ChunkIndex, InodeId, ServerId
from tests.master.repair_world import GIB, RepairWorld


@asynccontextmanager
async def running(racks: str = "aaaaa", **options: Any) -> AsyncIterator[RepairWorld]:  # Any: passed on
    world = RepairWorld(racks, **options)
    try:
        yield await world.start()
    finally:
        await world.stop()


def fill(world: RepairWorld, chunks: int, *, goal: int = 3, seed: int = 1) -> list[int]:
    """`chunks` files of one chunk, each on servers drawn anew."""
    chance = Random(seed)
    numbers = range(1, len(world.servers) + 1)
    return [
        world.make_file(f"/f{n}", " ".join(map(str, chance.sample(numbers, goal))), goal=goal)[0]
        for n in range(chunks)
    ]


async def test_a_lost_servers_replicas_are_made_anew_without_an_operator() -> None:
    async with running() as world:
        handles = fill(world, 40)
        world.kill("s1")
        await world.until_quiet()
        for handle in handles:
            assert len(world.good(handle)) == 3 and "s1" not in world.chunk(handle).replicas
        assert {task.reason for task in world.moves.done} == {"lost replica"}


async def test_nothing_is_made_for_a_server_that_comes_back_in_time() -> None:
    async with running(patience_seconds=30.0) as world:
        fill(world, 10)
        world.kill("s1")
        await world.clock.advance(20.0)
        world.servers[ServerId("s1")].alive = True
        await world.clock.advance(60.0)
        assert world.moves.done == []


async def test_a_chunk_with_one_replica_left_is_not_kept_waiting_as_long() -> None:
    async with running(patience_seconds=60.0) as world:
        [lonely] = world.make_file("/lonely", "1 2 3")
        [other] = world.make_file("/other", "1 4 5")
        world.kill("s1", "s2")
        await world.clock.advance(25.0)
        assert len(world.good(lonely)) == 3 and len(world.good(other)) == 2
        await world.clock.advance(50.0)
        await world.until_quiet()
        assert len(world.good(other)) == 3


async def test_two_servers_lost_every_single_replica_is_doubled_before_any_pair_is_cloned() -> None:
    async with running("aaaaaaaa", patience_seconds=6.0) as world:
        handles = fill(world, 120)
        lost = {"s1", "s2"}
        singles = {h for h in handles if len(lost & set(world.chunk(h).replicas)) == 2}
        pairs = {h for h in handles if len(lost & set(world.chunk(h).replicas)) == 1}
        assert len(singles) > 5 and len(pairs) > 20
        world.kill(*lost)
        await world.until_quiet()
        order = [task.handle for task in world.moves.done]
        first_pair = min(order.index(h) for h in pairs)
        assert all(order.index(h) < first_pair for h in singles)
        assert all(len(world.good(h)) == 3 for h in handles)


async def test_limits_per_cluster_and_per_server_hold() -> None:
    limits = Limits(active_max=3, per_server_max=1, rebalancing_max=1)
    async with running("aaaaaaaa", limits=limits) as world:
        fill(world, 60)
        world.kill("s1")
        await world.until_quiet()
        assert world.moves.most_at_once == 3


async def test_a_rack_that_has_none_gets_the_replica() -> None:
    async with running("aabbcc") as world:
        [handle] = world.make_file("/f", "1 3 5")
        world.kill("s5")
        await world.until_quiet()
        assert world.chunk(handle).replicas[2] == "s6"


async def test_corrupt_replica_is_replaced_and_leaves_the_set() -> None:
    async with running() as world:
        [handle] = world.make_file("/f", "1 2 3")
        await world.clock.advance(1.0)
        world.servers[ServerId("s2")].corrupt.add(handle)
        world.duty.note_shortage(InodeId(2), ChunkIndex(0))  # a reader met it
        await world.clock.advance(2.0)
        assert [(t.reason, t.drop) for t in world.moves.done] == [("corrupt replica", "s2")]
        assert "s2" not in world.chunk(handle).replicas and len(world.good(handle)) == 3


async def test_corrupt_replica_without_another_server_is_made_anew_in_its_place() -> None:
    async with running("aaa") as world:
        [handle] = world.make_file("/f", "1 2 3")
        await world.clock.advance(1.0)
        world.servers[ServerId("s2")].corrupt.add(handle)
        await world.until_quiet()
        assert world.moves.removed == [(handle, "s2")]
        assert len(world.good(handle)) == 3


async def test_a_replica_that_is_just_being_made_is_not_taken_for_lost() -> None:
    async with running() as world:
        [handle] = world.make_file("/f", "1 2 3")
        version = world.servers[ServerId("s3")].held.pop(handle)
        world.duty.note_shortage(InodeId(2), ChunkIndex(0))
        await world.clock.advance(3.0)
        world.servers[ServerId("s3")].held[handle] = version
        await world.until_quiet()
        assert world.moves.done == []
        del world.servers[ServerId("s3")].held[handle]  # its disk has lost it
        await world.until_quiet()
        assert len(world.good(handle)) == 3 and len(world.moves.done) == 1


async def test_too_few_servers_is_said_and_not_tried_again_and_again() -> None:
    async with running("aaa") as world:
        [handle] = world.make_file("/f", "1 2 3")
        world.kill("s3")
        await world.clock.advance(60.0)
        failure = world.duty.queue.failure(handle)
        assert (failure is not None and "not alive" in failure.message) or "more is needed" in failure.message
        assert world.moves.done == [] and failure.tries < 10
        world.add_server("a")
        await world.until_quiet()
        assert len(world.good(handle)) == 3


async def test_failed_clone_is_tried_again_later_and_its_failure_is_remembered() -> None:
    async with running() as world:
        [handle] = world.make_file("/f", "1 2")
        world.moves.refuse = Unavailable("the target is cross today")
        await world.clock.advance(20.0)
        failure = world.duty.queue.failure(handle)
        assert failure is not None and failure.message == "the target is cross today" and failure.tries > 1
        world.moves.refuse = None
        await world.clock.advance(70.0)
        assert len(world.good(handle)) == 3 and world.duty.queue.failure(handle) is None


async def test_a_drained_server_becomes_empty_and_is_never_chosen() -> None:
    async with running() as world:
        handles = fill(world, 40)
        world.say("s2", "draining")
        await world.until_quiet()
        assert all("s2" not in world.chunk(h).replicas for h in handles)
        assert all(len(world.good(h)) == 3 for h in handles)
        assert world.servers[ServerId("s2")].held == {}
        assert world.duty.scan.members.get(ServerId("s2"), 0) == 0
        assert {task.reason for task in world.moves.done} == {"drain"}


async def test_a_drain_gives_the_writer_of_a_chunk_some_seconds_and_then_moves_it_under_the_writer() -> None:
    async with running() as world:
        [handle] = world.make_file("/log", "1 2 3")
        world.leases.confirm(handle, world.chunk(handle).version, ServerId("s1"), expires_at=1e9)
        world.say("s2", "draining")
        await world.clock.advance(4.0)
        assert "s2" in world.chunk(handle).replicas, "most files are whole after a moment"
        await world.clock.advance(20.0)
        assert "s2" not in world.chunk(handle).replicas, "a log is written for ever"
        assert len(world.good(handle)) == 3


async def test_a_removed_servers_replicas_count_as_lost_at_once() -> None:
    async with running(patience_seconds=10_000.0) as world:
        handles = fill(world, 10)
        world.say("s1", "removed")
        await world.until_quiet()
        assert all(len(set(world.good(h)) - {"s1"}) == 3 for h in handles)


async def test_a_chunk_a_client_waits_for_goes_before_others_like_it() -> None:
    limits = Limits(active_max=1, per_server_max=1, rebalancing_max=1)
    async with running(limits=limits, move_seconds=1.0) as world:
        others = [world.make_file(f"/o{n}", "1 2")[0] for n in range(10)]
        [wanted] = world.make_file("/wanted", "1 2")
        world.duty.note_shortage(InodeId(world.replicator.state.counters.next_inode - 1), ChunkIndex(0))
        await world.until_quiet()
        assert world.moves.done[0].handle == wanted
        assert LAST_COPY > world.moves.done[0].priority > BLOCKS_CLIENT
        assert {task.handle for task in world.moves.done} == {wanted, *others}


async def test_deleted_files_come_last() -> None:
    limits = Limits(active_max=1, per_server_max=1, rebalancing_max=1)
    async with running(limits=limits) as world:
        [deleted] = world.make_file("/deleted", "1 2")
        [live] = world.make_file("/live", "1 2")
        world.apply(op.DeletePath(path="/deleted", expires_at_ms=2**41))
        await world.until_quiet()
        assert [task.handle for task in world.moves.done] == [live, deleted]


async def test_files_below_a_deleted_directory_come_last() -> None:
    limits = Limits(active_max=1, per_server_max=1, rebalancing_max=1)
    async with running(limits=limits) as world:
        world.apply(op.MakeDirectory(path="/d"))
        world.apply(op.MakeDirectory(path="/d/e"))
        [deleted] = world.make_file("/d/e/f", "1 2")
        [live] = world.make_file("/live", "1 2")
        world.apply(op.DeletePath(path="/d", recursive=True, expires_at_ms=2**41))
        await world.until_quiet()
        assert [task.handle for task in world.moves.done] == [live, deleted]
        assert world.moves.done[0].priority == world.moves.done[1].priority + IN_USE


async def test_what_is_under_way_ends_with_the_leaders_term() -> None:
    async with running(move_seconds=100.0) as world:
        world.make_file("/f", "1 2")
        await world.clock.advance(12.0)
        assert len(world.moves.under_way) == 1
        world.replicator.notice()
        await world.clock.advance(1.0)
        assert world.moves.cancelled == 1 and world.duty.queue.active == []


async def test_needless_replica_is_given_up_where_the_disk_is_fullest() -> None:
    async with running("abca") as world:
        world.servers[ServerId("s4")].foreign_bytes = 50 * GIB
        [handle] = world.make_file("/f", "1 2 3 4", goal=3)
        await world.until_quiet()
        assert world.chunk(handle).replicas == ("s1", "s2", "s3")
        assert world.moves.removed == [(handle, "s4")] and world.moves.done == []


async def test_many_needless_replicas_are_given_up_without_long_rests() -> None:
    async with running("aaaa") as world:
        handles = [world.make_file(f"/f{n}", "1 2 3 4")[0] for n in range(60)]
        await world.clock.advance(25.0)
        assert all(len(world.chunk(handle).replicas) == 3 for handle in handles)


async def test_a_new_server_is_filled_gradually_until_all_are_level_and_then_nothing_moves() -> None:
    async with running("aaaa", levels=True) as world:
        fill(world, 200)
        world.add_server("a")
        await world.clock.advance(5.0)
        assert world.moves.most_at_once <= world.limits.rebalancing_max
        await world.until_quiet(seconds_max=3000)
        assert all(task.target == "s5" and task.reason == "rebalance" for task in world.moves.done)
        counts = [len(server.held) for server in world.servers.values()]
        assert max(counts) - min(counts) <= 0.3 * 120, counts
        moves = len(world.moves.done)
        await world.hours_later()
        assert len(world.moves.done) == moves
        world.duty.level()
        await world.until_quiet(seconds_max=3000)
        counts = [len(server.held) for server in world.servers.values()]
        assert max(counts) - min(counts) <= 2, counts
        assert not world.duty.levelling


async def test_a_fuller_disk_gives_to_an_emptier_one_also_against_the_number_of_replicas() -> None:
    async with running("aaaa", levels=True) as world:
        world.servers[ServerId("s1")].foreign_bytes = 40 * GIB
        fill(world, 40)
        await world.until_quiet(seconds_max=3000)
        assert world.moves.done and all(task.drop == "s1" for task in world.moves.done)
        moves = len(world.moves.done)
        await world.hours_later()
        assert len(world.moves.done) == moves


async def test_a_chunk_that_lies_in_one_rack_is_spread_when_there_is_another() -> None:
    async with running("aaaa", levels=True) as world:
        handles = [world.make_file(f"/f{n}", "1 2 3")[0] for n in range(3)]
        await world.until_quiet()
        assert world.moves.done == []
        world.add_server("b")
        await world.until_quiet()
        assert all("s5" in world.chunk(handle).replicas for handle in handles)
        assert len(world.moves.done) == 3


async def test_moves_for_balance_never_cost_a_rack() -> None:
    async with running("aaab", levels=True) as world:
        handles = [world.make_file(f"/f{n}", f"{1 + n % 2} 4", goal=2)[0] for n in range(60)]
        await world.until_quiet(seconds_max=3000)
        for handle in handles:
            assert "s4" in world.chunk(handle).replicas, "rack b has one server: it keeps a replica of each"
        assert len(world.servers[ServerId("s3")].held) > 10


@pytest.mark.parametrize("seed", range(6))
async def test_servers_die_join_and_drain_and_every_chunk_ends_at_its_goal(seed: int) -> None:
    chance = Random(seed)
    async with running("aabbccdd", levels=True, seed=seed) as world:
        handles = [
            world.make_file(f"/f{n}", " ".join(map(str, chance.sample(range(1, 9), 3))))[0] for n in range(60)
        ]
        dead: list[str] = []
        for _ in range(12):
            living = [s for s, server in world.servers.items() if server.alive]
            match chance.choice(["die", "die", "return", "join", "drain", "undrain"]):
                case "die" if len(living) > 6:
                    dead.append(chance.choice(living))
                    world.kill(dead[-1])
                case "return" if dead:
                    world.servers[ServerId(dead.pop())].alive = True
                case "join" if len(world.servers) < 11:
                    world.add_server(chance.choice("abcd"))
                case "drain" if len(living) > 6:
                    world.say(chance.choice(living), "draining")
                case "undrain":
                    for server in world.servers:
                        world.say(server, "serving")
            await world.clock.advance(chance.choice([1.0, 8.0, 40.0]))
        await world.until_quiet(seconds_max=3000)
        for handle in handles:
            chunk = world.chunk(handle)
            assert len(world.good(handle)) == 3 and len(chunk.replicas) == 3, (seed, chunk)
            racks = {world.servers[s].rack for s in chunk.replicas}
            assert len(racks) >= 2, (seed, chunk, "one rack's loss must leave a copy")
        for _ in range(4):  # what was moved lately may be moved again in an hour, if that levels
            moves = len(world.moves.done)
            await world.hours_later()
        assert len(world.moves.done) == moves, "at rest it stays at rest"
