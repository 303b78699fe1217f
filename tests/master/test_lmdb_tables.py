"""What LMDB adds to Tables: commits, views of one commit, copies, limits."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gfs.errors import CorruptState, GfsError, NoSpace
from gfs.master.core.tables import Table
from gfs.master.lmdb_tables import LmdbTables

MIB = 2**20


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[LmdbTables]:
    opened = LmdbTables(str(tmp_path / "state.lmdb"), bytes_max=64 * MIB)
    yield opened
    opened.close()


def test_readers_see_the_last_commit_and_the_writer_its_own_writes(tables: LmdbTables) -> None:
    tables.put(Table.META, b"k", b"1")
    assert tables.get(Table.META, b"k") == b"1"
    assert tables.committed().get(Table.META, b"k") is None
    tables.commit()
    tables.put(Table.META, b"k", b"2")
    assert tables.committed().get(Table.META, b"k") == b"1"
    assert list(tables.committed().scan(Table.META)) == [(b"k", b"1")]
    tables.commit()
    assert tables.committed().get(Table.META, b"k") == b"2"


def test_a_snapshot_stays_as_it_was(tables: LmdbTables) -> None:
    tables.put(Table.META, b"k", b"1")
    tables.commit()
    with tables.snapshot() as before:
        tables.put(Table.META, b"k", b"2")
        tables.commit()
        assert before.get(Table.META, b"k") == b"1"
        assert tables.committed().get(Table.META, b"k") == b"2"


def test_what_was_not_committed_is_gone_after_closing(tmp_path: Path) -> None:
    path = str(tmp_path / "state.lmdb")
    tables = LmdbTables(path, bytes_max=64 * MIB)
    tables.put(Table.META, b"kept", b"")
    tables.commit()
    tables.put(Table.META, b"lost", b"")
    tables.close()
    again = LmdbTables(path, bytes_max=64 * MIB)
    assert [key for key, _ in again.scan(Table.META)] == [b"kept"]
    again.close()


def test_many_commits_and_reads_use_neither_more_reader_slots_nor_more_pages(tables: LmdbTables) -> None:
    def turn(number: int) -> None:
        tables.put(Table.META, b"k%d" % (number % 50), os.urandom(100))
        tables.commit()
        assert tables.committed().get(Table.META, b"k%d" % (number % 50)) is not None
        next(tables.committed().scan(Table.META))  # abandoned
        with tables.snapshot() as view:
            next(view.scan(Table.META))

    for number in range(200):
        turn(number)
    readers, used = tables.readers(), tables.bytes_used()
    for number in range(3000):
        turn(number)
    assert tables.readers() == readers <= 4
    assert tables.bytes_used() == used


def test_a_full_map_is_no_space_and_reads_go_on_from_the_last_commit(tmp_path: Path) -> None:
    tables = LmdbTables(str(tmp_path / "state.lmdb"), bytes_max=MIB)
    tables.put(Table.META, b"k", b"kept")
    tables.commit()

    def fill() -> None:
        for number in range(10_000):
            tables.put(Table.CHUNKS, b"%d" % number, bytes(1000))

    with pytest.raises(NoSpace):
        fill()
    for refused in (fill, tables.commit, lambda: tables.delete(Table.META, b"k")):
        with pytest.raises(NoSpace):
            refused()
    assert tables.committed().get(Table.META, b"k") == b"kept"
    with tables.snapshot() as view:
        assert list(view.scan(Table.CHUNKS)) == []
    tables.close()


def test_a_file_that_is_not_a_state_is_named_as_damaged(tmp_path: Path) -> None:
    path = tmp_path / "state.lmdb"
    path.write_bytes(b"not a state" * 1000)
    with pytest.raises(CorruptState, match="is damaged"):
        LmdbTables(str(path), bytes_max=64 * MIB)


def test_a_directory_in_the_way_is_our_error(tmp_path: Path) -> None:
    with pytest.raises(GfsError):
        LmdbTables(str(tmp_path), bytes_max=64 * MIB)


def test_a_pinned_copy_is_of_the_moment_it_was_pinned(tables: LmdbTables, tmp_path: Path) -> None:
    for number in range(1000):
        tables.put(Table.CHUNKS, b"%04d" % number, bytes(500))
    tables.commit()
    pinned = tables.pin()
    for number in range(1000):
        tables.delete(Table.CHUNKS, b"%04d" % number)
    tables.commit()
    path = tmp_path / "copy.lmdb"
    path.write_bytes(b"".join(pinned.pieces()))
    copy = LmdbTables(str(path), bytes_max=64 * MIB)
    assert sum(1 for _ in copy.scan(Table.CHUNKS)) == 1000
    copy.close()


def test_a_copy_abandoned_half_way_lets_go_of_everything(tables: LmdbTables) -> None:
    for number in range(5000):
        tables.put(Table.CHUNKS, b"%04d" % number, bytes(1000))
    tables.commit()
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        pinned = tables.pin()
        pieces = pinned.pieces()
        assert next(pieces)
        pieces.close()
        pinned.release()
    tables.pin().release()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert tables.readers() <= 4


def test_tables_may_be_closed_under_a_copy_that_then_still_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "state.lmdb"
    tables = LmdbTables(str(path), bytes_max=64 * MIB)
    for number in range(2000):
        tables.put(Table.CHUNKS, b"%04d" % number, bytes(1000))
    tables.commit()
    pieces = tables.pin().pieces()
    first = next(pieces)
    tables.close()
    copy = tmp_path / "copy.lmdb"
    copy.write_bytes(first + b"".join(pieces))
    opened = LmdbTables(str(copy), bytes_max=64 * MIB)
    assert sum(1 for _ in opened.scan(Table.CHUNKS)) == 2000
    opened.close()
