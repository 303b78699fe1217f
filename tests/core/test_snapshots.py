"""Snapshots in the master's state: bounded steps, one point of the log, shared chunks and their copies."""

from __future__ import annotations

import time

import pytest

from gfs.master.core.chunk_copies import is_reserved
from gfs.master.core.glob import glob_page
from gfs.master.core.invariants import check_invariants
from gfs.master.core.lookup import chunk_of, inode_record, list_page, stat
from gfs.master.core.records import ChunkRecord
from gfs.master.core.snapshots import STEP_ROWS_MAX, jobs_under_way
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables, Table
from gfs.messages import operations as op
from gfs.vocabulary import ChunkHandle, ChunkIndex, ChunkVersion, ClientId, InodeId, ServerId

SERVERS = tuple(ServerId(f"cs{number}") for number in range(3))


class World:
    """A state and the records that brought it here."""

    def __init__(self) -> None:
        self.tables = MemoryTables()
        self.state = MasterState(self.tables)
        self.log: list[op.LogRecord] = []
        self.sequence = 0

    def try_(self, operation: op.AnyOperation, *, sequence: int = 0) -> op.AnyOutcome:
        request = op.RequestId(ClientId(7), sequence, 1) if sequence else None
        record = op.LogRecord(at_ms=1000 + len(self.log), operation=operation, request=request)
        self.log.append(record)
        outcome = self.state.apply(record)
        self.state.save()
        check_invariants(self.tables)
        return outcome

    def do(self, operation: op.AnyOperation) -> InodeId:
        outcome = self.try_(operation)
        assert isinstance(outcome, op.Done), outcome
        return outcome.inode

    def refusal(self, operation: op.AnyOperation) -> str:
        outcome = self.try_(operation)
        assert isinstance(outcome, op.Refused), outcome
        return outcome.code

    def mkdir(self, path: str) -> InodeId:
        return self.do(op.MakeDirectory(path=path, parents=True))

    def file(self, path: str, chunks: int = 1) -> InodeId:
        inode = self.do(op.CreateFile(path=path, replication_goal=3))
        for index in range(chunks):
            self.add_chunk(inode, index)
        return inode

    def add_chunk(self, inode: InodeId, index: int) -> ChunkHandle:
        outcome = self.try_(
            op.AddChunk(inode=inode, index=ChunkIndex(index), replicas=SERVERS, primary=SERVERS[0])
        )
        assert isinstance(outcome, op.ChunkGranted), outcome
        return outcome.handle

    def chunk(self, path: str, index: int = 0) -> ChunkRecord:
        found = chunk_of(self.tables, stat(self.tables, path).inode, index)
        assert found is not None
        return found

    def handles(self, path: str) -> list[ChunkHandle]:
        return [self.chunk(path, index).handle for index in range(stat(self.tables, path).chunk_count)]

    def paths(self) -> list[str]:
        return sorted(entry.path for entry in glob_page(self.tables, "/**", limit=4096)[0])

    def begin(self, source: str, target: str) -> InodeId:
        return self.do(op.BeginSnapshot(source=source, target=target))

    def finish(self, copy: InodeId, rows: int = STEP_ROWS_MAX) -> int:
        """Step until it is published; returns how many steps that took."""
        for steps in range(1, 10_000):
            if self.do(op.CopySnapshot(copy=copy, rows=rows)) == copy:
                return steps
        raise AssertionError("it has no end")

    def snapshot(self, source: str, target: str, rows: int = STEP_ROWS_MAX) -> InodeId:
        copy = self.begin(source, target)
        self.finish(copy, rows)
        return copy

    def reserve(self, path: str, index: int = 0) -> ChunkHandle:
        chunk = self.chunk(path, index)
        outcome = self.try_(
            op.ReserveChunkCopy(
                inode=stat(self.tables, path).inode,
                index=ChunkIndex(index),
                handle=chunk.handle,
                version=chunk.version,
            )
        )
        assert isinstance(outcome, op.ChunkGranted), outcome
        return outcome.handle

    def adopt(self, path: str, copy: ChunkHandle, replicas: tuple[ServerId, ...] = SERVERS) -> op.AnyOutcome:
        inode = stat(self.tables, path).inode
        return self.try_(op.AdoptChunkCopy(inode=inode, copy=copy, replicas=replicas, primary=replicas[0]))


