"""Owner, group and mode decide what a caller may do; the superuser, who is no caller to check, may do all."""

from __future__ import annotations

import pytest

from gfs.errors import PermissionDenied
from gfs.master.core.access import READ, SEARCH, WRITE, Access
from gfs.master.core.glob import glob_page
from gfs.master.core.invariants import check_invariants
from gfs.master.core.lookup import names_of, stat
from gfs.master.core.records import InodeRecord
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables, Table
from gfs.messages import operations as op
from gfs.messages.base import Identity
from gfs.vocabulary import ClientId, InodeId
from tests.core.master_records import NOW_MS, add_chunk, create, delete, hint, mkdir, rename

ANN, BEN, CYD, NOBODY = Identity("ann", ("crawl",)), Identity("ben", ("crawl",)), Identity("cyd"), Identity()


class Master:
    """/ann belongs to ann:crawl with mode 0750 and holds /ann/f, 0640; everything else is the superuser's."""

    def __init__(self) -> None:
        self.tables = MemoryTables()
        self.state = MasterState(self.tables)
        self.sequence = 0
        self(None, op.MakeDirectory(path="/ann", owner="ann", group="crawl", mode=0o750))
        made = op.CreateFile(path="/ann/f", replication_goal=3, owner="ann", group="crawl", mode=0o640)
        self(ANN, made)

    def __call__(self, caller: Identity | None, operation: op.AnyOperation) -> None:
        outcome = self.apply(caller, operation)
        assert not isinstance(outcome, op.Refused), outcome
        self.state.save()
        check_invariants(self.tables)

    def apply(self, caller: Identity | None, operation: op.AnyOperation) -> op.AnyOutcome:
        self.sequence += 1
        request = op.RequestId(ClientId(7), self.sequence, 1)
        return self.state.apply(
            op.LogRecord(at_ms=NOW_MS, operation=operation, request=request, caller=caller)
        )

    def denied(self, caller: Identity, operation: op.AnyOperation) -> str:
        before = {table: list(self.tables.scan(table)) for table in Table if table is not Table.SESSIONS}
        outcome = self.apply(caller, operation)
        assert isinstance(outcome, op.Refused), outcome
        assert outcome.code == "permission_denied", outcome
        assert before == {table: list(self.tables.scan(table)) for table in before}
        return outcome.message

    def access(self, caller: Identity) -> Access:
        return Access(self.tables, caller)

    def inode(self, path: str) -> InodeId:
        return stat(self.tables, path).inode


@pytest.mark.parametrize(
    ("caller", "granted"), [(ANN, READ | WRITE), (BEN, READ), (CYD, 0), (NOBODY, 0)], ids=lambda v: str(v)
)
def test_the_first_class_that_fits_the_caller_decides(caller: Identity, granted: int) -> None:
    access = Master().access(caller)
    file = InodeRecord(is_directory=False, parent=1, created_ms=0, modified_ms=0, mode=0o640, ownership=1)
    assert [access.may(file, wanted) for wanted in (READ, WRITE)] == [
        bool(granted & READ),
        bool(granted & WRITE),
    ]


def test_an_owner_who_has_taken_rights_from_himself_does_not_get_the_groups() -> None:
    master = Master()
    file = InodeRecord(is_directory=False, parent=1, created_ms=0, modified_ms=0, mode=0o077, ownership=1)
    assert not master.access(ANN).may(file, READ)
    assert master.access(BEN).may(file, READ | WRITE | SEARCH)


def test_what_is_the_superusers_is_nobodys_own() -> None:
    file = InodeRecord(is_directory=False, parent=1, created_ms=0, modified_ms=0, mode=0o770)
    assert not Master().access(NOBODY).may(file, READ), "an empty name is not the superuser's"


