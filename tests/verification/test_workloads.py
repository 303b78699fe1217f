"""Every workload against real masters and chunk servers: traffic enough, all its checkers satisfied; and each
notices what a client is told that is not so.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from gfs.verification.checkers.registry import CHECKERS
from gfs.verification.history import History
from gfs.verification.recorder import Recorder
from gfs.verification.workloads.interface import Workload
from gfs.verification.workloads.registry import WORKLOADS
from tests.client.real_cluster import RealCluster
from tests.verification.local_subject import LocalSubject

ENOUGH_ACKNOWLEDGED = 25
OPERATIONS_MAX = 5000  # a workload that never gets anything done ends, too
# What nobody watches here is what programs do; the others want reads or deletions, which a short run of few
# operations may not have.
MAY_BE_IDLE = frozenset(("leases", "garbage", "stale_reads"))


async def perform(workload: Workload, subject: LocalSubject) -> History:
    history = History()
    recorder = Recorder(history, subject.now_ns)
    await workload.set_up(subject, recorder)
    before = len(history.operations)

    def ended() -> bool:
        done = history.operations[before:]
        acknowledged = sum(operation.outcome == "ok" for operation in done)
        return acknowledged >= ENOUGH_ACKNOWLEDGED or len(done) >= OPERATIONS_MAX

    await workload.run(subject, recorder, ended)
    await workload.audit(subject, recorder)
    return history


def findings(workload: Workload, history: History) -> dict[str, str]:
    """By checker, and why, of those that have not held."""
    verdicts = [CHECKERS[name].check(history) for name in workload.checkers]
    return {
        verdict.checker: f"{verdict.finding}: {verdict.remark} {verdict.violations[:3]}"
        for verdict in verdicts
        if verdict.finding != "held" and not (verdict.finding == "idle" and verdict.checker in MAY_BE_IDLE)
    }


@pytest.mark.parametrize("name", sorted(set(WORKLOADS) - {"mix"}))
def test_a_workload_gets_its_work_done_and_its_checkers_hold(tmp_path: Path, name: str) -> None:
    async def main() -> None:
        async with RealCluster(tmp_path) as cluster:
            workload = WORKLOADS[name](f"/{name}-1", random.Random(7))
            history = await perform(workload, LocalSubject(cluster))
        counted = Counter(operation.outcome for operation in history.operations)
        assert counted["ok"] >= ENOUGH_ACKNOWLEDGED and not counted["info"], counted
        assert {"fsck", "verified", "digests", "live_chunks"} - {audit.what for audit in history.audits} <= (
            {"verified"} if name in ("namespace", "churn") else set()
        )
        assert not findings(workload, history)

    asyncio.run(main())


def test_a_mix_does_several_workloads_under_one_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with RealCluster(tmp_path) as cluster:
            workload = WORKLOADS["mix"]("/mix-1", random.Random(7))
            history = await perform(workload, LocalSubject(cluster))
        assert {operation.workload for operation in history.operations} == {"mix"}
        assert len({operation.function for operation in history.operations}) > 5
        not_held = findings(workload, history)
        assert all(told.startswith("idle") for told in not_held.values()), not_held

    asyncio.run(main())
