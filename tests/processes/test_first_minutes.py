"""README's first ten minutes, typed as they stand there by somebody who has a home and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes.test_command_line import REPOSITORY, readme_block

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

SECONDS_MAX = 200.0
CAN_MOUNT = os.path.exists("/dev/fuse") and os.geteuid() == 0


def test_they_end_well_and_show_what_they_promise(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    lines = []
    for line in readme_block("gfs put -r deploy /").splitlines():
        if line.startswith(". .venv"):
            continue  # the interpreter of this test stands for it
        if " gfs mount " in line and not CAN_MOUNT:
            continue
        line = line.replace("gfs up --detach", "gfs up --port 0 --detach")
        lines.append(line.replace("gfs/local/gfs.toml", f"{tmp_path}/share/gfs/local/gfs.toml"))
    assert len(lines) > 12
    script = "\n".join(
        (
            "set -eo pipefail",
            f'gfs() {{ {sys.executable} -m gfs "$@"; }}',
            f'python() {{ {sys.executable} "$@"; }}',
            "trap 'gfs -q down || true' EXIT",
            *lines,
        )
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GFS_")}
    environment |= {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "share")}
    environment["PYTHONPATH"] = str(REPOSITORY)
    typed = tmp_path / "typed"
    typed.write_text(script)  # not an argument: 'pkill -f' would find its own shell by it
    ran = subprocess.run(
        ["bash", str(typed)],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
    )
    assert ran.returncode == 0, (ran.stdout, ran.stderr)
    assert "91\n" in ran.stdout, "the sum that pandas has read"
    assert "README" not in ran.stderr and "Traceback" not in ran.stderr
    assert "/ui" in ran.stdout and "m1" in ran.stdout
    assert f"Sign in with the token in {tmp_path}/share/gfs/local/token" in ran.stderr
