"""Which chunks of a chunk server are on an object service, durably: one small file each. No bytes of chunks.

    DIRECTORY/000000000001a5f0.row     a TierRow
    DIRECTORY/000000000001a5f0.row.bad one that could not be read: its objects are kept

A sync that failed is never retried: memory goes on to say what a power cut may bring back, and no row changes
any more in this process.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator

from gfs.chunkserver.core.tier_object import TierRow, decode_row, encode_row, names_of
from gfs.disk import Disk, read_whole_file, write_file_durably
from gfs.errors import CorruptState
from gfs.telemetry import logger
from gfs.vocabulary import ChunkHandle

ROW_SUFFIX = ".row"
BAD_SUFFIX = ".bad"
_log = logger("chunkserver")


class TierRows:
    """Thread-safe; who changes the row of a chunk holds the chunk's lock."""

    def __init__(self, disk: Disk, directory: str, *, server: str) -> None:
        self._disk, self._directory, self._server = disk, directory, server
        self._lock = threading.Lock()
        self._failure = ""
        disk.make_directory(directory)
        disk.sync_directory(os.path.dirname(directory))
        self.unreadable: list[ChunkHandle] = []  # of this start: what is local of them may be half a chunk
        self._kept: set[str] = set()  # objects of unreadable rows: nobody knows that they are needless
        self._rows: dict[ChunkHandle, TierRow] = dict(self._read())

    def get(self, handle: ChunkHandle) -> TierRow | None:
        return self._rows.get(handle)

    def __contains__(self, handle: ChunkHandle) -> bool:
        return handle in self._rows

    def all(self) -> dict[ChunkHandle, TierRow]:
        """As they are in this moment."""
        with self._lock:
            return dict(self._rows)

    def is_kept(self, name: str) -> bool:
        """Whether an object stays although no row names it."""
        return any(name.startswith(prefix) for prefix in self._kept)

    def require(self) -> None:
        """Raises: OSError, once a sync has failed."""
        if self._failure:
            raise OSError(errno.EIO, f"the tier changes nothing until a restart: {self._failure}")

    def fail(self, reason: str) -> None:
        self._failure = self._failure or reason

    def put(self, row: TierRow) -> None:
        """This is the chunk's row from now on, also after a power cut. Raises: OSError: see `hold`."""
        self.require()
        path = self._path(row.handle)
        try:
            write_file_durably(self._disk, path, encode_row(row))
        except OSError as error:
            if self._disk.exists(path):
                self.fail(f"the row of chunk {row.handle:x} may not be durable: {error}")
            raise
        self.hold(row)

    def hold(self, row: TierRow) -> None:
        """Say so in memory alone: for a row that may have come to the disk although put() has failed."""
        with self._lock:
            self._rows[row.handle] = row

    def forget(self, handle: ChunkHandle) -> TierRow | None:
        """The row is gone, for good, when this returns; what it was. Raises: OSError."""
        row = self._rows.get(handle)
        if row is None:
            return None
        self.require()
        self._disk.unlink(self._path(handle))
        try:
            self._disk.sync_directory(self._directory)
        except OSError as error:
            self.fail(f"the row of chunk {handle:x} may come back: {error}")
            raise
        with self._lock:
            del self._rows[handle]
        return row

    @property
    def has_failed(self) -> bool:
        return bool(self._failure)

    def give_up(self, handle: ChunkHandle) -> None:
        """At a start: this row says what is not so. The replica is lost, its objects are kept."""
        self._put_aside(handle)
        del self._rows[handle]

    def _path(self, handle: ChunkHandle) -> str:
        return os.path.join(self._directory, f"{handle:016x}{ROW_SUFFIX}")

    def _put_aside(self, handle: ChunkHandle) -> None:
        path = self._path(handle)
        self._kept.add(names_of(self._server, handle))
        self._disk.rename(path, path + BAD_SUFFIX)
        self._disk.sync_directory(self._directory)

    def _read(self) -> Iterator[tuple[ChunkHandle, TierRow]]:
        for name in self._disk.listdir(self._directory):
            if name.endswith(BAD_SUFFIX):
                self._kept.add(names_of(self._server, ChunkHandle(int(name[:16], 16))))
            if not name.endswith(ROW_SUFFIX):
                continue
            handle = ChunkHandle(int(name.removesuffix(ROW_SUFFIX), 16))
            try:
                row = decode_row(read_whole_file(self._disk, self._path(handle)))
                if row.handle != handle:
                    raise CorruptState(f"it is the row of chunk {row.handle:x}")
            except CorruptState as error:
                # Costs this replica alone: the index finds its bytes missing, and the masters have it made
                # anew.
                _log.error("a row of the tier cannot be read", chunk=f"{handle:x}", error=error.message)
                self.unreadable.append(handle)
                self._put_aside(handle)
                continue
            yield handle, row
