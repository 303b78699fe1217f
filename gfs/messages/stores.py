"""An operator to a chunk server: in which store its chunks are kept."""

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
