"""Looking for what is damaged or at risk, and mending it (GFS §5.2): to masters and to chunk servers."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from gfs.messages.base import Reply, Request
from gfs.messages.chunks import ChunkPlace, Replica
from gfs.vocabulary import ChunkHandle, ChunkIndex, ChunkVersion, ClusterId, InodeId, ServerId, Term

# Worst first. lost: no good replica can be reached, its servers are away or what they hold is damaged.
# last_replica: one is left though more are wanted. one_rack: all good ones are in one rack of several.
# short: fewer than wanted.
ChunkRisk = Literal["lost", "last_replica", "one_rack", "short", "ok"]
RISKS: tuple[ChunkRisk, ...] = ("lost", "last_replica", "one_rack", "short", "ok")

MemberCondition = Literal["away", "damaged", "stale", "missing"]


class CheckedChunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`bad`: the members of its set that are not good, and why. `wanted`: at most as many as servers."""

    index: ChunkIndex
    handle: ChunkHandle
    risk: ChunkRisk
    wanted: int
    good: list[ServerId]
    bad: dict[ServerId, MemberCondition] = {}


class CheckedFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file with chunks at risk: how many of each kind, and the worst of them. Of a part of the file when
    the page of answers ends within it."""

    path: str
    inode: InodeId
    risk: ChunkRisk
    counts: dict[ChunkRisk, int]
    worst: list[CheckedChunk]


class FilePlaces(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    chunks: list[ChunkPlace]


class CheckFilesReply(Reply, tag="checked_files", frozen=True, kw_only=True):
    """`files` counts those whose first chunk (or emptiness) is in this page; `at_risk` names those not ok.

    `next_after` is empty at the end; else pass it and `next_chunk` for the following page.
    """

    files: int
    counts: dict[ChunkRisk, int]
    at_risk: list[CheckedFile]
    places: list[FilePlaces] = []
    next_after: str = ""
    next_chunk: ChunkIndex = ChunkIndex(0)


class CheckFiles(Request, tag="check_files", frozen=True, kw_only=True):
    """How safe the chunks of all files at and below `path` are, a page at a time, in the order of paths.

    Goes on behind the path `after`, or, with `first_chunk` > 0, within the file of that path. `with_places`:
    tell where all replicas of the page's chunks are, so that they can be verified.
    """

    reply: ClassVar[type[Reply]] = CheckFilesReply
    path: str
    after: str = ""
    first_chunk: ChunkIndex = ChunkIndex(0)
    with_places: bool = False


class RepairFilesReply(Reply, tag="repairing_files", frozen=True, kw_only=True):
    chunks: int  # that the master has put first


class RepairFiles(Request, tag="repair_files", frozen=True, kw_only=True):
    """Repair what is at risk in these files before anything else; answered at once, CheckFiles tells the
    rest. Of files with very many chunks the first that are at risk: ask again when they are repaired."""

    reply: ClassVar[type[Reply]] = RepairFilesReply
    paths: list[str]


class VerifyReplicaReply(Reply, tag="verified_replica", frozen=True, kw_only=True):
    """`bad_blocks` do not match their checksums or cannot be read. `block_checksums`: as in ChunkStatus."""

    version: ChunkVersion
    length_bytes: int
    sealed: bool
    bad_blocks: list[int]
    block_checksums: list[int]


class VerifyReplica(Request, tag="verify_replica", frozen=True, kw_only=True):
    """Read and verify every block of a replica now. What is bad is reported to the masters as well."""

    reply: ClassVar[type[Reply]] = VerifyReplicaReply
    handle: ChunkHandle
    version: ChunkVersion
    capability: bytes = b""


class ReplicaVersion(msgspec.Struct, frozen=True, array_like=True):
    """A replica, and the version it is held at there."""

    replica: Replica
    version: ChunkVersion


class MendReplicaReply(Reply, tag="mended_replica", frozen=True, kw_only=True):
    """`bad_blocks` are those no source had whole; with none left, the replica counts as undamaged again."""

    mended_blocks: int
    bad_blocks: list[int]


class MendReplica(Request, tag="mend_replica", frozen=True, kw_only=True):
    """Master to a damaged replica, when no member has the chunk whole: take the bad blocks from `sources`.

    Each of those may be damaged too, in other blocks. A block is taken only if it has the checksum that
    this replica has noted for it: so `older` ones, that have missed mutations of the chunk, may be asked for
    what they have, too.
    """

    reply: ClassVar[type[Reply]] = MendReplicaReply
    cluster: ClusterId
    master_term: Term
    handle: ChunkHandle
    version: ChunkVersion
    sources: list[Replica]
    older: list[ReplicaVersion] = []
