"""What a leader does about damaged replicas: who leaves, who mends itself, what has to wait (GFS §5.2)."""

from __future__ import annotations

from typing import TypeVar

import pytest

from gfs.errors import DataUnavailable, GfsError, Unavailable
from gfs.master import damage_duty as room
from gfs.master.core.chunk_homes import ChunkHomes
from gfs.master.damage_duty import DamageDuty
from gfs.messages.base import Reply, Request
from gfs.messages.check import MendReplica, MendReplicaReply
from gfs.messages.chunks import ChunkLease, FileChunks, FindChunks
from gfs.vocabulary import Address, ChunkHandle, ChunkIndex, ChunkVersion, InodeId, ServerId
from tests.fakes.clock import settle
from tests.master.chunkservers import CLUSTER, replica_ids
from tests.master.lease_world import DEAD_SECONDS, LeaseWorld

R = TypeVar("R", bound=Reply)


class Scene:
    """A chunk with three replicas on s1 … s4 and the duty of one master; `mended` are those asked to mend."""

    def __init__(self, here: LeaseWorld, lease: ChunkLease) -> None:
        self.here, self.lease = here, lease
        self.members = replica_ids(lease.replicas)
        self.removed: list[ServerId] = []
        self.urged: list[tuple[InodeId, ChunkIndex]] = []
        self.mended: list[tuple[ServerId, list[ServerId]]] = []
        self.older: list[tuple[ServerId, ChunkVersion]] = []
        self.refusal: GfsError | None = None
        self.mendable: set[ServerId] = set()
        self.homes = ChunkHomes(kept_max=10)
        self.duty = self.duty_of("m1")
        self.damaged: set[ServerId] = set()

    def duty_of(self, master: str) -> DamageDuty:
        one = self.here.masters[master]
        return DamageDuty(
            cluster=CLUSTER,
            commits=one.commits,
            reads=one.reads,
            locations=one.locations,
            homes=self.homes,
            rpc=self,
            clock=self.here.clock,
            remove=self._remove,
            urge=lambda inode, index: self.urged.append((inode, index)),
        )

    def damage(self, *positions: int) -> None:
        self.damaged |= {self.members[position] for position in positions}
        self.tell()

    def tell(self) -> None:
        """What the heartbeats of the damaged servers say."""
        for master in self.here.masters.values():
            for server in self.damaged:
                known = master.locations.get(server)
                assert known is not None
                known.corrupt.add(self.lease.handle)

    async def pass_seconds(self, seconds: float) -> None:
        await self.here.clock.advance(seconds)
        await self.here.heartbeats()
        self.tell()

    async def look(self, times: int = 3) -> None:
        for _ in range(times):
            self.duty.tick()
            await settle()

    async def call(
        self, address: Address, request: Request, expected: type[R], *, deadline_seconds: float
    ) -> R:
        """The chunk servers as far as mending goes."""
        assert isinstance(request, MendReplica) and deadline_seconds > 0
        server = next(one.id for one in self.here.servers.values() if one.address == address)
        self.mended.append((server, replica_ids(request.sources)))
        self.older = [(older.replica.server, older.version) for older in request.older]
        reply = MendReplicaReply(mended_blocks=1, bad_blocks=[] if server in self.mendable else [7])
        assert isinstance(reply, expected)
        return reply

    async def _remove(self, inode: InodeId, index: ChunkIndex, handle: ChunkHandle, server: ServerId) -> None:
        assert (inode, index, handle) == (self.here.inode, 0, self.lease.handle)
        if self.refusal is not None:
            raise self.refusal
        self.removed.append(server)


@pytest.fixture
async def scene() -> Scene:
    here = await LeaseWorld().start()
    lease = await here.acquire()
    await here.heartbeats(report=True)
    return Scene(here, lease)


async def test_a_damaged_member_among_good_ones_is_taken_out_and_a_clone_is_asked_for(
    scene: Scene,
) -> None:
    scene.damage(1)
    await scene.look(20)  # its file has to be searched for
    assert scene.removed == [scene.members[1]]
    assert scene.urged == [(scene.here.inode, 0)]
    await scene.pass_seconds(room.AGAIN_SECONDS + 0.1)
    await scene.look()
    assert len(scene.removed) == 2  # it is still in the set: tried again


