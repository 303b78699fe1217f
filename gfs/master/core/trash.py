"""What lies in the trash: finding and listing what can still be undeleted (GFS §4.4). Changes no table.

A row is (deadline, inode) -> original path and time of deletion. Rows with the deadline CONDEMNED_MS are
being reclaimed: they are the first of the table, and nobody is shown them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gfs.errors import CorruptState, InvalidArgument
from gfs.master.core.lookup import entry_of, in_trash, inode_record, names_of, spell
from gfs.master.core.records import (
    CONDEMNED_MS,
    ID_MAX,
    TIME_MS_MAX,
    encode_inode,
    inode_share,
    read_trash_key,
    read_trash_value,
    trash_key,
)
from gfs.master.core.tables import ReadTables, Table
from gfs.master.core.usage import usage_of
from gfs.messages.operations import TrashName
from gfs.messages.trash import TrashEntry
from gfs.settings import LIST_PAGE_MAX, TRASH_SCAN_MAX, TRASH_SUM_MAX
from gfs.vocabulary import TRASH_DIRECTORY, InodeId

DELETIONS_REMEMBERED_MIN = 16_384
Wants = Callable[[TrashName, str], bool]  # an entry's name and original path -> whether it is one of those


class DeletionOrder:
    """Which of the latest deletions came after which, by the log. Kept in memory, for this start of a master.

    Rows have the time of deletion by the clock of whoever led then. Clocks differ and are set back: by them
    alone an older deletion may look like the newest.
    """

    def __init__(self) -> None:
        self._count = 0
        self._young: dict[int, int] = {}  # two generations: to forget the oldest one by one costs more
        self._old: dict[int, int] = {}

    def note(self, inode: int) -> None:
        self._count += 1
        self._young[inode] = self._count
        if len(self._young) >= DELETIONS_REMEMBERED_MIN:
            self._young, self._old = {}, self._young

    def rank(self, inode: int) -> int:
        """Higher is later; 0 for one before all that are remembered."""
        return self._young.get(inode) or self._old.get(inode, 0)


def trash_row(tables: ReadTables, name: TrashName) -> tuple[bytes, bytes | None]:
    """Key and row of an entry that can be undeleted; the row is None when there is none (any more)."""
    if not (CONDEMNED_MS < name.expires_at_ms <= TIME_MS_MAX and 0 < name.inode <= ID_MAX):
        return b"", None
    key = trash_key(name.expires_at_ms, name.inode)
    return key, tables.get(Table.TRASH, key)


def reclaim_due(tables: ReadTables, *, now_ms: int) -> bool:
    """Whether anything was purged or has expired and is not taken apart yet."""
    first = next(iter(tables.scan(Table.TRASH)), None)
    return first is not None and read_trash_key(first[0])[0] <= now_ms


def trash_page(
    tables: ReadTables, wants: Wants, *, after: str = "", limit: int = LIST_PAGE_MAX
) -> tuple[list[TrashEntry], str]:
    """Deleted entries that `wants` says yes to, soonest reclaimed first, strictly behind `after`.

    Returns: at most `limit` (and LIST_PAGE_MAX) entries, and what to go on after, empty at the end. A page
        ends early, perhaps without entries, when TRASH_SCAN_MAX rows were looked at.
    Raises: InvalidArgument (`after`).
    """
    limit = min(max(1, limit), LIST_PAGE_MAX)
    found: list[TrashEntry] = []
    last = after
    for looked_at, (name, path, deleted_at_ms) in enumerate(_rows_behind(tables, after)):
        if looked_at >= TRASH_SCAN_MAX or len(found) == limit:
            return found, last
        last = f"{name.expires_at_ms}-{name.inode}"
        if wants(name, path):
            readable_at = f"{TRASH_DIRECTORY}/{name.inode}"
            found.append(
                TrashEntry(
                    path=path,
                    deleted_ms=deleted_at_ms,
                    expires_ms=name.expires_at_ms,
                    entry=entry_of(tables, readable_at, name.inode),
                    content_bytes=_content_bytes(tables, name.inode),
                )
            )
    return found, ""


def trash_bytes(tables: ReadTables) -> int:
    """What the files in the trash hold, not counting copies; -1 when it has too many entries to add up."""
    total = 0
    for looked_at, (name, _, _) in enumerate(_rows_behind(tables, "")):
        if looked_at >= TRASH_SUM_MAX:
            return -1
        total += _content_bytes(tables, name.inode)
    return total


def _content_bytes(tables: ReadTables, inode: InodeId) -> int:
    record = inode_record(tables, inode)
    if record is None:
        raise CorruptState(f"the trash holds inode {inode}, which is missing")
    if record.is_directory:
        return usage_of(tables, inode).content_bytes
    return inode_share(encode_inode(record))[2]


def below(path: str) -> Wants:
    """What was deleted from `path` or from anywhere below it. Raises: InvalidPath."""
    top = _spelled(path)
    return lambda _, deleted: top in ("/", deleted) or deleted.startswith(top + "/")


def exactly(path: str) -> Wants:
    """What was deleted from `path`. Raises: InvalidPath."""
    wanted = _spelled(path)
    return lambda _, deleted: deleted == wanted


def above(path: str) -> Wants:
    """What was deleted together with everything in it, `path` among that perhaps. Raises: InvalidPath."""
    wanted = _spelled(path)
    return lambda _, deleted: wanted.startswith(deleted + "/")


def owned(wants: Wants, owns: Callable[[InodeId], bool]) -> Wants:
    """Of these only what somebody owns."""
    return lambda name, deleted: wants(name, deleted) and owns(name.inode)


def with_id(inode: InodeId) -> Wants:
    return lambda name, _: name.inode == inode


def trash_id_of(path: str) -> InodeId:
    """The id in a hidden name, /.trash/<id>; 0 for any other path. Raises: InvalidPath, InvalidArgument."""
    names = names_of(path)
    if not in_trash(names):
        return InodeId(0)
    if len(names) != 2 or not names[1].isdigit() or len(names[1]) > 15:
        raise InvalidArgument(
            f"{spell(names)}: what was deleted comes back, and goes, as a whole: {TRASH_DIRECTORY}/<number>"
        )
    return InodeId(int(names[1]))


def name_of(found: TrashEntry) -> TrashName:
    return TrashName(found.expires_ms, found.entry.inode)


def _spelled(path: str) -> str:
    return spell(names_of(path), whole=True)


def _rows_behind(tables: ReadTables, after: str) -> Iterator[tuple[TrashName, str, int]]:
    start = trash_key(CONDEMNED_MS + 1, 0)
    if after:
        deadline, _, inode = after.partition("-")
        if not (deadline.isdigit() and inode.isdigit() and len(after) < 40):
            raise InvalidArgument(f"{after[:40]!r} is no place in the trash to go on from")
        behind = TrashName(min(int(deadline), TIME_MS_MAX), min(int(inode), ID_MAX) + 1)  # type: ignore[arg-type]
        start = max(start, trash_key(behind.expires_at_ms, behind.inode))
    for key, row in tables.scan(Table.TRASH, start):
        expires_at_ms, found = read_trash_key(key)
        path, deleted_at_ms = read_trash_value(row)
        yield TrashName(expires_at_ms, found), path.decode("utf-8"), deleted_at_ms
