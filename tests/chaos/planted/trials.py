"""What planted bugs are tried with: seeded runs of real parts of the product, each with its own judges.

Each trial is a function of a seed that raises when a promise was not kept.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

import gfs.master.core.garbage as garbage_room
import gfs.master.garbage_collection as collection_room
from chaos.planted.catching import Trial
from chaos.simulation.loop import run_virtual
from tests.chaos.planted.masters_by_hand import leader_cut_off, voter_asked_twice
from tests.chaos.planted.replica_reads import replica_reads
from tests.chunkserver import test_replica_store_crashes as store_crashes
from tests.core.test_exactly_once_machine import ExactlyOnceMachine
from tests.core.test_mutation_order_machine import MutationOrderMachine
from tests.master import (
    test_garbage_schedules,
    test_replica_moves_schedules,
    test_service_lease_schedules,
    test_snapshot_schedules,
    test_whole_schedules,
)
from tests.master.lease_world import LeaseWorld
from tests.raft import power_cuts
from tests.raft.test_faults import survive


def masters_under_power_cuts(seed: int) -> None:
    power_cuts.run_seed(seed, Counter())


def masters_under_faults(seed: int) -> None:
    run_virtual(lambda loop: survive(loop, 3, 15), seed=seed)


def _scheduled(begin: Callable[[int], Awaitable[object]], steps: int) -> Trial:
    async def run(seed: int) -> None:
        schedule = await begin(seed)
        for _ in range(steps):
            await schedule.step()  # type: ignore[attr-defined]
        await schedule.end()  # type: ignore[attr-defined]

    def trial(seed: int) -> None:
        with pytest.MonkeyPatch.context() as impatience:
            impatience.setattr(garbage_room, "STALE_KEPT_SECONDS", 0.0)
            impatience.setattr(collection_room, "WALK_REST_SECONDS", 0.0)
            asyncio.run(run(seed))

    return trial


async def _leases(seed: int) -> object:
    here = await LeaseWorld(servers=4, masters=2, seed=seed).start()
    return test_service_lease_schedules.Schedule(here, seed)


async def _moves(seed: int) -> object:
    here = await LeaseWorld(servers=5, masters=2, seed=seed).start()
    return test_replica_moves_schedules.MovingSchedule(here, seed)


async def _snapshots(seed: int) -> object:
    return test_snapshot_schedules.SnapshotSchedule(await LeaseWorld(seed=seed).start(), seed)


def store_under(crash: str, durability: str) -> Trial:
    """The script of everything a replica store does, cut short at step `seed`."""

    def trial(seed: int) -> None:
        with store_crashes.fresh_machine(seed, durability) as machine:
            store_crashes._crash_run(
                machine, seed, [store_crashes.SCRIPT], seed, power=crash == "power", torn=True
            )

    return trial


def _machine(machine: type[RuleBasedStateMachine]) -> Trial:
    """A few of a Hypothesis machine's examples; what it finds is not shrunk."""
    few = settings(
        max_examples=12,
        stateful_step_count=50,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate),
    )

    def trial(seed: int) -> None:
        seeded = hypothesis.seed(seed)(type(machine.__name__, (machine,), {}))
        run_state_machine_as_test(seeded, settings=few)

    return trial


STEPS = test_service_lease_schedules.STEPS
TRIALS: Mapping[str, Trial] = {
    "power-cuts": masters_under_power_cuts,
    "masters-under-faults": masters_under_faults,
    "voter-asked-twice": voter_asked_twice,
    "leader-cut-off": leader_cut_off,
    "leases": _scheduled(_leases, STEPS),
    "moves": _scheduled(_moves, 2 * STEPS),
    "garbage": _scheduled(test_garbage_schedules.begin, 2 * STEPS),
    "snapshots": _scheduled(_snapshots, STEPS),
    "everything-of-chunks": _scheduled(test_whole_schedules.begin, test_whole_schedules.STEPS),
    "store-killed": store_under("kill", "flush"),
    "store-power-cut": store_under("power", "sync"),
    "replica-reads": replica_reads,
    "mutation-order": _machine(MutationOrderMachine),
    "exactly-once": _machine(ExactlyOnceMachine),
}
