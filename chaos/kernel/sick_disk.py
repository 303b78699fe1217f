"""Disks that answer EIO (libfiu between a program and its system), flip bits, or are full."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from chaos.kernel.machine import CommandFailed

_LIBRARIES = ("fiu_run_preload.so", "fiu_posix_preload.so")
_DIRECTORIES = ("/usr/lib/fiu", "/usr/lib64/fiu", "/usr/local/lib/fiu")
# Calls that programs make of files only: plain read and write are those of pipes and of standard error, too.
WRITES_AND_SYNCS = (
    "posix/io/rw/pwrite",
    "posix/io/rw/pwritev",
    "posix/io/sync/fsync",
    "posix/io/sync/fdatasync",
)
FAILING_CALLS = (*WRITES_AND_SYNCS, "posix/io/rw/pread", "posix/io/rw/preadv", "posix/io/dir/rename")
ANSWER_SECONDS_MAX = 3.0
BALLAST = "ballast"  # the file that fills a disk
BALLAST_PIECE_BYTES = 2**20


def disk_library() -> str:
    """What LD_PRELOAD must name; empty when it is not installed."""
    for directory in _DIRECTORIES:
        paths = [os.path.join(directory, name) for name in _LIBRARIES]
        if all(map(os.path.exists, paths)):
            return " ".join(paths)
    return ""


def disk_variables(pipe: Path) -> dict[str, str]:
    """Environment for a program that takes commands from pipes `pipe`-<process>.in and .out."""
    return {"LD_PRELOAD": disk_library(), "FIU_CTRL_FIFO": str(pipe)}


def fail_calls(pipe: Path, process: int, *, share: float, calls: Sequence[str] = FAILING_CALLS) -> None:
    """From now on this share of the calls fails with EIO; 0 ends it.

    Raises: CommandFailed, when the program does not answer: it has ended, or does not run under libfiu.
    """
    with _pipes(pipe, process) as (asking, answering):
        for name in calls:
            if share <= 0:
                line = f"disable name={name}"
            elif share >= 1:
                line = f"enable name={name},failinfo={errno.EIO}"
            else:
                line = f"enable_random name={name},probability={share},failinfo={errno.EIO}"
            answer = _told(asking, answering, process, line)
            if answer == b"-1" and share > 0:  # what was not enabled cannot be disabled: that was wanted
                raise CommandFailed(f"process {process} refuses {line!r}")


@contextlib.contextmanager
def _pipes(pipe: Path, process: int) -> Iterator[tuple[int, int]]:
    """Both pipes, held open until the last answer: the other side opens its own anew after each end."""
    asking = _open_for_commands(f"{pipe}-{process}.in", process)
    try:
        answering = os.open(f"{pipe}-{process}.out", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            yield asking, answering
        finally:
            os.close(answering)
    finally:
        os.close(asking)


def _open_for_commands(path: str, process: int) -> int:
    deadline = time.monotonic() + ANSWER_SECONDS_MAX
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > deadline:
                raise CommandFailed(f"process {process} takes no commands for its disk: {error}") from error
        time.sleep(0.005)


def _told(asking: int, answering: int, process: int, line: str) -> bytes:
    """The answer to a line. For a moment after an earlier end nobody reads, or has opened the way back."""
    deadline = time.monotonic() + ANSWER_SECONDS_MAX
    written = False
    while time.monotonic() < deadline:
        try:
            written = written or bool(os.write(asking, line.encode() + b"\n"))
            if answer := os.read(answering, 64):
                return answer.strip()
        except (BrokenPipeError, BlockingIOError):
            pass
        time.sleep(0.002)
    raise CommandFailed(f"process {process} has not answered {line!r}")


def fill(directory: Path) -> int:
    """Take all that is left of the file system of `directory`. Returns how many bytes that was."""
    taken = 0
    descriptor = os.open(directory / BALLAST, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        piece = BALLAST_PIECE_BYTES
        while piece:
            try:
                taken += os.write(descriptor, bytes(piece))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                piece //= 2
    finally:
        os.close(descriptor)
    return taken


def empty(directory: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(directory / BALLAST)


def flip_bits(directory: Path, chance: random.Random, *, bits: int, suffixes: Sequence[str]) -> list[Path]:
    """Flip bits in files below `directory` whose names end so, in place, under whoever has them open.

    A bit for each of `bits`, in files that have a byte at all. Returns the file of each flipped bit.
    """
    files = [path for path in sorted(directory.rglob("*")) if path.name.endswith(tuple(suffixes))]
    hit: list[Path] = []
    for _ in range(bits):
        sizes = {path: path.stat().st_size for path in files if path.exists()}
        candidates = [path for path, size in sizes.items() if size]
        if not candidates:
            break
        path = chance.choice(candidates)
        offset, mask = chance.randrange(sizes[path]), 1 << chance.randrange(8)
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if byte := os.pread(descriptor, 1, offset):
                os.pwrite(descriptor, bytes([byte[0] ^ mask]), offset)
                hit.append(path)
        finally:
            os.close(descriptor)
    return hit
