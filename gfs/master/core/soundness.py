"""What the rules about whole tables share: how a fault is told, batches, and equality of multisets. No rules.

The rules (entry_rules, content_rules, list_rules) read every table from its first to its last row and keep
nothing that grows with their number, so that they serve states of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol

from gfs.master.core.tables import ReadTables, Table

BATCH_ROWS = 2048

# Called with each fault: the rule it breaks, in which row of which table, and a sentence for a person.
Report = Callable[[str, Table, bytes, str], None]


class ManyTables(ReadTables, Protocol):
    """Tables that look many keys up at once."""

    def get_many(self, table: Table, keys: list[bytes]) -> list[bytes | None]:
        """The rows of these keys, in their order."""
        ...


class BatchTables(Protocol):
    """Tables that hand out many rows at once for much less than one after the other."""

    def batches(
        self, table: Table, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[list[tuple[bytes, bytes]]]:
        """As scan(), in lists that are never empty."""
        ...


class OneByOne:
    """Any tables as ManyTables."""

    def __init__(self, tables: ReadTables) -> None:
        self.get = tables.get
        self.scan = tables.scan

    def get_many(self, table: Table, keys: list[bytes]) -> list[bytes | None]:
        return [self.get(table, key) for key in keys]


class Sorter(Protocol):
    """Numbers in, the same in order out. The rules need one only to name what they have found wrong."""

    def add(self, numbers: Iterable[int]) -> None: ...

    def in_order(self) -> Iterator[int]:
        """Once, after the last add()."""
        ...


class MemorySorter:
    """A Sorter for small states."""

    def __init__(self) -> None:
        self._numbers: list[int] = []

    def add(self, numbers: Iterable[int]) -> None:
        self._numbers.extend(numbers)

    def in_order(self) -> Iterator[int]:
        return iter(sorted(self._numbers))


class Fingerprint:
    """A sum of hashes: two multisets of numbers that differ by a fault have different ones.

    Which numbers differ it cannot say; it tells whether that has to be found out, at a hundredth of the cost.
    """

    __slots__ = ("total",)

    def __init__(self) -> None:
        self.total = 0

    def add(self, numbers: Iterable[int]) -> None:
        self.total += sum(map(hash, zip(numbers)))  # in tuples of one: an int is its own hash

    def add_times(self, number: int, times: int) -> None:
        self.total += hash((number,)) * times


def batches(
    tables: ReadTables, table: Table, start: bytes = b"", stop: bytes | None = None
) -> Iterator[list[tuple[bytes, bytes]]]:
    """All rows in lists of up to BATCH_ROWS, in key order."""
    own: BatchTables | None = tables if hasattr(tables, "batches") else None  # type: ignore[assignment]
    if own is not None:
        yield from own.batches(table, start, stop)
        return
    rows = iter(tables.scan(table, start, stop))
    while batch := list(islice(rows, BATCH_ROWS)):
        yield batch


def counted(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Each number of an ordered sequence once, with how often it was there."""
    last, times = 0, 0
    for number in numbers:
        if number == last:
            times += 1
            continue
        if times:
            yield last, times
        last, times = number, 1
    if times:
        yield last, times
