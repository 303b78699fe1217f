"""Requests and replies of the control plane: client, master and chunk server, each a tagged struct.

A request class names its reply in `reply`. Unknown fields are skipped, so that neighbouring versions
understand each other; missing ones take their defaults. The tag is the method name of `POST /v1/<method>`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from gfs.messages.operations import RequestId
from gfs.vocabulary import (
    Address,
    ChunkHandle,
    ChunkIndex,
    ChunkVersion,
    ClusterId,
    InodeId,
    MasterId,
    PushId,
    SerialNumber,
    ServerId,
    Term,
)

PROTO_VERSION = 1
PROTO_VERSION_MIN = 1


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all replies."""


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all requests."""

    reply: ClassVar[type[Reply]] = Reply


def method_name(request_type: type[Request]) -> str:
    tag = request_type.__struct_config__.tag
    assert isinstance(tag, str), request_type
    return tag


class ErrorReply(Reply, tag="error", frozen=True, kw_only=True):
    """What any request may be answered with instead of its reply; see gfs.errors."""

    code: str
    message: str
    hint: str = ""
    details: dict[str, str] = {}


class Ack(Reply, tag="ack", frozen=True, kw_only=True):
    """Done; nothing more to say."""


class Ping(Request, tag="ping", frozen=True, kw_only=True):
    reply: ClassVar[type[Reply]] = Ack


# --- namespace: client -> master ---------------------------------------------------------------

Consistency = Literal["linearizable", "session", "stale"]


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file or directory as the master knows it.

    `length_bytes` is exact when `length_exact`; otherwise the end of the last chunk must be asked of
    its replicas. `path` is absolute.
    """

    path: str
    inode: InodeId
    kind: Literal["file", "directory"]
    created_ms: int
    modified_ms: int
    length_bytes: int = 0
    length_exact: bool = False
    chunk_count: int = 0
    replication_goal: int = 0


class EntryReply(Reply, tag="entry", frozen=True, kw_only=True):
    """`applied_index` is the session token: a later session read is never older (§2.3 of the design)."""

    entry: Entry
    applied_index: int


class EntriesReply(Reply, tag="entries", frozen=True, kw_only=True):
    """`next_after` is empty at the end; else pass it as `after` for the following page."""

    entries: list[Entry]
    next_after: str
    applied_index: int


class Stat(Request, tag="stat", frozen=True, kw_only=True):
    reply: ClassVar[type[Reply]] = EntryReply
    path: str
    consistency: Consistency = "linearizable"
    min_applied_index: int = 0


class ListDirectory(Request, tag="list", frozen=True, kw_only=True):
    """Names in byte order, strictly after `after`, at most `limit` (capped by the master)."""

    reply: ClassVar[type[Reply]] = EntriesReply
    path: str
    after: str = ""
    limit: int = 1000
    consistency: Consistency = "linearizable"
    min_applied_index: int = 0


class Glob(Request, tag="glob", frozen=True, kw_only=True):
    """Paths matching a pattern: `*`, `?`, `[…]` within a name, `**` for any depth; `after` is a path.

    One page may be empty and still have a `next_after`: the scan of one page is bounded too.
    """

    reply: ClassVar[type[Reply]] = EntriesReply
    pattern: str
    after: str = ""
    limit: int = 1000
    consistency: Consistency = "linearizable"
    min_applied_index: int = 0


class MutationReply(Reply, tag="mutated", frozen=True, kw_only=True):
    inode: InodeId = InodeId(0)
    applied_index: int = 0


class MakeDirectory(Request, tag="mkdir", frozen=True, kw_only=True):
    reply: ClassVar[type[Reply]] = MutationReply
    path: str
    parents: bool = False
    request: RequestId | None = None


class CreateFile(Request, tag="create", frozen=True, kw_only=True):
    """`replication_goal` 0 takes the cluster's default."""

    reply: ClassVar[type[Reply]] = MutationReply
    path: str
    replication_goal: int = 0
    replace: bool = False
    request: RequestId | None = None


class DeletePath(Request, tag="delete", frozen=True, kw_only=True):
    reply: ClassVar[type[Reply]] = MutationReply
    path: str
    recursive: bool = False
    request: RequestId | None = None


