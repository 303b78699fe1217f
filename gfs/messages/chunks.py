"""Client to master: where chunks are, and the right to change them (GFS §2.3, §3.1)."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from gfs.messages.base import Consistency, Reply, Request, ViewReply
from gfs.messages.namespace import Entry, MutationReply
from gfs.vocabulary import Address, ChunkHandle, ChunkIndex, ChunkVersion, InodeId, ServerId


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
    capability: bytes = b""  # to be shown to its chunk servers, see gfs.capabilities


class FileChunks(ViewReply, tag="file_chunks", frozen=True, kw_only=True):
    entry: Entry
    chunks: list[ChunkPlace]


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
    capability: bytes = b""  # to be shown to its chunk servers, see gfs.capabilities


class AcquireLease(Request, tag="acquire_lease", frozen=True, kw_only=True):
    """Find or grant the lease of a chunk; with `create`, the chunk comes into being when missing.

    `failed_version` > 0 says: mutations under this version failed, because of `suspects` if known.
    The master then grants a newer version without them; it never answers with `failed_version` or less.

    `appending`: for record appends, which can go on in any chunk. After a failure the master then seals a
    chunk that has lost replicas, if a new one would have more, and answers ChunkSealed: nobody waits for a
    repair.
    """

    reply: ClassVar[type[Reply]] = ChunkLease
    inode: InodeId
    index: ChunkIndex
    create: bool = False
    failed_version: ChunkVersion = ChunkVersion(0)
    suspects: list[ServerId] = []
    appending: bool = False


class SealChunk(Request, tag="seal_chunk", frozen=True, kw_only=True):
    """Fence the chunk, agree on its length with the reachable replicas, and log the seal."""

    reply: ClassVar[type[Reply]] = MutationReply
    inode: InodeId
    index: ChunkIndex
