"""Chunks, versions, replica sets, seals, length hints, as MasterState.apply treats them (I1, I2)."""

from __future__ import annotations

import pytest

from gfs.errors import IsADirectory, NotFound
from gfs.master.core.invariants import check_invariants
from gfs.master.core.lookup import (
    chunk_by_handle,
    chunk_of,
    chunks_after,
    find_chunks,
    live_file,
    read_counters,
    stat,
)
from gfs.master.core.records import FILE_CHUNKS_MAX
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables, Table
from gfs.messages import operations as op
from gfs.vocabulary import CHUNK_BYTES, ServerId
from tests.core.master_records import (
    NOW_MS,
    A,
    B,
    C,
    D,
    add_chunk,
    change,
    create,
    delete,
    grant,
    hint,
    mkdir,
    record,
    seal,
)


class File:
    """A master's state with one file, /f."""

    def __init__(self) -> None:
        self.tables = MemoryTables()
        self.state = MasterState(self.tables)
        made = self(create("/f"))
        assert isinstance(made, op.Done)
        self.inode = made.inode

    def __call__(self, operation: op.AnyOperation, *, at_ms: int = NOW_MS) -> op.AnyOutcome:
        outcome = self.state.apply(record(operation, at_ms=at_ms))
        self.state.save()
        check_invariants(self.tables)
        return outcome

    def refused(self, operation: op.AnyOperation) -> str:
        before = {table: list(self.tables.scan(table)) for table in Table}
        outcome = self(operation)
        assert isinstance(outcome, op.Refused), outcome
        assert before == {table: list(self.tables.scan(table)) for table in Table}
        return outcome.code


@pytest.fixture
def file() -> File:
    return File()


def test_chunks_are_added_in_order_each_with_version_1(file: File) -> None:
    first = file(add_chunk(file.inode, 0, A, B, C), at_ms=NOW_MS + 5)
    assert first == op.ChunkGranted(handle=1, version=1, replicas=(A, B, C), primary=A)
    assert file(add_chunk(file.inode, 1, D)) == op.ChunkGranted(handle=2, version=1, replicas=(D,), primary=D)
    assert file.refused(add_chunk(file.inode, 3)) == "invalid_argument"
    assert file.refused(add_chunk(file.inode, -1)) == "invalid_argument"
    entry, chunks = find_chunks(file.tables, "/f", 0, 10)
    assert entry.chunk_count == 2
    assert [(chunk.handle, chunk.replicas) for chunk in chunks] == [(1, (A, B, C)), (2, (D,))]
    assert read_counters(file.tables).chunks == 2


def test_a_chunk_that_exists_is_answered_with_its_present_state(file: File) -> None:
    file(add_chunk(file.inode, 0, A, B, C))
    file(grant(file.inode, 0, 1, 1, B, C))
    again = file(add_chunk(file.inode, 0, D))
    assert again == op.ChunkGranted(handle=1, version=2, replicas=(B, C), primary=B, existed=True)


@pytest.mark.parametrize("servers", [(A, A), tuple(ServerId(f"s{n}") for n in range(17)), (ServerId(""),)])
def test_a_replica_set_is_a_set_within_limits(file: File, servers: tuple[ServerId, ...]) -> None:
    assert file.refused(add_chunk(file.inode, 0, *servers)) == "invalid_argument"
    file(add_chunk(file.inode, 0, A))
    assert file.refused(grant(file.inode, 0, 1, 1, *servers)) == "invalid_argument"
    assert file.refused(grant(file.inode, 0, 1, 1)) == "invalid_argument"


def test_the_primary_belongs_to_its_set(file: File) -> None:
    stranger = op.AddChunk(inode=file.inode, index=0, replicas=(A, B), primary=C)  # type: ignore[arg-type]
    assert file.refused(stranger) == "invalid_argument"


def test_a_grant_raises_the_version_by_one_from_the_one_it_names(file: File) -> None:
    file(add_chunk(file.inode, 0, A, B, C))
    assert file(grant(file.inode, 0, 1, 1, C, A)) == op.ChunkGranted(
        handle=1, version=2, replicas=(C, A), primary=C
    )
    assert file.refused(grant(file.inode, 0, 1, 1, A)) == "stale_version"
    assert file.refused(grant(file.inode, 0, 1, 3, A)) == "stale_version"
    chunk = chunk_of(file.tables, file.inode, 0)
    assert chunk is not None
    assert (chunk.version, chunk.replicas, chunk.primary) == (2, (C, A), C)


def test_a_grant_names_only_members_of_the_present_set(file: File) -> None:
    """I2: whoever was left out once may lack acknowledged mutations, and so may any stranger."""
    file(add_chunk(file.inode, 0, A, B, C))
    assert file.refused(grant(file.inode, 0, 1, 1, A, D)) == "invalid_argument"
    file(grant(file.inode, 0, 1, 1, A, B))
    assert file.refused(grant(file.inode, 0, 1, 2, A, C)) == "invalid_argument"


