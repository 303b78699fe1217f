"""Grants no client is ever told of: a chunk is fenced, joined, left (GFS §4.3). Why it is safe: core/grants.

Each is one ChangeReplicas, carried out as any grant. What is copied meanwhile, and when, is replica_moves'.
"""

from __future__ import annotations

from dataclasses import replace

from gfs.errors import NotFound
from gfs.master.commit import Commits
from gfs.master.core.lookup import chunk_by_handle, inode_record
from gfs.master.core.records import ChunkRecord
from gfs.master.granting import Granting, Secured, acknowledged_bytes_of
from gfs.master.reads import Reads
from gfs.vocabulary import ChunkHandle, ChunkIndex, InodeId, ServerId


class QuietGrants:
    """Used while this master leads; the caller keeps the chunk's other grants away (the log refuses them)."""

    def __init__(self, *, commits: Commits, reads: Reads, granting: Granting) -> None:
        self._commits = commits
        self._reads = reads
        self._granting = granting

    def find(self, handle: ChunkHandle) -> ChunkRecord:
        """The chunk as this leader knows it; it may be a deleted file's. Raises: NotFound, NotLeader."""
        self._commits.leading()
        chunk = chunk_by_handle(self._reads.now(), handle)
        if chunk is None:
            raise NotFound(f"there is no chunk {handle}")
        return chunk

    async def fence(
        self, inode: InodeId, index: ChunkIndex, handle: ChunkHandle, *, without: ServerId | None = None
    ) -> Secured:
        """Bring the chunk, sealed or not, to a new version that every member holds at one length.

        Until the next grant nothing can be acknowledged, so the replicas stay as they are. Members that do
        not answer are left out; so is `without`.
        Raises: NotFound; DataUnavailable, also when nobody but `without` could stay; NotLeader …
        """
        await self._granting.members.await_heartbeats(self.find(handle).replicas)
        chunk = self.find(handle)
        acknowledged_bytes = self._acknowledged_bytes(inode, index, chunk)
        members = await self._granting.members.candidates((inode, index), chunk, ())
        if without is not None:
            members = [server for server in members if server != without]
            if not members:
                others = [server for server in chunk.replicas if server != without]
                raise self._granting.members.unavailable(inode, index, others, {})
        grant = await self._granting.log_grant(
            inode, index, chunk, members, (), acknowledged_bytes=acknowledged_bytes, quiet=True
        )
        return await self._granting.settle(inode, index, grant, acknowledged_bytes=acknowledged_bytes)

    async def let_join(self, inode: InodeId, index: ChunkIndex, fenced: Secured, target: ServerId) -> Secured:
        """Take `target` into the set in the version after `fenced`; whoever does not take it is left out.

        The caller vouches that `target` has on its disk a copy equal to what the members of `fenced` hold.
        Raises: Unavailable (the chunk was granted since, or the target is to leave the cluster) …
        """
        before = fenced.grant
        assert before.quiet and target not in before.replicas, (before, target)
        held = replace(before, held_version=before.version)
        grant = await self._granting.log_again(
            inode, index, held, [*before.replicas, target], joined=(target,)
        )
        return await self._granting.settle(inode, index, grant, acknowledged_bytes=fenced.length_bytes)

    async def let_go(self, inode: InodeId, index: ChunkIndex, secured: Secured, server: ServerId) -> Secured:
        """The set without `server`, in the version after `secured`. Raises: as let_join."""
        before = secured.grant
        assert before.quiet and server in before.replicas, (before, server)
        held = replace(before, held_version=before.version)
        staying = [member for member in before.replicas if member != server]
        grant = await self._granting.log_again(inode, index, held, staying)
        return await self._granting.settle(inode, index, grant, acknowledged_bytes=secured.length_bytes)

    def _acknowledged_bytes(self, inode: InodeId, index: ChunkIndex, chunk: ChunkRecord) -> int:
        """How far acknowledged bytes are known to reach; 0 when that is not known."""
        if chunk.sealed:
            return chunk.length_bytes
        file = inode_record(self._reads.now(), inode)
        return 0 if file is None else acknowledged_bytes_of(file, index)
