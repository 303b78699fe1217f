"""Porcupine, with a model of the tree of its own, and our checker of the namespace agree."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from chaos.toxiproxy.tools import find_go
from gfs.verification.checkers.linearizability import LinearizabilityChecker
from tests.verification.drawn_namespace import CORRUPTIONS, corrupt, draw

JUDGE = Path(__file__).parents[2] / "chaos" / "lincheck"
HISTORIES = int(os.environ.get("SECOND_JUDGE_HISTORIES", "200"))
BUILD_SECONDS = 120
SAYS = {"held": "legal", "violated": "illegal", "undecided": "unknown"}


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    go = find_go()
    if not go:
        pytest.skip("there is no Go here to build chaos/lincheck with")
    fetched = subprocess.run(
        [go, "mod", "download"], cwd=JUDGE, capture_output=True, text=True, timeout=BUILD_SECONDS
    )
    if fetched.returncode:
        pytest.skip(f"Porcupine cannot be fetched: {fetched.stderr[-300:]}")
    built = tmp_path_factory.mktemp("lincheck") / "lincheck"
    subprocess.run([go, "build", "-o", built, "."], cwd=JUDGE, check=True, timeout=BUILD_SECONDS)
    return built


def test_two_judges_agree_on_drawn_histories_right_and_spoilt(judge: Path, tmp_path: Path) -> None:
    ours: dict[str, str] = {}
    checker = LinearizabilityChecker()
    for seed in range(HISTORIES):
        history = draw(seed, 60)
        if seed % 2:
            kind = CORRUPTIONS[seed // 2 % len(CORRUPTIONS)]
            history = corrupt(history, kind, random.Random(seed)) or history
        path = tmp_path / f"{seed}.jsonl"
        history.save(path)
        ours[str(path)] = SAYS[checker.check(history).finding]
    told = subprocess.run([judge, *ours], capture_output=True, text=True, timeout=BUILD_SECONDS)
    theirs = {path: finding for finding, path in (line.split(" ", 1) for line in told.stdout.splitlines())}
    assert theirs == ours, told.stderr
    assert {"legal", "illegal"} <= set(ours.values())
