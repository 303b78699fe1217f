"""A slow walk over all chunks that counts those with too few replicas (GFS §2.6.1). Repairs nothing.

It reads a bounded piece at a time, so that no caller of the master waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from gfs.master.core.locations import Locations
from gfs.master.core.lookup import chunk_of, chunks_after, inode_record
from gfs.master.core.policies import InheritedPolicies
from gfs.master.core.records import ChunkRecord
from gfs.master.core.tables import ReadTables
from gfs.vocabulary import ChunkIndex, InodeId

_BEGINNING = InodeId(0), ChunkIndex(0)


@dataclass(frozen=True, slots=True)
class ReplicationCount:
    """What one whole walk found, of all chunks: `short` of their file's goal; of those, `lonely` with one
    good replica left, `lost` with none. A goal above the number of known servers counts as that number."""

    chunks: int
    short: int
    lonely: int
    lost: int


class ReplicationScan:
    """Walks the chunks of all files in order. `result` is of the last whole walk, None before the first ends.

    Invariant: a walk counts each chunk of a file that exists throughout it exactly once.
    """

    def __init__(self) -> None:
        self.result: ReplicationCount | None = None
        self._at = _BEGINNING
        self._counts = [0, 0, 0, 0]

    def step(self, tables: ReadTables, locations: Locations, *, now: float, chunks_max: int) -> bool:
        """Look at the next `chunks_max` chunks or files; returns whether a walk has just ended."""
        assert chunks_max > 0
        known_servers = len(locations.servers())
        named, following = chunks_after(tables, *self._at, limit=chunks_max)
        policies = InheritedPolicies(tables)
        for inode, index in named:
            file, chunk = inode_record(tables, inode), chunk_of(tables, inode, index)
            assert file is not None and chunk is not None, (inode, index)
            self._count(chunk, min(policies.goal_of(file), known_servers), locations, now)
        if following is not None:
            self._at = following
            return False
        self.result = ReplicationCount(*self._counts)
        self._at, self._counts = _BEGINNING, [0, 0, 0, 0]
        return True

    def _count(self, chunk: ChunkRecord, goal: int, locations: Locations, now: float) -> None:
        oldest = max(chunk.held_version, 1)
        good = sum(
            oldest <= locations.version_at(member, chunk.handle) <= chunk.version
            and locations.is_alive(member, now=now)
            for member in chunk.replicas
        )
        self._counts[0] += 1
        self._counts[1] += good == 0 or good < goal
        self._counts[2] += good == 1 < goal
        self._counts[3] += good == 0
