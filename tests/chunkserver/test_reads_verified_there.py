"""Reads that the reader verifies: sums from the index, bytes by sendfile, and whatever may change between."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gfs.checksums import piece_checksums
from gfs.chunkserver.push_buffer import PushBuffer
from gfs.chunkserver.push_chain import PushChain
from gfs.chunkserver.replica_store import ReplicaStore
from gfs.chunkserver.stores.file import FileStore
from gfs.clock import SystemClock
from gfs.disk import SystemDisk
from gfs.errors import ChecksumMismatch, ConnectionLost, NotFound, StaleVersion
from gfs.transport.data_client import DataClient
from gfs.transport.data_server import DataServer
from gfs.vocabulary import MIB, Address, ChunkHandle, ChunkVersion
from tests.chunkserver.replicas import BLOCK, ONE, T1, V1, V2, create
from tests.paper.boxes import keeps


class Interrupted:
    """A replica store to which something happens between the sums and the bytes of one answer."""

    def __init__(self, inner: ReplicaStore) -> None:
        self._inner = inner
        self.between: Callable[[], object] = lambda: None
        self.verified_reads = 0

    def checksums(
        self, handle: ChunkHandle, version: ChunkVersion, offset: int, length: int
    ) -> Sequence[int] | None:
        found = self._inner.checksums(handle, version, offset, length)
        self.between()
        return found

    def read_into(self, handle: ChunkHandle, version: ChunkVersion, offset: int, buffer: memoryview) -> int:
        self.verified_reads += 1
        return self._inner.read_into(handle, version, offset, buffer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Served:
    """One chunk on a real disk behind a real bulk port."""

    def __init__(self, path: Path) -> None:
        self.chunks = FileStore(SystemDisk(), str(path / "chunks"))
        self.store = ReplicaStore.open(str(path / "index"), self.chunks, SystemDisk(), on_fatal=self._fatal)
        self.replicas = Interrupted(self.store)
        self.client = DataClient(congestion_control="")
        chain = PushChain(PushBuffer(MIB, 60.0, SystemClock()), self.client, self.replicas, hop_seconds=1.0)
        self.server = DataServer(Address("127.0.0.1:0"), chain, connections_max=8, congestion_control="")
        self.server.start()
        create(self.store)

    def write(self, offset: int, data: bytes) -> None:
        self.store.write(ONE, V1, offset, data)

    def read(self, first: int, length: int, *, verify_here: bool = True, version: ChunkVersion = V1) -> bytes:
        buffer = memoryview(bytearray(length))
        got, _ = self.client.read_into(
            self.server.address, ONE, version, first, buffer, deadline_seconds=5.0, verify_here=verify_here
        )
        return bytes(buffer[:got])

    def rot(self, offset: int) -> None:
        with open(self.chunks.path_of(ONE), "r+b") as file:
            (byte,) = os.pread(file.fileno(), 1, offset)
            os.pwrite(file.fileno(), bytes([byte ^ 1]), offset)

    def stop(self) -> None:
        self.client.close()
        self.server.stop()
        self.store.close()

    def _fatal(self, reason: str) -> None:
        raise AssertionError(reason)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.stop()


def test_any_range_arrives_whole_and_no_block_inside_it_is_read_by_the_server(served: Served) -> None:
    data = os.urandom(6 * BLOCK + 777)
    served.write(0, data)
    chance = random.Random(5)
    ranges = [(chance.randrange(len(data)), chance.randrange(1, len(data) + 100)) for _ in range(60)]
    edges = [(0, len(data)), (BLOCK, BLOCK), (10, 20), (6 * BLOCK, 777), (6 * BLOCK + 5, 700), (0, 1)]
    for first, length in ranges + edges:
        assert served.read(first, length) == data[first : first + length], (first, length)
    assert served.replicas.verified_reads == 0
    assert served.read(len(data), 5) == b""


def test_sums_of_a_range_are_those_of_its_bytes_alone(served: Served) -> None:
    data = os.urandom(3 * BLOCK + 100)
    served.write(0, data)
    for first, length in (
        (0, len(data)),
        (100, BLOCK),
        (BLOCK - 1, 2),
        (3 * BLOCK + 7, 90),
        (BLOCK, 2 * BLOCK),
    ):
        found = served.store.checksums(ONE, V1, first, length)
        assert found is not None and list(found) == piece_checksums(first, data[first : first + length])
    assert served.store.checksums(ONE, V1, 0, len(data) + 1) is None, "more than is committed"


def test_holes_read_as_zeros(served: Served) -> None:
    served.write(2 * BLOCK + 50, b"behind a hole")
    assert served.read(0, 3 * BLOCK) == bytes(2 * BLOCK + 50) + b"behind a hole"


@keeps("checksums")
def test_damage_is_never_taken_for_good_and_only_the_server_says_what_is_damage(served: Served) -> None:
    """§5.2: whatever the disk has become, a requester gets good bytes or an error; the server reports it."""
    data = os.urandom(4 * BLOCK)
    served.write(0, data)
    served.rot(2 * BLOCK + 9)
    with pytest.raises(ChecksumMismatch):
        served.read(0, len(data))
    assert served.store.corrupt() == [], "a mismatch at the reader is no proof yet"
    with pytest.raises((ChecksumMismatch, ConnectionLost)):
        served.read(0, len(data), verify_here=False)
    assert served.store.corrupt() == [ONE]
    assert served.read(0, 2 * BLOCK) == data[: 2 * BLOCK], "the other blocks are good"


@keeps("checksums")
@pytest.mark.parametrize(
    "first, length", [(2 * BLOCK + 5, 20), (BLOCK, BLOCK + 5), (BLOCK + 9, 2 * BLOCK - 9)]
)
def test_damage_in_a_block_read_in_part_is_refused_by_the_server_itself(
    served: Served, first: int, length: int
) -> None:
    served.write(0, os.urandom(4 * BLOCK))
    served.rot(2 * BLOCK + 9)
    with pytest.raises((ChecksumMismatch, ConnectionLost)):
        served.read(first, length)
    if length != 2 * BLOCK - 9:  # that one covers the block whole, up to its end
        assert served.store.corrupt() == [ONE]


def test_an_overwrite_between_sums_and_bytes_is_no_damage_and_gives_no_mixture(served: Served) -> None:
    old, new = os.urandom(4 * BLOCK), os.urandom(BLOCK + 100)
    served.write(0, old)
    served.replicas.between = lambda: served.write(BLOCK + 50, new)
    with pytest.raises(ChecksumMismatch):
        served.read(0, len(old))
    expected = old[: BLOCK + 50] + new + old[2 * BLOCK + 150 :]
    assert served.read(0, len(old), verify_here=False) == expected
    assert served.read(0, len(old)) == expected
    assert served.store.corrupt() == []


def test_an_append_between_length_and_sums_and_bytes_changes_nothing(served: Served) -> None:
    data = os.urandom(BLOCK + 500)
    served.write(0, data)
    more = iter([b"a" * 300, b"b" * BLOCK])
    served.replicas.between = lambda: served.write(len(data), next(more, b"c"))
    assert served.read(0, len(data)) == data
    served.replicas.between = lambda: None
    assert served.read(0, 2 * BLOCK)[: len(data)] == data
    assert served.store.corrupt() == []


def test_a_tail_that_grows_before_its_sums_are_taken_is_read_as_long_as_it_was(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(BLOCK + 500)
    served.write(0, data)
    length_of, inner = served.store.committed_length, served.replicas

    def grown_since(handle: ChunkHandle, version: ChunkVersion, *, wanted_bytes: int = 0) -> int:
        length = length_of(handle, version, wanted_bytes=wanted_bytes)
        served.write(length, b"m" * 300)
        return length

    inner.committed_length = grown_since  # type: ignore[attr-defined]  # in front of the real one
    assert served.read(0, 2 * BLOCK) == data
    assert served.replicas.verified_reads == 0 and served.store.corrupt() == []


def test_a_cut_between_sums_and_bytes_gives_an_error_and_no_damage(served: Served) -> None:
    data = os.urandom(4 * BLOCK)
    served.write(0, data)
    served.replicas.between = lambda: served.store.versions.align(ONE, V1, BLOCK + 10)
    with pytest.raises((ChecksumMismatch, ConnectionLost)):
        served.read(0, len(data))
    served.replicas.between = lambda: None
    assert served.read(0, len(data)) == data[: BLOCK + 10]
    assert served.store.corrupt() == []


def test_bytes_cut_off_and_written_anew_in_between_are_not_given_out_for_the_old_ones(served: Served) -> None:
    old, new = os.urandom(4 * BLOCK), os.urandom(3 * BLOCK)
    served.write(0, old)

    def another_writer() -> None:
        served.store.versions.align(ONE, V1, BLOCK)
        served.write(BLOCK, new)

    served.replicas.between = another_writer
    with pytest.raises(ChecksumMismatch):
        served.read(0, len(old))
    assert served.store.corrupt() == []


def test_a_newer_version_in_between_leaves_a_reader_of_the_old_one_what_was_there(served: Served) -> None:
    """What the sums are of was committed under the version asked for; the next request is refused."""
    data = os.urandom(2 * BLOCK)
    served.write(0, data)
    served.replicas.between = lambda: served.store.versions.bump(
        ONE, V2, oldest_version=V1, create=False, master_term=T1
    )
    assert served.read(0, len(data)) == data
    with pytest.raises(StaleVersion):
        served.read(0, len(data))


def test_a_chunk_deleted_in_between_is_an_error_or_its_bytes(served: Served) -> None:
    data = os.urandom(2 * BLOCK)
    served.write(0, data)
    served.replicas.between = lambda: served.store.delete(ONE)
    with pytest.raises((ChecksumMismatch, ConnectionLost)):
        served.read(0, len(data))
    with pytest.raises(NotFound):
        served.read(0, len(data))


def test_a_file_cut_short_from_outside_is_found_to_be_damage(served: Served) -> None:
    served.write(0, os.urandom(4 * BLOCK))
    os.truncate(served.chunks.path_of(ONE), BLOCK)
    with pytest.raises((ChecksumMismatch, ConnectionLost)):
        served.read(0, 4 * BLOCK)
    assert served.store.corrupt() == [ONE]


def test_a_disk_that_fails_below_sendfile_is_found_to_be_damage(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.write(0, os.urandom(4 * BLOCK))

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(served.chunks, "send", fail)
    assert len(served.read(0, 4 * BLOCK)) == 4 * BLOCK, "only sendfile fails: read and verified instead"
    assert served.replicas.verified_reads > 0
    monkeypatch.setattr(served.chunks, "read_into", fail)
    with pytest.raises(ConnectionLost):
        served.read(0, 4 * BLOCK)
    assert served.store.corrupt() == [ONE]
