"""A few seeds of power_cuts; the long run is `python -m tests.raft.power_cuts --seeds 1000`."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.paper.boxes import keeps
from tests.raft.power_cuts import run_seed


@pytest.mark.parametrize("seed", range(6))
@keeps("namespace-atomic")
def test_whole_masters_lose_nothing_when_the_power_of_all_is_cut_again_and_again(seed: int) -> None:
    told: Counter[str] = Counter()
    run_seed(seed, told)
    assert told["power cuts"] >= 6


def test_the_schedules_cut_the_power_in_the_middle_of_writes_and_ship_checkpoints() -> None:
    told: Counter[str] = Counter()
    for seed in range(100, 104):
        run_seed(seed, told)
    assert told["in the middle"] > 5 and told["checkpoints installed"] > 2 and told["killed only"] > 2
