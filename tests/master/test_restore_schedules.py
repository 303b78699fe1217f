"""States put back in the middle of seeded schedules: no acknowledged mutation of a chunk that the state knows
is lost, no version gets two sets, and nothing that lives is collected (I1, I2, I6, GFS §4.5)."""

from __future__ import annotations

import msgspec
import pytest

import gfs.master.core.garbage as garbage_room
import gfs.master.garbage_collection as collection_room
from gfs.errors import GfsError
from gfs.master.adoption_duty import AdoptionDuty
from gfs.messages import operations as op
from gfs.vocabulary import Term
from tests.fakes.replicator import FakeLog
from tests.master.lease_world import FakeMaster, LeaseWorld
from tests.master.test_garbage_schedules import GarbageSchedule
from tests.master.test_service_lease_schedules import STEPS

NUMBER = 1_795_000_000
LIFE_SECONDS = 10_000  # at least, from one restore to the next
SERVERS, GOAL = 5, 2


class RestoreSchedule(GarbageSchedule):
    """As its parent; now and then all masters are lost, and an older state of theirs is put back."""

    def __init__(self, here: LeaseWorld, seed: int) -> None:
        super().__init__(here, seed)
        self.lives = 0
        self.adopted = 0

    async def step(self) -> None:
        act = self.chance.choices([super().step, self.put_back, self.resume], [30, 2, 1])[0]
        await act()

    async def put_back(self) -> None:
        """Masters die, with what they were at; new ones begin with the log up to somewhere, and hear all."""
        here = self.here
        log = here.log.leader
        assert log is not None
        log.catch_up()
        records = here.log.records()
        first = next((n for n, found in enumerate(records) if isinstance(found.operation, op.AddChunk)), None)
        if first is None:
            return
        for task in (*self.moving, *self.asking, *self.asked):
            task.cancel()
        self.moving, self.asking, self.asked = [], [], []
        kept = self.chance.randint(max(first + 1, len(records) - 25), len(records))
        await self._new_masters(here.log.proposals[:kept])
        await here.finish(self._settle())
        if self.acknowledged:
            here.check_members(self.acknowledged)

    async def _new_masters(self, proposals: list[bytes]) -> None:
        here = self.here
        old = here.log
        self.lives += 1
        begin = op.BeginIncarnation(name=f"life {self.lives}", number=NUMBER + LIFE_SECONDS * self.lives)
        here.log = FakeLog()
        here.log.proposals = [*proposals, msgspec.msgpack.encode(op.LogRecord(at_ms=1, operation=begin))]
        here.log.term = Term(old.term + 1000)
        names = list(here.masters)
        for master in here.masters.values():
            if master.address in here.network.servers:
                await here.network.servers[master.address].stop()
        here.network.heal_all()
        here.masters = {name: FakeMaster(here, name, names, goal=GOAL, servers=SERVERS) for name in names}
        here.leader = here.masters[self.chance.choice(names)]
        here.log.elect(here.leader.replicator)
        for server in here.servers.values():
            if server.address not in here.network.servers:
                server.restart()

    async def _settle(self) -> None:
        here = self.here
        duty = AdoptionDuty(
            commits=here.leader.commits,
            reads=here.leader.reads,
            locations=here.leader.locations,
            clock=here.clock,
            patience_seconds=1000.0,
        )
        before = len(here.log.proposals)
        await here.heartbeats(report=True)
        await duty.look()
        found = [record.operation for record in here.log.records()[before:]]
        assert isinstance(found[-1], op.SettleIncarnation)
        self.adopted += len(found) - 1

    async def resume(self) -> None:
        try:
            await self.here.finish(self.here.leader.commits.commit(op.HoldGarbage(held=False)))
        except GfsError:
            pass  # another master leads

    async def end(self) -> None:
        await self.settle_down()
        await self.resume()
        await super().end()


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What protects live replicas must not be that their deletion comes late."""
    monkeypatch.setattr(garbage_room, "STALE_KEPT_SECONDS", 0.0)
    monkeypatch.setattr(collection_room, "WALK_REST_SECONDS", 0.0)


async def begin(seed: int) -> RestoreSchedule:
    here = LeaseWorld(servers=SERVERS, masters=2, goal=GOAL, seed=seed, trash_seconds=3 * 86400.0)
    return RestoreSchedule(await here.start(), seed)


@pytest.mark.parametrize("seed", range(8))
async def test_no_schedule_with_restores_loses_an_acknowledged_mutation_or_a_live_chunk(seed: int) -> None:
    schedule = await begin(seed)
    for _ in range(2 * STEPS):
        await schedule.step()
    await schedule.end()


async def test_schedules_do_put_back_states_that_chunk_servers_are_ahead_of() -> None:
    """A schedule without these would prove nothing."""
    lives = adopted = 0
    for seed in range(4):
        schedule = await begin(seed)
        for _ in range(2 * STEPS):
            await schedule.step()
        lives, adopted = lives + schedule.lives, adopted + schedule.adopted
        for task in (*schedule.moving, *schedule.asking, *schedule.asked):
            task.cancel()
    assert lives >= 6 and adopted >= 2, (lives, adopted)
