"""An object service in memory that fails, lies or dies with the machine where a test says so."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable


class FakeObjectService:
    """Implements ObjectService.

    `before`: called with (verb, name) at each call; what it raises, the service answers.
    `fails`: verbs that end with an error, with half the work done where there is half of it.
    `spoils`: how many of the next reads of chunk bytes come back with one bit turned.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.fails: set[str] = set()
        self.spoils = 0
        self.calls: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda verb, name: None

    def put(self, name: str, pieces: Iterable[bytes]) -> None:
        self._meet("put", name)
        content = b"".join(pieces)
        self.objects[name] = content
        self._meet("answer put", name)

    def read(self, name: str, offset: int, length: int) -> bytes:
        self._meet("read", name)
        if name not in self.objects:
            raise FileNotFoundError(name)
        found = self.objects[name][offset : offset + length]
        if self.spoils and length > 1:
            self.spoils -= 1
            found = bytes([found[0] ^ 1]) + found[1:]
        return found

    def delete(self, name: str) -> None:
        self._meet("delete", name)
        self.objects.pop(name, None)

    def names(self, prefix: str) -> list[str]:
        self._meet("names", prefix)
        return sorted(name for name in self.objects if name.startswith(prefix))

    def reads_of_bytes(self) -> int:
        return sum(verb == "read" and not name.endswith("/here") for verb, name in self.calls)

    def _meet(self, verb: str, name: str) -> None:
        self.calls.append((verb, name))
        self.before(verb, name)
        if verb in self.fails:
            raise OSError(errno.EIO, f"the fake service fails to {verb}")
