"""What layer K makes on this machine, by names that can be found again, and how all of it is taken away.

A run has a number; its namespaces, interfaces, mounts and control groups are named `gfsk<number>`, its
addresses are 10.<200 + number>.…, its working files are below RUNS. It holds a lock on its file there for as
long as it lives: what carries the number of a run whose lock is free was left behind by a harness that was
killed, and is anyone's to remove.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PREFIX = "gfsk"
RUNS = Path("/run/gfs-chaos-kernel")
RUNS_MAX = 50  # at once on one machine: the second byte of their addresses
FREEZER = Path("/sys/fs/cgroup/freezer")
COMMAND_SECONDS_MAX = 20.0
END_SECONDS_MAX = 5.0
_NAMED = re.compile(rf"^{PREFIX}(\d+)(?:[-.]|$)")


class CommandFailed(Exception):
    """A command of the system said no; the text is its own."""


def command(*words: str, text: str = "", check: bool = True) -> str:
    """Run it and return what it wrote. Raises: CommandFailed, unless `check` is False."""
    try:
        done = subprocess.run(
            words, input=text, capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        if not check:
            return ""
        raise CommandFailed(f"{' '.join(words)}: {error}") from error
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise CommandFailed(f"{' '.join(words)}: {said or f'status {done.returncode}'}")
    return done.stdout


class Run:
    """One run's number and what goes by it. Use `taken` to have one."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"{PREFIX}{number}"
        self.directory = RUNS / str(number)  # pipes and mount points, gone with the run

    def address(self, host: int, path: int = 0) -> str:
        assert 0 < host < 255, host
        assert 0 <= path < 256, path
        return f"10.{200 + self.number}.{path}.{host}"

    def namespace(self, node: str) -> str:
        return f"{self.name}-{node}"

    def inside(self, node: str) -> list[str]:
        """The words before a command that is to run in this node's namespace."""
        # Several times as fast as "ip netns exec", which mounts /sys anew each time.
        return ["nsenter", f"--net=/run/netns/{self.namespace(node)}"]


@contextlib.contextmanager
def taken() -> Iterator[Run]:
    """A run of one's own; whatever it has made on the machine is removed at the end, however that comes.

    Raises: CommandFailed when RUNS_MAX runs go on already.
    """
    RUNS.mkdir(mode=0o700, exist_ok=True)
    for number in range(RUNS_MAX):
        if (lock := _lock(number)) < 0:
            continue
        run = Run(number)
        try:
            remove(run)  # who had the number before may have been killed
            run.directory.mkdir(mode=0o700)
            yield run
        finally:
            remove(run)
            os.unlink(_lock_path(number))
            os.close(lock)
        return
    raise CommandFailed(f"{RUNS_MAX} runs go on already, or {RUNS} cannot be written")


def clean() -> list[str]:
    """Remove everything of runs that nobody carries on. Returns what it found, a line each."""
    found: list[str] = []
    for number in sorted(_numbers_in_use()):
        RUNS.mkdir(mode=0o700, exist_ok=True)
        if (lock := _lock(number)) < 0:
            found.append(f"{PREFIX}{number} belongs to a run that goes on: left alone")
            continue
        found += remove(Run(number))
        os.unlink(_lock_path(number))
        os.close(lock)
    return found


def remove(run: Run) -> list[str]:
    """Everything that carries this run's name: programs first, or what they use cannot go."""
    found: list[str] = []
    for group in _groups(run):
        _thaw(group)
    namespaces = [name for name in _namespaces() if _number(name) == run.number]
    for name in namespaces:
        for process in command("ip", "netns", "pids", name, check=False).split():
            found.append(f"process {process} in {name}")
            _end(int(process))
    for mountpoint in mounts(run):
        found.append(f"mount {mountpoint}")
        command("umount", "--lazy", mountpoint, check=False)
    for name in namespaces:
        found.append(f"namespace {name}")
        command("ip", "netns", "delete", name, check=False)
    for name in _interfaces():
        if _number(name) == run.number:
            found.append(f"interface {name}")
            command("ip", "link", "delete", name, check=False)
    for rule in _firewall_rules(run):
        found.append(f"rule {rule}")
        command("iptables", "-t", "mangle", "-D", *rule.split()[1:], check=False)
    for group in _groups(run):
        found.append(f"control group {group}")
        with contextlib.suppress(OSError):
            group.rmdir()
    if run.directory.exists():
        shutil.rmtree(run.directory, ignore_errors=True)
    return found


def mounts(run: Run) -> list[str]:
    """Where something of this run is mounted, the innermost first."""
    found = []
    for line in Path("/proc/mounts").read_text().splitlines():
        source, mountpoint, *_ = line.split()
        if _number(source) == run.number:
            found.append(mountpoint.encode().decode("unicode_escape"))
    return sorted(found, key=len, reverse=True)


def freezer_group(run: Run, node: str) -> Path:
    return FREEZER / f"{run.name}-{node}"


def _numbers_in_use() -> set[int]:
    names = [*_namespaces(), *_interfaces()]
    names += [line.split()[0] for line in Path("/proc/mounts").read_text().splitlines()]
    if FREEZER.is_dir():
        names += [entry.name for entry in FREEZER.iterdir()]
    numbers = {number for name in names if (number := _number(name)) is not None}
    if RUNS.is_dir():
        numbers |= {int(entry.name) for entry in RUNS.iterdir() if entry.name.isdigit()}
    return {number for number in numbers if number < RUNS_MAX}


def _number(name: str) -> int | None:
    match = _NAMED.match(name)
    return int(match[1]) if match else None


def _namespaces() -> list[str]:
    directory = Path("/run/netns")
    return [entry.name for entry in directory.iterdir()] if directory.is_dir() else []


def _interfaces() -> Sequence[str]:
    return os.listdir("/sys/class/net")


def _firewall_rules(run: Run) -> list[str]:
    """Rules of our own namespace that send packets of this run to a queue, as iptables tells them."""
    said = command("iptables", "-t", "mangle", "-S", "OUTPUT", check=False)
    return [line for line in said.splitlines() if f"--comment {run.name}-" in line]


def _groups(run: Run) -> list[Path]:
    return list(FREEZER.glob(f"{run.name}-*")) if FREEZER.is_dir() else []


def _thaw(group: Path) -> None:
    with contextlib.suppress(OSError):
        (group / "freezer.state").write_text("THAWED")


def _end(process: int) -> None:
    """kill -9, and wait until it has let go of what it holds."""
    for number in (signal.SIGCONT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
    deadline = time.monotonic() + END_SECONDS_MAX
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            return
        if state == "Z":  # whoever started it still lives, and will bury it
            return
        time.sleep(0.005)


def _lock_path(number: int) -> Path:
    return RUNS / f"{number}.lock"


def _lock(number: int) -> int:
    """A descriptor that holds the run's lock; -1 when somebody has it, or it cannot be had."""
    try:
        descriptor = os.open(_lock_path(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == os.stat(_lock_path(number)).st_ino:  # not unlinked meanwhile
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return -1
