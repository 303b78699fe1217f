"""The namespace: directories, files, the trash, and what operations do to them (GFS §4.1, §4.4). No chunks.

A directory entry is a row (parent inode, name) -> inode. A rename moves a tree of any size by rewriting one
entry, a deletion hangs it into the trash likewise, and two creations in one directory touch different rows.

Invariants: every inode but the root is held by exactly one entry, of the directory its `parent` names, or by
exactly one row of the trash when its `parent` is TRASH_INODE; parents form a tree under root or trash.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gfs.errors import (
    AlreadyExists,
    DirectoryNotEmpty,
    InvalidArgument,
    IsADirectory,
    NotADirectory,
    NotFound,
)
from gfs.master.core.lookup import NamePath, find, find_directory, names_to_change, spell
from gfs.master.core.owners import Owners, owner_and_group
from gfs.master.core.quotas import Quotas
from gfs.master.core.records import (
    CONDEMNED_MS,
    ID_MAX,
    MODE_MAX,
    TIME_MS_MAX,
    TRASH_INODE,
    Counters,
    InodeRecord,
    decode_inode,
    dentry_key,
    dentry_value,
    encode_inode,
    id_key,
    read_dentry,
    trash_key,
    trash_value,
)
from gfs.master.core.tables import Table
from gfs.master.core.trash import DeletionOrder, trash_row
from gfs.master.core.usage import NOTHING, AccountedTables
from gfs.messages.operations import (
    ChangeMode,
    ChangeOwner,
    CreateFile,
    DeletePath,
    MakeDirectory,
    RenamePath,
    Undelete,
)
from gfs.vocabulary import (
    DIRECTORY_MODE_DEFAULT,
    FILE_MODE_DEFAULT,
    REPLICATION_GOAL_MAX,
    ROOT_INODE,
    InodeId,
)

TRASH_MS_DEFAULT = 3 * 86400 * 1000  # for a record that does not say when its trash expires (§4.4)


def root_record() -> InodeRecord:
    return InodeRecord(
        is_directory=True, parent=ROOT_INODE, created_ms=0, modified_ms=0, mode=DIRECTORY_MODE_DEFAULT
    )


class Namespace:
    """Every method checks first and writes after: when it raises, nothing was written."""

    def __init__(self, tables: AccountedTables, counters: Counters, owners: Owners, quotas: Quotas) -> None:
        self._tables = tables
        self._counters = counters
        self._owners = owners
        self._quotas = quotas
        self.deletions = DeletionOrder()

    def make_directory(self, operation: MakeDirectory, *, at_ms: int) -> InodeId:
        """Raises: InvalidPath, InvalidArgument, NotFound, NotADirectory, AlreadyExists, QuotaExceeded."""
        names = names_to_change(operation.path)
        mode = DIRECTORY_MODE_DEFAULT if operation.mode < 0 else _checked_mode(operation.mode)
        self._owners.check(operation.owner, operation.group)
        inode = ROOT_INODE
        for depth, name in enumerate(names):
            row = self._tables.get(Table.DENTRIES, dentry_key(inode, name))
            if row is None:
                missing = names[depth:]
                if len(missing) > 1 and not operation.parents:
                    raise NotFound(f"the directory {spell(names[: depth + 1])} does not exist")
                self._quotas.check_entries(inode, len(missing))
                ownership = self._owners.number_of(operation.owner, operation.group)
                for new_name in missing:
                    inode = self._add_directory(inode, new_name, at_ms=at_ms, mode=mode, ownership=ownership)
                return inode
            inode, is_directory = read_dentry(row)
            if not is_directory:
                if depth + 1 == len(names):
                    raise AlreadyExists(f"{spell(names)} exists, and is a file")
                raise NotADirectory(f"{spell(names[: depth + 1])} is a file, not a directory")
        if not operation.parents:
            raise AlreadyExists(f"{spell(names)} exists")
        return inode

    def create_file(self, operation: CreateFile, *, at_ms: int) -> InodeId:
        """Raises: as make_directory; IsADirectory."""
        names = names_to_change(operation.path)
        if not 0 < operation.replication_goal <= REPLICATION_GOAL_MAX:
            raise InvalidArgument(
                f"the replication goal {operation.replication_goal} is not within 1..{REPLICATION_GOAL_MAX}"
            )
        mode = FILE_MODE_DEFAULT if operation.mode < 0 else _checked_mode(operation.mode)
        self._owners.check(operation.owner, operation.group)
        if not names:
            raise IsADirectory("/ is a directory")
        tables = self._tables
        parent = find_directory(tables, names[:-1])
        key = dentry_key(parent, names[-1])
        present = tables.get(Table.DENTRIES, key)
        if present is not None:
            if read_dentry(present)[1]:
                raise IsADirectory(f"{spell(names)} is a directory")
            if not operation.replace:
                raise AlreadyExists(f"{spell(names)} exists")
        if present is None:
            self._quotas.check_entries(parent, 1)
        ownership = self._owners.number_of(operation.owner, operation.group)
        if present is not None:
            expires_at_ms = operation.expires_at_ms or at_ms + TRASH_MS_DEFAULT
            self._move_to_trash(read_dentry(present)[0], names, expires_at_ms=expires_at_ms, at_ms=at_ms)
        inode = self._next_inode()
        record = InodeRecord(
            is_directory=False,
            parent=parent,
            created_ms=at_ms,
            modified_ms=at_ms,
            replication_goal=operation.replication_goal,
            mode=mode,
            ownership=ownership,
            goal_inherited=operation.inherits_goal,
        )
        tables.insert(Table.INODES, id_key(inode), encode_inode(record))
        entry = dentry_value(inode, is_directory=False)
        if present is None:
            tables.insert(Table.DENTRIES, key, entry)
        else:
            tables.replace(Table.DENTRIES, key, old=present, new=entry)
        self._counters.files += 1
        return inode

    def delete_path(self, operation: DeletePath, *, at_ms: int) -> InodeId:
        """Raises: InvalidPath, InvalidArgument (the root), NotFound, NotADirectory, DirectoryNotEmpty."""
        names = names_to_change(operation.path)
        if not names:
            raise InvalidArgument("the root directory cannot be deleted")
        parent = find_directory(self._tables, names[:-1])
        key = dentry_key(parent, names[-1])
        present = self._tables.get(Table.DENTRIES, key)
        if present is None:
            raise NotFound(f"{spell(names)} does not exist")
        inode, is_directory = read_dentry(present)
        if is_directory and not operation.recursive and self._has_entries(inode):
            raise DirectoryNotEmpty(f"the directory {spell(names)} is not empty")
        self._tables.remove(Table.DENTRIES, key, old=present)
        self._move_to_trash(inode, names, expires_at_ms=operation.expires_at_ms, at_ms=at_ms)
        return inode

    def rename_path(self, operation: RenamePath, *, at_ms: int) -> InodeId:
        """Raises: InvalidPath, InvalidArgument, NotFound, NotADirectory, AlreadyExists, QuotaExceeded."""
        source, destination = names_to_change(operation.source), names_to_change(operation.destination)
        if not source or not destination:
            raise InvalidArgument("the root directory can neither be renamed nor be replaced")
        tables = self._tables
        old_parent = find_directory(tables, source[:-1])
        old_key = dentry_key(old_parent, source[-1])
        row = tables.get(Table.DENTRIES, old_key)
        if row is None:
            raise NotFound(f"{spell(source)} does not exist")
        inode, is_directory = read_dentry(row)
        if source == destination:
            return inode
        # There are no links, so comparing the names is enough to see that one lies within the other.
        if destination[: len(source)] == source:
            if not is_directory:
                raise NotADirectory(f"{spell(source)} is a file, not a directory")
            raise InvalidArgument(f"{spell(source)} cannot be moved into itself, to {spell(destination)}")
        new_parent = find_directory(tables, destination[:-1])
        new_key = dentry_key(new_parent, destination[-1])
        present = tables.get(Table.DENTRIES, new_key)
        replaced = 0
        if present is not None:
            replaced, replaced_is_directory = read_dentry(present)
            if replaced_is_directory or not operation.replace:
                raise AlreadyExists(f"{spell(destination)} exists")
            if is_directory:
                raise NotADirectory(f"{spell(destination)} is a file; a directory cannot replace it")
        if new_parent != old_parent:
            self._check_room(inode, old_parent, new_parent, replaced=replaced)
        if present is not None:
            self._move_to_trash(replaced, destination, expires_at_ms=operation.expires_at_ms, at_ms=at_ms)
        tables.remove(Table.DENTRIES, old_key, old=row)
        if present is None:
            tables.insert(Table.DENTRIES, new_key, row)
        else:
            tables.replace(Table.DENTRIES, new_key, old=present, new=row)
        if new_parent != old_parent:
            self._set_parent(inode, new_parent)
        return inode

    def undelete(self, operation: Undelete, *, at_ms: int) -> InodeId:
        """Raises: InvalidPath, InvalidArgument, NotFound (not in the trash), NotADirectory, AlreadyExists,
        QuotaExceeded.
        """
        key, row = trash_row(self._tables, operation.entry)
        if row is None:
            raise NotFound("the trash does not hold what was to be given back")
        names = names_to_change(operation.path)
        if not names:
            raise InvalidArgument("nothing can take the place of the root directory")
        tables, inode = self._tables, operation.entry.inode
        inode_row = tables.get(Table.INODES, id_key(inode))
        assert inode_row is not None, inode
        self._check_room_below(names, inode)
        # Where a parent has to be made nothing can be in the way of the entry: no check fails after it.
        above = MakeDirectory(
            path=spell(names[:-1], whole=True), parents=True, owner=operation.owner, group=operation.group
        )
        try:
            parent = self.make_directory(above, at_ms=at_ms)
        except AlreadyExists as error:
            raise NotADirectory(error.message) from error
        entry_key = dentry_key(parent, names[-1])
        if tables.get(Table.DENTRIES, entry_key) is not None:
            raise AlreadyExists(f"{spell(names)} exists")
        tables.remove(Table.TRASH, key, old=row)
        self._counters.trash -= 1
        is_directory = decode_inode(inode_row).is_directory
        tables.insert(Table.DENTRIES, entry_key, dentry_value(inode, is_directory=is_directory))
        self._set_parent(inode, parent)
        return inode

    def change_mode(self, operation: ChangeMode) -> InodeId:
        """Raises: InvalidPath, InvalidArgument, NotFound, NotADirectory."""
        mode = _checked_mode(operation.mode)
        inode, _ = find(self._tables, names_to_change(operation.path))
        row, record = self._inode(inode)
        self._rewrite(inode, row, msgspec.structs.replace(record, mode=mode))
        return inode

    def change_owner(self, operation: ChangeOwner) -> InodeId:
        """Raises: InvalidPath, InvalidArgument, NotFound, NotADirectory, NoSpace."""
        self._owners.check(operation.owner, operation.group)
        inode, _ = find(self._tables, names_to_change(operation.path))
        row, record = self._inode(inode)
        owner, group = owner_and_group(self._tables, record.ownership)
        ownership = self._owners.number_of(
            owner if operation.keep_owner else operation.owner,
            group if operation.keep_group else operation.group,
        )
        self._rewrite(inode, row, msgspec.structs.replace(record, ownership=ownership))
        return inode

    def _check_room(self, inode: int, old_parent: int, new_parent: int, *, replaced: int) -> None:
        """Before an inode, with what is below it, moves from one directory to another in place of `replaced`
        (0: of nothing). Raises: QuotaExceeded."""
        already_in = self._quotas.above(old_parent)
        if not already_in:
            return  # there are no quotas
        moved = self._tables.usage_with(inode)
        freed = self._tables.usage_with(replaced) if replaced else NOTHING
        self._quotas.check_entries(
            new_parent,
            moved.entries - freed.entries,
            moved.content_bytes - freed.content_bytes,
            already_in=already_in,
        )

    def _check_room_below(self, names: NamePath, inode: int) -> None:
        """Before an inode comes to these names from the trash. Raises: QuotaExceeded."""
        at = ROOT_INODE
        for depth, name in enumerate(names[:-1]):
            row = self._tables.get(Table.DENTRIES, dentry_key(at, name))
            if row is None:
                missing = len(names) - 1 - depth
                break
            at, is_directory = read_dentry(row)
            if not is_directory:
                return  # it cannot come there at all
        else:
            missing = 0
        back = self._tables.usage_with(inode)
        self._quotas.check_entries(at, missing + back.entries, back.content_bytes)

    def _rewrite(self, inode: int, old: bytes, record: InodeRecord) -> None:
        new = encode_inode(record)
        if new != old:
            self._tables.replace(Table.INODES, id_key(inode), old=old, new=new)

    def _add_directory(self, parent: int, name: bytes, *, at_ms: int, mode: int, ownership: int) -> InodeId:
        inode = self._next_inode()
        record = InodeRecord(
            is_directory=True,
            parent=parent,
            created_ms=at_ms,
            modified_ms=at_ms,
            mode=mode,
            ownership=ownership,
        )
        self._tables.insert(Table.INODES, id_key(inode), encode_inode(record))
        self._tables.insert(Table.DENTRIES, dentry_key(parent, name), dentry_value(inode, is_directory=True))
        self._counters.directories += 1
        return inode

    def _inode(self, inode: int) -> tuple[bytes, InodeRecord]:
        row = self._tables.get(Table.INODES, id_key(inode))
        assert row is not None, inode
        return row, decode_inode(row)

    def _next_inode(self) -> InodeId:
        inode = self._counters.next_inode
        assert inode <= ID_MAX
        self._counters.next_inode = inode + 1
        return InodeId(inode)

    def _has_entries(self, directory: int) -> bool:
        rows: Iterable[tuple[bytes, bytes]] = self._tables.scan(
            Table.DENTRIES, id_key(directory), id_key(directory + 1)
        )
        return any(True for _ in rows)

    def _move_to_trash(self, inode: int, names: NamePath, *, expires_at_ms: int, at_ms: int) -> None:
        """Hang an inode, with all that is below it, into the trash. Its entry is the caller's to remove."""
        expires_at_ms = min(max(CONDEMNED_MS + 1, expires_at_ms), TIME_MS_MAX)
        path = spell(names, whole=True).encode("utf-8")
        self._tables.insert(
            Table.TRASH, trash_key(expires_at_ms, inode), trash_value(path, deleted_at_ms=at_ms)
        )
        self._set_parent(inode, TRASH_INODE)
        self._counters.trash += 1
        self.deletions.note(inode)

    def _set_parent(self, inode: int, parent: int) -> None:
        row = self._tables.get(Table.INODES, id_key(inode))
        assert row is not None, inode
        self._rewrite(inode, row, msgspec.structs.replace(decode_inode(row), parent=parent))


def _checked_mode(asked: int) -> int:
    if not 0 <= asked <= MODE_MAX:
        raise InvalidArgument(f"the mode {asked:o} is not within 0..{MODE_MAX:o}")
    return asked
