"""Tables over one LMDB environment: the master's state on disk, and its door to lmdb. No meaning of rows.

LMDB is a copy-on-write B-tree in a file: one writer, any number of readers, each of the state as it was at
one commit. Nothing is synced: after kill -9 the page cache still holds every commit; after a power cut the
file is thrown away and rebuilt (see state_machine), so its writes need not pass the Disk seam either.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import NoReturn

import lmdb

from gfs.disk import reserve_lock_file
from gfs.errors import CorruptState, NoSpace, Unavailable
from gfs.master.core.tables import ReadTables, Table

COPY_PIECE_BYTES = 2**20
READERS_MAX = 64  # read transactions at a time: the loop's own view, checkpoints, snapshots


class _View:
    """A read transaction as ReadTables: the state at one commit."""

    __slots__ = ("_handles", "transaction")

    def __init__(self, transaction: lmdb.Transaction[bytes], handles: dict[Table, lmdb._Database]) -> None:
        self.transaction = transaction
        self._handles = handles

    def get(self, table: Table, key: bytes) -> bytes | None:
        row: bytes | None = self.transaction.get(key, None, self._handles[table])
        return row

    def scan(
        self, table: Table, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        return _scan(self.transaction, self._handles[table], start, stop)


class PinnedCopy:
    """One commit's state, to be read out as the bytes of a compact LMDB file. For one thread, once."""

    def __init__(
        self, env: lmdb.Environment, transaction: lmdb.Transaction[bytes], unpin: Callable[[], None]
    ) -> None:
        self._env, self._transaction, self._unpin = env, transaction, unpin
        self._failure: lmdb.Error | None = None
        self._released = False

    def pieces(self) -> Generator[bytes]:
        """The bytes of the file, in order. Ends the pin, also when abandoned half-way.

        Raises: CorruptState, Unavailable: what was yielded is not a whole file.
        """
        # LMDB writes to a descriptor and nothing else; a pipe turns that into pieces for whoever checksums,
        # paces and stores them.
        source, sink = os.pipe()
        copier = threading.Thread(target=self._copy_into, args=(sink,), name="checkpoint-copy")
        copier.start()
        try:
            while piece := _read_piece(source):
                yield piece
        finally:
            # When abandoned (a full disk), the rest is read and dropped: LMDB never gives back the reader's
            # slot of a copy whose descriptor failed, and slots are few.
            while os.read(source, COPY_PIECE_BYTES):
                pass
            copier.join()
            os.close(source)
            self.release()
        if self._failure is not None:
            _raise_ours(self._failure, "a copy of the state")

    def release(self) -> None:
        """End the pin; once is enough, and more often does no harm."""
        if not self._released:
            self._released = True
            self._transaction.abort()
            self._unpin()

    def _copy_into(self, sink: int) -> None:
        try:
            self._env.copyfd(sink, compact=True, txn=self._transaction)
        except lmdb.Error as error:
            self._failure = error
        finally:
            os.close(sink)