def test_entries_come_and_go_only_where_the_directory_may_be_changed() -> None:
    master = Master()
    for operation in (
        create("/ann/g"),
        create("/ann/f", replace=True),
        mkdir("/ann/d"),
        mkdir("/ann/d/e", parents=True),
        delete("/ann/f"),
        rename("/ann/f", "/ann/g"),
    ):
        assert "ben may not change /ann" in master.denied(BEN, operation)
        assert "cyd may not " in master.denied(CYD, operation)
    said = master.denied(ANN, create("/top"))
    assert said == "ann may not change /, which belongs to the superuser with mode 755"
    master.denied(ANN, rename("/ann/f", "/f"))
    master(BEN, mkdir("/ann", parents=True))  # it is there: nothing is made
    master(ANN, create("/ann/g"))
    master(ANN, rename("/ann/g", "/ann/h"))
    master(ANN, delete("/ann/h"))
    master(None, create("/top"))


def test_a_tree_goes_only_by_whoever_may_empty_it() -> None:
    master = Master()
    master(None, op.MakeDirectory(path="/ann/others"))
    assert "/ann/others" in master.denied(ANN, delete("/ann/others", recursive=True))
    master(ANN, delete("/ann/others"))


def test_a_retry_of_what_was_allowed_is_answered_as_at_first() -> None:
    master = Master()
    request = op.RequestId(ClientId(9), 1, 0)
    first = op.LogRecord(at_ms=NOW_MS, operation=create("/ann/g"), request=request, caller=ANN)
    outcome = master.state.apply(first)
    assert isinstance(outcome, op.Done)
    master(None, op.ChangeMode(path="/ann", mode=0))
    assert master.state.apply(first) == outcome


def test_reading_and_listing_ask_for_every_directory_on_the_way() -> None:
    master = Master()
    master.access(BEN).require_path(names_of("/ann/f"), READ)
    master.access(BEN).require_inode(master.inode("/ann/f"), READ)
    with pytest.raises(PermissionDenied, match="cyd may not enter /ann"):
        master.access(CYD).require_path(names_of("/ann/f"))
    master(ANN, op.ChangeMode(path="/ann/f", mode=0o666))
    with pytest.raises(PermissionDenied, match="cyd may not enter /ann"):
        master.access(CYD).require_inode(master.inode("/ann/f"), READ)
    master(ANN, op.ChangeMode(path="/ann", mode=0o711))
    master.access(CYD).require_inode(master.inode("/ann/f"), WRITE)
    master.access(CYD).require_path(names_of("/ann/f"), READ)
    with pytest.raises(PermissionDenied, match="cyd may not list /ann"):
        master.access(CYD).require_path(names_of("/ann"), READ | SEARCH)
    master.access(CYD).require_path(names_of("/ann/not/there"), READ)  # whoever reads finds that out


def test_what_was_deleted_keeps_its_mode() -> None:
    master = Master()
    file = master.inode("/ann/f")
    master(ANN, delete("/ann/f"))
    master.access(BEN).require_inode(file, READ)
    with pytest.raises(PermissionDenied):
        master.access(CYD).require_inode(file, READ)
    back = op.Undelete(entry=op.TrashName(NOW_MS + 1000, file), path="/ann/f")
    master.denied(BEN, back)
    master.denied(BEN, op.PurgeTrash(entries=(back.entry,)))
    master(ANN, back)


def test_a_glob_does_not_look_where_the_caller_may_not() -> None:
    master = Master()

    def seen(caller: Identity, pattern: str) -> list[str]:
        return [entry.path for entry in glob_page(master.tables, pattern, access=master.access(caller))[0]]

    assert seen(BEN, "/**") == ["/", "/ann", "/ann/f"]
    assert seen(CYD, "/**") == ["/", "/ann"]
    assert seen(CYD, "/ann/f") == []
    master(ANN, op.ChangeMode(path="/ann", mode=0o711))
    assert seen(CYD, "/ann/*") == []
    assert seen(CYD, "/ann/f") == ["/ann/f"]


def test_writing_a_file_needs_its_write_bit() -> None:
    master = Master()
    file = master.inode("/ann/f")
    master(None, add_chunk(file, 0))
    master.denied(BEN, hint(file, 1))
    master(ANN, hint(file, 1))


