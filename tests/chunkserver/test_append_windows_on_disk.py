"""The append window on the disk: after any stop it tells of exactly the records in the chunk (I9)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from chaos.simulation.disk import ForgetfulDisk
from gfs.chunkserver.replica_store import Durability, ReplicaStore
from gfs.errors import CorruptState
from gfs.messages.replicas import AppendedRecord
from gfs.vocabulary import ClientId
from tests.chunkserver.replicas import BLOCK, ONE, T1, V1, V2, Machine, create

CLIENTS = (ClientId(1), ClientId(2))
Appended = dict[tuple[ClientId, int], tuple[int, int]]  # offset and end of each record


def append(store: ReplicaStore, chance: random.Random, appended: Appended) -> None:
    """One batch of records of both clients, none of them settled."""
    begin = max((end for _, end in appended.values()), default=0)
    end, records = begin, []
    for _ in range(chance.randint(1, 3)):
        client = chance.choice(CLIENTS)
        sequence = 1 + max((s for c, s in appended if c == client), default=0)
        length = chance.randint(1, BLOCK)
        records.append(AppendedRecord(client, sequence, 0, length))
        appended[client, sequence] = (end, end + length)
        end += length
    assert store.write(ONE, V1, begin, chance.randbytes(end - begin), None, records) == end


def check(store: ReplicaStore, appended: Appended, version: int = V1) -> int:
    """The window fits the committed length; returns that."""
    length = store.committed_length(ONE, V1 if version == V1 else V2)
    window = store.append_window(ONE, V1 if version == V1 else V2)
    window.check_invariants()
    for (client, sequence), (offset, end) in appended.items():
        place = window.find(client, sequence, repeated=True)
        if end <= length:
            assert place is not None and (place.offset_bytes, place.end_bytes) == (offset, end)
        else:
            assert place is None
    return length


@pytest.mark.parametrize("durability", ["flush", "sync"])
@pytest.mark.parametrize("seed", range(12))
def test_after_a_power_cut_the_window_fits_what_is_left(
    tmp_path: Path, seed: int, durability: Durability
) -> None:
    chance = random.Random(seed)
    machine = Machine(tmp_path, ForgetfulDisk(seed), durability=durability)
    store = machine.open()
    create(store)
    appended: Appended = {}
    for _ in range(12):
        append(store, chance, appended)
        if chance.random() < 0.2:
            store.flush()
    acknowledged = store.committed_length(ONE, V1)
    store = machine.open_after_power_cut(store)
    left = check(store, appended)
    assert left <= acknowledged and (durability == "flush" or left == acknowledged)
    store = machine.open_after_kill(store)
    assert check(store, appended) == left
    store.close()
    store = machine.open()
    assert check(store, appended) == left
    store.close()


@pytest.mark.parametrize("seed", range(4))
def test_after_a_kill_every_record_is_known_and_after_a_cut_those_that_are_left(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    machine = Machine(tmp_path)
    store = machine.open()
    create(store)
    appended: Appended = {}
    for _ in range(8):
        append(store, chance, appended)
        if chance.random() < 0.3:
            store = machine.open_after_kill(store)
    full = check(store, appended)
    assert full == max(end for _, end in appended.values())
    store.versions.align(ONE, V1, full // 2)
    for _ in range(2):
        assert check(store, appended) == full // 2
        store = machine.open_after_kill(store)
    store.versions.bump(ONE, V2, oldest_version=V1, create=False, master_term=T1)
    store.flush()
    store = machine.open_after_kill(store)
    assert check(store, appended, V2) == full // 2
    store.close()


def test_a_deleted_chunk_takes_its_window_with_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    store = machine.open()
    create(store)
    appended: Appended = {}
    append(store, random.Random(1), appended)
    store.flush()
    store.delete(ONE)
    create(store)
    assert len(store.append_window(ONE, V1)) == 0
    store = machine.open_after_kill(store)
    assert len(store.append_window(ONE, V1)) == 0
    store.close()


def test_a_damaged_window_is_damage_of_its_chunk(tmp_path: Path) -> None:
    import lmdb

    machine = Machine(tmp_path)
    store = machine.open()
    create(store)
    append(store, random.Random(1), {})
    store.close()
    path = str(Path(machine.directory) / "chunks.lmdb")
    with lmdb.open(path, subdir=False, max_dbs=8) as environment:
        windows = environment.open_db(b"windows")
        with environment.begin(write=True, db=windows) as transaction:
            ((key, value),) = list(transaction.cursor())
            transaction.put(key, value[:-1] + bytes([value[-1] ^ 1]))
    store = machine.open()
    with pytest.raises(CorruptState, match="append window"):
        store.status(ONE, V1)
    assert store.corrupt() == [ONE]
    store.close()
