"""What the fingerprints of a tree let pass is sound: they see all that the rules of entries see."""

from __future__ import annotations

import random

import pytest

from gfs.master.core.entry_rules import check_entries, name_holders
from gfs.master.core.invariants import find_faults
from gfs.master.core.soundness import MemorySorter, OneByOne
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables, Table
from gfs.messages import operations as op
from tests.core.master_records import add_chunk, create, delete, hint, mkdir, record, rename

TREE = (Table.DENTRIES, Table.INODES, Table.USAGE, Table.TRASH)


def tree(chance: random.Random, files: int) -> MemoryTables:
    """Directories in directories; files of one chunk, of none and of several; some deleted, some moved."""
    tables = MemoryTables()
    state = MasterState(tables)

    def do(operation: op.AnyOperation) -> int:
        outcome = state.apply(record(operation))
        assert not isinstance(outcome, op.Refused), outcome
        return outcome.inode if isinstance(outcome, op.Done) else 0

    directories = ["", "/a", "/a/b", "/c", "/c/d", "/c/d/e"]
    for path in directories[1:]:
        do(mkdir(path))
    for number in range(files):
        inode = do(create(f"{chance.choice(directories)}/f{number}"))
        for index in range(chance.choice((0, 1, 1, 1, 1, 3))):
            do(add_chunk(inode, index))
            do(hint(inode, chance.randrange(1000), closed=chance.random() < 0.8))
    do(delete("/c/d", recursive=True))
    do(rename("/a/b", "/moved"))
    state.save()
    return tables


def copy_of(tables: MemoryTables) -> MemoryTables:
    copy = MemoryTables()
    for table in Table:
        for key, value in tables.scan(table):
            copy.put(table, key, value)
    return copy


def damage(tables: MemoryTables, chance: random.Random) -> str:
    table = chance.choice(TREE)
    rows = list(tables.scan(table))
    (key, value), (other, its) = chance.choices(rows, k=2)
    kind = chance.choice(("flip", "flip", "lose", "swap", "again", "cut"))
    if kind == "flip" and value:
        at, bit = chance.randrange(len(value)), 1 << chance.randrange(8)
        tables.put(table, key, value[:at] + bytes([value[at] ^ bit]) + value[at + 1 :])
    elif kind == "lose":
        tables.delete(table, key)
    elif kind == "swap":
        tables.put(table, key, its)
        tables.put(table, other, value)
    elif kind == "again":
        tables.put(table, key[:8] + b"twice", value)
    else:
        tables.put(table, key, value[:-1])
    return f"{kind} in {table.name} at {key!r}"


def faults_of_entries(tables: MemoryTables) -> list[str]:
    told: list[str] = []
    check_entries(OneByOne(tables), lambda *fault: told.append(fault[3]))
    name_holders(OneByOne(tables), lambda *fault: told.append(fault[3]), MemorySorter)
    return told


def faults(tables: MemoryTables) -> list[str]:
    told: list[str] = []
    find_faults(OneByOne(tables), lambda *fault: told.append(fault[3]))
    return told


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_of_the_tree_passes_that_the_rules_row_by_row_would_have_found(seed: int) -> None:
    chance = random.Random(seed)
    whole = tree(chance, 60)
    found = 0
    for _ in range(150):
        tables = copy_of(whole)
        planted = damage(tables, chance)
        slow, fast = faults_of_entries(tables), faults(tables)
        found += bool(slow)
        assert set(slow) <= set(fast), (seed, planted)
    assert found > 75  # what is flipped may be a time or a mode, of which no rule says anything


@pytest.mark.parametrize("files", [0, 1, 300])
def test_what_is_whole_is_not_looked_at_again(files: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the rules were asked although nothing is wrong")

    monkeypatch.setattr("gfs.master.core.invariants.check_entries", refuse)
    find_faults(OneByOne(tree(random.Random(files), files)), lambda *fault: pytest.fail(str(fault)))
