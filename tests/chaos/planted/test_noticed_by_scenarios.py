"""Planted bugs that the suite itself notices, by a scenario in the simulation with its checkers."""

from __future__ import annotations

import pytest

from chaos.planted.all_bugs import BUGS
from chaos.planted.playing import first_that_notices, play, words
from chaos.scenarios.registry import SCENARIOS

pytestmark = pytest.mark.timeout(180)

FAULT_SECONDS = 7.0
SEEDS = range(4)


@pytest.mark.parametrize(
    ("bug", "scenario", "says"),
    [
        ("shared-chunk-mutated", "snapshot-under-fire", "has changed since it was made"),
        ("leases-not-revoked", "snapshot-under-fire", "has changed since it was made"),
    ],
)
def test_a_scenario_calls_the_broken_product_a_violation(bug: str, scenario: str, says: str) -> None:
    found = first_that_notices(BUGS[bug], SCENARIOS[scenario], SEEDS, fault_seconds=FAULT_SECONDS)
    assert found is not None and says in words(found)


def test_the_unbroken_product_is_not_called_one() -> None:
    report = play(None, SCENARIOS["snapshot-under-fire"], SEEDS[0], fault_seconds=FAULT_SECONDS)
    assert report.outcome in ("held", "undecided"), words(report) or report.harness_error
