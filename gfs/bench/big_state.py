"""Master states of any size, made without a cluster: the rows that creating so many files would leave.

Writing rows is six times as fast as applying operations. That both come to the same, row by row, is a test;
`operations()` are those the rows stand for. No measuring.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial

from gfs.disk import SystemDisk
from gfs.master.checkpoint_directory import CheckpointDirectory, checkpoint_name
from gfs.master.core.digest import DigestedTables
from gfs.master.core.namespace import root_record
from gfs.master.core.records import (
    APPLIED_KEY,
    COUNTERS_KEY,
    DIGEST_KEY,
    FORMAT_KEY,
    STATE_FORMAT,
    Counters,
    InodeRecord,
    StoredChunk,
    dentry_key,
    dentry_value,
    encode_chunk,
    encode_counters,
    encode_inode,
    id_key,
    server_id_key,
    server_number_key,
)
from gfs.master.core.state import MasterState
from gfs.master.core.tables import Table
from gfs.master.lmdb_tables import LmdbTables
from gfs.master.replication.checkpoints import CHECKPOINT_FORMAT, CheckpointManifest
from gfs.master.state_machine import applied_row
from gfs.messages import operations as op
from gfs.messages.heartbeat import HeldChunk
from gfs.vocabulary import (
    CHUNK_BYTES,
    DIRECTORY_MODE_DEFAULT,
    ROOT_INODE,
    ChunkHandle,
    ChunkIndex,
    ChunkVersion,
    ClusterId,
    InodeId,
    LogIndex,
    MasterId,
    ServerId,
    Term,
)

FILES_PER_DIRECTORY = 1000
SERVERS = 24
REPLICAS = 3
BEGAN_MS = 1_700_000_000_000
COMMIT_FILES = 50_000
STATE_BYTES_MAX = 64 * 2**30  # address space
_USAGE = struct.Struct(">QQQ")


def file_path(number: int) -> str:
    return f"/d{number // FILES_PER_DIRECTORY:06}/part-{number % FILES_PER_DIRECTORY:05}"


def operations(files: int) -> Iterator[tuple[int, op.AnyOperation]]:
    """What a master would be asked to do, each with its time: directories, files, chunks, lengths."""
    inode = int(ROOT_INODE)
    for number in range(files):
        at_ms = BEGAN_MS + number
        if number % FILES_PER_DIRECTORY == 0:
            inode += 1
            yield at_ms, op.MakeDirectory(path=file_path(number).rpartition("/")[0])
        inode += 1
        servers = tuple(_server(place) for place in _places(number))
        yield at_ms, op.CreateFile(path=file_path(number), replication_goal=REPLICAS)
        yield (
            at_ms,
            op.AddChunk(inode=InodeId(inode), index=ChunkIndex(0), replicas=servers, primary=servers[0]),
        )
        yield at_ms, op.SetLengthHint(inode=InodeId(inode), length_bytes=_length(number), closed=True)


def apply_operations(tables: LmdbTables, files: int) -> None:
    """The same state as write_rows(), by the master's own hand."""
    state = MasterState(tables)
    for at_ms, operation in operations(files):
        outcome = state.apply(op.LogRecord(at_ms=at_ms, operation=operation))
        assert not isinstance(outcome, op.Refused), (operation, outcome)
    state.save()


