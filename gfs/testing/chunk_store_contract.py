"""What every ChunkStore promises, as tests that a plug-in's test class inherits. No store's peculiarities.

class TestMyStore(ChunkStoreContract):
    def open_store(self, directory: Path) -> ChunkStore:
        return MyStore(str(directory))
"""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gfs.chunkserver.stores.interface import ChunkStore
from gfs.vocabulary import CHUNK_BYTES, MIB, ChunkHandle

ONE, TWO = ChunkHandle(1), ChunkHandle(2**64 - 1)
SEND_PATIENCE_SECONDS = 30.0


def content(store: ChunkStore, handle: ChunkHandle) -> bytes:
    """All bytes of a chunk."""
    buffer = bytearray(store.length(handle))
    assert store.read_into(handle, memoryview(buffer), 0) == len(buffer)
    return bytes(buffer)


class ChunkStoreContract:
    """Inherit, and say how a store is opened. With `durable` False nothing need outlive close()."""

    durable = True

    def open_store(self, directory: Path) -> ChunkStore:
        """A store over `directory`: empty at first, later with what it held when it was closed."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ChunkStore]:
        made = self.open_store(tmp_path)
        yield made
        made.close()

    def test_a_new_chunk_is_empty_and_is_listed(self, store: ChunkStore) -> None:
        assert list(store.handles()) == []
        store.create(TWO)
        store.create(ONE)
        assert sorted(store.handles()) == [ONE, TWO]
        assert store.length(ONE) == 0

    def test_creating_a_chunk_again_keeps_its_bytes(self, store: ChunkStore) -> None:
        store.create(ONE)
        store.write_at(ONE, b"kept", 0)
        store.create(ONE)
        assert content(store, ONE) == b"kept"

    def test_bytes_written_are_read_back_whatever_buffer_they_came_in(self, store: ChunkStore) -> None:
        store.create(ONE)
        store.write_at(ONE, b"abc", 0)
        store.write_at(ONE, bytearray(b"def"), 3)
        store.write_at(ONE, memoryview(b"xghix")[1:4], 6)
        store.write_at(ONE, b"BC", 1)
        assert content(store, ONE) == b"aBCdefghi"

    def test_a_gap_reads_as_zeros(self, store: ChunkStore) -> None:
        store.create(ONE)
        store.write_at(ONE, b"a", 0)
        store.write_at(ONE, b"z", 100_000)
        assert content(store, ONE) == b"a" + bytes(99_999) + b"z"

    def test_the_last_byte_of_a_chunk_can_be_written(self, store: ChunkStore) -> None:
        store.create(ONE)
        store.write_at(ONE, b"z", CHUNK_BYTES - 1)
        assert store.length(ONE) == CHUNK_BYTES

    def test_a_read_is_short_only_at_the_end(self, store: ChunkStore) -> None:
        store.create(ONE)
        store.write_at(ONE, b"abcdef", 0)
        buffer = bytearray(b"....")
        assert store.read_into(ONE, memoryview(buffer), 4) == 2
        assert buffer == b"ef.."
        assert store.read_into(ONE, memoryview(buffer), 6) == 0
        assert store.read_into(ONE, memoryview(buffer), 1000) == 0

    def test_truncation_cuts_and_later_growth_reads_as_zeros(self, store: ChunkStore) -> None:
        store.create(ONE)
        store.write_at(ONE, b"abcdef", 0)
        store.truncate(ONE, 2)
        assert content(store, ONE) == b"ab"
        store.write_at(ONE, b"z", 4)
        assert content(store, ONE) == b"ab\0\0z"

    @pytest.mark.parametrize("use", ["read", "write", "length", "truncate", "sync", "clone"])
    def test_an_unknown_chunk_is_a_key_error(self, store: ChunkStore, use: str) -> None:
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

    def test_a_deleted_chunk_is_gone_and_deleting_it_again_is_no_error(self, store: ChunkStore) -> None:
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

    def test_a_clone_has_the_bytes_and_goes_its_own_way(self, store: ChunkStore) -> None:
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

    def test_syncs_and_usage_are_answered(self, store: ChunkStore) -> None:
        store.create(ONE)
        store.write_at(ONE, b"a", 0)
        store.sync(ONE)
        store.sync_names()
        usage = store.usage()
        assert 0 < usage.free_bytes <= usage.total_bytes

    def test_different_chunks_are_written_and_read_by_many_threads(self, store: ChunkStore) -> None:
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

    def test_bytes_are_sent_to_a_socket_as_they_are_read(self, store: ChunkStore) -> None:
        expected = random.Random(5).randbytes(100_000)
        store.create(ONE)
        store.write_at(ONE, expected, 0)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for end in (ours, theirs):
                end.settimeout(SEND_PATIENCE_SECONDS)
            received = b""
            while len(received) < 50_000:
                start = 1000 + len(received)
                sent = store.send(ONE, ours.fileno(), start, min(8000, 51_000 - start))
                assert 0 < sent <= 8000
                while sent:
                    piece = theirs.recv(sent)
                    received += piece
                    sent -= len(piece)
            assert received == expected[1000:51_000]
            assert store.send(ONE, ours.fileno(), len(expected), 10) == 0
        with pytest.raises(KeyError):
            store.send(TWO, 0, 0, 1)

    def test_any_order_of_writes_cuts_and_clones_leaves_the_bytes_a_plain_array_would_have(
        self, store: ChunkStore
    ) -> None:
        """Across the lengths at which a store may change how it keeps a chunk."""
        chance, model = random.Random(11), dict[ChunkHandle, bytearray]()
        handles = [ChunkHandle(number) for number in (7, 8, 4096)]
        for _ in range(250):
            handle = chance.choice(handles)
            if handle not in model:
                store.create(handle)
                model[handle] = bytearray()
            held, action = model[handle], chance.random()
            if action < 0.6:
                offset = chance.randrange(len(held) + 1) + chance.choice([0, 0, 0, 5000])
                data = chance.randbytes(chance.choice([1, 100, 5000, 70_000]))
                store.write_at(handle, data, offset)
                held.extend(bytes(max(0, offset - len(held))))
                held[offset : offset + len(data)] = data
            elif action < 0.75:
                cut = chance.randrange(len(held) + 1)
                store.truncate(handle, cut)
                del held[cut:]
            elif action < 0.85:
                other = chance.choice(handles)
                if other != handle:
                    store.clone(handle, other)
                    model[other] = bytearray(held)
            elif action < 0.93:
                store.sync(handle)
            else:
                store.delete(handle)
                del model[handle]
            assert sorted(store.handles()) == sorted(model)
            for known, expected in model.items():
                assert content(store, known) == expected

    def test_a_store_that_was_closed_has_everything_when_it_is_opened_again(self, tmp_path: Path) -> None:
        if not self.durable:
            pytest.skip("this store keeps nothing")
        expected = {ChunkHandle(number * 67): os.urandom(number * 500) for number in range(200)}
        first = self.open_store(tmp_path)
        for handle, data in expected.items():
            first.create(handle)
            first.write_at(handle, data, 0)
        first.delete(ChunkHandle(67))
        del expected[ChunkHandle(67)]
        first.close()
        again = self.open_store(tmp_path)
        assert {handle: content(again, handle) for handle in again.handles()} == expected
        again.close()
