"""A ChunkStore whose idle chunks lie on an object service, and all others in the local store below it.

    DIRECTORY/000000000001a5f0.row     a TierRow: the bytes of this chunk are that object, and nowhere else

It decides nothing: replica_tiering says which chunk goes out. Where bytes are is the store's own business, as
directories are of the file store: nothing above knows of it, and no index row can disagree.

**The row wins.** While a row is there, the object is the truth, and a local file of that chunk is a leftover
of a move cut short; it is dropped. So every power cut falls on one side or the other:
- out: the object is there, whole, read back and compared → the row is on the disk → the local bytes go;
- back: all bytes local, compared and synced → the row is gone from the disk → only now may they change;
- away: the row is gone from the disk → collect() may delete the object, and any other without a row.

The service may fail, be slow or answer wrongly at any step. A read raises BytesUnreachable then, and the
reader goes to another replica; so does make_local(), before anything has changed. Bytes without their sums
are asked for twice; what is still wrong then is handed up as it is, for the replica's own sums to find the
damage. "No such object" is believed only where the service still shows the mark this server left: a bucket
misnamed must not look like the loss of every chunk.
"""

from __future__ import annotations

import errno
import os
import threading
from array import array
from collections.abc import Callable, Iterator

from gfs.chunkserver.core.checksums import first_bad_block
from gfs.chunkserver.core.tier_object import (
    TierRow,
    decode_row,
    encode_row,
    names_of,
    new_row,
    object_bytes,
    trailer,
)
from gfs.chunkserver.stores.interface import BytesUnreachable, ChunkStore, StoreUsage
from gfs.chunkserver.stores.objects import ObjectService
from gfs.chunkserver.stores.range_cache import RangeCache
from gfs.disk import Bytes, Disk, read_whole_file, write_file_durably
from gfs.errors import ChecksumMismatch, CorruptState
from gfs.telemetry import logger
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, MIB, ChunkHandle, ChunkVersion

RANGE_BYTES = MIB  # what is asked of the service at once
TIER_DIRECTORY = "tier"  # in a chunk server's directory
MARK = "here"  # the name, below the server's, of the object that proves the service to be the right one
_ROW_SUFFIX = ".row"
_BAD_SUFFIX = ".bad"
_log = logger("chunkserver")

assert RANGE_BYTES % CHECKSUM_BLOCK_BYTES == 0  # a range verifies by whole blocks


