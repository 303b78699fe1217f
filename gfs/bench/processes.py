"""Programs run to be measured: how long, how much CPU time, how much memory of their own. Judges nothing.

Memory of one's own is what is written to: "Anonymous" of /proc. Pages of a mapped file are the page cache's,
which it takes back whenever somebody needs the room.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

SAMPLE_SECONDS = 0.02


class Ran(NamedTuple):
    """`own_bytes`: the most that the program and its children together had, as far as samples show."""

    seconds: float
    cpu_seconds: float
    own_bytes: int
    output: bytes


def run_measured(*arguments: str) -> Ran:
    """Run `gfs` with these arguments to its end; it must succeed."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    # A file: a pipe would have to be read while memory is sampled.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(gfs(*arguments), stdout=output)
        own_bytes = 0
        while process.poll() is None:
            own_bytes = max(own_bytes, own_memory(process.pid))
            time.sleep(SAMPLE_SECONDS)
        seconds = time.monotonic() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert process.returncode == 0, f"gfs {' '.join(arguments)} ended with {process.returncode}"
        output.seek(0)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Ran(seconds, cpu, own_bytes, output.read())


def gfs(*arguments: str) -> Sequence[str]:
    return (sys.executable, "-m", "gfs", *arguments)


def own_memory(process: int) -> int:
    """Bytes that a process and those below it have written to; 0 for what is gone."""
    return sum(_kept(member, "Anonymous:") for member in family(process))


def mapped_memory(process: int) -> int:
    """Bytes in memory of files that a process maps: page cache that it looks at."""
    return _kept(process, "Rss:") - _kept(process, "Anonymous:")


def family(process: int) -> Iterator[int]:
    """The process and all below it that are still there."""
    yield process
    with suppress(OSError):
        for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            yield from family(int(child))


def _kept(process: int, name: str) -> int:
    try:
        with open(f"/proc/{process}/smaps_rollup", encoding="ascii") as lines:
            for line in lines:
                if line.startswith(name):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass  # it has just ended
    return 0
