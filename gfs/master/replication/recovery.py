"""Starting a master: its log, its checkpoints and its state have to tell one story, or it does not start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gfs.disk import Disk
from gfs.errors import CorruptState
from gfs.master.replication.checkpoints import CheckpointStore
from gfs.master.replication.log import OperationLog, Position
from gfs.master.replication.member_disks import MemberDisks
from gfs.master.replication.membership import NEVER_CHANGED, Membership
from gfs.master.replication.replicator import Member, StateMachine
from gfs.vocabulary import ClusterId, MasterId

LOG_DIRECTORY = "log"


class Recovered(NamedTuple):
    log: OperationLog
    disks: MemberDisks
    membership: Membership
    applied: Position


def recover(
    directory: str,
    disk: Disk,
    *,
    me: MasterId,
    cluster: ClusterId,
    founders: Sequence[Member],
    state: StateMachine,
    checkpoints: CheckpointStore,
    state_wanted: bool,
    segment_bytes: int,
) -> Recovered:
    """Open the log in `directory` and compare it with the newest checkpoint and the state.

    A log that ends before the checkpoint is what a crash between installing one and writing that down leaves
    behind: it starts over from the checkpoint. Anything else that does not fit was lost or mixed up.
    `state_wanted`: the state is to be thrown away, so that nothing needs to fit to it.
    Raises: CorruptState, UnsupportedVersion, WrongCluster.
    """
    newest = checkpoints.newest()
    applied = Position(*state.applied())
    if newest is not None and applied.index < newest.index:
        raise CorruptState(f"the state is at entry {applied.index}, behind its checkpoint {newest.index}")
    log_directory = f"{directory}/{LOG_DIRECTORY}"
    has_history = newest is not None or applied.index > 0
    disks = MemberDisks(
        log_directory, disk, me=me, cluster=cluster, founders=founders, has_history=has_history
    )
    if has_history and not OperationLog.exists_in(log_directory, disk):
        raise CorruptState(
            f"the operation log in {log_directory} is gone although this master has been in use",
            hint="Empty the whole directory and readmit this master: 'gfs admin members readmit'.",
        )
    base = Position(newest.index, newest.term) if newest is not None else None
    log = OperationLog(log_directory, disk, segment_bytes=segment_bytes, base=base)
    if not state_wanted:
        _check(log, applied)
    membership = Membership(me, disks.founders, log)
    membership.restart(base or NEVER_CHANGED, newest.configuration if newest is not None else ())
    return Recovered(log, disks, membership, applied)


def _check(log: OperationLog, applied: Position) -> None:
    if applied.index > log.end.index:
        raise CorruptState(
            f"the state is at entry {applied.index}, but the operation log ends at {log.end.index}",
            hint="The log has lost entries. Move this directory aside and readmit this master.",
        )
    if applied.index < log.base.index and log.base.index > 1:
        raise CorruptState(
            f"the operation log starts after entry {log.base.index}, but the state ends at {applied.index}",
            hint="A checkpoint is missing. Restore it, or readmit this master with an empty disk.",
        )
    if applied.index > 1 and not log.holds(applied):
        raise CorruptState(
            f"entry {applied.index} of the log is of term {log.term_at(applied.index)}, "
            f"but the state was made from one of term {applied.term}"
        )
