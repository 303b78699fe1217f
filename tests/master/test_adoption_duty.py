"""After a state was put back: whom the leader waits for, what it takes over and holds (§4.5, I1, I6)."""

from __future__ import annotations

import pytest

from gfs.errors import GfsError, Unavailable
from gfs.master.adoption_duty import AdoptionDuty
from gfs.master.core.incarnation import read_incarnation
from gfs.master.core.lookup import chunk_by_handle
from gfs.messages import operations as op
from gfs.messages.chunks import FileChunks, FindChunks
from gfs.messages.cluster import ClusterStatus, ClusterStatusReply
from gfs.messages.namespace import DeletePath, MutationReply
from gfs.vocabulary import ChunkHandle, ChunkVersion, ServerId
from tests.master.chunkservers import HeldReplica
from tests.master.lease_world import DEAD_SECONDS, FIRST, LeaseWorld

PATIENCE = 30.0
NUMBER = 1_795_000_000
S1, S2, S3, S4 = (ServerId(f"s{n}") for n in range(1, 5))
LATER = ChunkHandle(77)  # of a file that only the lost time knew


def first_chunk(world: LeaseWorld) -> op.AddChunk:
    return op.AddChunk(inode=world.inode, index=FIRST, replicas=(S1, S2, S3), primary=S1)


class PutBack:
    """One chunk at version 1 on s1, s2, s3 in a state that was put back; the servers hold what came later."""

    def __init__(self, world: LeaseWorld) -> None:
        self.world = world
        self.known = world.chunk().handle
        self.duty = AdoptionDuty(
            commits=world.leader.commits,
            reads=world.leader.reads,
            locations=world.leader.locations,
            clock=world.clock,
            patience_seconds=PATIENCE,
        )

    @classmethod
    async def begin(cls) -> PutBack:
        world = await LeaseWorld(servers=4, masters=1).start()
        await world.finish(world.leader.commits.commit(first_chunk(world)))
        here = cls(world)
        here.hold(1, S1, S2, S3)
        await here.log(op.BeginIncarnation(name="second", number=NUMBER))
        for server in world.servers.values():
            world.leader.locations.forget(server.id)  # masters have just started
        return here

    async def log(self, operation: op.AnyOperation) -> None:
        await self.world.finish(self.world.leader.commits.commit(operation))

    def hold(self, version: int, *servers: ServerId, content: tuple[int, ...] = (1,)) -> None:
        """These servers hold the chunk at this version, as they did when the masters were lost."""
        for server in servers:
            held = HeldReplica(version=ChunkVersion(version), content=list(content))
            self.world.servers[server].replicas[self.known] = held

    @property
    def settled(self) -> bool:
        return read_incarnation(self.world.leader.replicator.tables).settled

    async def look(self, *, after: float = 0.0) -> None:
        await self.world.clock.advance(after)
        await self.world.finish(self.duty.look())

    async def find(self) -> FileChunks:
        return await self.world.call(FindChunks(path="/f"), FileChunks)

    async def reasons(self) -> str:
        found = await self.world.call(ClusterStatus(), ClusterStatusReply)
        return "; ".join(found.reasons)


async def test_what_servers_hold_in_a_newer_version_is_read_and_written_from_then_on() -> None:
    here = await PutBack.begin()
    here.hold(3, S2, S4, content=(1, 2))
    here.hold(2, S3)
    await here.world.heartbeats(report=True)
    await here.look()
    assert here.settled
    chunk = here.world.chunk()
    assert (chunk.version, set(chunk.replicas)) == (3, {S2, S4})
    place = (await here.find()).chunks[0]
    assert (place.version, {replica.server for replica in place.replicas}) == (3, {S2, S4})
    lease = await here.world.acquire()
    assert lease.version == NUMBER
    assert {replica.server for replica in lease.replicas} <= {S2, S4}
    assert here.world.content(S2, here.known) == [1, 2]


