"""Snapshots (GFS §3.4): what clients ask of the master, and what the master tells chunk servers for them."""

from __future__ import annotations

from typing import ClassVar

from gfs.messages.base import Reply, Request
from gfs.messages.namespace import MutationReply
from gfs.messages.operations import RequestId
from gfs.vocabulary import ChunkHandle, ChunkVersion, ClusterId, Term


class TakeSnapshot(Request, tag="snapshot", frozen=True, kw_only=True):
    """Make `target` a copy of the file or tree `source` as it is at one moment; answered when it is whole."""

    reply: ClassVar[type[Reply]] = MutationReply
    source: str
    target: str
    request: RequestId | None = None


class RevokeReply(Reply, tag="revoked", frozen=True, kw_only=True):
    """`lengths`: of the replicas asked about, in that order, -1 where this server holds no such version.

    They may differ after a grant that was cut short.
    `unsettled`: a mutation was under way, or had failed, so that the others may have it and this replica not,
    or the other way round. Such chunks take a newer version to be made equal.
    """

    lengths: list[int]
    unsettled: list[ChunkHandle] = []


class RevokeLeases(Request, tag="revoke", frozen=True, kw_only=True):
    """No mutation of these chunks under these versions, or older ones, is applied here any more.

    `versions` are those of `handles`, one each. Once every replica of a chunk has answered, nothing changes
    it but a newer version.
    """

    reply: ClassVar[type[Reply]] = RevokeReply
    cluster: ClusterId
    handles: list[ChunkHandle]
    versions: list[ChunkVersion]


class CopyReply(Reply, tag="copied", frozen=True, kw_only=True):
    """`may_be_short`: of the replica that was copied, as in BumpReply; so is the copy."""

    length_bytes: int
    may_be_short: bool = False


class CopyReplica(Request, tag="copy_replica", frozen=True, kw_only=True):
    """Make a replica of `copy` from the one of `handle` on the same disk: bytes, checksums and all.

    The replica of `handle` holds `version` or an older one from `oldest_version` on, none of which is written
    to any more; that of `copy` holds `version`, and is on the disk when this is answered. A repeat is
    answered as the first.
    """

    reply: ClassVar[type[Reply]] = CopyReply
    cluster: ClusterId
    master_term: Term
    handle: ChunkHandle
    oldest_version: ChunkVersion
    version: ChunkVersion
    copy: ChunkHandle
