"""Owners, groups and modes of inodes: stored in three bytes, kept over every change of the row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfs.master.core import owners
from gfs.master.core.invariants import check_invariants
from gfs.master.core.lookup import stat
from gfs.master.core.records import OWNERSHIP_MAX, InodeRecord, decode_inode, encode_inode
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables
from gfs.messages import operations as op
from tests.core.master_records import add_chunk, create, hint, mkdir, record, rename

IDS = st.integers(0, 2**47 - 1)


def owned(path: str, owner: str, group: str, mode: int = -1) -> op.CreateFile:
    return op.CreateFile(path=path, replication_goal=3, owner=owner, group=group, mode=mode)


@given(ownership=st.integers(0, OWNERSHIP_MAX), mode=st.integers(0, 0o777), parent=IDS, first=IDS)
def test_an_inode_row_says_what_was_written(ownership: int, mode: int, parent: int, first: int) -> None:
    inode = InodeRecord(
        is_directory=False,
        parent=parent,
        created_ms=2**48 - 1,
        modified_ms=1,
        length_bytes=2**48 - 1,
        chunk_count=2**22 - 1,
        first_chunk=first,
        mode=mode,
        ownership=ownership,
    )
    row = encode_inode(inode)
    assert decode_inode(row) == inode
    assert len(row) == 39, "122 bytes a file leave little room under 130"


def test_owner_group_and_mode_outlive_writes_and_renames() -> None:
    tables = MemoryTables()
    state = MasterState(tables)
    made = state.apply(record(owned("/f", "ann", "crawl", 0o600)))
    assert isinstance(made, op.Done)
    for operation in (add_chunk(made.inode, 0), hint(made.inode, 5, closed=True), rename("/f", "/g")):
        assert not isinstance(state.apply(record(operation)), op.Refused)
    entry = stat(tables, "/g")
    assert (entry.owner, entry.group, entry.mode) == ("ann", "crawl", 0o600)
    state.save()
    check_invariants(tables)


def test_what_nobody_is_named_for_is_the_superusers() -> None:
    tables = MemoryTables()
    state = MasterState(tables)
    state.apply(record(mkdir("/d")))
    state.apply(record(create("/d/f")))
    assert [(e.owner, e.group, e.mode) for e in (stat(tables, "/d"), stat(tables, "/d/f"))] == [
        ("", "", 0o755),
        ("", "", 0o644),
    ]


def test_a_pair_of_owner_and_group_has_one_number_also_after_a_restart() -> None:
    tables = MemoryTables()
    state = MasterState(tables)
    state.apply(record(owned("/a", "ann", "crawl")))
    state.save()
    again = MasterState(tables)
    again.apply(record(owned("/b", "ann", "crawl")))
    again.apply(record(owned("/c", "ann", "")))
    assert again.counters.ownerships == 2
    assert [stat(tables, path).group for path in ("/a", "/b", "/c")] == ["crawl", "crawl", ""]
    again.save()
    check_invariants(tables)


@pytest.mark.parametrize("name", ["a:b", "a b", "a\n", "x" * 65, "\ud800", "\x00"])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    state = MasterState(MemoryTables())
    for operation in (owned("/f", name, ""), op.MakeDirectory(path="/d", group=name)):
        refused = state.apply(record(operation))
        assert isinstance(refused, op.Refused)
        assert refused.code == "invalid_argument"


def test_more_owners_than_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "OWNERSHIP_MAX", 2)
    state = MasterState(MemoryTables())
    outcomes = [state.apply(record(owned(f"/{owner}", owner, ""))) for owner in ("a", "b", "c")]
    assert isinstance(outcomes[2], op.Refused)
    assert outcomes[2].code == "no_space"
    assert isinstance(state.apply(record(owned("/d", "a", ""))), op.Done)
