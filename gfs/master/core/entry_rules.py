"""What holds of the whole tree: entries, trash, sums below directories, policies. Content is content_rules'.

That every inode hangs from the root or the trash follows from rules that look at one row and its neighbours:
each inode is held once, where its parent says, and the sum of each directory is that of its entries plus the
sums of the directories among them. In a ring of directories each sum would have to exceed the next one's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from gfs.errors import CorruptState
from gfs.master.core.policies import UNSET
from gfs.master.core.policy_table import DURABILITIES, QUOTA_MAX, TRASH_MS_MAX
from gfs.master.core.records import (
    CONDEMNED_MS,
    ID_MAX,
    TRASH_INODE,
    Counters,
    decode_job,
    decode_policy,
    id_key,
    inode_share,
    read_id,
    read_trash_key,
    read_trash_value,
)
from gfs.master.core.soundness import ManyTables, Report, Sorter, batches, counted
from gfs.master.core.tables import Table
from gfs.master.core.tree_print import TreePrint
from gfs.master.core.usage import NOTHING, Sum, usage_of
from gfs.vocabulary import NAME_BYTES_MAX, REPLICATION_GOAL_MAX, ROOT_INODE

_ENTRY_BYTES = 6


def check_entries(tables: ManyTables, report: Report) -> None:
    """Entries lie in directories, name inodes that know of it, and add up: which do not."""
    sums = _Sums(tables, report)
    directory, parent = b"", 0
    files = directories = content_bytes = 0
    for batch in batches(tables, Table.DENTRIES):
        both = [int.from_bytes(value, "big") if len(value) == _ENTRY_BYTES else 0 for _, value in batch]
        inodes = [number >> 1 for number in both]
        rows = tables.get_many(Table.INODES, list(map(id_key, inodes)))
        for (key, _), number, inode, row in zip(batch, both, inodes, rows, strict=True):
            if key[:8] != directory:
                if directory:
                    sums.compare(directory, (files, directories, content_bytes))
                files = directories = content_bytes = 0
                directory = key[:8]
                parent = _check_directory(tables, key, report)
            name = key[8:]
            if not name.isascii() or not name or b"/" in name or b"\0" in name or len(name) > NAME_BYTES_MAX:
                _check_name(key, report)
            if row is None or inode == ROOT_INODE:
                _report_dangling(key, inode, report)
                continue
            try:
                is_directory, above, own_bytes = inode_share(row)
            except CorruptState:
                continue  # said of the inode's own row
            if above != parent:
                where = f"inode {inode}, which says that it is in directory {above}"
                report("parent", Table.DENTRIES, key, f"entry {name!r} of inode {parent} names {where}")
            if is_directory != number & 1:
                report("kind", Table.DENTRIES, key, f"entry {name!r} and its inode {inode} differ in kind")
            if is_directory:
                below = sums.of(inode)
                files += below.files
                directories += below.directories + 1
                content_bytes += below.content_bytes
            else:
                files += 1
                content_bytes += own_bytes
    if directory:
        sums.compare(directory, (files, directories, content_bytes))
    sums.end()


def _check_directory(tables: ManyTables, key: bytes, report: Report) -> int:
    """The directory that the entry at `key` is in."""
    if len(key) < 8:
        report("key", Table.DENTRIES, key, "the key of an entry is too short")
        return 0
    parent = read_id(key)
    row = tables.get(Table.INODES, key[:8])
    if row is None:
        report("entry of nothing", Table.DENTRIES, key, f"entries are in inode {parent}, which is missing")
    elif not row[:1] or not row[0] & 1:
        report("entry of a file", Table.DENTRIES, key, f"entries are in inode {parent}, which is a file")
    return parent


def _check_name(key: bytes, report: Report) -> None:
    name = key[8:]
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        name = b""
    if not name or b"/" in name or b"\0" in name or len(name) > NAME_BYTES_MAX:
        report("name", Table.DENTRIES, key, f"{key[8:]!r} is no name")


def _report_dangling(key: bytes, inode: int, report: Report) -> None:
    what = "the root directory" if inode == ROOT_INODE else f"inode {inode}, which is missing"
    rule = "root held" if inode == ROOT_INODE else "dangling entry"
    report(rule, Table.DENTRIES, key, f"entry {key[8:]!r} of inode {key[:8].hex()} names {what}")


class _Sums:
    """The rows of USAGE beside the directories in which entries were found; both come in the same order."""

    def __init__(self, tables: ManyTables, report: Report) -> None:
        self._tables, self._report = tables, report
        self._rows = iter(tables.scan(Table.USAGE))
        self._key: bytes | None = None
        self._advance()

    def of(self, directory: int) -> Sum:
        try:
            return usage_of(self._tables, directory)
        except CorruptState:
            return NOTHING  # said when its row comes by

    def compare(self, key: bytes, found: tuple[int, int, int]) -> None:
        """`found`: what the entries of the directory at `key` come to."""
        self._skip_to(key)
        if len(key) != 8:
            return
        try:
            kept = usage_of(self._tables, read_id(key))
        except CorruptState as error:
            self._report("sum", Table.USAGE, key, error.message)
            kept = NOTHING
        else:
            if kept != found:
                counted_there = "files, directories and bytes below inode"
                self._report(
                    "sum", Table.USAGE, key, f"{found} {counted_there} {read_id(key)}, {tuple(kept)} kept"
                )
                self._look_for_ring(key)
        if self._key == key:
            self._advance()

    def end(self) -> None:
        self._skip_to(None)

    def _skip_to(self, key: bytes | None) -> None:
        while self._key is not None and (key is None or self._key < key):
            self._report(
                "sum of nothing",
                Table.USAGE,
                self._key,
                "a sum is kept for what is no directory with entries",
            )
            self._advance()

    def _advance(self) -> None:
        self._key = next(self._rows, (None,))[0]

    def _look_for_ring(self, key: bytes) -> None:
        """Two walk up, one twice as fast: they meet if and only if the way up is a ring."""
        slow = fast = read_id(key)
        while True:
            slow = self._above(slow)
            fast = self._above(self._above(fast))
            if fast in (ROOT_INODE, TRASH_INODE):
                return
            if slow == fast:
                self._report("ring", Table.INODES, key, f"directory {read_id(key)} hangs from itself")
                return

    def _above(self, inode: int) -> int:
        if inode in (ROOT_INODE, TRASH_INODE):
            return inode
        row = self._tables.get(Table.INODES, id_key(inode))
        try:
            return inode_share(row)[1] if row is not None else TRASH_INODE
        except CorruptState:
            return TRASH_INODE


def check_trash(tables: ManyTables, counters: Counters, report: Report, tree: TreePrint) -> None:
    """What was deleted, and the hidden copies of snapshots, are there; adds whom that holds to `tree`."""
    kept = 0
    for batch in batches(tables, Table.TRASH):
        for key, value in batch:
            try:
                expires_at_ms, inode = read_trash_key(key)
                path, _ = read_trash_value(value)
                path.decode("utf-8")
            except (struct.error, UnicodeDecodeError):
                report("trash row", Table.TRASH, key, "a row of the trash cannot be read")
                continue
            kept += expires_at_ms != CONDEMNED_MS
            _check_hidden(tables, Table.TRASH, key, inode, report, tree)
            if expires_at_ms == CONDEMNED_MS and value:
                report("trash row", Table.TRASH, key, f"inode {inode} is condemned and still has a path")
    if kept != counters.trash:
        report("counter", Table.META, b"counters", f"{counters.trash} in the trash are counted, {kept} there")
    for key, row in tables.scan(Table.UNFINISHED, b"s", b"t"):
        _check_snapshot(tables, key, row, report, tree)


def _check_snapshot(tables: ManyTables, key: bytes, row: bytes, report: Report, tree: TreePrint) -> None:
    if len(key) != 9:
        report("snapshot", Table.UNFINISHED, key, "the key of a snapshot under way cannot be read")
        return
    copy = read_id(key[1:])
    _check_hidden(tables, Table.UNFINISHED, key, copy, report, tree)
    try:
        job = decode_job(row)
    except CorruptState as error:
        report("snapshot", Table.UNFINISHED, key, error.message)
        return
    named = {job.source: None} | {n: None for frame in job.frames for n in (frame.source, frame.copy)}
    for inode in named:
        if not 0 < inode <= ID_MAX or tables.get(Table.INODES, id_key(inode)) is None:
            what = f"the snapshot of {job.source_path} to {job.target_path} needs inode {inode}"
            report("snapshot", Table.UNFINISHED, key, f"{what}, which is missing")


def _check_hidden(
    tables: ManyTables, table: Table, key: bytes, inode: int, report: Report, tree: TreePrint
) -> None:
    row = tables.get(Table.INODES, id_key(inode))
    if row is None or inode == ROOT_INODE:
        report("nothing held", table, key, f"inode {inode} is held and cannot be: it is missing or the root")
        return
    try:
        is_directory, above, _ = inode_share(row)
    except CorruptState:
        return
    tree.add_holder(inode, TRASH_INODE, is_directory)
    if above != TRASH_INODE:
        report("parent", table, key, f"inode {inode} says it is in directory {above}, not in the trash")


def name_holders(tables: ManyTables, report: Report, sorter: Callable[[], Sorter]) -> None:
    """Say which inodes nothing holds, or more than one."""
    holders = sorter()
    for batch in batches(tables, Table.DENTRIES):
        holders.add(int.from_bytes(value, "big") >> 1 for _, value in batch if len(value) == _ENTRY_BYTES)
    for batch in batches(tables, Table.TRASH):
        holders.add(read_id(key[8:]) for key, _ in batch if len(key) == 16)
    holders.add(read_id(key[1:]) for key, _ in tables.scan(Table.UNFINISHED, b"s", b"t") if len(key) == 9)
    held = counted(holders.in_order())
    inode, times = next(held, (ID_MAX + 1, 0))
    for number in _inodes(tables):
        while inode < number:
            inode, times = next(held, (ID_MAX + 1, 0))
        if number == ROOT_INODE:
            continue
        if inode > number:
            report(
                "unreachable",
                Table.INODES,
                id_key(number),
                f"inode {number} is neither in a directory nor deleted",
            )
        elif times > 1:
            report("held twice", Table.INODES, id_key(number), f"inode {number} is held {times} times")


def _inodes(tables: ManyTables) -> Iterator[int]:
    for batch in batches(tables, Table.INODES):
        for key, _ in batch:
            if len(key) == 8:
                yield read_id(key)


def check_policies(tables: ManyTables, report: Report) -> None:
    """Policies are those of directories, and make sense."""
    for batch in batches(tables, Table.POLICIES):
        for key, row in batch:
            inode_row = tables.get(Table.INODES, key)
            if inode_row is None or not inode_row[:1] or not inode_row[0] & 1:
                report("policy of nothing", Table.POLICIES, key, "a policy is set for what is no directory")
            try:
                policy = decode_policy(row)
            except CorruptState as error:
                report("policy", Table.POLICIES, key, error.message)
                continue
            if not (
                policy != UNSET
                and 0 <= policy.replicas <= REPLICATION_GOAL_MAX
                and 0 <= policy.racks <= REPLICATION_GOAL_MAX
                and -1 <= policy.trash_ms <= TRASH_MS_MAX
                and policy.durability in ("", *DURABILITIES)
                and -1 <= policy.files_max <= QUOTA_MAX
                and -1 <= policy.bytes_max <= QUOTA_MAX
            ):
                report("policy", Table.POLICIES, key, f"a policy makes no sense: {policy}")
