"""What operators ask of the leader about chunk servers and replicas (GFS §4.3), as calls of a client."""

from __future__ import annotations

from collections.abc import AsyncIterator

from gfs.client.connections import Connections
from gfs.messages.placement import (
    ChunkServersReply,
    Explain,
    ExplainedChunk,
    ExplainReply,
    ListChunkServers,
    Rebalance,
    RebalanceReply,
    ReplicationQueue,
    ReplicationQueueReply,
    SetServerTenure,
    TenureReply,
)
from gfs.vocabulary import ChunkHandle, ChunkIndex, ServerId


class Operator:
    """Every method raises GfsError: NotFound, InvalidArgument … as the leader answered."""

    def __init__(self, connections: Connections) -> None:
        self._masters = connections.masters

    async def chunkservers(self) -> ChunkServersReply:
        """All chunk servers: whether they live and stay, and what depends on them."""
        return await self._masters.ask_leader(ListChunkServers(), ChunkServersReply, "list chunk servers")

    async def set_tenure(self, server: str, tenure: str, *, force: bool = False) -> TenureReply:
        """Make a chunk server serving, draining or removed. Asking twice is harmless.

        Raises: InvalidArgument when it still has replicas and is to be removed without `force`.
        """
        request = SetServerTenure(server=ServerId(server), tenure=tenure, force=force)
        return await self._masters.ask_leader(request, TenureReply, f"make {server} {tenure}", effects=True)

    async def replication_queue(self, *, limit: int = 100) -> ReplicationQueueReply:
        """What is being cloned and what waits for it, the most urgent first."""
        request = ReplicationQueue(limit=limit)
        return await self._masters.ask_leader(request, ReplicationQueueReply, "look at the queue of clones")

    async def rebalance(self, *, dry_run: bool = False) -> RebalanceReply:
        """Have disks and load levelled as far as it goes, gradually; or only ask what that would move."""
        request = Rebalance(dry_run=dry_run)
        return await self._masters.ask_leader(request, RebalanceReply, "rebalance", effects=not dry_run)

    async def explain_chunk(self, handle: int) -> ExplainReply:
        """Why the replicas of one chunk are where they are, and what becomes of them."""
        request = Explain(handle=ChunkHandle(handle))
        return await self._masters.ask_leader(request, ExplainReply, f"explain chunk {handle:016x}")

    async def explain(self, path: str, *, index: int | None = None) -> AsyncIterator[ExplainedChunk]:
        """The same of each chunk of a file, or of the one at `index`."""
        at = 0 if index is None else index
        while at >= 0:
            request = Explain(path=path, first_index=ChunkIndex(at), count=16 if index is None else 1)
            page = await self._masters.ask_leader(request, ExplainReply, f"explain {path}")
            for chunk in page.chunks:
                yield chunk
            at = page.next_index if index is None else -1
