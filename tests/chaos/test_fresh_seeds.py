"""Seeds that no run has had before, short: each CI run moves on by CHAOS_SEED_BASE, which a failure prints.

Long ones by hand: `python -m chaos sim --seeds 0:2000 --minutes 2 --jobs 2`. Old finds are played, too.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chaos import layers, regressions
from chaos.drawing import draw, playable
from chaos.scenarios.registry import SCENARIOS
from chaos.sweep import Tally, sweep

SEEDS = int(os.environ.get("CHAOS_SEEDS", "100"))
BASE = int(os.environ.get("CHAOS_SEED_BASE", "0"))
JOBS = min(2, os.cpu_count() or 1)


@pytest.mark.timeout(300)
def test_what_was_once_found_stays_mended(tmp_path: Path) -> None:
    plans = [one.plan for one in regressions.load_all() if one.plan is not None and one.plan.layer == "sim"]
    tally = Tally()
    for plan, result in sweep(plans, tmp_path, jobs=1):
        tally.add(plan, result)
    assert not tally.not_held, "\n".join(tally.not_held)


@pytest.mark.timeout(1500)
def test_fresh_seeds_of_everything_hold(tmp_path: Path) -> None:
    swarm = playable(SCENARIOS["everything"], "sim", layers.entry("sim").powers)
    drawn = (
        draw(swarm, seed=BASE + number, layer="sim", fault_seconds=6, calm_seconds=3)
        for number in range(SEEDS)
    )
    tally = Tally()
    for plan, result in sweep(drawn, tmp_path, jobs=JOBS):
        tally.add(plan, result)
    assert not tally.not_held, f"CHAOS_SEED_BASE={BASE}: {tally.summary()}\n" + "\n".join(tally.not_held)
