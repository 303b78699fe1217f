"""Lets a trial loose on a planted bug, seed after seed, until it is noticed or the budget is spent."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from chaos.planted.bug import Catch, PlantedBug

Trial = Callable[[int], None]  # a run from a seed; raises when a promise was not kept

CPU_SECONDS_MAX = 10.0  # for one bug, whichever seed shows it
SEEDS_MAX = 200


@dataclass(frozen=True, slots=True)
class Found:
    """`said`: what the trial of this seed ended with."""

    seed: int
    said: str
    cpu_seconds: float


def catch(bug: PlantedBug, trials: Mapping[str, Trial]) -> Found | None:
    """Plant `bug`, and try the seed that has shown it before, then others; None when nobody notices in time.

    The seed comes from a time when trial and product were a little different: that another one is needed now
    is no news, that none shows the bug is.
    """
    caught = bug.caught
    assert caught is not None, f"{bug.name} has no trial"
    trial = trials[caught.trial]
    began = time.process_time()
    for seed in _seeds(caught):
        with bug.planted():
            said = what_it_says(trial, seed)
        seconds = time.process_time() - began
        if said and re.search(caught.shows, said):
            return Found(seed, said, seconds)
        if seconds > CPU_SECONDS_MAX:
            return None
    return None


def what_it_says(trial: Trial, seed: int) -> str:
    """The error a trial ends with, its notes, and the line of code that found it; "" when all went well."""
    try:
        trial(seed)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = frames[-1].line if frames else ""
        return f"{type(error).__name__}: {error} | {line}"
    return ""


def _seeds(caught: Catch) -> Iterator[int]:
    yield caught.seed
    yield from (seed for seed in range(SEEDS_MAX) if seed != caught.seed)
