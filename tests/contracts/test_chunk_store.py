"""The published contract over each of our stores, and what only one of them promises."""

from __future__ import annotations

import errno
import itertools
import os
from array import array
from pathlib import Path

import pytest

from chaos.simulation.disk import ForgetfulDisk
from gfs.checksums import piece_checksums
from gfs.chunkserver.stores.file import FileStore
from gfs.chunkserver.stores.interface import ChunkStore, StoreUsage
from gfs.chunkserver.stores.lmdb_packed import LmdbPackedStore
from gfs.chunkserver.stores.memory import MemoryStore
from gfs.chunkserver.stores.moving import MovingStore
from gfs.chunkserver.stores.tiered import TieredStore
from gfs.disk import Bytes, SystemDisk
from gfs.testing import ChunkStoreContract
from gfs.testing.chunk_store_contract import ONE, TWO, content
from gfs.vocabulary import CHUNK_BYTES, MIB, ChunkHandle, ChunkVersion
from tests.fakes.object_service import FakeObjectService


class TestMemoryStore(ChunkStoreContract):
    durable = False

    def open_store(self, directory: Path) -> ChunkStore:
        return MemoryStore()


class TestFileStore(ChunkStoreContract):
    def open_store(self, directory: Path) -> ChunkStore:
        return FileStore(SystemDisk(), str(directory / "chunks"))


class TestFileStoreWithOneOpenFile(ChunkStoreContract):
    def open_store(self, directory: Path) -> ChunkStore:
        return FileStore(SystemDisk(), str(directory / "chunks"), open_files_max=1)


class TestLmdbPackedStore(ChunkStoreContract):
    def open_store(self, directory: Path) -> ChunkStore:
        return LmdbPackedStore(SystemDisk(), str(directory))


class TestLmdbPackedStoreThatFlushesAndMovesOften(ChunkStoreContract):
    def open_store(self, directory: Path) -> ChunkStore:
        return LmdbPackedStore(
            SystemDisk(),
            str(directory),
            packed_bytes_max=6000,
            journal_bytes_max=30_000,
            map_bytes_max=64 * MIB,
        )


class TestFileStoreUnderATier(ChunkStoreContract):
    @pytest.fixture(autouse=True)
    def _make_service(self) -> None:
        self.service = FakeObjectService()

    def open_store(self, directory: Path) -> ChunkStore:
        return TieredStore(
            FileStore(SystemDisk(), str(directory / "chunks")),
            self.service,
            SystemDisk(),
            str(directory / "tier"),
            server="server-1",
            token=lambda: "token",
            cache_bytes=MIB,
        )


class AlwaysOut(TieredStore):
    """Whatever is written goes out at once: reads are of objects, every change brings bytes back."""

    def write_at(self, handle: ChunkHandle, data: Bytes, offset: int) -> None:
        super().write_at(handle, data, offset)
        self._move_out(handle)

    def truncate(self, handle: ChunkHandle, length: int) -> None:
        super().truncate(handle, length)
        self._move_out(handle)

    def _move_out(self, handle: ChunkHandle) -> None:
        length = self.length(handle)
        if not 0 < length <= 4 * MIB:
            return
        held = bytearray(length)
        self.read_into(handle, memoryview(held), 0)
        self.let_go(self.upload(handle, ChunkVersion(1), length, array("I", piece_checksums(0, held))))


class TestTieredStoreWhoseChunksAreOut(ChunkStoreContract):
    @pytest.fixture(autouse=True)
    def _make_service(self) -> None:
        self.service = FakeObjectService()
        self.tokens = map(str, itertools.count())

    def open_store(self, directory: Path) -> ChunkStore:
        return AlwaysOut(
            self.local(directory),
            self.service,
            SystemDisk(),
            str(directory / "tier"),
            server="server-1",
            token=lambda: next(self.tokens),
            cache_bytes=MIB,
        )

    def local(self, directory: Path) -> ChunkStore:
        return FileStore(SystemDisk(), str(directory / "chunks"))


