"""What a scenario is: who is hurt, how, under what work, and what must hold all the same. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from chaos.plan import Json
from chaos.testbed import Layer


@dataclass(frozen=True, slots=True)
class Between:
    """A number drawn evenly."""

    low: float
    high: float

    def __post_init__(self) -> None:
        assert self.low <= self.high


@dataclass(frozen=True, slots=True)
class OneOf:
    values: tuple[Json, ...]


Drawn = Between | OneOf | Json


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault of a round. `after`: seconds since the round began; `seconds`: how long (0: one blow)."""

    fault: str
    target: str = ""
    seconds: Between | float = field(default_factory=lambda: Between(1, 10))
    after: Between | float = 0.0
    arguments: Mapping[str, Drawn] = field(default_factory=dict)
    beyond_quorum: bool = False


Round = tuple[Blow, ...]  # faults that belong together; rounds follow each other with gaps


@dataclass(frozen=True, slots=True)
class Scenario:
    """`holds`: the checkers that must have found that their property holds, besides those of the workloads.

    `as_far_as_possible`: a layer that lacks the powers of some rounds plays the others (a mixture); without
    it a layer that lacks any power cannot play the scenario at all.
    """

    name: str
    says: str  # one sentence: the fault, and what is feared of it
    rounds: tuple[Round, ...]
    workloads: tuple[str, ...]
    holds: tuple[str, ...]
    layers: tuple[Layer, ...] = ("sim", "toxi")
    gap: Between = field(default_factory=lambda: Between(2, 20))
    masters: tuple[int, ...] = (3,)
    chunkservers: tuple[int, ...] = (4,)
    goals: tuple[int, ...] = (3,)
    durability: tuple[Literal["flush", "sync"], ...] = ("flush",)
    tunings: Mapping[str, Drawn] = field(default_factory=dict)
    always: Mapping[str, Json] = field(default_factory=dict)  # tunings that no swarm leaves out
    swarm: bool = False  # draw also which rounds, workloads and tunings this seed has at all
    as_far_as_possible: bool = False
