"""Before a tree is copied, nobody may write to its chunks any more: leases are taken back (GFS §3.4).

Every replica of a chunk that may be under a lease is told to take no more mutations. Where one cannot be
told, or they are not certainly equal, the chunk gets a new version (quiet_grants.fence): whoever misses that
is powerless, as after any grant. From the begin of the snapshot on the log refuses grants for writers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from gfs.clock import Clock
from gfs.errors import GfsError
from gfs.master.commit import Commits
from gfs.master.core.leases import LeaseTable
from gfs.master.core.locations import Locations
from gfs.master.core.lookup import chunk_by_handle, handle_of, inode_record
from gfs.master.core.recent_grants import RecentGrants
from gfs.master.core.records import ChunkRecord, dentry_key, id_key, read_dentry
from gfs.master.core.tables import Table
from gfs.master.lease_service import LeaseService
from gfs.master.member_choice import ChunkKey
from gfs.master.quiet_grants import QuietGrants
from gfs.master.reads import Reads
from gfs.master.replica_calls import ReplicaCalls
from gfs.settings import REVOKED_CHUNKS_MAX
from gfs.telemetry import logger
from gfs.vocabulary import ChunkHandle, ChunkIndex, InodeId, ServerId

WALK_ROWS = 500  # entries and chunks looked at before others have their turn: about 2 ms
FENCES_AT_ONCE = 32
REVOKE_SECONDS = 5.0  # for one message: a server looks at all its chunks, and mutations under way end first

_log = logger("master.leases")


@dataclass(frozen=True, slots=True)
class _Leased:
    """A chunk below the source that may be under a lease, and one file that names it."""

    key: ChunkKey
    chunk: ChunkRecord


class LeaseRevocation:
    """Used while this master leads, of trees that the log keeps as they are."""

    def __init__(
        self,
        *,
        commits: Commits,
        reads: Reads,
        locations: Locations,
        leases: LeaseTable,
        recent: RecentGrants,
        service: LeaseService,
        grants: QuietGrants,
        calls: ReplicaCalls,
        clock: Clock,
    ) -> None:
        self._commits = commits
        self._reads = reads
        self._locations = locations
        self._leases = leases
        self._recent = recent
        self._service = service
        self._grants = grants
        self._calls = calls
        self._clock = clock

    async def revoke_below(self, source: InodeId) -> None:
        """Return when no chunk of a file at or below `source` changes any more but by a newer version.

        Grants for clients are held back by the caller. Raises: DataUnavailable when a chunk may be written to
        and none of its replicas can be reached; NotLeader …
        """
        await self._service.until_none_runs_below(source)
        batch: dict[ChunkHandle, _Leased] = {}
        async for leased in self._leased_below(source):
            batch[leased.chunk.handle] = leased
            if len(batch) >= REVOKED_CHUNKS_MAX:
                await self._revoke(batch)
                batch.clear()
        await self._revoke(batch)

    async def _leased_below(self, source: InodeId) -> AsyncIterator[_Leased]:
        """Page by page: the tree stands still, but what is read must not be kept over a wait."""
        now = self._clock.monotonic()
        todo: list[tuple[InodeId, bytes]] = [(source, b"")]
        rows = 0
        while todo:
            at, after = todo.pop()
            tables = self._reads.now()
            record = inode_record(tables, at)
            assert record is not None, at
            if record.is_directory:
                start = dentry_key(at, after + b"\0") if after else id_key(at)
                seen: list[InodeId] = []
                for key, value in tables.scan(Table.DENTRIES, start, id_key(at + 1)):
                    if len(seen) == WALK_ROWS:
                        todo.append((at, after))
                        break
                    after = key[8:]
                    seen.append(read_dentry(value)[0])
                todo.extend((inode, b"") for inode in seen)
            for index in range(record.chunk_count):
                tables = self._reads.now()
                rows += 1
                handle = handle_of(tables, at, record, index)
                if self._recent.may_be_leased(handle, self._leases, now=now):
                    chunk = chunk_by_handle(tables, handle)
                    assert chunk is not None, handle
                    # A chunk that files share already has had its leases taken back: none was granted since.
                    if not chunk.sealed and chunk.references == 1:
                        yield _Leased((at, ChunkIndex(index)), chunk)
                if rows >= WALK_ROWS:
                    rows = await self._rest()
            rows += 1
            if rows >= WALK_ROWS:
                rows = await self._rest()

    async def _rest(self) -> int:
        """Let others have their turn. Raises: NotLeader."""
        await asyncio.sleep(0)
        self._commits.leading()
        return 0

    async def _revoke(self, batch: dict[ChunkHandle, _Leased]) -> None:
        by_server: dict[ServerId, list[ChunkRecord]] = {}
        for handle, leased in batch.items():
            self._leases.forget(handle)
            for server in leased.chunk.replicas:
                by_server.setdefault(server, []).append(leased.chunk)
        now = self._clock.monotonic()
        told = [server for server in by_server if self._locations.is_alive(server, now=now)]
        answers = await asyncio.gather(
            *(self._calls.revoke(server, by_server[server], seconds=REVOKE_SECONDS) for server in told)
        )
        lengths = dict(zip(told, answers, strict=True))
        unsettled = [leased for leased in batch.values() if not _is_settled(leased.chunk, lengths)]
        if unsettled:
            _log.info("chunks are fenced for a snapshot", chunks=len(unsettled))
        await self._fence(unsettled)

    async def _fence(self, unsettled: list[_Leased]) -> None:
        slots = asyncio.Semaphore(FENCES_AT_ONCE)

        async def fence(leased: _Leased) -> None:
            async with slots:
                inode, index = leased.key
                handle = leased.chunk.handle
                await self._service.exclusively(leased.key, lambda: self._grants.fence(inode, index, handle))

        failures = [
            result
            for result in await asyncio.gather(*map(fence, unsettled), return_exceptions=True)
            if isinstance(result, BaseException)
        ]
        for failure in failures:
            if not isinstance(failure, GfsError):
                raise failure
        if failures:
            raise failures[0]


def _is_settled(chunk: ChunkRecord, lengths: Mapping[ServerId, Mapping[ChunkHandle, int]]) -> bool:
    """Whether all replicas have said that they stay as they are, and are equal."""
    found = {lengths.get(server, {}).get(chunk.handle, -1) for server in chunk.replicas}
    return len(found) == 1 and -1 not in found
