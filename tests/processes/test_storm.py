"""Everything at once on real programs: writers, appenders, snapshots and purges while programs die, and
repair, rebalancing, scrubbing and garbage collection work beside them. What was acknowledged must be there.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from tests.paper.boxes import keeps
from tests.processes.storm import QUICK, Storm, prepared_storm

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

SEEDS = range(int(os.environ.get("GFS_TEST_STORM_SEEDS", "1")))
FAULTS = ("kill chunk server", "stop chunk server", "kill master", "stop master", "both")


async def one_after_the_other(storm: Storm, chance: random.Random, done: list[str]) -> None:
    """At most one master and one chunk server are away at a time; `done` tells what was done."""
    cluster, progress = storm.cluster, storm.progress
    while not progress.over:
        fault = chance.choice(FAULTS)
        names = [chance.choice(cluster.masters if "master" in fault else cluster.chunkservers)]
        if fault == "both":
            names = [chance.choice(cluster.masters), chance.choice(cluster.chunkservers)]
        done.append(f"{fault} {names}")
        if fault.startswith("stop"):
            cluster.processes[names[0]].send_signal(signal.SIGSTOP)
            await progress.pass_by(chance.randrange(5, 25))
            cluster.processes[names[0]].send_signal(signal.SIGCONT)
        else:
            cluster.kill(names)
            await progress.pass_by(chance.randrange(5, 40))
            cluster.start(names, **QUICK)
        await progress.pass_by(chance.randrange(5, 25))


@keeps("failures-are-the-norm", "defined-regions", "snapshot", "record-append", "re-replication")
@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_acknowledged_is_lost_in_a_storm(tmp_path: Path, seed: int) -> None:
    """Constant failure is the norm; the system notices it, bears it and mends itself, and loses nothing."""
    done: list[str] = []
    async with prepared_storm(tmp_path, seed) as storm:
        await storm.rage(one_after_the_other(storm, random.Random(seed), done))
        assert len(done) >= 3, done
        await storm.verify()
