"""Who may do what: owner, group and mode as in POSIX, the rudimentary checks of GFS §7. Decisions only.

Callers say who they are and are believed: this keeps people from doing harm by mistake, not an intruder out.
The superuser is checked for nothing and never comes here. Changes are checked where they are applied, so that
nothing comes between check and change, and a retry of what was once allowed is never denied.
"""

from __future__ import annotations

from gfs.errors import NotFound, PermissionDenied
from gfs.master.core.lookup import NamePath, find_deleted, in_trash, inode_record, names_of, path_of, spell
from gfs.master.core.owners import owner_and_group
from gfs.master.core.records import TRASH_INODE, InodeRecord, dentry_key, read_dentry
from gfs.master.core.tables import ReadTables, Table
from gfs.messages.base import Identity
from gfs.messages.operations import (
    AnyOperation,
    BeginSnapshot,
    ChangeMode,
    ChangeOwner,
    CreateFile,
    DeletePath,
    MakeDirectory,
    PurgeTrash,
    RenamePath,
    SetLengthHint,
    SetPolicy,
    Undelete,
)
from gfs.vocabulary import ROOT_INODE, InodeId

READ, WRITE, SEARCH = 4, 2, 1
_WORDS = {READ: "read", WRITE: "write", SEARCH: "enter", READ | SEARCH: "list", WRITE | SEARCH: "change"}
_QUOTAS = {"files_max", "bytes_max"}
NAME_SEARCH_ROWS_MAX = 1000  # to name a file in a refusal: one record is applied in under 10 ms


class Access:
    """What one caller may do, in one view of the tables."""

    def __init__(self, tables: ReadTables, caller: Identity) -> None:
        self._tables = tables
        self._caller = caller

    def may(self, record: InodeRecord, wanted: int) -> bool:
        """Whether the mode of a file or directory allows the caller all of `wanted`."""
        owner, group = owner_and_group(self._tables, record.ownership)
        if owner and owner == self._caller.user:
            granted = record.mode >> 6
        elif group and group in self._caller.groups:
            granted = record.mode >> 3
        else:
            granted = record.mode
        return granted & wanted == wanted

    def may_visit(self, directory: InodeId, *, listing: bool) -> bool:
        """Whether the caller may look up names in a directory, or with `listing` learn all of them."""
        record = inode_record(self._tables, directory)
        return record is not None and self.may(record, READ | SEARCH if listing else SEARCH)

    def require_path(self, names: NamePath, wanted: int = 0) -> None:
        """Every directory above may be searched, and what is there, if anything is, allows `wanted`.

        Raises: PermissionDenied.
        """
        found, depth = self._walk(names)
        if depth == len(names):
            self._require(found, wanted, names)

    def require_parent(self, names: NamePath) -> None:
        """The directory that holds the entry of these names, or in which the first missing one above it would
        be made, may be changed. Raises: PermissionDenied."""
        found, depth = self._walk(names[:-1])
        self._require(found, WRITE | SEARCH, names[:depth])

    def require_to_make(self, names: NamePath) -> None:
        """As require_parent, unless there is nothing to be made. Raises: PermissionDenied."""
        found, depth = self._walk(names)
        if depth < len(names):
            self._require(found, WRITE | SEARCH, names[:depth])

    def require_to_empty(self, names: NamePath) -> None:
        """A directory that goes with all that is in it may be changed, too. Raises: PermissionDenied."""
        found, depth = self._walk(names)
        record = inode_record(self._tables, found)
        if depth == len(names) and record is not None and record.is_directory:
            self._require(found, WRITE | SEARCH, names)

    def require_owner(self, names: NamePath, what: str) -> None:
        """Raises: PermissionDenied unless what is there belongs to the caller."""
        found, depth = self._walk(names)
        if depth == len(names):
            self.require_ownership(found, what, names)

    def owns(self, inode: InodeId) -> bool:
        record = inode_record(self._tables, inode)
        owner = owner_and_group(self._tables, record.ownership)[0] if record is not None else ""
        return bool(owner) and owner == self._caller.user

    def require_ownership(self, inode: InodeId, what: str, names: NamePath | None = None) -> None:
        record = inode_record(self._tables, inode)
        if record is None:
            return  # as nobody's: whoever acts on it finds out
        if not self.owns(inode):
            raise self._denied(what, inode, record, names)

    def require_inode(self, inode: InodeId, wanted: int) -> None:
        """As require_path, for a file that the caller names by number; one in the trash, too.

        Raises: PermissionDenied.
        """
        record = inode_record(self._tables, inode)
        if record is None:
            return
        if not self.may(record, wanted):
            raise self._denied(_WORDS[wanted], inode, record)
        at = record.parent
        while at not in (TRASH_INODE, ROOT_INODE):
            above = inode_record(self._tables, at)
            if above is None:
                return
            if not self.may(above, SEARCH):
                raise self._denied("enter", InodeId(at), above)
            at = above.parent

    def _walk(self, names: NamePath) -> tuple[InodeId, int]:
        """The inode at these names, or where the way there ends, and how many names lead to that.

        Into what was deleted, under its hidden name, goes only its owner: the directories that kept others
        from it are not above it any more.
        """
        inode, begun = ROOT_INODE, 0
        if in_trash(names):
            try:
                inode, begun = find_deleted(self._tables, names)[0], 2
            except NotFound:
                return ROOT_INODE, 0
            self.require_ownership(inode, "look into", names[:2])
        for depth, name in enumerate(names[begun:], start=begun):
            self._require(inode, SEARCH, names[:depth])
            row = self._tables.get(Table.DENTRIES, dentry_key(inode, name))
            if row is None:
                return inode, depth
            below, is_directory = read_dentry(row)
            if not is_directory and depth + 1 < len(names):
                return inode, depth
            inode = below
        return inode, len(names)

    def _require(self, inode: InodeId, wanted: int, names: NamePath) -> None:
        record = inode_record(self._tables, inode)
        if wanted and record is not None and not self.may(record, wanted):
            raise self._denied(_WORDS[wanted], inode, record, names)

    def _denied(
        self, what: str, inode: InodeId, record: InodeRecord, names: NamePath | None = None
    ) -> PermissionDenied:
        path = spell(names) if names is not None else self._path_of(inode)
        owner, group = owner_and_group(self._tables, record.ownership)
        return PermissionDenied(
            f"{self._caller.user[:64] or 'a caller without a name'} may not {what} {path}, which belongs to "
            f"{owner or 'the superuser'}{':' if group else ''}{group} with mode {record.mode:03o}"
        )

    def _path_of(self, inode: InodeId) -> str:
        return path_of(self._tables, inode, rows_max=NAME_SEARCH_ROWS_MAX)


