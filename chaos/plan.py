"""What one run will do: a seed's configuration and its timed list of faults. No cluster, no behaviour.

A plan is all a replay needs. It is JSON that a person may edit: times are seconds since the faults began.
Scenarios (`chaos.scenarios`) say what may be drawn; `chaos.drawing` is where a seed becomes a plan.
"""

from __future__ import annotations

import os
import random
from typing import Any, Literal

import msgspec

from chaos.testbed import Layer
from gfs.errors import CorruptState

FORMAT_VERSION = 1
FAULTS_MAX = 5000  # of one plan: a soak is many runs, not one long one

Json = Any  # Any: arguments of faults are whatever JSON their vocabulary documents


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The cluster of one run. `tunings`: settings of gfs.toml by their path, "raft.checkpoint_log_bytes"."""

    masters: int = 3
    chunkservers: int = 4
    replication_goal: int = 3
    durability: Literal["flush", "sync"] = "flush"
    workloads: tuple[str, ...] = ()  # by name; one that stands twice runs twice, in directories of its own
    pace: float = 1.0  # clients pause so many times as long between two calls, and may do as much less
    tunings: dict[str, Json] = {}


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One fault (`chaos.faults`): when it begins, how long it holds (0: a single blow), and whom it meets.

    `target`: a node, or a role that is looked up when the fault begins (`chaos.faults.targets`).
    `beyond_quorum`: begin it also when fewer than a majority, or no replica, would be left to serve.
    """

    fault: str
    at_seconds: float
    seconds: float = 0.0
    target: str = ""
    arguments: dict[str, Json] = {}
    beyond_quorum: bool = False


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int = FORMAT_VERSION
    seed: int
    layer: Layer
    scenario: str
    configuration: Configuration
    checkers: tuple[str, ...] = ()  # what must hold, besides what the workloads name
    calm_seconds: float = 10.0  # before the first fault: the floor of traffic is measured here
    fault_seconds: float = 60.0
    settle_seconds: float = 60.0  # at most, from the end of the last fault to a last write of each workload
    steps: tuple[Step, ...] = ()

    def chance(self, what: str) -> random.Random:
        """Chance of its own for each who draws, so that one's draws do not move another's."""
        return random.Random(f"{self.seed}/{self.scenario}/{what}")


def save(plan: Plan, path: str | os.PathLike[str]) -> None:
    with open(path, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(plan), indent=2) + b"\n")


def load(path: str | os.PathLike[str]) -> Plan:
    """Raises: CorruptState, when it is no plan or one of a later version; OSError."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        plan = msgspec.json.decode(data, type=Plan)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptState(f"{path} is no plan of a run: {error}") from error
    if plan.version > FORMAT_VERSION:
        raise CorruptState(f"{path} is of format {plan.version}; this program reads up to {FORMAT_VERSION}")
    if len(plan.steps) > FAULTS_MAX:
        raise CorruptState(f"{path} has {len(plan.steps)} faults; {FAULTS_MAX} are the most of one run")
    return plan


def describe(plan: Plan) -> list[str]:
    """The plan as a person reads it, a line a fault."""
    c = plan.configuration
    lines = [
        f"{plan.scenario}, seed {plan.seed}, layer {plan.layer}: {c.masters} masters, "
        f"{c.chunkservers} chunk servers, {c.replication_goal} replicas, durability {c.durability}; "
        f"workloads {', '.join(c.workloads)}"
    ]
    if c.tunings:
        lines.append("  " + ", ".join(f"{key} = {value}" for key, value in sorted(c.tunings.items())))
    for step in plan.steps:
        arguments = "".join(f" {key}={value}" for key, value in sorted(step.arguments.items()))
        length = f" for {step.seconds:.1f} s" if step.seconds else ""
        lines.append(f"  {step.at_seconds:7.1f} s  {step.fault} {step.target}{length}{arguments}".rstrip())
    return lines
