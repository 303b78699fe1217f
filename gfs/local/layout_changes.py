"""A local cluster's gfs.toml gains or loses a master, in one step; all else in it stays as it was written."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gfs.disk import SystemDisk, write_file_durably
from gfs.errors import ConfigInvalid, Unavailable
from gfs.local.layout import Layout, open_layout
from gfs.local.ports import free_ports
from gfs.settings import node_fault
from gfs.vocabulary import split_address

CHANGE_LOCK = "masters.lock"
_NUMBERED = re.compile(r"^m(\d+)$")


@contextmanager
def one_at_a_time(layout: Layout) -> Iterator[None]:
    """Held by whoever changes which masters the cluster has. Raises: Unavailable when somebody else does."""
    path = os.path.join(layout.directory, CHANGE_LOCK)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise Unavailable(
            f"another command is changing the masters of the cluster in {layout.directory}",
            hint="Wait for it; 'gfs admin members ls' shows how far it is.",
        ) from error
    try:
        yield
    finally:
        os.close(descriptor)


def add_master(layout: Layout, name: str = "") -> tuple[Layout, str]:
    """Name a new master, with ports of its own and a directory that was never used.

    Raises: ConfigInvalid for a name that cannot be one, or a gfs.toml that cannot be changed here.
    """
    settings = layout.settings
    name = name or _unused_name(layout)
    if fault := node_fault(name, allow_insecure_network=False):
        raise ConfigInvalid(fault)
    control, raft = _free_ports(layout)
    directory = os.path.join(layout.directory, "masters", name)
    if os.path.isdir(directory) and os.listdir(directory):
        raise ConfigInvalid(
            f"{directory} is not empty: a master of that name was here before",
            hint="Take another name, or none: one that was never used is chosen then.",
        )
    assert name not in settings.masters
    section = [
        "",
        f"[masters.{name}]",
        "joins = true  # it was added to a cluster that was there",
        f'control = "127.0.0.1:{control}"',
        f'raft = "127.0.0.1:{raft}"',
        f"directory = {json.dumps(directory)}",
    ]
    text = _read(layout)
    wanted = tomllib.loads(text)
    wanted["masters"][name] = tomllib.loads("\n".join(section))["masters"][name]
    return _replace(layout, text.rstrip("\n") + "\n" + "\n".join(section) + "\n", wanted), name


def drop_master(layout: Layout, name: str) -> Layout:
    """Forget a master. Its directory stays where it is.

    Raises: ConfigInvalid for a gfs.toml that cannot be changed here.
    """
    kept, is_its_own = [], False
    text = _read(layout)
    header = re.compile(rf"^\s*\[\s*masters\s*\.\s*{re.escape(name)}\s*[.\]]")
    for line in text.splitlines():
        if line.lstrip().startswith("["):
            is_its_own = header.match(line) is not None
        if not is_its_own:
            kept.append(line)
    wanted = tomllib.loads(text)
    del wanted["masters"][name]
    return _replace(layout, "\n".join(kept).rstrip("\n") + "\n", wanted)


def _read(layout: Layout) -> str:
    with open(layout.config_path, encoding="utf-8") as file:
        return file.read()


def _replace(layout: Layout, text: str, wanted: dict[str, Any]) -> Layout:  # Any: untyped TOML
    try:
        is_right = tomllib.loads(text) == wanted
    except tomllib.TOMLDecodeError:
        is_right = False
    if not is_right:
        raise ConfigInvalid(
            f"{layout.config_path} is written in a way that cannot be changed here",
            hint="Give each master a section of its own, like [masters.m1].",
        )
    write_file_durably(SystemDisk(), layout.config_path, text.encode())
    return open_layout(layout.directory)


def _unused_name(layout: Layout) -> str:
    """A number is never used twice: what a master of that name has promised would be mistaken for its own."""
    known = set(layout.settings.masters)
    masters = os.path.join(layout.directory, "masters")
    known |= set(os.listdir(masters)) if os.path.isdir(masters) else set()
    return f"m{1 + max((int(match[1]) for name in known if (match := _NUMBERED.match(name))), default=0)}"


def _free_ports(layout: Layout) -> tuple[int, int]:
    """Two that follow the cluster's highest, if such are free, or whichever are."""
    settings = layout.settings
    used = [
        split_address(address)[1]
        for node in settings.masters.values()
        for address in (node.control, node.raft)
    ]
    used += [
        split_address(address)[1]
        for node in settings.chunkservers.values()
        for address in (node.control, node.data)
    ]
    highest = max(used)
    wanted = [port for port in range(highest + 1, highest + 100) if port < 65536 and _is_free(port)][:2]
    first, second = wanted if len(wanted) == 2 else free_ports(2, but=used)
    return first, second


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
