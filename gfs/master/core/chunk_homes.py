"""Which file a chunk belongs to, for those of whom only the handle is known: damaged ones. Volatile.

The tables lead from files to chunks, not back. What clients have asked for lately is remembered, so that the
damage a read meets is answered at once; the rest is found by a walk over all chunks, a piece at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

from gfs.errors import CorruptState
from gfs.master.core.lookup import chunk_of, chunks_after
from gfs.master.core.tables import ReadTables
from gfs.vocabulary import ChunkHandle, ChunkIndex, InodeId

Home = tuple[InodeId, ChunkIndex]

_BEGINNING: Home = InodeId(0), ChunkIndex(0)


class ChunkHomes:
    """Remembers at most `kept_max` chunks; of one that several files share, one of its homes."""

    def __init__(self, *, kept_max: int) -> None:
        assert kept_max > 0
        self._kept_max = kept_max
        self._homes: OrderedDict[ChunkHandle, Home] = OrderedDict()
        self._at = _BEGINNING

    def note(self, handle: ChunkHandle, inode: InodeId, index: ChunkIndex) -> None:
        self._homes[handle] = inode, index
        self._homes.move_to_end(handle)
        if len(self._homes) > self._kept_max:
            self._homes.popitem(last=False)

    def find(self, tables: ReadTables, handle: ChunkHandle) -> Home | None:
        """A file that has this chunk now; None when it has to be searched for."""
        home = self._homes.get(handle)
        if home is None:
            return None
        chunk = chunk_of(tables, *home)
        if chunk is None or chunk.handle != handle:
            del self._homes[handle]  # the file has gone, or has another chunk there since
            return None
        return home

    def search(self, tables: ReadTables, wanted: Collection[ChunkHandle], *, chunks_max: int) -> None:
        """Walk on over `chunks_max` chunks or files, and note those of `wanted` that are among them."""
        named, following = chunks_after(tables, *self._at, limit=chunks_max)
        for inode, index in named:
            chunk = chunk_of(tables, inode, index)
            if chunk is None:
                raise CorruptState(f"chunk {index} of inode {inode} is named but missing")
            if chunk.handle in wanted:
                self.note(chunk.handle, inode, index)
        self._at = following or _BEGINNING
