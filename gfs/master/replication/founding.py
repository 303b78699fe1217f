"""The log of a master that begins a life of the cluster with a state: empty, behind its checkpoint."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from gfs.disk import Disk
from gfs.master.replication.log import OperationLog, Position
from gfs.master.replication.member_disks import found_identity
from gfs.master.replication.recovery import LOG_DIRECTORY
from gfs.vocabulary import ClusterId, MasterId


def new_disks(members: Iterable[MasterId]) -> dict[MasterId, str]:
    """A disk identity for each master of a life; all have to know all of them."""
    return {member: secrets.token_hex(16) for member in sorted(members)}


def found_log(
    directory: str,
    disk: Disk,
    *,
    me: MasterId,
    cluster: ClusterId,
    disks: dict[MasterId, str],
    life: str,
    base: Position,
    segment_bytes: int,
) -> None:
    """Write log and identity into a master's `directory`, durably. `base`: where its checkpoint ends."""
    log_directory = f"{directory}/{LOG_DIRECTORY}"
    found_identity(log_directory, disk, me=me, cluster=cluster, disks=disks, life=life)
    log = OperationLog(log_directory, disk, segment_bytes=segment_bytes, base=base)
    # Whoever is elected first leads in a term above that of the state, and of all that was before.
    log.setCurrentTerm(base.term, None)
    log.close()
