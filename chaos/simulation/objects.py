"""The object service of simulated chunk servers with a tier: one for all, and it outlives them all."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterable

REFUSED_SHARE = 0.1  # of the calls, until mend()


class SimulatedObjects:
    """Implements ObjectService. A refused call may have done what it was asked for, or half of it."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._objects: dict[str, bytes] = {}
        self._is_well = False

    def mend(self) -> None:
        """From now on it refuses nothing."""
        self._is_well = True

    def put(self, name: str, pieces: Iterable[bytes]) -> None:
        self._meet()
        self._objects[name] = b"".join(pieces)
        self._meet()

    def read(self, name: str, offset: int, length: int) -> bytes:
        self._meet()
        if name not in self._objects:
            raise FileNotFoundError(name)
        return self._objects[name][offset : offset + length]

    def delete(self, name: str) -> None:
        self._meet()
        self._objects.pop(name, None)
        self._meet()

    def names(self, prefix: str) -> list[str]:
        self._meet()
        return sorted(name for name in self._objects if name.startswith(prefix))

    def _meet(self) -> None:
        if not self._is_well and self._chance.random() < REFUSED_SHARE:
            raise OSError(errno.EIO, "the simulated object service refuses")
