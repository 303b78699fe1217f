"""The fingerprint of a run: all that crossed a link, when and how long. Same seed, same fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from chaos.simulation.network import Network


class Trace:
    """Of one network, from now on."""

    def __init__(self, network: Network) -> None:
        self.crossings = 0
        self._digest = hashlib.sha256()
        self._loop, self._send = network.loop, network.send
        network.send = self._note  # type: ignore[method-assign]

    def _note(self, source: str, target: str, length: int, arrive: Callable[[], None]) -> None:
        self.crossings += 1
        self._digest.update(f"{self._loop.now:.9f} {source} {target} {length}\n".encode())
        self._send(source, target, length, arrive)

    def fingerprint(self) -> str:
        return self._digest.hexdigest()
