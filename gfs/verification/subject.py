"""The cluster under test, as workloads see it: what any user of the SDK could do, on any layer.

Implemented by each layer of the chaos suite, and by `gfs verify-cluster` for a cluster that runs somewhere.
"""

from __future__ import annotations

from typing import Protocol, cast

from gfs.client.client import AsyncClient


class Subject(Protocol):
    async def client(self, name: str) -> AsyncClient:
        """A new client of its own, to be closed by who asked for it. `name` tells it apart from others."""
        ...

    async def replica_bytes(
        self, client: AsyncClient, server: str, handle: int, version: int, capability: bytes = b""
    ) -> bytes:
        """All bytes that this chunk server (its control address) holds of a chunk, as they are on its disk.
        `capability`: of the chunk's place, for who asks the server.

        Raises: GfsError, when it has none of that version.
        """
        ...

    def now_ns(self) -> int:
        """The harness's clock: ns since the run began."""
        ...

    async def sleep(self, seconds: float) -> None:
        """In the harness's time, which may be virtual."""
        ...


class ChangesMasters(Protocol):
    """A subject whose masters may come and go. Both raise GfsError."""

    async def add_master(self) -> str:
        """One more voter. Returns its name."""
        ...

    async def remove_master(self, node: str) -> None: ...


def changes_masters(subject: Subject) -> ChangesMasters | None:
    """The same subject, if "membership" is among its `powers`."""
    if "membership" not in getattr(subject, "powers", ()):
        return None
    return cast(ChangesMasters, subject)
