"""Runs side by side, and the process that started them killed: the others end, too."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Its worker says that it plays, and then plays on for longer than the test may take.
STARTS_ONE = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from chaos.sweep import end_with_parent

def play():
    os.write(1, b"playing\\n")
    time.sleep(180)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent) as pool:
        pool.submit(play).result()
"""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_processes_of_a_sweep_end_with_the_one_that_was_killed(how: signal.Signals, tmp_path: Path) -> None:
    program = tmp_path / "starts_one.py"
    program.write_text(STARTS_ONE)
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE) as sweep:
        assert sweep.stdout is not None
        assert sweep.stdout.readline() == b"playing\n"
        sweep.send_signal(how)
        assert sweep.wait() == -how
        # The worker holds the pipe's other end for as long as it lives.
        assert sweep.stdout.read() == b""
