"""What the replica store promises while it runs: versions, writes, verified reads, errors of the disk."""

from __future__ import annotations

import errno
import random
import threading
from pathlib import Path

import pytest

from gfs import failpoints
from gfs.checksums import piece_checksums
from gfs.chunkserver.index_journal import JournalSegment
from gfs.chunkserver.replica_store import ReplicaStore
from gfs.chunkserver.replica_versions import Bumped
from gfs.errors import (
    ChecksumMismatch,
    ChunkSealed,
    GfsError,
    InvalidArgument,
    NoSpace,
    NotFound,
    OutcomeUnknown,
    StaleVersion,
    Superseded,
    Unavailable,
)
from gfs.messages.heartbeat import HeldChunk
from gfs.vocabulary import CHUNK_BYTES, ChunkHandle, ChunkVersion
from tests.chunkserver.replicas import (
    BLOCK,
    ONE,
    T1,
    T2,
    TWO,
    V1,
    V2,
    V3,
    Machine,
    chunk_path,
    content,
    create,
)
from tests.paper.boxes import keeps


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def store(machine: Machine, request: pytest.FixtureRequest) -> ReplicaStore:
    opened = machine.open()
    request.addfinalizer(opened.abandon)
    create(opened)
    return opened


def random_bytes(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


# --- versions -----------------------------------------------------------------------------------


def test_a_bump_answers_the_replaced_version_and_the_committed_length(store: ReplicaStore) -> None:
    store.write(ONE, V1, 0, b"abc")
    answer = store.versions.bump(ONE, V2, oldest_version=V1, create=False, master_term=T1)
    assert answer == Bumped(V1, 3)
    assert store.versions.bump(ONE, V2, oldest_version=V1, create=False, master_term=T1) == answer
    assert store.versions.bump(ONE, V2, oldest_version=V1, create=False, master_term=T2) == answer
    with pytest.raises(Superseded):
        store.versions.bump(ONE, V3, oldest_version=V1, create=False, master_term=T1)


def test_a_bump_fences_writers_and_readers_of_the_old_version(store: ReplicaStore) -> None:
    store.write(ONE, V1, 0, b"abc")
    store.versions.bump(ONE, V2, oldest_version=V1, create=False, master_term=T1)
    for use in (
        lambda: store.write(ONE, V1, 3, b"x"),
        lambda: store.read_into(ONE, V1, 0, memoryview(bytearray(3))),
        lambda: store.versions.align(ONE, V1, 0),
        lambda: store.versions.seal(ONE, V1, 3),
        lambda: store.status(ONE, V1),
        lambda: store.committed_length(ONE, V1),
    ):
        with pytest.raises(StaleVersion) as caught:
            use()
        assert caught.value.details["version"] == "2"
    assert content(store, ONE, V2) == b"abc"


def test_nothing_is_known_of_a_chunk_never_created(store: ReplicaStore) -> None:
    for use in (
        lambda: store.versions.bump(TWO, V1, oldest_version=ChunkVersion(0), create=False, master_term=T1),
        lambda: store.write(TWO, V1, 0, b"x"),
        lambda: store.read_into(TWO, V1, 0, memoryview(bytearray(3))),
        lambda: store.versions.seal(TWO, V1, 0),
    ):
        with pytest.raises(NotFound):
            use()
    store.delete(TWO)
    assert store.chunk_count == 1


@keeps("versions")
def test_a_version_is_on_the_disk_before_the_bump_is_answered(machine: Machine, store: ReplicaStore) -> None:
    store.write(ONE, V1, 0, b"abc")
    store.versions.bump(ONE, V3, oldest_version=V1, create=False, master_term=T2)
    after = machine.open_after_power_cut(store)
    assert content(after, ONE, V3) == b"abc"
    again = after.versions.bump(ONE, V3, oldest_version=V1, create=False, master_term=T2)
    assert again == Bumped(V1, 3, may_be_short=True)
    with pytest.raises(Superseded):
        after.versions.bump(ONE, ChunkVersion(9), oldest_version=V1, create=False, master_term=T1)
    after.abandon()


# --- writes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_sums", [False, True])
@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (100_000, 1),
        (100_000, 200_000),
        (0, 100_000),
        (0, 65_536),
        (65_536, 10),
        (70_000, 30_000),
        (70_000, 200_000),
        (99_999, 1),
        (100, 200_000),
        (100_001, 5),
        (400_000, 70_000),
        (131_072, 65_536),
    ],
)
def test_a_write_lands_where_it_was_asked_to(
    machine: Machine, store: ReplicaStore, offset: int, length: int, with_sums: bool
) -> None:
    expected = bytearray(random_bytes(100_000))
    store.write(ONE, V1, 0, bytes(expected))
    data = random_bytes(length, 1)
    sums = piece_checksums(offset, data) if with_sums else None
    grown = max(100_000, offset + length)
    assert store.write(ONE, V1, offset, memoryview(data), sums) == grown
    expected.extend(bytes(max(0, offset - len(expected))))
    expected[offset : offset + length] = data
    assert content(store) == expected
    assert list(store.status(ONE, V1, with_checksums=True).block_checksums) == piece_checksums(0, expected)
    store.check_invariants()
    after = machine.open_after_kill(store)
    assert content(after) == expected
    after.close()


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 0), (CHUNK_BYTES, 1), (CHUNK_BYTES - 1, 2)])
def test_a_write_outside_the_chunk_is_refused(store: ReplicaStore, offset: int, length: int) -> None:
    with pytest.raises(InvalidArgument):
        store.write(ONE, V1, offset, bytes(length))


