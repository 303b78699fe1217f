"""An object service as the tier uses it: whole objects in, ranges out. The interface; no library."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class ObjectService(Protocol):
    """Thread-safe and blocking; every call ends within a time of the service's own.

    Raises everywhere: OSError when the service cannot be reached, or refuses. FileNotFoundError: it says that
    there is no such object.
    """

    def put(self, name: str, pieces: Iterable[bytes]) -> None:
        """The object is there, whole and durable, when this returns; after an error it may be, or not."""
        ...

    def read(self, name: str, offset: int, length: int) -> bytes:
        """These bytes; fewer only if the object ends before."""
        ...

    def delete(self, name: str) -> None:
        """Harmless when it is gone already."""
        ...

    def names(self, prefix: str) -> list[str]:
        """Names of all objects below `prefix`, which ends in a slash."""
        ...