@pytest.fixture
def world() -> World:
    world = World()
    world.mkdir("/home/user/deep/er")
    world.mkdir("/save")
    world.file("/home/user/one")
    world.file("/home/user/many", chunks=5)
    world.file("/home/user/empty", chunks=0)
    world.file("/home/user/deep/er/two")
    return world


@pytest.mark.parametrize("rows", [1, 2, 3, 7, STEP_ROWS_MAX])
def test_a_tree_is_copied_with_shared_chunks_in_steps_of_any_size(world: World, rows: int) -> None:
    world.do(op.SetLengthHint(inode=stat(world.tables, "/home/user/many").inode, length_bytes=9, closed=True))
    world.snapshot("/home/user", "/save/user", rows)
    below = [path.removeprefix("/home/user") for path in world.paths() if path.startswith("/home/user/")]
    assert [path for path in world.paths() if path.startswith("/save")] == [
        "/save",
        "/save/user",
        *(f"/save/user{path}" for path in below),
    ]
    for path in ("/one", "/many", "/empty", "/deep/er/two"):
        before, after = stat(world.tables, f"/home/user{path}"), stat(world.tables, f"/save/user{path}")
        assert before.inode != after.inode
        assert (before.length_bytes, before.length_exact) == (after.length_bytes, after.length_exact)
        assert world.handles(f"/home/user{path}") == world.handles(f"/save/user{path}")
    assert {world.chunk("/save/user/many", index).references for index in range(5)} == {2}
    assert not jobs_under_way(world.tables)


def test_nothing_of_a_copy_is_seen_before_it_is_whole(world: World) -> None:
    copy = world.begin("/home/user", "/save/user")
    before = world.paths()
    while world.do(op.CopySnapshot(copy=copy, rows=1)) != copy:
        assert world.paths() == before
        hidden = inode_record(world.tables, copy)
        assert hidden is not None and hidden.is_directory
    assert "/save/user/one" in world.paths()


def test_a_single_file_and_a_copy_of_a_copy(world: World) -> None:
    world.snapshot("/home/user/many", "/first")
    world.snapshot("/first", "/second", rows=2)
    assert world.handles("/second") == world.handles("/home/user/many")
    assert world.chunk("/second", 3).references == 3
    world.snapshot("/home", "/third")
    assert world.chunk("/third/user/many", 3).references == 4
    world.snapshot("/home/user/empty", "/nothing")
    assert stat(world.tables, "/nothing").chunk_count == 0


@pytest.mark.parametrize(
    ("source", "target", "code"),
    [
        ("/home", "/home/user/copy", "invalid_argument"),
        ("/home", "/home", "already_exists"),
        ("/", "/copy", "invalid_argument"),
        ("/home", "/", "already_exists"),
        ("/home", "/save", "already_exists"),
        ("/nowhere", "/copy", "not_found"),
        ("/home", "/nowhere/copy", "not_found"),
        ("/home/user/one", "/home/user/one/copy", "not_a_directory"),
        ("/home/user/one/x", "/copy", "not_a_directory"),
        ("home", "/copy", "invalid_path"),
    ],
)
def test_what_cannot_be_copied_is_refused_with_nothing_done(
    world: World, source: str, target: str, code: str
) -> None:
    before = {table: list(world.tables.scan(table)) for table in Table if table is not Table.META}
    assert world.refusal(op.BeginSnapshot(source=source, target=target)) == code
    assert before == {table: list(world.tables.scan(table)) for table in Table if table is not Table.META}


