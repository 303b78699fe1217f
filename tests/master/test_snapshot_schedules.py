"""I10 under seeded schedules: snapshots of a file that is written, through deaths, losses and new leaders."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from gfs.errors import GfsError
from gfs.master.core.invariants import check_invariants
from gfs.master.core.lookup import chunk_of, stat
from gfs.master.core.snapshots import jobs_under_way
from gfs.messages.namespace import MutationReply
from gfs.messages.operations import RequestId
from gfs.messages.snapshots import TakeSnapshot
from gfs.vocabulary import ClientId, ServerId
from tests.master.lease_world import FIRST, LeaseWorld
from tests.master.test_service_lease_schedules import Schedule

STEPS = 60
SNAPSHOTS_MAX = 6


@dataclass
class Taken:
    """A snapshot that was asked for: what was acknowledged before, and what had begun when it returned."""

    target: str
    task: asyncio.Task[MutationReply]
    acknowledged: frozenset[int]
    begun_before: int = 2**62  # unknown: it may be finished whenever a leader comes to it
    content: list[int] | None = None


class SnapshotSchedule(Schedule):
    def __init__(self, here: LeaseWorld, seed: int) -> None:
        super().__init__(here, seed)
        self.taken: list[Taken] = []

    async def step(self) -> None:
        if self.chance.random() < 0.15 and len(self.taken) < SNAPSHOTS_MAX:
            self.take()
        await super().step()
        self.look()

    def take(self) -> None:
        number = len(self.taken)
        request = TakeSnapshot(
            source="/f", target=f"/s{number}", request=RequestId(ClientId(5), number + 1, 1)
        )
        call = self.here.client.call(self.here.leader.address, request, MutationReply, deadline_seconds=30.0)
        task = asyncio.ensure_future(call)
        self.taken.append(Taken(request.target, task, frozenset(self.acknowledged)))

    def look(self) -> None:
        for taken in self.taken:
            if taken.task.done() and taken.begun_before == 2**62 and taken.task.exception() is None:
                taken.begun_before = self.next_mutation
            elif taken.task.done() and (error := taken.task.exception()) is not None:
                assert isinstance(error, GfsError), error
            self.check_copy(taken)

    def check_copy(self, taken: Taken) -> None:
        tables = self.here.leader.replicator.tables
        try:
            inode = stat(tables, taken.target).inode
        except GfsError:
            return  # not there (yet): that it comes if it was answered is checked at the end
        chunk = chunk_of(tables, inode, FIRST)
        if chunk is None:
            assert not taken.acknowledged
            return
        for member in chunk.replicas:
            held = self.here.servers[member].replicas.get(chunk.handle)
            if held is None or held.version != chunk.version:
                continue
            assert taken.acknowledged <= set(held.content), self.why(taken, member)
            assert all(mutation < taken.begun_before for mutation in held.content), self.why(taken, member)
            if taken.content is None:
                taken.content = list(held.content)
            assert held.content == taken.content, self.why(taken, member)  # on each member, and for ever

    def why(self, taken: Taken, member: ServerId) -> tuple[object, ...]:
        return self.here.seed, taken.target, member, taken.acknowledged, taken.begun_before, taken.content

    async def end(self) -> None:
        await super().end()
        for _ in range(400):
            if not jobs_under_way(self.here.leader.replicator.tables):
                break
            await self.here.clock.advance(0.1)
        assert not jobs_under_way(self.here.leader.replicator.tables)
        self.look()
        for taken in self.taken:
            assert taken.task.done()
            if taken.task.exception() is None:
                assert stat(self.here.leader.replicator.tables, taken.target)
        check_invariants(self.here.leader.replicator.tables)


@pytest.mark.parametrize("seed", range(60))
async def test_a_snapshot_is_one_point_whatever_fails(seed: int) -> None:
    here = LeaseWorld(seed=seed)
    await here.start()
    schedule = SnapshotSchedule(here, seed)
    for _ in range(STEPS):
        await schedule.step()
    await schedule.end()
