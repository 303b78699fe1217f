"""Named places where a test may make a program die or fail. No-op unless armed by the environment.

    GFS_FAILPOINTS="oplog.synced=kill@3,chunk.index_committed=kill"

`kill` ends the process at once as `kill -9` would, `@N` at the N-th pass (default the first).
`raise` raises OSError(EIO), `nospace` raises OSError(ENOSPC); both at every pass from the N-th on.
"""

from __future__ import annotations

import errno
import os
import signal

ENVIRONMENT_KEY = "GFS_FAILPOINTS"

NAMES = frozenset(
    {
        # operation log and checkpoints, in the order a master passes them
        "oplog.before_write",
        "oplog.written",
        "oplog.synced",
        "oplog.segment_created",
        "raft.before_vote",
        "raft.before_ack",
        "master.before_propose",
        "master.applied",
        "checkpoint.before_write",
        "checkpoint.written",
        "checkpoint.before_rename",
        "checkpoint.renamed",
        "checkpoint.before_install",
        "lease.before_grant",
        "lease.granted",
        "lease.bumped_one",
        "lease.bumped_all",
        "copy.reserved",
        "copy.made",
        "copy.adopted",
        "snapshot.begun",
        "snapshot.leases_revoked",
        "snapshot.step",  # each step of a copy, committed
        "clone.before_fence",
        "clone.after_fence",
        "clone.before_grant",
        # chunk server
        "chunk.before_bump",
        "chunk.bumped",
        "chunk.before_copy",
        "chunk.copied",  # bytes are, its record is not
        "chunk.before_write",
        "chunk.data_written",
        "chunk.index_committed",
        "chunk.before_ack",
        "chunk.redo_logged",
        "chunk.overwritten",
        "chunk.before_sync",
        "chunk.synced",
        "chunk.delete_recorded",  # its bytes are still there
        "chunk.journal_rotated",
        "push.received",
        "push.forwarded",
        "clone.received",  # the whole copy is on the disk; nobody has been told
        "write.before_reply",  # at the primary; all replicas have the mutation
    }
)


class _Armed:
    __slots__ = ("action", "passes", "start")

    def __init__(self, action: str, start: int) -> None:
        self.action, self.start, self.passes = action, start, 0


def _parse(text: str) -> dict[str, _Armed]:
    armed: dict[str, _Armed] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, rest = item.partition("=")
        action, _, start = rest.partition("@")
        if name not in NAMES or action not in ("kill", "raise", "nospace"):
            raise SystemExit(f"{ENVIRONMENT_KEY}: no such failpoint or action: {item!r}")
        armed[name] = _Armed(action, int(start or 1))
    return armed


_armed = _parse(os.environ.get(ENVIRONMENT_KEY, ""))


def hit(name: str) -> None:
    """Pass the failpoint `name`; does nothing unless it is armed."""
    if not _armed:
        return
    assert name in NAMES, name
    armed = _armed.get(name)
    if armed is None:
        return
    armed.passes += 1
    if armed.passes < armed.start:
        return
    if armed.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise OSError(errno.EIO if armed.action == "raise" else errno.ENOSPC, f"failpoint {name}")
