"""A store whose chunks can be moved to another one while they are read and written. Not when, nor to which.

A chunk is in one of two places, and no list on the disk says in which: as long as the store that is being
left has it, that is the chunk, and whatever the new one has is a copy that is being made. It is copied,
synced, read back and compared; then the left store deletes it, and before the first change of the new copy
that deletion is on the disk. So a kill or a power cut at any step finds the chunk whole in one of the two.
New chunks are made in the new store. What is changed meanwhile, the caller sees by the chunk's lock.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

from gfs.chunkserver.core.checksums import ZERO_BLOCK_CHECKSUM, first_bad_block
from gfs.chunkserver.stores.interface import ChunkStore, StoreUsage
from gfs.disk import Bytes
from gfs.errors import ChecksumMismatch
from gfs.telemetry import logger
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, MIB, ChunkHandle

COPY_PIECE_BYTES = MIB
_PIECE_BLOCKS = COPY_PIECE_BYTES // CHECKSUM_BLOCK_BYTES
assert COPY_PIECE_BYTES % CHECKSUM_BLOCK_BYTES == 0  # a piece is verified by the sums of whole blocks
_log = logger("chunkserver")


class MovingStore:
    """A ChunkStore over `present`, and over `leaving` as long as that has chunks.

    Invariant: a chunk in `_unmoved` is the left store's, any other one the present one's. `_departed` are
    those whose deletion from the left store a power cut may still undo: none is changed before it is synced.
    """

    def __init__(self, present: ChunkStore, leaving: ChunkStore | None = None) -> None:
        """Raises: OSError. `leaving`: what an earlier process had begun to leave."""
        self._present, self._leaving = present, leaving
        self._retired: list[ChunkStore] = []
        self._unmoved: set[ChunkHandle] = set()
        self._departed: set[ChunkHandle] = set()
        self._lock = threading.Lock()  # over the two sets, and over each write of a copy
        self._settling = threading.Lock()
        self._naming = _Passage()
        self._failure = ""
        if leaving is not None:
            leaving.sync_names()  # the deletions before a kill: this process may change what they left
            self._unmoved = set(leaving.handles())
            for handle in self._unmoved & set(present.handles()):
                present.delete(handle)  # a copy that was cut short

    # --- moving: called by replica_mover and store_moves ------------------------------------------------

    @property
    def present(self) -> ChunkStore:
        """The store that new chunks are made in."""
        return self._present

    @property
    def is_moving(self) -> bool:
        return self._leaving is not None

    @property
    def unmoved_count(self) -> int:
        return len(self._unmoved)

    def unmoved(self, *, limit: int) -> list[ChunkHandle]:
        """Some chunks that the store being left still has."""
        with self._lock:
            return list(islice(self._unmoved, limit))

    def has_left(self, handle: ChunkHandle) -> bool:
        return handle not in self._unmoved

    def begin(self, present: ChunkStore) -> None:
        """Leave the present store for `present`, which is empty.

        Raises: OSError: nothing has changed, but a sync has failed, and every later one says so.
        """
        assert self._leaving is None
        with self._naming.closed():  # nothing is made or deleted meanwhile
            leaving = self._present
            try:
                leaving.sync_names()
            except OSError as error:
                self._failure = f"what the store to be left has deleted may come back: {error}"
                raise
            unmoved = set(leaving.handles())
            # In this order: who finds a chunk nowhere looks for it again.
            self._leaving, self._unmoved = leaving, unmoved
            self._present = present

    def copy(
        self, handle: ChunkHandle, length_bytes: int, sums: Sequence[int], done: Sequence[int] | None = None
    ) -> None:
        """Make the new store's copy of this chunk have its first `length_bytes`, durably and verified.

        Args:
            sums: of all its blocks, also of a partial last one.
            done: those of an earlier copy() of this chunk in this process: what is equal is not copied again.
        Raises: ChecksumMismatch (the chunk does not have these sums; without its lock, a writer may have been
            there), KeyError (it has been deleted, or has no bytes), OSError.
        """
        assert self._leaving is not None
        leaving, present = self._leaving, self._present
        changed = [first for first in range(0, len(sums), _PIECE_BLOCKS) if _differ(first, sums, done)]
        with self._while_unmoved(handle):
            if done is None:
                present.create(handle)
                present.truncate(handle, 0)
            present.truncate(handle, length_bytes)
        buffer = memoryview(bytearray(min(COPY_PIECE_BYTES, length_bytes)))
        for first in changed:
            expected = sums[first : first + _PIECE_BLOCKS]
            start = first * CHECKSUM_BLOCK_BYTES
            piece = buffer[: min(COPY_PIECE_BYTES, length_bytes - start)]
            if not _read_verified(leaving, handle, piece, start, expected):
                raise ChecksumMismatch(f"chunk {handle:x} does not verify: it is not moved")
            if done is None and all(one == ZERO_BLOCK_CHECKSUM for one in expected):
                continue  # a hole stays one
            with self._while_unmoved(handle):
                present.write_at(handle, piece, start)
        present.sync(handle)
        present.sync_names()
        for first in changed:
            start = first * CHECKSUM_BLOCK_BYTES
            piece = buffer[: min(COPY_PIECE_BYTES, length_bytes - start)]
            if not _read_verified(present, handle, piece, start, sums[first : first + _PIECE_BLOCKS]):
                raise OSError(errno.EIO, f"the copy of chunk {handle:x} came back with other bytes")

    def depart(self, handle: ChunkHandle) -> None:
        """The copy is the chunk from now on. The chunk's lock is held, and the copy is what the chunk is.

        Raises: OSError: it is where it was, or its deletion there is in doubt until settle().
        """
        assert handle in self._unmoved
        with self._lock:
            self._unmoved.discard(handle)
        self._delete_left(handle)

    def settle(self) -> None:
        """No power cut brings back what has departed so far. Raises: OSError, from then on always."""
        with self._settling:
            if self._failure:
                raise OSError(errno.EIO, self._failure)
            leaving = self._leaving
            if leaving is None:
                return
            with self._lock:
                departed = set(self._departed)
            try:
                leaving.sync_names()
            except OSError as error:
                # A sync is never retried: the next one may succeed without what this one has lost.
                self._failure = f"chunks that were moved may come back where they were: {error}"
                raise
            with self._lock:
                self._departed -= departed

    def end(self) -> None:
        """All have moved. The left store stays open for whoever reads from it still."""
        assert self._leaving is not None and not self._unmoved and not self._departed
        self._retired.append(self._leaving)
        self._leaving = None

    # --- the plug ---------------------------------------------------------------------------------

    def create(self, handle: ChunkHandle) -> None:
        with self._naming:
            self._to_change(handle).create(handle)

    def make_local(self, handle: ChunkHandle, offset: int, length: int) -> None:
        self._to_change(handle).make_local(handle, offset, length)

    def write_at(self, handle: ChunkHandle, data: Bytes, offset: int) -> None:
        self._to_change(handle).write_at(handle, data, offset)

    def read_into(self, handle: ChunkHandle, buffer: memoryview, offset: int) -> int:
        while True:
            store = self._home(handle)
            try:
                return store.read_into(handle, buffer, offset)
            except KeyError:
                if self._home(handle) is store:
                    raise  # else it has moved meanwhile

    def send(self, handle: ChunkHandle, out: int, offset: int, length: int) -> int:
        while True:
            store = self._home(handle)
            try:
                return store.send(handle, out, offset, length)
            except KeyError:
                if self._home(handle) is store:
                    raise

    def length(self, handle: ChunkHandle) -> int:
        while True:
            store = self._home(handle)
            try:
                return store.length(handle)
            except KeyError:
                if self._home(handle) is store:
                    raise

    def is_stored(self, handle: ChunkHandle) -> bool:
        while True:
            store = self._home(handle)
            found = store.is_stored(handle)
            if found or self._home(handle) is store:
                return found

    def truncate(self, handle: ChunkHandle, length: int) -> None:
        self._to_change(handle).truncate(handle, length)

    def clone(self, source: ChunkHandle, destination: ChunkHandle) -> None:
        with self._naming:
            if source not in self._unmoved:
                self._drop_left(destination)
                self._to_change(destination).clone(source, destination)
                return
            length = self.length(source)  # KeyError before anything is dropped
            self._drop_left(destination)
            self._copy_over(source, self._to_change(destination), destination, length)

    def delete(self, handle: ChunkHandle) -> None:
        with self._naming:
            self._drop_left(handle)
            self._present.delete(handle)

    def handles(self) -> Iterator[ChunkHandle]:
        with self._lock:
            unmoved = set(self._unmoved)
        return iter(sorted(unmoved.union(self._present.handles())))

    def sync(self, handle: ChunkHandle) -> None:
        while True:
            store = self._home(handle)
            try:
                return store.sync(handle)
            except KeyError:
                if self._home(handle) is store:
                    raise

    def sync_names(self) -> None:
        self.settle()
        self._present.sync_names()

    def usage(self) -> StoreUsage:
        return self._present.usage()

    def close(self) -> None:
        for retired in self._retired:
            try:
                retired.close()
            except Exception as error:  # its files have been removed, and nothing of it is wanted
                _log.debug("an emptied store did not close", error=repr(error))
        try:
            if self._leaving is not None:
                self._leaving.close()
        finally:
            self._present.close()

    # --- private ----------------------------------------------------------------------------------

    def _home(self, handle: ChunkHandle) -> ChunkStore:
        if handle in self._unmoved:
            leaving = self._leaving
            if leaving is not None:
                return leaving
        return self._present

    def _to_change(self, handle: ChunkHandle) -> ChunkStore:
        if handle in self._departed:
            self.settle()
        return self._home(handle)

    def _drop_left(self, handle: ChunkHandle) -> None:
        """Delete a chunk from the store that is being left, if that has it. The chunk's lock is held."""
        if handle not in self._unmoved:
            return
        with self._lock:  # from here on no piece of it is copied any more
            self._unmoved.discard(handle)
        self._delete_left(handle)

    def _delete_left(self, handle: ChunkHandle) -> None:
        assert self._leaving is not None
        try:
            self._leaving.delete(handle)
        except OSError:
            with self._lock:
                (self._unmoved if self._leaving.is_stored(handle) else self._departed).add(handle)
            raise
        with self._lock:  # not before: a settle() in this moment would not have synced it
            self._departed.add(handle)

    def _copy_over(
        self, source: ChunkHandle, store: ChunkStore, destination: ChunkHandle, length: int
    ) -> None:
        store.create(destination)
        store.truncate(destination, 0)
        store.truncate(destination, length)
        buffer = memoryview(bytearray(min(COPY_PIECE_BYTES, length)))
        zeros = bytes(len(buffer))
        for start in range(0, length, COPY_PIECE_BYTES):
            got = self.read_into(source, buffer[: length - start], start)
            if buffer[:got].tobytes() != zeros[:got]:
                store.write_at(destination, buffer[:got], start)

    @contextmanager
    def _while_unmoved(self, handle: ChunkHandle) -> Iterator[None]:
        """Write to a copy only as long as it is one: a chunk that is deleted may be made anew at once."""
        with self._lock:
            if handle not in self._unmoved:
                raise KeyError(handle)
            yield


class _Passage:
    """Many pass at a time; closed() waits until all are through, and lets nobody in meanwhile."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._is_closed = False

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_closed)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    @contextmanager
    def closed(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_closed)
            self._is_closed = True
            self._changed.wait_for(lambda: self._inside == 0)
        try:
            yield
        finally:
            with self._changed:
                self._is_closed = False
                self._changed.notify_all()


def _differ(first: int, sums: Sequence[int], done: Sequence[int] | None) -> bool:
    if done is None:
        return True
    stop = first + _PIECE_BLOCKS
    return list(sums[first:stop]) != list(done[first:stop])


def _read_verified(
    store: ChunkStore, handle: ChunkHandle, piece: memoryview, start: int, sums: Sequence[int]
) -> bool:
    return store.read_into(handle, piece, start) == len(piece) and first_bad_block(piece, sums) < 0
