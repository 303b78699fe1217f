"""Operators to the leader: which chunk servers stay, what is being cloned and moved, and why (GFS §4.3)."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from gfs.messages.base import Reply, Request
from gfs.vocabulary import Address, ChunkHandle, ChunkIndex, ServerId


class ChunkServerRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`tenure`: serving, draining or removed. `chunks` name it in their set, and of `last_replicas` it has
    the only good one; -1 while they are being counted. `held` is what it says to have, garbage too."""

    id: ServerId
    tenure: str
    state: str  # good, away, late, lost
    chunks: int = -1
    last_replicas: int = -1
    held: int = 0
    control: Address = Address("")
    rack: str = ""
    disk_total_bytes: int = 0
    disk_free_bytes: int = 0
    placement: str = ""  # whether it is chosen for new replicas, and why not


class ChunkServersReply(Reply, tag="chunkservers", frozen=True, kw_only=True):
    servers: list[ChunkServerRow]


class ListChunkServers(Request, tag="list_chunkservers", frozen=True, kw_only=True):
    """All chunk servers, as the leader sees them."""

    reply: ClassVar[type[Reply]] = ChunkServersReply


class TenureReply(Reply, tag="tenure_set", frozen=True, kw_only=True):
    """`notes`: what a person should know about what follows from it."""

    server: ServerId
    tenure: str
    notes: list[str]


class SetServerTenure(Request, tag="set_server_tenure", frozen=True, kw_only=True):
    """Keep a chunk server, have it emptied, or let it go.

    To remove one that still has replicas is refused unless `force`: they count as lost from then on.
    """

    reply: ClassVar[type[Reply]] = TenureReply
    server: ServerId
    tenure: str
    force: bool = False


class QueueRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One chunk that is being cloned (`state` active), waits for it, or waits after a failure (failed)."""

    state: str
    handle: ChunkHandle
    index: ChunkIndex
    path: str
    priority: int
    seconds: float  # since when it has been in this state, or known
    reason: str = ""
    target: ServerId = ServerId("")
    drop: ServerId = ServerId("")
    failure: str = ""
    tries: int = 0


class ReplicationQueueReply(Reply, tag="replication_queue_reply", frozen=True, kw_only=True):
    """`rows`: the most urgent ones. `per_second` clones are completed, so that all but the failed ones are
    done in `seconds_left` (-1: nobody can say). `complete`: all chunks have been looked at since a server was
    last lost."""

    active: int
    waiting: int
    failed: int
    made: int
    per_second: float
    seconds_left: float
    complete: bool
    rows: list[QueueRow]


class ReplicationQueue(Request, tag="replication_queue", frozen=True, kw_only=True):
    reply: ClassVar[type[Reply]] = ReplicationQueueReply
    limit: int = 100


class PlannedMove(msgspec.Struct, frozen=True, array_like=True):
    """About `replicas` replicas would move from `giver` to `receiver`."""

    giver: ServerId
    receiver: ServerId
    replicas: int


class RebalanceReply(Reply, tag="rebalance_reply", frozen=True, kw_only=True):
    """`moves`: the outlook, racks aside; none when all is level."""

    moves: list[PlannedMove]
    begun: bool


class Rebalance(Request, tag="rebalance", frozen=True, kw_only=True):
    """Level out disks and load as far as it goes, gradually; `dry_run` only says what would move."""

    reply: ClassVar[type[Reply]] = RebalanceReply
    dry_run: bool = False


class ExplainedChunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`sentences` say where each replica is, why there, what is missing, what blocks and when it is done."""

    index: ChunkIndex
    handle: ChunkHandle
    goal: int
    good: int
    sentences: list[str]


class ExplainReply(Reply, tag="explained", frozen=True, kw_only=True):
    """`next_index`: where to go on; -1 at the end."""

    path: str
    chunks: list[ExplainedChunk]
    next_index: int = -1


class Explain(Request, tag="explain", frozen=True, kw_only=True):
    """Chunks of the file `path` from `first_index` on, `count` at most; or the one chunk `handle`."""

    reply: ClassVar[type[Reply]] = ExplainReply
    path: str = ""
    handle: ChunkHandle = ChunkHandle(0)
    first_index: ChunkIndex = ChunkIndex(0)
    count: int = 16