class LmdbTables:
    """Implements Tables. All calls from one thread, but for what is said of snapshot() and copy_to().

    Writes gather in one open transaction until commit(); get and scan see them, committed() does not. After
    NoSpace no write is taken any more, and reads go on from the last commit.
    """

    def __init__(self, path: str, *, bytes_max: int) -> None:
        """Open or create the file at `path`. `bytes_max` bounds the file; it is address space, not memory.

        Raises: CorruptState, NoSpace, Unavailable.
        """
        self.path = path
        self._broken = ""
        try:
            reserve_lock_file(path, readers=READERS_MAX)
        except OSError as error:
            kind = NoSpace if error.errno == errno.ENOSPC else Unavailable
            raise kind(f"{path} cannot be used: {error.strerror}") from error
        try:
            # No readahead: rows wanted together lie together, and a state larger than memory must not thrash.
            self._env = lmdb.open(
                path,
                subdir=False,
                map_size=bytes_max,
                sync=False,
                metasync=False,
                max_dbs=len(Table),
                max_readers=READERS_MAX,
                max_spare_txns=4,
                readahead=False,
            )
            self._handles = {table: self._env.open_db(table.value) for table in Table}
        except lmdb.Error as error:
            _raise_ours(error, path)
        self._writing: lmdb.Transaction[bytes] | None = None
        self._pins_lock = threading.Lock()
        self._pins = 0
        self._closing = False
        self._committed = _View(self._env.begin(buffers=False), self._handles)

    def get(self, table: Table, key: bytes) -> bytes | None:
        transaction = self._writing or self._begin()
        row: bytes | None = transaction.get(key, None, self._handles[table])
        return row

    def scan(
        self, table: Table, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        return _scan(self._writing or self._begin(), self._handles[table], start, stop)

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        try:
            (self._writing or self._begin()).put(key, value, True, True, False, self._handles[table])
        except lmdb.Error as error:
            self._fail(error)

    def delete(self, table: Table, key: bytes) -> bool:
        try:
            found: bool = (self._writing or self._begin()).delete(key, b"", self._handles[table])
        except lmdb.Error as error:
            self._fail(error)
        return found

    def commit(self) -> None:
        """Make the gathered writes visible to committed() and to snapshots.

        Raises: NoSpace; what was written since the last commit is lost then, and this state must be given up.
        """
        if self._writing is None:
            if self._broken:
                raise NoSpace(self._broken)
            return
        transaction, self._writing = self._writing, None
        # The old view is let go first: as long as it is held, the pages it sees cannot be used again.
        self._committed.transaction.abort()
        try:
            transaction.commit()
        except lmdb.Error as error:
            self._fail(error)
        finally:
            self._committed.transaction = self._env.begin(buffers=False)

    def committed(self) -> ReadTables:
        """The state at the last commit. The same object for ever; do not keep a scan over a commit."""
        return self._committed

    @contextmanager
    def snapshot(self) -> Iterator[ReadTables]:
        """The state at the last commit, unchanged by later ones, for reading that spans turns of the loop.

        Keep it short: the file cannot reuse pages that somebody may still read. Any thread may read from it,
        one at a time.
        """
        view = _View(self._env.begin(buffers=False), self._handles)
        try:
            yield view
        finally:
            view.transaction.abort()

    @contextmanager
    def held(self) -> Iterator[ReadTables]:
        """As snapshot(), for reading at length: closing these tables leaves the file open until then."""
        with self._pins_lock:
            self._pins += 1
        try:
            with self.snapshot() as view:
                yield view
        finally:
            self._unpin()

    def pin(self) -> PinnedCopy:
        """Hold on to the state at the last commit, to be copied by another thread."""
        with self._pins_lock:
            self._pins += 1
        return PinnedCopy(self._env, self._env.begin(buffers=False), self._unpin)

    def bytes_used(self) -> int:
        """Length of the file as far as it is in use."""
        return int(self._env.info()["last_pgno"] + 1) * int(self._env.stat()["psize"])

    def readers(self) -> int:
        """Slots of the reader table in use, for tests: it must not fill up."""
        return int(self._env.info()["num_readers"])

    def close(self) -> None:
        """Let go of the file; what is not committed is lost. A pinned copy still comes to its end."""
        if self._writing is not None:
            self._writing.abort()
            self._writing = None
        self._committed.transaction.abort()
        with self._pins_lock:
            self._closing = True
            if self._pins == 0:
                self._env.close()

    def _unpin(self) -> None:
        with self._pins_lock:
            self._pins -= 1
            if self._closing and self._pins == 0:
                self._env.close()

    def _begin(self) -> lmdb.Transaction[bytes]:
        if self._broken:
            raise NoSpace(self._broken)
        try:
            self._writing = self._env.begin(write=True, buffers=False)
        except lmdb.Error as error:
            self._fail(error)
        return self._writing

    def _fail(self, error: lmdb.Error) -> NoReturn:
        if self._writing is not None:
            self._writing.abort()
            self._writing = None
        self._broken = f"the master's state in {self.path} cannot be written: {error}"
        _raise_ours(error, self.path)


def _scan(
    transaction: lmdb.Transaction[bytes], handle: lmdb._Database, start: bytes, stop: bytes | None
) -> Iterator[tuple[bytes, bytes]]:
    with transaction.cursor(handle) as cursor:
        if not (cursor.set_range(start) if start else cursor.first()):
            return
        for key, row in cursor.iternext(True, True):
            if stop is not None and key >= stop:
                return
            yield key, row


def _read_piece(source: int) -> bytes:
    """Whole pieces: how a pipe happens to part the bytes must not show in how they are stored."""
    pieces, missing = [], COPY_PIECE_BYTES
    while missing and (found := os.read(source, missing)):
        pieces.append(found)
        missing -= len(found)
    return b"".join(pieces)


def _raise_ours(error: lmdb.Error, what: str) -> NoReturn:
    full = isinstance(error, lmdb.MapFullError) or os.strerror(errno.ENOSPC) in str(error)
    if full or isinstance(error, lmdb.DiskError):
        raise NoSpace(f"no space left for {what}: {error}") from error
    if isinstance(error, lmdb.CorruptedError | lmdb.InvalidError | lmdb.PageNotFoundError | lmdb.PanicError):
        raise CorruptState(f"{what} is damaged: {error}") from error
    raise Unavailable(f"{what} cannot be used: {error}") from error
