"""A slow walk over all chunks that counts those with too few replicas (GFS §2.6.1). Repairs nothing.

It reads a bounded piece at a time, so that no caller of the master waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gfs.master.core.locations import Locations
from gfs.master.core.lookup import chunk_of, chunks_after, inode_record
from gfs.master.core.policies import InheritedPolicies
from gfs.master.core.records import ChunkRecord
from gfs.master.core.tables import ReadTables
from gfs.vocabulary import ChunkIndex, InodeId

CELL_EXAMPLES_MAX = 100

_BEGINNING = InodeId(0), ChunkIndex(0)


@dataclass(slots=True)
class Cell:
    """The chunks of one goal and one number of good replicas: how many, and the first of them."""

    chunks: int = 0
    examples: list[tuple[InodeId, ChunkIndex]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ReplicationCount:
    """What one whole walk found, of all chunks: `short` of their file's goal; of those, `lonely` with one
    good replica left, `lost` with none. A goal above the number of known servers counts as that number.

    `cells`: by the goal as it was set, and good replicas.
    """

    chunks: int
    short: int
    lonely: int
    lost: int
    cells: Mapping[tuple[int, int], Cell] = field(default_factory=dict, compare=False)


class ReplicationScan:
    """Walks the chunks of all files in order. `result` is of the last whole walk, None before the first ends.

    Invariant: a walk counts each chunk of a file that exists throughout it exactly once.
    """

    def __init__(self) -> None:
        self.result: ReplicationCount | None = None
        self._at = _BEGINNING
        self._counts = [0, 0, 0, 0]
        self._cells: dict[tuple[int, int], Cell] = {}

    def step(self, tables: ReadTables, locations: Locations, *, now: float, chunks_max: int) -> bool:
        """Look at the next `chunks_max` chunks or files; returns whether a walk has just ended."""
        assert chunks_max > 0
        known_servers = len(locations.servers())
        named, following = chunks_after(tables, *self._at, limit=chunks_max)
        policies = InheritedPolicies(tables)
        for inode, index in named:
            file, chunk = inode_record(tables, inode), chunk_of(tables, inode, index)
            assert file is not None and chunk is not None, (inode, index)
            goal = policies.goal_of(file)
            good = self._count(chunk, min(goal, known_servers), locations, now)
            cell = self._cells.setdefault((goal, good), Cell())
            cell.chunks += 1
            if len(cell.examples) < CELL_EXAMPLES_MAX:
                cell.examples.append((inode, index))
        if following is not None:
            self._at = following
            return False
        chunks, short, lonely, lost = self._counts
        self.result = ReplicationCount(chunks, short, lonely, lost, self._cells)
        self._at, self._counts, self._cells = _BEGINNING, [0, 0, 0, 0], {}
        return True

    def _count(self, chunk: ChunkRecord, goal: int, locations: Locations, now: float) -> int:
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
        return good