class TieredStore:
    """A ChunkStore over `local`, with rows in `directory` and objects named after `server`.

    Args:
        token: draws what no upload was ever named with.
        cache_bytes: of ranges read, in memory.
    """

    def __init__(
        self,
        local: ChunkStore,
        service: ObjectService,
        disk: Disk,
        directory: str,
        *,
        server: str,
        token: Callable[[], str],
        cache_bytes: int,
    ) -> None:
        self._local, self._service, self._disk, self._directory = local, service, disk, directory
        self._server, self._token = server, token
        self._cache = RangeCache(cache_bytes)
        self._lock = threading.Lock()
        self._uploading: set[str] = set()
        self._is_marked = False
        self._failure = ""  # a sync of rows that failed: no chunk moves any more in this process
        disk.make_directory(directory)
        disk.sync_directory(os.path.dirname(directory))
        self._kept: set[str] = (
            set()
        )  # objects of chunks whose row cannot be read: nobody knows they are needless
        self._rows: dict[ChunkHandle, TierRow] = dict(self._read_rows())
        for handle in self._rows:
            local.delete(handle)

    # --- moving out: called by replica_tiering ----------------------------------------------------

    def upload(
        self, handle: ChunkHandle, version: ChunkVersion, length_bytes: int, sums: array[int]
    ) -> TierRow:
        """Make an object of the chunk's first `length_bytes`, and read it back; nothing else changes.

        Args:
            sums: of its blocks, by which every byte is verified on the way out and again on the way back.
        Raises: ChecksumMismatch (the local bytes, or those that came back), KeyError, OSError.
        """
        row = new_row(self._server, handle, version, length_bytes, sums, self._token())
        with self._lock:
            self._uploading.add(row.name)
        try:
            self._require_mark()
            self._service.put(row.name, self._local_pieces(row))
            self._compare(row)
        except OSError as error:
            self.give_up(row)
            raise _unreachable(error) from error
        except BaseException:
            self.give_up(row)
            raise
        return row

    def let_go(self, row: TierRow) -> None:
        """The bytes are the object's from now on, and the local ones go.

        The caller holds the chunk's lock, and has seen that it has not changed since upload() began.
        Raises: OSError: the local bytes are all there still. If the row may come to the disk even so, the
            chunk does not change until a start has looked.
        """
        assert row.handle not in self._rows and row.name in self._uploading, row.name
        self._require_moves()
        path = self._row_path(row.handle)
        try:
            write_file_durably(self._disk, path, encode_row(row))
        except OSError as error:
            if self._disk.exists(path):
                self._keep(row)
                self._failure = f"the row of chunk {row.handle:x} may not be durable: {error}"
            raise
        self._keep(row)
        self._local.delete(row.handle)

    def give_up(self, row: TierRow) -> None:
        """Nobody wants the object any more: collect() deletes it."""
        with self._lock:
            self._uploading.discard(row.name)

    def collect(self) -> int:
        """Delete this server's objects that no row names; returns how many. Raises: OSError."""
        self._require_moves()
        deleted = 0
        for name in self._service.names(f"{self._server}/"):
            with self._lock:
                wanted = {row.name for row in self._rows.values()} | self._uploading
            is_kept = any(name.startswith(prefix) for prefix in self._kept)
            if name in wanted or is_kept or name == self._mark_name:
                continue
            self._service.delete(name)
            deleted += 1
        return deleted

    def tiered(self) -> dict[ChunkHandle, TierRow]:
        """What lies on the service now."""
        with self._lock:
            return dict(self._rows)

    # --- the plug ---------------------------------------------------------------------------------

    def create(self, handle: ChunkHandle) -> None:
        if handle not in self._rows:
            self._local.create(handle)

    def make_local(self, handle: ChunkHandle) -> None:
        self._bring_back(handle)

    def write_at(self, handle: ChunkHandle, data: Bytes, offset: int) -> None:
        self._bring_back(handle)
        self._local.write_at(handle, data, offset)

    def read_into(self, handle: ChunkHandle, buffer: memoryview, offset: int) -> int:
        while True:
            row = self._rows.get(handle)
            try:
                if row is None:
                    return self._local.read_into(handle, buffer, offset)
                return self._read_tiered(row, buffer, offset)
            except (KeyError, OSError):
                if self._rows.get(handle) is row:
                    raise  # else it has moved meanwhile

    def send(self, handle: ChunkHandle, out: int, offset: int, length: int) -> int:
        row = self._rows.get(handle)
        if row is None:
            try:
                return self._local.send(handle, out, offset, length)
            except KeyError:
                if handle not in self._rows:
                    raise
        inside = RANGE_BYTES - offset % RANGE_BYTES
        buffer = memoryview(bytearray(min(length, inside)))
        got = self.read_into(handle, buffer, offset)
        return os.write(out, buffer[:got]) if got else 0

    def length(self, handle: ChunkHandle) -> int:
        row = self._rows.get(handle)
        return self._local.length(handle) if row is None else row.length_bytes

    def is_stored(self, handle: ChunkHandle) -> bool:
        return handle in self._rows or self._local.is_stored(handle)

    def truncate(self, handle: ChunkHandle, length: int) -> None:
        row = self._rows.get(handle)
        if row is not None and row.length_bytes == length:
            return
        self._bring_back(handle)
        self._local.truncate(handle, length)

    def clone(self, source: ChunkHandle, destination: ChunkHandle) -> None:
        self._bring_back(source)
        self._local.clone(source, destination)
        if destination in self._rows:
            self._local.sync(destination)
            self._local.sync_names()
            self._forget(destination)

    def delete(self, handle: ChunkHandle) -> None:
        self._forget(handle)
        self._local.delete(handle)

    def handles(self) -> Iterator[ChunkHandle]:
        return iter(sorted(self.tiered().keys() | set(self._local.handles())))

    def sync(self, handle: ChunkHandle) -> None:
        if handle in self._rows:
            return
        try:
            self._local.sync(handle)
        except KeyError:
            if handle not in self._rows:
                raise

    def sync_names(self) -> None:
        self._local.sync_names()

    def usage(self) -> StoreUsage:
        return self._local.usage()

    def close(self) -> None:
        self._local.close()

    # --- reading objects --------------------------------------------------------------------------

    def _read_tiered(self, row: TierRow, buffer: memoryview, offset: int) -> int:
        got = 0
        stop = min(offset + len(buffer), row.length_bytes)
        while offset + got < stop:
            position = offset + got
            start = position - position % RANGE_BYTES
            piece = self._cached_range(row, start)
            part = memoryview(piece)[position - start : stop - start]
            buffer[got : got + len(part)] = part
            got += len(part)
        return got

    def _cached_range(self, row: TierRow, start: int) -> bytes:
        piece = self._cache.get(row.name, start)
        if piece is None:
            piece, is_good = self._fetch(row, start)
            if is_good:
                self._cache.put(row.name, start, piece)
        return piece

    def _fetch(self, row: TierRow, start: int) -> tuple[bytes, bool]:
        """One range, of its full length, and whether it verifies. Raises: KeyError, OSError."""
        length = min(RANGE_BYTES, row.length_bytes - start)
        sums = row.block_sums(start, length)
        piece = self._ask(row, start, length)
        if first_bad_block(memoryview(piece), sums) < 0:
            return piece, True
        _log.warning("the object service gave wrong bytes, and is asked again", object=row.name, offset=start)
        piece = self._ask(row, start, length)
        return piece, first_bad_block(memoryview(piece), sums) < 0

    def _ask(self, row: TierRow, start: int, length: int) -> bytes:
        try:
            piece = self._service.read(row.name, start, length)
        except FileNotFoundError as error:
            try:
                self._service.read(self._mark_name, 0, 1)
            except FileNotFoundError:
                raise self._not_ours() from error
            except OSError as unreachable:
                raise _unreachable(unreachable) from unreachable
            raise KeyError(row.handle) from error
        except OSError as error:
            raise _unreachable(error) from error
        if len(piece) != length:
            raise BytesUnreachable(
                errno.EIO, f"{row.name}: {len(piece)} bytes came where {length} were asked for"
            )
        return piece

    # --- moving -----------------------------------------------------------------------------------

    @property
    def _mark_name(self) -> str:
        return f"{self._server}/{MARK}"

    def _require_mark(self) -> None:
        """See that the service is the one that has the rows' objects; a first upload makes it so."""
        if self._is_marked:
            return
        try:
            self._service.read(self._mark_name, 0, 1)
        except FileNotFoundError as error:
            if self._rows:
                raise self._not_ours() from error
            self._service.put(self._mark_name, [b"gfs"])
        self._is_marked = True

    def _not_ours(self) -> OSError:
        return BytesUnreachable(
            errno.EIO, f"the object service has nothing of this server: it lacks {self._mark_name}"
        )

    def _require_moves(self) -> None:
        if self._failure:
            raise OSError(errno.EIO, f"the tier moves nothing until a restart: {self._failure}")

    def _local_pieces(self, row: TierRow) -> Iterator[bytes]:
        for start in range(0, row.length_bytes, RANGE_BYTES):
            piece = bytearray(min(RANGE_BYTES, row.length_bytes - start))
            view = memoryview(piece)
            got = self._local.read_into(row.handle, view, start)
            if got < len(piece) or first_bad_block(view, row.block_sums(start, len(piece))) >= 0:
                raise ChecksumMismatch(f"chunk {row.handle:x} does not verify: it is not moved to the tier")
            yield bytes(piece)
        yield trailer(row)

    def _compare(self, row: TierRow) -> None:
        """Read the whole object back. Raises: ChecksumMismatch, OSError."""
        for start in range(0, row.length_bytes, RANGE_BYTES):
            length = min(RANGE_BYTES, row.length_bytes - start)
            piece = self._service.read(row.name, start, length)
            if len(piece) != length or first_bad_block(memoryview(piece), row.block_sums(start, length)) >= 0:
                raise ChecksumMismatch(f"{row.name} came back from the object service with other bytes")
        end = self._service.read(row.name, row.length_bytes, object_bytes(row) - row.length_bytes)
        if end != trailer(row):
            raise ChecksumMismatch(f"{row.name} came back from the object service with another trailer")

    def _keep(self, row: TierRow) -> None:
        with self._lock:
            self._rows[row.handle] = row
            self._uploading.discard(row.name)

    def _bring_back(self, handle: ChunkHandle) -> None:
        """Make the chunk a local one again, durably, so that it may change. The chunk's lock is held.

        Raises: OSError (the service, or the disk), KeyError: nothing has changed.
        """
        row = self._rows.get(handle)
        if row is None:
            return
        self._require_moves()
        try:
            self._local.create(handle)
            self._local.truncate(handle, 0)
            for start in range(0, row.length_bytes, RANGE_BYTES):
                piece, is_good = self._fetch(row, start)
                if not is_good:
                    raise BytesUnreachable(
                        errno.EIO, f"{row.name} does not verify, so nothing is written over it"
                    )
                self._local.write_at(handle, piece, start)
            self._local.sync(handle)
            self._local.sync_names()
        except BaseException:
            self._local.delete(handle)
            raise
        self._forget(handle)

    def _forget(self, handle: ChunkHandle) -> None:
        """The row is gone, for good, when this returns. Raises: OSError."""
        row = self._rows.get(handle)
        if row is None:
            return
        self._require_moves()
        self._disk.unlink(self._row_path(handle))
        try:
            self._disk.sync_directory(self._directory)
        except OSError as error:
            # Memory goes on to say what a power cut may bring back; a sync is never retried.
            self._failure = f"the row of chunk {handle:x} may come back: {error}"
            raise
        with self._lock:
            del self._rows[handle]
        self._cache.forget(row.name)

    # --- rows -------------------------------------------------------------------------------------

    def _row_path(self, handle: ChunkHandle) -> str:
        return os.path.join(self._directory, f"{handle:016x}{_ROW_SUFFIX}")

    def _read_rows(self) -> Iterator[tuple[ChunkHandle, TierRow]]:
        for name in self._disk.listdir(self._directory):
            path = os.path.join(self._directory, name)
            if name.endswith(_BAD_SUFFIX):
                self._kept.add(names_of(self._server, ChunkHandle(int(name[:16], 16))))
            if not name.endswith(_ROW_SUFFIX):
                continue
            handle = ChunkHandle(int(name.removesuffix(_ROW_SUFFIX), 16))
            try:
                row = decode_row(read_whole_file(self._disk, path))
                if row.handle != handle:
                    raise CorruptState(f"it is the row of chunk {row.handle:x}")
            except CorruptState as error:
                # Costs this replica alone: its local file, if any, may be half of one, and goes; then the
                # index finds the bytes missing, and the masters have it made anew.
                _log.error("a row of the tier cannot be read", chunk=f"{handle:x}", error=error.message)
                self._kept.add(names_of(self._server, handle))
                self._local.delete(handle)
                self._disk.rename(path, path + _BAD_SUFFIX)
                self._disk.sync_directory(self._directory)
                continue
            yield handle, row


def _unreachable(error: OSError) -> BytesUnreachable:
    return BytesUnreachable(error.errno or errno.EIO, error.strerror or str(error))
