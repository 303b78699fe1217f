"""A cluster's gfs.toml when each program is on a machine of its own: addresses and disks. Starts nothing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping

from gfs.local.layout import Layout, make_layout, open_layout
from gfs.vocabulary import Address, split_address

_SECTION = re.compile(r"^\[(masters|chunkservers)\.([a-z0-9-]+)\]$")
_LOOPBACK = "127.0.0.1:"


def lay_out(directory: str, *, masters: int, chunkservers: int, add: Callable[[str], str]) -> Layout:
    """A new cluster; `add` gives a node its machine, and returns the address. Its disks are to be at disk_of.

    Raises: InvalidArgument.
    """
    layout = make_layout(directory, masters=masters, chunkservers=chunkservers, first_port=0)
    nodes = (*layout.settings.masters, *layout.settings.chunkservers)
    return spread(layout, {node: add(node) for node in nodes})


def spread(layout: Layout, addresses: Mapping[str, str]) -> Layout:
    """Move what is on loopback in its gfs.toml to machines; what has been moved stays."""
    lines, node = [], ""
    with open(layout.config_path, encoding="utf-8") as file:
        text = file.read()
    for line in text.splitlines():
        if line.startswith("["):
            match = _SECTION.match(line)
            node = match[2] if match else ""
        if node and _LOOPBACK in line:
            line = line.replace(_LOOPBACK, f"{addresses[node]}:")
        elif node and line.startswith("directory = "):
            line = f"directory = {json.dumps(os.path.join(disk_of(layout.directory, node), 'data'))}"
        lines.append(line)
        if line == "[cluster]" and "allow_insecure_network" not in text:
            lines.append("allow_insecure_network = true  # a bridge of this machine's own")
    temporary = layout.config_path + ".new"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    os.replace(temporary, layout.config_path)
    return open_layout(layout.directory)


def disk_of(directory: str, node: str) -> str:
    """Where this node's disk is, or is mounted."""
    return os.path.join(directory, "disks", node)


def at(address: Address, host: str) -> Address:
    """The same port on another host."""
    return Address(f"{host}:{split_address(address)[1]}")
