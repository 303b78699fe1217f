"""What operators ask of the leader about chunk servers and replicas (GFS §4.3): list, drain, remove, explain.

What is done without being asked is repair_duty's.
"""

from __future__ import annotations

import asyncio
import itertools

import msgspec

from gfs.clock import Clock
from gfs.errors import InvalidArgument, IsADirectory, NotFound, Unavailable
from gfs.master.commit import Commits
from gfs.master.core.explain import explain_chunk
from gfs.master.core.locations import KnownServer, Locations
from gfs.master.core.lookup import chunk_by_handle, chunk_of, chunks_after, stat
from gfs.master.core.placement import explain
from gfs.master.core.repair_scan import Sighting, sight
from gfs.master.core.server_pool import ServerPool
from gfs.master.core.tenure import TENURES, tenures
from gfs.master.reads import Reads
from gfs.master.repair_duty import RepairDuty
from gfs.messages import operations
from gfs.messages.base import Reply, Request
from gfs.messages.placement import (
    ChunkServerRow,
    ChunkServersReply,
    Explain,
    ExplainedChunk,
    ExplainReply,
    ListChunkServers,
    PlannedMove,
    QueueRow,
    Rebalance,
    RebalanceReply,
    ReplicationQueue,
    ReplicationQueueReply,
    SetServerTenure,
    TenureReply,
)
from gfs.transport.interface import CallContext, Handlers
from gfs.vocabulary import ChunkHandle, ChunkIndex, InodeId, ServerId

COUNT_SECONDS_MAX = 3.0  # how long a removal waits for all chunks to be looked at
COUNT_POLL_SECONDS = 0.05
ROWS_MAX = 1000
PATHS_NAMED_MAX = 20  # of the queue's rows; others are named by inode
EXPLAINED_MAX = 64
SEARCH_CHUNKS = 2000  # looked at in one go for the file of a handle
LOST_NAMED_MAX = 5


