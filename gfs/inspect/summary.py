"""What a checkpoint holds: totals, sizes, its biggest directories; one path; one chunk. Nothing is judged."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import msgspec

from gfs.errors import NotFound
from gfs.inspect.asking import ask
from gfs.inspect.checkpoint_files import CheckpointFile
from gfs.inspect.checkpoint_tables import CheckpointTables
from gfs.inspect.relations import server_names
from gfs.inspect.tree_walk import children, path_of
from gfs.master.core.lookup import find, handle_of, names_of, read_counters, spell
from gfs.master.core.owners import owner_and_group
from gfs.master.core.records import (
    APPLIED_KEY,
    DIGEST_KEY,
    InodeRecord,
    StoredChunk,
    decode_chunk,
    decode_inode,
    id_key,
    inode_share,
    read_file_chunk_key,
    read_handle,
    read_id,
)
from gfs.master.core.soundness import batches
from gfs.master.core.tables import Table
from gfs.master.core.usage import usage_of
from gfs.vocabulary import ROOT_INODE

TREE_WIDTH = 5  # the biggest directories shown within each
TREE_DEPTH = 3
CHUNKS_TOLD_MAX = 10_000
SHARERS_MAX = 1000

_decode_one = msgspec.msgpack.decode
_encode = msgspec.msgpack.encode


class SizeClass(msgspec.Struct, frozen=True):
    """Files longer than half of what the class before says, and at most `bytes_max`."""

    bytes_max: int
    files: int
    content_bytes: int


class BigDirectory(msgspec.Struct, frozen=True):
    path: str
    depth: int
    files: int
    directories: int
    content_bytes: int


class Summary(msgspec.Struct, kw_only=True):
    """`content_bytes` counts a file once, not its replicas; `replicas`: chunks by the size of their set."""

    path: str
    index: int
    term: int
    digest: str
    files: int
    directories: int
    chunks: int
    content_bytes: int
    shared_chunks: int = 0
    sealed_chunks: int = 0
    replicas: dict[int, int] = msgspec.field(default_factory=dict)
    in_trash: int = 0
    sessions: int = 0
    servers: int = 0
    sizes: list[SizeClass] = msgspec.field(default_factory=list)
    biggest: list[BigDirectory] = msgspec.field(default_factory=list)


class ToldChunk(msgspec.Struct, frozen=True, kw_only=True):
    """`index`: within the file asked about, -1 when none was. `length_bytes` -1: not sealed."""

    handle: int
    index: int = -1
    version: int
    held_version: int
    primary: str
    replicas: list[str]
    files: int
    sealed: bool
    length_bytes: int


class PathDetail(msgspec.Struct, kw_only=True):
    """One file with its chunks (the first CHUNKS_TOLD_MAX), or a directory with the sum of what is below."""

    path: str
    inode: int
    kind: str
    mode: str
    owner: str
    group: str
    created_ms: int
    modified_ms: int
    length_bytes: int
    length_exact: bool
    chunk_count: int
    replication_goal: int
    files_below: int = 0
    directories_below: int = 0
    chunks: list[ToldChunk] = msgspec.field(default_factory=list)


class Sharer(msgspec.Struct, frozen=True):
    path: str
    inode: int
    index: int


class HandleDetail(msgspec.Struct, frozen=True):
    """A chunk, and the files it is part of (the first SHARERS_MAX)."""

    chunk: ToldChunk
    files: list[Sharer]


def summarize(file: CheckpointFile) -> Summary:
    """Raises: as ask()."""
    (frame,) = ask(file, lambda tables: [_encode(_summary(tables))])
    return _decode_one(frame, type=Summary)


def detail_of_path(file: CheckpointFile, path: str) -> PathDetail:
    """Raises: NotFound, NotADirectory, InvalidPath; as ask()."""
    (frame,) = ask(file, lambda tables: [_encode(told_of_path(tables, path))])
    return _decode_one(frame, type=PathDetail)


def detail_of_handle(file: CheckpointFile, handle: int) -> HandleDetail:
    """Raises: NotFound; as ask()."""
    (frame,) = ask(file, lambda tables: [_encode(_handle_detail(tables, handle))])
    return _decode_one(frame, type=HandleDetail)


def _summary(tables: CheckpointTables) -> Summary:
    counters = read_counters(tables)
    applied = tables.get(Table.META, APPLIED_KEY) or bytes(16)
    sizes, content_bytes = _sizes(tables)
    found = Summary(
        path=tables.path,
        index=read_id(applied),
        term=read_id(applied[8:]),
        digest=(tables.get(Table.META, DIGEST_KEY) or b"").hex(),
        files=counters.files,
        directories=counters.directories,
        chunks=counters.chunks,
        content_bytes=content_bytes,
        in_trash=counters.trash,
        sessions=counters.sessions,
        servers=counters.next_server - 1,
        sizes=sizes,
        biggest=list(_biggest(tables, ROOT_INODE, "/", 0)),
    )
    for batch in batches(tables, Table.CHUNKS):
        for _, row in batch:
            chunk = decode_chunk(row)
            found.shared_chunks += chunk.references > 1
            found.sealed_chunks += bool(chunk.sealed)
            count = len(chunk.servers)
            found.replicas[count] = found.replicas.get(count, 0) + 1
    found.replicas = dict(sorted(found.replicas.items()))
    return found


def _sizes(tables: CheckpointTables) -> tuple[list[SizeClass], int]:
    """Classes by powers of four, from 0 and 4 KiB on."""
    files: dict[int, int] = {}
    content: dict[int, int] = {}
    for batch in batches(tables, Table.INODES):
        for _, row in batch:
            is_directory, _, length = inode_share(row)
            if not is_directory:
                step = 0 if length == 0 else max(6, (length - 1).bit_length() + 1 >> 1)
                files[step] = files.get(step, 0) + 1
                content[step] = content.get(step, 0) + length
    classes = [SizeClass(4**step if step else 0, files[step], content[step]) for step in sorted(files)]
    return classes, sum(content.values())


def _biggest(tables: CheckpointTables, top: int, path: str, depth: int) -> Iterator[BigDirectory]:
    yield BigDirectory(path, depth, *usage_of(tables, top))
    if depth == TREE_DEPTH:
        return
    below = (
        (usage_of(tables, inode).content_bytes, name, inode)
        for name, inode, row in children(tables, top)
        if row is not None and row[0] & 1
    )
    for _, name, inode in heapq.nlargest(TREE_WIDTH, below):
        inner = f"{path.rstrip('/')}/{name.decode('utf-8', 'backslashreplace')}"
        yield from _biggest(tables, inode, inner, depth + 1)


def told_of_path(tables: CheckpointTables, path: str) -> PathDetail:
    """Within a guarded child. Raises: as detail_of_path()."""
    names = names_of(path)
    inode, _ = find(tables, names)
    row = tables.get(Table.INODES, id_key(inode))
    if row is None:
        raise NotFound(f"{path} names inode {inode}, which is missing")
    record = decode_inode(row)
    owner, group = owner_and_group(tables, record.ownership)
    below = usage_of(tables, inode)
    return PathDetail(
        path=spell(names, whole=True),
        inode=inode,
        kind="directory" if record.is_directory else "file",
        mode=f"{record.mode:o}",
        owner=owner,
        group=group,
        created_ms=record.created_ms,
        modified_ms=record.modified_ms,
        length_bytes=below.content_bytes if record.is_directory else record.length_bytes,
        length_exact=record.length_exact,
        chunk_count=record.chunk_count,
        replication_goal=record.replication_goal,
        files_below=below.files,
        directories_below=below.directories,
        chunks=list(_chunks_of(tables, inode, record)),
    )


def _chunks_of(tables: CheckpointTables, inode: int, record: InodeRecord) -> Iterator[ToldChunk]:
    names = server_names(tables)
    for index in range(min(record.chunk_count, CHUNKS_TOLD_MAX)):
        handle = handle_of(tables, inode, record, index)
        row = tables.get(Table.CHUNKS, id_key(handle))
        if row is None:
            raise NotFound(f"chunk {index} of inode {inode}, {handle:016x}, is missing")
        yield _told(handle, index, decode_chunk(row), names)


def _handle_detail(tables: CheckpointTables, handle: int) -> HandleDetail:
    row = tables.get(Table.CHUNKS, id_key(handle))
    if row is None:
        raise NotFound(f"there is no chunk {handle:016x}")
    chunk = decode_chunk(row)
    found: list[Sharer] = []
    for inode, index in _sharers(tables, handle):
        found.append(Sharer(path_of(tables, inode), inode, index))
        if len(found) in (chunk.references, SHARERS_MAX):
            break
    return HandleDetail(_told(handle, -1, chunk, server_names(tables)), found)


def _sharers(tables: CheckpointTables, handle: int) -> Iterator[tuple[int, int]]:
    for batch in batches(tables, Table.INODES):
        for key, row in batch:
            if int.from_bytes(row[-6:], "big") == handle and decode_inode(row).first_chunk == handle:
                yield read_id(key), 0
    for batch in batches(tables, Table.FILE_CHUNKS):
        for key, value in batch:
            if read_handle(value) == handle:
                yield read_file_chunk_key(key)


def _told(handle: int, index: int, chunk: StoredChunk, names: dict[int, str]) -> ToldChunk:
    replicas = [names.get(number, "?") for number in chunk.servers]
    return ToldChunk(
        handle=handle,
        index=index,
        version=chunk.version,
        held_version=chunk.held_version,
        primary=replicas[chunk.primary],
        replicas=replicas,
        files=chunk.references,
        sealed=bool(chunk.sealed),
        length_bytes=chunk.length_bytes if chunk.sealed else -1,
    )
