"""Anyone to any master: what its web console shows beyond other requests. Answered from that master alone."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from gfs.messages.base import Reply, Request, ViewReply
from gfs.vocabulary import Address, ChunkHandle, ChunkIndex, ChunkVersion, InodeId, ServerId


class MatrixCell(msgspec.Struct, frozen=True, kw_only=True):
    """So many chunks want `goal` replicas and have `good` ones."""

    goal: int
    good: int
    chunks: int


class ChunkMatrixReply(Reply, tag="chunk_matrix", frozen=True, kw_only=True):
    """As of the last walk over all chunks; not `complete`: the first since this master started goes on."""

    cells: list[MatrixCell]
    chunks: int
    complete: bool


class ShowChunkMatrix(Request, tag="show_chunk_matrix", frozen=True, kw_only=True):
    reply: ClassVar[type[Reply]] = ChunkMatrixReply


class CellChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk of a cell as it is now: `good` may have changed since it was counted."""

    handle: ChunkHandle
    inode: InodeId
    index: ChunkIndex
    path: str
    version: ChunkVersion
    goal: int
    good: int
    replicas: list[ServerId]


class MatrixCellReply(Reply, tag="matrix_cell", frozen=True, kw_only=True):
    """`counted` chunks were in the cell; `chunks` are some of them."""

    goal: int
    good: int
    counted: int
    chunks: list[CellChunk]


class ListMatrixCell(Request, tag="list_matrix_cell", frozen=True, kw_only=True):
    reply: ClassVar[type[Reply]] = MatrixCellReply
    goal: int
    good: int


class ReplicaRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`state`: as placement sees a member (good, away, late, lost, absent, stale, corrupt), or "no member" of
    the set though it holds a replica. `held`: the version it says to have, 0: none."""

    server: ServerId
    state: str
    held: ChunkVersion
    control: Address = Address("")
    rack: str = ""


class ChunkReply(Reply, tag="shown_chunk", frozen=True, kw_only=True):
    """`path` is empty when it is not known which file has the chunk. `length_bytes`: -1 unless sealed.
    `lease_seconds_left`: below zero: no lease is known to be in force."""

    handle: ChunkHandle
    version: ChunkVersion
    sealed: bool
    length_bytes: int
    files: int  # that share it
    primary: ServerId
    lease_seconds_left: float
    replicas: list[ReplicaRow]
    path: str = ""
    inode: InodeId = InodeId(0)
    index: ChunkIndex = ChunkIndex(0)
    goal: int = 0


class ShowChunk(Request, tag="show_chunk", frozen=True, kw_only=True):
    """`inode` and `index`: a file that has it, if that is known; no file is searched for."""

    reply: ClassVar[type[Reply]] = ChunkReply
    handle: ChunkHandle
    inode: InodeId = InodeId(0)
    index: ChunkIndex = ChunkIndex(0)


class LeaseRow(msgspec.Struct, frozen=True, kw_only=True):
    """`confirmed`: clients may be told of it."""

    handle: ChunkHandle
    version: ChunkVersion
    primary: ServerId
    seconds_left: float
    confirmed: bool


class LeasesReply(Reply, tag="leases", frozen=True, kw_only=True):
    """Some of `total` leases that are kept, those that ran out lately among them."""

    leases: list[LeaseRow]
    total: int
    by_primary: dict[ServerId, int]


class ListLeases(Request, tag="list_leases", frozen=True, kw_only=True):
    reply: ClassVar[type[Reply]] = LeasesReply


class SessionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A client that has changed something. `outcomes`: so many are kept for it."""

    client: str
    last_ms: int
    requests: int
    outcomes: int


class SessionsReply(ViewReply, tag="sessions", frozen=True, kw_only=True):
    """Some of `total`, the latest first."""

    sessions: list[SessionRow]
    total: int


class ListSessions(Request, tag="list_sessions", frozen=True, kw_only=True):
    reply: ClassVar[type[Reply]] = SessionsReply


class CheckpointRow(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    term: int
    length_bytes: int
    made_at_ms: int


class CheckpointsReply(Reply, tag="checkpoints", frozen=True, kw_only=True):
    """Those on this master's disk, newest first."""

    checkpoints: list[CheckpointRow]


class ListCheckpoints(Request, tag="list_checkpoints", frozen=True, kw_only=True):
    reply: ClassVar[type[Reply]] = CheckpointsReply


class SnapshotRow(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot under way; `copying`: leases are revoked, and the copy grows."""

    source: str
    target: str
    copying: bool


class SnapshotsReply(ViewReply, tag="snapshots_under_way", frozen=True, kw_only=True):
    snapshots: list[SnapshotRow]


class ListSnapshots(Request, tag="list_snapshots", frozen=True, kw_only=True):
    """Those under way. A finished one is a file or directory like any other (GFS §3.4)."""

    reply: ClassVar[type[Reply]] = SnapshotsReply