def test_while_a_copy_is_made_its_source_stands_still_and_neither_path_moves(world: World) -> None:
    inode = stat(world.tables, "/home/user/one").inode
    world.begin("/home/user", "/save/user")
    far = 9_000_000
    for held in (
        op.CreateFile(path="/home/user/foo", replication_goal=3),
        op.CreateFile(path="/save/user", replication_goal=3),
        op.MakeDirectory(path="/home/user/new"),
        op.DeletePath(path="/home/user/one", expires_at_ms=far),
        op.DeletePath(path="/home", recursive=True, expires_at_ms=far),
        op.DeletePath(path="/save", recursive=True, expires_at_ms=far),
        op.RenamePath(source="/home", destination="/elsewhere", expires_at_ms=far),
        op.RenamePath(source="/save", destination="/elsewhere", expires_at_ms=far),
        op.RenamePath(source="/home/user/one", destination="/elsewhere", expires_at_ms=far),
        op.AddChunk(inode=inode, index=ChunkIndex(1), replicas=SERVERS, primary=SERVERS[0]),
        op.SetLengthHint(inode=inode, length_bytes=5, closed=True),
        op.BeginSnapshot(source="/home/user/one", target="/copy"),
        op.BeginSnapshot(source="/home", target="/copy"),
    ):
        assert world.refusal(held) == "path_busy", held
    world.file("/home/other")
    world.file("/save/other")
    world.mkdir("/home/dir")
    world.do(op.DeletePath(path="/home/other", expires_at_ms=far))


def test_a_request_that_met_a_snapshot_is_carried_out_when_it_comes_again(world: World) -> None:
    copy = world.begin("/home/user", "/save/user")
    creation = op.CreateFile(path="/home/user/foo", replication_goal=3)
    first = world.try_(creation, sequence=5)
    assert isinstance(first, op.Refused) and first.code == "path_busy"
    world.finish(copy)
    again = world.try_(creation, sequence=5)
    assert isinstance(again, op.Done) and again == world.try_(creation, sequence=5)
    assert "/home/user/foo" in world.paths() and "/save/user/foo" not in world.paths()


def test_a_state_that_starts_in_the_middle_of_a_snapshot_goes_on_with_it(world: World) -> None:
    copy = world.begin("/home/user", "/save/user")
    world.do(op.CopySnapshot(copy=copy, rows=2))
    world.state = MasterState(world.tables)
    assert world.refusal(op.MakeDirectory(path="/home/user/new")) == "path_busy"
    world.finish(copy)
    world.mkdir("/home/user/new")


def test_a_snapshot_is_given_up_only_before_its_first_step(world: World) -> None:
    copy = world.begin("/home/user", "/save/user")
    world.do(op.AbandonSnapshot(copy=copy))
    assert world.refusal(op.CopySnapshot(copy=copy, rows=1)) == "not_found"
    world.mkdir("/home/user/new")
    world.do(op.Reclaim(now_ms=5, rows_max=100))
    assert inode_record(world.tables, copy) is None
    copy = world.begin("/home/user", "/save/user")
    world.do(op.CopySnapshot(copy=copy, rows=1))
    assert world.refusal(op.AbandonSnapshot(copy=copy)) == "invalid_argument"
    world.finish(copy)


def test_a_chunk_that_several_files_share_is_copied_for_the_one_that_is_written(world: World) -> None:
    world.snapshot("/home/user", "/save/user")
    shared = world.chunk("/home/user/many", 2)
    copy = world.reserve("/home/user/many", 2)
    assert is_reserved(world.tables, copy)
    outcome = world.adopt("/home/user/many", copy, SERVERS[1:])
    assert isinstance(outcome, op.ChunkGranted) and outcome.handle == copy
    own = world.chunk("/home/user/many", 2)
    assert (own.handle, own.version, own.held_version, own.references) == (
        copy,
        shared.version,
        shared.version,
        1,
    )
    assert own.replicas == SERVERS[1:]
    assert world.chunk("/save/user/many", 2).handle == shared.handle
    assert world.chunk("/save/user/many", 2).references == 1
    assert not is_reserved(world.tables, copy)


