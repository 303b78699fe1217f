"""Planted bugs that the suite itself notices, by a scenario in the simulation with its checkers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chaos.planted.all_bugs import BUGS
from chaos.planted.bug import PlantedBug, Seen
from chaos.planted.playing import first_that_notices, play, words
from chaos.scenarios.registry import SCENARIOS

pytestmark = pytest.mark.timeout(180)

SEEDS_MAX = 4  # the seed that showed it may do so no more when product or simulation have changed
SEEN = {bug.name: bug.seen for bug in BUGS.values() if isinstance(bug.seen, Seen)}
PLAIN_RUNS = sorted({(seen.scenario, seen.seed, seen.fault_seconds, seen.pace) for seen in SEEN.values()})


def _seeds(seen: Seen) -> Iterator[int]:
    yield seen.seed
    yield from (seed for seed in range(SEEDS_MAX) if seed != seen.seed)


@pytest.mark.parametrize("name", SEEN)
def test_a_scenario_calls_the_broken_product_a_violation(name: str) -> None:
    seen = SEEN[name]
    found = first_that_notices(
        BUGS[name],
        SCENARIOS[seen.scenario],
        _seeds(seen),
        fault_seconds=seen.fault_seconds,
        pace=seen.pace,
        shows=seen.shows,
    )
    assert found is not None, f"{seen.scenario} no longer sees: {BUGS[name].says}"


@pytest.mark.parametrize(("scenario", "seed", "fault_seconds", "pace"), PLAIN_RUNS)
def test_the_unbroken_product_is_not_called_one(
    scenario: str, seed: int, fault_seconds: float, pace: float
) -> None:
    report = play(None, SCENARIOS[scenario], seed, fault_seconds=fault_seconds, pace=pace)
    assert report.outcome in ("held", "undecided"), words(report) or report.harness_error


def test_a_bug_that_no_scenario_sees_says_why() -> None:
    def says_why(bug: PlantedBug) -> bool:
        return isinstance(bug.seen, Seen) or len(bug.seen.split()) > 8

    assert all(map(says_why, BUGS.values()))
    assert len(SEEN) >= 12
