"""Policies of directories: what is set where, what holds below, and what makes no sense."""

from __future__ import annotations

import pytest

from gfs.master.core.invariants import check_invariants
from gfs.master.core.lookup import names_of, stat
from gfs.master.core.policies import (
    UNSET,
    own_policy,
    policy_at,
    policy_of,
    replication_goal_of,
    set_at,
    trash_expiry,
)
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables, Table
from gfs.messages import operations as op
from gfs.vocabulary import ROOT_INODE, InodeId
from tests.core.master_records import create, delete, mkdir, record, rename


class Master:
    def __init__(self) -> None:
        self.tables = MemoryTables()
        self.state = MasterState(self.tables)
        self(mkdir("/a/b/c", parents=True))

    def __call__(self, operation: op.AnyOperation) -> None:
        outcome = self.state.apply(record(operation))
        assert not isinstance(outcome, op.Refused), outcome
        self.state.save()
        check_invariants(self.tables)

    def refused(self, operation: op.AnyOperation) -> op.Refused:
        before = {table: list(self.tables.scan(table)) for table in Table}
        outcome = self.state.apply(record(operation))
        assert isinstance(outcome, op.Refused), outcome
        assert before == {table: list(self.tables.scan(table)) for table in Table}
        return outcome

    def inode(self, path: str) -> InodeId:
        return stat(self.tables, path).inode


def test_each_field_comes_from_the_nearest_directory_that_sets_it() -> None:
    master = Master()
    master(op.SetPolicy(path="/", replicas=2, durability="sync"))
    master(op.SetPolicy(path="/a", trash_ms=5000, replicas=4))
    master(op.SetPolicy(path="/a/b/c", racks=2))
    master(create("/a/b/c/f"))
    found = policy_of(master.tables, master.inode("/a/b/c/f"))
    assert (found.replicas, found.racks, found.trash_ms, found.durability) == (4, 2, 5000, "sync")
    assert policy_at(master.tables, names_of("/a/b/c/not/yet")) == found
    assert set_at(master.tables, master.inode("/a/b/c")) == {
        "replicas": master.inode("/a"),
        "racks": master.inode("/a/b/c"),
        "trash_ms": master.inode("/a"),
        "durability": ROOT_INODE,
    }


def test_a_quota_is_not_inherited_as_a_number_of_each_directory_below() -> None:
    master = Master()
    master(op.SetPolicy(path="/a", files_max=9, bytes_max=10))
    assert policy_of(master.tables, master.inode("/a/b")) == UNSET


def test_what_is_unset_is_inherited_again_and_an_empty_policy_leaves_no_row() -> None:
    master = Master()
    master(op.SetPolicy(path="/a", replicas=5))
    master(op.SetPolicy(path="/a/b", replicas=2, racks=2))
    master(op.SetPolicy(path="/a/b", unset=("replicas",)))
    assert policy_of(master.tables, master.inode("/a/b/c")).replicas == 5
    master(op.SetPolicy(path="/a/b", unset=("racks", "durability")))
    assert own_policy(master.tables, master.inode("/a/b")) == UNSET
    assert len(list(master.tables.scan(Table.POLICIES))) == 1


def test_a_file_whose_creator_did_not_care_follows_the_policy_of_where_it_is() -> None:
    master = Master()
    master(op.CreateFile(path="/a/f", replication_goal=3, inherits_goal=True))
    master(create("/a/g", goal=3))
    goals = [replication_goal_of(master.tables, master.inode(path)) for path in ("/a/f", "/a/g")]
    assert goals == [3, 3], "no policy: as it was made"
    master(op.SetPolicy(path="/a/b", replicas=1))
    master(op.SetPolicy(path="/a", replicas=2))
    assert [stat(master.tables, path).replication_goal for path in ("/a/f", "/a/g")] == [2, 3]
    master(rename("/a/f", "/a/b/f"))
    assert replication_goal_of(master.tables, master.inode("/a/b/f")) == 1
    inode = master.inode("/a/b/f")
    master(delete("/a/b/f"))
    assert replication_goal_of(master.tables, inode) == 3, "nothing is above it in the trash"
    assert replication_goal_of(master.tables, InodeId(999)) == 0


def test_the_trash_keeps_what_the_nearest_policy_says() -> None:
    master = Master()

    def expiry(path: str) -> int:
        return trash_expiry(master.tables, names_of(path), at_ms=1000, default_ms=77)

    assert expiry("/a/b/f") == 1077
    master(op.SetPolicy(path="/a", trash_ms=0))
    master(op.SetPolicy(path="/a/b", trash_ms=500))
    assert (expiry("/a/f"), expiry("/a/b/f"), expiry("/a/b"), expiry("/x")) == (1000, 1500, 1500, 1077)


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        (op.SetPolicy(path="/a", replicas=0), "1..16"),
        (op.SetPolicy(path="/a", replicas=17), "1..16"),
        (op.SetPolicy(path="/a", racks=0), "1..16"),
        (op.SetPolicy(path="/a", racks=3, replicas=2), "2 replicas cannot be in 3 racks"),
        (op.SetPolicy(path="/a", trash_ms=-2), "trash_ms"),
        (op.SetPolicy(path="/a", trash_ms=2**60), "trash_ms"),
        (op.SetPolicy(path="/a", durability="maybe"), "flush, sync"),
        (op.SetPolicy(path="/a", files_max=-7), "files_max"),
        (op.SetPolicy(path="/a", bytes_max=2**63), "bytes_max"),
        (op.SetPolicy(path="/a", unset=("colour",)), "colour"),
        (op.SetPolicy(path="/a", replicas=2, unset=("replicas",)), "at once"),
    ],
)
def test_nonsense_is_refused_in_words(operation: op.SetPolicy, says: str) -> None:
    refused = Master().refused(operation)
    assert refused.code == "invalid_argument"
    assert says in refused.message


def test_only_directories_have_policies() -> None:
    master = Master()
    master(create("/f"))
    assert master.refused(op.SetPolicy(path="/f", replicas=2)).code == "not_a_directory"
    assert master.refused(op.SetPolicy(path="/none", replicas=2)).code == "not_found"


def test_more_racks_than_the_inherited_replicas_are_refused() -> None:
    master = Master()
    master(op.SetPolicy(path="/", replicas=2))
    assert "2 replicas" in master.refused(op.SetPolicy(path="/a", racks=3)).message
