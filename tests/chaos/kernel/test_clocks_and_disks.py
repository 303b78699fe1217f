"""Clocks that drift and jump, and disks that refuse, fill up and rot: seen by a real program."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chaos.kernel import machine, sick_disk
from chaos.kernel.clocks import JUMP_SEEN_SECONDS, clock_variables, set_offset

pytestmark = pytest.mark.timeout(60)

# Answers each line it gets with what its expression is; an OSError is told by its number.
SERVANT = """
import os, sys, time
for line in sys.stdin:
    try:
        print(eval(line), flush=True)
    except OSError as error:
        print("errno", error.errno, flush=True)
"""


class Servant:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def says(self, expression: str) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@contextmanager
def servant(variables: dict[str, str]) -> Iterator[Servant]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVANT],
        env={**os.environ, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Servant(process)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.needs_tools("libfaketime")
def test_a_wall_clock_jumps_while_the_program_runs_and_its_monotonic_clock_does_not(tmp_path: Path) -> None:
    file = tmp_path / "clock"
    set_offset(file, 0)
    with servant(clock_variables(file, rate=1.0)) as program:
        monotonic = float(program.says("time.monotonic()"))
        assert abs(float(program.says("time.time()")) - time.time()) < 1
        for seconds in (600.0, -600.0):
            set_offset(file, seconds)
            deadline = time.monotonic() + 5 * JUMP_SEEN_SECONDS
            while abs(float(program.says("time.time()")) - time.time() - seconds) > 1:
                assert time.monotonic() < deadline, f"the clock has not jumped by {seconds}"
        assert 0 <= float(program.says("time.monotonic()")) - monotonic < 60


@pytest.mark.needs_tools("libfaketime")
def test_clocks_that_drift_show_another_second_to_the_program(tmp_path: Path) -> None:
    with servant(clock_variables(tmp_path / "clock", rate=2.0)) as program:
        began = time.monotonic()
        first = float(program.says("time.monotonic()"))
        program.says("time.sleep(1)")
        elapsed = time.monotonic() - began
        shown = float(program.says("time.monotonic()")) - first
    assert 0.4 < elapsed < 0.9
    assert shown / elapsed == pytest.approx(2, rel=0.2)


@pytest.mark.needs_tools("libfiu")
def test_eio_comes_and_goes_at_run_time(tmp_path: Path) -> None:
    pipe = tmp_path / "fiu"
    with servant(sick_disk.disk_variables(pipe)) as program:
        program.says(f"globals().update(f=os.open({str(tmp_path / 'file')!r}, os.O_RDWR | os.O_CREAT))")
        write, sync = "os.pwrite(f, b'x', 0)", "os.fdatasync(f)"
        assert (program.says(write), program.says(sync)) == ("1", "None")
        sick_disk.fail_calls(pipe, program.process.pid, share=1.0)
        assert (program.says(write), program.says(sync)) == ("errno 5", "errno 5")
        sick_disk.fail_calls(pipe, program.process.pid, share=0.5)
        answers = [program.says(write) for _ in range(60)]
        assert {"1", "errno 5"} == set(answers)
        sick_disk.fail_calls(pipe, program.process.pid, share=0)
        assert (program.says(write), program.says(sync)) == ("1", "None")


def test_a_program_that_takes_no_commands_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(machine.CommandFailed, match="takes no commands"):
        sick_disk.fail_calls(tmp_path / "fiu", os.getpid(), share=1.0)


@pytest.mark.needs_tools("mounts", "namespaces")
def test_a_filled_disk_refuses_the_next_byte_until_it_is_emptied() -> None:
    with machine.taken() as run:
        machine.command("mount", "-t", "tmpfs", "-o", "size=4m", f"{run.name}-disk", str(run.directory))
        assert sick_disk.fill(run.directory) > 3 * 2**20
        with pytest.raises(OSError, match="No space left"):
            (run.directory / "file").write_bytes(b"x" * 8192)
        sick_disk.empty(run.directory)
        (run.directory / "file").write_bytes(b"x" * 8192)


def test_bits_flip_in_files_of_that_suffix_only_and_under_who_reads_them(tmp_path: Path) -> None:
    for name in ("a.chunk", "b.chunk", "c.index"):
        (tmp_path / name).write_bytes(bytes(1000))
    with open(tmp_path / "a.chunk", "rb") as first, open(tmp_path / "b.chunk", "rb") as second:
        hit = sick_disk.flip_bits(tmp_path, random.Random(2), bits=5, suffixes=(".chunk",))
        ones = sum(byte.bit_count() for byte in first.read() + second.read())
    assert len(hit) == 5
    assert ones in (1, 3, 5)  # the same bit may have been met twice
    assert (tmp_path / "c.index").read_bytes() == bytes(1000)
