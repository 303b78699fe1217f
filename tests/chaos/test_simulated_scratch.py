"""Directories of simulated clusters: killed runs leave theirs, the next run removes it, and only it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chaos.simulation.scratch import remove_left_behind, scratch_directory

HOLDS_ONE = """
import sys
from chaos.simulation.scratch import scratch_directory
with scratch_directory(sys.argv[1]) as path:
    print(path, flush=True)
    sys.stdin.read()
"""


@contextmanager
def _another_run(parent: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process in the midst of a run, and its directory, in which there is a file."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS_ONE, str(parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        try:
            assert run.stdout is not None
            path = run.stdout.readline().strip()
            Path(path, "data.mdb").write_bytes(b"nodes' data")
            yield run, path
        finally:
            run.kill()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_killed_run_left_is_removed_by_the_next(how: signal.Signals, tmp_path: Path) -> None:
    with _another_run(tmp_path) as (run, left):
        run.send_signal(how)
        assert run.wait() == -how
    assert os.path.isdir(left)
    with scratch_directory(str(tmp_path)) as own:
        assert os.listdir(tmp_path) == [os.path.basename(own)]
    assert os.listdir(tmp_path) == []


def test_directory_of_a_run_that_lives_is_left_alone(tmp_path: Path) -> None:
    with _another_run(tmp_path) as (_, held):
        assert remove_left_behind(str(tmp_path)) == []
        with scratch_directory(str(tmp_path)) as own:
            assert own != held
        assert os.path.exists(os.path.join(held, "data.mdb"))


def test_what_goes_by_another_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "gfs-of-somebody").mkdir()
    assert remove_left_behind(str(tmp_path)) == []
    assert os.listdir(tmp_path) == ["gfs-of-somebody"]


def test_run_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broke"), scratch_directory(str(tmp_path)):
        raise ValueError("it broke")
    assert os.listdir(tmp_path) == []
