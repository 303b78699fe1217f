"""Whether entries, trash and sums fit the inodes, found out all at once: fingerprints from both sides.

Each inode says in which directory it is, what kind it is and how long; each entry says the same of its inode,
and each row of USAGE what all that comes to. Two sums of hashes per side tell whether the sides agree, at a
fraction of what looking each inode up costs. What it is that does not agree, entry_rules say.

A sum over the equations "the sum of a directory is that of its entries and of the directories among them",
each times a number of its own, holds for all practical purposes only when every one of them does. So a
directory that has entries has a sum, what has a sum is a directory, and no directory hangs from itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import groupby
from operator import mul

from gfs.errors import CorruptState
from gfs.master.core.columns import column
from gfs.master.core.records import TRASH_INODE, id_key, inode_share, read_id
from gfs.master.core.soundness import ManyTables, batches
from gfs.master.core.tables import Table
from gfs.master.core.usage import Sum, usage_of
from gfs.vocabulary import NAME_BYTES_MAX

RUN_MIN = (
    4  # files of one directory in a row, on average, that are better added up before they are multiplied
)
_ENTRY_BYTES = 6
_PARENT_MAX = 2**64 - 1
# Large primes: counts and bytes add up to one number without getting in each other's way.
_FILE = 2_305_843_009_213_693_921
_DIRECTORY = 1_152_921_504_606_846_883


class TreePrint:
    """What one side says of who is where (`held`) and of how much is below (`below`).

    `held`: of each directory the sum of its children's hashes, times the directory's own number.
    """

    __slots__ = ("below", "held")

    def __init__(self) -> None:
        self.held = self.below = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TreePrint) and (self.held, self.below) == (other.held, other.below)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def add_plain_files(self, numbers: Sequence[int], parents: Sequence[int], lengths: Sequence[int]) -> None:
        """What inodes of files say; `numbers` as entries name them, one of `parents` if it is that of all."""
        hashes = list(map(hash, zip(numbers)))
        if len(parents) == 1:
            self.held += _place(parents[0]) * sum(hashes)
            self.below += _factor(parents[0]) * (_FILE * len(numbers) + sum(lengths))
            return
        runs = [(parent, len(list(run))) for parent, run in groupby(parents)]
        if len(runs) * RUN_MIN <= len(parents):
            at = 0
            for parent, count in runs:
                self.held += _place(parent) * sum(hashes[at : at + count])
                self.below += _factor(parent) * (_FILE * count + sum(lengths[at : at + count]))
                at += count
            return
        places = {parent: _place(parent) for parent in set(parents)}
        self.held += sum(map(mul, map(places.__getitem__, parents), hashes))
        factors = {parent: _factor(parent) for parent in places}
        each = map(factors.__getitem__, parents)
        self.below += sum(map(mul, each, [_FILE + length for length in lengths]))

    def add_inode(self, inode: int, parent: int, is_directory: bool, below: Sum) -> None:
        """What any one inode says; `below`: its length, or what is kept of what is below it."""
        self.add_holder(inode, parent, is_directory)
        count = _DIRECTORY if is_directory else _FILE
        self.below += _factor(parent) * (count + _weight(below))

    def add_holder(self, inode: int, parent: int, is_directory: bool) -> None:
        """Of who holds an inode, and in the name of which directory."""
        self.held += _place(parent) * hash((inode << 1 | is_directory,))

    def add_entries(self, tables: ManyTables) -> bool:
        """What DENTRIES and USAGE say; False when a row is not even one."""
        for batch in batches(tables, Table.DENTRIES):
            keys = [key for key, _ in batch]
            values = [value for _, value in batch]
            if not _are_names([key[8:] for key in keys]) or set(map(len, values)) != {_ENTRY_BYTES}:
                return False
            hashes = list(map(hash, zip(column(b"".join(values), _ENTRY_BYTES, 0, _ENTRY_BYTES))))
            at = 0
            while at < len(keys):
                parent = read_id(keys[at])
                end = bisect_left(keys, id_key(parent + 1), at) if parent < _PARENT_MAX else len(keys)
                self.held += _place(parent) * sum(hashes[at:end])
                at = end
        for batch in batches(tables, Table.USAGE):
            directories = tables.get_many(Table.INODES, [key for key, _ in batch])
            for (key, _), row in zip(batch, directories, strict=True):
                if len(key) != 8 or row is None or not row[:1] or not row[0] & 1:
                    return False
                inode = int.from_bytes(key, "big")
                try:
                    kept = usage_of(tables, inode)
                except CorruptState:
                    return False
                if not kept.entries:
                    return False
                self.below += _factor(inode) * _weight(kept)
        return True


def _are_names(names: list[bytes]) -> bool:
    lengths = list(map(len, names))
    if not (min(lengths) > 0 and max(lengths) <= NAME_BYTES_MAX):
        return False
    joined = b"/".join(names)
    if joined.count(b"/") != len(names) - 1 or b"\0" in joined:
        return False
    try:
        # No character spans a slash: all of it can be read if and only if each name can.
        return joined.isascii() or bool(joined.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def _weight(below: Sum) -> int:
    return below.files * _FILE + below.directories * _DIRECTORY + below.content_bytes


def _place(directory: int) -> int:
    return hash((directory, _DIRECTORY))


def _factor(directory: int) -> int:
    """A directory's own number; nothing for what is in the trash, which counts nowhere."""
    return 0 if directory == TRASH_INODE else hash((directory, _FILE))


def sum_below(tables: ManyTables, inode: int, row: bytes) -> Sum:
    """For add_inode(). Raises: CorruptState."""
    is_directory, _, content_bytes = inode_share(row)
    return usage_of(tables, inode) if is_directory else Sum(content_bytes=content_bytes)
