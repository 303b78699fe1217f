"""Chunks packed in LMDB: few files, nothing lost by a kill, nothing synced lost by a power cut."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import lmdb
import pytest

from chaos.simulation.disk import ForgetfulDisk, PoweredOff
from gfs.chunkserver.replica_store import ReplicaStore
from gfs.chunkserver.stores import lmdb_packed
from gfs.chunkserver.stores.file import FileStore
from gfs.chunkserver.stores.lmdb_packed import LmdbPackedStore
from gfs.chunkserver.stores.memory import MemoryStore
from gfs.chunkserver.stores.plugin import StoreSite
from gfs.chunkserver.stores.store_mark import claim
from gfs.disk import SystemDisk
from gfs.errors import InvalidArgument, UnsupportedVersion
from gfs.inspect.chunk_verify import ChunkVerifier, ReplicaRow, replica_rows
from gfs.testing.chunk_store_contract import ONE, TWO, content
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, KIB, MIB, ChunkHandle
from tests.chunkserver.replicas import V1, create
from tests.chunkserver.replicas import content as replica_content


def small(path: Path, disk: ForgetfulDisk | SystemDisk) -> LmdbPackedStore:
    """A store that flushes and makes files of its chunks after a few kilobytes."""
    return LmdbPackedStore(
        disk, str(path), packed_bytes_max=3000, map_bytes_max=64 * MIB, journal_bytes_max=9000
    )


def files_below(directory: Path) -> int:
    return sum(path.is_file() for path in directory.rglob("*"))


def test_small_chunks_take_less_than_a_fifth_of_the_files(tmp_path: Path) -> None:
    plain = FileStore(SystemDisk(), str(tmp_path / "plain"))
    packed = LmdbPackedStore(SystemDisk(), str(tmp_path / "packed"))
    for number in range(300):
        for store in (plain, packed):
            store.create(ChunkHandle(number))
            store.write_at(ChunkHandle(number), bytes([number % 251]) * 4 * KIB, 0)
    assert 5 * files_below(tmp_path / "packed") <= files_below(tmp_path / "plain")
    packed.close()
    plain.close()


def test_a_chunk_that_outgrows_the_limit_is_a_file_and_no_longer_packed(tmp_path: Path) -> None:
    store = small(tmp_path, SystemDisk())
    store.create(ONE)
    store.write_at(ONE, b"a" * 3000, 0)
    assert list((tmp_path / "chunks").rglob("*.chunk")) == []
    store.write_at(ONE, b"b", 3000)
    assert [path.stat().st_size for path in (tmp_path / "chunks").rglob("*.chunk")] == [3001]
    store.clone(ONE, TWO)
    store.truncate(ONE, 10)
    store.close()
    with lmdb.open(
        str(tmp_path / "packed/packed.lmdb"), subdir=False, max_dbs=2, readonly=True
    ) as environment:
        with environment.begin() as transaction:
            assert transaction.stat(environment.open_db(b"chunks", transaction))["entries"] == 0
    again = small(tmp_path, SystemDisk())
    assert content(again, ONE) == b"a" * 10
    assert content(again, TWO) == b"a" * 3000 + b"b"
    again.close()


@pytest.mark.parametrize("seed", range(8))
def test_a_kill_loses_nothing(tmp_path: Path, seed: int) -> None:
    chance, model = random.Random(seed), dict[ChunkHandle, bytearray]()
    store = small(tmp_path, SystemDisk())
    for step in range(120):
        handle = ChunkHandle(chance.randrange(6))
        if handle not in model:
            store.create(handle)
            model[handle] = bytearray()
        elif chance.random() < 0.1:
            store.delete(handle)
            del model[handle]
        elif chance.random() < 0.1:
            other = ChunkHandle((handle + 1) % 6)
            store.clone(handle, other)
            model[other] = bytearray(model[handle])
        else:
            offset, data = (
                chance.randrange(len(model[handle]) + 1),
                chance.randbytes(chance.randrange(1, 1500)),
            )
            store.write_at(handle, data, offset)
            model[handle][offset : offset + len(data)] = data
        if step % 20 == 19:
            store.abandon()
            store = small(tmp_path, SystemDisk())
            assert {found: content(store, found) for found in store.handles()} == model
    store.close()


@pytest.mark.parametrize("seed", range(60))
def test_synced_bytes_outlive_a_power_cut_at_any_step(tmp_path: Path, seed: int) -> None:
    """Chunks grow only; what was synced is the beginning of what is found, or the chunk was being deleted."""
    chance, disk = random.Random(seed), ForgetfulDisk(seed)
    disk.reorders_names = seed % 2 == 1
    store = small(tmp_path, disk)
    written, synced = dict[ChunkHandle, bytes](), dict[ChunkHandle, bytes]()
    disk.cut_power_after(chance.randrange(150), torn=True)
    cuts = 0
    try:
        while True:
            handle = ChunkHandle(chance.randrange(5))
            if handle not in written:
                store.create(handle)
                written[handle] = b""
            elif chance.random() < 0.04:
                synced.pop(handle, None)
                store.delete(handle)
                del written[handle]
                store.sync_names()
            elif chance.random() < 0.3:
                store.sync(handle)
                if handle not in synced:  # its name is on the disk since
                    store.sync_names()
                synced[handle] = written[handle]
            else:
                data = chance.randbytes(chance.randrange(1, chance.choice([1200, 9000])))
                before, written[handle] = written[handle], written[handle] + data
                store.write_at(handle, data, len(before))
    except (PoweredOff, OSError):
        assert disk.powered_off
        cuts += 1
    assert cuts == 1
    store.abandon()
    disk.power_on()
    after = small(tmp_path, disk)
    for handle, expected in synced.items():
        assert content(after, handle)[: len(expected)] == expected
    after.close()


def test_a_full_disk_refuses_a_write_and_keeps_what_was_there(tmp_path: Path) -> None:
    disk = ForgetfulDisk()
    store = small(tmp_path, disk)
    store.create(ONE)
    store.write_at(ONE, b"kept", 0)
    for length in (50, 4000):  # in the journal, and as a file
        disk.space_bytes_left = 20
        with pytest.raises(OSError) as caught:
            store.write_at(ONE, b"x" * length, 4)
        assert caught.value.errno == errno.ENOSPC
        assert content(store, ONE) == b"kept"
    disk.mend()
    store.write_at(ONE, b" and grown", 4)
    store.abandon()
    again = small(tmp_path, disk)
    assert content(again, ONE) == b"kept and grown"
    again.close()


def test_replicas_in_it_are_served_after_a_kill_and_a_flipped_bit_is_found(tmp_path: Path) -> None:
    def start(packed: LmdbPackedStore) -> ReplicaStore:
        return ReplicaStore.open(str(tmp_path), packed, SystemDisk(), on_fatal=lambda reason: None)

    packed = LmdbPackedStore(SystemDisk(), str(tmp_path))
    replicas = start(packed)
    lengths = {ONE: 4 * KIB, TWO: 3 * CHECKSUM_BLOCK_BYTES + 5}
    chance = random.Random(2)
    expected = {handle: chance.randbytes(length) for handle, length in lengths.items()}
    for handle, data in expected.items():
        create(replicas, handle)
        replicas.write(handle, V1, 0, data)
    replicas.flush()
    replicas.abandon()
    packed.abandon()
    packed = LmdbPackedStore(SystemDisk(), str(tmp_path))
    replicas = start(packed)
    for handle, data in expected.items():
        assert replica_content(replicas, handle) == data
    packed.write_at(ONE, bytes([expected[ONE][100] ^ 4]), 100)
    assert replicas.verifier.bad_blocks(ONE, V1).bad_blocks == [0]
    replicas.close()


def test_a_newer_format_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(lmdb_packed, "FORMAT_VERSION", 2)
        LmdbPackedStore(SystemDisk(), str(tmp_path)).close()
    with pytest.raises(UnsupportedVersion, match="packed has format 2"):
        LmdbPackedStore(SystemDisk(), str(tmp_path))


class TestOffline:
    """`gfs chunk inspect` and `verify` on a disk of this store."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> LmdbPackedStore:
        claim(StoreSite(SystemDisk(), str(tmp_path)), "lmdb")
        return small(tmp_path, SystemDisk())

    @pytest.fixture
    def replicas(self, tmp_path: Path, store: LmdbPackedStore) -> ReplicaStore:
        replicas = ReplicaStore.open(str(tmp_path), store, SystemDisk(), on_fatal=lambda reason: None)
        create(replicas, ONE)
        create(replicas, TWO)
        replicas.write(ONE, V1, 0, b"packed")
        replicas.write(TWO, V1, 0, b"a file" * 1000)
        return replicas

    @pytest.mark.parametrize("stop", ["closed", "killed"])
    def test_packed_chunks_and_files_are_read_and_verified_also_from_the_journal(
        self, tmp_path: Path, store: LmdbPackedStore, replicas: ReplicaStore, stop: str
    ) -> None:
        if stop == "killed":
            store.close = store.abandon  # type: ignore[method-assign]
            replicas.abandon()
        else:
            replicas.close()
        assert any((tmp_path / "packed").glob("*.journal")) == (stop == "killed")
        one, two = replica_rows(str(tmp_path))
        assert isinstance(one, ReplicaRow) and (one.stored_bytes, Path(one.path).name) == (6, "packed.lmdb")
        assert isinstance(two, ReplicaRow) and two.stored_bytes == 6000 and two.path.endswith(".chunk")
        verifier = ChunkVerifier(str(tmp_path))
        assert list(verifier.findings()) == []
        assert (verifier.summary.replicas, verifier.summary.verified_bytes) == (2, 6006)

    def test_a_packed_chunk_with_other_bytes_a_missing_and_a_needless_one_are_told(
        self, tmp_path: Path, replicas: ReplicaStore
    ) -> None:
        other, needless = ChunkHandle(2), ChunkHandle(3)
        create(replicas, other)
        replicas.write(other, V1, 0, b"missing")
        replicas.close()
        store = small(tmp_path, SystemDisk())
        store.write_at(ONE, b"P", 0)
        store.delete(other)
        store.create(needless)
        store.close()
        found = {finding.kind: finding for finding in ChunkVerifier(str(tmp_path)).findings()}
        assert {kind: finding.handle for kind, finding in found.items()} == {
            "bad_blocks": ONE,
            "missing_file": other,
            "orphan_file": needless,
        }
        assert [kind for kind, finding in found.items() if not finding.is_damage] == ["orphan_file"]
        assert Path(found["bad_blocks"].path).name == "packed.lmdb"

    def test_a_store_that_only_its_server_can_read_is_refused_and_nothing_called_damaged(
        self, tmp_path: Path
    ) -> None:
        claim(StoreSite(SystemDisk(), str(tmp_path)), "memory")
        memory = MemoryStore()
        replicas = ReplicaStore.open(str(tmp_path), memory, SystemDisk(), on_fatal=lambda reason: None)
        create(replicas, ONE)
        replicas.close()
        (row,) = replica_rows(str(tmp_path))
        assert isinstance(row, ReplicaRow) and row.path == ""
        with pytest.raises(InvalidArgument, match="kept by the store 'memory'") as caught:
            list(ChunkVerifier(str(tmp_path)).findings())
        assert "fsck --deep" in caught.value.hint


def test_a_deletion_cut_short_leaves_the_whole_chunk_or_nothing(tmp_path: Path) -> None:
    """What a chunk was before it became a file must not come back, not even as an empty chunk."""
    for seed in range(60):
        place = tmp_path / str(seed)
        disk = ForgetfulDisk(seed)
        disk.reorders_names = True
        store = small(place, disk)
        store.create(ONE)
        store.write_at(ONE, b"a" * 5000, 0)
        store.sync(ONE)
        store.sync_names()
        disk.cut_power_after(seed % 5, torn=True)
        try:
            store.delete(ONE)
            store.sync_names()
        except OSError:
            pass
        if not disk.powered_off:
            disk.power_cut(torn=True)
        store.abandon()
        disk.power_on()
        after = small(place, disk)
        assert [content(after, handle) for handle in after.handles()] in ([], [b"a" * 5000]), seed
        after.close()
