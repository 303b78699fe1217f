"""Where the deployment's files are, and the programs that judge them: a test without its judge is skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
JUDGE_SECONDS = 60.0


def judge(program: str, *arguments: str | Path, directory: Path = DEPLOY) -> subprocess.CompletedProcess[str]:
    """Run a validator. Skips the test, by the validator's name, where it is not installed."""
    beside = os.path.dirname(sys.executable)  # those that pip brings, also where their directory is no path
    found = shutil.which(program, path=os.pathsep.join((beside, os.environ.get("PATH", os.defpath))))
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
