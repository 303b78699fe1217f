"""What this machine lets layer K do: each tool is tried once, and is there or it is told why not.

`python -m chaos tools` prints the list. A fault whose tool is missing is skipped by name; nothing is
weakened.
"""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from chaos.kernel import inside, machine
from chaos.kernel.clocks import clock_library, clock_variables
from chaos.kernel.machine import CommandFailed, Run, command
from chaos.kernel.network import Network
from chaos.kernel.sick_disk import disk_library, disk_variables
from chaos.testbed import Power

PROBE_SECONDS_MAX = 10.0


class Tool(msgspec.Struct, frozen=True):
    """`why_not` is empty when the tool is there. `gives`: what faults need it."""

    name: str
    gives: str
    why_not: str
    install: str = ""  # Debian packages it comes with


def tools() -> list[Tool]:
    """All of them, in the order in which they need one another."""
    return [Tool(name, gives, why_not(name), packages) for name, (_, gives, packages) in _PROBES.items()]


@functools.cache
def why_not(name: str) -> str:
    """Why this tool cannot be used here; empty when it can. Tried once in a process."""
    if os.geteuid() != 0:
        return "needs root"
    probe = _PROBES[name][0]
    try:
        return probe()
    except (CommandFailed, OSError, subprocess.SubprocessError) as error:
        return str(error) or type(error).__name__


# What each power of the testbed stands on.
NEEDS: dict[Power, tuple[str, ...]] = {
    "cut": ("namespaces", "nft", "reset"),
    "drop": ("namespaces", "nft", "reset"),
    "hold": ("namespaces", "nft"),
    "slow": ("namespaces", "nft", "nfqueue"),
    "throttle": ("namespaces", "nft", "shaping"),
    "slice": ("namespaces", "nft"),
    "reset": ("namespaces", "nft", "reset"),
    "limit": ("namespaces", "nft"),
    "packets": ("namespaces", "nft", "nfqueue"),
    "kill": ("namespaces", "nft"),
    "failpoint": ("namespaces", "nft"),
    "pause": ("namespaces", "nft"),
    "power_cut": ("namespaces", "nft", "fuse", "mounts"),
    "slow_disk": ("namespaces", "nft", "fuse"),
    "clock_drift": ("namespaces", "nft", "libfaketime"),
    "clock_jump": ("namespaces", "nft", "libfaketime"),
    "disk_full": ("namespaces", "nft", "mounts"),
    "disk_errors": ("namespaces", "nft", "libfiu"),
    "bit_rot": ("namespaces", "nft"),
    "membership": ("namespaces", "nft"),
}
NEVER: dict[Power, str] = {
    "slow_close": "the kernel has no rule that keeps back a FIN alone; layer toxi does it",
}


def power_why_not(power: Power) -> str:
    """Why a testbed of this layer has not this power here; empty when it has."""
    if power in NEVER:
        return NEVER[power]
    return "; ".join(f"{name}: {reason}" for name in NEEDS[power] if (reason := why_not(name)))


def _need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            raise CommandFailed(f"there is no program {program!r}")


@contextmanager
def _two_hosts() -> Iterator[tuple[Run, Network]]:
    with machine.taken() as run:
        network = Network(run, 0)
        try:
            network.add("one")
            network.add("two")
            yield run, network
        finally:
            network.close()


def _namespaces() -> str:
    _need("ip", "sysctl", "nsenter")
    with machine.taken() as run:
        command("ip", "netns", "add", run.namespace("probe"))
        command("ip", "link", "add", run.name, "type", "bridge")
        words = f"ip link add {run.name}.2 type veth peer name eth0 netns {run.namespace('probe')}"
        command(*words.split())
    return ""


def _nft() -> str:
    text = (
        "add table ip gfs\n"
        "add chain ip gfs probe { type filter hook input priority 0 ; }\n"
        "add rule ip gfs probe ip saddr 10.0.0.1 numgen random mod 1000 < 300 drop\n"
        "add rule ip gfs probe meta l4proto tcp quota over 5 bytes reject with tcp reset\n"
        "add rule ip gfs probe tcp flags syn tcp option maxseg size set 88\n"
        "add chain ip gfs paths { type nat hook prerouting priority -100 ; }\n"
    )
    with machine.taken() as run:
        command("ip", "netns", "add", run.namespace("probe"))
        inside.within(f"/run/netns/{run.namespace('probe')}", lambda: inside.set_rules(text))
    return ""


