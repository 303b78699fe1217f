"""On what machine a figure was taken, and how much CPU time a program has used. Measures nothing itself."""

from __future__ import annotations

import asyncio
import os
import platform
from pathlib import Path

import msgspec

from gfs import __version__

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


class Machine(msgspec.Struct, frozen=True):
    """`load`: the machine's load average of the minute before; above zero, others were at work."""

    cores: int
    processor: str
    kernel: str
    python: str
    event_loop: str
    gfs: str
    load: float


def describe() -> Machine:
    """Call it in a running event loop, before the load begins."""
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        processor=_processor(),
        kernel=platform.release(),
        python=platform.python_version(),
        event_loop=type(asyncio.get_running_loop()).__module__.partition(".")[0],
        gfs=__version__,
        load=round(os.getloadavg()[0], 2),
    )


def cpu_seconds(process: int) -> float:
    """User and system time of a process, all its threads, since its start; to a hundredth."""
    # The name may hold spaces and brackets: what follows the last bracket is plain.
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2]
    user, system = fields.split()[11:13]
    return (int(user) + int(system)) / _TICKS_A_SECOND


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
