"""How much lies below each directory: files, directories, bytes. Kept row by row; limits are quotas.py's.

The sums hang on the inode rows themselves: whoever writes, moves or removes one, under whatever operation, is
accounted for. A change is noted at its directory at once and carried to the directories above when somebody
asks or the tables are saved, so a creation costs the same at any depth; moving a tree moves one sum.

Invariant: after save(), a directory's row in USAGE is the sum over all inodes below it, and missing when that
is nothing. This holds in the trash, too; what is in the trash counts in no directory above it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from gfs.errors import CorruptState
from gfs.master.core.digest import DigestedTables
from gfs.master.core.records import TRASH_INODE, id_key, inode_share, read_id
from gfs.master.core.tables import ReadTables, Table, Tables
from gfs.vocabulary import ROOT_INODE

PARENTS_KEPT_MAX = 10_000  # directories whose parent is remembered

_ROW = struct.Struct(">QQQ")


class Sum(NamedTuple):
    """`content_bytes`: as far as the master knows (see inode_share); copies are not multiplied in."""

    files: int = 0
    directories: int = 0
    content_bytes: int = 0

    @property
    def entries(self) -> int:
        return self.files + self.directories


NOTHING = Sum()

_Change = list[int]  # files, directories, bytes: as Sum, changed in place


def usage_of(tables: ReadTables, directory: int) -> Sum:
    """What is below a directory, as of the last save."""
    row = tables.get(Table.USAGE, id_key(directory))
    return NOTHING if row is None else _decode(row)


class AccountedTables(DigestedTables):
    """Tables that keep USAGE in step with INODES; save() comes before the rows of USAGE are read."""

    __slots__ = ("_noted", "_parents", "_unwritten")

    def __init__(self, tables: Tables, digest: int) -> None:
        super().__init__(tables, digest)
        self._noted: dict[int, _Change] = {}  # changes right in a directory, not yet told to those above
        self._unwritten: dict[int, _Change] = {}  # what rows of USAGE lack
        self._parents: dict[int, int] = {}  # of some directories

    def insert(self, table: Table, key: bytes, value: bytes) -> None:
        DigestedTables.insert(self, table, key, value)
        if table is Table.INODES:
            is_directory, parent, content_bytes = inode_share(value)
            if not is_directory:
                self._note(parent, 1, 0, content_bytes)
            elif parent != read_id(key):  # the root is its own parent, and below nothing
                self._note(parent, 0, 1, 0)

    def replace(self, table: Table, key: bytes, *, old: bytes, new: bytes) -> None:
        if table is not Table.INODES:
            super().replace(table, key, old=old, new=new)
            return
        is_directory, old_parent, old_bytes = inode_share(old)
        _, new_parent, new_bytes = inode_share(new)
        if old_parent == new_parent:
            super().replace(table, key, old=old, new=new)
            if old_bytes != new_bytes:
                self._note(new_parent, 0, 0, new_bytes - old_bytes)
        elif not is_directory:
            super().replace(table, key, old=old, new=new)
            self._note(old_parent, -1, 0, -old_bytes)
            self._note(new_parent, 1, 0, new_bytes)
        else:
            directory = read_id(key)
            files, directories, content_bytes = self.usage(directory)  # told to all that were above it
            super().replace(table, key, old=old, new=new)
            self._parents.pop(directory, None)
            self._note(old_parent, -files, -directories - 1, -content_bytes)
            self._note(new_parent, files, directories + 1, content_bytes)

    def remove(self, table: Table, key: bytes, *, old: bytes) -> None:
        if table is Table.INODES:
            is_directory, parent, content_bytes = inode_share(old)
            if is_directory:
                assert self.usage(read_id(key)) == NOTHING, "a directory goes after all that is below it"
                self._forget(key)
                self._note(parent, 0, -1, 0)
            else:
                self._note(parent, -1, 0, -content_bytes)
        DigestedTables.remove(self, table, key, old=old)

    def usage(self, directory: int) -> Sum:
        """What is below a directory now."""
        self._settle()
        written, change = usage_of(self, directory), self._unwritten.get(directory)
        return written if change is None else Sum(*[a + b for a, b in zip(written, change, strict=True)])

    def usage_with(self, inode: int) -> Sum:
        """What an inode and all below it add to the directory it is in."""
        row = self.get(Table.INODES, id_key(inode))
        assert row is not None, inode
        is_directory, _, content_bytes = inode_share(row)
        if not is_directory:
            return Sum(1, 0, content_bytes)
        below = self.usage(inode)
        return below._replace(directories=below.directories + 1)

    def save(self) -> None:
        """Write the rows of USAGE."""
        self._settle()
        for directory, change in self._unwritten.items():
            if change == [0, 0, 0]:
                continue
            key = id_key(directory)
            row = self.get(Table.USAGE, key)
            if row is None:
                super().insert(Table.USAGE, key, _encode(*change))
                continue
            files, directories, content_bytes = _decode(row)
            new = _encode(files + change[0], directories + change[1], content_bytes + change[2])
            if any(new):
                super().replace(Table.USAGE, key, old=row, new=new)
            else:
                super().remove(Table.USAGE, key, old=row)
        self._unwritten.clear()

    def directories_above(self, directory: int) -> Iterator[int]:
        """`directory` itself and those above it, up to the root, or to what was thrown into the trash."""
        while directory != TRASH_INODE:
            yield directory
            directory = self._parent(directory) if directory != ROOT_INODE else TRASH_INODE

    def _note(self, parent: int, files: int, directories: int, content_bytes: int) -> None:
        if parent == TRASH_INODE:
            return
        change = self._noted.get(parent)
        if change is None:
            self._noted[parent] = [files, directories, content_bytes]
        else:
            change[0] += files
            change[1] += directories
            change[2] += content_bytes

    def _settle(self) -> None:
        """Carry what was noted to every directory above, one level at a time: many directories of a batch
        have the same one above them."""
        unwritten = self._unwritten
        while self._noted:
            noted, self._noted = self._noted, {}
            for directory, (files, directories, content_bytes) in noted.items():
                change = unwritten.get(directory)
                if change is None:
                    unwritten[directory] = [files, directories, content_bytes]
                else:
                    change[0] += files
                    change[1] += directories
                    change[2] += content_bytes
                if directory != ROOT_INODE:
                    self._note(self._parent(directory), files, directories, content_bytes)

    def _parent(self, directory: int) -> int:
        parent = self._parents.get(directory)
        if parent is None:
            row = self.get(Table.INODES, id_key(directory))
            if row is None:
                raise CorruptState(f"inode {directory} is the parent of another one but missing")
            if len(self._parents) >= PARENTS_KEPT_MAX:
                self._parents.clear()
            parent = self._parents[directory] = inode_share(row)[1]
        return parent

    def _forget(self, key: bytes) -> None:
        """Drop what is kept about a directory that is gone for ever. Its sum is nothing: if a change is not
        written yet, it is the opposite of the row."""
        self._unwritten.pop(read_id(key), None)
        self._parents.pop(read_id(key), None)
        for table in (Table.USAGE, Table.POLICIES):
            row = self.get(table, key)
            if row is not None:
                super().remove(table, key, old=row)


def _encode(files: int, directories: int, content_bytes: int) -> bytes:
    assert files >= 0 and directories >= 0 and content_bytes >= 0, (files, directories, content_bytes)
    return _ROW.pack(files, directories, content_bytes)


def _decode(row: bytes) -> Sum:
    try:
        return Sum(*_ROW.unpack(row))
    except struct.error as error:
        raise CorruptState(f"a row of sums cannot be read: {error}") from error
