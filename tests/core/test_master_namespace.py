"""Directories, files, rename and the trash, as MasterState.apply treats them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gfs.errors import NotADirectory, NotFound
from gfs.master.core.invariants import check_invariants
from gfs.master.core.lookup import chunk_of, read_counters, stat
from gfs.master.core.namespace import TRASH_MS_DEFAULT
from gfs.master.core.records import read_trash_key, read_trash_value
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables, Table
from gfs.messages import operations as op
from gfs.vocabulary import ROOT_INODE
from tests.core.master_records import NOW_MS, A, add_chunk, create, delete, grant, hint, mkdir, record, rename
from tests.paper.boxes import keeps


class Master:
    def __init__(self) -> None:
        self.tables = MemoryTables()
        self.state = MasterState(self.tables)

    def __call__(self, operation: op.AnyOperation) -> op.AnyOutcome:
        outcome = self.state.apply(record(operation))
        self.state.save()
        check_invariants(self.tables)
        return outcome

    def inode(self, operation: op.AnyOperation) -> int:
        outcome = self(operation)
        assert isinstance(outcome, op.Done), outcome
        return outcome.inode

    def refused(self, operation: op.AnyOperation) -> str:
        before = {table: list(self.tables.scan(table)) for table in Table}
        outcome = self(operation)
        assert isinstance(outcome, op.Refused), outcome
        assert before == {table: list(self.tables.scan(table)) for table in Table}, "refused means unchanged"
        return outcome.code


@pytest.fixture
def master() -> Master:
    return Master()


def test_a_new_cluster_has_a_root_and_nothing_else(master: Master) -> None:
    assert stat(master.tables, "/").inode == ROOT_INODE
    assert stat(master.tables, "/").kind == "directory"
    assert read_counters(master.tables).directories == 1


def test_a_created_file_is_empty_and_has_the_leaders_time(master: Master) -> None:
    master(mkdir("/d"))
    inode = master.inode(create("/d/f", goal=2))
    entry = stat(master.tables, "//d/f/")
    assert (entry.path, entry.inode, entry.kind) == ("/d/f", inode, "file")
    assert (entry.created_ms, entry.modified_ms) == (NOW_MS, NOW_MS)
    assert (entry.length_bytes, entry.chunk_count, entry.replication_goal) == (0, 0, 2)


def test_what_is_not_there_or_not_a_directory_is_named_in_the_error(master: Master) -> None:
    master(create("/f"))
    with pytest.raises(NotFound, match="/x does not exist"):
        stat(master.tables, "/x/y")
    with pytest.raises(NotADirectory, match="/f is a file"):
        stat(master.tables, "/f/y")
    assert master.refused(create("/x/y")) == "not_found"
    assert master.refused(create("/f/y")) == "not_a_directory"


def test_mkdir_makes_missing_ancestors_only_when_asked(master: Master) -> None:
    assert master.refused(mkdir("/a/b/c")) == "not_found"
    inode = master.inode(mkdir("/a/b/c", parents=True))
    assert stat(master.tables, "/a/b/c").inode == inode
    assert master.inode(mkdir("/a/b/c", parents=True)) == inode
    assert master.refused(mkdir("/a/b/c")) == "already_exists"
    assert master.inode(mkdir("/", parents=True)) == ROOT_INODE
    assert master.refused(mkdir("/")) == "already_exists"


def test_mkdir_over_or_through_a_file_is_refused(master: Master) -> None:
    master(create("/f"))
    assert master.refused(mkdir("/f", parents=True)) == "already_exists"
    assert master.refused(mkdir("/f/d", parents=True)) == "not_a_directory"


def test_creating_over_a_file_needs_replace_and_keeps_the_old_one_in_the_trash(master: Master) -> None:
    old = master.inode(create("/f"))
    master(add_chunk(old, 0))
    assert master.refused(create("/f")) == "already_exists"
    new = master.inode(create("/f", replace=True))
    assert stat(master.tables, "/f").inode == new != old
    [(key, row)] = master.tables.scan(Table.TRASH)
    assert read_trash_key(key) == (NOW_MS + TRASH_MS_DEFAULT, old)
    assert read_trash_value(row) == (b"/f", NOW_MS)
    assert chunk_of(master.tables, old, 0) is not None, "its chunks are kept with it"


def test_creating_over_a_directory_is_refused_always(master: Master) -> None:
    master(mkdir("/d"))
    assert master.refused(create("/d", replace=True)) == "is_a_directory"
    assert master.refused(create("/d")) == "is_a_directory"
    assert master.refused(create("/", replace=True)) == "is_a_directory"


def test_a_replication_goal_out_of_range_is_refused(master: Master) -> None:
    assert master.refused(create("/f", goal=0)) == "invalid_argument"
    assert master.refused(create("/f", goal=17)) == "invalid_argument"


def test_deleting_moves_to_the_trash_until_the_time_given(master: Master) -> None:
    inode = master.inode(create("/f"))
    assert master.inode(delete("/f", expires_at_ms=4711)) == inode
    [(key, row)] = master.tables.scan(Table.TRASH)
    assert (read_trash_key(key), read_trash_value(row)) == ((4711, inode), (b"/f", NOW_MS))
    assert master.refused(delete("/f")) == "not_found"
    assert read_counters(master.tables).trash == 1


def test_a_directory_with_entries_is_deleted_only_when_asked(master: Master) -> None:
    master(mkdir("/d/e", parents=True))
    assert master.refused(delete("/d")) == "directory_not_empty"
    master(delete("/d", recursive=True))
    with pytest.raises(NotFound):
        stat(master.tables, "/d/e")


def test_the_root_is_neither_deleted_nor_renamed(master: Master) -> None:
    master(mkdir("/d"))
    assert master.refused(delete("/", recursive=True)) == "invalid_argument"
    assert master.refused(rename("/", "/x")) == "invalid_argument"
    assert master.refused(rename("/d", "/")) == "invalid_argument"


@pytest.mark.parametrize(
    "mutate",
    [
        lambda inode: add_chunk(inode, 1),
        lambda inode: add_chunk(inode, 0),
        lambda inode: grant(inode, 0, 1, 1, A),
        lambda inode: hint(inode, 1),
    ],
)
def test_a_file_in_a_deleted_tree_is_not_changed_any_more(
    master: Master, mutate: Callable[[int], op.AnyOperation]
) -> None:
    master(mkdir("/d/e", parents=True))
    inode = master.inode(create("/d/e/f"))
    master(add_chunk(inode, 0))
    master(delete("/d", recursive=True))
    assert master.refused(mutate(inode)) == "not_found"


@keeps("namespace-table")
def test_renaming_a_tree_writes_as_many_rows_as_renaming_a_file(master: Master) -> None:
    master(mkdir("/a/b", parents=True))
    master(mkdir("/c"))
    inodes = [master.inode(create(f"/a/b/f{number}")) for number in range(50)]
    before = {table: dict(master.tables.scan(table)) for table in Table}
    master(rename("/a/b", "/c/d"))
    changed = sum(
        before[table].get(key) != row
        for table in Table
        if table is not Table.META
        for key, row in master.tables.scan(table)
    )
    assert changed == 3, "the new entry, the parent in the directory's inode, and the sum below /c"
    assert [stat(master.tables, f"/c/d/f{number}").inode for number in range(50)] == inodes
    with pytest.raises(NotFound):
        stat(master.tables, "/a/b")


def test_a_directory_is_not_moved_into_itself(master: Master) -> None:
    master(mkdir("/a/b", parents=True))
    assert master.refused(rename("/a", "/a/b/c")) == "invalid_argument"
    assert master.refused(rename("/a", "/a/c")) == "invalid_argument"
    inode = master.inode(rename("/a", "/ab"))
    assert stat(master.tables, "/ab").inode == inode


def test_renaming_to_the_same_path_changes_nothing(master: Master) -> None:
    inode = master.inode(create("/f"))
    assert master.inode(rename("/f", "//f/")) == inode


def test_renaming_over_something_needs_replace_and_two_files(master: Master) -> None:
    master(mkdir("/d"))
    file, target = master.inode(create("/f")), master.inode(create("/g"))
    assert master.refused(rename("/f", "/g")) == "already_exists"
    assert master.refused(rename("/f", "/d", replace=True)) == "already_exists"
    assert master.refused(rename("/d", "/g", replace=True)) == "not_a_directory"
    assert master.inode(rename("/f", "/g", replace=True)) == file
    assert stat(master.tables, "/g").inode == file
    [(key, row)] = master.tables.scan(Table.TRASH)
    assert (read_trash_key(key)[1], read_trash_value(row)) == (target, (b"/g", NOW_MS))


def test_a_renamed_file_keeps_its_inode_for_those_who_have_it_open(master: Master) -> None:
    master(mkdir("/d"))
    inode = master.inode(create("/f"))
    master(rename("/f", "/d/g"))
    outcome = master(add_chunk(inode, 0))
    assert isinstance(outcome, op.ChunkGranted)
    assert stat(master.tables, "/d/g").chunk_count == 1
