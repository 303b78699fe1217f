"""An operator to a chunk server: in which store its chunks are kept, and which are on an object service."""

from __future__ import annotations

from typing import ClassVar

from gfs.messages.base import Reply, Request


class MigrateStoreReply(Reply, tag="migrating_store", frozen=True, kw_only=True):
    """`leaving` is empty once every chunk is in `store`.

    `moved_…` count what this process has moved since it began or started. `stuck_chunks` could not be moved
    in this round and are tried again; `problem` says why the last of them.
    """

    store: str
    leaving: str
    left_chunks: int
    moved_chunks: int
    moved_bytes: int
    stuck_chunks: int
    problem: str


class MigrateStore(Request, tag="migrate_store", frozen=True, kw_only=True):
    """Move all chunks to the store `to`, beside the work for clients; empty: only tell how far it is.

    Answered at once. Asking twice is harmless, and tells how far it is.
    """

    reply: ClassVar[type[Reply]] = MigrateStoreReply
    to: str = ""


class TierReply(Reply, tag="tier", frozen=True, kw_only=True):
    """Chunks of one server on an object service. `url` is empty where it has none.

    `out_chunks` are there with all their bytes; of `partly_out_chunks` some have come back, because they were
    written. `moved_…`, `back_bytes` count since the process began. `problem`: why nothing could be moved in
    the last round, since `problem_since_ms` (wall clock).
    """

    url: str
    recall: bool
    out_chunks: int
    partly_out_chunks: int
    object_bytes: int
    cached_bytes: int
    moved_chunks: int
    moved_bytes: int
    back_bytes: int
    problem: str
    problem_since_ms: int


class ShowTier(Request, tag="show_tier", frozen=True, kw_only=True):
    """How much of this server's chunks is on the object service, and how it goes."""

    reply: ClassVar[type[Reply]] = TierReply
