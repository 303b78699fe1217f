"""Where the deployment's files are, and the programs that judge them: a test without its judge is skipped."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
JUDGE_SECONDS = 60.0


def judge(program: str, *arguments: str | Path, directory: Path = DEPLOY) -> subprocess.CompletedProcess[str]:
    """Run a validator. Skips the test, by the validator's name, where it is not installed."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return subprocess.run(
        [found, *map(str, arguments)],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=JUDGE_SECONDS,
        check=False,
    )