def check_operation(tables: ReadTables, caller: Identity, operation: AnyOperation) -> None:
    """Raises: PermissionDenied when the caller may not do this; InvalidPath."""
    access = Access(tables, caller)
    match operation:
        case MakeDirectory():
            access.require_to_make(names_of(operation.path))
        case CreateFile():
            access.require_parent(names_of(operation.path))
        case DeletePath():
            access.require_parent(names_of(operation.path))
            if operation.recursive:
                access.require_to_empty(names_of(operation.path))
        case RenamePath():
            access.require_parent(names_of(operation.source))
            access.require_parent(names_of(operation.destination))
        case BeginSnapshot():
            access.require_path(names_of(operation.source), READ)
            access.require_parent(names_of(operation.target))
        case SetLengthHint():
            access.require_inode(operation.inode, WRITE)
        case Undelete():
            access.require_ownership(operation.entry.inode, "undelete")
            access.require_parent(names_of(operation.path))
        case PurgeTrash():
            for entry in operation.entries:
                access.require_ownership(entry.inode, "purge")
        case ChangeMode():
            access.require_owner(names_of(operation.path), "change the mode of")
        case ChangeOwner():
            if not operation.keep_owner:
                raise PermissionDenied("only the superuser may give something to another owner")
            if operation.group not in caller.groups and not operation.keep_group:
                raise PermissionDenied(f"{caller.user[:64]} is not in the group {operation.group[:64]!r}")
            access.require_owner(names_of(operation.path), "change the group of")
        case SetPolicy():
            if operation.files_max >= 0 or operation.bytes_max >= 0 or {*operation.unset} & _QUOTAS:
                raise PermissionDenied("only the superuser may set or lift a quota")
            access.require_owner(names_of(operation.path), "set the policy of")
        case _:
            raise PermissionDenied(f"only the superuser may do this ({type(operation).__name__})")
