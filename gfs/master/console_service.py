"""What the web console asks of its own master beyond other requests. Pages are made in web/.

Any master answers, from its own view; nothing here reads more rows than it has a limit for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from gfs.clock import Clock
from gfs.errors import NotFound
from gfs.master.core.leases import LeaseTable
from gfs.master.core.locations import Locations
from gfs.master.core.lookup import chunk_by_handle, chunk_of, inode_record, read_counters
from gfs.master.core.records import ChunkRecord, decode_session, id_key, read_id
from gfs.master.core.replica_survey import Survey, Surveyor
from gfs.master.core.replication_scan import ReplicationScan
from gfs.master.core.snapshots import jobs_under_way
from gfs.master.core.tables import ReadTables, Table
from gfs.master.reads import Reads
from gfs.master.replication.checkpoints import CheckpointManifest
from gfs.messages.base import Reply, Request
from gfs.messages.console import (
    CellChunk,
    CheckpointRow,
    CheckpointsReply,
    ChunkMatrixReply,
    ChunkReply,
    LeaseRow,
    LeasesReply,
    ListCheckpoints,
    ListLeases,
    ListMatrixCell,
    ListSessions,
    ListSnapshots,
    MatrixCell,
    MatrixCellReply,
    ReplicaRow,
    SessionRow,
    SessionsReply,
    ShowChunk,
    ShowChunkMatrix,
    SnapshotRow,
    SnapshotsReply,
)
from gfs.transport.interface import CallContext, Handlers
from gfs.vocabulary import ChunkHandle, ChunkIndex, InodeId, ServerId

CELL_ROWS_MAX = 100
CELL_PATHS_MAX = 20  # of a cell's chunks; the files of others are named by inode
LEASE_ROWS_MAX = 100
SESSION_ROWS_MAX = 100
SESSIONS_READ_MAX = 500
SESSION_KEY_END = 2**64 - 1


class ConsoleService:
    def __init__(
        self,
        *,
        reads: Reads,
        locations: Locations,
        leases: LeaseTable,
        scan: ReplicationScan,
        surveyor: Callable[[float], Surveyor],
        checkpoints: Callable[[], list[CheckpointManifest]],
        clock: Clock,
    ) -> None:
        """`checkpoints`: those on disk, oldest first."""
        self._reads = reads
        self._locations = locations
        self._leases = leases
        self._scan = scan
        self._surveyor = surveyor
        self._checkpoints = checkpoints
        self._clock = clock

    def handlers(self) -> Handlers:
        """One for each of CONSOLE_REQUESTS."""
        return {
            ShowChunkMatrix: self.matrix,
            ListMatrixCell: self.cell,
            ShowChunk: self.chunk,
            ListLeases: self.leases,
            ListSessions: self.sessions,
            ListCheckpoints: self.checkpoints,
            ListSnapshots: self.snapshots,
        }

    # --- chunks --------------------------------------------------------------------------------

    async def matrix(self, request: Request, _context: CallContext) -> Reply:
        assert isinstance(request, ShowChunkMatrix)
        counted = self._scan.result
        if counted is None:
            return ChunkMatrixReply(cells=[], chunks=0, complete=False)
        cells = [
            MatrixCell(goal=goal, good=good, chunks=cell.chunks)
            for (goal, good), cell in sorted(counted.cells.items())
        ]
        return ChunkMatrixReply(cells=cells, chunks=counted.chunks, complete=True)

    async def cell(self, request: Request, _context: CallContext) -> Reply:
        """Chunks of it that still exist, as they are now."""
        assert isinstance(request, ListMatrixCell)
        counted = self._scan.result
        cell = None if counted is None else counted.cells.get((request.goal, request.good))
        counted_chunks = cell.chunks if cell is not None else 0
        chunks: list[CellChunk] = []
        for inode, index in cell.examples[:CELL_ROWS_MAX] if cell is not None else ():
            row = self._cell_chunk(inode, index, named=len(chunks) < CELL_PATHS_MAX)
            if row is not None:
                chunks.append(row)
        return MatrixCellReply(
            goal=request.goal,
            good=request.good,
            counted=counted_chunks,
            chunks=chunks,
        )

    def _cell_chunk(self, inode: InodeId, index: ChunkIndex, *, named: bool) -> CellChunk | None:
        tables = self._reads.now()
        chunk = chunk_of(tables, inode, index)
        if chunk is None:
            return None
        survey = self._survey(tables, chunk, inode)
        return CellChunk(
            handle=chunk.handle,
            inode=inode,
            index=index,
            path=self._reads.path_of(inode) if named else f"inode {inode}",
            version=chunk.version,
            goal=survey.goal,
            good=len(survey.good),
            replicas=list(chunk.replicas),
        )

    async def chunk(self, request: Request, _context: CallContext) -> Reply:
        """Raises: NotFound."""
        assert isinstance(request, ShowChunk)
        tables, now = self._reads.now(), self._clock.monotonic()
        chunk = chunk_by_handle(tables, request.handle)
        if chunk is None:
            raise NotFound(f"there is no chunk {request.handle:016x}")
        home = chunk_of(tables, request.inode, request.index)
        inode = request.inode if home is not None and home.handle == chunk.handle else InodeId(0)
        survey = self._survey(tables, chunk, inode) if inode else None
        lease = self._leases.find(chunk.handle, chunk.version, now=now)
        return ChunkReply(
            handle=chunk.handle,
            version=chunk.version,
            sealed=chunk.sealed,
            length_bytes=chunk.length_bytes,
            files=chunk.references,
            primary=chunk.primary,
            lease_seconds_left=-1.0 if lease is None else lease.expires_at - now,
            replicas=self._replica_rows(chunk, survey, now),
            path=self._reads.path_of(inode) if inode else "",
            inode=inode,
            index=request.index,
            goal=survey.goal if survey is not None else 0,
        )

    def _survey(self, tables: ReadTables, chunk: ChunkRecord, inode: InodeId) -> Survey:
        file = inode_record(tables, inode)
        assert file is not None, inode
        return self._surveyor(self._clock.monotonic()).look(chunk, file)

    def _replica_rows(self, chunk: ChunkRecord, survey: Survey | None, now: float) -> list[ReplicaRow]:
        holders = self._locations.holders(chunk.handle)
        rows = []
        for server in dict.fromkeys((*chunk.replicas, *holders)):
            if server not in chunk.replicas:
                state = "no member"
            elif survey is not None:
                state = survey.members[server]
            else:
                state = self._state(server, chunk, now)
            rows.append(self._replica_row(server, state, chunk.handle))
        return rows

    def _state(self, server: ServerId, chunk: ChunkRecord, now: float) -> str:
        """As a survey would say, of which one can be made only for a file."""
        if not self._locations.is_alive(server, now=now):
            return "away"
        if self._locations.is_corrupt(server, chunk.handle):
            return "corrupt"
        held = self._locations.version_at(server, chunk.handle)
        if not held:
            return "absent"
        return "good" if max(chunk.held_version, 1) <= held <= chunk.version else "stale"

    def _replica_row(self, server: ServerId, state: str, handle: ChunkHandle) -> ReplicaRow:
        held = self._locations.version_at(server, handle)
        known = self._locations.get(server)
        if known is None:
            return ReplicaRow(server=server, state=state, held=held)
        return ReplicaRow(server=server, state=state, held=held, control=known.control, rack=known.rack)

    # --- clients -------------------------------------------------------------------------------

    async def leases(self, request: Request, _context: CallContext) -> Reply:
        assert isinstance(request, ListLeases)
        now = self._clock.monotonic()
        rows = [
            LeaseRow(
                handle=handle,
                version=lease.version,
                primary=lease.primary,
                seconds_left=round(lease.expires_at - now, 1),
                confirmed=lease.confirmed,
            )
            for handle, lease in itertools.islice(self._leases.newest(), LEASE_ROWS_MAX)
        ]
        by_primary = {server: count for server, count in self._leases.count_by_primary().items() if count}
        return LeasesReply(leases=rows, total=len(self._leases), by_primary=by_primary)

    async def sessions(self, request: Request, _context: CallContext) -> Reply:
        assert isinstance(request, ListSessions)
        tables = self._reads.now()
        found: list[SessionRow] = []
        at = 0
        for _ in range(SESSIONS_READ_MAX):
            # Behind a client's row stand its outcomes: each step goes straight to the next client.
            row = next(iter(tables.scan(Table.SESSIONS, id_key(at))), None)
            if row is None:
                break
            client, header = read_id(row[0]), decode_session(row[1])
            found.append(
                SessionRow(
                    client=f"{client:016x}",
                    last_ms=header.last_ms,
                    requests=header.highest,
                    outcomes=header.kept,
                )
            )
            if client == SESSION_KEY_END:
                break
            at = client + 1
        found.sort(key=lambda session: -session.last_ms)
        reply = SessionsReply(sessions=found[:SESSION_ROWS_MAX], total=read_counters(tables).sessions)
        return self._reads.stamp(reply, "stale")

    # --- the master itself ---------------------------------------------------------------------

    async def checkpoints(self, request: Request, _context: CallContext) -> Reply:
        assert isinstance(request, ListCheckpoints)
        rows = [
            CheckpointRow(
                index=manifest.index,
                term=manifest.term,
                length_bytes=manifest.length_bytes,
                made_at_ms=manifest.made_at_ms,
            )
            for manifest in reversed(self._checkpoints())
        ]
        return CheckpointsReply(checkpoints=rows)

    async def snapshots(self, request: Request, _context: CallContext) -> Reply:
        assert isinstance(request, ListSnapshots)
        rows = [
            SnapshotRow(source=job.source_path, target=job.target_path, copying=job.begun)
            for job in jobs_under_way(self._reads.now()).values()
        ]
        return self._reads.stamp(SnapshotsReply(snapshots=rows), "stale")
