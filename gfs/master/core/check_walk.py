"""A walk over the chunks of all files below a path, a page at a time: what fsck sees. Changes nothing.

Files come in the order of their paths' bytes. A page is of one point of the log; the next may be of a later
one: a file made or deleted meanwhile may be seen or not, every other file is seen once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gfs.errors import NotADirectory, NotFound
from gfs.master.core.glob import walk_below
from gfs.master.core.lookup import chunk_of, find, inode_record, names_of, spell
from gfs.master.core.records import ChunkRecord, InodeRecord
from gfs.master.core.tables import ReadTables
from gfs.vocabulary import ChunkIndex, InodeId


@dataclass(frozen=True, slots=True)
class WalkedFile:
    """Chunks `first` … of a file: as many as there are, or as fit in the page."""

    path: str
    inode: InodeId
    record: InodeRecord
    first: ChunkIndex
    chunks: list[ChunkRecord]


@dataclass(frozen=True, slots=True)
class WalkedPage:
    """`next_after` is empty at the end; see CheckFiles for how to go on."""

    files: list[WalkedFile]
    next_after: str
    next_chunk: ChunkIndex


def walk_page(tables: ReadTables, path: str, *, after: str, first_chunk: int, limit: int) -> WalkedPage:
    """The next files, until `limit` entries and chunks have been looked at.

    Raises: InvalidPath; NotFound, NotADirectory when there is nothing at `path`.
    """
    assert limit > 0
    names = names_of(path)
    find(tables, names)
    files: list[WalkedFile] = []
    looked_at = 0
    last = after
    for entry, inode, first in _entries(tables, path, after, first_chunk):
        if looked_at >= limit:
            return WalkedPage(files, last, ChunkIndex(0))
        looked_at += 1
        record = inode_record(tables, inode)
        assert record is not None, inode
        if not record.is_directory:
            stop = min(record.chunk_count, first + max(1, limit - looked_at))
            chunks = [_chunk(tables, inode, index) for index in range(first, stop)]
            files.append(WalkedFile(entry, inode, record, ChunkIndex(first), chunks))
            looked_at += len(chunks)
            if stop < record.chunk_count:
                return WalkedPage(files, entry, ChunkIndex(stop))
        last = entry
    return WalkedPage(files, "", ChunkIndex(0))


def _entries(
    tables: ReadTables, path: str, after: str, first_chunk: int
) -> Iterator[tuple[str, InodeId, int]]:
    if after and first_chunk > 0:
        row = _still_there(tables, after)
        if row is not None:
            yield after, row, first_chunk
    behind = names_of(after) if after else None
    for found, inode in walk_below(tables, names_of(path), behind):
        yield spell(found, whole=True), inode, 0


def _still_there(tables: ReadTables, path: str) -> InodeId | None:
    try:
        return find(tables, names_of(path))[0]
    except (NotFound, NotADirectory):
        return None


def _chunk(tables: ReadTables, inode: InodeId, index: int) -> ChunkRecord:
    chunk = chunk_of(tables, inode, index)
    assert chunk is not None, (inode, index)
    return chunk