def test_only_the_owner_changes_mode_and_policy_and_only_the_superuser_owner_and_quota() -> None:
    master = Master()
    master.denied(BEN, op.ChangeMode(path="/ann/f", mode=0o777))
    master.denied(BEN, op.SetPolicy(path="/ann", replicas=1))
    master(ANN, op.SetPolicy(path="/ann", replicas=1))
    for quota in (op.SetPolicy(path="/ann", files_max=9), op.SetPolicy(path="/ann", unset=("bytes_max",))):
        assert "quota" in master.denied(ANN, quota)
        master(None, quota)
    master.denied(ANN, op.ChangeOwner(path="/ann/f", owner="ben", keep_group=True))
    master.denied(ANN, op.ChangeOwner(path="/ann/f", group="wheel", keep_owner=True))
    master(None, op.ChangeOwner(path="/ann/f", owner="ben", group="", keep_group=True))
    assert (stat(master.tables, "/ann/f").owner, stat(master.tables, "/ann/f").group) == ("ben", "crawl")
    master(BEN, op.ChangeMode(path="/ann/f", mode=0o400))
    assert stat(master.tables, "/ann/f").mode == 0o400


def test_an_operation_that_is_the_clusters_own_is_not_for_callers() -> None:
    master = Master()
    assert "superuser" in master.denied(ANN, op.ForgetSessions(idle_since_ms=0, limit=1))
    assert "superuser" in master.denied(ANN, op.CheckDigest(index=0, digest=""))


def test_a_snapshot_needs_reading_there_and_changing_here() -> None:
    master = Master()
    master(None, op.MakeDirectory(path="/ben", owner="ben", mode=0o700))
    master.denied(CYD, op.BeginSnapshot(source="/ann/f", target="/ben/copy"))
    master.denied(BEN, op.BeginSnapshot(source="/ann/f", target="/ann/copy"))
    master(BEN, op.BeginSnapshot(source="/ann/f", target="/ben/copy"))


def test_what_was_deleted_is_looked_into_had_back_and_purged_by_its_owner_only() -> None:
    master = Master()
    inode = stat(master.tables, "/ann/f").inode
    master(ANN, delete("/ann/f"))
    hidden = names_of(f"/.trash/{inode}")
    entry = op.TrashName(NOW_MS + 1000, inode)
    for caller in (BEN, CYD, NOBODY):  # ben's group might read it, but not what is in the trash
        access = Access(master.tables, caller)
        with pytest.raises(PermissionDenied, match="may not look into"):
            access.require_path(hidden, READ)
        assert not access.owns(inode)
        assert "may not undelete" in master.denied(caller, op.Undelete(entry=entry, path="/f"))
        assert "may not purge" in master.denied(caller, op.PurgeTrash(entries=(entry,)))
    access = Access(master.tables, ANN)
    access.require_path(hidden, READ)
    access.require_path(names_of("/.trash/4711"), READ)  # whoever asks finds out that it is not there
    assert access.owns(inode)
    master(ANN, op.Undelete(entry=entry, path="/ann/gone/f", owner="ann", group="crawl"))
    assert stat(master.tables, "/ann/gone/f").inode == inode
    assert stat(master.tables, "/ann/gone").owner == "ann"  # made for it


def test_a_policy_is_not_set_on_what_was_deleted() -> None:
    master = Master()
    inode = stat(master.tables, "/ann").inode
    master(None, delete("/ann", recursive=True))
    outcome = master.apply(None, op.SetPolicy(path=f"/.trash/{inode}", replicas=2))
    assert isinstance(outcome, op.Refused) and outcome.code == "invalid_argument"
    for operation in (
        op.BeginSnapshot(source=f"/.trash/{inode}", target="/copy"),
        op.BeginSnapshot(source="/", target=f"/.trash/{inode}/copy"),
    ):
        outcome = master.apply(None, operation)
        assert isinstance(outcome, op.Refused) and outcome.code == "invalid_argument"
