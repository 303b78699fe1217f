"""What waits at the leader while a snapshot is made: paths by their locks, files by their inode (§3.4, §4.1).

The log refuses what comes all the same (core/snapshots); this spares clients the refusal.
"""

from __future__ import annotations

import asyncio

from gfs.master.core.lookup import NamePath, inode_record, names_of
from gfs.master.core.records import TRASH_INODE
from gfs.master.core.tables import ReadTables
from gfs.master.namespace_locks import NamespaceLocks
from gfs.messages.operations import AnyOperation
from gfs.vocabulary import ROOT_INODE, InodeId

THAW_LOOK_SECONDS = 0.05  # how soon it is looked again after what nobody here knows of


class Freezes:
    """The snapshots this leader is making, by the inode of their copy."""

    def __init__(self) -> None:
        self.locks = NamespaceLocks()
        self._sources: dict[InodeId, InodeId] = {}
        self._thawed = asyncio.Event()

    @property
    def is_idle(self) -> bool:
        return self.locks.is_idle and not self._sources

    def freeze(self, copy: InodeId, source: InodeId) -> None:
        self._sources[copy] = source

    def thaw(self, copy: InodeId) -> None:
        if self._sources.pop(copy, None) is not None:
            self._thawed.set()
            self._thawed = asyncio.Event()

    def thaw_all(self) -> None:
        for copy in list(self._sources):
            self.thaw(copy)

    def covers(self, tables: ReadTables, inode: InodeId) -> bool:
        """Whether a file or directory is at or below the source of a snapshot under way."""
        return bool(self._sources) and is_below(tables, inode, set(self._sources.values()))

    def next_thaw(self) -> asyncio.Event:
        """Set when the next of these snapshots comes to its end."""
        return self._thawed


def is_below(tables: ReadTables, inode: int, tops: set[InodeId]) -> bool:
    """Whether `inode` is one of `tops`, or below one."""
    while inode not in (ROOT_INODE, TRASH_INODE):
        if inode in tops:
            return True
        record = inode_record(tables, inode)
        if record is None:
            return False
        inode = record.parent
    return False


def written_paths(operation: AnyOperation) -> list[NamePath]:
    """The paths an operation locks for writing; their ancestors it locks for reading (§4.1)."""
    paths: list[NamePath] = []
    for field in ("path", "source", "destination", "target"):
        path: str | None = getattr(operation, field, None)
        if path is not None:
            paths.append(names_of(path))
    return paths
