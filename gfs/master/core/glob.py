"""Finding the paths a pattern matches, a page at a time. The pattern language and the walk; changes nothing.

Within a name `*` is any run of characters, `?` one, `[…]` one of a set; a component `**` is any number of
directories, also none. Names beginning with a dot are names like others. Paths come in the order of their
names' bytes, parents before children, so a page goes on behind any path, also one that is gone by then.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator

from gfs.master.core.access import Access
from gfs.master.core.lookup import NamePath, entry_of, names_of, spell
from gfs.master.core.policies import InheritedPolicies
from gfs.master.core.records import dentry_key, id_key, read_dentry
from gfs.master.core.tables import ReadTables, Table
from gfs.messages.namespace import Entry
from gfs.settings import GLOB_SCAN_MAX, LIST_PAGE_MAX
from gfs.vocabulary import NAME_BYTES_MAX, ROOT_INODE, InodeId

ANY_DEPTH = "**"
_WILD = re.compile(r"[*?\[]")

# A component of a pattern: a name as it is, a compiled name pattern, or ANY_DEPTH.
_Component = bytes | re.Pattern[str] | str
_Row = tuple[bytes, InodeId, bool]  # name, inode, whether it is a directory


def glob_page(
    tables: ReadTables,
    pattern: str,
    *,
    after: str = "",
    limit: int = 1000,
    scan_max: int = GLOB_SCAN_MAX,
    access: Access | None = None,
) -> tuple[list[Entry], str]:
    """Entries whose path matches, strictly behind the path `after`, as far as `access` lets the caller see.

    Returns: at most `limit` (and LIST_PAGE_MAX) entries, and the path to go on after, empty at the end. A
        page ends early, perhaps without entries, when `scan_max` directory entries were looked at.
    Raises: InvalidPath (`pattern` or `after`).
    """
    components = [_compile(name) for name in names_of(pattern)]
    behind = names_of(after) if after else None
    limit = min(max(1, limit), LIST_PAGE_MAX)
    entries: list[Entry] = []
    policies = InheritedPolicies(tables)
    last: NamePath = ()
    for looked_at, (names, inode, matched) in enumerate(_walk(tables, components, behind, access)):
        if looked_at >= scan_max or len(entries) == limit:
            return entries, spell(last, whole=True)
        last = names
        if matched:
            entries.append(entry_of(tables, spell(names, whole=True), inode, policies))
    return entries, ""


def walk_below(
    tables: ReadTables, names: NamePath, behind: NamePath | None
) -> Iterator[tuple[NamePath, InodeId]]:
    """What is at these names and everything below, in the order of paths, from behind `behind` on."""
    components: list[_Component] = [*names, ANY_DEPTH]
    for found, inode, matched in _walk(tables, components, behind, None):
        if matched:
            yield found, inode


def _compile(name: bytes) -> _Component:
    text = name.decode("utf-8")
    if text == ANY_DEPTH:
        return ANY_DEPTH
    return re.compile(fnmatch.translate(text)) if _WILD.search(text) else name


def _walk(
    tables: ReadTables, components: list[_Component], behind: NamePath | None, access: Access | None
) -> Iterator[tuple[NamePath, InodeId, bool]]:
    """Every entry looked at behind `behind`, and whether it matches. Depth first, by an explicit stack: a
    position in each directory on the way down."""
    end = len(components)
    start = _reachable({0}, components)
    if behind is None:
        yield (), ROOT_INODE, end in start
    resume = behind or ()
    start -= {end}
    rows = _rows(tables, ROOT_INODE, start, components, resume[:1], access)
    stack: list[tuple[NamePath, frozenset[int], Iterator[_Row], NamePath]] = [((), start, rows, resume)]
    while stack:
        above, positions, rows, resume = stack[-1]
        row = next(rows, None)
        if row is None:
            stack.pop()
            continue
        name, inode, is_directory = row
        names: NamePath = (*above, name)
        now = _advance(positions, name, components)
        on_the_way = bool(resume) and resume[0] == name
        # What leads to `behind`, and that itself, was looked at for an earlier page; only its inside is left.
        if not on_the_way:
            yield names, inode, end in now
        deeper = now - {end}
        if is_directory and deeper:
            rest = resume[1:] if on_the_way else ()
            stack.append((names, deeper, _rows(tables, inode, deeper, components, rest[:1], access), rest))


def _rows(
    tables: ReadTables,
    directory: int,
    positions: frozenset[int],
    components: list[_Component],
    first: NamePath,
    access: Access | None,
) -> Iterator[_Row]:
    """Entries of one directory that can matter, from the name `first` on."""
    wanted = [components[position] for position in positions]
    literal = [name for name in wanted if isinstance(name, bytes)]
    if access is not None and not access.may_visit(InodeId(directory), listing=len(literal) < len(wanted)):
        return
    if len(literal) == len(wanted):
        # Only certain names can match here: look them up instead of reading the whole directory.
        for name in sorted(set(literal)):
            row = tables.get(Table.DENTRIES, dentry_key(directory, name))
            if row is not None and (not first or name >= first[0]):
                yield name, *read_dentry(row)
        return
    start = dentry_key(directory, first[0][: NAME_BYTES_MAX + 1] if first else b"")
    for key, row in tables.scan(Table.DENTRIES, start, id_key(directory + 1)):
        yield key[8:], *read_dentry(row)


def _reachable(positions: set[int], components: list[_Component]) -> frozenset[int]:
    """Positions in the pattern, and those behind a `**` that matches nothing."""
    found = set(positions)
    for position in range(len(components)):
        if position in found and components[position] == ANY_DEPTH:
            found.add(position + 1)
    return frozenset(found)


def _advance(positions: frozenset[int], name: bytes, components: list[_Component]) -> frozenset[int]:
    """Where the pattern stands behind one more name."""
    following: set[int] = set()
    text = name.decode("utf-8")
    for position in positions:
        if position == len(components):
            continue
        component = components[position]
        if component == ANY_DEPTH:
            following.add(position)
        elif component == name or (isinstance(component, re.Pattern) and component.match(text)):
            following.add(position + 1)
    return _reachable(following, components)
