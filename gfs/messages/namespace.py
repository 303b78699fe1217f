"""Client to master: names, files and directories. No chunks."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from gfs.messages.base import Consistency, ErrorReply, Reply, Request, ViewReply
from gfs.messages.operations import RequestId
from gfs.vocabulary import InodeId


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file or directory as the master knows it.

    `length_bytes` is exact when `length_exact`; otherwise the end of the last chunk must be asked of its
    replicas, as always when records are `appended` to the file. `path` is absolute. An empty `owner` is the
    superuser's; `mode` is nine bits rwxrwxrwx.
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
    owner: str = ""
    group: str = ""
    mode: int = 0
    appended: bool = False


class EntryReply(ViewReply, tag="entry", frozen=True, kw_only=True):
    entry: Entry


class EntryReplies(ViewReply, tag="entry_replies", frozen=True, kw_only=True):
    """For each path, in order, what a Stat of it alone would have been answered, all of one view."""

    replies: list[EntryReply | ErrorReply]


class EntriesReply(ViewReply, tag="entries", frozen=True, kw_only=True):
    """`next_after` is empty at the end; else pass it as `after` for the following page."""

    entries: list[Entry]
    next_after: str


class Stat(Request, tag="stat", frozen=True, kw_only=True):
    reply: ClassVar[type[Reply]] = EntryReply
    path: str
    consistency: Consistency = "linearizable"
    min_applied_index: int = 0


class StatMany(Request, tag="stat_many", frozen=True, kw_only=True):
    """What one client wants to know at one time, at most STATS_TOGETHER_MAX paths; linearizable."""

    reply: ClassVar[type[Reply]] = EntryReplies
    paths: list[str]


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
    appending: bool = False
    request: RequestId | None = None
