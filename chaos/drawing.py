"""From a seed to a plan: what a scenario leaves open is drawn here. Pure: same seed, same plan."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TypeVar

import msgspec

from chaos.faults.registry import FAULTS
from chaos.plan import FAULTS_MAX, Configuration, Json, Plan, Step
from chaos.scenarios.interface import Between, Blow, Drawn, OneOf, Round, Scenario
from chaos.testbed import Layer, Power

T = TypeVar("T")
# In virtual time patience costs nothing, but each tick does: masters that tick less make a run several times
# faster, and elections still come about.
SLOW_TICKS: dict[str, Json] = {
    "raft.heartbeat_seconds": 0.3,
    "raft.election_seconds_min": 1.0,
    "raft.election_seconds_max": 2.0,
    "chunkserver.heartbeat_seconds": 1.0,
}
SIMULATED_PACES = (3.0, 6.0, 12.0)
# Clients that wait for as long as a usual election takes, and no longer, never learn how some calls ended.
SHORT_PATIENCE: dict[str, Json] = {"client.retry_seconds": 3.0, "client.quorum_seconds": 2.0}
SHORT_PATIENCE_SHARE = 0.3  # of the seeds of a swarm
SECONDS_MIN = 5.0  # of the faults' phase


class CannotPlay(Exception):
    """This layer cannot play this scenario; the text names the powers that are missing."""


def powers_of(round_: Round) -> frozenset[Power]:
    return frozenset(power for blow in round_ for power in FAULTS[blow.fault].powers)


def powers_needed(scenario: Scenario) -> frozenset[Power]:
    return frozenset(power for round_ in scenario.rounds for power in powers_of(round_))


def playable(scenario: Scenario, layer: Layer, powers: frozenset[Power]) -> Scenario:
    """The scenario with the rounds that this layer can play.

    Raises: CannotPlay. A scenario is never weakened silently: only one that says `as_far_as_possible` goes
    on without some of its rounds.
    """
    if layer not in scenario.layers:
        raise CannotPlay(
            f"{scenario.name} is not made for layer {layer} (but for {', '.join(scenario.layers)})"
        )
    rounds = tuple(round_ for round_ in scenario.rounds if powers_of(round_) <= powers)
    if len(rounds) == len(scenario.rounds) or (rounds and scenario.as_far_as_possible):
        return replace(scenario, rounds=rounds)
    missing = sorted(powers_needed(scenario) - powers)
    raise CannotPlay(f"{scenario.name} needs what layer {layer} cannot do here: {', '.join(missing)}")


def draw(
    scenario: Scenario,
    *,
    seed: int,
    layer: Layer,
    fault_seconds: float,
    calm_seconds: float = 10.0,
    masters: int | None = None,
    chunkservers: int | None = None,
) -> Plan:
    """`masters` and `chunkservers`, where given, stand for what the scenario would draw."""
    assert fault_seconds >= SECONDS_MIN
    chance = random.Random(f"{seed}/{scenario.name}/plan")
    if layer == "sim":
        scenario = replace(scenario, always={**SLOW_TICKS, **scenario.always})
    scenario, configuration = _configuration(scenario, chance)
    configuration = _with_counts(configuration, masters, chunkservers)
    if layer == "sim":
        pace = random.Random(f"{seed}/{scenario.name}/pace").choice(SIMULATED_PACES)
        configuration = msgspec.structs.replace(configuration, pace=pace)
        if scenario.swarm:
            configuration = _with_patience(configuration, random.Random(f"{seed}/{scenario.name}/patience"))
    return Plan(
        seed=seed,
        layer=layer,
        scenario=scenario.name,
        configuration=configuration,
        checkers=scenario.holds,
        calm_seconds=calm_seconds,
        fault_seconds=fault_seconds,
        steps=_steps(scenario, chance, fault_seconds),
    )


def _with_patience(configuration: Configuration, chance: random.Random) -> Configuration:
    if chance.random() >= SHORT_PATIENCE_SHARE:
        return configuration
    return msgspec.structs.replace(configuration, tunings={**configuration.tunings, **SHORT_PATIENCE})


def _with_counts(configuration: Configuration, masters: int | None, servers: int | None) -> Configuration:
    servers = servers or configuration.chunkservers
    return msgspec.structs.replace(
        configuration,
        masters=masters or configuration.masters,
        chunkservers=servers,
        replication_goal=min(configuration.replication_goal, servers),
    )


def _configuration(scenario: Scenario, chance: random.Random) -> tuple[Scenario, Configuration]:
    goal, servers = chance.choice(scenario.goals), chance.choice(scenario.chunkservers)
    tunings = {key: _drawn(value, chance) for key, value in scenario.tunings.items()}
    workloads = scenario.workloads
    masters, durability = chance.choice(scenario.masters), chance.choice(scenario.durability)
    if scenario.swarm:
        # A run that has less of everything comes to corners that a run with all of it never sees.
        tunings = {key: value for key, value in sorted(tunings.items()) if chance.random() < 0.5}
        workloads = _some(workloads, chance)
        scenario = replace(scenario, rounds=_some(scenario.rounds, chance))
    return scenario, Configuration(
        masters=masters,
        chunkservers=max(servers, goal),
        replication_goal=goal,
        durability=durability,
        workloads=workloads,
        tunings={**scenario.always, **tunings},
    )


def _some(items: tuple[T, ...], chance: random.Random) -> tuple[T, ...]:
    count = chance.randint(1, len(items))
    chosen = sorted(chance.sample(range(len(items)), count))
    return tuple(items[number] for number in chosen)


def _steps(scenario: Scenario, chance: random.Random, fault_seconds: float) -> tuple[Step, ...]:
    steps: list[Step] = []
    now = _rounded(chance.uniform(0.5, min(scenario.gap.high, fault_seconds / 4)))
    while scenario.rounds and now < fault_seconds and len(steps) < FAULTS_MAX:
        played = [_step(blow, chance, now) for blow in chance.choice(scenario.rounds)]
        # What does not fit is cut off at the end of the phase: all ends there in any case.
        fitting = [_until(step, fault_seconds) for step in played if step.at_seconds < fault_seconds]
        steps += fitting
        end = max((step.at_seconds + step.seconds for step in fitting), default=now)
        now = _rounded(end + chance.uniform(scenario.gap.low, scenario.gap.high))
    return tuple(sorted(steps[:FAULTS_MAX], key=lambda step: step.at_seconds))


def _step(blow: Blow, chance: random.Random, began: float) -> Step:
    return Step(
        fault=blow.fault,
        at_seconds=_rounded(began + _number(blow.after, chance)),
        seconds=_rounded(_number(blow.seconds, chance)),
        target=blow.target or FAULTS[blow.fault].default_target,
        arguments={key: _drawn(value, chance) for key, value in blow.arguments.items()},
        beyond_quorum=blow.beyond_quorum,
    )


def _until(step: Step, fault_seconds: float) -> Step:
    return msgspec.structs.replace(step, seconds=min(step.seconds, _rounded(fault_seconds - step.at_seconds)))


def _number(value: Between | float, chance: random.Random) -> float:
    return chance.uniform(value.low, value.high) if isinstance(value, Between) else float(value)


def _drawn(value: Drawn, chance: random.Random) -> Json:
    if isinstance(value, Between):
        return round(chance.uniform(value.low, value.high), 3)
    return chance.choice(value.values) if isinstance(value, OneOf) else value


def _rounded(seconds: float) -> float:
    return round(seconds, 2)
