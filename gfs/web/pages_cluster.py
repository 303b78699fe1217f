"""Pages about the cluster as a whole: overview, masters, chunk servers, replication, snapshots."""

from __future__ import annotations

from collections.abc import Callable

from gfs.errors import PermissionDenied
from gfs.messages.cluster import ChunkServerStatus, ClusterStatusReply
from gfs.messages.console import (
    CheckpointRow,
    CheckpointsReply,
    ChunkMatrixReply,
    ListCheckpoints,
    ListSnapshots,
    ShowChunkMatrix,
    SnapshotRow,
    SnapshotsReply,
)
from gfs.messages.diagnosis import EventPage, EventRecord, ReadEvents
from gfs.messages.members import ListMembers, MemberRow, MembersReply
from gfs.messages.placement import (
    ChunkServerRow,
    ChunkServersReply,
    Explain,
    ExplainReply,
    ListChunkServers,
    Rebalance,
    RebalanceReply,
    ReplicationQueue,
    ReplicationQueueReply,
)
from gfs.vocabulary import ChunkHandle, ChunkIndex
from gfs.web.asking import Asked
from gfs.web.limits import EXPLAINED_PER_PAGE, QUEUE_ROWS_MAX
from gfs.web.page import Page, View
from gfs.web.traffic import Series

EVENTS_ON_OVERVIEW = 8


class Overview(View, frozen=True, kw_only=True):
    """Bytes are of all living chunk servers' disks. `queue`: known to the leader only."""

    status: ClusterStatusReply
    disk_total_bytes: int
    disk_free_bytes: int
    servers_alive: int
    matrix: ChunkMatrixReply
    queue: ReplicationQueueReply | None
    series: list[Series]
    events: list[EventRecord]


class Masters(View, frozen=True, kw_only=True):
    """`checkpoints`: on the disk of the master that answers, as `answered_by` names it."""

    answered_by: str
    leader: str
    term: int
    members: list[MemberRow]
    spare: int
    notes: list[str]
    checkpoints: list[CheckpointRow]


class Servers(View, frozen=True, kw_only=True):
    """`counted`: what only the leader knows of each, by id; None where a follower answers."""

    servers: list[ChunkServerStatus]
    counted: dict[str, ChunkServerRow] | None


class Replication(View, frozen=True, kw_only=True):
    """None where a follower answers. `level`: the moves a rebalance would begin, if that is known yet."""

    queue: ReplicationQueueReply | None
    level: RebalanceReply | None


class Explained(View, frozen=True, kw_only=True):
    asked: str
    explained: ExplainReply | None


class Snapshots(View, frozen=True, kw_only=True):
    snapshots: list[SnapshotRow]


def cluster_pages(series: Callable[[], list[Series]]) -> list[Page]:
    async def overview(asked: Asked) -> Overview:
        status = await asked.status()
        alive = [server for server in status.chunkservers if server.alive]
        events = await asked.ask_if_allowed(ReadEvents(newest=True, limit=EVENTS_ON_OVERVIEW), EventPage)
        return Overview(
            status=status,
            disk_total_bytes=sum(server.disk_total_bytes for server in alive),
            disk_free_bytes=sum(server.disk_free_bytes for server in alive),
            servers_alive=len(alive),
            matrix=await asked.ask(ShowChunkMatrix(), ChunkMatrixReply),
            queue=await asked.ask_leader(ReplicationQueue(limit=1), ReplicationQueueReply),
            series=series(),
            events=events.records[::-1] if events is not None else [],
        )

    return [
        Page("", "Overview", "overview.html", overview, live=True, menu="Overview"),
        Page("masters", "Masters", "masters.html", _masters, live=True, menu="Masters"),
        Page("chunkservers", "Chunk servers", "chunkservers.html", _servers, live=True, menu="Chunk servers"),
        Page("replication", "Replication", "replication.html", _replication, live=True, menu="Replication"),
        Page("explain", "Explain", "explain.html", _explain),
        Page("snapshots", "Snapshots", "snapshots.html", _snapshots, live=True, menu="Snapshots"),
    ]


async def _masters(asked: Asked) -> Masters:
    members = await asked.ask(ListMembers(), MembersReply)
    kept = await asked.ask(ListCheckpoints(), CheckpointsReply)
    return Masters(
        answered_by=members.answered_by,
        leader=members.leader,
        term=members.term,
        members=members.members,
        spare=members.spare,
        notes=members.notes,
        checkpoints=kept.checkpoints,
    )


async def _servers(asked: Asked) -> Servers:
    status = await asked.status()
    counted = await asked.ask_leader(ListChunkServers(), ChunkServersReply)
    rows = None if counted is None else {str(row.id): row for row in counted.servers}
    return Servers(servers=status.chunkservers, counted=rows)


async def _replication(asked: Asked) -> Replication:
    queue = await asked.ask_leader(ReplicationQueue(limit=QUEUE_ROWS_MAX), ReplicationQueueReply)
    level = await _outlook(asked) if asked.caller.signed_in else None
    return Replication(queue=queue, level=level)


async def _outlook(asked: Asked) -> RebalanceReply | None:
    try:
        return await asked.ask_leader(Rebalance(dry_run=True), RebalanceReply)
    except PermissionDenied:
        return None  # a reader's token


async def _explain(asked: Asked) -> Explained:
    """Of a file from a chunk on, or of one chunk by its handle."""
    path, handle = asked.text("path"), asked.handle("handle") if asked.query.get("handle") else 0
    if not path and not handle:
        return Explained(asked="", explained=None)
    explained = await asked.ask(
        Explain(
            path=path,
            handle=ChunkHandle(handle),
            first_index=ChunkIndex(asked.number("from")),
            count=EXPLAINED_PER_PAGE,
        ),
        ExplainReply,
    )
    return Explained(asked=path or f"{handle:016x}", explained=explained)


async def _snapshots(asked: Asked) -> Snapshots:
    found = await asked.ask(ListSnapshots(), SnapshotsReply)
    return Snapshots(snapshots=found.snapshots)
