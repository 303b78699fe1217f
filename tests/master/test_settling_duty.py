"""Replicas that may be short since a power cut are settled without a writer; nobody is shut out."""

from __future__ import annotations

import pytest

from gfs.errors import Unavailable
from gfs.master import settling_duty as room
from gfs.master.core.chunk_homes import ChunkHomes
from gfs.master.settling_duty import SettlingDuty
from gfs.messages.chunks import ChunkLease
from gfs.vocabulary import ChunkHandle, ChunkIndex, InodeId
from tests.fakes.clock import settle
from tests.master.chunkservers import replica_ids
from tests.master.lease_world import DEAD_SECONDS, LeaseWorld


class Scene:
    """A chunk with three replicas, of which some say that they are unsettled, and the duty of one master."""

    def __init__(self, here: LeaseWorld, lease: ChunkLease) -> None:
        self.here, self.lease = here, lease
        self.members = replica_ids(lease.replicas)
        self.settled = 0
        self.urged = 0
        self.refusals = 0
        self.unsettled: set[int] = set()
        one = here.masters["m1"]
        self.duty = SettlingDuty(
            commits=one.commits,
            reads=one.reads,
            locations=one.locations,
            homes=ChunkHomes(kept_max=10),
            clock=here.clock,
            settle=self._settle,
            urge=self._urge,
        )

    async def _settle(self, inode: InodeId, index: ChunkIndex, handle: ChunkHandle) -> None:
        assert (inode, index, handle) == (self.here.inode, 0, self.lease.handle)
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("not now")
        self.settled += 1

    def _urge(self, inode: InodeId, index: ChunkIndex) -> None:
        assert (inode, index) == (self.here.inode, 0)
        self.urged += 1

    def tell(self) -> None:
        for position in self.unsettled:
            known = self.here.masters["m1"].locations.get(self.members[position])
            assert known is not None
            known.unsettled = (self.lease.handle,)

    async def pass_seconds(self, seconds: float) -> None:
        await self.here.clock.advance(seconds)
        await self.here.heartbeats()
        self.tell()

    async def look(self, times: int = 20) -> None:
        self.tell()
        for _ in range(times):
            self.duty.tick()
            await settle()


@pytest.fixture
async def scene() -> Scene:
    here = await LeaseWorld().start()
    lease = await here.acquire()
    await here.heartbeats(report=True)
    return Scene(here, lease)


async def test_one_try_settles_a_chunk_and_asks_for_what_is_missing_then(scene: Scene) -> None:
    scene.unsettled = {0, 2}
    await scene.look()
    assert (scene.settled, scene.urged) == (1, 1)
    await scene.pass_seconds(room.AGAIN_SECONDS + 0.1)
    await scene.look()
    assert scene.settled == 2  # it is still said to be unsettled


async def test_where_nothing_is_unsettled_nothing_is_granted(scene: Scene) -> None:
    await scene.look()
    assert (scene.settled, scene.urged) == (0, 0)


async def test_while_a_member_is_away_nobody_is_shut_out(scene: Scene) -> None:
    scene.unsettled = {1}
    await scene.here.network.servers[scene.here.servers[scene.members[0]].address].stop()
    await scene.pass_seconds(DEAD_SECONDS + 1)
    await scene.look()
    assert (scene.settled, scene.urged) == (0, 0)


async def test_what_could_not_be_settled_is_tried_again_later(scene: Scene) -> None:
    scene.unsettled, scene.refusals = {1}, 1
    await scene.look()
    assert (scene.settled, scene.urged) == (0, 0)
    await scene.pass_seconds(room.AGAIN_SECONDS + 0.1)
    await scene.look()
    assert (scene.settled, scene.urged) == (1, 1)