def _reset() -> str:
    with socket.socket() as listening:
        listening.bind(("127.0.0.77", 0))
        listening.listen()
        with socket.create_connection(listening.getsockname()) as connection:
            connection.settimeout(PROBE_SECONDS_MAX)
            inside.end_connections("127.0.0.77")
            try:
                connection.recv(1)
                return "a connection that was to be reset was closed in order"
            except OSError:
                return ""


def _shaping() -> str:
    _need("tc")
    with _two_hosts() as (_, network):
        network.throttle("one", "two", bytes_per_second=100_000)
        network.heal("one", "two")
    return ""


def _nfqueue() -> str:
    _need("iptables")
    with _two_hosts() as (_, network):
        network.packets("one", "two", loss=0.5)
        network.counts("one", "two")
        network.heal_all()
    return ""


def _netem() -> str:
    with machine.taken() as run:
        command("ip", "netns", "add", run.namespace("probe"))
        command(
            "tc", "-n", run.namespace("probe"), *["qdisc", "add", "dev", "lo", "root", "netem", "loss", "1%"]
        )
    return ""


def _freezer() -> str:
    if not machine.FREEZER.is_dir():
        return f"there is no {machine.FREEZER} (control groups of version 1); SIGSTOP is used in its place"
    with machine.taken() as run:
        group = machine.freezer_group(run, "probe")
        group.mkdir()
        (group / "freezer.state").write_text("FROZEN")
        (group / "freezer.state").write_text("THAWED")
    return ""


def _mounts() -> str:
    _need("mount", "umount", "unshare")
    with machine.taken() as run:
        command("mount", "-t", "tmpfs", "-o", "size=1m", f"{run.name}-probe", str(run.directory))
    return ""


def _fuse() -> str:
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse"
    try:
        import mfusepy  # noqa: F401  # it looks for libfuse when it is imported
    except (ImportError, OSError) as error:
        return f"mfusepy or libfuse is missing: {error}"
    return ""


def _python(variables: dict[str, str], program: str) -> str:
    """What a Python program writes under these variables."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=PROBE_SECONDS_MAX,
        check=False,
    )
    return done.stdout.strip() or done.stderr.strip()


def _libfaketime() -> str:
    if not clock_library():
        return "libfaketime.so is not installed"
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "clock")
        file.write_text("+86400s\n")
        said = _python(clock_variables(file, rate=1.0), "import time; print(int(time.time()))")
        day = int(said) - int(_python({}, "import time; print(int(time.time()))")) if said.isdigit() else 0
    return "" if abs(day - 86400) < 60 else f"a clock a day ahead showed {said!r}"


def _libfiu() -> str:
    if not disk_library():
        return "libfiu's preload libraries are not installed"
    program = "import os\ntry: os.fsync(1)\nexcept OSError as error: print(error.errno)"
    with tempfile.TemporaryDirectory() as directory:
        variables = disk_variables(Path(directory, "fiu"))
        variables["FIU_ENABLE"] = "enable name=posix/io/sync/*,failinfo=5"
        said = _python(variables, program)
    return "" if said == "5" else f"fsync was to fail with EIO, and: {said!r}"


_PROBES: dict[str, tuple[Callable[[], str], str, str]] = {
    "namespaces": (
        _namespaces,
        "all of this layer: a network and an address for each program",
        "iproute2 procps util-linux",
    ),
    "nft": (_nft, "all of this layer: paths of clients; cut, drop, hold, limit, slice", "libnftables1"),
    "reset": (_reset, "reset, and the end of what was cut or dropped (the kernel ends connections)", ""),
    "shaping": (_shaping, "throttle (tc: htb, tbf, u32)", "iproute2"),
    "nfqueue": (_nfqueue, "packets, slow (iptables NFQUEUE, treated by chaos.kernel.packets)", "iptables"),
    "freezer": (_freezer, "pause of a whole program at once; SIGSTOP does without", ""),
    "mounts": (_mounts, "disk_full (tmpfs), and what power_cut mounts", "mount util-linux"),
    "fuse": (_fuse, "power_cut, slow_disk (a file system that forgets)", "fuse3, and mfusepy from PyPI"),
    "libfaketime": (_libfaketime, "clock_drift, clock_jump", "libfaketime"),
    "libfiu": (_libfiu, "disk_errors", "fiu-utils"),
    "netem": (_netem, "nothing: many kernels have it not, nfqueue stands in everywhere", "iproute2"),
}
assert all(set(names) <= set(_PROBES) for names in NEEDS.values())
