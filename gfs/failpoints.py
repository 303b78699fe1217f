"""Named places where a test may make a program die or fail. No-op unless armed.

    GFS_FAILPOINTS="oplog.synced=kill@3,chunk.index_committed=kill"

`kill` ends the process at once as `kill -9` would, `@N` at the N-th pass (default the first).
`raise` raises OSError(EIO), `nospace` raises OSError(ENOSPC); both at every pass from the N-th on.
A harness in the same process is told of every pass by `intercept`, and may raise there.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable

ENVIRONMENT_KEY = "GFS_FAILPOINTS"
ACTIONS = ("kill", "raise", "nospace")

# Each is passed by one place in gfs, or by several that do the same thing.
NAMES = frozenset(
    {
        # small files that are replaced in one step: identities, manifests, verdicts, new journal segments
        "file.written",
        "file.synced",
        "file.renamed",  # the directory does not know it for good yet
        "file.durable",
        # operation log, in the order a master passes them
        "oplog.before_write",
        "oplog.written",
        "oplog.segment_synced",  # a new one; its name is not
        "oplog.segment_created",
        "oplog.synced",
        "oplog.before_drop",  # of a segment that a checkpoint has made needless
        "oplog.dropped",
        "oplog.tail_cut",  # at a start, what a power cut has torn
        "raft.before_vote",
        "raft.voted",
        "raft.before_ack",
        "raft.acked",
        "master.before_propose",
        "master.applied",
        "state.before_commit",
        "state.committed",
        "master.before_reply",
        # checkpoints
        "checkpoint.before_write",
        "checkpoint.written",
        "checkpoint.before_rename",
        "checkpoint.file_renamed",  # its manifest is not there yet
        "checkpoint.renamed",
        "checkpoint.half_removed",  # an old one: its manifest is gone, its file is not
        "checkpoint.pruned",
        "checkpoint.received",  # all bytes of the leader's
        "checkpoint.laid_out",
        "checkpoint.before_install",
        "checkpoint.half_adopted",
        "checkpoint.adopted",
        "state.before_replace",
        "state.replaced",
        "checkpoint.installed",
        "state.before_restore",  # at a start
        "state.restored",
        "quarantine.before_verdict",
        "quarantine.before_end",
        # membership
        "member.before_change",
        "member.changing",  # the configuration is in this log only
        "member.changed",
        "member.caught_up",  # a learner; it is no voter yet
        # leases and versions
        "lease.before_grant",
        "lease.granted",
        "lease.bumped_one",
        "lease.bumped_all",
        "lease.aligned",
        "lease.revoked",
        "seal.before_log",
        "seal.logged",
        "seal.told",
        # snapshots
        "copy.reserved",
        "copy.made",
        "copy.adopted",
        "snapshot.begun",
        "snapshot.leases_revoked",
        "snapshot.step",  # each step of a copy, committed
        # clones, as the master makes them
        "clone.before_fence",
        "clone.after_fence",
        "clone.before_grant",
        "clone.joined",
        "clone.left",  # the replica whose place the new one takes
        # trash and garbage
        "trash.before_undelete",
        "trash.undeleted",
        "trash.before_purge",
        "trash.before_reclaim",
        "trash.reclaimed",  # one step of it
        "garbage.named",  # to a chunk server, in an answer that has not left
        # chunk server: versions
        "chunk.before_bump",
        "chunk.bumped",
        "chunk.before_cut",  # to an agreed length, or to be sealed at it
        "chunk.cut_recorded",
        "chunk.cut",
        "chunk.before_copy",
        "chunk.copy_written",
        "chunk.copy_renamed",
        "chunk.copied",  # bytes are, its record is not
        "chunk.copy_recorded",
        # chunk server: mutations
        "chunk.before_write",
        "chunk.data_written",
        "chunk.index_committed",
        "chunk.before_ack",
        "chunk.redo_logged",
        "chunk.overwritten",
        "chunk.redo_repeated",  # at a start
        "chunk.before_sync",
        "chunk.bytes_synced",
        "chunk.journaled",
        "chunk.synced",
        "chunk.before_delete",
        "chunk.delete_recorded",  # its bytes are still there
        "chunk.deleted",
        "chunk.journal_rotated",
        "chunk.index_flushed",
        "chunk.journal_removed",
        "chunk.recovered",
        # a replica moved to another store of the same server
        "move.copied",  # without its lock
        "move.compared",
        "move.departed",
        # the chain, and the order of mutations
        "push.begun",
        "push.received",
        "push.forwarded",
        "write.ordered",  # it has its serial number; nobody else knows
        "write.before_ack",  # at a secondary
        "write.forwarded",  # one secondary has said that it has it
        "write.before_reply",  # at the primary; all replicas have the mutation
        "write.replied",
        # clones, as a chunk server receives them
        "clone.begun",
        "clone.piece_kept",
        "clone.before_finish",
        "clone.received",  # the whole copy is on the disk; nobody has been told
        # backups and restores
        "backup.written",
        "backup.synced",
        "backup.renamed",
        "restore.made",
        "restore.set_aside",
        "restore.in_place",
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
        if name not in NAMES or action not in ACTIONS or not (start or "1").isdigit():
            raise SystemExit(f"{ENVIRONMENT_KEY}: no such failpoint or action: {item!r}")
        armed[name] = _Armed(action, int(start or 1))
    return armed


_armed = _parse(os.environ.get(ENVIRONMENT_KEY, ""))
_interceptor: Callable[[str], None] | None = None


def intercept(told: Callable[[str], None] | None) -> None:
    """Have `told` called with the name at every pass in this process, in the passing thread; None ends it.

    For a harness that runs the programs itself: what it raises goes through the code at that place, so a
    program may be made to die there. What the environment armed stays armed.
    """
    global _interceptor
    _interceptor = told


def hit(name: str) -> None:
    """Pass the failpoint `name`; does nothing unless it is armed."""
    if not _armed and _interceptor is None:
        return
    assert name in NAMES, name
    if _interceptor is not None:
        _interceptor(name)
    armed = _armed.get(name)
    if armed is None:
        return
    armed.passes += 1
    if armed.passes < armed.start:
        return
    if armed.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise OSError(errno.EIO if armed.action == "raise" else errno.ENOSPC, f"failpoint {name}")
