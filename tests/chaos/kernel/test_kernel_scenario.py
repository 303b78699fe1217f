"""One short run of layer K from plan to verdict: real programs, real faults, the real checkers."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.conduct import conduct
from chaos.plan import Configuration, Plan, Step

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(240),
    pytest.mark.needs_tools("namespaces", "nft", "reset", "nfqueue"),
]

PLAN = Plan(
    seed=11,
    layer="kernel",
    scenario="half-open",
    configuration=Configuration(masters=3, chunkservers=4, workloads=("append",)),
    checkers=("append",),
    calm_seconds=4.0,
    fault_seconds=14.0,
    steps=(
        Step(fault="blackhole", at_seconds=0.0, seconds=3.0, target="primary"),
        Step(
            fault="packets",
            at_seconds=4.0,
            seconds=4.0,
            target="chunkservers",
            arguments={"loss": 0.03, "corrupt": 0.01, "duplicate": 0.05},
        ),
        Step(fault="pause", at_seconds=9.0, seconds=3.0, target="leader"),
    ),
)


def test_appends_over_half_open_links_bad_packets_and_a_frozen_leader_are_kept(tmp_path: Path) -> None:
    result = conduct(PLAN, tmp_path / "run")
    told = (tmp_path / "run" / "report.md").read_text()
    assert result.outcome == "held", told
    assert result.faults_begun == {"blackhole": 1, "packets": 1, "pause": 1}, told
