"""Taking apart what was purged or has expired, in bounded steps (GFS §4.4). What may be undeleted is trash's.

First an entry's row moves to the deadline CONDEMNED_MS: from then on nobody can undelete or read it. A
condemned file loses its chunks, the last ones first; a condemned directory its entries, small files at once,
the others as condemned rows of their own. So the rows of the trash are all there is to remember between two
steps, whatever the size of a tree, and each step leaves tables that are sound.

A chunk goes when no file names it any more (snapshots share chunks). Its handle is never given out again, so
that a replica of it can be told for garbage by any master at any later time: core/garbage.
"""

from __future__ import annotations

from itertools import islice

import msgspec

from gfs.errors import CorruptState, InvalidArgument, NotFound
from gfs.master.core.digest import DigestedTables
from gfs.master.core.records import (
    CONDEMNED_MS,
    TRASH_INODE,
    Counters,
    InodeRecord,
    decode_chunk,
    decode_inode,
    encode_chunk,
    encode_inode,
    file_chunk_key,
    id_key,
    read_dentry,
    read_handle,
    read_trash_key,
    trash_key,
)
from gfs.master.core.tables import Table
from gfs.master.core.trash import trash_row
from gfs.messages.operations import PurgeTrash, Reclaim
from gfs.settings import PURGE_ENTRIES_MAX, RECLAIM_ROWS_MAX

AT_ONCE_CHUNKS_MAX = 4  # a file of so many chunks goes together with its entry
_ROWS_PER_ENTRY = 3  # of a file of one chunk: entry, inode, chunk


class Reclamation:
    """Every method checks first and writes after: when it raises, nothing was written."""

    def __init__(self, tables: DigestedTables, counters: Counters) -> None:
        self._tables = tables
        self._counters = counters

    def condemn(self, operation: PurgeTrash) -> None:
        """Raises: InvalidArgument; NotFound when none of the entries is in the trash (any more)."""
        if len(operation.entries) > PURGE_ENTRIES_MAX:
            raise InvalidArgument(f"at most {PURGE_ENTRIES_MAX} entries are purged by one operation")
        purged = 0
        for name in dict.fromkeys(operation.entries):
            key, row = trash_row(self._tables, name)
            if row is not None:
                self._condemn_row(key, row)
                purged += 1
        if not purged:
            raise NotFound("the trash does not hold what was to be purged")

    def reclaim(self, operation: Reclaim) -> None:
        """Touches up to about `rows_max` rows, and RECLAIM_ROWS_MAX, with a small constant on top."""
        rows_left = min(max(1, operation.rows_max), RECLAIM_ROWS_MAX)
        while rows_left > 0:
            first = next(iter(self._tables.scan(Table.TRASH)), None)
            if first is None:
                return
            key, row = first
            expires_at_ms, inode = read_trash_key(key)
            if expires_at_ms > operation.now_ms:
                return
            if expires_at_ms != CONDEMNED_MS:
                self._condemn_row(key, row)
                rows_left -= 1
            else:
                rows_left -= self._take_apart(inode, key, row, rows_left)

    def _condemn_row(self, key: bytes, row: bytes) -> None:
        inode = read_trash_key(key)[1]
        self._tables.remove(Table.TRASH, key, old=row)
        self._tables.insert(Table.TRASH, trash_key(CONDEMNED_MS, inode), b"")
        self._counters.trash -= 1

    def _take_apart(self, inode: int, key: bytes, row: bytes, rows_max: int) -> int:
        """Returns how many rows went."""
        record = self._inode(inode)[1]
        if record.is_directory:
            rows, is_empty = self._take_entries(inode, max(1, rows_max // _ROWS_PER_ENTRY))
            if is_empty:
                self._remove_directory(inode)
        else:
            rows = 1 + self._take_chunks(inode, max(1, rows_max // 2))
            is_empty = self._remove_if_empty(inode)
        if is_empty:
            self._tables.remove(Table.TRASH, key, old=row)
            rows += 2
        return rows

    def _take_entries(self, directory: int, entries_max: int) -> tuple[int, bool]:
        """Rows that went, and whether that was all there is in the directory."""
        tables = self._tables
        span = id_key(directory), id_key(directory + 1)
        entries = list(islice(tables.scan(Table.DENTRIES, *span), entries_max))
        rows = 0
        for key, entry in entries:
            inode, is_directory = read_dentry(entry)
            tables.remove(Table.DENTRIES, key, old=entry)
            inode_row, record = self._inode(inode)
            if is_directory or record.chunk_count > AT_ONCE_CHUNKS_MAX:
                tables.insert(Table.TRASH, trash_key(CONDEMNED_MS, inode), b"")
                self._rewrite(inode, inode_row, msgspec.structs.replace(record, parent=TRASH_INODE))
                rows += _ROWS_PER_ENTRY
            else:
                rows += 2 + self._take_chunks(inode, AT_ONCE_CHUNKS_MAX)
                removed = self._remove_if_empty(inode)
                assert removed, inode
        return rows, len(entries) < entries_max

    def _take_chunks(self, inode: int, chunks_max: int) -> int:
        """Take the last chunks off a file; returns how many rows went."""
        inode_row, file = self._inode(inode)
        first = max(0, file.chunk_count - chunks_max)
        rows = 0
        if file.chunk_count > 1:
            span = file_chunk_key(inode, max(1, first)), file_chunk_key(inode, file.chunk_count)
            for key, value in list(self._tables.scan(Table.FILE_CHUNKS, *span)):
                self._tables.remove(Table.FILE_CHUNKS, key, old=value)
                self._release(read_handle(value))
                rows += 2
        if first == 0 and file.chunk_count > 0:
            self._release(file.first_chunk)
            rows += 1
        shorter = msgspec.structs.replace(
            file,
            chunk_count=first,
            first_chunk=file.first_chunk if first else 0,
            length_bytes=0,
            length_exact=False,
        )
        self._rewrite(inode, inode_row, shorter)
        return rows

    def _release(self, handle: int) -> None:
        """One file fewer names this chunk."""
        key = id_key(handle)
        row = self._tables.get(Table.CHUNKS, key)
        if row is None:
            raise CorruptState(f"chunk {handle} is part of a file but missing")
        chunk = decode_chunk(row)
        if chunk.references > 1:
            fewer = msgspec.structs.replace(chunk, references=chunk.references - 1)
            self._tables.replace(Table.CHUNKS, key, old=row, new=encode_chunk(fewer))
        else:
            self._tables.remove(Table.CHUNKS, key, old=row)
            self._counters.chunks -= 1

    def _remove_if_empty(self, inode: int) -> bool:
        """Remove a file's inode when it has no chunk left."""
        row, file = self._inode(inode)
        if file.chunk_count:
            return False
        self._tables.remove(Table.INODES, id_key(inode), old=row)
        self._counters.files -= 1
        return True

    def _remove_directory(self, inode: int) -> None:
        self._tables.remove(Table.INODES, id_key(inode), old=self._inode(inode)[0])
        self._counters.directories -= 1

    def _inode(self, inode: int) -> tuple[bytes, InodeRecord]:
        row = self._tables.get(Table.INODES, id_key(inode))
        if row is None:
            raise CorruptState(f"inode {inode} is named but missing")
        return row, decode_inode(row)

    def _rewrite(self, inode: int, old: bytes, record: InodeRecord) -> None:
        new = encode_inode(record)
        if new != old:
            self._tables.replace(Table.INODES, id_key(inode), old=old, new=new)
