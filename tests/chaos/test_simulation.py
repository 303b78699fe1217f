"""Layer S: whole clusters in one process live, die and come back, and a seed tells everything they do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.chaos.simulated_run import play


def test_acknowledged_records_outlive_a_killed_leader_and_a_server_without_power(tmp_path: Path) -> None:
    run = play(7, str(tmp_path))
    assert {record + b";" for record in run.found} >= set(run.appended)
    assert run.leaders[0] != run.leaders[1] != ""
    assert run.crossings > 500
    assert "role" in run.seen


def test_one_seed_is_one_run_also_in_another_process_with_other_hashes(tmp_path: Path) -> None:
    here = play(3, str(tmp_path)).fingerprint
    assert [_elsewhere(3, tmp_path, hash_seed) for hash_seed in ("1", "2")] == [here, here]
    assert play(4, str(tmp_path)).fingerprint != here


def _elsewhere(seed: int, directory: Path, hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-m", "tests.chaos.simulated_run", str(seed), str(directory)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout.split()[-1]
