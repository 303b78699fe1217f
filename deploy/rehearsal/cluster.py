"""The cluster on the hosts as its operator sees it: README's commands, `gfs` on the first host, waiting."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

import gfs
from deploy.rehearsal.hosts import CommandFailed, Hosts
from gfs.errors import GfsError
from gfs.settings import ClientSettings

ROOT = Path(__file__).parents[2]
SECTION = "## From three Linux hosts"
SOURCES = ("gfs", "deploy", "README.md", "LICENSE", "pyproject.toml")
WAIT_SECONDS_MAX = 240.0
CALL_SECONDS = 5.0
POLL_SECONDS = 0.05
MASTERS = ",".join(f"master{n}:9500" for n in (1, 2, 3))
FIRST = "master1"  # where README's commands are run

Found = dict[str, Any]  # the JSON that a command of gfs has answered with


def commands_of_readme() -> list[str]:
    """The lines with which README makes a cluster of hosts."""
    section = (ROOT / "README.md").read_text().partition(SECTION)[2]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block is not None, "README has lost the commands that set up three hosts"
    return block[1].splitlines()


def copy_of_source(directory: Path) -> None:
    directory.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, directory)


def wheel_of_version(version: str, directory: Path) -> Path:
    """A wheel of this source that says it is of `version`. Raises: CommandFailed."""
    source = directory / "source"
    copy_of_source(source)
    for path in (source / "pyproject.toml", source / "gfs" / "__init__.py"):
        text, changes = re.subn(
            r'^(version|__version__) = ".*"', rf'\1 = "{version}"', path.read_text(), flags=re.MULTILINE
        )
        assert changes == 1, f"{path.name} names its version no more"
        path.write_text(text)
    words = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run(
        [*words, "-w", str(directory), str(source)], capture_output=True, text=True, check=False
    )
    if built.returncode:
        raise CommandFailed(f"the wheel was not built: {built.stdout}{built.stderr}")
    return next(directory.glob("*.whl"))


class Cluster:
    """`site`: the operator's copy of the source tree, with the certificates and the first token beside it."""

    def __init__(self, hosts: Hosts, names: Mapping[str, tuple[str, ...]]) -> None:
        """`names`: of each address, what it is: "master1", "storage2" and so on."""
        self.hosts = hosts
        self.host_of: dict[str, str] = {}
        self._client: gfs.Client | None = None
        for number, (address, roles) in enumerate(names.items(), start=1):
            hosts.add(f"host{number}", address, aliases=roles)
            self.host_of.update({_node(role): f"host{number}" for role in roles})
        self.machines = list(hosts.names)
        self.site = hosts.directory / "site"
        copy_of_source(self.site)
        lines = [f"{address} {' '.join(roles)}" for address, roles in names.items()]
        (self.site / "hosts").write_text("\n".join(lines) + "\n")

    def set_up(self) -> None:
        """Run README's commands, nothing else. Raises: CommandFailed."""
        script = self.site / "commands.sh"
        script.write_text("set -ex -o pipefail\n" + "\n".join(commands_of_readme()) + "\n")
        self.hosts.on(FIRST, f"cd {self.site}; bash {script}")

    def gfs(self, arguments: str) -> str:
        """What a command of gfs says, asked as README does. Raises: CommandFailed."""
        token = f"GFS_TOKEN_FILE={self.site}/admin.token"
        path = "PATH=/opt/gfs/bin:$PATH"
        return self.hosts.on(
            FIRST, f"cd {self.site}; {path} {token} gfs --config /etc/gfs/gfs.toml {arguments}"
        )

    def status(self) -> Found:
        """As `gfs -o json status` says it, without the time that a command takes to start."""
        try:
            found: Found = msgspec.to_builtins(self._connected().cluster_status())
        except GfsError as error:
            raise CommandFailed(f"status: {error.message}") from error
        return found

    def servers_of(self, path: str) -> set[str]:
        """Living chunk servers that hold all chunks of a file, as they are now. Raises: CommandFailed."""
        try:
            places = self._connected().chunks(path)
        except GfsError as error:
            raise CommandFailed(f"{path}: {error.message}") from error
        held = [{_node_at(replica.control) for replica in place.replicas} for place in places]
        return set.intersection(*held) if held else set()

    def _connected(self) -> gfs.Client:
        if self._client is None:
            self._client = gfs.connect(MASTERS, settings=self.client_settings())
        return self._client

    def client_settings(self) -> ClientSettings:
        """Of the first administrator, as the superuser whose the root directory is."""
        token, authority = self.site / "admin.token", self.site / "ca" / "ca.pem"
        return ClientSettings(user="gfs", token_file=str(token), ca_file=str(authority), retry_seconds=30.0)

    def server(self, node: str) -> Found:
        """What the leader knows of one chunk server; empty when it has not heard of it."""
        for one in self.status()["chunkservers"]:
            if _node_at(one["control"]) == node:
                return dict(one)
        return {}

    def until(self, what: str, holds: Callable[[], object], *, seconds: float = WAIT_SECONDS_MAX) -> None:
        """Ask again until it holds. Raises: CommandFailed, with what was found instead."""
        give_up_at = time.monotonic() + seconds
        while True:
            try:
                why = ""
                if holds():
                    return
            except CommandFailed as error:
                why = str(error)
            if time.monotonic() > give_up_at:
                raise CommandFailed(f"not {what} after {seconds:.0f} s: {why or self.gfs('status')}")
            time.sleep(POLL_SECONDS)

    def until_healthy(self) -> None:
        """All programs that the configuration names take part, and nothing is wrong."""

        def healthy() -> bool:
            found = self.status()
            alive = {_node_at(one["control"]) for one in found["chunkservers"] if one.get("alive", True)}
            wanted = {node for node in self.host_of if node.startswith("c")}
            return found["health"] == "ok" and wanted <= alive

        self.until("healthy", healthy)

    def systemctl(self, verb: str, node: str) -> None:
        unit = "gfs-master" if node.startswith("m") else "gfs-chunkserver"
        self.hosts.on(self.host_of[node], f"systemctl {verb} {unit}@{node}")

    def certificate_shown_by(self, node: str) -> str:
        """By the program that runs now, in PEM. Raises: CommandFailed."""
        name, _, port = self._control(node).partition(":")
        try:
            return ssl.get_server_certificate((name, int(port)), timeout=CALL_SECONDS).strip()
        except OSError as error:
            raise CommandFailed(f"{node} shows no certificate: {error}") from error

    def _control(self, node: str) -> str:
        found = self.status()
        for one in (*found["masters"], *found["chunkservers"]):
            if _node_at(one["control"]) == node:
                return str(one["control"])
        raise CommandFailed(f"{node} is not in the status of the cluster")


def _node_at(control: str) -> str:
    return _node(control.partition(":")[0])


def _node(role: str) -> str:
    """ "master2" is m2, "storage2" is c2."""
    return role.replace("master", "m").replace("storage", "c")
