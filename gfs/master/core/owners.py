"""Owners and groups of files and directories, each pair under a number short enough for every inode's row.

Who may do what with them is access.py's. Invariant: numbers are given from 1 on without gaps and never taken
back; 0 stands for the superuser, who needs no row.
"""

from __future__ import annotations

from gfs.errors import CorruptState, InvalidArgument, NoSpace
from gfs.master.core.digest import DigestedTables
from gfs.master.core.records import (
    OWNERSHIP_MAX,
    Counters,
    id_key,
    ownership_key,
    ownership_names,
    ownership_number_key,
    read_id,
    read_ownership_names,
)
from gfs.master.core.tables import ReadTables, Table

OWNER_BYTES_MAX = 64


def check_owner_names(owner: str, group: str) -> None:
    """Raises: InvalidArgument when either cannot be the name of a user or a group."""
    for name in (owner, group):
        if name.isascii() and name.isalnum() and len(name) <= OWNER_BYTES_MAX:
            continue
        try:
            length = len(name.encode("utf-8"))
        except UnicodeEncodeError:
            raise InvalidArgument("the name of a user or group is not valid UTF-8") from None
        if length > OWNER_BYTES_MAX:
            raise InvalidArgument(f"the name of a user or group has {length} bytes, over {OWNER_BYTES_MAX}")
        if ":" in name or not name.isprintable() or " " in name:
            raise InvalidArgument(f"{name!r} cannot name a user or group: no colons, spaces or control codes")


def owner_and_group(tables: ReadTables, ownership: int) -> tuple[str, str]:
    """The names behind a number; ("", "") is the superuser's."""
    if ownership == 0:
        return "", ""
    row = tables.get(Table.OWNERS, ownership_number_key(ownership))
    if row is None:
        raise CorruptState(f"owner number {ownership} has no name")
    return read_ownership_names(row)


class Owners:
    """Gives numbers to pairs of owner and group at their first mention."""

    def __init__(self, tables: DigestedTables, counters: Counters) -> None:
        self._tables = tables
        self._counters = counters
        self._known: dict[tuple[str, str], int] = {("", ""): 0}  # at most OWNERSHIP_MAX

    def check(self, owner: str, group: str) -> None:
        """Raises: InvalidArgument when either cannot be the name of a user or a group."""
        if (owner, group) not in self._known:
            check_owner_names(owner, group)

    def number_of(self, owner: str, group: str) -> int:
        """The names have passed check(). Raises: NoSpace when all numbers are given away."""
        known = self._known.get((owner, group))
        if known is not None:
            return known
        names = ownership_names(owner, group)
        row = self._tables.get(Table.OWNERS, ownership_key(names))
        if row is not None:
            number = read_id(row)
        else:
            number = self._counters.ownerships + 1
            if number > OWNERSHIP_MAX:
                raise NoSpace(
                    f"the cluster has {OWNERSHIP_MAX} different pairs of owner and group already, "
                    f"and {owner}:{group} would be one more"
                )
            self._counters.ownerships = number
            self._tables.insert(Table.OWNERS, ownership_key(names), id_key(number))
            self._tables.insert(Table.OWNERS, ownership_number_key(number), names)
        self._known[owner, group] = number
        return number
