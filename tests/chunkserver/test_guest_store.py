"""Copies that are no replicas yet, over kills and power cuts (GFS §4.3, I5, I8)."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfs.checksums import piece_checksums
from gfs.chunkserver.replica_store import ReplicaStore
from gfs.errors import NotFound, StaleVersion
from gfs.vocabulary import ChunkHandle, ChunkVersion
from tests.chunkserver.replicas import BLOCK, ONE, T1, TWO, V1, V2, V3, Machine, content, create

BYTES = bytes(range(256)) * (BLOCK // 256) * 2 + b"the tail"


def begin(store: ReplicaStore, data: bytes = BYTES, version: ChunkVersion = V2) -> list[tuple[int, int]]:
    return store.guests.begin(ONE, version, piece_checksums(0, data), len(data), master_term=T1)


def fetch(
    store: ReplicaStore, data: bytes, pieces: list[tuple[int, int]], version: ChunkVersion = V2
) -> None:
    for offset, size in pieces:
        store.guests.put(ONE, version, offset, memoryview(data)[offset : offset + size])


def finish(store: ReplicaStore, data: bytes = BYTES, version: ChunkVersion = V2) -> None:
    sums = piece_checksums(0, data)
    store.guests.finish(ONE, version, sums, len(data), sealed=False, append_window=b"")


def copy(store: ReplicaStore, data: bytes = BYTES, version: ChunkVersion = V2) -> None:
    fetch(store, data, begin(store, data, version), version)
    finish(store, data, version)


def join(store: ReplicaStore, version: ChunkVersion = V3, oldest: ChunkVersion = V2) -> int:
    return store.versions.bump(
        ONE, version, oldest_version=oldest, create=False, master_term=T1
    ).replaced_version


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_copy_is_a_replica_only_after_it_has_joined(machine: Machine) -> None:
    store = machine.open()
    copy(store)
    with pytest.raises(NotFound):
        store.status(ONE, V2)
    with pytest.raises(NotFound):
        store.read_into(ONE, V2, 0, memoryview(bytearray(1)))
    assert list(store.reports.inventory()) == []
    changes = store.reports.changes_since(0)
    assert not changes.changed
    assert join(store) == V2
    assert content(store, version=V3) == BYTES
    assert [chunk.handle for chunk in store.reports.changes_since(0).changed] == [ONE]
    store.check_invariants()


def test_only_what_differs_is_fetched_again(machine: Machine) -> None:
    store = machine.open()
    copy(store)
    longer = BYTES[:BLOCK] + b"x" * BLOCK + BYTES[2 * BLOCK :] + b" is longer"
    assert begin(store, longer, V3) == [(BLOCK, BLOCK), (2 * BLOCK, len(longer) - 2 * BLOCK)]
    fetch(store, longer, begin(store, longer, V3), V3)
    finish(store, longer, V3)
    join(store, ChunkVersion(4), V3)
    assert content(store, version=ChunkVersion(4)) == longer


def test_stale_replica_is_hidden_at_once_and_its_good_blocks_are_kept(machine: Machine) -> None:
    store = machine.open()
    create(store)
    store.write(ONE, V1, 0, BYTES + b" never acknowledged")
    cursor = store.reports.changes_since(0).cursor
    assert begin(store) == [(2 * BLOCK, len(BYTES) - 2 * BLOCK)]
    assert store.reports.changes_since(cursor).removed == [ONE]
    with pytest.raises(NotFound):
        store.write(ONE, V1, 0, b"by an old primary")
    fetch(store, BYTES, begin(store))
    finish(store)
    join(store)
    assert content(store, version=V3) == BYTES


def test_copy_that_differs_from_its_source_is_not_whole(machine: Machine) -> None:
    store = machine.open()
    pieces = begin(store)
    fetch(store, b"y" + BYTES[1:], pieces)
    with pytest.raises(StaleVersion, match="differs"):
        finish(store)
    with pytest.raises(NotFound):
        join(store)
    fetch(store, BYTES, begin(store))
    finish(store)


def test_piece_that_comes_late_changes_nothing(machine: Machine) -> None:
    store = machine.open()
    copy(store)
    with pytest.raises(StaleVersion):
        store.guests.put(ONE, V2, 0, memoryview(b"late" * (BLOCK // 4)))
    begin(store, version=V3)
    with pytest.raises(StaleVersion):
        store.guests.put(ONE, V2, 0, memoryview(b"late" * (BLOCK // 4)))


@pytest.mark.parametrize("power_cut", [False, True])
def test_unfinished_copy_is_gone_after_a_crash(machine: Machine, power_cut: bool) -> None:
    store = machine.open()
    create(store, TWO)
    fetch(store, BYTES, begin(store)[:1])
    store.flush()
    store = machine.open_after_power_cut(store) if power_cut else machine.open_after_kill(store)
    assert store.chunk_count == 1 and [chunk.handle for chunk in store.reports.inventory()] == [TWO]
    assert not store.corrupt()
    copy(store)
    join(store)
    assert content(store, version=V3) == BYTES


@pytest.mark.parametrize("power_cut", [False, True])
@pytest.mark.parametrize("flushed", [False, True])
def test_whole_copy_survives_a_crash_because_it_may_be_a_member(
    machine: Machine, power_cut: bool, flushed: bool
) -> None:
    store = machine.open()
    copy(store)
    if flushed:
        store.flush()
    store = machine.open_after_power_cut(store) if power_cut else machine.open_after_kill(store)
    assert [(held.handle, held.version) for held in store.guests.whole()] == [(ONE, V2)]
    bumped = store.versions.bump(ONE, V3, oldest_version=V2, create=False, master_term=T1)
    assert bumped == (V2, len(BYTES), False)
    assert content(store, version=V3) == BYTES
    assert store.guests.whole() == []


@pytest.mark.parametrize("power_cut", [False, True])
def test_replica_that_came_from_a_copy_survives_a_crash(machine: Machine, power_cut: bool) -> None:
    store = machine.open()
    copy(store)
    join(store)
    store = machine.open_after_power_cut(store) if power_cut else machine.open_after_kill(store)
    assert content(store, version=V3) == BYTES
    assert store.status(ONE, V3).version == V3


def test_idle_copy_is_dropped_but_never_a_whole_one_or_a_replica(machine: Machine) -> None:
    store = machine.open()
    begin(store)
    store.guests.drop_unfinished(ONE)
    assert store.chunk_count == 0
    copy(store)
    store.guests.drop_unfinished(ONE)
    assert store.guests.whole()
    join(store)
    store.guests.drop_unfinished(ONE)
    store.guests.drop_unfinished(ChunkHandle(99))
    assert content(store, version=V3) == BYTES


def test_damaged_stale_replica_is_deleted_before_it_is_filled_anew(machine: Machine) -> None:
    store = machine.open()
    create(store)
    store.write(ONE, V1, 0, BYTES)
    store._access.damage.mark(ONE, "found by the test")
    assert begin(store)[0][0] == 0
    fetch(store, BYTES, begin(store))
    finish(store)
    assert not store.corrupt()
    join(store)
    assert content(store, version=V3) == BYTES


def test_damaged_member_is_not_deleted_on_the_word_of_a_copy(machine: Machine) -> None:
    store = machine.open()
    create(store, version=V2)
    store._access.damage.mark(ONE, "found by the test")
    with pytest.raises(StaleVersion):
        begin(store)
    assert store.corrupt() == [ONE] and store.chunk_count == 1
