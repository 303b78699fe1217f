"""A slow walk over all chunks that counts those with too few replicas (GFS §2.6.1). Repairs nothing.

It reads a bounded piece at a time, so that no caller of the master waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from gfs.master.core.locations import Locations
from gfs.master.core.lookup import chunk_by_handle
from gfs.master.core.records import ChunkRecord, decode_inode, id_key, read_file_chunk_key, read_handle
from gfs.master.core.tables import ReadTables, Table
from gfs.vocabulary import InodeId


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
        self._after = b""
        self._counts = [0, 0, 0, 0]

    def step(self, tables: ReadTables, locations: Locations, *, now: float, chunks_max: int) -> bool:
        """Look at the next `chunks_max` chunks; returns whether a walk has just ended."""
        assert chunks_max > 0
        known_servers = len(locations.servers())
        goals: dict[InodeId, int] = {}
        looked_at = 0
        for key, row in tables.scan(Table.FILE_CHUNKS, self._after):
            if key == self._after:
                continue
            if looked_at == chunks_max:
                return False
            inode = read_file_chunk_key(key)[0]
            if inode not in goals:
                goals[inode] = min(_goal(tables, inode), known_servers)
            chunk = chunk_by_handle(tables, read_handle(row))
            assert chunk is not None, (inode, key)
            self._count(chunk, goals[inode], locations, now)
            self._after = key
            looked_at += 1
        self.result = ReplicationCount(*self._counts)
        self._after, self._counts = b"", [0, 0, 0, 0]
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


def _goal(tables: ReadTables, inode: InodeId) -> int:
    row = tables.get(Table.INODES, id_key(inode))
    assert row is not None, inode
    return decode_inode(row).replication_goal
