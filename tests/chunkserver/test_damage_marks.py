"""Damaged replicas: marked for good wherever the damage is met, and never worth a whole server (GFS §5.2)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from gfs.chunkserver.replica_store import ReplicaStore
from gfs.errors import ChecksumMismatch, CorruptState, NoSpace, OutcomeUnknown, StaleVersion, Unavailable
from gfs.messages.heartbeat import HeldChunk
from gfs.vocabulary import ChunkHandle, ChunkVersion
from tests.chunkserver.replicas import BLOCK, ONE, T1, TWO, V1, V2, Machine, chunk_path, content, create
from tests.paper.boxes import keeps


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def rot(machine: Machine, offset: int, handle: ChunkHandle = ONE) -> None:
    file = machine.disk.open(chunk_path(handle))
    (byte,) = file.pread(1, offset)
    file.pwrite(bytes([byte ^ 0x10]), offset)
    file.close()


def rot_entry(store: ReplicaStore, handle: ChunkHandle) -> None:
    """Flip a bit of the chunk's entry in chunks.lmdb, below what is in memory."""
    index = store._access.index
    with index._tables._environment.begin(write=True) as transaction:
        key = int(handle).to_bytes(8, "big")
        value = bytearray(transaction.get(key, db=index._tables._headers))
        value[-1] ^= 1
        transaction.put(key, bytes(value), db=index._tables._headers)
    index._cached.pop(handle, None)


def opened(machine: Machine, *handles: ChunkHandle, length: int = 3 * BLOCK + 11) -> ReplicaStore:
    store = machine.open()
    for handle in handles or (ONE,):
        create(store, handle)
        store.write(handle, V1, 0, os.urandom(length))
    store.flush()
    return store


def read_all(store: ReplicaStore) -> None:
    content(store, ONE)


def overwrite_first_block(store: ReplicaStore) -> None:
    store.write(ONE, V1, 100, b"x" * (BLOCK + 50))


def overwrite_last_block(store: ReplicaStore) -> None:
    store.write(ONE, V1, BLOCK, b"x" * (2 * BLOCK + 5))


def cut(store: ReplicaStore) -> None:
    store.versions.align(ONE, V1, 5, master_term=T1)


def scrub(store: ReplicaStore) -> None:
    buffer = memoryview(bytearray(8 * BLOCK))
    store.verifier.verify(ONE, 0, buffer)


@keeps("checksums")
@pytest.mark.parametrize(
    ("where", "find"),
    [
        (5, read_all),
        (3 * BLOCK + 10, read_all),
        (7, overwrite_first_block),
        (3 * BLOCK + 8, overwrite_last_block),
        (2, cut),
        (2 * BLOCK, scrub),
    ],
)
def test_damage_met_anywhere_marks_the_replica_for_good_and_is_told_at_once(
    machine: Machine, where: int, find: Callable[[ReplicaStore], None]
) -> None:
    """§5.2: a chunk server verifies what it reads, and the first and last block of an overwrite before that;
    a mismatch is an error to the requester and is reported to the master."""
    store = opened(machine)
    told: list[ChunkHandle] = []
    store.on_damage(told.append)
    cursor = store.reports.changes_since(0).cursor
    rot(machine, where)
    before = machine.disk.open(chunk_path()).pread(4 * BLOCK, 0)
    for _ in range(2):
        with pytest.raises(ChecksumMismatch):
            find(store)
    assert machine.disk.open(chunk_path()).pread(4 * BLOCK, 0) == before  # nothing was written over it
    assert told == [ONE] and store.corrupt() == [ONE]
    assert store.reports.changes_since(cursor).changed == [HeldChunk(ONE, V1, 3 * BLOCK + 11)]
    after = machine.open_after_kill(store)
    assert after.corrupt() == [ONE] and "block" in after.corruption(ONE)
    with pytest.raises(ChecksumMismatch):
        after.versions.bump(ONE, V2, oldest_version=V1, create=False, master_term=T1)
    with pytest.raises(ChecksumMismatch):
        after.write(ONE, V1, 3 * BLOCK + 11, b"more")
    after.delete(ONE)
    again = machine.open_after_kill(after)
    assert again.corrupt() == []
    create(again, ONE)
    assert again.corrupt() == []
    again.abandon()