def test_a_chunk_can_be_filled_to_its_last_byte(store: ReplicaStore) -> None:
    assert store.write(ONE, V1, CHUNK_BYTES - 3, b"end") == CHUNK_BYTES
    buffer = bytearray(10)
    assert store.read_into(ONE, V1, CHUNK_BYTES - 6, memoryview(buffer)) == 6
    assert buffer[:6] == b"\0\0\0end"


def test_checksums_that_do_not_fit_write_nothing(store: ReplicaStore) -> None:
    store.write(ONE, V1, 0, b"abc")
    with pytest.raises(ChecksumMismatch):
        store.write(ONE, V1, 3, b"def", piece_checksums(3, b"dex"))
    with pytest.raises(InvalidArgument):
        store.write(ONE, V1, 3, b"def", [1, 2])
    assert content(store) == b"abc"
    assert store.corrupt() == []


@pytest.mark.parametrize("flipped", [10, BLOCK + 30_000])
@keeps("checksums")
def test_a_partial_overwrite_of_a_damaged_block_writes_nothing(
    machine: Machine, store: ReplicaStore, flipped: int
) -> None:
    store.write(ONE, V1, 0, random_bytes(2 * BLOCK))
    machine.disk.flip_bit(chunk_path(), flipped)
    file = machine.disk.open(chunk_path())
    before = file.pread(3 * BLOCK, 0)
    with pytest.raises(ChecksumMismatch):
        store.write(ONE, V1, 100, random_bytes(BLOCK, 1))
    assert file.pread(3 * BLOCK, 0) == before
    assert store.corrupt() == [ONE]


def test_a_damaged_replica_takes_no_more_mutations_and_joins_no_set(
    machine: Machine, store: ReplicaStore
) -> None:
    store.write(ONE, V1, 0, random_bytes(BLOCK))
    machine.disk.flip_bit(chunk_path(), 5)
    with pytest.raises(ChecksumMismatch):
        content(store)
    with pytest.raises(ChecksumMismatch):
        store.write(ONE, V1, BLOCK, b"x")
    with pytest.raises(ChecksumMismatch):
        store.versions.bump(ONE, V2, oldest_version=V1, create=False, master_term=T1)
    store.delete(ONE)
    assert store.corrupt() == []


# --- cut and seal -------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 150_000])
def test_a_cut_replica_ends_where_it_was_told_and_goes_on_from_there(
    machine: Machine, store: ReplicaStore, length: int
) -> None:
    data = random_bytes(150_000)
    store.write(ONE, V1, 0, data)
    store.versions.align(ONE, V1, length, master_term=T1)
    assert content(store) == data[:length]
    after = machine.open_after_power_cut(store)
    assert content(after) == data[:length]
    after.versions.bump(ONE, V2, oldest_version=V1, create=False, master_term=T1)
    after.write(ONE, V2, length + 70_000, b"end")
    assert content(after, ONE, V2) == data[:length] + bytes(70_000) + b"end"
    after.abandon()


