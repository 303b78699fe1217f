"""Plays scenarios with a bug planted: what the whole suite says of it. In the simulation, where a bug planted
in this process is in every program."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import msgspec

from chaos import layers
from chaos.conduct import conduct
from chaos.drawing import draw, playable
from chaos.planted.bug import PlantedBug
from chaos.report import RunReport
from chaos.scenarios.interface import Scenario

SETTLE_SECONDS = 20.0  # a healthy cluster of the simulation takes a few; one that is broken takes them all


def play(
    bug: PlantedBug | None, scenario: Scenario, seed: int, *, fault_seconds: float, pace: float | None = None
) -> RunReport:
    """One run of `scenario` with `bug` planted (None: the product as it is); nothing of it is kept.

    `pace`: instead of the seed's.
    Raises: CannotPlay, NoSuchLayer.
    """
    fit = playable(scenario, "sim", layers.entry("sim").powers)
    plan = draw(fit, seed=seed, layer="sim", fault_seconds=fault_seconds)
    configuration = plan.configuration
    if pace is not None:
        configuration = msgspec.structs.replace(configuration, pace=pace)
    plan = msgspec.structs.replace(plan, settle_seconds=SETTLE_SECONDS, configuration=configuration)
    planted: AbstractContextManager[None] = nullcontext() if bug is None else bug.planted()
    with planted:
        return conduct(plan, None)


def first_that_notices(
    bug: PlantedBug,
    scenario: Scenario,
    seeds: Iterable[int],
    *,
    fault_seconds: float,
    pace: float | None = None,
    shows: str = "",
) -> RunReport | None:
    """The report of the first seed with which a checker calls the broken product's run a violation, in words
    that match `shows`."""
    for seed in seeds:
        report = play(bug, scenario, seed, fault_seconds=fault_seconds, pace=pace)
        if report.outcome == "violated" and re.search(shows, words(report)):
            return report
    return None


def words(report: RunReport) -> str:
    """What the checkers hold against a run, in a line."""
    return "; ".join(
        f"{verdict.checker}: {verdict.violations[0].says if verdict.violations else verdict.remark}"
        for verdict in report.verdicts
        if verdict.finding == "violated"
    )