def test_a_chunk_nobody_was_told_of_may_go_to_other_servers(file: File) -> None:
    file(add_chunk(file.inode, 0, A, B, C))
    granted = file(grant(file.inode, 0, 1, 1, A, D, fresh=True))
    assert granted == op.ChunkGranted(handle=1, version=2, replicas=(A, D), primary=A)


def test_a_grant_must_name_the_chunk_that_is_there(file: File) -> None:
    file(add_chunk(file.inode, 0, A))
    assert file.refused(grant(file.inode, 0, 2, 1, A)) == "not_found"
    assert file.refused(grant(file.inode, 1, 1, 1, A)) == "not_found"
    assert file.refused(grant(file.inode, -1, 1, 1, A)) == "not_found"
    assert file.refused(grant(99, 0, 1, 1, A)) == "not_found"


def test_the_highest_held_version_told_is_kept(file: File) -> None:
    file(add_chunk(file.inode, 0, A, B))
    file(grant(file.inode, 0, 1, 1, A, B, held_version=1))
    file(grant(file.inode, 0, 1, 2, A, B))
    chunk = chunk_by_handle(file.tables, 1)
    assert chunk is not None
    assert (chunk.version, chunk.held_version) == (3, 1)
    assert file.refused(grant(file.inode, 0, 1, 3, A, held_version=4)) == "invalid_argument"
    assert file.refused(grant(file.inode, 0, 1, 3, A, held_version=-1)) == "invalid_argument"


def test_a_fresh_grant_knows_nothing_of_what_its_servers_hold(file: File) -> None:
    file(add_chunk(file.inode, 0, A, B))
    file(grant(file.inode, 0, 1, 1, A, B, held_version=1))
    file(grant(file.inode, 0, 1, 2, C, D, fresh=True))
    chunk = chunk_by_handle(file.tables, 1)
    assert chunk is not None
    assert (chunk.version, chunk.held_version, chunk.replicas) == (3, 0, (C, D))


def test_a_sealed_chunk_changes_no_more(file: File) -> None:
    file(add_chunk(file.inode, 0, A, B))
    assert file.refused(seal(1, 2, 10)) == "stale_version"
    assert file.refused(seal(2, 1, 10)) == "not_found"
    assert file.refused(seal(1, 1, CHUNK_BYTES + 1)) == "invalid_argument"
    assert file(seal(1, 1, 10)) == op.Done()
    assert file(seal(1, 1, 10)) == op.Done(), "a repeat says the same"
    assert file.refused(seal(1, 1, 11)) == "chunk_sealed"
    assert file.refused(grant(file.inode, 0, 1, 1, A)) == "chunk_sealed"
    chunk = chunk_of(file.tables, file.inode, 0)
    assert chunk is not None
    assert (chunk.sealed, chunk.length_bytes) == (True, 10)


def test_a_length_is_exact_from_close_to_the_next_grant(file: File) -> None:
    file(add_chunk(file.inode, 0, A))
    file(hint(file.inode, 100, closed=True), at_ms=NOW_MS + 7)
    entry = stat(file.tables, "/f")
    assert (entry.length_bytes, entry.length_exact, entry.modified_ms) == (100, True, NOW_MS + 7)
    file(grant(file.inode, 0, 1, 1, A))
    assert stat(file.tables, "/f").length_exact is False
    file(hint(file.inode, 200, closed=True))
    file(add_chunk(file.inode, 1, A))
    assert stat(file.tables, "/f").length_exact is False


def test_a_shorter_word_never_hides_what_a_longer_one_has_shown(file: File) -> None:
    file(add_chunk(file.inode, 0, A))
    file(hint(file.inode, 100, closed=True))
    file(hint(file.inode, 50, closed=True))
    file(hint(file.inode, 60))
    entry = stat(file.tables, "/f")
    assert (entry.length_bytes, entry.length_exact) == (100, True)
    file(hint(file.inode, 101))
    entry = stat(file.tables, "/f")
    assert (entry.length_bytes, entry.length_exact) == (101, False)


def test_a_file_is_not_longer_than_its_chunks(file: File) -> None:
    assert file.refused(hint(file.inode, 1)) == "invalid_argument"
    file(add_chunk(file.inode, 0, A))
    assert file.refused(hint(file.inode, CHUNK_BYTES + 1)) == "invalid_argument"
    assert file(hint(file.inode, CHUNK_BYTES)) == op.Done(inode=file.inode)


def test_chunk_operations_on_a_directory_are_refused(file: File) -> None:
    directory = file(mkdir("/d"))
    assert isinstance(directory, op.Done)
    assert file.refused(add_chunk(directory.inode, 0)) == "is_a_directory"
    with pytest.raises(IsADirectory):
        find_chunks(file.tables, "/d", 0, 1)


