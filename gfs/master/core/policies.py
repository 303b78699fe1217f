"""Which policy holds for a file or directory: each field from the nearest directory above that sets it.

Setting them is policy_table's, limits on what lies below a directory are quotas.py's. A cluster's defaults
are in no table: a field that no directory sets comes back unset, and the caller knows the setting.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gfs.errors import CorruptState
from gfs.master.core.records import (
    TRASH_INODE,
    InodeRecord,
    PolicyRecord,
    decode_inode,
    decode_policy,
    dentry_key,
    id_key,
    inode_share,
    read_dentry,
)
from gfs.master.core.tables import ReadTables, Table
from gfs.vocabulary import ROOT_INODE, InodeId

INHERITED_FIELDS = ("replicas", "racks", "trash_ms", "durability")  # a quota is only of its own directory
UNSET = PolicyRecord()


def own_policy(tables: ReadTables, directory: int) -> PolicyRecord:
    """What is set at this very directory."""
    row = tables.get(Table.POLICIES, id_key(directory))
    return UNSET if row is None else decode_policy(row)


class InheritedPolicies:
    """Policies as one view of the tables has them; valid as long as the view.

    Asked of many files, it reads each directory once; as long as nobody has set a policy, it reads nothing.
    """

    def __init__(self, tables: ReadTables) -> None:
        self._tables = tables
        self._known: dict[int, PolicyRecord] | None = None
        if next(tables.scan(Table.POLICIES), None) is not None:
            self._known = {int(TRASH_INODE): UNSET}

    def of_directory(self, directory: int) -> PolicyRecord:
        """What holds in a directory, also in one that is in the trash."""
        known = self._known
        if known is None:
            return UNSET
        way: list[int] = []
        at = directory
        while at not in known:
            way.append(at)
            if at == ROOT_INODE:
                at = TRASH_INODE
                break
            row = self._tables.get(Table.INODES, id_key(at))
            if row is None:
                raise CorruptState(f"inode {at} is the parent of another one but missing")
            at = inode_share(row)[1]
        policy = known[at]
        for below in reversed(way):
            policy = known[below] = inherit(own_policy(self._tables, below), policy)
        return policy

    def goal_of(self, file: InodeRecord) -> int:
        """How many replicas the chunks of a file shall have (§4.3)."""
        if not file.goal_inherited or self._known is None:
            return file.replication_goal
        return self.of_directory(file.parent).replicas or file.replication_goal


def inherit(own: PolicyRecord, above: PolicyRecord) -> PolicyRecord:
    """A directory's own policy, with what it leaves open taken from the directory above."""
    if own == UNSET:
        return msgspec.structs.replace(above, files_max=UNSET.files_max, bytes_max=UNSET.bytes_max)
    taken = {
        name: getattr(above, name) for name in INHERITED_FIELDS if getattr(own, name) == getattr(UNSET, name)
    }
    return msgspec.structs.replace(own, **taken)


def policy_of(tables: ReadTables, inode: int) -> PolicyRecord:
    """What holds for a file or in a directory; UNSET for one that is not there."""
    row = tables.get(Table.INODES, id_key(inode))
    if row is None:
        return UNSET
    is_directory, parent, _ = inode_share(row)
    return InheritedPolicies(tables).of_directory(inode if is_directory else parent)


def policy_at(tables: ReadTables, names: Sequence[bytes]) -> PolicyRecord:
    """What holds at a path, as far as it exists: for what is about to be made there, or deleted."""
    if next(tables.scan(Table.POLICIES), None) is None:
        return UNSET
    inode, policy = ROOT_INODE, own_policy(tables, ROOT_INODE)
    for name in names:
        row = tables.get(Table.DENTRIES, dentry_key(inode, name))
        if row is None:
            break
        inode, is_directory = read_dentry(row)
        if not is_directory:
            break
        policy = inherit(own_policy(tables, inode), policy)
    return policy


def replication_goal_of(tables: ReadTables, inode: InodeId) -> int:
    """How many replicas the chunks of this file shall have: as its creator said, or as the policy says now.

    0 for what is no file, or not there any more.
    """
    row = tables.get(Table.INODES, id_key(inode))
    return 0 if row is None else InheritedPolicies(tables).goal_of(decode_inode(row))


def trash_expiry(tables: ReadTables, names: Sequence[bytes], *, at_ms: int, default_ms: int) -> int:
    """Until when the trash keeps what is deleted at this path now (§4.4)."""
    delay_ms = policy_at(tables, names).trash_ms
    return at_ms + (default_ms if delay_ms == UNSET.trash_ms else delay_ms)


def set_at(tables: ReadTables, directory: InodeId) -> dict[str, InodeId]:
    """For each inherited field that is set somewhere: the nearest directory at or above that sets it."""
    found: dict[str, InodeId] = {}
    at = directory
    while at != TRASH_INODE:
        own = own_policy(tables, at)
        for name in INHERITED_FIELDS:
            if getattr(own, name) != getattr(UNSET, name):
                found.setdefault(name, at)
        row = tables.get(Table.INODES, id_key(at))
        if row is None:
            raise CorruptState(f"inode {at} is the parent of another one but missing")
        at = InodeId(inode_share(row)[1]) if at != ROOT_INODE else TRASH_INODE
    return found