def test_a_cut_of_a_damaged_block_is_refused(machine: Machine, store: ReplicaStore) -> None:
    store.write(ONE, V1, 0, random_bytes(1000))
    machine.disk.flip_bit(chunk_path(), 900)
    with pytest.raises(ChecksumMismatch):
        store.versions.align(ONE, V1, 500)
    assert store.corrupt() == [ONE]


def test_a_sealed_chunk_stays_as_it_is(machine: Machine, store: ReplicaStore) -> None:
    store.write(ONE, V1, 0, b"abcdef")
    with pytest.raises(StaleVersion):
        store.versions.seal(ONE, V1, 7)
    store.versions.seal(ONE, V1, 4, master_term=T1)
    store.versions.seal(ONE, V1, 4, master_term=T1)
    for current in (store, machine.open_after_power_cut(store)):
        assert current.status(ONE, V1).sealed and content(current) == b"abcd"
        with pytest.raises(ChunkSealed):
            current.write(ONE, V1, 4, b"x")
        with pytest.raises(ChunkSealed):
            current.versions.align(ONE, V1, 2)
        if current is store:
            continue
        current.abandon()


# --- reads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1, 1000, BLOCK - 1, BLOCK, 2 * BLOCK + 5, 150_000 - 1])
@pytest.mark.parametrize("length", [1, 100, BLOCK, BLOCK + 1, 150_000])
def test_any_range_is_read_as_it_was_written(store: ReplicaStore, offset: int, length: int) -> None:
    data = random_bytes(150_000)
    store.write(ONE, V1, 0, data)
    buffer = bytearray(length)
    got = store.read_into(ONE, V1, offset, memoryview(buffer))
    assert got == min(length, len(data) - offset)
    assert buffer[:got] == data[offset : offset + length]


def test_a_read_at_or_past_the_end_gets_nothing(store: ReplicaStore) -> None:
    store.write(ONE, V1, 0, b"abc")
    assert store.read_into(ONE, V1, 3, memoryview(bytearray(5))) == 0
    assert store.read_into(ONE, V1, 99, memoryview(bytearray(5))) == 0
    with pytest.raises(InvalidArgument):
        store.read_into(ONE, V1, -1, memoryview(bytearray(5)))