def test_pieces_of_a_long_file_are_found_and_no_more(file: File) -> None:
    for index in range(5):
        file(add_chunk(file.inode, index, A))

    def handles(first: int, count: int) -> list[int]:
        return [chunk.handle for chunk in find_chunks(file.tables, "/f", first, count)[1]]

    assert handles(0, 2) == [1, 2]
    assert handles(1, 2) == [2, 3]
    assert handles(3, 100) == [4, 5]
    assert handles(5, 1) == []
    assert handles(0, 0) == handles(2, -1) == []
    assert chunk_of(file.tables, file.inode, 5) is None
    assert chunk_of(file.tables, 12345, 0) is None
    assert chunk_by_handle(file.tables, 6) is chunk_by_handle(file.tables, 2**60) is None


def test_the_walk_over_all_chunks_names_each_once_whatever_the_piece(file: File) -> None:
    other = file(create("/g"))
    assert isinstance(other, op.Done)
    file(create("/empty"))
    for index in range(4):
        file(add_chunk(file.inode, index, A))
        if index < 2:
            file(add_chunk(other.inode, index, A))
    file(delete("/g"))
    expected = [*((file.inode, index) for index in range(4)), (other.inode, 0), (other.inode, 1)]
    for limit in (1, 2, 3, 100):
        found, at = [], (0, 0)
        while at is not None:
            named, at = chunks_after(file.tables, *at, limit=limit)
            assert len(named) <= limit
            found += named
        assert found == expected


def test_a_deleted_file_is_known_by_inode_but_not_live(file: File) -> None:
    file(add_chunk(file.inode, 0, A))
    live_file(file.tables, file.inode)
    file(delete("/f"))
    with pytest.raises(NotFound):
        live_file(file.tables, file.inode)
    assert chunk_of(file.tables, file.inode, 0) is not None


def test_a_file_cannot_outgrow_its_longest_length() -> None:
    assert FILE_CHUNKS_MAX * CHUNK_BYTES < 2**48


def test_servers_get_one_number_however_often_they_are_named(file: File) -> None:
    for index in range(20):
        file(add_chunk(file.inode, index, A, B, C))
    assert sum(1 for _ in file.tables.scan(Table.SERVERS)) == 2 * 3


def test_nobody_joins_a_set_unless_the_version_before_was_kept_from_all_clients(file: File) -> None:
    """Under a version a client knows, mutations can be acknowledged that a copy made before has not."""
    file(add_chunk(file.inode, 0, A, B))
    assert file.refused(change(1, 1, A, B, C, joined=(C,), held=1)) == "invalid_argument"
    assert file(change(1, 1, A, B)) == op.ChunkGranted(handle=1, version=2, replicas=(A, B), primary=A)
    assert file(change(1, 2, A, B, C, joined=(C,), held=2)) == op.ChunkGranted(
        handle=1, version=3, replicas=(A, B, C), primary=A
    )
    file(grant(file.inode, 0, 1, 3, A, B, C))
    assert file.refused(change(1, 4, A, B, C, D, joined=(D,), held=4)) == "invalid_argument"


def test_who_joins_is_named_and_somebody_of_the_old_set_stays(file: File) -> None:
    file(add_chunk(file.inode, 0, A, B))
    file(change(1, 1, A, B))
    for refused in (
        change(1, 2, A, C),
        change(1, 2, A, C, joined=(D,), held=2),
        change(1, 2, A, B, joined=(B,), held=2),
        change(1, 2, C, D, joined=(C, D), held=2),
        change(1, 2, A, C, joined=(C,), held=1),
        change(1, 2, A, C, joined=(C,), held=3),
    ):
        assert file.refused(refused) == "invalid_argument", refused
    assert file.refused(change(1, 1, A)) == "stale_version"
    assert file.refused(change(9, 1, A)) == "not_found"
    moved = file(change(1, 2, A, C, joined=(C,), held=2))
    assert isinstance(moved, op.ChunkGranted) and moved.replicas == (A, C)


def test_a_change_of_replicas_touches_no_file_and_keeps_the_seal(file: File) -> None:
    file(add_chunk(file.inode, 0, A, B))
    file(seal(1, 1, 10))
    file(hint(file.inode, 10, closed=True), at_ms=NOW_MS + 1)
    before = stat(file.tables, "/f")
    file(change(1, 1, A, B), at_ms=NOW_MS + 99)
    file(change(1, 2, B, C, joined=(C,), held=2), at_ms=NOW_MS + 99)
    assert stat(file.tables, "/f") == before
    chunk = chunk_of(file.tables, file.inode, 0)
    assert chunk is not None
    assert (chunk.version, chunk.replicas, chunk.sealed, chunk.length_bytes) == (3, (B, C), True, 10)
    assert (chunk.held_version, chunk.quiet) == (2, True)


def test_chunks_of_deleted_files_can_be_moved(file: File) -> None:
    file(add_chunk(file.inode, 0, A, B))
    file(delete("/f"))
    assert isinstance(file(change(1, 1, B)), op.ChunkGranted)
