"""Copies of shared chunks, from reserved handle to a file's own chunk (GFS §3.4). Copying is chunk servers'.

Why no byte is lost, whatever stops half-way: the file keeps the shared chunk until its copy is on disks and
adopted in one record. Before that the handle is reserved: replicas of it are no orphans, and once the
reservation is forgotten, it cannot be adopted any more.

The shared chunk cannot change meanwhile: nobody is granted a lease of a chunk that several files name.
"""

from __future__ import annotations

import msgspec

from gfs.errors import InvalidArgument, NotFound, StaleVersion
from gfs.master.core.chunk_table import ChunkTable
from gfs.master.core.digest import DigestedTables
from gfs.master.core.lookup import chunk_by_handle, handle_of, inode_record, live_file
from gfs.master.core.records import (
    ID_MAX,
    ChunkCopy,
    Counters,
    chunk_copy_key,
    decode_chunk,
    decode_copy,
    encode_chunk,
    encode_copy,
    encode_inode,
    file_chunk_key,
    handle_value,
    id_key,
    read_id,
)
from gfs.master.core.tables import ReadTables, Table
from gfs.messages.operations import AdoptChunkCopy, ChunkGranted, ForgetChunkCopies, ReserveChunkCopy
from gfs.vocabulary import ChunkHandle, ChunkVersion

COPIES_FORGOTTEN_MAX = 256  # by one record


def is_reserved(tables: ReadTables, handle: int) -> bool:
    """Whether chunk servers are making a copy under this handle: then its replicas are no orphans."""
    return tables.get(Table.UNFINISHED, chunk_copy_key(handle)) is not None


def reserved_copies(tables: ReadTables) -> list[ChunkHandle]:
    return [ChunkHandle(read_id(key[1:])) for key, _ in tables.scan(Table.UNFINISHED, b"c", b"d")]


class ChunkCopies:
    """Every method checks first and writes after: when it raises, nothing was written."""

    def __init__(self, tables: DigestedTables, counters: Counters, chunks: ChunkTable) -> None:
        self._tables = tables
        self._counters = counters
        self._chunks = chunks

    def reserve(self, operation: ReserveChunkCopy) -> ChunkGranted:
        """Returns: the new handle, with the version and the servers its replicas are to have at first.

        Raises: NotFound, IsADirectory, StaleVersion; InvalidArgument for a chunk that is not shared;
            Unavailable for one that is not settled.
        """
        self._chunks.require_settled(operation.handle)
        self._require_shared(operation.inode, operation.index, operation.handle, operation.version)
        shared = chunk_by_handle(self._tables, operation.handle)
        assert shared is not None, operation
        copy = self._counters.next_handle
        assert copy <= ID_MAX
        self._counters.next_handle = copy + 1
        reserved = ChunkCopy(
            inode=operation.inode, index=operation.index, handle=operation.handle, version=operation.version
        )
        self._tables.insert(Table.UNFINISHED, chunk_copy_key(copy), encode_copy(reserved))
        return ChunkGranted(
            handle=ChunkHandle(copy),
            version=shared.version,
            replicas=shared.replicas,
            primary=shared.primary,
        )

    def adopt(self, operation: AdoptChunkCopy, *, at_ms: int) -> ChunkGranted:
        """Raises: InvalidArgument, NotFound, IsADirectory, StaleVersion."""
        reserved = self._reserved(operation.copy)
        if reserved is None or reserved[1].inode != operation.inode:
            raise NotFound(f"chunk {operation.copy} is not reserved for a copy of a chunk of this file")
        row, copied = reserved
        self._require_shared(copied.inode, copied.index, copied.handle, copied.version)
        shared_key = id_key(copied.handle)
        shared_row = self._tables.get(Table.CHUNKS, shared_key)
        assert shared_row is not None, copied
        shared = decode_chunk(shared_row)
        own = self._chunks.chunk_of_copy(shared, operation.replicas, operation.primary)
        file_row, file = live_file(self._tables, copied.inode)
        self._tables.remove(Table.UNFINISHED, chunk_copy_key(operation.copy), old=row)
        self._tables.insert(Table.CHUNKS, id_key(operation.copy), encode_chunk(own))
        self._counters.chunks += 1
        left = msgspec.structs.replace(shared, references=shared.references - 1)
        self._tables.replace(Table.CHUNKS, shared_key, old=shared_row, new=encode_chunk(left))
        changed = msgspec.structs.replace(file, modified_ms=at_ms)
        if copied.index == 0:
            changed = msgspec.structs.replace(changed, first_chunk=operation.copy)
        else:
            key = file_chunk_key(copied.inode, copied.index)
            old, new = handle_value(copied.handle), handle_value(operation.copy)
            self._tables.replace(Table.FILE_CHUNKS, key, old=old, new=new)
        changed_row = encode_inode(changed)
        if changed_row != file_row:
            self._tables.replace(Table.INODES, id_key(copied.inode), old=file_row, new=changed_row)
        return ChunkGranted(
            handle=operation.copy,
            version=ChunkVersion(own.version),
            replicas=operation.replicas,
            primary=operation.primary,
        )

    def forget(self, operation: ForgetChunkCopies) -> None:
        for copy in operation.copies[:COPIES_FORGOTTEN_MAX]:
            reserved = self._reserved(copy)
            if reserved is not None:
                self._tables.remove(Table.UNFINISHED, chunk_copy_key(copy), old=reserved[0])

    def _reserved(self, copy: int) -> tuple[bytes, ChunkCopy] | None:
        row = self._tables.get(Table.UNFINISHED, chunk_copy_key(copy)) if 0 < copy <= ID_MAX else None
        return None if row is None else (row, decode_copy(row))

    def _require_shared(self, inode: int, index: int, handle: int, version: int) -> None:
        """Raises: NotFound, IsADirectory, StaleVersion, InvalidArgument."""
        live_file(self._tables, inode)
        file = inode_record(self._tables, inode)
        assert file is not None, inode
        if not 0 <= index < file.chunk_count or handle_of(self._tables, inode, file, index) != handle:
            raise NotFound(f"chunk {index} of the file is not {handle}")
        chunk = chunk_by_handle(self._tables, handle)
        assert chunk is not None, handle
        if chunk.version != version:
            raise StaleVersion(f"chunk {handle} has version {chunk.version}, not {version}")
        if chunk.references < 2:
            raise InvalidArgument(f"chunk {handle} is not shared any more: it needs no copy")
