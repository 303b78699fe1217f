"""A checkpoint as relations: named rows of named, documented columns, for export and for SQL. No output.

Each is produced row by row, in memory that does not grow with the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

import msgspec

from gfs.inspect.checkpoint_tables import CheckpointTables
from gfs.inspect.tree_walk import walk, walk_trash
from gfs.master.core.lookup import read_counters
from gfs.master.core.owners import owner_and_group
from gfs.master.core.records import (
    APPLIED_KEY,
    CONDEMNED_MS,
    DIGEST_KEY,
    FORMAT_KEY,
    decode_chunk,
    decode_copy,
    decode_inode,
    decode_job,
    decode_policy,
    decode_session,
    read_file_chunk_key,
    read_handle,
    read_id,
    read_trash_key,
    read_trash_value,
)
from gfs.master.core.tables import Table
from gfs.master.core.tenure import tenures
from gfs.master.core.usage import usage_of
from gfs.vocabulary import TRASH_DIRECTORY, ServerId

Value = int | str
Row = tuple[Value, ...]


class Relation(NamedTuple):
    """`columns`: name -> type ("INTEGER", "TEXT") and what it says. None is named like a relation."""

    name: str
    about: str
    columns: dict[str, tuple[str, str]]
    rows: Callable[[CheckpointTables], Iterator[Row]]


def server_names(tables: CheckpointTables) -> dict[int, str]:
    return {
        read_id(key[1:]): row.decode("utf-8", "backslashreplace")
        for key, row in tables.scan(Table.SERVERS, b"#", b"$")
    }


def _files(tables: CheckpointTables) -> Iterator[Row]:
    owners: dict[int, tuple[str, str]] = {}
    for place in chain(walk(tables), walk_trash(tables)):
        record = place.record
        names = owners.get(record.ownership)
        if names is None:
            names = owners[record.ownership] = owner_and_group(tables, record.ownership)
        yield (
            place.path,
            place.inode,
            record.parent,
            "directory" if record.is_directory else "file",
            record.length_bytes,
            int(record.length_exact),
            record.chunk_count,
            record.replication_goal,
            int(record.goal_inherited),
            f"{record.mode:o}",
            *names,
            record.created_ms,
            record.modified_ms,
            int(record.appended),
            int(place.path.startswith(TRASH_DIRECTORY)),
        )


def _file_chunks(tables: CheckpointTables) -> Iterator[Row]:
    for key, row in tables.scan(Table.INODES):
        record = decode_inode(row)
        if record.first_chunk:
            yield read_id(key), 0, record.first_chunk
    for key, row in tables.scan(Table.FILE_CHUNKS):
        yield *read_file_chunk_key(key), read_handle(row)


def _chunks(tables: CheckpointTables) -> Iterator[Row]:
    names = server_names(tables)
    for key, row in tables.scan(Table.CHUNKS):
        chunk = decode_chunk(row)
        yield (
            read_id(key),
            chunk.version,
            chunk.held_version,
            chunk.references,
            len(chunk.servers),
            names.get(chunk.servers[chunk.primary], "?"),
            chunk.sealed,
            chunk.length_bytes if chunk.sealed else -1,
            chunk.quiet,
        )


def _replicas(tables: CheckpointTables) -> Iterator[Row]:
    names = server_names(tables)
    for key, row in tables.scan(Table.CHUNKS):
        for number in decode_chunk(row).servers:
            yield read_id(key), names.get(number, "?")


def _servers(tables: CheckpointTables) -> Iterator[Row]:
    tenure = tenures(tables)
    for number, name in server_names(tables).items():
        yield name, number, tenure.get(ServerId(name), "serving")


def _trash(tables: CheckpointTables) -> Iterator[Row]:
    for key, row in tables.scan(Table.TRASH):
        expires_ms, inode = read_trash_key(key)
        path, deleted_ms = read_trash_value(row)
        condemned = int(expires_ms == CONDEMNED_MS)
        yield inode, path.decode("utf-8", "backslashreplace"), deleted_ms, expires_ms, condemned


def _policies(tables: CheckpointTables) -> Iterator[Row]:
    for key, row in tables.scan(Table.POLICIES):
        yield read_id(key), *msgspec.structs.astuple(decode_policy(row))


def _usage(tables: CheckpointTables) -> Iterator[Row]:
    for key, _ in tables.scan(Table.USAGE):
        yield read_id(key), *usage_of(tables, read_id(key))


def _sessions(tables: CheckpointTables) -> Iterator[Row]:
    for key, row in tables.scan(Table.SESSIONS):
        if len(key) == 8:
            yield read_id(key), *msgspec.structs.astuple(decode_session(row))


def _unfinished(tables: CheckpointTables) -> Iterator[Row]:
    for key, row in tables.scan(Table.UNFINISHED):
        if key[:1] == b"s":
            job = decode_job(row)
            yield "snapshot", read_id(key[1:]), job.source, job.source_path, job.target_path
        else:
            copy = decode_copy(row)
            yield "chunk copy", read_id(key[1:]), copy.handle, f"inode {copy.inode}", f"chunk {copy.index}"


def _meta(tables: CheckpointTables) -> Iterator[Row]:
    applied = tables.get(Table.META, APPLIED_KEY) or bytes(16)
    yield "format", str(int.from_bytes(tables.get(Table.META, FORMAT_KEY) or b"", "big"))
    yield "applied_index", str(read_id(applied))
    yield "applied_term", str(read_id(applied[8:]))
    yield "digest", (tables.get(Table.META, DIGEST_KEY) or b"").hex()
    for name, value in msgspec.structs.asdict(read_counters(tables)).items():
        yield name, str(value)


_I, _T = "INTEGER", "TEXT"
_INODE = (_I, "inode of the file or directory")
_MS = "milliseconds since 1970"

RELATIONS: dict[str, Relation] = {
    relation.name: relation
    for relation in (
        Relation(
            "files",
            "files and directories, deleted ones too",
            {
                "path": (_T, f"absolute; {TRASH_DIRECTORY}/ID… when deleted"),
                "inode": _INODE,
                "parent": (_I, "inode of its directory"),
                "kind": (_T, "file or directory"),
                "length_bytes": (_I, "as far as the master knows"),
                "length_exact": (_I, "0 while it is written or appended to"),
                "chunk_count": (_I, "how many it has"),
                "goal": (_I, "replicas wanted"),
                "goal_inherited": (_I, "1: a policy goes before goal"),
                "mode": (_T, "octal"),
                "owner": (_T, "empty: the superuser"),
                "owner_group": (_T, ""),
                "created_ms": (_I, _MS),
                "modified_ms": (_I, _MS),
                "appended": (_I, "1: records are appended"),
                "deleted": (_I, "1: in the trash"),
            },
            _files,
        ),
        Relation(
            "file_chunks",
            "which file has which chunk",
            {
                "inode": _INODE,
                "chunk_index": (_I, "position within the file"),
                "handle": (_I, "of the chunk"),
            },
            _file_chunks,
        ),
        Relation(
            "chunks",
            "all chunks",
            {
                "handle": (_I, ""),
                "version": (_I, ""),
                "held_version": (_I, "all replicas are known to hold at least this one"),
                "shared_by": (_I, "how many files it is part of"),
                "replica_count": (_I, "how many are in its set"),
                "primary_server": (_T, "id"),
                "sealed": (_I, "1: it never changes any more"),
                "length_bytes": (_I, "-1 unless sealed"),
                "quiet": (_I, "1: no client was told of the version"),
            },
            _chunks,
        ),
        Relation(
            "replicas",
            "the replica set of each chunk",
            {"handle": (_I, "of the chunk"), "server": (_T, "id")},
            _replicas,
        ),
        Relation(
            "servers",
            "chunk servers ever named",
            {"server": (_T, "id"), "number": (_I, ""), "tenure": (_T, "serving, draining or removed")},
            _servers,
        ),
        Relation(
            "trash",
            "what was deleted",
            {
                "inode": _INODE,
                "path": (_T, "where it was"),
                "deleted_ms": (_I, _MS),
                "expires_ms": (_I, _MS),
                "condemned": (_I, "1: it is being reclaimed"),
            },
            _trash,
        ),
        Relation(
            "policies",
            "what is set at directories",
            {
                "inode": _INODE,
                "goal": (_I, "replicas wanted; 0: not set"),
                "racks": (_I, "0: not set"),
                "trash_ms": (_I, "-1: not set"),
                "durability": (_T, "empty: not set"),
                "files_max": (_I, "-1: no quota"),
                "bytes_max": (_I, "-1: no quota"),
            },
            _policies,
        ),
        Relation(
            "usage",
            "sums below directories",
            {"inode": _INODE, "file_count": (_I, ""), "directory_count": (_I, ""), "content_bytes": (_I, "")},
            _usage,
        ),
        Relation(
            "sessions",
            "clients whose outcomes are remembered",
            {
                "client": (_I, ""),
                "last_ms": (_I, _MS),
                "floor": (_I, "requests below are too old"),
                "highest": (_I, "request seen"),
                "kept": (_I, "outcomes"),
            },
            _sessions,
        ),
        Relation(
            "unfinished",
            "snapshots and chunk copies under way",
            {
                "kind": (_T, "snapshot or chunk copy"),
                "id": (_I, "inode or handle of the copy"),
                "source": (_I, "inode or handle"),
                "source_path": (_T, ""),
                "target_path": (_T, ""),
            },
            _unfinished,
        ),
        Relation("meta", "format, applied, digest, counters", {"name": (_T, ""), "value": (_T, "")}, _meta),
    )
}


def row_type(relation: Relation) -> type[msgspec.Struct]:
    """What one row looks like as JSON, for a schema."""
    kinds: dict[str, type] = {"INTEGER": int, "TEXT": str}
    return msgspec.defstruct(
        f"row_of_{relation.name}", [(name, kinds[kind]) for name, (kind, _) in relation.columns.items()]
    )


def documentation() -> str:
    """All relations and columns, for --help."""
    lines: list[str] = []
    for relation in RELATIONS.values():
        lines.append(f"{relation.name}: {relation.about}")
        for column, (_, about) in relation.columns.items():
            lines.append(f"  {column}" + (f" - {about}" if about else ""))
    return "\n".join(lines)