async def test_all_members_but_one_may_be_damaged(scene: Scene) -> None:
    scene.damage(0, 2)
    await scene.look()
    await scene.pass_seconds(room.AGAIN_SECONDS + 0.1)
    await scene.look()
    assert set(scene.removed) <= {scene.members[0], scene.members[2]} and scene.removed


async def test_while_another_member_is_away_nobody_is_shut_out(scene: Scene) -> None:
    scene.damage(1)
    await scene.here.network.servers[scene.here.servers[scene.members[0]].address].stop()
    await scene.pass_seconds(DEAD_SECONDS + 1)
    await scene.look()
    assert scene.removed == []
    assert scene.urged == [(scene.here.inode, 0)]


async def test_what_could_not_be_taken_out_is_tried_again_later(scene: Scene) -> None:
    scene.damage(1)
    scene.refusal = Unavailable("not now")
    await scene.look()
    scene.refusal = None
    await scene.look()
    assert scene.removed == []
    await scene.pass_seconds(room.AGAIN_SECONDS + 0.1)
    await scene.look()
    assert scene.removed == [scene.members[1]]


async def test_when_none_is_whole_each_is_asked_to_mend_itself_until_one_can(scene: Scene) -> None:
    scene.damage(0, 1, 2)
    scene.mendable = {scene.members[1]}
    await scene.look()
    assert scene.removed == []
    asked = [server for server, _ in scene.mended]
    assert asked[-1] == scene.members[1] and len(set(asked)) == len(asked)
    for server, sources in scene.mended:
        assert set(sources) == set(scene.members) - {server}


async def test_who_has_left_the_set_is_asked_for_the_blocks_it_still_has(scene: Scene) -> None:
    former = next(server for server in scene.here.servers if server not in scene.members)
    known = scene.here.masters["m1"].locations.get(former)
    assert known is not None
    known.held.raise_to(scene.lease.handle, ChunkVersion(scene.lease.version - 1 or 1))
    scene.damage(0, 1, 2)
    await scene.look()
    assert scene.older == [(former, ChunkVersion(scene.lease.version - 1 or 1))]


async def test_a_follower_and_a_leader_that_was_replaced_do_nothing(scene: Scene) -> None:
    scene.damage(1)
    scene.duty = scene.duty_of("m2")
    await scene.look()
    assert scene.removed == [] and scene.urged == []


async def test_damage_of_who_is_no_member_is_left_to_the_garbage_collection_and_hides_no_other(
    scene: Scene,
) -> None:
    scene.damaged |= {server for server in scene.here.servers if server not in scene.members}
    scene.tell()
    await scene.look()
    assert scene.removed == [] and scene.urged == []
    scene.damage(2)
    await scene.look()
    assert scene.removed == [scene.members[2]]


async def test_a_chunk_nobody_has_whole_is_handed_out_by_those_that_have_a_part_of_it(scene: Scene) -> None:
    find = FindChunks(path="/f")
    scene.damage(0)
    found = await scene.here.call(find, FileChunks)
    assert set(replica_ids(found.chunks[0].replicas)) == set(scene.members[1:])
    assert found.chunks[0].missing == [scene.members[0]]
    scene.damage(1, 2)
    found = await scene.here.call(find, FileChunks)
    assert set(replica_ids(found.chunks[0].replicas)) == set(scene.members)
    assert found.chunks[0].version == scene.lease.version


async def test_no_version_is_spent_on_a_set_that_is_damaged_everywhere(scene: Scene) -> None:
    scene.damage(0, 1, 2)
    for version in range(1, 4):
        work = scene.here.start_acquire(failed_version=version)
        error = await scene.here.failure(work)
        assert isinstance(error, DataUnavailable) and "damaged" in error.message
    assert scene.here.chunk().version == scene.lease.version
