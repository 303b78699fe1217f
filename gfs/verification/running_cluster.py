"""A cluster that runs somewhere, as a subject: nothing but the SDK, in the time of this machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from gfs.client.client import AsyncClient

Connect = Callable[[], Awaitable[AsyncClient]]


class RunningCluster:
    """`connect` makes a new client, which is closed by who asked for it."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._began_ns = time.monotonic_ns()

    async def client(self, name: str) -> AsyncClient:
        assert name
        return await self._connect()

    async def replica_bytes(
        self, client: AsyncClient, server: str, handle: int, version: int, capability: bytes = b""
    ) -> bytes:
        """As the server sends them, verified there. Raises: GfsError; ChecksumMismatch for damaged ones."""
        return await client.replica_bytes(server, handle, version, capability=capability)

    def now_ns(self) -> int:
        return time.monotonic_ns() - self._began_ns

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
