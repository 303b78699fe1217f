"""Ports for programs that are to be found on them for as long as their cluster exists."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Collection

from gfs.errors import ConfigInvalid, Unavailable

# Below what systems give to outgoing connections (from 32768 on Linux, 49152 elsewhere): one of those would
# take the port of a program that has just been chosen for, or is being restarted.
FREE_FIRST, FREE_LAST = 10_240, 32_767
# "FIRST-LAST": other ports to choose from, where a machine opens only these, or where several clusters are
# laid out at the same time: a port is seen to be taken only once its program has started.
ENVIRONMENT_KEY = "GFS_LOCAL_PORTS"
_TRIES_MAX = 2_000


def free_ports(count: int, *, but: Collection[int] = ()) -> list[int]:
    """`count` different ports of the loopback address that nobody has now.

    Raises: Unavailable; ConfigInvalid, when the environment names no range.
    """
    first, last = _range()
    chance = random.SystemRandom()
    held: dict[int, socket.socket] = {}  # open together, so that none is taken twice
    try:
        for _ in range(_TRIES_MAX):
            if len(held) == count:
                return list(held)
            port = chance.randint(first, last)
            if port in but or port in held:
                continue
            probe = socket.socket()
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                probe.close()
            else:
                held[port] = probe
        raise Unavailable(f"{count} free ports were not found between {first} and {last}")
    finally:
        for probe in held.values():
            probe.close()


def _range() -> tuple[int, int]:
    text = os.environ.get(ENVIRONMENT_KEY)
    if text is None:
        return FREE_FIRST, FREE_LAST
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) < 65_536):
        raise ConfigInvalid(
            f"{ENVIRONMENT_KEY}={text!r} is no range of ports", hint="Write FIRST-LAST, such as 20000-20999."
        )
    return int(first), int(last)