def test_a_copy_is_adopted_once_and_only_of_what_was_reserved(world: World) -> None:
    world.snapshot("/home/user", "/save/user")
    copy = world.reserve("/home/user/one")
    world.do(op.ForgetChunkCopies(copies=(copy,)))
    late = world.adopt("/home/user/one", copy)
    assert isinstance(late, op.Refused) and late.code == "not_found"

    copy, other = world.reserve("/home/user/one"), world.reserve("/save/user/one")
    assert copy != other
    assert isinstance(world.adopt("/home/user/one", copy), op.ChunkGranted)
    unshared = world.adopt("/save/user/one", other)
    assert isinstance(unshared, op.Refused) and unshared.code == "invalid_argument"


def test_a_copy_of_a_chunk_that_was_granted_anew_meanwhile_is_not_adopted(world: World) -> None:
    world.snapshot("/home/user", "/save/user")
    copy = world.reserve("/home/user/one")
    chunk = world.chunk("/home/user/one")
    fenced = world.try_(
        op.ChangeReplicas(
            handle=chunk.handle,
            from_version=ChunkVersion(chunk.version),
            replicas=SERVERS[:2],
            primary=SERVERS[0],
        )
    )
    assert isinstance(fenced, op.ChunkGranted), fenced
    late = world.adopt("/home/user/one", copy)
    assert isinstance(late, op.Refused) and late.code == "stale_version"


def test_a_directory_of_many_directories_is_copied_whole(world: World) -> None:
    for number in range(100):
        world.state.apply(op.LogRecord(at_ms=1, operation=op.MakeDirectory(path=f"/home/user/d{number:03}")))
        for name in ("a", "b"):
            path = f"/home/user/d{number:03}/{name}"
            world.state.apply(op.LogRecord(at_ms=1, operation=op.CreateFile(path=path, replication_goal=1)))
    world.snapshot("/home/user", "/save/user", rows=50)
    listed = [entry.path for entry in list_page(world.tables, "/save/user")[0]]
    assert len(listed) == 104
    assert world.paths().count("/save/user/d050/b") == 1


def test_two_masters_that_apply_the_same_records_agree_in_the_middle_of_a_snapshot(world: World) -> None:
    copy = world.begin("/home/user", "/save/user")
    for _ in range(3):
        world.do(op.CopySnapshot(copy=copy, rows=2))
        other = MasterState(MemoryTables())
        for record in world.log:
            other.apply(record)
        assert other.digest() == world.state.digest()


def test_one_step_stays_far_below_what_one_record_may_take(world: World) -> None:
    for number in range(2 * STEP_ROWS_MAX):
        path = f"/home/user/{number}"
        made = world.state.apply(
            op.LogRecord(at_ms=1, operation=op.CreateFile(path=path, replication_goal=1))
        )
        assert isinstance(made, op.Done)
        add = op.AddChunk(inode=made.inode, index=ChunkIndex(0), replicas=SERVERS, primary=SERVERS[0])
        world.state.apply(op.LogRecord(at_ms=1, operation=add))
    copy = world.begin("/home/user", "/save/user")
    before = world.state.counters.next_inode
    began = time.process_time()
    world.state.apply(op.LogRecord(at_ms=1, operation=op.CopySnapshot(copy=copy, rows=10**9)))
    assert time.process_time() - began < 0.2  # a stalled machine may be slow; bench/snapshot measures
    assert world.state.counters.next_inode - before <= STEP_ROWS_MAX


def grant(world: World, path: str) -> op.GrantLease:
    chunk = world.chunk(path)
    return op.GrantLease(
        inode=stat(world.tables, path).inode,
        index=ChunkIndex(0),
        handle=chunk.handle,
        from_version=chunk.version,
        replicas=SERVERS,
        primary=SERVERS[0],
    )


def test_no_lease_is_granted_of_a_shared_chunk_nor_below_what_is_being_copied(world: World) -> None:
    copy = world.begin("/home/user", "/save/user")
    assert world.refusal(grant(world, "/home/user/one")) == "path_busy"
    world.finish(copy)
    assert world.refusal(grant(world, "/home/user/one")) == "stale_version"
    assert world.refusal(grant(world, "/save/user/one")) == "stale_version"
    world.adopt("/home/user/one", world.reserve("/home/user/one"))
    for path in ("/home/user/one", "/save/user/one"):
        assert isinstance(world.try_(grant(world, path)), op.ChunkGranted)
