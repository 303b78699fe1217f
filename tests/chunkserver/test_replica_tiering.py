"""Replicas whose bytes lie on an object service: moved out, read, brought back; faults and power cuts."""

from __future__ import annotations

import itertools
import random
from array import array
from pathlib import Path

import pytest

from chaos.simulation.disk import ForgetfulDisk
from gfs.checksums import piece_checksums
from gfs.chunkserver.core.tier_object import EXTENT_BYTES, object_bytes
from gfs.chunkserver.replica_store import ReplicaStore
from gfs.chunkserver.replica_tiering import ReplicaTiering
from gfs.chunkserver.stores.file import FileStore
from gfs.chunkserver.stores.interface import StoreUsage
from gfs.chunkserver.stores.tiered import TieredStore
from gfs.errors import ChecksumMismatch, GfsError, Unavailable
from gfs.vocabulary import CHUNK_BYTES, MIB, ChunkHandle
from tests.chunkserver.replicas import BLOCK, ONE, T1, TWO, V1, V2, Machine, chunk_path, content, create
from tests.fakes.object_service import FakeObjectService

BYTES = bytes(range(256)) * (2 * EXTENT_BYTES // 256) + b"a partial block at the end"


class TieredMachine(Machine):
    """A chunk server's disk, and the object service it knows. The service outlives power cuts."""

    def __init__(self, path: Path, *, cache_bytes: int = 4 * MIB) -> None:
        super().__init__(path, ForgetfulDisk())
        self.service = FakeObjectService()
        self.cache_bytes = cache_bytes
        self._tokens = map(str, itertools.count())

    def open_tier(self) -> TieredStore:
        return TieredStore(
            FileStore(self.disk, "/chunks", usage=lambda: StoreUsage(2**40, 2**40)),
            self.service,
            self.disk,
            "/tier",
            server="server-1",
            token=lambda: next(self._tokens),
            cache_bytes=self.cache_bytes,
        )

    def open(self) -> ReplicaStore:
        self.tier = self.open_tier()
        opened = ReplicaStore.open(
            self.directory, self.tier, self.disk, durability=self.durability, on_fatal=self.fatal.append
        )
        self.tiering = ReplicaTiering(opened._access, self.tier, flush=opened.flush)
        return opened

    def chunk_objects(self) -> list[str]:
        return [name for name in sorted(self.service.objects) if not name.endswith("/here")]


@pytest.fixture
def machine(tmp_path: Path) -> TieredMachine:
    return TieredMachine(tmp_path)


def sealed(store: ReplicaStore, handle: ChunkHandle = ONE, held: bytes = BYTES) -> None:
    create(store, handle)
    store.write(handle, V1, 0, held)
    store.versions.seal(handle, V1, len(held), master_term=T1)


def full(store: ReplicaStore, handle: ChunkHandle = ONE) -> None:
    """A chunk that is full and may still be overwritten: some bytes, and a hole to its end."""
    create(store, handle)
    store.write(handle, V1, 0, BYTES)
    store.pad(handle, V1, len(BYTES))


def head(store: ReplicaStore, handle: ChunkHandle = ONE, length: int = len(BYTES)) -> bytes:
    buffer = bytearray(length)
    assert store.read_into(handle, V1, 0, memoryview(buffer)) == length
    return bytes(buffer)


def test_a_sealed_replica_moves_out_and_is_read_from_there(machine: TieredMachine) -> None:
    store = machine.open()
    sealed(store)
    assert machine.tiering.move_out(ONE)
    assert not machine.disk.exists(chunk_path(ONE))
    [name] = machine.chunk_objects()
    assert len(machine.service.objects[name]) == object_bytes(machine.tier.tiered()[ONE])
    assert content(store) == BYTES
    assert store.corrupt() == []
    assert not machine.tiering.move_out(ONE), "it is there already"


def test_a_tiered_replica_is_found_again_after_kill_and_power_cut(machine: TieredMachine) -> None:
    store = machine.open()
    sealed(store)
    machine.tiering.move_out(ONE)
    store = machine.open_after_kill(store)
    assert content(store) == BYTES
    store = machine.open_after_power_cut(store)
    assert content(store) == BYTES
    assert machine.disk.files_below("/chunks") == []


def test_a_start_needs_no_object_service(machine: TieredMachine) -> None:
    store = machine.open()
    full(store)
    store.write(ONE, V1, 5, b"overwritten just before it moves")
    machine.tiering.move_out(ONE)
    machine.service.fails = {"put", "read", "delete", "names"}
    store = machine.open_after_power_cut(store)
    with pytest.raises(Unavailable):
        head(store)
    assert store.corrupt() == [], "an unreachable service is no damage"
    machine.service.fails = set()
    assert head(store)[5:37] == b"overwritten just before it moves"


def test_reads_ask_the_service_once_for_what_the_cache_holds(machine: TieredMachine) -> None:
    store = machine.open()
    sealed(store)
    machine.tiering.move_out(ONE)
    before = machine.service.reads_of_bytes()
    for _ in range(3):
        buffer = bytearray(BLOCK)
        store.read_into(ONE, V1, BLOCK, memoryview(buffer))
        assert bytes(buffer) == BYTES[BLOCK : 2 * BLOCK]
    assert machine.service.reads_of_bytes() == before + 1


def test_the_cache_never_holds_more_than_its_limit(tmp_path: Path) -> None:
    machine = TieredMachine(tmp_path, cache_bytes=EXTENT_BYTES)
    store = machine.open()
    sealed(store)
    machine.tiering.move_out(ONE)
    for _ in range(2):
        assert content(store) == BYTES
        assert machine.tier.cached_bytes <= EXTENT_BYTES


def test_an_open_chunk_that_has_moved_out_goes_on_growing(machine: TieredMachine) -> None:
    store = machine.open()
    create(store)
    store.write(ONE, V1, 0, BYTES)
    assert machine.tiering.move_out(ONE) == len(BYTES)
    machine.service.calls.clear()
    more = b"more" * 400_000
    store.write(ONE, V1, len(BYTES), more)
    assert machine.service.reads_of_bytes() == 1, "one extent comes back, the partial one"
    assert content(store) == BYTES + more
    store.flush()
    store = machine.open_after_power_cut(store)
    assert content(store) == BYTES + more


def test_short_chunks_stay(machine: TieredMachine) -> None:
    store = machine.open()
    sealed(store)
    assert machine.tiering.move_out(ONE, bytes_min=len(BYTES) + 1) == 0
    assert machine.chunk_objects() == []


def test_a_write_brings_the_bytes_back_first_and_the_object_goes_afterwards(machine: TieredMachine) -> None:
    store = machine.open()
    full(store)
    machine.tiering.move_out(ONE)
    store.write(ONE, V1, 5, b"new")
    expected = BYTES[:5] + b"new" + BYTES[8:]
    assert head(store) == expected
    assert machine.tiering.partly_back() == [ONE]
    assert machine.tier.collect() == (0, []), "the rest is there still"
    while machine.tiering.bring_back(ONE):
        assert head(store) == expected
    assert machine.tier.tiered() == {}
    assert machine.tier.collect() == (1, [])
    assert machine.chunk_objects() == []
    store.flush()
    store = machine.open_after_power_cut(store)
    assert head(store) == expected


def test_a_write_while_the_service_is_down_changes_nothing(machine: TieredMachine) -> None:
    store = machine.open()
    full(store)
    machine.tiering.move_out(ONE)
    machine.service.fails = {"read"}
    with pytest.raises(GfsError):
        store.write(ONE, V1, 5, b"new")
    machine.service.fails = set()
    assert ONE in machine.tier.tiered()
    store = machine.open_after_power_cut(store)
    assert head(store)[8:] == BYTES[8:]
    assert store.corrupt() == []


def test_a_copy_of_a_tiered_chunk_is_made_of_its_bytes(machine: TieredMachine) -> None:
    store = machine.open()
    sealed(store)
    machine.tiering.move_out(ONE)
    store.versions.copy_replica(ONE, TWO, V1, oldest_version=V1, master_term=T1)
    assert content(store, TWO) == BYTES
    assert content(store, ONE) == BYTES


def test_a_deleted_replica_leaves_no_object_behind(machine: TieredMachine) -> None:
    store = machine.open()
    sealed(store)
    sealed(store, TWO, b"stays")
    machine.tiering.move_out(ONE)
    machine.tiering.move_out(TWO)
    assert store.delete(ONE, up_to=V1, master_term=T1)
    assert machine.tier.collect() == (1, [])
    assert content(store, TWO) == b"stays"
    store = machine.open_after_power_cut(store)
    assert [chunk.handle for chunk in store.reports.inventory()] == [TWO]


def test_a_grant_raises_the_version_of_a_tiered_chunk_without_asking_the_service(
    machine: TieredMachine,
) -> None:
    store = machine.open()
    full(store)
    machine.tiering.move_out(ONE)
    machine.service.fails = {"put", "read", "delete", "names"}
    store.versions.bump(ONE, V2, oldest_version=V1, create=False, master_term=T1)
    store = machine.open_after_power_cut(store)
    machine.service.fails = set()
    buffer = bytearray(len(BYTES))
    assert store.read_into(ONE, V2, 0, memoryview(buffer)) == len(BYTES)
    assert bytes(buffer) == BYTES


def test_a_chunk_that_was_written_to_becomes_a_new_object_when_it_is_idle_again(
    machine: TieredMachine,
) -> None:
    store = machine.open()
    full(store)
    machine.tiering.move_out(ONE)
    store.write(ONE, V1, EXTENT_BYTES - 2, b"over the end of an extent")
    expected = bytearray(BYTES)
    expected[EXTENT_BYTES - 2 : EXTENT_BYTES + 23] = b"over the end of an extent"
    assert machine.tiering.move_out(ONE)
    assert machine.tier.collect() == (1, [])
    assert machine.disk.files_below("/chunks") == []
    store = machine.open_after_power_cut(store)
    assert head(store) == expected
    assert len(machine.chunk_objects()) == 1


@pytest.mark.parametrize("length", [EXTENT_BYTES + 5, EXTENT_BYTES, BLOCK, 0])
def test_a_chunk_is_cut_and_grows_again_while_it_is_out(machine: TieredMachine, length: int) -> None:
    machine.durability = "sync"
    store = machine.open()
    create(store)
    store.write(ONE, V1, 0, BYTES)
    machine.tiering.move_out(ONE)
    store.versions.align(ONE, V1, length, master_term=T1)
    assert content(store) == BYTES[:length]
    store = machine.open_after_power_cut(store)
    store.write(ONE, V1, length + 10, b"behind a gap")
    expected = BYTES[:length] + bytes(10) + b"behind a gap"
    assert content(store) == expected
    store.flush()
    store = machine.open_after_power_cut(store)
    assert content(store) == expected
    assert machine.tiering.move_out(ONE)
    assert content(store) == expected
    assert store.corrupt() == []


def test_a_copy_shares_the_object_of_its_source_and_outlives_it(machine: TieredMachine) -> None:
    store = machine.open()
    full(store)
    machine.tiering.move_out(ONE)
    store.write(ONE, V1, 5, b"new")
    machine.service.fails = {"put", "read", "delete", "names"}
    store.versions.copy_replica(ONE, TWO, V1, oldest_version=V1, master_term=T1)
    machine.service.fails = set()
    assert store.delete(ONE, up_to=V1, master_term=T1)
    assert machine.tier.collect() == (0, [])
    store.write(TWO, V1, 0, b"changed")
    store.flush()
    store = machine.open_after_power_cut(store)
    assert head(store, TWO) == b"changed" + b"w" + BYTES[8:]


def test_a_local_part_that_is_missing_costs_one_replica_and_keeps_its_object(machine: TieredMachine) -> None:
    store = machine.open()
    full(store)
    sealed(store, TWO, b"stays")
    machine.tiering.move_out(ONE)
    store.write(ONE, V1, 5, b"new")
    store.flush()
    machine.disk.unlink(chunk_path(ONE))
    store = machine.open_after_kill(store)
    with pytest.raises(GfsError):
        head(store)
    assert store.corrupt() == [ONE]
    assert content(store, TWO) == b"stays"
    assert machine.tier.collect() == (0, [])


def test_a_failed_sync_of_what_came_back_stops_the_server(machine: TieredMachine) -> None:
    store = machine.open()
    full(store)
    machine.tiering.move_out(ONE)
    real = machine.disk.sync_directory

    def failing(path: str) -> None:
        if path != "/tier":
            raise OSError(5, "sync failed")
        real(path)

    machine.disk.sync_directory = failing  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        store.write(ONE, V1, 5, b"new")
    machine.disk.sync_directory = real  # type: ignore[method-assign]
    with pytest.raises(GfsError):
        sealed(store, TWO, b"another")
    assert machine.fatal, "a sync is never retried"
    store = machine.open_after_power_cut(store)
    assert head(store) == BYTES


def test_objects_that_are_lost_are_found_without_a_reader(machine: TieredMachine) -> None:
    store = machine.open()
    sealed(store)
    sealed(store, TWO, b"stays")
    machine.tiering.move_out(ONE)
    machine.tiering.move_out(TWO)
    name = machine.tier.tiered()[ONE].name
    del machine.service.objects[name]
    assert machine.tiering.collect() == 0
    assert store.corrupt() == [ONE]


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_done_to_a_tiered_chunk_its_bytes_are_those_of_the_model(
    machine: TieredMachine, seed: int
) -> None:
    chance = random.Random(seed)
    machine.durability = "sync"
    store = machine.open()
    create(store)
    store.write(ONE, V1, 0, BYTES)
    model = bytearray(BYTES)
    places = [0, 7, BLOCK - 3, EXTENT_BYTES - 5, EXTENT_BYTES, 2 * EXTENT_BYTES - 1, 3 * EXTENT_BYTES + 4]
    for _ in range(40):
        match chance.choice(["write", "append", "out", "out", "back", "cut", "kill", "power", "collect"]):
            case "write":
                offset = min(chance.choice(places), len(model) + 20)
                data = chance.randbytes(chance.choice([1, 300, BLOCK]))
                store.write(ONE, V1, offset, data)
                model.extend(bytes(max(0, offset + len(data) - len(model))))
                model[offset : offset + len(data)] = data
            case "append":
                data = chance.randbytes(chance.choice([1, 3000, BLOCK + 1]))
                store.write(ONE, V1, len(model), data)
                model += data
            case "out":
                machine.tiering.move_out(ONE)
            case "back":
                machine.tiering.bring_back(ONE)
            case "cut":
                length = min(chance.choice(places), len(model))
                store.versions.align(ONE, V1, length, master_term=T1)
                del model[length:]
            case "kill":
                store = machine.open_after_kill(store)
            case "power":
                store = machine.open_after_power_cut(store)
            case "collect":
                machine.tier.collect()
        assert content(store) == model
    assert store.corrupt() == []
    machine.tier.collect()
    assert len(machine.chunk_objects()) == len(machine.tier.tiered())


@pytest.mark.parametrize("verb", ["put", "answer put", "read"])
def test_an_upload_that_fails_leaves_the_replica_where_it_is(machine: TieredMachine, verb: str) -> None:
    store = machine.open()
    sealed(store)
    machine.service.fails = {verb}
    with pytest.raises(Unavailable):
        machine.tiering.move_out(ONE)
    machine.service.fails = set()
    assert machine.tier.tiered() == {}
    assert content(store) == BYTES
    machine.tier.collect()
    assert machine.chunk_objects() == []
    assert machine.tiering.move_out(ONE), "a later try does it"
    assert content(store) == BYTES


def test_an_object_that_comes_back_with_other_bytes_never_replaces_the_local_ones(
    machine: TieredMachine,
) -> None:
    store = machine.open()
    sealed(store)
    machine.service.spoils = 1
    with pytest.raises(ChecksumMismatch):
        machine.tiering.move_out(ONE)
    assert content(store) == BYTES
    assert store.corrupt() == []
    assert machine.service.reads_of_bytes() == 1, "it was read back, and not from the cache"


def test_damaged_local_bytes_are_not_made_an_object(machine: TieredMachine) -> None:
    store = machine.open()
    sealed(store)
    store.flush()
    machine.disk.flip_bit(chunk_path(ONE), 3 * BLOCK)
    with pytest.raises(ChecksumMismatch):
        machine.tiering.move_out(ONE)
    assert machine.chunk_objects() == []


def test_a_writer_beside_the_upload_wins(machine: TieredMachine) -> None:
    store = machine.open()
    full(store)
    written: list[int] = []

    def write_meanwhile(verb: str, name: str) -> None:
        if verb == "answer put" and not name.endswith("/here") and not written:
            written.append(store.write(ONE, V1, 0, b"meanwhile"))

    machine.service.before = write_meanwhile
    assert not machine.tiering.move_out(ONE)
    assert written == [CHUNK_BYTES]
    assert head(store)[:9] == b"meanwhile"
    assert machine.tier.collect() == (1, [])


def test_wrong_bytes_once_are_asked_for_again(machine: TieredMachine) -> None:
    store = machine.open()
    sealed(store)
    machine.tiering.move_out(ONE)
    machine.service.spoils = 1
    assert content(store) == BYTES
    assert store.corrupt() == []


def test_an_object_that_has_rotted_is_damage_and_is_never_served(machine: TieredMachine) -> None:
    store = machine.open()
    sealed(store)
    machine.tiering.move_out(ONE)
    [name] = machine.chunk_objects()
    good = machine.service.objects[name]
    machine.service.objects[name] = good[:BLOCK] + bytes([good[BLOCK] ^ 4]) + good[BLOCK + 1 :]
    with pytest.raises(ChecksumMismatch):
        content(store)
    assert store.corrupt() == [ONE]


def test_a_lost_object_is_damage_only_where_the_service_is_the_right_one(machine: TieredMachine) -> None:
    store = machine.open()
    sealed(store)
    machine.tiering.move_out(ONE)
    kept = dict(machine.service.objects)
    machine.service.objects.clear()  # as behind a misnamed bucket
    with pytest.raises(Unavailable):
        content(store)
    assert store.corrupt() == []
    store = machine.open_after_kill(store)
    sealed(store, TWO, b"another")
    with pytest.raises(Unavailable):
        machine.tiering.move_out(TWO)
    machine.service.objects = {name: held for name, held in kept.items() if name.endswith("/here")}
    with pytest.raises(GfsError):
        content(store)
    assert store.corrupt() == [ONE]


def test_a_sweep_spares_objects_that_are_on_their_way(machine: TieredMachine) -> None:
    store = machine.open()
    sealed(store)

    def sweep_meanwhile(verb: str, name: str) -> None:
        if verb == "answer put" and not name.endswith("/here"):
            assert machine.tier.collect() == (0, [])

    machine.service.before = sweep_meanwhile
    assert machine.tiering.move_out(ONE)
    assert content(store) == BYTES


def test_a_row_that_cannot_be_read_costs_one_replica_and_keeps_its_object(machine: TieredMachine) -> None:
    store = machine.open()
    sealed(store)
    sealed(store, TWO, b"stays")
    machine.tiering.move_out(ONE)
    machine.tiering.move_out(TWO)
    store.flush()
    machine.disk.flip_bit(f"/tier/{ONE:016x}.row", 9)
    store = machine.open_after_kill(store)
    assert store.corrupt() == [ONE]
    assert content(store, TWO) == b"stays"
    assert machine.tier.collect() == (0, [])
    assert len(machine.chunk_objects()) == 2


def test_a_row_whose_sync_failed_freezes_the_chunk_and_loses_nothing(machine: TieredMachine) -> None:
    store = machine.open()
    full(store)
    store.flush()
    syncs: list[int] = []
    real = machine.disk.sync_directory

    def failing(path: str) -> None:
        if path == "/tier" and not syncs:
            syncs.append(1)
            raise OSError(5, "sync failed")
        real(path)

    machine.disk.sync_directory = failing  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        machine.tiering.move_out(ONE)
    assert head(store) == BYTES
    with pytest.raises(GfsError):
        store.write(ONE, V1, 0, b"would be lost when the row comes back")
    store = machine.open_after_power_cut(store)
    assert head(store) == BYTES
    store.write(ONE, V1, 0, b"now it may")
    assert head(store)[:10] == b"now it may"


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("cut_after", [2, 5, 8, 11, 14, 17])
def test_no_power_cut_loses_a_byte_of_a_replica_that_moves_out_and_back(
    machine: TieredMachine, cut_after: int, torn: bool
) -> None:
    store = machine.open()
    full(store)
    store.flush()
    machine.disk.cut_power_after(cut_after, torn=torn)
    acknowledged = False
    try:
        machine.tiering.move_out(ONE)
        store.write(ONE, V1, 5, b"new")
        acknowledged = True
        machine.tier.collect()
        machine.tiering.move_out(ONE)
        machine.tier.collect()
    except (GfsError, OSError):
        assert machine.disk.powered_off
    store = machine.open_after_power_cut(store, torn=torn)
    allowed = [BYTES[:5] + b"new" + BYTES[8:]]
    if not acknowledged:
        allowed.append(BYTES)
    assert head(store) in allowed
    assert store.corrupt() == []
    machine.tier.collect()
    assert len(machine.chunk_objects()) == len(machine.tier.tiered())
    store.write(ONE, V1, 5, b"end")
    assert head(store)[5:8] == b"end"


@pytest.mark.parametrize("torn", [False, True])
def test_no_power_cut_between_any_two_steps_of_the_store_loses_a_byte(tmp_path: Path, torn: bool) -> None:
    sums = array("I", piece_checksums(0, BYTES))
    for cut_after in itertools.count(1):
        machine = TieredMachine(tmp_path / str(cut_after))
        tier = machine.open_tier()
        tier.create(ONE)
        tier.write_at(ONE, BYTES, 0)
        tier.sync(ONE)
        tier.sync_names()
        machine.disk.cut_power_after(cut_after, torn=torn)
        expected = BYTES
        try:
            tier.let_go(tier.upload(ONE, V1, len(BYTES), sums))
            tier.make_local(ONE, 0, 3)
            expected = b"new" + BYTES[3:]
            tier.write_at(ONE, b"new", 0)
            tier.sync(ONE)
            tier.collect()
            tier.let_go(tier.upload(ONE, V2, len(BYTES), array("I", piece_checksums(0, expected))))
            tier.collect()
        except OSError:
            assert machine.disk.powered_off
        was_cut = machine.disk.powered_off
        if not was_cut:
            machine.disk.power_cut(torn=torn)
        machine.disk.power_on()
        tier = machine.open_tier()
        held = bytearray(len(BYTES))
        assert tier.read_into(ONE, memoryview(held), 0) == len(BYTES), cut_after
        assert held[3:] == BYTES[3:], cut_after
        pairs = zip(held[:3], BYTES[:3], expected[:3], strict=True)  # the last write may be torn
        assert all(byte in either for byte, *either in pairs), cut_after
        assert was_cut or held == expected
        tier.collect()
        assert len(machine.chunk_objects()) == len(tier.tiered()), cut_after
        if not was_cut:
            assert cut_after > 10
            return