class TestTierOverPackedChunks(TestTieredStoreWhoseChunksAreOut):
    def local(self, directory: Path) -> ChunkStore:
        return LmdbPackedStore(SystemDisk(), str(directory))


class TestStoreThatIsBeingLeft(ChunkStoreContract):
    """Chunks of an earlier process are in the one, new ones in the other."""

    def open_store(self, directory: Path) -> ChunkStore:
        left = FileStore(SystemDisk(), str(directory / "left"))
        return MovingStore(LmdbPackedStore(SystemDisk(), str(directory / "present")), left)


class TestFileStoreOnAForgetfulDisk(ChunkStoreContract):
    @pytest.fixture(autouse=True)
    def _make_disk(self) -> None:
        self.disk = ForgetfulDisk()

    def open_store(self, directory: Path) -> ChunkStore:
        return FileStore(self.disk, "/chunks", usage=lambda: StoreUsage(2**40, 2**40))


def test_a_clone_of_a_sparse_file_stays_sparse(tmp_path: Path) -> None:
    store = FileStore(SystemDisk(), str(tmp_path))
    store.create(ONE)
    store.write_at(ONE, b"z", CHUNK_BYTES - 1)
    store.clone(ONE, TWO)
    assert os.stat(store.path_of(TWO)).st_blocks * 512 < MIB
    assert content(store, TWO) == bytes(CHUNK_BYTES - 1) + b"z"
    store.close()


def test_synced_bytes_and_names_of_a_file_store_outlive_a_power_cut() -> None:
    disk = ForgetfulDisk()
    store = FileStore(disk, "/chunks", usage=lambda: StoreUsage(1, 1))
    store.create(ONE)
    store.write_at(ONE, b"synced", 0)
    store.sync(ONE)
    store.sync_names()
    store.write_at(ONE, b"forgotten", 6)
    store.create(TWO)
    store.sync(TWO)  # its bytes, not its name
    disk.power_cut()
    disk.power_on()
    after = FileStore(disk, "/chunks", usage=lambda: StoreUsage(1, 1))
    assert list(after.handles()) == [ONE]
    assert content(after, ONE) == b"synced"


def test_a_full_disk_is_reported_as_it_is() -> None:
    disk = ForgetfulDisk()
    store = FileStore(disk, "/chunks", usage=lambda: StoreUsage(1, 1))
    store.create(ONE)
    disk.space_bytes_left = 3
    with pytest.raises(OSError) as caught:
        store.write_at(ONE, b"abcdef", 0)
    assert caught.value.errno == errno.ENOSPC


def test_a_clone_that_finds_the_disk_full_takes_none_of_it() -> None:
    disk = ForgetfulDisk()
    store = FileStore(disk, "/chunks")
    store.create(ONE)
    store.write_at(ONE, b"bytes", 0)
    before = disk.files_below("/chunks")
    disk.space_bytes_left = 2
    with pytest.raises(OSError) as cloned:
        store.clone(ONE, TWO)
    with pytest.raises(OSError) as made:
        store.create_durably(TWO, b"bytes")
    assert cloned.value.errno == made.value.errno == errno.ENOSPC
    assert disk.files_below("/chunks") == before
    disk.mend()
    store.clone(ONE, TWO)
    assert content(store, TWO) == b"bytes"
    store.close()


def test_what_a_clone_that_was_cut_short_left_is_gone_at_the_next_start(tmp_path: Path) -> None:
    class CutShort(SystemDisk):
        def rename(self, source: str, destination: str) -> None:
            raise OSError(errno.EIO, "the machine stops here")

    store = FileStore(CutShort(), str(tmp_path))
    store.create(ONE)
    store.write_at(ONE, b"bytes", 0)
    with pytest.raises(OSError):
        store.clone(ONE, ChunkHandle(2))
    store.close()
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2
    again = FileStore(SystemDisk(), str(tmp_path))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{ONE:016x}.chunk"]
    assert content(again, ONE) == b"bytes"
    again.close()
