"""Ports for programs that are to be found on them for as long as their cluster exists."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection

from gfs.errors import Unavailable

# Below what systems give to outgoing connections (from 32768 on Linux, 49152 elsewhere): one of those would
# take the port of a program that has just been chosen for, or is being restarted.
FREE_FIRST, FREE_LAST = 10_240, 32_767
_TRIES_MAX = 2_000


def free_ports(count: int, *, but: Collection[int] = ()) -> list[int]:
    """`count` different ports of the loopback address that nobody has now.

    Raises: Unavailable.
    """
    chance = random.SystemRandom()
    held: dict[int, socket.socket] = {}  # open together, so that none is taken twice
    try:
        for _ in range(_TRIES_MAX):
            if len(held) == count:
                return list(held)
            port = chance.randint(FREE_FIRST, FREE_LAST)
            if port in but or port in held:
                continue
            probe = socket.socket()
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                probe.close()
            else:
                held[port] = probe
        raise Unavailable(f"{count} free ports were not found between {FREE_FIRST} and {FREE_LAST}")
    finally:
        for probe in held.values():
            probe.close()
