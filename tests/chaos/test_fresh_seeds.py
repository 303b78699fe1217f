"""Seeds that no run has had before, short: each commit has others; a failure tells how to play them again.

Long ones by hand: `python -m chaos sim --seeds 0:2000 --minutes 2 --jobs 2`. Old finds are played, too.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from chaos import layers, regressions
from chaos.drawing import draw, playable
from chaos.scenarios.registry import SCENARIOS
from chaos.sweep import Tally, sweep

SEEDS = int(os.environ.get("CHAOS_SEEDS", "100"))
SHARD = 5  # seeds of one test: a busy machine must not take a long one for one that hangs
BASES = 1_000_000
TIERED_ONE_IN = 5


def _base() -> int:
    """Other seeds for each commit, and the same for each run of it."""
    told = os.environ.get("CHAOS_SEED_BASE")
    if told is not None:
        return int(told)
    asked = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    commit = asked.stdout.strip()
    return int(commit[:12], 16) % BASES * 1000 if asked.returncode == 0 and commit else 0


BASE = _base()


@pytest.mark.timeout(300)
def test_what_was_once_found_stays_mended(tmp_path: Path) -> None:
    plans = [one.plan for one in regressions.load_all() if one.plan is not None and one.plan.layer == "sim"]
    tally = Tally()
    for plan, result in sweep(plans, tmp_path, jobs=1):
        tally.add(plan, result)
    assert not tally.not_held, "\n".join(tally.not_held)


@pytest.mark.timeout(220)
@pytest.mark.parametrize(
    ("scenario", "first"),
    [
        *(("everything", first) for first in range(0, SEEDS, SHARD)),
        *(("tiered", first) for first in range(0, SEEDS // TIERED_ONE_IN, SHARD)),
    ],
)
def test_fresh_seeds_of_the_swarms_hold(scenario: str, first: int, tmp_path: Path) -> None:
    swarm = playable(SCENARIOS[scenario], "sim", layers.entry("sim").powers)
    drawn = (
        draw(swarm, seed=BASE + number, layer="sim", fault_seconds=6, calm_seconds=3)
        for number in range(first, min(first + SHARD, SEEDS))
    )
    tally = Tally()
    for plan, result in sweep(drawn, tmp_path, jobs=1):
        tally.add(plan, result)
    assert not tally.not_held, (
        f"A finding, whatever was changed last; CHAOS_SEED_BASE={BASE} plays the same seeds. "
        f"{tally.summary()}\n" + "\n".join(tally.not_held)
    )
