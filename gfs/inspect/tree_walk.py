"""All files and directories of a checkpoint with their paths, parents first, names in byte order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gfs.errors import CorruptState
from gfs.inspect.checkpoint_tables import CheckpointTables
from gfs.master.core.records import (
    CONDEMNED_MS,
    TRASH_INODE,
    InodeRecord,
    decode_inode,
    id_key,
    inode_share,
    read_dentry,
    read_trash_key,
)
from gfs.master.core.soundness import batches
from gfs.master.core.tables import Table
from gfs.vocabulary import PATH_DEPTH_MAX, ROOT_INODE, TRASH_DIRECTORY

# Trees move whole, so one may lie deeper than any path a client can name; a ring has no depth.
DEPTH_MAX = 64 * PATH_DEPTH_MAX


class Place(NamedTuple):
    path: str
    inode: int
    record: InodeRecord


def walk(tables: CheckpointTables, *, top: int = ROOT_INODE, path: str = "/") -> Iterator[Place]:
    """`top` itself and all that is below it. Raises: CorruptState."""
    yield Place(path, top, _record(tables, top))
    prefix = path.rstrip("/") + "/"
    ways = [(prefix, children(tables, top))]
    while ways:
        prefix, entries = ways[-1]
        for name, inode, row in entries:
            if row is None:
                raise CorruptState(f"{prefix}{name!r} names inode {inode}, which is missing")
            record = decode_inode(row)
            found = prefix + name.decode("utf-8", "backslashreplace")
            yield Place(found, inode, record)
            if record.is_directory:
                if len(ways) > DEPTH_MAX:
                    raise CorruptState(
                        f"{found[:200]}… lies {len(ways)} levels deep: a directory holds itself"
                    )
                ways.append((found + "/", children(tables, inode)))
                break
        else:
            ways.pop()


def walk_trash(tables: CheckpointTables) -> Iterator[Place]:
    """What was deleted and can be had back, by the paths it can be read at."""
    for batch in batches(tables, Table.TRASH, id_key(CONDEMNED_MS + 1)):
        for key, _ in batch:
            inode = read_trash_key(key)[1]
            yield from walk(tables, top=inode, path=f"{TRASH_DIRECTORY}/{inode}")


def children(tables: CheckpointTables, directory: int) -> Iterator[tuple[bytes, int, bytes | None]]:
    """Name, inode and row of each entry."""
    for batch in batches(tables, Table.DENTRIES, id_key(directory), id_key(directory + 1)):
        inodes = [read_dentry(value)[0] for _, value in batch]
        rows = tables.get_many(Table.INODES, list(map(id_key, inodes)))
        for (key, _), inode, row in zip(batch, inodes, rows, strict=True):
            yield key[8:], inode, row


def path_of(tables: CheckpointTables, inode: int) -> str:
    """Where an inode is: reads the directories above it, each up to its name."""
    names: list[str] = []
    at = inode
    while at != ROOT_INODE:
        row = tables.get(Table.INODES, id_key(at))
        if row is None or len(names) > DEPTH_MAX:
            return f"inode {inode}, which is not reachable"
        above = inode_share(row)[1]
        if above == TRASH_INODE:
            return "/".join([TRASH_DIRECTORY, str(at), *reversed(names)])
        names.append(_name_in(tables, above, at))
        at = above
    return "/" + "/".join(reversed(names))


def _name_in(tables: CheckpointTables, directory: int, inode: int) -> str:
    for key, value in tables.scan(Table.DENTRIES, id_key(directory), id_key(directory + 1)):
        if read_dentry(value)[0] == inode:
            return key[8:].decode("utf-8", "backslashreplace")
    return f"<inode {inode}>"


def _record(tables: CheckpointTables, inode: int) -> InodeRecord:
    row = tables.get(Table.INODES, id_key(inode))
    if row is None:
        raise CorruptState(f"inode {inode} is missing")
    return decode_inode(row)
