"""What every implementation of Tables must do; run over the one in memory and the one in LMDB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gfs.master.core.tables import MemoryTables, Table, Tables
from gfs.master.lmdb_tables import LmdbTables

MIB = 2**20


@pytest.fixture(params=["memory", "lmdb"])
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tables]:
    if request.param == "memory":
        yield MemoryTables()
        return
    lmdb = LmdbTables(str(tmp_path / "state.lmdb"), bytes_max=64 * MIB)
    yield lmdb
    lmdb.close()


def test_a_row_is_read_back_as_written(tables: Tables) -> None:
    tables.put(Table.INODES, b"k", b"first")
    tables.put(Table.INODES, b"k", b"second")
    assert tables.get(Table.INODES, b"k") == b"second"
    assert tables.get(Table.INODES, b"other") is None


def test_tables_do_not_see_each_other(tables: Tables) -> None:
    for table in Table:
        tables.put(table, b"k", table.value)
    assert [tables.get(table, b"k") for table in Table] == [table.value for table in Table]
    tables.delete(Table.CHUNKS, b"k")
    assert tables.get(Table.INODES, b"k") is not None


def test_delete_says_whether_the_row_was_there(tables: Tables) -> None:
    tables.put(Table.TRASH, b"k", b"")
    assert tables.get(Table.TRASH, b"k") == b""
    assert tables.delete(Table.TRASH, b"k") is True
    assert tables.delete(Table.TRASH, b"k") is False
    assert tables.get(Table.TRASH, b"k") is None


def test_a_scan_begins_at_start_and_ends_before_stop(tables: Tables) -> None:
    for key in (b"b", b"a", b"d", b"c"):
        tables.put(Table.DENTRIES, key, key)
    assert [key for key, _ in tables.scan(Table.DENTRIES, b"b", b"d")] == [b"b", b"c"]
    assert [key for key, _ in tables.scan(Table.DENTRIES, b"bb")] == [b"c", b"d"]
    assert list(tables.scan(Table.DENTRIES, b"e")) == []
    assert list(tables.scan(Table.DENTRIES, b"d", b"b")) == []
    assert list(tables.scan(Table.META)) == []


def test_scans_may_be_nested_and_abandoned(tables: Tables) -> None:
    for key in (b"a", b"b", b"c"):
        tables.put(Table.DENTRIES, key, key)
    outer = tables.scan(Table.DENTRIES)
    assert next(outer)[0] == b"a"
    assert next(tables.scan(Table.DENTRIES, b"c"))[0] == b"c"
    assert [key for key, _ in outer] == [b"b", b"c"]
    tables.put(Table.DENTRIES, b"d", b"d")
    assert tables.get(Table.DENTRIES, b"d") == b"d"


KEYS = st.binary(min_size=1, max_size=6)
CHANGES = st.lists(st.tuples(st.sampled_from(["put", "delete", "scan"]), KEYS, st.binary(max_size=3000)))


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(changes=CHANGES)
def test_any_changes_leave_what_a_dict_would_hold(
    tables: Tables, changes: list[tuple[str, bytes, bytes]]
) -> None:
    for key, _ in list(tables.scan(Table.CHUNKS)):
        tables.delete(Table.CHUNKS, key)
    expected: dict[bytes, bytes] = {}
    for action, key, value in changes:
        if action == "put":
            tables.put(Table.CHUNKS, key, value)
            expected[key] = value
        elif action == "delete":
            assert tables.delete(Table.CHUNKS, key) == (expected.pop(key, None) is not None)
        else:
            assert list(tables.scan(Table.CHUNKS, key)) == sorted(
                (found, row) for found, row in expected.items() if found >= key
            )
    assert list(tables.scan(Table.CHUNKS)) == sorted(expected.items())
