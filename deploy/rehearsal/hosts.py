"""Hosts of a rehearsal: a network and a mount namespace each, on a bridge. What runs on them, others say.

Everything happens inside namespaces of processes, mounts and network that end with the rehearsal itself, so
that nothing of it stays on the machine. Only empty mount points are made there, and taken away again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

OPERATOR_ADDRESS = "10.0.0.254"  # where the clients of the load are
HOST_PATHS = ("/etc/gfs", "/var/lib/gfs", "/opt/gfs", "/etc/systemd/system")  # each host has its own
HOST_FILES = ("/etc/passwd", "/etc/group", "/etc/hosts")  # … and a copy of these
STAND_INS = Path(__file__).parent / "stand_ins"
COMMAND_SECONDS_MAX = 300.0
LOOK_SECONDS = 0.01


class CommandFailed(Exception):
    """A command that had to work did not; says which, and what it said."""


@contextmanager
def mount_points() -> Iterator[None]:
    """Directories that hosts mount their own ones over; those that were not there are gone afterwards."""
    made = []
    for path in map(Path, (*HOST_PATHS, "/run/netns")):
        made += [one for one in reversed((path, *path.parents)) if not one.is_dir()]
        path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for path in reversed(made):
            with suppress(OSError):  # somebody else has put something there meanwhile
                path.rmdir()


def in_namespaces(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run `command` where it may make hosts; every process it leaves behind ends with it. Its exit status."""
    words = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", *command]
    with mount_points():
        return subprocess.run(words, env={**os.environ, **environment}, check=False).returncode


class Hosts:
    """Use inside `in_namespaces`. `directory` is not there yet, and stays when it is over."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.names: list[str] = []
        (directory / "run").mkdir(parents=True)
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("GFS")},
            "PATH": f"{STAND_INS}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "REHEARSAL": str(directory),
            # No package index: our wheels, and what they need from where this program has it.
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this one as "build isolation: 0"
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
            "PYTHONPATH": str(_dependencies(directory / "dependencies")),
            "GFS__CHUNKSERVER__FREE_BYTES_MIN": "64MiB",  # all hosts share this machine's disk
        }
        own = directory / "hosts"
        own.write_text(Path("/etc/hosts").read_text())
        for words in (
            "mount -t tmpfs none /run/netns",
            f"mount --bind {own} /etc/hosts",
            "ip link set lo up",
            "ip link add switch type bridge",
            f"ip address add {OPERATOR_ADDRESS}/24 dev switch",
            "ip link set switch up",
        ):
            self.run(words)

    def add(self, name: str, address: str, *, aliases: Sequence[str] = ()) -> None:
        """A host at `address`, which `ssh` knows by all its names. Raises: CommandFailed."""
        home = self.directory / name
        home.mkdir()
        for alias in aliases:
            (self.directory / alias).symlink_to(home)
        with open("/etc/hosts", "a") as known:
            known.write(f"{address} {name} {' '.join(aliases)}\n")
        for words in (
            f"ip netns add {name}",
            f"ip link add {name} type veth peer name eth0 netns {name}",
            f"ip link set {name} master switch up",
            f"ip -n {name} address add {address}/24 dev eth0",
            f"ip -n {name} link set eth0 up",
            f"ip -n {name} link set lo up",
        ):
            self.run(words)
        self._hold(name, home)
        self.names.append(name)

    def _hold(self, name: str, home: Path) -> None:
        """A process that keeps the host's mounts, and by which `ssh` enters it."""
        mounts = []
        for path in (*HOST_PATHS, *HOST_FILES):
            own = home / path.strip("/").replace("/", "-")
            if path == "/etc/hosts":
                own.write_text("127.0.0.1 localhost\n")
            elif path in HOST_FILES:
                own.write_text(Path(path).read_text())
            else:
                own.mkdir()
            mounts.append(f"mount --bind {own} {path}")
        held = " && ".join([*mounts, f"echo $$ > {home}/holder.new", f"mv {home}/holder.new {home}/holder"])
        subprocess.Popen(
            [
                *f"nsenter --net=/run/netns/{name} unshare --mount sh -c".split(),
                f"{held} && exec sleep infinity",
            ],
            stdin=subprocess.DEVNULL,
        )
        give_up_at = time.monotonic() + COMMAND_SECONDS_MAX
        while not (home / "holder").exists():
            if time.monotonic() > give_up_at:
                raise CommandFailed(f"{name} did not come up")
            time.sleep(LOOK_SECONDS)

    def unplug(self, name: str) -> None:
        self.run(f"ip link set {name} down")

    def plug_in(self, name: str) -> None:
        self.run(f"ip link set {name} up")

    def run(self, script: str) -> str:
        """What a script said, run on the operator's side. Raises: CommandFailed."""
        return self._run(["bash", "-e", "-o", "pipefail", "-c", script])

    def on(self, host: str, script: str) -> str:
        """What a script said on `host`. Raises: CommandFailed."""
        return self._run(["ssh", host, f"set -e; {script}"])

    def _run(self, words: Sequence[str]) -> str:
        # Into files: a pipe would be waited for until the last program that the command has started ends.
        with TemporaryFile("w+") as said, TemporaryFile("w+") as complained:
            try:
                ran = subprocess.run(
                    words,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=complained,
                    timeout=COMMAND_SECONDS_MAX,
                    check=False,
                )
                how = f"ended with {ran.returncode}" if ran.returncode else ""
            except subprocess.TimeoutExpired:
                how = f"has not ended in {COMMAND_SECONDS_MAX:.0f} s"
            said.seek(0)
            complained.seek(0)
            answer = said.read()
            if how:
                raise CommandFailed(f"{words[-1]}\n{how}: {answer}{complained.read()}")
        return answer


def _dependencies(directory: Path) -> Path:
    """Links to all packages of this program's Python but pygfs itself: hosts install that from a wheel."""
    directory.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        name = entry.name.lower()
        if not name.startswith(("pygfs", "pip", "setuptools")) and not name.endswith(".pth"):
            (directory / entry.name).symlink_to(entry)
    return directory
