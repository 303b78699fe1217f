"""FindChunks: where the chunks of a file can be read (GFS §2.3). Who may write them is lease_service's."""

from __future__ import annotations

from collections.abc import Callable

from gfs.clock import Clock
from gfs.errors import InvalidArgument
from gfs.master.callers import Callers, everybody
from gfs.master.core.access import READ
from gfs.master.core.chunk_homes import ChunkHomes
from gfs.master.core.incarnation import not_settled, unsettled_below
from gfs.master.core.locations import KnownServer, Locations
from gfs.master.core.lookup import find_chunks
from gfs.master.core.records import ChunkRecord
from gfs.master.reads import Reads
from gfs.messages.base import Reply, Request
from gfs.messages.chunks import ChunkPlace, FileChunks, FindChunks
from gfs.transport.interface import CallContext
from gfs.vocabulary import ChunkIndex, ChunkVersion, InodeId


class ChunkService:
    """Every master answers this: locations are known to all of them."""

    def __init__(
        self,
        reads: Reads,
        locations: Locations,
        clock: Clock,
        *,
        homes: ChunkHomes | None = None,
        callers: Callers | None = None,
        short: Callable[[InodeId, ChunkIndex], None] | None = None,
    ) -> None:
        """`homes` is told of the chunks that are asked for, `short` of those with too few replicas."""
        self._short = short
        self._homes = homes
        self._reads = reads
        self._callers = callers or everybody()
        self._locations = locations
        self._clock = clock

    async def find_chunks(self, request: Request, context: CallContext) -> Reply:
        assert isinstance(request, FindChunks)
        if request.first_index < 0 or request.count < 0:
            raise InvalidArgument(f"chunks {request.first_index} and {request.count} more are no range")
        tables = await self._reads.view(request.consistency, request.min_applied_index)
        self._callers.require_path(tables, context, request.path)
        entry, chunks = find_chunks(tables, request.path, request.first_index, request.count)
        self._callers.require_inode(tables, context, entry.inode, READ)
        unsettled = unsettled_below(tables)
        for chunk in chunks if unsettled else ():
            if chunk.handle < unsettled:
                raise not_settled(chunk.handle)
        now = self._clock.monotonic()
        if self._homes is not None:
            for index, chunk in enumerate(chunks, start=request.first_index):
                self._homes.note(chunk.handle, entry.inode, ChunkIndex(index))
        places = [
            place_of(self._locations, chunk, ChunkIndex(index), now=now)
            for index, chunk in enumerate(chunks, start=request.first_index)
        ]
        if self._short is not None:
            for place in places:
                if place.missing or len(place.replicas) < entry.replication_goal:
                    self._short(entry.inode, place.index)
        return self._reads.stamp(FileChunks(entry=entry, chunks=places), request.consistency)


def place_of(locations: Locations, chunk: ChunkRecord, index: ChunkIndex, *, now: float) -> ChunkPlace:
    """Which replicas of a chunk a reader may be sent to, all at one version (I5).

    Those of the logged version, if there are any. If no living member has it yet, a grant is under way or
    was cut short, and a member at an older version is still complete (core/grants, the claim): then the
    newest version held is handed out. A reader names its version to the replica, so one that has been
    bumped meanwhile refuses it, and the reader asks again. If no member has the chunk whole, those with bad
    blocks are handed out: they verify each block they answer with, and the good ones must stay readable.
    """
    present, missing = locations.current(chunk.handle, chunk.version, chunk.replicas, now=now)
    version = chunk.version
    if not present:
        version = _newest_held(locations, chunk, now)
        if version > 0:
            present, missing = locations.current(chunk.handle, version, chunk.replicas, now=now)
    if not present:
        version, present = damaged_members(locations, chunk, now=now)
        missing = [member for member in chunk.replicas if member not in {server.id for server in present}]
    return ChunkPlace(
        index=index,
        handle=chunk.handle,
        version=version or chunk.version,
        replicas=[server.replica() for server in present],
        missing=missing,
        sealed=chunk.sealed,
        length_bytes=chunk.length_bytes,
    )


def damaged_members(
    locations: Locations, chunk: ChunkRecord, *, now: float
) -> tuple[ChunkVersion, list[KnownServer]]:
    """Living members that have this chunk with bad blocks, and at which version; (0, []): there are none."""
    oldest = ChunkVersion(max(chunk.held_version, 1))
    return locations.damaged(chunk.handle, chunk.replicas, oldest=oldest, newest=chunk.version, now=now)


def _newest_held(locations: Locations, chunk: ChunkRecord, now: float) -> ChunkVersion:
    oldest = max(chunk.held_version, 1)
    held = (
        locations.version_at(member, chunk.handle)
        for member in chunk.replicas
        if locations.is_alive(member, now=now)
    )
    return max((v for v in held if oldest <= v < chunk.version), default=ChunkVersion(0))
