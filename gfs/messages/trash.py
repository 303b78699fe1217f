"""Client to master: what was deleted, getting it back, and getting rid of it for good (GFS §4.4)."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from gfs.messages.base import Consistency, Reply, Request, ViewReply
from gfs.messages.namespace import Entry, MutationReply
from gfs.messages.operations import RequestId


class TrashEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something deleted, with all that was below it. `path` is where it was; `entry` what it is.

    `entry.path` is the hidden name, /.trash/<inode>, under which it can be read until `expires_ms`. After
    that it is reclaimed. `deleted_ms` is 0 when that is not known. `content_bytes` is what it holds, copies
    not counted; a file that was never closed counts its chunks in full.
    """

    path: str
    deleted_ms: int
    expires_ms: int
    entry: Entry
    content_bytes: int = 0


class TrashReply(ViewReply, tag="trash", frozen=True, kw_only=True):
    """`next_after` is empty at the end; else pass it as `after` for the following page."""

    entries: list[TrashEntry]
    next_after: str


class ListTrash(Request, tag="list_trash", frozen=True, kw_only=True):
    """What was deleted from `under` or below it, soonest reclaimed first; a page may be empty."""

    reply: ClassVar[type[Reply]] = TrashReply
    under: str = "/"
    after: str = ""
    limit: int = 1000
    consistency: Consistency = "linearizable"
    min_applied_index: int = 0


class UndeleteReply(MutationReply, tag="undeleted", frozen=True, kw_only=True):
    """`path` is where it is now."""

    path: str


class Undelete(Request, tag="undelete", frozen=True, kw_only=True):
    """Give back what was deleted from `path`, the newest of several; a hidden name, /.trash/<id>, says which.

    It goes to `destination`, "" for where it was; parents that are missing are made.
    """

    reply: ClassVar[type[Reply]] = UndeleteReply
    path: str
    destination: str = ""
    request: RequestId | None = None


class PurgeReply(MutationReply, tag="purged", frozen=True, kw_only=True):
    """`entries`: how many this try has found to purge. `more`: there are others; ask again."""

    entries: int = 0
    more: bool = False


class PurgeTrash(Request, tag="purge", frozen=True, kw_only=True):
    """Reclaim at once what was deleted from `path`, each time it was; /.trash/<id> is one entry.

    `everything`: what was deleted from below `path` as well.
    """

    reply: ClassVar[type[Reply]] = PurgeReply
    path: str
    everything: bool = False
    request: RequestId | None = None
