"""RealCluster of tests/client as a subject: real masters and chunk servers in this process."""

from __future__ import annotations

import asyncio
import time

from gfs.client.client import AsyncClient
from gfs.errors import NotFound
from gfs.settings import ClientSettings
from gfs.vocabulary import ChunkHandle
from tests.client.real_cluster import RealCluster

SETTINGS = ClientSettings(call_seconds=2.0, retry_seconds=8.0, quorum_seconds=5.0, data_seconds=3.0)


class LocalSubject:
    def __init__(self, cluster: RealCluster) -> None:
        self.cluster = cluster
        self._began_ns = time.monotonic_ns()

    async def client(self, name: str) -> AsyncClient:
        assert name
        return await self.cluster.client(SETTINGS)

    async def replica_bytes(
        self, client: AsyncClient, server: str, handle: int, version: int, capability: bytes = b""
    ) -> bytes:
        nodes = self.cluster.settings.chunkservers
        name = next(name for name, node in nodes.items() if node.control == server)
        for path in self.cluster.replica_files(ChunkHandle(handle)):
            if f"/{name}/" in str(path) and path.suffix == ".chunk":
                return path.read_bytes()
        raise NotFound(f"{server} has no chunk {handle:x}")

    def now_ns(self) -> int:
        return time.monotonic_ns() - self._began_ns

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
