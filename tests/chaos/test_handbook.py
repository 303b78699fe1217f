"""chaos/README.md is what the code says."""

from __future__ import annotations

from chaos.handbook import README, markdown
from chaos.registries import checkers, workloads
from chaos.scenarios.registry import SCENARIOS


def test_the_page_is_written_from_the_code() -> None:
    assert README.read_text() == markdown(), "python -m chaos list --markdown > chaos/README.md"


def test_scenarios_name_workloads_and_checkers_that_exist() -> None:
    for scenario in SCENARIOS.values():
        assert set(scenario.workloads) <= set(workloads()), scenario.name
        assert set(scenario.holds) <= set(checkers()), scenario.name
