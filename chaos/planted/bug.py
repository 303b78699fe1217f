"""What a planted bug is, and how it is put in and taken out again. No bugs here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from chaos.patches import Patches


@dataclass(frozen=True, slots=True)
class Catch:
    """Where a bug is noticed: the trial and its seed that show it soonest, and words of what is then said.

    `shows`: a regular expression. That a broken product fails somehow is not enough: the words are those of a
    promise that was not kept, or of the product's own check of itself.
    """

    trial: str
    seed: int
    shows: str


@dataclass(frozen=True, slots=True)
class Seen:
    """By which scenario, in the simulation, the suite itself sees a bug: its workloads, faults and checkers.

    `seed`: one that showed it when this was written; others are tried after it. `shows`: as of Catch, of what
    the checkers say. `pace`: clients of the simulation pause that many times as long as real ones.
    """

    scenario: str
    seed: int
    shows: str
    fault_seconds: float = 10.0
    pace: float = 0.5


@dataclass(frozen=True, slots=True)
class PlantedBug:
    """`says`: in one sentence, what the product does wrong now.

    `caught`: by a trial of its own; None where a scenario alone shows it.
    `seen`: the scenario that sees it, or in words why none in the simulation does within a test's time.
    """

    name: str
    says: str
    plant: Callable[[Patches], None]
    caught: Catch | None
    seen: Seen | str

    def __post_init__(self) -> None:
        assert self.caught is not None or isinstance(self.seen, Seen), f"nobody notices {self.name}"

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The bug is in every object of this process meanwhile, whenever it was made."""
        patches = Patches()
        try:
            self.plant(patches)
            yield
        finally:
            patches.undo()