def write_rows(tables: LmdbTables, files: int) -> None:
    """Fill empty `tables`; commits on the way."""
    rows = DigestedTables(tables, 0)
    rows.insert(Table.INODES, id_key(ROOT_INODE), encode_inode(root_record()))
    numbers: dict[int, int] = {}  # of servers, in the order in which chunks name them
    inode, directory, in_directory, below = int(ROOT_INODE), 0, 0, 0
    for number in range(files):
        at_ms = BEGAN_MS + number
        if number % FILES_PER_DIRECTORY == 0:
            _end_directory(rows, directory, in_directory, below)
            inode += 1
            directory, in_directory, below = inode, 0, 0
            _add_directory(rows, directory, number, at_ms)
            if number % COMMIT_FILES == 0:
                rows.rows_digest()  # hashes what waits
                tables.commit()
        inode += 1
        in_directory += 1
        below += _length(number)
        _add_file(rows, number, inode=inode, directory=directory, at_ms=at_ms)
        servers = tuple(numbers.setdefault(place, len(numbers) + 1) for place in _places(number))
        chunk = StoredChunk(version=1, references=1, held_version=0, primary=0, servers=servers)
        rows.insert(Table.CHUNKS, id_key(number + 1), encode_chunk(chunk))
    _end_directory(rows, directory, in_directory, below)
    directories = -(-files // FILES_PER_DIRECTORY)
    total = sum(map(_length, range(files)))
    if files:
        rows.insert(Table.USAGE, id_key(ROOT_INODE), _USAGE.pack(files, directories, total))
    for place, server in numbers.items():
        rows.insert(Table.SERVERS, server_id_key(_server(place)), id_key(server))
        rows.insert(Table.SERVERS, server_number_key(server), _server(place).encode())
    counters = Counters(
        next_inode=inode + 1,
        next_handle=files + 1,
        next_server=len(numbers) + 1,
        files=files,
        directories=directories + 1,
        chunks=files,
    )
    tables.put(Table.META, FORMAT_KEY, STATE_FORMAT.to_bytes(2, "big"))
    tables.put(Table.META, COUNTERS_KEY, encode_counters(counters))
    tables.put(Table.META, DIGEST_KEY, rows.rows_digest().to_bytes(16, "big"))


def write_checkpoint(
    tables: LmdbTables,
    folder: str,
    *,
    index: int,
    cluster: str = "bench",
    members: dict[MasterId, str] | None = None,
) -> CheckpointManifest:
    """Make a checkpoint of `tables` in `folder`, as a master does."""
    tables.put(Table.META, APPLIED_KEY, applied_row(LogIndex(index), Term(1)))
    tables.commit()
    manifest = partial(
        CheckpointManifest,
        format=CHECKPOINT_FORMAT,
        cluster=ClusterId(cluster),
        index=LogIndex(index),
        term=Term(1),
        members=members or {MasterId("m1"): "0" * 32},
        made_at_ms=BEGAN_MS,
    )
    return CheckpointDirectory(folder, SystemDisk(), kept_max=3).write(
        tables.pin().pieces(),
        lambda length, checksum: manifest(length_bytes=length, crc32c=checksum),
        name=checkpoint_name(manifest(length_bytes=0, crc32c=0)),
    )


def held_chunks(files: int) -> Iterator[tuple[ServerId, HeldChunk]]:
    """Every replica of such a state, with its server."""
    for number in range(files):
        chunk = HeldChunk(ChunkHandle(number + 1), ChunkVersion(1), _length(number))
        for place in _places(number):
            yield _server(place), chunk


def _add_directory(rows: DigestedTables, inode: int, number: int, at_ms: int) -> None:
    record = InodeRecord(
        is_directory=True,
        parent=ROOT_INODE,
        created_ms=at_ms,
        modified_ms=at_ms,
        mode=DIRECTORY_MODE_DEFAULT,
    )
    name = file_path(number).split("/")[1].encode()
    rows.insert(Table.DENTRIES, dentry_key(ROOT_INODE, name), dentry_value(inode, is_directory=True))
    rows.insert(Table.INODES, id_key(inode), encode_inode(record))


def _add_file(rows: DigestedTables, number: int, *, inode: int, directory: int, at_ms: int) -> None:
    record = InodeRecord(
        is_directory=False,
        parent=directory,
        created_ms=at_ms,
        modified_ms=at_ms,
        length_bytes=_length(number),
        length_exact=True,
        chunk_count=1,
        replication_goal=REPLICAS,
        first_chunk=number + 1,
    )
    name = file_path(number).rpartition("/")[2].encode()
    rows.insert(Table.DENTRIES, dentry_key(directory, name), dentry_value(inode, is_directory=False))
    rows.insert(Table.INODES, id_key(inode), encode_inode(record))


def _end_directory(rows: DigestedTables, directory: int, files: int, content_bytes: int) -> None:
    if files:
        rows.insert(Table.USAGE, id_key(directory), _USAGE.pack(files, 0, content_bytes))


def _length(number: int) -> int:
    """Lengths of many sizes, up to a chunk: products of an odd number scatter over 2**32."""
    scattered = number * 2654435761 % 2**32
    return CHUNK_BYTES >> (scattered & 15) | scattered >> 16 & 0xFFF if scattered & 15 else CHUNK_BYTES


def _places(number: int) -> tuple[int, ...]:
    first, step = number * 7 % SERVERS, 1 + number // SERVERS % 7
    return tuple((first + step * position) % SERVERS for position in range(REPLICAS))


def _server(place: int) -> ServerId:
    return ServerId(f"cs-{place:016x}")
