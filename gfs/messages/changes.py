"""Client to any master: what changed in the namespace, in the order of the operation log. No file data."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from gfs.messages.base import Reply, Request, ViewReply
from gfs.vocabulary import InodeId

ChangeKind = Literal[
    "created", "deleted", "renamed", "undeleted", "written", "extended", "snapshot", "attributes"
]


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened, by the log entry at `index`; several may have come with one entry.

    created: a file or directory, empty. deleted: it, with all below it, went to the trash. renamed: from
    `source` to `path`, with all below. undeleted: it is back at `path`, with all below. written: a writer has
    told the length, or appends records from now on (then `length_bytes` is -1). extended: a file got a chunk.
    snapshot: `path` is the whole copy (§3.4). attributes: policy, mode or owner. Bytes written within chunks
    that a file has already are not seen by masters.

    `path` and `source` are empty where they lie outside what is watched. Of written, extended and snapshot
    `path` is where the file is now, not then, and empty when finding its name would take too long.
    """

    index: int
    at_ms: int
    kind: ChangeKind
    path: str = ""
    source: str = ""
    inode: InodeId = InodeId(0)
    length_bytes: int = -1


class ChangesReply(ViewReply, tag="changes", frozen=True, kw_only=True):
    """Whole log entries. `next_index`: all changes before it were told; ask from there."""

    changes: list[Change]
    next_index: int


class WatchChanges(Request, tag="watch", frozen=True, kw_only=True):
    """What changed at or below `path`, or to what holds it, from the log entry `from_index` on.

    Waits for `wait_seconds` at most until there is something. `from_index` 0: nothing but where to begin, so
    that all that is acknowledged later is told. Answered by any master, from what it has applied.
    """

    reply: ClassVar[type[Reply]] = ChangesReply
    path: str = "/"
    from_index: int = 0
    wait_seconds: float = 0.0
