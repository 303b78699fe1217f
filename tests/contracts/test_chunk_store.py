"""What every ChunkStore promises, run over each one in MAKERS; a plug-in adds itself there."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.simulation.disk import ForgetfulDisk
from gfs.chunkserver.stores.file import FileStore
from gfs.chunkserver.stores.interface import ChunkStore, StoreUsage
from gfs.chunkserver.stores.memory import MemoryStore
from gfs.disk import SystemDisk
from gfs.vocabulary import CHUNK_BYTES, MIB, ChunkHandle

MAKERS: dict[str, Callable[[Path], ChunkStore]] = {
    "memory": lambda _: MemoryStore(),
    "file": lambda path: FileStore(SystemDisk(), str(path / "chunks")),
    "file, one open at a time": lambda path: FileStore(SystemDisk(), str(path / "chunks"), open_files_max=1),
    "file on a forgetful disk": lambda _: FileStore(
        ForgetfulDisk(), "/chunks", usage=lambda: StoreUsage(2**40, 2**40)
    ),
}
ONE, TWO = ChunkHandle(1), ChunkHandle(2**64 - 1)


@pytest.fixture(params=MAKERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ChunkStore:
    made: ChunkStore = MAKERS[request.param](tmp_path)
    request.addfinalizer(made.close)
    return made


def content(store: ChunkStore, handle: ChunkHandle) -> bytes:
    buffer = bytearray(store.length(handle))
    assert store.read_into(handle, memoryview(buffer), 0) == len(buffer)
    return bytes(buffer)


def test_a_new_chunk_is_empty_and_is_listed(store: ChunkStore) -> None:
    assert list(store.handles()) == []
    store.create(TWO)
    store.create(ONE)
    assert sorted(store.handles()) == [ONE, TWO]
    assert store.length(ONE) == 0


def test_creating_a_chunk_again_keeps_its_bytes(store: ChunkStore) -> None:
    store.create(ONE)
    store.write_at(ONE, b"kept", 0)
    store.create(ONE)
    assert content(store, ONE) == b"kept"


def test_bytes_written_are_read_back_whatever_buffer_they_came_in(store: ChunkStore) -> None:
    store.create(ONE)
    store.write_at(ONE, b"abc", 0)
    store.write_at(ONE, bytearray(b"def"), 3)
    store.write_at(ONE, memoryview(b"xghix")[1:4], 6)
    store.write_at(ONE, b"BC", 1)
    assert content(store, ONE) == b"aBCdefghi"


def test_a_gap_reads_as_zeros(store: ChunkStore) -> None:
    store.create(ONE)
    store.write_at(ONE, b"a", 0)
    store.write_at(ONE, b"z", 100_000)
    assert content(store, ONE) == b"a" + bytes(99_999) + b"z"


def test_the_last_byte_of_a_chunk_can_be_written(store: ChunkStore) -> None:
    store.create(ONE)
    store.write_at(ONE, b"z", CHUNK_BYTES - 1)
    assert store.length(ONE) == CHUNK_BYTES


def test_a_read_is_short_only_at_the_end(store: ChunkStore) -> None:
    store.create(ONE)
    store.write_at(ONE, b"abcdef", 0)
    buffer = bytearray(b"....")
    assert store.read_into(ONE, memoryview(buffer), 4) == 2
    assert buffer == b"ef.."
    assert store.read_into(ONE, memoryview(buffer), 6) == 0
    assert store.read_into(ONE, memoryview(buffer), 1000) == 0


def test_truncation_cuts_and_later_growth_reads_as_zeros(store: ChunkStore) -> None:
    store.create(ONE)
    store.write_at(ONE, b"abcdef", 0)
    store.truncate(ONE, 2)
    assert content(store, ONE) == b"ab"
    store.write_at(ONE, b"z", 4)
    assert content(store, ONE) == b"ab\0\0z"


@pytest.mark.parametrize("use", ["read", "write", "length", "truncate", "sync", "clone"])
def test_an_unknown_chunk_is_a_key_error(store: ChunkStore, use: str) -> None:
    uses: dict[str, Callable[[], object]] = {
        "read": lambda: store.read_into(ONE, memoryview(bytearray(1)), 0),
        "write": lambda: store.write_at(ONE, b"a", 0),
        "length": lambda: store.length(ONE),
        "truncate": lambda: store.truncate(ONE, 0),
        "sync": lambda: store.sync(ONE),
        "clone": lambda: store.clone(ONE, TWO),
    }
    with pytest.raises(KeyError):
        uses[use]()
    assert list(store.handles()) == []


def test_a_deleted_chunk_is_gone_and_deleting_it_again_is_no_error(store: ChunkStore) -> None:
    store.create(ONE)
    store.write_at(ONE, b"a", 0)
    assert store.is_stored(ONE)
    store.delete(ONE)
    store.delete(ONE)
    assert not store.is_stored(ONE)
    assert list(store.handles()) == []
    with pytest.raises(KeyError):
        store.length(ONE)
    store.create(ONE)
    assert store.length(ONE) == 0


def test_a_clone_has_the_bytes_and_goes_its_own_way(store: ChunkStore) -> None:
    store.create(ONE)
    store.write_at(ONE, b"start", 0)
    store.write_at(ONE, os.urandom(300_000), 2 * MIB)
    store.create(TWO)
    store.write_at(TWO, b"overwritten by the clone", 0)
    store.clone(ONE, TWO)
    before = content(store, ONE)
    assert content(store, TWO) == before
    store.write_at(TWO, b"other", 0)
    assert content(store, ONE) == before
    assert content(store, TWO) == b"other" + before[5:]


def test_syncs_and_usage_are_answered(store: ChunkStore) -> None:
    store.create(ONE)
    store.write_at(ONE, b"a", 0)
    store.sync(ONE)
    store.sync_names()
    usage = store.usage()
    assert 0 < usage.free_bytes <= usage.total_bytes


def test_different_chunks_are_written_and_read_by_many_threads(store: ChunkStore) -> None:
    failures: list[BaseException] = []

    def work(handle: ChunkHandle) -> None:
        try:
            store.create(handle)
            expected = b""
            for number in range(30):
                piece = bytes([number]) * (100 + handle)
                store.write_at(handle, piece, len(expected))
                expected += piece
                assert content(store, handle) == expected
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(ChunkHandle(number),)) for number in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_file_store_finds_its_chunks_again(tmp_path: Path) -> None:
    first = FileStore(SystemDisk(), str(tmp_path))
    handles = [ChunkHandle(number * 67) for number in range(200)]
    for handle in handles:
        first.create(handle)
    first.close()
    assert sorted(FileStore(SystemDisk(), str(tmp_path)).handles()) == handles


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
