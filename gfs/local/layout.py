"""The layout of a whole cluster in one data directory: its gfs.toml, secret, and the programs' folders.

    DIR/gfs.toml  secret  supervisor.lock  logs/NAME.log  masters/m1/…  chunkservers/c1/…

Made once, then only read, but that masters come and go (layout_changes): ports and ids must not change under
data that is there.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from typing import NamedTuple

from gfs import settings as settings_module
from gfs.credentials import new_token, read_token, token_digest
from gfs.errors import InvalidArgument, NotFound, Unavailable
from gfs.local.ports import free_ports
from gfs.settings import Settings

CONTROL_PORT_FIRST = 9500
TOKEN_FILE = "token"
MASTERS_ALLOWED = (1, 3, 5)
CHUNKSERVERS_MAX = 32
PROBE_SECONDS_MAX = 0.5  # how long somebody who only asks for a lock's holder may keep it from being taken


class Layout(NamedTuple):
    """A local cluster on disk. `settings` is what its gfs.toml says."""

    directory: str
    settings: Settings

    @property
    def config_path(self) -> str:
        return os.path.join(self.directory, "gfs.toml")

    def node_directory(self, node: str) -> str:
        if node in self.settings.masters:
            return self.settings.masters[node].directory
        return self.settings.chunkservers[node].directory

    def log_path(self, node: str) -> str:
        return os.path.join(self.directory, "logs", f"{node}.log")


def exists(directory: str) -> bool:
    return os.path.exists(os.path.join(directory, "gfs.toml"))


def open_layout(directory: str) -> Layout:
    """Raises: NotFound when no cluster was made here; ConfigInvalid."""
    if not exists(directory):
        raise NotFound(f"there is no cluster in {directory}", hint="Make one with 'gfs up'.")
    return Layout(directory, settings_module.load(os.path.join(directory, "gfs.toml")))


def make_layout(
    directory: str, *, masters: int, chunkservers: int, first_port: int, tokens: bool = False
) -> Layout:
    """Lay out a new cluster; `first_port` 0 takes free ports. Who comes second gets the one made first.

    `tokens`: it wants a token of whoever calls; the first one, an admin's, is in the file `token`.

    Raises: InvalidArgument.
    """
    if masters not in MASTERS_ALLOWED:
        raise InvalidArgument(
            f"{masters} masters make no sensible quorum", hint="Use 1 (no high availability), 3 or 5."
        )
    if not 1 <= chunkservers <= CHUNKSERVERS_MAX:
        raise InvalidArgument(f"{chunkservers} chunk servers: use 1 to {CHUNKSERVERS_MAX} on one machine")
    os.makedirs(os.path.join(directory, "logs"), mode=0o700, exist_ok=True)
    _create_once(os.path.join(directory, "secret"), secrets.token_hex(32) + "\n")
    first_token = ""
    if tokens:
        token_file = os.path.join(directory, TOKEN_FILE)
        _create_once(token_file, new_token() + "\n")
        first_token = token_digest(read_token(token_file)).hex()
    ports = _ports(2 * (masters + chunkservers), first_port)
    text = _config_text(directory, masters, chunkservers, ports, first_token)
    _create_once(os.path.join(directory, "gfs.toml"), text)
    return open_layout(directory)


def _create_once(path: str, text: str) -> None:
    """Make a file that appears whole; one that is there already stays, whoever made it."""
    temporary = f"{path}.{secrets.token_hex(4)}.tmp"
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass  # to replace it would mix two clusters' ids and ports under programs that run already
    finally:
        os.unlink(temporary)


def _config_text(directory: str, masters: int, chunkservers: int, ports: list[int], first_token: str) -> str:
    def place(*parts: str) -> str:
        return json.dumps(os.path.join(directory, *parts))  # a JSON string is a TOML basic string

    free = iter(ports)
    lines = [
        "# A gfs cluster on one machine, made by 'gfs up'. 'gfs config schema' tells every key.",
        "[cluster]",
        f'id = "{secrets.token_hex(8)}"',
        f"secret_file = {place('secret')}",
        "",
        "[master]",
        f"replication_goal = {min(3, chunkservers)}",
    ]
    if first_token:
        lines += [
            "",
            "[access]",
            "tokens = true  # whoever calls shows one; 'gfs token' makes more",
            f'first_token_sha256 = "{first_token}"',
            "",
            "[client]",
            f"token_file = {place(TOKEN_FILE)}",
        ]
    for number in range(1, masters + 1):
        lines += [
            "",
            f"[masters.m{number}]",
            f'control = "127.0.0.1:{next(free)}"',
            f'raft = "127.0.0.1:{next(free)}"',
            f"directory = {place('masters', f'm{number}')}",
        ]
    for number in range(1, chunkservers + 1):
        lines += [
            "",
            f"[chunkservers.c{number}]",
            f'control = "127.0.0.1:{next(free)}"',
            f'data = "127.0.0.1:{next(free)}"',
            f"directory = {place('chunkservers', f'c{number}')}",
        ]
    return "\n".join(lines) + "\n"


def _ports(count: int, first: int) -> list[int]:
    if first:
        if first + count > 65536:
            raise InvalidArgument(f"--port {first} leaves no room for {count} ports")
        return list(range(first, first + count))
    return free_ports(count)


class SupervisorLock:
    """Held by the one supervisor of a data directory; carries its process id for `gfs down`."""

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, "supervisor.lock")
        self._descriptor = -1

    def acquire(self) -> None:
        """Raises: Unavailable when a supervisor is running."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + PROBE_SECONDS_MAX
        while not (is_ours := _lock(descriptor, fcntl.LOCK_EX)) and time.monotonic() < deadline:
            time.sleep(0.01)  # somebody may only be asking who holds it
        if not is_ours:
            os.close(descriptor)
            holder = self.holder()
            raise Unavailable(
                f"this cluster is already running, under process {holder}"
                if holder
                else "another 'gfs up' has just begun to start this cluster",
                hint="See 'gfs status', or stop it with 'gfs down'.",
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        os.close(self._descriptor)

    def holder(self) -> int:
        """Process id of the running supervisor, 0 when there is none."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            # Shared, so that of two who ask at once neither takes the other for a supervisor.
            if _lock(descriptor, fcntl.LOCK_SH):
                return 0
            text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            return int(text) if text.isdigit() else 0
        finally:
            os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
