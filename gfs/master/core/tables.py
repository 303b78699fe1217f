"""The state machine's storage: ordered tables of bytes. Implementations: here in memory, and lmdb_tables.

Keys order as bytes; integers in keys are big-endian so that this is also their order. Reads see the
writes of the open batch. No clock, no chance, no hash order.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from enum import Enum
from typing import Protocol


class Table(Enum):
    """One LMDB sub-database each; the value is its name on disk."""

    DENTRIES = b"dentries"  # (parent inode, name) -> inode id, kind
    INODES = b"inodes"  # inode id -> inode record
    FILE_CHUNKS = b"file_chunks"  # (inode, chunk index from 1) -> handle; that of chunk 0 is in the inode
    CHUNKS = b"chunks"  # handle -> chunk record
    TRASH = b"trash"  # (deadline, inode) -> original path
    SESSIONS = b"sessions"  # client id -> last use; (client id, sequence) -> outcome
    SERVERS = b"servers"  # chunk server id -> its number in chunk records, number -> id, tenure
    POLICIES = b"policies"  # directory inode -> replicas, rack rule, reclamation delay, durability, quota
    # owner and group -> their number in inode records, and number -> owner and group; tokens by their digest
    OWNERS = b"owners"
    USAGE = b"usage"  # directory inode -> files, directories and bytes below it
    UNFINISHED = b"unfinished"  # snapshots under way by their copy's inode, chunk copies by their handle
    META = b"meta"  # format version, applied (index, term), next ids and counters, digest

    # The default hashes the member's name in Python at every lookup; members are singletons.
    __hash__ = object.__hash__


class ReadTables(Protocol):
    def get(self, table: Table, key: bytes) -> bytes | None: ...

    def scan(
        self, table: Table, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < stop in key order. The table must not change during the scan."""
        ...


class Tables(ReadTables, Protocol):
    def put(self, table: Table, key: bytes, value: bytes) -> None: ...

    def delete(self, table: Table, key: bytes) -> bool:
        """Whether the key was there."""
        ...


class MemoryTables:
    """An in-memory ordered map per table, for tests and simulation."""

    def __init__(self) -> None:
        self._values: dict[Table, dict[bytes, bytes]] = {table: {} for table in Table}
        self._keys: dict[Table, list[bytes]] = {table: [] for table in Table}

    def get(self, table: Table, key: bytes) -> bytes | None:
        return self._values[table].get(key)

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        if key not in self._values[table]:
            insort(self._keys[table], key)
        self._values[table][key] = value

    def delete(self, table: Table, key: bytes) -> bool:
        if self._values[table].pop(key, None) is None:
            return False
        keys = self._keys[table]
        del keys[bisect_left(keys, key)]
        return True

    def scan(
        self, table: Table, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        keys, values = self._keys[table], self._values[table]
        position = bisect_left(keys, start)
        while position < len(keys) and (stop is None or keys[position] < stop):
            yield keys[position], values[keys[position]]
            position += 1