class RenamePath(Request, tag="rename", frozen=True, kw_only=True):
    reply: ClassVar[type[Reply]] = MutationReply
    source: str
    destination: str
    replace: bool = False
    request: RequestId | None = None


class SetLengthHint(Request, tag="length_hint", frozen=True, kw_only=True):
    reply: ClassVar[type[Reply]] = MutationReply
    inode: InodeId
    length_bytes: int
    closed: bool
    request: RequestId | None = None


# --- chunks: client -> master ------------------------------------------------------------------


class Replica(msgspec.Struct, frozen=True, array_like=True):
    """A chunk server as a client needs it: control (RPC) and data (bulk bytes) addresses."""

    server: ServerId
    control: Address
    data: Address
    rack: str = ""


class ChunkPlace(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where one chunk can be read. `replicas` may be empty: all its servers are away."""

    index: ChunkIndex
    handle: ChunkHandle
    version: ChunkVersion
    replicas: list[Replica]
    missing: list[ServerId] = []  # members of the set that are not alive
    sealed: bool = False
    length_bytes: int = -1  # known only when sealed


class FileChunks(Reply, tag="file_chunks", frozen=True, kw_only=True):
    entry: Entry
    chunks: list[ChunkPlace]
    applied_index: int


class FindChunks(Request, tag="find_chunks", frozen=True, kw_only=True):
    """Places of chunks first_index … first_index + count - 1 (§2.3: several at once, and those after)."""

    reply: ClassVar[type[Reply]] = FileChunks
    path: str
    first_index: ChunkIndex = ChunkIndex(0)
    count: int = 16
    consistency: Consistency = "linearizable"
    min_applied_index: int = 0


class ChunkLease(Reply, tag="chunk_lease", frozen=True, kw_only=True):
    """The right to send mutations of one chunk version to `primary`, which is one of `replicas`."""

    index: ChunkIndex
    handle: ChunkHandle
    version: ChunkVersion
    primary: ServerId
    replicas: list[Replica]
    lease_seconds: float
    applied_index: int = 0


class AcquireLease(Request, tag="acquire_lease", frozen=True, kw_only=True):
    """Find or grant the lease of a chunk; with `create`, the chunk comes into being when missing.

    `failed_version` > 0 says: mutations under this version failed, because of `suspects` if known.
    The master then grants a newer version without them; it never answers with `failed_version` or less.
    """

    reply: ClassVar[type[Reply]] = ChunkLease
    inode: InodeId
    index: ChunkIndex
    create: bool = False
    failed_version: ChunkVersion = ChunkVersion(0)
    suspects: list[ServerId] = []


class SealChunk(Request, tag="seal_chunk", frozen=True, kw_only=True):
    """Fence the chunk, agree on its length with the reachable replicas, and log the seal."""

    reply: ClassVar[type[Reply]] = MutationReply
    inode: InodeId
    index: ChunkIndex


# --- cluster: anyone -> master -----------------------------------------------------------------


class MasterStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: MasterId
    control: Address
    role: str  # leader, follower, candidate, unreachable, disk full, out of service
    term: Term = Term(0)
    applied_index: int = 0
    commit_index: int = 0
    lag_entries: int = 0


class ChunkServerStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: ServerId
    control: Address
    data: Address
    rack: str = ""
    alive: bool = True
    disk_total_bytes: int = 0
    disk_free_bytes: int = 0
    chunk_count: int = 0
    last_heartbeat_seconds: float = 0.0
    version: str = ""


class ClusterStatusReply(Reply, tag="cluster_status_reply", frozen=True, kw_only=True):
    """`health`: ok, degraded or down; `reasons`: one sentence each, for a person."""

    cluster: ClusterId
    answered_by: MasterId
    leader: MasterId
    term: Term
    masters: list[MasterStatus]
    chunkservers: list[ChunkServerStatus]
    health: str
    reasons: list[str]
    files: int = 0
    directories: int = 0
    chunks: int = 0


class ClusterStatus(Request, tag="cluster_status", frozen=True, kw_only=True):
    """`alone`: the master asked answers for itself only (so that masters can ask each other)."""

    reply: ClassVar[type[Reply]] = ClusterStatusReply
    alone: bool = False


class StateDigestReply(Reply, tag="state_digest_reply", frozen=True, kw_only=True):
    applied_index: int
    digest: str


class StateDigest(Request, tag="state_digest", frozen=True, kw_only=True):
    """Digest of all tables at the applied index; equal on all masters at equal index (I7)."""

    reply: ClassVar[type[Reply]] = StateDigestReply


class TakeCheckpoint(Request, tag="take_checkpoint", frozen=True, kw_only=True):
    """Write a checkpoint of this master's state now."""

    reply: ClassVar[type[Reply]] = StateDigestReply


class ReadmitMaster(Request, tag="readmit_master", frozen=True, kw_only=True):
    """Let a master vote again that was refused because it came back with another, empty disk."""

    reply: ClassVar[type[Reply]] = Ack
    member: MasterId


# --- heartbeat: chunk server -> every master (§2.3, §4.5) ---------------------------------------


class HeldLease(msgspec.Struct, frozen=True, array_like=True):
    """A lease this server holds as primary; `active`: mutated since the last heartbeat."""

    handle: ChunkHandle
    version: ChunkVersion
    seconds_left: float
    active: bool


class HeldChunk(msgspec.Struct, frozen=True, array_like=True):
    handle: ChunkHandle
    version: ChunkVersion
    length_bytes: int


class HeartbeatReply(Reply, tag="heartbeat_reply", frozen=True, kw_only=True):
    """`extended`: leases prolonged to `lease_seconds` from now; only a leader extends.

    `report_wanted`: this master lacks the server's full chunk list; send it from the start.
    `delete`: chunks the server must delete (I6: only what is named here).
    """

    cluster: ClusterId
    term: Term
    is_leader: bool
    report_wanted: bool
    extended: list[ChunkHandle] = []
    lease_seconds: float = 0.0
    delete: list[ChunkHandle] = []


class Heartbeat(Request, tag="heartbeat", frozen=True, kw_only=True):
    """State up, instructions down. Sent to all masters, so that a new leader knows all locations.

    A full report is split in pages: `report_page` counts from 0, `report_last` ends it. Afterwards
    `changed` and `removed` carry only what differs from what this master has acknowledged.
    `incarnation` is drawn at each start of the process: a master that sees a new one asks for a report.
    """

    reply: ClassVar[type[Reply]] = HeartbeatReply
    server: ServerId
    cluster: ClusterId  # empty on a fresh disk: it joins the cluster that answers
    incarnation: str
    control: Address
    data: Address
    rack: str = ""
    version: str = ""
    disk_total_bytes: int = 0
    disk_free_bytes: int = 0
    chunk_count: int = 0
    leases: list[HeldLease] = []
    report_page: int = -1  # -1: no report in this heartbeat
    report_last: bool = False
    report: list[HeldChunk] = []
    changed: list[HeldChunk] = []
    removed: list[ChunkHandle] = []
    corrupt: list[ChunkHandle] = []


# --- chunk servers: master -> chunk server -----------------------------------------------------


class BumpReply(Reply, tag="bumped", frozen=True, kw_only=True):
    """`replaced_version` is what this replica held before (0: it held none); `length_bytes` is committed.

    `may_be_short`: its machine lost power since, so it may lack acknowledged bytes that were not on its
    disk yet; no other replica is cut back to its length.
    """

    replaced_version: ChunkVersion
    length_bytes: int
    may_be_short: bool = False


class BumpVersion(Request, tag="bump", frozen=True, kw_only=True):
    """Persist a new version of a chunk, fencing all older ones (I1, I3), and learn the replica set.

    Accepted when the replica holds `version` - 1 or more … `version`, or holds no replica and `create`.
    Refused as Superseded when the replica has seen a higher `master_term`, and as StaleVersion when it
    holds a higher version or one older than `oldest_version` (it missed mutations: I5).
    """

    reply: ClassVar[type[Reply]] = BumpReply
    cluster: ClusterId
    master_term: Term
    handle: ChunkHandle
    version: ChunkVersion
    oldest_version: ChunkVersion
    create: bool
    primary: ServerId
    replicas: list[Replica]
    lease_seconds: float


class AlignReplica(Request, tag="align", frozen=True, kw_only=True):
    """Cut a replica back to the length every member of the new set holds, before any client knows it."""

    reply: ClassVar[type[Reply]] = Ack
    cluster: ClusterId
    master_term: Term
    handle: ChunkHandle
    version: ChunkVersion
    length_bytes: int


class ChunkStatusReply(Reply, tag="chunk_status_reply", frozen=True, kw_only=True):
    """`may_be_short`: as in BumpReply; only when all members say so, the longest has the chunk's end."""

    version: ChunkVersion
    length_bytes: int
    sealed: bool = False
    block_checksums: list[int] = []
    may_be_short: bool = False


class ChunkStatus(Request, tag="chunk_status", frozen=True, kw_only=True):
    """Committed length (and checksums when asked) of one replica; StaleVersion unless it holds `version`."""

    reply: ClassVar[type[Reply]] = ChunkStatusReply
    handle: ChunkHandle
    version: ChunkVersion
    with_checksums: bool = False


class SealReplica(Request, tag="seal_replica", frozen=True, kw_only=True):
    reply: ClassVar[type[Reply]] = Ack
    cluster: ClusterId
    master_term: Term
    handle: ChunkHandle
    version: ChunkVersion
    length_bytes: int


# --- mutations: client -> primary -> secondaries (§3.1) -----------------------------------------


class WriteReply(Reply, tag="written", frozen=True, kw_only=True):
    serial: SerialNumber
    length_bytes: int  # of the chunk, after this mutation


class WriteChunk(Request, tag="write", frozen=True, kw_only=True):
    """Client to primary: apply the bytes pushed as `push` at `offset_bytes`, on every replica."""

    reply: ClassVar[type[Reply]] = WriteReply
    handle: ChunkHandle
    version: ChunkVersion
    offset_bytes: int
    length_bytes: int
    push: PushId


class AppendReply(Reply, tag="appended", frozen=True, kw_only=True):
    """The record is at `offset_bytes` of the chunk, on every replica.

    `padded`: it is not, because it would have crossed the chunk's end; what was left of the chunk is zeros,
    from `offset_bytes` on, and the record goes to the next chunk. `serial` 0: there was nothing left.
    """

    serial: SerialNumber
    offset_bytes: int
    padded: bool = False


class AppendRecord(Request, tag="append", frozen=True, kw_only=True):
    """Client to primary: apply the bytes pushed as `push`, at an offset of the primary's choice (§3.3)."""

    reply: ClassVar[type[Reply]] = AppendReply
    handle: ChunkHandle
    version: ChunkVersion
    length_bytes: int
    push: PushId


MutationKind = Literal["write", "record", "pad"]


class ApplyMutation(Request, tag="apply", frozen=True, kw_only=True):
    """Primary to secondary: mutation number `serial` of this version; applied in serial order (I4).

    `kind`: "write", bytes pushed for this offset; "record", bytes pushed before their offset was known;
    "pad", zeros up to the chunk's end, of `push` (the record that had no room) no byte is needed.
    """

    reply: ClassVar[type[Reply]] = Ack
    handle: ChunkHandle
    version: ChunkVersion
    serial: SerialNumber
    primary: ServerId
    offset_bytes: int
    length_bytes: int
    push: PushId
    kind: MutationKind = "write"


class DiskStatusReply(Reply, tag="disk_status_reply", frozen=True, kw_only=True):
    server: ServerId
    cluster: ClusterId
    disk_total_bytes: int
    disk_free_bytes: int
    chunk_count: int
    push_buffer_bytes: int


class DiskStatus(Request, tag="disk_status", frozen=True, kw_only=True):
    reply: ClassVar[type[Reply]] = DiskStatusReply


MASTER_REQUESTS: tuple[type[Request], ...] = (
    Ping,
    Stat,
    ListDirectory,
    Glob,
    MakeDirectory,
    CreateFile,
    DeletePath,
    RenamePath,
    SetLengthHint,
    FindChunks,
    AcquireLease,
    SealChunk,
    ClusterStatus,
    StateDigest,
    TakeCheckpoint,
    ReadmitMaster,
    Heartbeat,
)

CHUNKSERVER_REQUESTS: tuple[type[Request], ...] = (
    Ping,
    BumpVersion,
    AlignReplica,
    ChunkStatus,
    SealReplica,
    WriteChunk,
    AppendRecord,
    ApplyMutation,
    DiskStatus,
)
