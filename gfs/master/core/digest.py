"""A digest of all tables, kept up to date write by write. No decisions about what is written.

Two masters at one log index must have equal digests (I7). The digest is the sum, modulo 2**128, of a hash of
each row: independent of order, so a write costs one hash of the old row and one of the new, and an offline
reader of a checkpoint computes the same number from the rows alone. It guards against faults, not against an
adversary who chooses rows. META is left out: its rows say how far this master is; its counters are mixed in
by `MasterState.digest`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from operator import itemgetter

from gfs.master.core.soundness import batches
from gfs.master.core.tables import ReadTables, Table, Tables

DIGEST_BYTES = 16
_MASK = (1 << 8 * DIGEST_BYTES) - 1
_TAGS = {table: number.to_bytes(1, "big") for number, table in enumerate(Table, start=1)}
_KEY_LENGTHS = tuple(length.to_bytes(2, "big") for length in range(512))


def _row(table: Table, key: bytes, value: bytes) -> bytes:
    # The key's length keeps (key, value) apart from (key + start of value, rest of value).
    return _TAGS[table] + _KEY_LENGTHS[len(key)] + key + value


_new_hash = blake2b(digest_size=DIGEST_BYTES).copy  # half the price of making one


def _sum(rows: Iterable[bytes], new_hash: Callable[[], blake2b] = _new_hash) -> int:
    total = 0
    number = int.from_bytes
    for row in rows:
        hashed = new_hash()
        hashed.update(row)
        total += number(hashed.digest(), "big")
    return total


def digest_rows(tables: ReadTables) -> int:
    """The digest of all rows but META's, from nothing. Reads every table: for tests and inspection."""
    total = 0
    for table in Table:
        if table is not Table.META:
            for batch in batches(tables, table):
                total += _sum_batch(_TAGS[table], batch)
    return total & _MASK


def _sum_batch(tag: bytes, batch: list[tuple[bytes, bytes]]) -> int:
    lengths = set(map(len, map(itemgetter(0), batch)))
    if len(lengths) == 1:
        begun = blake2b(tag + _KEY_LENGTHS[lengths.pop()], digest_size=DIGEST_BYTES)
        return _sum([key + value for key, value in batch], begun.copy)
    return _sum([tag + _KEY_LENGTHS[len(key)] + key + value for key, value in batch])


def digest_text(rows_digest: int, counters: bytes) -> str:
    """What masters compare: the digest of the rows and of the counters, in hexadecimal."""
    seed = rows_digest.to_bytes(DIGEST_BYTES, "big") + counters
    return blake2b(seed, digest_size=DIGEST_BYTES).hexdigest()


class DigestedTables:
    """Tables whose every write says what was there before, so that the digest follows.

    The caller has just read the row it changes; handing the old value back in saves a second lookup.
    """

    __slots__ = ("_added", "_delete", "_digest", "_put", "_removed", "_tables", "get")

    def __init__(self, tables: Tables, digest: int) -> None:
        self._tables = tables
        self.get = tables.get
        self._put = tables.put
        self._delete = tables.delete
        self._digest = digest
        # Rows wait here and are hashed together, once a batch: half the cost of one at a time.
        self._added: list[bytes] = []
        self._removed: list[bytes] = []

    def scan(
        self, table: Table, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        return self._tables.scan(table, start, stop)

    def insert(self, table: Table, key: bytes, value: bytes) -> None:
        """Write a row that is not there yet."""
        self._put(table, key, value)
        self._added.append(_TAGS[table] + _KEY_LENGTHS[len(key)] + key + value)  # as _row(), for the hot path

    def replace(self, table: Table, key: bytes, *, old: bytes, new: bytes) -> None:
        self._put(table, key, new)
        self._removed.append(_row(table, key, old))
        self._added.append(_row(table, key, new))

    def remove(self, table: Table, key: bytes, *, old: bytes) -> None:
        was_there = self._delete(table, key)
        assert was_there, (table, key)
        self._removed.append(_row(table, key, old))

    def rows_digest(self) -> int:
        if self._added or self._removed:
            self._digest = (self._digest + _sum(self._added) - _sum(self._removed)) & _MASK
            self._added.clear()
            self._removed.clear()
        return self._digest