class PlacementService:
    """Answered by the leader, who alone places and moves."""

    def __init__(
        self,
        *,
        commits: Commits,
        reads: Reads,
        locations: Locations,
        pool: ServerPool,
        repair: RepairDuty,
        clock: Clock,
    ) -> None:
        self._commits = commits
        self._reads = reads
        self._locations = locations
        self._pool = pool
        self._repair = repair
        self._clock = clock

    def handlers(self) -> Handlers:
        return {
            ListChunkServers: self.list_chunkservers,
            SetServerTenure: self.set_tenure,
            ReplicationQueue: self.queue,
            Rebalance: self.rebalance,
            Explain: self.explain,
        }

    # --- chunk servers -------------------------------------------------------------------------

    async def list_chunkservers(self, request: Request, _context: CallContext) -> Reply:
        """Raises: NotLeader."""
        assert isinstance(request, ListChunkServers)
        self._commits.leading()
        tables, now = self._reads.now(), self._clock.monotonic()
        said = tenures(tables)
        surveyor = self._repair.surveyor(now)
        candidates = self._pool.candidates(tables, now=now)
        verdicts = explain(candidates, excluded=())
        rows = []
        for server_id in sorted({c.id for c in candidates} | set(said)):
            known = self._locations.get(server_id)
            row = ChunkServerRow(
                id=server_id,
                tenure=said.get(server_id, "serving"),
                state=surveyor.server_state(server_id),
                chunks=self._repair.about_members_of(server_id, -1),
                last_replicas=self._repair.last_replicas_of(server_id, -1),
                placement=verdicts.get(server_id, "not heard of"),
            )
            if known is not None:
                row = _with_details(row, known)
            rows.append(row)
        return ChunkServersReply(servers=rows)

    async def set_tenure(self, request: Request, _context: CallContext) -> Reply:
        """Raises: NotLeader; NotFound (no such server); InvalidArgument when a server is to be removed that
        still has replicas; Unavailable while these are counted."""
        assert isinstance(request, SetServerTenure)
        self._commits.leading()
        tables = await self._reads.linearizable()
        server, before = request.server, tenures(tables).get(request.server, "serving")
        if request.tenure not in TENURES:
            raise InvalidArgument(f"a chunk server can be {', '.join(TENURES)}; not {request.tenure!r}")
        if self._locations.get(server) is None and before == "serving":
            known = ", ".join(one.id for one in self._locations.servers()) or "none"
            raise NotFound(f"no chunk server {server!r} is known; known are: {known}")
        notes: list[str] = []
        if request.tenure == "removed" and before != "removed":
            notes = await self._notes_on_removal(server, before, force=request.force)
        await self._commits.commit(operations.SetTenure(server=server, tenure=request.tenure))
        if request.tenure == "draining":
            notes = self._notes_on_drain(server)
        elif request.tenure == "serving" and before != "serving":
            notes = [f"{server} gets new replicas again; what it holds is used where it is up to date"]
        self._repair.look_again()
        return TenureReply(server=server, tenure=request.tenure, notes=notes)

    def _notes_on_drain(self, server: ServerId) -> list[str]:
        now = self._clock.monotonic()
        candidates = self._pool.candidates(self._reads.now(), now=now)
        verdicts = explain(candidates, excluded=())
        takers = [c.id for c in candidates if verdicts[c.id] == "eligible" or "passed over" in verdicts[c.id]]
        chunks = self._repair.about_members_of(server, -1)
        many = "its replicas" if chunks < 0 else f"its {chunks} replicas"
        return [
            f"{server} gets no new replicas; {many} move to other servers, and are used until then",
            f"{len(takers)} other chunk server{'s' * (len(takers) != 1)} can take replicas: of a chunk that "
            f"wants more than {len(takers)}, one stays on {server} until there are more",
        ]

    async def _notes_on_removal(self, server: ServerId, tenure: str, *, force: bool) -> list[str]:
        """What is given up with this server. Raises: InvalidArgument, Unavailable."""
        if tenure != "draining" and not force:
            raise InvalidArgument(
                f"{server} is not draining: new replicas could be placed on it at any moment",
                hint=f"First 'gfs admin chunkservers drain {server}', and wait until it is empty.",
            )
        chunks = await self._counted(server)
        if chunks is None and not force:
            raise _still_counting()
        last = self._repair.last_replicas_of(server, 0)
        if not chunks:
            return [] if chunks == 0 else ["what it holds has not been counted"]
        text = f"{server} is in the replica sets of {chunks} chunks"
        if last:
            examples = [self._reads.path_of(inode) for inode, _ in self._repair.last_examples_of(server)]
            named = ", ".join(dict.fromkeys(examples[:LOST_NAMED_MAX]))
            text += f", and has the only good replica of {last} of them (of {named}): these would be lost"
        if not force:
            raise InvalidArgument(
                text,
                hint=f"Wait until it is drained; 'gfs explain' says what blocks a chunk. With --force, its "
                f"replicas count as lost at once; 'gfs admin chunkservers undrain {server}' takes them back.",
            )
        return [text.replace("would be lost", f"cannot be read until {server} is taken back")]

    async def _counted(self, server: ServerId) -> int | None:
        """In how many sets it is, counted anew unless that takes too long; None when nobody knows yet."""
        give_up_at = self._clock.monotonic() + COUNT_SECONDS_MAX
        walks = self._repair.scan.walks
        self._repair.count_again()
        while self._clock.monotonic() < give_up_at:
            chunks = self._repair.members_of(server, -1)
            # Two walks: the first may have been under way.
            if chunks == 0 or (chunks > 0 and self._repair.scan.walks >= walks + 2):
                return chunks
            if self._repair.scan.walks == walks + 1:
                self._repair.count_again()
            await self._clock.sleep(COUNT_POLL_SECONDS)
        chunks = self._repair.members_of(server, -1)
        return chunks if chunks >= 0 else None

    # --- clones and moves ----------------------------------------------------------------------

    async def queue(self, request: Request, _context: CallContext) -> Reply:
        """Raises: NotLeader."""
        assert isinstance(request, ReplicationQueue)
        self._commits.leading()
        queue, now = self._repair.queue, self._clock.monotonic()
        rows: list[QueueRow] = []
        limit = min(max(1, request.limit), ROWS_MAX)
        for active in queue.active[:limit]:
            task = active.task
            rows.append(
                QueueRow(
                    state="active",
                    handle=task.handle,
                    index=task.index,
                    path=self._name(task.inode, len(rows)),
                    priority=task.priority,
                    seconds=now - active.began_at,
                    reason=task.reason,
                    target=task.target,
                    drop=task.drop or ServerId(""),
                )
            )
        outlook = self._repair.outlook()
        assert outlook is not None or not queue.waiting
        for need in itertools.islice(queue.in_order(), limit - len(rows)):
            failure = queue.failure(need.handle)
            rows.append(
                QueueRow(
                    state="waiting" if failure is None else "failed",
                    handle=need.handle,
                    index=need.index,
                    path=self._name(need.inode, len(rows)),
                    priority=need.priority,
                    seconds=now - need.since,
                    failure=failure.message if failure else "",
                    tries=failure.tries if failure else 0,
                )
            )
        left = None if outlook is None else outlook.seconds_left
        return ReplicationQueueReply(
            active=len(queue.active),
            waiting=0 if outlook is None else outlook.waiting,
            failed=0 if outlook is None else outlook.failed,
            made=queue.done_total,
            per_second=queue.rate(now=now),
            seconds_left=-1.0 if left is None else left,
            complete=self._repair.counted,
            rows=rows,
        )

    async def rebalance(self, request: Request, _context: CallContext) -> Reply:
        """Raises: NotLeader; Unavailable while replicas are counted."""
        assert isinstance(request, Rebalance)
        self._commits.leading()
        if not self._repair.counted:
            raise _still_counting()
        outlook = self._repair.levels(self._clock.monotonic(), asked=True).outlook()
        begun = bool(outlook) and not request.dry_run
        if begun:
            self._repair.level()
        return RebalanceReply(moves=[PlannedMove(*move) for move in outlook], begun=begun)

    # --- explaining ----------------------------------------------------------------------------

    async def explain(self, request: Request, _context: CallContext) -> Reply:
        """Raises: NotLeader; NotFound, InvalidPath, NotADirectory, IsADirectory."""
        assert isinstance(request, Explain)
        self._commits.leading()
        tables = await self._reads.linearizable()
        if request.handle:
            inode, index = await self._home_of(request.handle)
            path, first, count, total = self._reads.path_of(inode), int(index), 1, index + 1
        else:
            entry = stat(tables, request.path)
            if entry.kind != "file":
                raise IsADirectory(
                    f"{request.path} is a directory; it has no chunks",
                    hint="Name a file; 'gfs fsck' tells how safe all below a directory are.",
                )
            inode, path, total = entry.inode, entry.path, entry.chunk_count
            first, count = max(request.first_index, 0), min(max(request.count, 1), EXPLAINED_MAX)
            if first >= total > 0:
                raise NotFound(f"{path} has {total} chunks; there is no chunk {first}")
        chunks = [self._explain_one(inode, ChunkIndex(i)) for i in range(first, min(first + count, total))]
        following = first + count if first + count < total else -1
        return ExplainReply(path=path, chunks=chunks, next_index=following)

    def _explain_one(self, inode: InodeId, index: ChunkIndex) -> ExplainedChunk:
        now = self._clock.monotonic()
        sighting: Sighting | None = sight(self._reads.now(), self._repair.surveyor(now), inode, index)
        if sighting is None:
            raise NotFound(f"chunk {index} of {self._reads.path_of(inode)} has just gone")
        return ExplainedChunk(
            index=index,
            handle=sighting.chunk.handle,
            goal=sighting.survey.goal,
            good=len(sighting.survey.good),
            sentences=explain_chunk(
                sighting,
                self._pool.candidates(self._reads.now(), now=now),
                self._repair.queue,
                patience_seconds=self._repair.patience_seconds,
                complete=self._repair.counted,
                now=now,
            ),
        )

    async def _home_of(self, handle: ChunkHandle) -> tuple[InodeId, ChunkIndex]:
        """A file that has this chunk. The tables lead from files to chunks: all may have to be looked at."""
        if chunk_by_handle(self._reads.now(), handle) is None:
            raise NotFound(f"there is no chunk {handle:016x}")
        at: tuple[InodeId, ChunkIndex] | None = InodeId(0), ChunkIndex(0)
        while at is not None:
            tables = self._reads.now()
            named, at = chunks_after(tables, *at, limit=SEARCH_CHUNKS)
            for inode, index in named:
                chunk = chunk_of(tables, inode, index)
                if chunk is not None and chunk.handle == handle:
                    return inode, index
            await asyncio.sleep(0)
        raise NotFound(f"no file has chunk {handle:016x} any more")

    def _name(self, inode: InodeId, row: int) -> str:
        return self._reads.path_of(inode) if row < PATHS_NAMED_MAX else f"inode {inode}"


def _still_counting() -> Unavailable:
    return Unavailable("the leader is still counting the replicas on all servers; ask again in a moment")


def _with_details(row: ChunkServerRow, known: KnownServer) -> ChunkServerRow:
    return msgspec.structs.replace(
        row,
        held=known.chunk_count,
        control=known.control,
        rack=known.rack,
        disk_total_bytes=known.disk_total_bytes,
        disk_free_bytes=known.disk_free_bytes,
    )
