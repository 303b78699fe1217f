"""The walk over all chunks that finds what is to be repaired or moved (GFS §2.6.1, §4.3).

It reads a bounded piece at a time. What is done about it is repair_duty's; replication_scan only counts, on
every master.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gfs.master.core.lookup import chunk_of, chunks_after, inode_record
from gfs.master.core.records import ChunkRecord
from gfs.master.core.replica_survey import Survey, Surveyor
from gfs.master.core.tables import ReadTables
from gfs.vocabulary import ChunkIndex, InodeId, ServerId

EXAMPLES_KEPT = 10
_BEGINNING = InodeId(0), ChunkIndex(0)


@dataclass(frozen=True, slots=True)
class Sighting:
    """One chunk as the walk met it. `deleted`: no other file has it, and its file, or a directory above
    that, is in the trash. `closed`: no writer has begun since the last one closed the file."""

    inode: InodeId
    index: ChunkIndex
    chunk: ChunkRecord
    survey: Survey
    deleted: bool
    closed: bool


class RepairScan:
    """Walks round and round. Invariant: a whole walk shows each chunk that exists throughout it."""

    def __init__(self) -> None:
        self._at = _BEGINNING
        self._members: dict[ServerId, int] = {}
        self._last_replicas: dict[ServerId, int] = {}
        self._last_examples: dict[ServerId, list[tuple[InodeId, ChunkIndex]]] = {}
        self.walks = 0
        self.members: dict[ServerId, int] = {}  # chunks that name a server in their set, as of the last walk
        self.last_replicas: dict[ServerId, int] = {}  # … of which its replica is the only good one
        self.last_examples: dict[ServerId, list[tuple[InodeId, ChunkIndex]]] = {}

    @property
    def is_at_beginning(self) -> bool:
        return self._at == _BEGINNING

    def restart(self) -> None:
        """Something has changed for many chunks: begin a new walk."""
        self._at = _BEGINNING
        self._members, self._last_replicas, self._last_examples = {}, {}, {}

    def step(
        self, tables: ReadTables, surveyor: Surveyor, show: Callable[[Sighting], None], *, chunks_max: int
    ) -> bool:
        """Show the next `chunks_max` chunks or fewer; returns whether a walk has just ended."""
        assert chunks_max > 0
        named, following = chunks_after(tables, *self._at, limit=chunks_max)
        for inode, index in named:
            sighting = sight(tables, surveyor, inode, index)
            assert sighting is not None, (inode, index)
            for server in sighting.chunk.replicas:
                self._members[server] = self._members.get(server, 0) + 1
            if len(sighting.survey.good) == 1:
                last = sighting.survey.good[0]
                self._last_replicas[last] = self._last_replicas.get(last, 0) + 1
                examples = self._last_examples.setdefault(last, [])
                if len(examples) < EXAMPLES_KEPT:
                    examples.append((inode, index))
            show(sighting)
        if following is not None:
            self._at = following
            return False
        self.members = self._members
        self.last_replicas, self.last_examples = self._last_replicas, self._last_examples
        self.restart()
        self.walks += 1
        return True


def sight(tables: ReadTables, surveyor: Surveyor, inode: InodeId, index: ChunkIndex) -> Sighting | None:
    """One chunk as it is now; None when it is gone."""
    file, chunk = inode_record(tables, inode), chunk_of(tables, inode, index)
    if file is None or chunk is None:
        return None
    survey = surveyor.look(chunk, file)
    deleted = chunk.references == 1 and surveyor.is_deleted(file)
    return Sighting(inode, index, chunk, survey, deleted=deleted, closed=file.length_exact)
