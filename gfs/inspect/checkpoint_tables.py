"""A checkpoint's tables, read-only: a door to lmdb. Nothing of what the rows mean.

Only within a guarded child: LMDB trusts the file it maps.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice
from operator import itemgetter

import lmdb

from gfs.errors import CorruptState, UnsupportedVersion
from gfs.master.core.records import FORMAT_KEY, STATE_FORMAT
from gfs.master.core.soundness import BATCH_ROWS
from gfs.master.core.tables import Table

SCAN_ROWS_FIRST = 32  # most scans are for what lies below one directory, or in one file


class CheckpointTables:
    """Implements ManyTables. A table that the file lacks is an empty one, and named in `missing`."""

    def __init__(self, path: str, *, any_format: bool = False, any_order: bool = False) -> None:
        """`any_order`: whether keys ascend is looked at only as far as it takes to come to an end.

        Raises: CorruptState; UnsupportedVersion unless `any_format`.
        """
        self.path = path
        self._any_order = any_order
        try:
            # Neither a lock nor a byte is written: the file may lie on a read-only disk.
            self._env = lmdb.open(
                path, subdir=False, readonly=True, lock=False, create=False, max_dbs=len(Table) + 1
            )
            self._transaction = self._env.begin(buffers=False)
            self._handles: dict[Table, lmdb._Database] = {}
            self.missing: list[Table] = []
            for table in Table:
                try:
                    self._handles[table] = self._env.open_db(table.value, self._transaction, create=False)
                except lmdb.NotFoundError:
                    self.missing.append(table)
            with self._transaction.cursor() as cursor:
                names = list(cursor.iternext(True, False))
        except lmdb.Error as error:
            raise CorruptState(f"{path} cannot be opened: {error}") from error
        known = {table.value for table in Table}
        self.unknown: list[bytes] = [name for name in names if name not in known]
        row = self.get(Table.META, FORMAT_KEY)
        found = int.from_bytes(row or b"", "big")
        if found != STATE_FORMAT and not any_format:
            if row is None:
                raise CorruptState(f"{path} does not say in which format its rows are")
            raise UnsupportedVersion(f"{path} has format {found}; this gfs reads format {STATE_FORMAT}")

    def get(self, table: Table, key: bytes) -> bytes | None:
        handle = self._handles.get(table)
        if handle is None or not key:
            return None
        try:
            row: bytes | None = self._transaction.get(key, None, handle)
        except lmdb.BadValsizeError:
            return None  # longer than any key
        except lmdb.Error as error:
            raise self._damaged(table, error) from error
        return row

    def get_many(self, table: Table, keys: list[bytes]) -> list[bytes | None]:
        handle = self._handles.get(table)
        if handle is None:
            return [None] * len(keys)
        try:
            with self._transaction.cursor(handle) as cursor:
                found: list[tuple[bytes, bytes]] = cursor.getmulti(keys)
        except lmdb.Error as error:
            raise self._damaged(table, error) from error
        if len(found) == len(keys):
            return [row for _, row in found]
        rows = dict(found)
        return [rows.get(key) for key in keys]

    def scan(
        self, table: Table, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Raises: CorruptState, also when the keys do not ascend: a damaged tree can lead round in a ring."""
        for batch in self.batches(table, start, stop, first_rows=SCAN_ROWS_FIRST):
            yield from batch

    def batches(
        self, table: Table, start: bytes = b"", stop: bytes | None = None, *, first_rows: int = BATCH_ROWS
    ) -> Iterator[list[tuple[bytes, bytes]]]:
        """As scan(), many at once. `first_rows`: of the first batch, for who may want few."""
        handle = self._handles.get(table)
        if handle is None:
            return
        last, rows_max = b"", first_rows
        try:
            with self._transaction.cursor(handle) as cursor:
                if not (cursor.set_range(start) if start else cursor.first()):
                    return
                pairs = cursor.iternext(True, True)
                while batch := list(islice(pairs, rows_max)):
                    if not last < batch[0][0] or not (self._any_order or _ascend(batch)):
                        raise CorruptState(
                            f"the keys of table {table.value.decode()} do not ascend after {last!r}"
                        )
                    last, rows_max = batch[-1][0], BATCH_ROWS
                    if stop is not None and last >= stop:
                        del batch[bisect_left(batch, stop, key=itemgetter(0)) :]
                        if batch:
                            yield batch
                        return
                    yield batch
        except lmdb.Error as error:
            raise self._damaged(table, error) from error

    def rows(self, table: Table) -> int:
        """How many rows the table says it has."""
        handle = self._handles.get(table)
        return 0 if handle is None else int(self._transaction.stat(handle)["entries"])

    def _damaged(self, table: Table, error: lmdb.Error) -> CorruptState:
        return CorruptState(f"{self.path} is damaged in table {table.value.decode()}: {error}")


def _ascend(batch: list[tuple[bytes, bytes]]) -> bool:
    keys = list(map(itemgetter(0), batch))
    return keys == sorted(keys)  # sorting what is in order costs least