@pytest.mark.parametrize("flipped", [0, 77, BLOCK, 2 * BLOCK + 18_927])
@keeps("checksums")
def test_a_flipped_bit_is_never_returned_and_is_reported(
    machine: Machine, store: ReplicaStore, flipped: int
) -> None:
    data = random_bytes(2 * BLOCK + 18_928)
    store.write(ONE, V1, 0, data)
    machine.disk.flip_bit(chunk_path(), flipped, 3)
    for offset in range(0, len(data), 20_000):
        length = min(20_000, len(data) - offset)
        buffer = bytearray(length)
        blocks = range(offset // BLOCK, (offset + length - 1) // BLOCK + 1)
        if flipped // BLOCK in blocks:
            with pytest.raises(ChecksumMismatch, match=f"block {flipped // BLOCK}"):
                store.read_into(ONE, V1, offset, memoryview(buffer))
            assert store.corrupt() == [ONE]
        else:
            store.read_into(ONE, V1, offset, memoryview(buffer))
            assert buffer == data[offset : offset + length]
    assert store.corruption(ONE)


def test_readers_see_whole_prefixes_while_the_chunk_grows_and_changes(store: ReplicaStore) -> None:
    """Every byte is the function of its offset, also after an overwrite: any mixture would show."""
    pattern = bytes(range(251)) * 2000
    store.write(ONE, V1, 0, pattern[:10])
    stop = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        buffer = bytearray(len(pattern))
        try:
            while not stop.is_set():
                got = store.read_into(ONE, V1, 3, memoryview(buffer))
                assert buffer[:got] == pattern[3 : 3 + got]
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        position = 10
        for number in range(150):
            step = 1 + number * 17 % 4000
            position = store.write(ONE, V1, position, pattern[position : position + step])
            if number % 20 == 0:
                store.write(ONE, V1, position // 2, pattern[position // 2 : position - 1])
            if number % 50 == 0:
                store.flush()
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert failures == [] and store.corrupt() == []


# --- reports ------------------------------------------------------------------------------------


def test_the_inventory_has_every_chunk_flushed_or_not(store: ReplicaStore) -> None:
    store.write(ONE, V1, 0, b"abc")
    store.flush()
    create(store, TWO, V3)
    store.write(ONE, V1, 3, b"d")
    create(store, ChunkHandle(2**64 - 1))
    create(store, ChunkHandle(5))
    store.flush()
    store.delete(ChunkHandle(5))
    expected = [HeldChunk(ONE, V1, 4), HeldChunk(TWO, V3, 0), HeldChunk(ChunkHandle(2**64 - 1), V1, 0)]
    assert list(store.reports.inventory()) == expected
    assert store.chunk_count == 3
    store.flush()
    assert list(store.reports.inventory()) == expected
    assert store.chunk_count == 3


def test_the_inventory_is_walked_in_pages(store: ReplicaStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gfs.chunkserver.index_tables.PAGE_CHUNKS", 3)
    handles = [ChunkHandle(number) for number in range(1, 12)]
    for handle in handles:
        create(store, handle)
        if handle % 4 == 0:
            store.flush()
    assert [held.handle for held in store.reports.inventory()] == handles


def test_changes_are_told_once_each_from_any_cursor(store: ReplicaStore) -> None:
    begun = store.reports.changes_since(0)
    assert begun.complete and begun.changed == [HeldChunk(ONE, V1, 0)]
    store.write(ONE, V1, 0, b"abc")
    create(store, TWO)
    store.write(ONE, V1, 3, b"def")
    news = store.reports.changes_since(begun.cursor)
    assert sorted(held.handle for held in news.changed) == [ONE, TWO] and news.removed == []
    store.delete(TWO)
    assert store.reports.changes_since(news.cursor).removed == [TWO]
    assert store.reports.changes_since(news.cursor).changed == []
    again = store.reports.changes_since(begun.cursor)
    assert again.changed == [HeldChunk(ONE, V1, 6)] and again.removed == [TWO]
    assert store.reports.changes_since(again.cursor).changed == []


def test_a_reader_of_changes_too_far_behind_is_told_so(
    store: ReplicaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store._access.feed, "_changes_max", 3)
    cursor = store.reports.changes_since(0).cursor
    for number in range(2, 8):
        create(store, ChunkHandle(number))
    behind = store.reports.changes_since(cursor)
    assert not behind.complete
    assert store.reports.changes_since(behind.cursor).complete


# --- trouble with the disk ----------------------------------------------------------------------


def test_a_full_disk_acknowledges_nothing_and_changes_nothing(machine: Machine, store: ReplicaStore) -> None:
    data = random_bytes(100_000)
    store.write(ONE, V1, 0, data)
    for left in (0, 10, 5_000):
        machine.disk.space_bytes_left = left
        with pytest.raises(NoSpace):
            store.write(ONE, V1, len(data), random_bytes(10_000, 1))
        assert content(store) == data
        assert machine.disk.open(chunk_path()).length() == len(data)  # the part written holds no space
        with pytest.raises(NoSpace):
            store.write(ONE, V1, 50, random_bytes(90_000, 2))
        assert content(store) == data
        with pytest.raises(NoSpace):
            store.write(ONE, V1, len(data) + 90_000, random_bytes(10_000, 3))
        assert content(store) == data
    machine.disk.space_bytes_left = None
    assert store.write(ONE, V1, len(data) + 10, b"end") == len(data) + 13
    assert content(store) == data + bytes(10) + b"end"
    after = machine.open_after_kill(store)
    assert content(after) == data + bytes(10) + b"end"
    after.abandon()


def test_a_part_written_that_could_not_be_cut_off_never_shows_in_a_later_gap(
    machine: Machine, store: ReplicaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(ONE, V1, 0, b"abc")

    def refuse(handle: ChunkHandle, length: int) -> None:
        raise OSError(errno.EIO, "truncate refused")

    machine.disk.space_bytes_left = 5_000
    with monkeypatch.context() as patch:
        patch.setattr(store._access.store, "truncate", refuse)
        with pytest.raises(NoSpace):
            store.write(ONE, V1, 3, b"x" * 10_000)
    machine.disk.space_bytes_left = None
    store.write(ONE, V1, 1000, b"end")
    assert content(store) == b"abc" + bytes(997) + b"end"


def test_a_disk_without_room_for_a_flush_loses_nothing(machine: Machine, store: ReplicaStore) -> None:
    store.write(ONE, V1, 0, b"abc")
    machine.disk.space_bytes_left = 0
    with pytest.raises(NoSpace):
        store.flush()
    machine.disk.space_bytes_left = None
    store.write(ONE, V1, 3, b"def")
    store.flush()
    after = machine.open_after_power_cut(store)
    assert content(after) == b"abcdef"
    after.abandon()


def test_space_that_must_stay_free_is_not_written(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.free_bytes_min, machine.free_bytes = 1000, 1500
    store = machine.open()
    create(store)
    store.write(ONE, V1, 0, bytes(500))
    machine.free_bytes = 1000
    with pytest.raises(NoSpace, match="1000 must stay"):
        store.write(ONE, V1, 500, b"x")
    machine.free_bytes = 1001
    store.write(ONE, V1, 500, b"x")
    store.abandon()


@pytest.mark.parametrize("durability", ["flush", "sync"])
def test_a_chunk_whose_bytes_vanish_costs_nobody_else(tmp_path: Path, durability: str) -> None:
    machine = Machine(tmp_path, durability="sync" if durability == "sync" else "flush")
    store = machine.open()
    for handle in (ONE, TWO):
        create(store, handle)
        store.write(handle, V1, 0, b"abc")
    machine.disk.unlink(chunk_path())
    store._access.store.close()  # or the open file would still be there
    for use in (
        lambda: store.versions.bump(ONE, V2, oldest_version=V1, create=False, master_term=T1),
        lambda: store.write(ONE, V1, 3, b"def"),
        lambda: store.versions.seal(ONE, V1, 3),
        lambda: store.read_into(ONE, V1, 0, memoryview(bytearray(3))),
    ):
        with pytest.raises((Unavailable, ChecksumMismatch)):
            use()
        assert store.corrupt() == [ONE]
    store.write(TWO, V1, 3, b"def")
    store.flush()
    assert content(store, TWO) == b"abcdef" and machine.fatal == []
    store.delete(ONE)
    assert store.corrupt() == []
    store.close()


def test_a_journal_that_a_flush_moved_to_the_index_meanwhile_is_no_failed_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, durability="sync")
    store = machine.open()
    sync = JournalSegment.sync

    def sync_after_a_flush(segment: JournalSegment) -> None:
        monkeypatch.setattr(JournalSegment, "sync", sync)
        flushing = threading.Thread(target=store.flush)
        flushing.start()
        flushing.join(20)
        assert not flushing.is_alive()
        sync(segment)

    monkeypatch.setattr(JournalSegment, "sync", sync_after_a_flush)
    create(store)
    store.write(ONE, V1, 0, b"abc")
    assert machine.fatal == []
    store = machine.open_after_power_cut(store)
    assert content(store) == b"abc"


@pytest.mark.parametrize("durability", ["flush", "sync"])
def test_a_failed_sync_ends_it_all(tmp_path: Path, durability: str) -> None:
    machine = Machine(tmp_path, durability="sync" if durability == "sync" else "flush")
    store = machine.open()
    create(store)
    store.write(ONE, V1, 0, b"abc")
    machine.disk.failing_sync = True
    with pytest.raises(OutcomeUnknown):
        if durability == "sync":
            store.write(ONE, V1, 3, b"def")
        else:
            store.versions.bump(ONE, V2, oldest_version=V1, create=False, master_term=T1)
    assert len(machine.fatal) == 1
    machine.disk.failing_sync = False
    for use in (
        lambda: store.write(ONE, V1, 3, b"def"),
        lambda: store.versions.bump(ONE, V2, oldest_version=V1, create=False, master_term=T1),
        store.flush,
    ):
        with pytest.raises(Unavailable):
            use()
    assert len(machine.fatal) == 1
    store.close()


NAMES = sorted(name for name in failpoints.NAMES if name.startswith("chunk."))


@pytest.mark.parametrize("durability", ["flush", "sync"])
@pytest.mark.parametrize("action", ["raise", "nospace"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ends_with_flush", [False, True])
def test_an_error_of_the_disk_at_any_step_is_told_truly(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    action: str,
    durability: str,
    ends_with_flush: bool,
) -> None:
    """A definite error has changed nothing, neither now nor after a restart; an indefinite one may have."""
    machine = Machine(tmp_path, durability="sync" if durability == "sync" else "flush")
    store = machine.open()
    create(store)
    base = random_bytes(150_000)
    store.write(ONE, V1, 0, base)
    monkeypatch.setattr(failpoints, "_armed", {name: failpoints._Armed(action, 1)})
    piece = random_bytes(70_000, 1)
    allowed = {base}
    for offset in (150_000, 30_000):
        mutated = {old[:offset] + piece + old[offset + len(piece) :] for old in allowed}
        try:
            store.write(ONE, V1, offset, piece)
            allowed = mutated
        except GfsError as error:
            if not error.definite:
                allowed = allowed | mutated
        if not machine.fatal and store.corrupt() == []:
            assert content(store) in allowed
    if ends_with_flush:
        try:
            store.flush()
        except GfsError:
            pass
    monkeypatch.setattr(failpoints, "_armed", {})
    after = machine.open_after_kill(store)
    assert content(after) in allowed
    assert after.corrupt() == []
    after.abandon()


# --- groups of writers --------------------------------------------------------------------------


def test_writers_that_wait_for_the_disk_share_its_syncs(tmp_path: Path) -> None:
    machine = Machine(tmp_path, durability="sync")
    store = machine.open()
    handles = [ChunkHandle(number) for number in range(1, 9)]
    for handle in handles:
        create(store, handle)
    rounds: list[int] = []
    everybody_waits = threading.Event()
    commit, waiting = store._access.index.commit, store._access.commits

    def counted(changes: list[object]) -> None:
        rounds.append(len(changes))
        if len(rounds) == 1:
            everybody_waits.wait(10)
        commit(changes)  # type: ignore[arg-type]

    store._access.index.commit = counted  # type: ignore[method-assign, assignment]
    threads = [threading.Thread(target=store.write, args=(handle, V1, 0, b"abc")) for handle in handles]
    for thread in threads:
        thread.start()
    while len(waiting._waiting) < len(handles) - rounds[0] if rounds else True:
        threading.Event().wait(0.001)
    everybody_waits.set()
    for thread in threads:
        thread.join()
    assert sum(rounds) == len(handles) and len(rounds) == 2
    after = machine.open_after_power_cut(store)
    assert all(content(after, handle) == b"abc" for handle in handles)
    after.abandon()


def test_many_writers_and_a_flusher_lose_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    store = machine.open()
    failures: list[BaseException] = []

    def work(handle: ChunkHandle) -> None:
        try:
            create(store, handle)
            for number in range(60):
                store.write(handle, V1, number * 300, bytes([number]) * 300)
                if number % 15 == 14:
                    store.write(handle, V1, 100, bytes([number]) * 100)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(ChunkHandle(number),)) for number in range(1, 6)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        store.flush()
    for thread in threads:
        thread.join()
    assert failures == []
    expected = bytearray(b"".join(bytes([number]) * 300 for number in range(60)))
    expected[100:200] = bytes([59]) * 100
    after = machine.open_after_kill(store)
    for number in range(1, 6):
        assert content(after, ChunkHandle(number)) == expected
    after.abandon()


def test_padding_fills_the_chunk_with_zeros_and_survives_a_power_cut(tmp_path: Path) -> None:
    machine = Machine(tmp_path, durability="sync")
    store = machine.open()
    create(store)
    begins = CHUNK_BYTES - BLOCK - 1
    store.write(ONE, V1, begins - 1, b"|")
    assert store.pad(ONE, V1, begins) == CHUNK_BYTES
    store = machine.open_after_power_cut(store)
    tail = bytearray(BLOCK + 3)
    assert store.read_into(ONE, V1, begins - 1, memoryview(tail)) == BLOCK + 2
    assert tail[: BLOCK + 2] == b"|" + bytes(BLOCK + 1)
    store.check_invariants()
    store.close()


def test_padding_never_covers_committed_bytes(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    store = machine.open()
    create(store)
    store.write(ONE, V1, 0, b"0123456789")
    with pytest.raises(InvalidArgument):
        store.pad(ONE, V1, 9)
    assert content(store) == b"0123456789"
    store.close()
