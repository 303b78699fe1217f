"""A replica store over a disk that can lose power, and short ways to use it. For the tests beside it."""

from __future__ import annotations

from pathlib import Path

from chaos.simulation.disk import ForgetfulDisk
from gfs.chunkserver.replica_store import Durability, ReplicaStore
from gfs.chunkserver.stores.file import FileStore
from gfs.chunkserver.stores.interface import StoreUsage
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, ChunkHandle, ChunkVersion, Term

BLOCK = CHECKSUM_BLOCK_BYTES
ONE, TWO = ChunkHandle(1), ChunkHandle(2)
V1, V2, V3 = ChunkVersion(1), ChunkVersion(2), ChunkVersion(3)
T1, T2 = Term(1), Term(2)


class Machine:
    """One chunk server's disk: chunk bytes and journal on a forgetful disk, the index database real."""

    def __init__(
        self, path: Path, disk: ForgetfulDisk | None = None, *, durability: Durability = "flush"
    ) -> None:
        self.directory = str(path / "index")
        self.disk = disk or ForgetfulDisk()
        self.durability: Durability = durability
        self.fatal: list[str] = []
        self.free_bytes_min = 0
        self.free_bytes = 2**40

    def open(self) -> ReplicaStore:
        store = FileStore(self.disk, "/chunks", usage=lambda: StoreUsage(2**40, self.free_bytes))
        return ReplicaStore.open(
            self.directory,
            store,
            self.disk,
            durability=self.durability,
            free_bytes_min=self.free_bytes_min,
            on_fatal=self.fatal.append,
        )

    def open_after_kill(self, killed: ReplicaStore) -> ReplicaStore:
        killed.abandon()
        return self.open()

    def open_after_power_cut(self, killed: ReplicaStore, *, torn: bool = True) -> ReplicaStore:
        killed.abandon()
        if not self.disk.powered_off:
            self.disk.power_cut(torn=torn)
        self.disk.power_on()
        return self.open()


def create(store: ReplicaStore, handle: ChunkHandle = ONE, version: ChunkVersion = V1) -> None:
    store.versions.bump(handle, version, oldest_version=ChunkVersion(0), create=True, master_term=T1)


def content(store: ReplicaStore, handle: ChunkHandle = ONE, version: ChunkVersion = V1) -> bytes:
    length = store.committed_length(handle, version)
    buffer = bytearray(length + 10)
    assert store.read_into(handle, version, 0, memoryview(buffer)) == length
    return bytes(buffer[:length])


def chunk_path(handle: ChunkHandle = ONE) -> str:
    return FileStore(ForgetfulDisk(), "/chunks", usage=lambda: StoreUsage(1, 1)).path_of(handle)
