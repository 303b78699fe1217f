"""What lies below a directory is counted exactly, whatever moves."""

from __future__ import annotations

import msgspec

from gfs.master.core.invariants import check_invariants
from gfs.master.core.lookup import stat
from gfs.master.core.records import TRASH_INODE, decode_inode, encode_inode, id_key
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables, Table
from gfs.master.core.usage import Sum, usage_of
from gfs.messages import operations as op
from gfs.vocabulary import CHUNK_BYTES
from tests.core.master_records import add_chunk, create, delete, hint, mkdir, record, rename


class Master:
    def __init__(self) -> None:
        self.tables = MemoryTables()
        self.state = MasterState(self.tables)

    def __call__(self, operation: op.AnyOperation) -> op.AnyOutcome:
        outcome = self.state.apply(record(operation))
        assert not isinstance(outcome, op.Refused), outcome
        return outcome

    def below(self, path: str) -> Sum:
        self.state.save()
        check_invariants(self.tables)
        return usage_of(self.tables, stat(self.tables, path).inode)

    def inode(self, path: str) -> int:
        return stat(self.tables, path).inode


def test_files_directories_and_bytes_count_at_every_level() -> None:
    master = Master()
    master(mkdir("/a/b", parents=True))
    for name in ("/a/b/f", "/a/g"):
        master(create(name))
        master(add_chunk(master.inode(name), 0))
    master(hint(master.inode("/a/g"), 100, closed=True))
    master(hint(master.inode("/a/b/f"), 7))
    assert master.below("/a/b") == Sum(1, 0, CHUNK_BYTES), "it is being written"
    assert master.below("/a") == Sum(2, 1, CHUNK_BYTES + 100)
    master(hint(master.inode("/a/b/f"), 7, closed=True))
    assert master.below("/a/b") == Sum(1, 0, 7)
    assert master.below("/") == Sum(2, 2, 107)


def test_chunks_count_in_full_before_the_length_is_known() -> None:
    master = Master()
    master(create("/f"))
    for index in range(3):
        master(add_chunk(master.inode("/f"), index))
    assert master.below("/").content_bytes == 3 * CHUNK_BYTES


def test_a_tree_takes_its_sum_along_into_the_trash_and_elsewhere() -> None:
    master = Master()
    master(mkdir("/a/t/u", parents=True))
    master(mkdir("/b"))
    for number in range(20):
        master(create(f"/a/t/u/f{number}"))
    master(rename("/a/t", "/b/t"))
    assert (master.below("/a"), master.below("/b")) == (Sum(), Sum(20, 2))
    tree = master.inode("/b/t")
    master(delete("/b/t", recursive=True))
    assert master.below("/") == Sum(0, 2)
    assert usage_of(master.tables, tree) == Sum(20, 1), "kept for whoever brings it back"


def test_a_move_within_one_batch_carries_only_what_was_there_before_it() -> None:
    master = Master()
    master(mkdir("/a"))
    master(mkdir("/b"))
    master(create("/a/early"))
    master(rename("/a", "/b/a"))
    master(create("/b/a/late"))
    master(rename("/b/a", "/c"))
    assert (master.below("/b"), master.below("/c"), master.below("/")) == (Sum(), Sum(2), Sum(2, 2))


def test_what_is_removed_for_good_leaves_nothing_behind() -> None:
    master = Master()
    master(mkdir("/a"))
    master(create("/a/f"))
    directory, file = master.inode("/a"), master.inode("/a/f")
    master(delete("/a", recursive=True))
    master.state.save()
    tables = master.state._tables
    for inode in (file, directory):
        row = master.tables.get(Table.INODES, id_key(inode))
        assert row is not None
        tables.remove(Table.INODES, id_key(inode), old=row)
    tables.save()
    assert usage_of(master.tables, directory) == Sum()
    assert list(master.tables.scan(Table.USAGE, id_key(directory))) == []


def test_what_returns_from_the_trash_counts_again() -> None:
    master = Master()
    master(mkdir("/a"))
    master(mkdir("/a/t"))
    master(create("/a/t/f"))
    home, tree = master.inode("/a"), master.inode("/a/t")
    master(delete("/a/t", recursive=True))
    assert master.below("/a") == Sum()
    row = master.tables.get(Table.INODES, id_key(tree))
    assert row is not None
    assert decode_inode(row).parent == TRASH_INODE
    back = encode_inode(msgspec.structs.replace(decode_inode(row), parent=home))
    master.state._tables.replace(Table.INODES, id_key(tree), old=row, new=back)
    master.state.save()
    assert usage_of(master.tables, home) == Sum(1, 1)
