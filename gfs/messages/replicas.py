"""What chunk servers are told: by the master (versions, seals), by clients and primaries (mutations)."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from gfs.messages.base import Ack, Reply, Request
from gfs.messages.chunks import Replica
from gfs.vocabulary import (
    ChunkHandle,
    ChunkVersion,
    ClientId,
    ClusterId,
    PushId,
    SerialNumber,
    ServerId,
    Term,
)


class AppendedRecord(msgspec.Struct, frozen=True, array_like=True):
    """One record of a mutation of records, which stand behind each other in the order given.

    `client`, `sequence`: which record it is, so that a repeat is recognised on every replica, also by a later
    primary and after a seal (I9); client 0: nobody asks (at least once). The client never repeats a sequence
    below `settled_below`, so that replicas may forget those.
    """

    client: ClientId
    sequence: int
    settled_below: int
    length_bytes: int


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
    `durable`: mutations of this version are on the disk of each replica before they are acknowledged.
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
    durable: bool = False


class AlignReplica(Request, tag="align", frozen=True, kw_only=True):
    """Cut a replica back to the length every member of the new set holds, before any client knows it."""

    reply: ClassVar[type[Reply]] = Ack
    cluster: ClusterId
    master_term: Term
    handle: ChunkHandle
    version: ChunkVersion
    length_bytes: int


class ChunkStatusReply(Reply, tag="chunk_status_reply", frozen=True, kw_only=True):
    """`may_be_short`: as in BumpReply; only when all members say so, the longest has the chunk's end.

    `append_window`: which identified records the replica holds (chunkserver/core/append_window tells the
    format). A copy of the chunk must take it over, or a repeated append would be there twice.
    """

    version: ChunkVersion
    length_bytes: int
    sealed: bool = False
    block_checksums: list[int] = []
    may_be_short: bool = False
    append_window: bytes = b""


class ChunkStatus(Request, tag="chunk_status", frozen=True, kw_only=True):
    """Committed length of one replica, and when asked its checksums and append window.

    StaleVersion unless it holds `version`. `server`: whom this is meant for, as another chunk server may have
    taken over an address; Unavailable from any but that one. Empty: from whoever is there.
    """

    reply: ClassVar[type[Reply]] = ChunkStatusReply
    handle: ChunkHandle
    version: ChunkVersion
    with_checksums: bool = False
    with_append_window: bool = False
    server: ServerId = ServerId("")
    capability: bytes = b""


class SealReplica(Request, tag="seal_replica", frozen=True, kw_only=True):
    reply: ClassVar[type[Reply]] = Ack
    cluster: ClusterId
    master_term: Term
    handle: ChunkHandle
    version: ChunkVersion
    length_bytes: int


class CloneReply(Reply, tag="cloned", frozen=True, kw_only=True):
    """The guest is `length_bytes` long now; `fetched_bytes` of it had to be fetched for that."""

    fetched_bytes: int
    length_bytes: int


class CloneChunk(Request, tag="clone", frozen=True, kw_only=True):
    """Master to the server that shall get a replica: make a *guest*, a copy of what `sources` hold (§4.3).

    The chunk is held in `version` there; the first source that can is copied, block by block, only what the
    guest lacks or has otherwise. A guest is seen by nobody until a bump makes it a replica: which it can
    only once it is whole. `fenced_bytes` >= 0 asks for that: the chunk is fenced at this length, so the copy
    must be equal to the last byte, and on the disk before the answer. `bytes_per_second` 0: no limit.
    Refused as Superseded when a higher `master_term` was seen, as StaleVersion when a source holds another
    version, or when this server holds the version, or a later one, itself.
    """

    reply: ClassVar[type[Reply]] = CloneReply
    cluster: ClusterId
    master_term: Term
    handle: ChunkHandle
    version: ChunkVersion
    sources: list[Replica]
    bytes_per_second: int = 0
    fenced_bytes: int = -1


class WriteReply(Reply, tag="written", frozen=True, kw_only=True):
    serial: SerialNumber
    length_bytes: int  # of the chunk, after this mutation


class WriteChunk(Request, tag="write", frozen=True, kw_only=True):
    """Client to primary: apply the bytes pushed as `push` at `offset_bytes`, on every replica.

    With `data` nothing was pushed: `checksums` are those of each block the bytes touch, and `push` only names
    the write. A primary that does not know these fields answers PushMissing; then the client pushes.
    """

    reply: ClassVar[type[Reply]] = WriteReply
    handle: ChunkHandle
    version: ChunkVersion
    offset_bytes: int
    length_bytes: int
    push: PushId
    data: bytes = b""
    checksums: list[int] = []
    capability: bytes = b""


class AppendReply(Reply, tag="appended", frozen=True, kw_only=True):
    """The record is at `offset_bytes` of the chunk, on every replica.

    `padded`: it is not, because it would have crossed the chunk's end; what was left of the chunk is zeros,
    from `offset_bytes` on, and the record goes to the next chunk. `serial` 0: nothing was ordered, the record
    was there already, or nothing was left of the chunk.
    """

    serial: SerialNumber
    offset_bytes: int
    padded: bool = False


class AppendRecord(Request, tag="append", frozen=True, kw_only=True):
    """Client to primary: append one record at an offset of the primary's choice (§3.3).

    Its bytes are in `data` with their CRC32C in `checksum`, or, when there are many, pushed as `push`.
    With a `client` it is done exactly once (I9): repeats carry the same `sequence` and `repeated`; see
    AppendedRecord. A repeat's earlier tries cannot be at an offset below `not_before`.
    """

    reply: ClassVar[type[Reply]] = AppendReply
    handle: ChunkHandle
    version: ChunkVersion
    length_bytes: int
    push: PushId = PushId("")
    data: bytes = b""
    checksum: int = 0
    client: ClientId = ClientId(0)
    sequence: int = 0
    settled_below: int = 0
    repeated: bool = False
    not_before: int = 0
    capability: bytes = b""


class FindRecordReply(Reply, tag="record_found", frozen=True, kw_only=True):
    """`final` False: the replica cannot tell, the chunk may still change. `offset_bytes` -1: not there."""

    final: bool
    offset_bytes: int = -1


class FindRecord(Request, tag="find_record", frozen=True, kw_only=True):
    """Client to any replica: did the record of an append whose outcome is unknown get into a sealed chunk?

    `sealed_version`: the version under which the log says it was sealed, if the client knows: a replica that
    holds it, or a later one, is final although word of the seal may not have reached it. Refused as
    RecordForgotten when the replica has forgotten records at `not_before` or behind it.
    """

    reply: ClassVar[type[Reply]] = FindRecordReply
    handle: ChunkHandle
    client: ClientId
    sequence: int
    not_before: int = 0
    sealed_version: ChunkVersion = ChunkVersion(0)
    capability: bytes = b""


MutationKind = Literal["write", "record", "pad"]


class ApplyMutation(Request, tag="apply", frozen=True, kw_only=True):
    """Primary to secondary: mutation number `serial` of this version; applied in serial order (I4).

    `kind`: "write", bytes pushed for this offset; "record", bytes pushed before their offset was known;
    "pad", zeros up to the chunk's end, of `push` (the record that had no room) no byte is needed. `records`
    are those that the bytes consist of, as far as they are identified. With `data` nothing was pushed:
    `checksums` are those of each block the bytes touch, and `push` only names the mutation; `kind` is then
    always "record", which is all that earlier secondaries take.
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
    records: list[AppendedRecord] = []
    data: bytes = b""
    checksums: list[int] = []