def test_the_good_blocks_of_a_damaged_replica_stay_readable(machine: Machine) -> None:
    """It may be the last one there is."""
    store = opened(machine)
    rot(machine, 2 * BLOCK)
    with pytest.raises(ChecksumMismatch) as caught:
        read_all(store)
    assert caught.value.details == {"handle": "1", "block": "2"}
    buffer = memoryview(bytearray(2 * BLOCK))
    assert store.read_into(ONE, V1, 0, buffer) == 2 * BLOCK
    assert store.read_into(ONE, V1, 3 * BLOCK, buffer) == 11
    store.abandon()


def test_every_bad_block_is_named_when_asked_for(machine: Machine) -> None:
    store = opened(machine)
    found = store.verifier.bad_blocks(ONE, V1)
    assert found.bad_blocks == [] and len(found.block_checksums) == 4 and found.length_bytes == 3 * BLOCK + 11
    rot(machine, 1)
    rot(machine, 3 * BLOCK + 10)
    assert store.verifier.bad_blocks(ONE, V1).bad_blocks == [0, 3]
    assert store.corrupt() == [ONE]
    store.abandon()


def test_a_mark_that_a_full_disk_could_not_take_is_kept_with_a_later_flush(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(machine)
    rot(machine, 5)
    with monkeypatch.context() as full:

        def refuse(_: object) -> None:
            raise NoSpace("full")

        full.setattr(store._access.index, "note_damage", refuse)
        with pytest.raises(ChecksumMismatch):
            read_all(store)
        assert store.corrupt() == [ONE]
    store.flush()
    after = machine.open_after_kill(store)
    assert after.corrupt() == [ONE]
    after.abandon()


def test_a_mark_does_not_outlive_its_replica_though_a_kill_comes_between(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(machine, ONE, TWO)
    rot(machine, 5)
    with pytest.raises(ChecksumMismatch):
        read_all(store)
    monkeypatch.setattr(store._access.index, "note_damage", lambda _: None)
    store.delete(ONE)
    after = machine.open_after_kill(store)
    assert after.corrupt() == []
    create(after, ONE)
    assert content(after, ONE) == b""
    assert machine.open_after_kill(after).corrupt() == []


# --- the index rots -----------------------------------------------------------------------------


def test_a_rotten_entry_met_while_it_runs_is_reported_as_a_damaged_replica(machine: Machine) -> None:
    store = opened(machine, ONE, TWO)
    cursor = store.reports.changes_since(0).cursor
    store.close()
    store = machine.open()
    cursor = store.reports.changes_since(0).cursor
    rot_entry(store, ONE)
    with pytest.raises(CorruptState):
        content(store, ONE)
    changes = store.reports.changes_since(cursor)
    assert changes.complete and changes.changed == [HeldChunk(ONE, ChunkVersion(0), 0)]
    assert store.corrupt() == [ONE]
    assert [held.version for held in store.reports.inventory()] == [0, V1]
    assert len(content(store, TWO)) == 3 * BLOCK + 11
    store.delete(ONE)
    assert store.corrupt() == [] and [held.handle for held in store.reports.inventory()] == [TWO]
    store.abandon()


def test_a_rotten_entry_that_the_journal_speaks_of_costs_its_chunk_alone(machine: Machine) -> None:
    store = opened(machine, ONE, TWO)
    for handle in (ONE, TWO):
        store.write(handle, V1, 3 * BLOCK + 11, b"in the journal only")
    rot_entry(store, ONE)
    after = machine.open_after_kill(store)
    assert after.corrupt() == [ONE]
    assert content(after, TWO).endswith(b"in the journal only")
    after.delete(ONE)
    after = machine.open_after_kill(after)  # the deletion is replayed over the rotten entry
    assert after.corrupt() == [] and after.chunk_count == 1
    after.abandon()


def test_rotten_checksums_are_damage_of_their_blocks(machine: Machine) -> None:
    store = opened(machine)
    store.close()
    store = machine.open()
    index = store._access.index
    with index._tables._environment.begin(write=True) as transaction:
        key = int(ONE).to_bytes(8, "big") + (0).to_bytes(2, "big")
        row = bytearray(transaction.get(key, db=index._tables._rows))
        row[5] ^= 1  # of block 1
        transaction.put(key, bytes(row), db=index._tables._rows)
    with pytest.raises(ChecksumMismatch):
        content(store, ONE)
    assert store.verifier.bad_blocks(ONE, V1).bad_blocks == [1]
    store.abandon()


def test_an_index_that_cannot_be_walked_takes_the_server_out_of_the_cluster(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Better its replicas count as lost, and are made anew, than that masters are told of a part of them."""
    store = opened(machine)

    class RottenEnvironment:
        def begin(self) -> None:
            raise lmdb.CorruptedError("a page is not what it was")

    with monkeypatch.context() as rotten:
        rotten.setattr(store._access.index._tables, "_environment", RottenEnvironment())
        with pytest.raises(OutcomeUnknown):
            list(store.reports.inventory())
    assert len(machine.fatal) == 1 and "chunks.lmdb cannot be walked" in machine.fatal[0]
    store.abandon()


# --- mending from others ------------------------------------------------------------------------


class Source:
    """Another replica of the chunk, good or not: gives what it has at an offset."""

    def __init__(self, data: bytes, *missing: int) -> None:
        self.data, self.missing = data, missing
        self.asked: list[int] = []

    def __call__(self, offset: int, buffer: memoryview) -> bool:
        self.asked.append(offset // BLOCK)
        if offset // BLOCK in self.missing:
            return False
        buffer[:] = self.data[offset : offset + len(buffer)]
        return True


def damaged(machine: Machine, *offsets: int) -> tuple[ReplicaStore, bytes]:
    store = opened(machine)
    data = content(store)
    for offset in offsets:
        rot(machine, offset)
    assert store.verifier.bad_blocks(ONE, V1).bad_blocks == sorted({offset // BLOCK for offset in offsets})
    return store, data


def test_bad_blocks_are_put_back_from_others_and_the_mark_ends_when_none_is_left(machine: Machine) -> None:
    store, data = damaged(machine, 5, 2 * BLOCK, 3 * BLOCK + 2)
    cursor = store.reports.changes_since(0).cursor
    assert store.verifier.mend(ONE, V1, Source(data, 2), master_term=T1) == (2, [2])
    assert store.corrupt() == [ONE]
    source = Source(data)
    assert store.verifier.mend(ONE, V1, source, master_term=T1) == (1, [])
    assert source.asked == [2]
    assert store.corrupt() == [] and content(store) == data
    assert [held.handle for held in store.reports.changes_since(cursor).changed] == [
        ONE
    ]  # the masters hear of it
    after = machine.open_after_power_cut(store)
    assert after.corrupt() == [] and content(after) == data
    assert len(data) == after.status(ONE, V1).length_bytes
    after.abandon()


def test_a_short_file_is_mended_too(machine: Machine) -> None:
    store = opened(machine)
    data = content(store)
    file = machine.disk.open(chunk_path())
    file.truncate(BLOCK + 100)
    file.close()
    assert store.verifier.mend(ONE, V1, Source(data), master_term=T1) == (3, [])
    assert store.corrupt() == [] and content(store) == data
    store.abandon()


def test_bytes_with_another_checksum_are_never_written(machine: Machine) -> None:
    store, data = damaged(machine, 5)
    wrong = bytes(len(data))
    before = machine.disk.open(chunk_path()).pread(BLOCK, 0)
    assert store.verifier.mend(ONE, V1, Source(wrong), master_term=T1) == (0, [0])
    assert machine.disk.open(chunk_path()).pread(BLOCK, 0) == before
    assert store.corrupt() == [ONE]
    store.abandon()


def test_a_replica_whose_damage_was_a_passing_fault_is_whole_again_without_any_source(
    machine: Machine,
) -> None:
    store, data = damaged(machine, 5)
    rot(machine, 5)  # the bit is back: it was the cable
    assert store.verifier.mend(ONE, V1, Source(data, 0, 1, 2, 3), master_term=T1) == (0, [])
    assert store.corrupt() == []
    store.abandon()


def test_a_missing_file_is_not_made_anew_over_what_may_still_be_read_through_its_descriptor(
    machine: Machine,
) -> None:
    store = opened(machine)
    data = content(store)
    machine.disk.unlink(chunk_path())
    with pytest.raises(Unavailable):
        store.verifier.mend(ONE, V1, Source(data), master_term=T1)
    assert store.corrupt() == [ONE] and not machine.disk.exists(chunk_path())
    store.abandon()


def test_a_chunk_that_changes_while_it_is_mended_is_left_alone(machine: Machine) -> None:
    store, data = damaged(machine, 5)

    def fetch(offset: int, buffer: memoryview) -> bool:
        store.delete(ONE)
        create(store, ONE, V2)
        return Source(data)(offset, buffer)

    with pytest.raises(StaleVersion):
        store.verifier.mend(ONE, V1, fetch, master_term=T1)
    assert store.corrupt() == [] and content(store, ONE, V2) == b""
    store.abandon()
