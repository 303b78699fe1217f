"""Scenarios on real processes, short: layers, faults, work and checkers fit together, and promises hold.

Long runs are started by hand: `python -m chaos run --scenario all --layer toxi --minutes 2`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos import layers
from chaos.conduct import conduct
from chaos.drawing import CannotPlay, draw, playable
from chaos.scenarios.registry import SCENARIOS
from chaos.sweep import reason
from chaos.testbed import Layer

PLAYED: tuple[tuple[Layer, str, int], ...] = (
    ("toxi", "partition-leader", 1),
    ("toxi", "kill-chunkserver", 2),
    ("toxi", "late-delivery", 3),
    ("toxi", "primary-cut-from-master", 4),
    ("toxi", "mixed-stores", 5),
    ("kernel", "power-cut-masters", 1),
    ("kernel", "pause-primary", 2),
)


@pytest.mark.processes
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("layer", "scenario", "seed"), PLAYED)
def test_what_was_promised_holds(layer: Layer, scenario: str, seed: int, tmp_path: Path) -> None:
    try:
        chosen = playable(SCENARIOS[scenario], layer, layers.entry(layer).powers)
    except (CannotPlay, layers.NoSuchLayer) as error:
        pytest.skip(str(error))
    plan = draw(chosen, seed=seed, layer=layer, fault_seconds=12, calm_seconds=3)
    assert plan.steps
    result = conduct(plan, tmp_path / "run")
    assert result.outcome == "held", f"{reason(result)}; see {tmp_path}/run/report.md"
    assert result.faults_begun
