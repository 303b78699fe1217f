"""§5.2, data integrity: checksums per block, verified at every read, kept up by appends and overwrites."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from gfs.chunkserver.replica_store import ReplicaStore
from gfs.errors import ChecksumMismatch
from gfs.master import garbage_collection
from gfs.master.core import garbage
from gfs.transport.data_client import DataClient
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, KIB
from tests.chunkserver.replicas import ONE, V1, Machine, chunk_path, content, create
from tests.client.real_cluster import RealCluster
from tests.paper.boxes import keeps
from tests.waiting import until

BLOCK = CHECKSUM_BLOCK_BYTES


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def rot(machine: Machine, offset: int) -> None:
    file = machine.disk.open(chunk_path())
    (byte,) = file.pread(1, offset)
    file.pwrite(bytes([byte ^ 1]), offset)
    file.close()


def written(machine: Machine, length: int) -> tuple[ReplicaStore, bytes]:
    store, data = machine.open(), os.urandom(length)
    create(store)
    store.write(ONE, V1, 0, data)
    return store, data


@keeps("checksums")
def test_each_block_of_64_kib_has_a_checksum_of_its_own(machine: Machine) -> None:
    """A chunk is broken up into 64 KiB blocks, each with its 32-bit checksum: damage costs one block."""
    assert BLOCK == 64 * KIB
    store, data = written(machine, 4 * BLOCK)
    rot(machine, 2 * BLOCK + 100)
    found = store.verifier.bad_blocks(ONE, V1)
    assert found.bad_blocks == [2]
    assert len(found.block_checksums) == 4 and all(0 <= one < 2**32 for one in found.block_checksums)
    buffer = memoryview(bytearray(2 * BLOCK))
    assert store.read_into(ONE, V1, 0, buffer) == 2 * BLOCK and bytes(buffer) == data[: 2 * BLOCK]
    store.abandon()


@keeps("checksums")
def test_checksums_are_kept_apart_from_the_data_and_survive_with_it(machine: Machine) -> None:
    """Checksums are stored persistently, with logging, separate from user data."""
    store, data = written(machine, BLOCK + 11)
    sums = store.status(ONE, V1, with_checksums=True).block_checksums
    assert machine.disk.open(chunk_path()).length() == len(data)  # the file holds nothing else
    after = machine.open_after_kill(store)
    assert after.status(ONE, V1, with_checksums=True).block_checksums == sums
    rot(machine, BLOCK + 3)
    with pytest.raises(ChecksumMismatch):
        content(after)
    after.abandon()


@keeps("checksums")
def test_an_append_never_reads_the_block_it_extends_and_damage_in_it_is_found_by_the_next_read(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checksum of the last, partial block is carried on incrementally; if the block is damaged already,
    the new checksum will not match what is stored, and the damage is met when the block is next read."""
    store, data = written(machine, BLOCK + 500)
    rot(machine, BLOCK + 10)
    with monkeypatch.context() as unread:

        def refuse(*_: object) -> int:
            raise AssertionError("an append has read")

        unread.setattr(store._access.store, "read_into", refuse)
        store.write(ONE, V1, len(data), b"more")
    with pytest.raises(ChecksumMismatch) as caught:
        store.read_into(ONE, V1, BLOCK + 400, memoryview(bytearray(10)))
    assert caught.value.details["block"] == "1"
    store.abandon()


@keeps("checksums")
@pytest.mark.parametrize(
    ("where", "is_refused"),
    [
        (1, True),  # in the first block, and stays
        (600, True),  # in the first block
        (3 * BLOCK + 100, True),  # in the last block, and stays
        (BLOCK + 1, False),  # in a block that is written over whole
        (4 * BLOCK + 1, False),  # in a block that has nothing to do with it
    ],
)
def test_an_overwrite_verifies_its_first_and_last_block_before_it_writes(
    machine: Machine, where: int, is_refused: bool
) -> None:
    """Else the new checksums could hide damage in the parts of these blocks that are not overwritten."""
    store, data = written(machine, 5 * BLOCK)
    rot(machine, where)
    before = machine.disk.open(chunk_path()).pread(5 * BLOCK, 0)
    new = os.urandom(3 * BLOCK - 500 + 10)
    if is_refused:
        with pytest.raises(ChecksumMismatch):
            store.write(ONE, V1, 500, new)
        assert machine.disk.open(chunk_path()).pread(5 * BLOCK, 0) == before
        assert store.corrupt() == [ONE]
    else:
        store.write(ONE, V1, 500, new)
        buffer = memoryview(bytearray(4 * BLOCK))
        assert store.read_into(ONE, V1, 0, buffer) == 4 * BLOCK
        assert bytes(buffer) == data[:500] + new + data[500 + len(new) : 4 * BLOCK]
    store.abandon()


@keeps("checksums")
async def test_who_asked_gets_an_error_and_the_master_has_the_replica_made_anew_and_then_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunk server answers a client or another chunk server with an error and reports the mismatch; the
    requester reads another replica; the master clones the chunk from a good one, and once that is in place
    has the bad one deleted."""
    monkeypatch.setattr(garbage, "STALE_KEPT_SECONDS", 0.2)
    monkeypatch.setattr(garbage_collection, "WALK_REST_SECONDS", 0.1)
    async with RealCluster(tmp_path, chunkservers=4) as cluster, await cluster.client() as client:
        data = os.urandom(3 * BLOCK)
        await client.write_bytes("/f", data)
        (place,) = await client.chunks("/f")
        bad = place.replicas[0]
        node = next(name for name, one in cluster.settings.chunkservers.items() if one.control == bad.control)
        (path,) = (tmp_path / node).rglob(f"{place.handle:016x}.*")
        with path.open("r+b") as file:
            file.seek(BLOCK + 5)
            file.write(bytes([data[BLOCK + 5] ^ 1]))
        bulk = DataClient(congestion_control="")
        try:
            with pytest.raises(ChecksumMismatch):
                await asyncio.to_thread(
                    bulk.read_into,
                    bad.data,
                    place.handle,
                    place.version,
                    BLOCK,
                    memoryview(bytearray(100)),
                    deadline_seconds=5.0,
                )
        finally:
            bulk.close()
        assert await client.read_bytes("/f") == data

        async def is_deleted() -> bool:
            if path.exists():
                return False
            (now,) = await client.chunks("/f")
            found = await client.verify_chunk(now)
            assert len(now.replicas) == 3 and not found.bad_blocks, "deleted before it was replaced"
            assert bad.server not in {replica.server for replica in now.replicas}
            return True

        await until(is_deleted, "the bad replica is deleted")
        assert await client.read_bytes("/f") == data
