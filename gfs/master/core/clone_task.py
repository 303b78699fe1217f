"""One replica to be made, or moved: what re-replication and rebalancing ask for (GFS §4.3). Chosen in repair.

Carried out by replica_moves; nothing here decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gfs.vocabulary import ChunkHandle, ChunkIndex, InodeId, ServerId

CloneReason = Literal["lost replica", "corrupt replica", "goal raised", "drain", "rebalance"]


@dataclass(frozen=True, slots=True)
class CloneTask:
    """Chunk `handle`, `index` of file `inode`, shall have a replica on `target`, which has none.

    `drop` leaves the chunk's replica set in the same step in which `target` enters it, or a later one; None:
    the set grows by one. `priority`: higher is more urgent; equal ones are in no order. `source`: the member
    that had better be copied from, as it gives and receives least; another will do.
    A task is of one moment: whoever carries it out checks it against the log again.
    """

    inode: InodeId
    index: ChunkIndex
    handle: ChunkHandle
    target: ServerId
    drop: ServerId | None
    reason: CloneReason
    priority: int
    source: ServerId | None = None

    def __post_init__(self) -> None:
        assert self.target != self.drop and self.target != self.source
