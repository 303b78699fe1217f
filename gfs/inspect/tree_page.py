"""One directory of a checkpoint as the web view shows it: what is biggest in it, and its entries by the page.

Sums below directories are kept in the checkpoint, so that a map of a tree of any size costs a look at one
directory's own entries, of which no more than ENTRIES_LOOKED_MAX are looked at.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import islice
from typing import Literal

import msgspec

from gfs.errors import InvalidPath, NotADirectory, NotFound
from gfs.inspect.checkpoint_tables import CheckpointTables
from gfs.inspect.tree_walk import children
from gfs.master.core.lookup import find, names_of, read_counters, spell
from gfs.master.core.records import decode_inode, dentry_key, id_key, inode_share, read_dentry
from gfs.master.core.tables import Table
from gfs.master.core.usage import usage_of

MAP_ENTRIES = 60
PAGE_ENTRIES = 200
SUGGESTIONS = 20
ENTRIES_LOOKED_MAX = 200_000

Measure = Literal["bytes", "files"]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """Of a directory: `files`, `directories` and `content_bytes` below it; of a file its own."""

    name: str
    is_directory: bool
    files: int
    directories: int
    content_bytes: int
    modified_ms: int


class DirectoryMap(msgspec.Struct, frozen=True, kw_only=True):
    """The biggest entries; the sums are of all. `looked_at`: fewer than all when there are too many."""

    path: str
    files: int
    directories: int
    content_bytes: int
    biggest: list[Entry]
    looked_at: int
    is_all: bool


class EntryPage(msgspec.Struct, frozen=True, kw_only=True):
    """Entries in order of their names; `more`: others follow the last."""

    path: str
    entries: list[Entry]
    more: bool


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    files: int
    directories: int
    chunks: int
    in_trash: int
    sessions: int
    content_bytes: int


def totals(tables: CheckpointTables) -> Totals:
    """Raises: CorruptState."""
    counters = read_counters(tables)
    return Totals(
        files=counters.files,
        directories=counters.directories,
        chunks=counters.chunks,
        in_trash=counters.trash,
        sessions=counters.sessions,
        content_bytes=usage_of(tables, find(tables, names_of("/"))[0]).content_bytes,
    )


def directory_map(tables: CheckpointTables, path: str, by: Measure) -> DirectoryMap:
    """Raises: InvalidPath, NotFound, NotADirectory, CorruptState."""
    inode, shown = _directory(tables, path)
    below = usage_of(tables, inode)
    looked_at = 0

    def sized() -> Iterator[tuple[int, bytes, int]]:
        nonlocal looked_at
        for name, child, row in islice(children(tables, inode), ENTRIES_LOOKED_MAX):
            looked_at += 1
            if row is None:
                continue
            is_directory, _, own_bytes = inode_share(row)
            if is_directory:
                sums = usage_of(tables, child)
                yield (sums.content_bytes if by == "bytes" else sums.files), name, child
            else:
                yield (own_bytes if by == "bytes" else 1), name, child

    biggest = heapq.nlargest(MAP_ENTRIES, sized())
    entries = [_entry(tables, name, child) for _, name, child in biggest]
    return DirectoryMap(
        path=shown,
        files=below.files,
        directories=below.directories,
        content_bytes=below.content_bytes,
        biggest=entries,
        looked_at=looked_at,
        is_all=looked_at < ENTRIES_LOOKED_MAX,
    )


def entry_page(tables: CheckpointTables, path: str, after: str) -> EntryPage:
    """Those behind the name `after`. Raises: as directory_map()."""
    inode, shown = _directory(tables, path)
    start = dentry_key(inode, after.encode() + b"\0") if after else id_key(inode)
    found = islice(tables.scan(Table.DENTRIES, start, id_key(inode + 1)), PAGE_ENTRIES + 1)
    rows = [(key[8:], read_dentry(value)[0]) for key, value in found]
    entries = [_entry(tables, name, child) for name, child in rows[:PAGE_ENTRIES]]
    return EntryPage(path=shown, entries=entries, more=len(rows) > PAGE_ENTRIES)


def suggestions(tables: CheckpointTables, begun: str) -> list[str]:
    """Paths that go on from `begun`, within one directory; none when there is no such directory."""
    above, _, name = begun.rpartition("/")
    try:
        inode, shown = _directory(tables, above or "/")
    except (InvalidPath, NotADirectory, NotFound):
        return []
    first = name.encode()
    prefix = shown.rstrip("/") + "/"
    found: list[str] = []
    for key, value in tables.scan(Table.DENTRIES, dentry_key(inode, first) if first else id_key(inode)):
        if key[:8] != id_key(inode) or not key[8:].startswith(first) or len(found) == SUGGESTIONS:
            break
        found.append(prefix + _text(key[8:]) + ("/" if read_dentry(value)[1] else ""))
    return found


def _directory(tables: CheckpointTables, path: str) -> tuple[int, str]:
    names = names_of(path)
    inode, is_directory = find(tables, names)
    if not is_directory:
        raise NotADirectory(f"{path} is a file, not a directory")
    return inode, spell(names, whole=True)


def _entry(tables: CheckpointTables, name: bytes, inode: int) -> Entry:
    row = tables.get(Table.INODES, id_key(inode))
    if row is None:
        return Entry(
            name=_text(name), is_directory=False, files=0, directories=0, content_bytes=0, modified_ms=0
        )
    record = decode_inode(row)
    below = usage_of(tables, inode)
    return Entry(
        name=_text(name),
        is_directory=record.is_directory,
        files=below.files if record.is_directory else 1,
        directories=below.directories,
        content_bytes=below.content_bytes if record.is_directory else inode_share(row)[2],
        modified_ms=record.modified_ms,
    )


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
