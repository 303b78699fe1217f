"""Each planted bug is noticed within its budget, and the product without it passes the same runs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from chaos.patches import Patches
from chaos.planted.all_bugs import BUGS
from chaos.planted.bug import Catch, PlantedBug, Seen
from chaos.planted.catching import CPU_SECONDS_MAX, catch, what_it_says
from tests.chaos.planted.trials import TRIALS

pytestmark = pytest.mark.timeout(120)

TRIED = [bug for bug in BUGS.values() if bug.caught is not None]
RUNS = sorted({(bug.caught.trial, bug.caught.seed) for bug in TRIED if bug.caught})


@pytest.mark.parametrize("bug", TRIED, ids=lambda bug: bug.name)
def test_a_planted_bug_is_noticed(bug: PlantedBug) -> None:
    found = catch(bug, TRIALS)
    assert found is not None, f"nobody notices within {CPU_SECONDS_MAX} s of CPU: {bug.says}"


@pytest.mark.parametrize(("trial", "seed"), RUNS)
def test_the_unbroken_product_passes_the_same_run(trial: str, seed: int) -> None:
    TRIALS[trial](seed)


def test_every_bug_says_by_which_words_it_is_known() -> None:
    assert len(BUGS) >= 25
    for bug in BUGS.values():
        told = [found.shows for found in (bug.caught, bug.seen) if isinstance(found, Catch | Seen)]
        assert told and all(len(shows) > 5 for shows in told) and bug.says.endswith("."), bug.name


def test_a_bug_is_gone_when_it_has_been_taken_out() -> None:
    def attributes() -> dict[tuple[int, str], object]:
        found: dict[tuple[int, str], object] = {}

        class Watching(Patches):
            def replace(self, owner: object, name: str, new: object) -> None:
                found[id(owner), name] = vars(owner)[name]

        for bug in BUGS.values():
            bug.plant(Watching())
        return found

    before = attributes()
    for bug in BUGS.values():
        with bug.planted():
            assert attributes() != before, bug.name
    assert attributes() == before


def test_a_trial_that_only_crashes_is_not_taken_for_a_catch() -> None:
    bug = BUGS["stale-replica-served"]
    assert bug.caught is not None

    def crashing(_seed: int) -> None:
        raise TypeError("a patch that does not fit any more")

    assert catch(bug, {**TRIALS, bug.caught.trial: crashing}) is None
    assert what_it_says(crashing, 0).startswith("TypeError")


def test_a_program_with_a_bug_planted_says_so_and_refuses_an_unknown_one() -> None:
    def run(name: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "GFS_PLANTED": name}
        command = [sys.executable, "-m", "chaos.planted.program", "--version"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    planted = run("ack-before-log-sync")
    assert planted.returncode == 0 and "on purpose" in planted.stderr and planted.stdout.startswith("gfs")
    unknown = run("ack-before-anything")
    assert unknown.returncode != 0 and "no planted bug" in unknown.stderr
