"""What the leader does when a policy changes what files want: replicas and racks (GFS §2.3, §4.3)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gfs.messages import operations as op
from gfs.vocabulary import ChunkHandle, ChunkIndex, ServerId
from tests.master.repair_world import GIB, RepairWorld


@asynccontextmanager
async def running(racks: str) -> AsyncIterator[RepairWorld]:
    world = RepairWorld(racks, levels=True)
    try:
        yield await world.start()
    finally:
        await world.stop()


def racks_of(world: RepairWorld, handle: ChunkHandle) -> set[str]:
    return {world.servers[server].rack for server in world.good(handle)}


async def test_a_rack_rule_moves_one_replica_into_one_more_rack_and_then_all_is_still() -> None:
    async with running("aaabc") as world:
        handles = [world.make_file(f"/d{n}", "1 2 4")[0] for n in range(6)]
        world.apply(op.SetPolicy(path="/", racks=3))
        await world.until_quiet()
        assert [racks_of(world, handle) for handle in handles] == [{"a", "b", "c"}] * 6
        assert all(len(world.good(handle)) == 3 for handle in handles)
        moves = len(world.moves.done)
        assert moves == 6
        await world.until_quiet()
        assert len(world.moves.done) == moves


async def test_a_rack_rule_that_cannot_be_kept_moves_nothing() -> None:
    async with running("aaaa") as world:
        world.make_file("/f", "1 2 3")
        world.apply(op.SetPolicy(path="/", racks=2))
        await world.until_quiet()
        assert world.moves.done == []


async def test_a_rack_without_room_gets_no_replica_and_the_others_stay() -> None:
    async with running("aaaab") as world:
        world.servers[ServerId("s5")].foreign_bytes = 100 * GIB
        await world.clock.advance(2.0)
        [handle] = world.make_file("/f", "1 2 3")
        world.apply(op.SetPolicy(path="/", racks=2))
        await world.until_quiet()
        assert world.moves.done == [] and racks_of(world, handle) == {"a"}


async def test_more_racks_than_replicas_count_as_that_many() -> None:
    async with running("aabc") as world:
        [handle] = world.make_file("/f", "1 2", goal=2)
        world.apply(op.SetPolicy(path="/", racks=3))
        await world.until_quiet()
        assert len(racks_of(world, handle)) == 2 and len(world.moves.done) == 1


async def test_existing_files_follow_a_policy_on_replicas_unless_their_creator_chose() -> None:
    async with running("aaaaa") as world:
        world.apply(op.MakeDirectory(path="/d"))
        [chosen] = world.make_file("/d/chosen", "1 2 3")
        made = world.apply(op.CreateFile(path="/d/inherits", replication_goal=3, inherits_goal=True))
        assert isinstance(made, op.Done)
        servers = tuple(ServerId(f"s{n}") for n in (1, 2, 3))
        added = world.apply(
            op.AddChunk(inode=made.inode, index=ChunkIndex(0), replicas=servers, primary=servers[0])
        )
        assert isinstance(added, op.ChunkGranted)
        for server in servers:
            world.servers[server].held[added.handle] = added.version
        for replicas in (5, 2):
            world.apply(op.SetPolicy(path="/d", replicas=replicas))
            await world.until_quiet()
            assert len(world.good(added.handle)) == replicas
            assert len(world.good(chosen)) == 3
        assert {task.reason for task in world.moves.done} <= {"goal raised", "rebalance"}