async def test_until_all_servers_were_heard_no_file_from_before_is_read_or_written() -> None:
    here = await PutBack.begin()
    await here.look()
    for server in (S1, S2):
        await here.world.heartbeats(report=True, only=server)
    await here.look(after=PATIENCE / 2)
    assert not here.settled
    with pytest.raises(Unavailable, match="put back"):
        await here.find()
    refused = await here.world.failure(here.world.start_acquire())
    assert isinstance(refused, Unavailable)
    assert "waiting for s3" in await here.reasons()
    await here.world.heartbeats(report=True)
    await here.look()
    assert here.settled
    assert (await here.find()).chunks[0].version == 1


async def test_a_server_that_stays_silent_is_not_waited_for_for_ever() -> None:
    here = await PutBack.begin()
    here.hold(3, S1)
    await here.look()
    for server in (S1, S2):
        await here.world.heartbeats(report=True, only=server)
    await here.look(after=PATIENCE + 1)
    assert here.settled
    assert here.world.chunk().replicas == (S1,)


async def test_what_a_late_server_brings_is_taken_over_as_long_as_the_chunk_was_not_granted() -> None:
    here = await PutBack.begin()
    here.hold(9, S4, content=(1, 2, 3))
    await here.look()
    for server in (S1, S2, S3):
        await here.world.heartbeats(report=True, only=server)
    await here.look(after=PATIENCE + 1)
    assert here.world.chunk().version == 1
    await here.world.heartbeats(report=True)
    await here.look()
    assert (here.world.chunk().version, here.world.chunk().replicas) == (9, (S4,))


async def test_what_a_late_server_brings_never_takes_the_place_of_what_was_written_since() -> None:
    here = await PutBack.begin()
    here.hold(9, S4, content=(1, 2, 3))
    await here.look()
    for server in (S1, S2, S3):
        await here.world.heartbeats(report=True, only=server)
    await here.look(after=PATIENCE + 1)
    for server in (S1, S2, S3):
        await here.world.heartbeats(report=True, only=server)
    lease = await here.world.acquire()
    assert lease.version == NUMBER
    await here.world.heartbeats(report=True)
    await here.look()
    assert here.world.chunk().version == NUMBER
    assert S4 not in here.world.chunk().replicas


async def test_nothing_is_named_as_garbage_or_reclaimed_until_an_operator_says_so() -> None:
    here = await PutBack.begin()
    here.world.servers[S1].replicas[LATER] = HeldReplica(version=ChunkVersion(5), content=[1])
    here.world.servers[S4].replicas[ChunkHandle(2**60)] = HeldReplica(version=ChunkVersion(1))
    await here.world.heartbeats(report=True)
    await here.look()
    gone = await here.world.call(DeletePath(path="/f"), MutationReply)
    assert gone
    collection = here.world.leader.garbage
    for _ in range(5):
        await here.world.clock.advance(DEAD_SECONDS * 10)
        await here.world.heartbeats(report=True)
        await here.world.finish(collection.tick())
    assert not any(server.words for server in here.world.servers.values())
    assert chunk_by_handle(here.world.leader.replicator.tables, here.known) is not None
    assert "no garbage is collected" in await here.reasons()

    await here.log(op.HoldGarbage(held=False))
    await here.world.heartbeats(report=True)
    named = [word.garbage.handle for word in here.world.servers[S1].words]
    assert LATER in named  # known to no file now; its handle is not given out again
    assert not here.world.servers[S4].words  # a handle nobody has given out is left alone
    assert "no garbage" not in await here.reasons()


async def test_garbage_cannot_be_resumed_before_servers_were_heard() -> None:
    here = await PutBack.begin()
    with pytest.raises(GfsError, match="not all chunk servers"):
        await here.log(op.HoldGarbage(held=False))


async def test_in_a_first_life_the_duty_does_nothing() -> None:
    world = await LeaseWorld(servers=4, masters=1).start()
    await world.finish(world.leader.commits.commit(first_chunk(world)))
    before = len(world.log.proposals)
    here = PutBack(world)
    here.hold(5, S4)
    await world.heartbeats(report=True)
    await here.look(after=PATIENCE * 2)
    assert len(world.log.proposals) == before
