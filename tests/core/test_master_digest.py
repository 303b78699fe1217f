"""The digest follows every write, tells states apart, and CheckDigest finds a master that has gone astray."""

from __future__ import annotations

import pytest

from gfs.errors import CorruptState, UnsupportedVersion
from gfs.master.core.digest import DigestedTables, digest_rows
from gfs.master.core.invariants import check_invariants
from gfs.master.core.lookup import state_digest
from gfs.master.core.records import COUNTERS_KEY, FORMAT_KEY, STATE_FORMAT
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables, Table
from gfs.messages import operations as op
from gfs.vocabulary import LogIndex
from tests.core.master_records import create, delete, mkdir, record


def test_the_digest_does_not_depend_on_the_order_of_writes() -> None:
    rows = [(Table.CHUNKS, b"%d" % number, b"row") for number in range(20)]
    digests = set()
    for order in (rows, rows[::-1]):
        tables = DigestedTables(MemoryTables(), 0)
        for table, key, value in order:
            tables.insert(table, key, value)
        digests.add(tables.rows_digest())
    assert len(digests) == 1


def test_the_digest_tells_table_key_and_value_apart() -> None:
    digests = set()
    rows = [
        (Table.CHUNKS, b"k", b"v"),
        (Table.INODES, b"k", b"v"),
        (Table.CHUNKS, b"kv", b""),
        (Table.CHUNKS, b"v", b"k"),
    ]
    for table, key, value in rows:
        tables = DigestedTables(MemoryTables(), 0)
        tables.insert(table, key, value)
        digests.add(tables.rows_digest())
    assert len(digests) == 4


def test_replacing_and_removing_bring_back_the_digest_of_before() -> None:
    plain = MemoryTables()
    tables = DigestedTables(plain, 0)
    tables.insert(Table.CHUNKS, b"k", b"1")
    before = tables.rows_digest()
    tables.replace(Table.CHUNKS, b"k", old=b"1", new=b"2")
    assert tables.rows_digest() != before
    tables.insert(Table.CHUNKS, b"l", b"3")
    tables.remove(Table.CHUNKS, b"l", old=b"3")
    tables.replace(Table.CHUNKS, b"k", old=b"2", new=b"1")
    assert tables.rows_digest() == before == digest_rows(plain)


def test_a_changed_row_is_seen_by_a_whole_check() -> None:
    tables = MemoryTables()
    state = MasterState(tables)
    state.apply(record(create("/f")))
    state.save()
    check_invariants(tables)
    [(key, row)] = tables.scan(Table.DENTRIES)
    tables.put(Table.DENTRIES, key[:8] + b"g", row)
    tables.delete(Table.DENTRIES, key)
    with pytest.raises(CorruptState, match="digest"):
        check_invariants(tables)


def test_counters_are_part_of_what_masters_compare() -> None:
    tables = MemoryTables()
    state = MasterState(tables)
    before = state.digest()
    state.apply(record(create("/f")))
    state.apply(record(delete("/f")))
    state.save()
    assert state_digest(tables) == state.digest() != before


def test_a_state_goes_on_from_its_tables() -> None:
    tables, whole = MemoryTables(), MemoryTables()
    state, other = MasterState(tables), MasterState(whole)
    for number in range(30):
        step = record(mkdir(f"/d{number}"), sequence=number)
        state.apply(step)
        other.apply(step)
        if number % 4 == 0:
            state.save()
            state = MasterState(tables)
    assert state.digest() == other.digest()


def test_tables_of_another_format_are_not_touched() -> None:
    tables = MemoryTables()
    MasterState(tables)
    tables.put(Table.META, FORMAT_KEY, (STATE_FORMAT + 1).to_bytes(2, "big"))
    with pytest.raises(UnsupportedVersion):
        MasterState(tables)


def test_tables_without_counters_or_format_are_refused() -> None:
    tables = MemoryTables()
    MasterState(tables)
    tables.delete(Table.META, COUNTERS_KEY)
    with pytest.raises(CorruptState):
        MasterState(tables)
    tables.delete(Table.META, FORMAT_KEY)
    with pytest.raises(CorruptState):
        MasterState(tables)


def test_check_digest_passes_equal_masters_and_stops_the_one_astray() -> None:
    leader, good, astray = (MasterState(MemoryTables()) for _ in range(3))
    for state in (leader, good, astray):
        state.apply(record(op.CheckDigest(index=0, digest="")), index=LogIndex(5))
    astray.apply(record(mkdir("/lost on the others")))

    def check(index: int) -> list[op.AnyOutcome]:
        noted_at, digest = leader.digest_mark()
        step = record(op.CheckDigest(index=noted_at, digest=digest))
        between = record(mkdir("/between"))  # applied after the leader stamped, before the check
        for state in (leader, good, astray):
            state.apply(between)
        return [state.apply(step, index=LogIndex(index)) for state in (leader, good, astray)]

    assert [type(outcome) for outcome in check(9)] == [op.Done, op.Done, op.Done], "index 5 was equal"
    second = check(12)
    assert [type(outcome) for outcome in second] == [op.Done, op.Done, op.Refused]
    assert isinstance(second[2], op.Refused)
    assert second[2].code == "corrupt_state"


def test_a_check_of_another_index_than_noted_compares_nothing() -> None:
    state = MasterState(MemoryTables())
    state.apply(record(op.CheckDigest(index=0, digest="")), index=LogIndex(5))
    assert state.apply(record(op.CheckDigest(index=4, digest="x")), index=LogIndex(6)) == op.Done()


def test_the_noted_digest_survives_a_restart() -> None:
    tables = MemoryTables()
    state = MasterState(tables)
    state.apply(record(op.CheckDigest(index=0, digest="")), index=LogIndex(5))
    state.save()
    assert MasterState(tables).digest_mark() == state.digest_mark()
    assert state.digest_mark()[0] == 5
