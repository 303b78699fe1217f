"""Quotas: nothing is added beyond one, whichever way it would come; what is there stays."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gfs.errors import GfsError
from gfs.master.core.invariants import check_invariants
from gfs.master.core.lookup import find, list_page, names_of, stat
from gfs.master.core.policies import policy_of
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables
from gfs.master.core.usage import usage_of
from gfs.messages import operations as op
from gfs.messages.namespace import Entry
from gfs.vocabulary import CHUNK_BYTES, ChunkIndex, InodeId, ServerId
from tests.core.master_records import NOW_MS, add_chunk, create, delete, hint, mkdir, record, rename


class Master:
    def __init__(self) -> None:
        self.tables = MemoryTables()
        self.state = MasterState(self.tables)
        self("done", mkdir("/q/sub", parents=True))
        self("done", mkdir("/other"))

    def __call__(self, expected: str, operation: op.AnyOperation) -> str:
        outcome = self.state.apply(record(operation))
        self.state.save()
        check_invariants(self.tables)
        found = outcome.code if isinstance(outcome, op.Refused) else "done"
        assert found == expected, outcome
        return outcome.message if isinstance(outcome, op.Refused) else ""

    def inode(self, path: str) -> InodeId:
        return stat(self.tables, path).inode


def test_files_and_directories_count_and_the_refusal_says_where_and_how_many() -> None:
    master = Master()
    master("done", op.SetPolicy(path="/q", files_max=3))
    master("done", create("/q/sub/a"))
    master("done", create("/q/b"))
    said = master("quota_exceeded", create("/q/sub/c"))
    assert "/q " in said and "3 files and directories" in said
    master("quota_exceeded", mkdir("/q/d"))
    master("quota_exceeded", mkdir("/q/d/e/f", parents=True))
    master("done", create("/q/b", replace=True))
    master("done", create("/other/x"))
    master("quota_exceeded", rename("/other/x", "/q/x"))
    master("done", rename("/other/x", "/q/b", replace=True))
    master("done", rename("/q/b", "/q/sub/b"))
    master("done", delete("/q/sub/b"))
    master("done", create("/q/again"))


def test_a_whole_tree_is_moved_in_or_refused_at_once() -> None:
    master = Master()
    master("done", op.SetPolicy(path="/q", files_max=4))
    master("done", mkdir("/other/t"))
    for number in range(3):
        master("done", create(f"/other/t/{number}"))
    master("quota_exceeded", rename("/other/t", "/q/t"))
    master("done", delete("/other/t/2"))
    master("done", rename("/other/t", "/q/t"))
    master("quota_exceeded", create("/q/one-more"))


def test_a_chunk_is_refused_once_no_byte_is_left() -> None:
    master = Master()
    master("done", op.SetPolicy(path="/q", bytes_max=CHUNK_BYTES + 100))
    master("done", create("/q/f"))
    file = master.inode("/q/f")
    master("done", add_chunk(file, 0))
    master("done", add_chunk(file, 1))
    said = master("quota_exceeded", add_chunk(file, 2))
    assert "/q " in said
    master("done", add_chunk(file, 1))  # a repeat: it exists already
    master("done", hint(file, CHUNK_BYTES + 7, closed=True))
    assert usage_of(master.tables, master.inode("/q")).content_bytes == CHUNK_BYTES + 7
    master("done", create("/q/g"))
    master("done", add_chunk(master.inode("/q/g"), 0))
    master("done", hint(master.inode("/q/g"), 93, closed=True))
    master("done", create("/q/h"))
    master("quota_exceeded", add_chunk(master.inode("/q/h"), 0))


def test_every_quota_above_is_asked() -> None:
    master = Master()
    master("done", op.SetPolicy(path="/", files_max=4))
    master("done", op.SetPolicy(path="/q", files_max=100))
    master("done", create("/q/a"))
    said = master("quota_exceeded", create("/q/b"))
    assert "the quota of / " in said


def test_a_quota_below_what_is_there_takes_nothing_away() -> None:
    master = Master()
    master("done", create("/q/a"))
    master("done", op.SetPolicy(path="/q", files_max=0))
    master("quota_exceeded", create("/q/b"))
    master("done", delete("/q/a"))
    master("done", op.SetPolicy(path="/q", unset=("files_max",)))
    master("done", create("/q/b"))


def test_what_returns_from_the_trash_needs_room_also_for_the_parents_that_are_made_anew() -> None:
    master = Master()
    master("done", op.SetPolicy(path="/q", files_max=3))
    master("done", create("/q/sub/f"))
    tree, when = master.inode("/q/sub"), NOW_MS + 1000
    master("done", delete("/q/sub", recursive=True, expires_at_ms=when))
    master("done", create("/q/a"))
    back = op.Undelete(entry=op.TrashName(when, tree), path="/q/new/sub")
    assert "/q " in master("quota_exceeded", back)
    assert "new" not in [entry.path for entry in list_page(master.tables, "/q")[0]]
    master("done", op.Undelete(entry=op.TrashName(when, tree), path="/q/sub"))
    assert usage_of(master.tables, master.inode("/q")).entries == 3


def test_a_snapshot_is_refused_before_it_begins_when_it_would_have_no_room() -> None:
    master = Master()
    for number in range(3):
        master("done", create(f"/other/{number}"))
    master("done", op.SetPolicy(path="/q", files_max=4))
    master("quota_exceeded", op.BeginSnapshot(source="/other", target="/q/copy"))
    master("done", op.SetPolicy(path="/q", files_max=5))
    master("done", op.BeginSnapshot(source="/other", target="/q/copy"))


def test_quotas_are_known_after_a_restart() -> None:
    master = Master()
    master("done", op.SetPolicy(path="/q", files_max=1))
    master.state = MasterState(master.tables)
    master("quota_exceeded", create("/q/b"))


PLACES = [f"/{a}" for a in "xy"] + [f"/{a}/{b}" for a in "xy" for b in "xy"]
PATHS = PLACES + [f"{place}/{name}" for place in PLACES for name in "fg"]
LIMITS = st.sampled_from([-1, 0, 1, 2, 3, 5])


class QuotasAgainstRecounting(RuleBasedStateMachine):
    """Whatever is done, sums equal a recount, and no addition ends above a quota that was kept before it."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = MemoryTables()
        self.state = MasterState(self.tables)
        self.limits: dict[int, tuple[int, int]] = {}
        self.log: list[op.LogRecord] = []
        for place in PLACES:
            self.run(mkdir(place, parents=True))

    def run(self, operation: op.AnyOperation) -> op.AnyOutcome:
        self.log.append(record(operation))
        return self.state.apply(self.log[-1])

    def room(self, path: str) -> bool:
        """Whether every directory above `path` may get one more entry, by a count of its own."""
        self.state.save()
        names = names_of(path)
        for depth in range(len(names)):
            directory, _ = find(self.tables, names[:depth])
            entries_max = self.limits.get(directory, (-1, -1))[0]
            if 0 <= entries_max < usage_of(self.tables, directory).entries + 1:
                return False
        return True

    def exists(self, path: str) -> bool:
        return not isinstance(self.entry(path), str)

    def entry(self, path: str) -> Entry | str:
        try:
            return stat(self.tables, path)
        except GfsError as error:
            return error.code

    @rule(path=st.sampled_from(PLACES), entries_max=LIMITS, bytes_max=LIMITS)
    def set_quota(self, path: str, entries_max: int, bytes_max: int) -> None:
        if bytes_max > 0:
            bytes_max *= CHUNK_BYTES // 2
        unset = tuple(
            name for name, value in (("files_max", entries_max), ("bytes_max", bytes_max)) if value < 0
        )
        outcome = self.run(op.SetPolicy(path=path, files_max=entries_max, bytes_max=bytes_max, unset=unset))
        if isinstance(outcome, op.Done):
            self.limits[outcome.inode] = entries_max, bytes_max

    @rule(path=st.sampled_from(PATHS))
    def create(self, path: str) -> None:
        existed = self.exists(path)
        parent = self.entry(path.rpartition("/")[0] or "/")
        fits = not isinstance(parent, str) and self.room(path)
        outcome = self.run(create(path))
        if not existed and not isinstance(parent, str) and parent.kind == "directory":
            assert isinstance(outcome, op.Done) == fits, outcome

    @rule(path=st.sampled_from(PATHS), length=st.sampled_from([0, 1, CHUNK_BYTES // 2, CHUNK_BYTES]))
    def grow(self, path: str, length: int) -> None:
        entry = self.entry(path)
        if isinstance(entry, str) or entry.kind == "directory":
            return
        inode, index = entry.inode, entry.chunk_count
        outcome = self.run(
            op.AddChunk(
                inode=inode, index=ChunkIndex(index), replicas=(ServerId("s"),), primary=ServerId("s")
            )
        )
        if isinstance(outcome, op.ChunkGranted):
            self.run(hint(inode, index * CHUNK_BYTES + length, closed=True))
        else:
            assert isinstance(outcome, op.Refused)
            assert outcome.code == "quota_exceeded"

    @rule(source=st.sampled_from(PATHS), destination=st.sampled_from(PATHS), replace=st.booleans())
    def move(self, source: str, destination: str, replace: bool) -> None:
        self.run(rename(source, destination, replace=replace))

    @rule(path=st.sampled_from(PATHS))
    def delete(self, path: str) -> None:
        self.run(delete(path, recursive=True))

    @rule(path=st.sampled_from(PLACES))
    def make_directory(self, path: str) -> None:
        self.run(mkdir(path, parents=True))

    @rule()
    def restart(self) -> None:
        self.state.save()
        self.state = MasterState(self.tables)

    @invariant()
    def sums_equal_a_recount(self) -> None:
        self.state.save()
        check_invariants(self.tables)
        for directory, (entries_max, bytes_max) in self.limits.items():
            own = policy_of(self.tables, directory)
            if own.files_max >= 0 or own.bytes_max >= 0:
                assert (own.files_max, own.bytes_max) == (entries_max, bytes_max)

    def teardown(self) -> None:
        twin_tables = MemoryTables()
        twin = MasterState(twin_tables)
        for done in self.log:
            twin.apply(done)
        assert twin.digest() == self.state.digest(), "sums do not depend on when they were saved"


TestQuotasAgainstRecounting = QuotasAgainstRecounting.TestCase
TestQuotasAgainstRecounting.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, derandomize=True
)
