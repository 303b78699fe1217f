"""One chunk server's objects on an object service: uploaded and read back, read by extents, listed, deleted.

The service may fail, be slow or answer wrongly at any step: BytesUnreachable then. Bytes without their sums
are asked for twice; what is still wrong then is handed up as it is, for the replica's own sums to find the
damage. "No such object" is believed only where the service still shows the mark this server left: a bucket
misnamed must not look like the loss of every chunk.
"""

from __future__ import annotations

import errno
import threading
from array import array
from collections.abc import Callable, Iterator

from gfs.chunkserver.core.checksums import first_bad_block
from gfs.chunkserver.core.tier_object import EXTENT_BYTES, TierRow, new_row, object_bytes, trailer
from gfs.chunkserver.stores.interface import BytesUnreachable
from gfs.chunkserver.stores.objects import ObjectService
from gfs.chunkserver.stores.range_cache import RangeCache
from gfs.errors import ChecksumMismatch
from gfs.telemetry import logger
from gfs.vocabulary import ChunkHandle, ChunkVersion

MARK = "here"  # the name, below the server's, of the object that proves the service to be the right one
_log = logger("chunkserver")

ReadLocal = Callable[[ChunkHandle, memoryview, int], int]
"""As ChunkStore.read_into."""


class TierObjects:
    """Thread-safe and blocking."""

    def __init__(
        self, service: ObjectService, *, server: str, token: Callable[[], str], cache_bytes: int
    ) -> None:
        """As TieredStore."""
        self._service, self._server, self._token = service, server, token
        self._cache = RangeCache(cache_bytes)
        self._lock = threading.Lock()
        self._uploading: set[str] = set()
        self._is_marked = False

    @property
    def cached_bytes(self) -> int:
        return self._cache.used_bytes

    # --- uploading ----------------------------------------------------------------------------------

    def upload(
        self,
        handle: ChunkHandle,
        version: ChunkVersion,
        length_bytes: int,
        sums: array[int],
        *,
        read: ReadLocal,
        is_first: bool,
    ) -> TierRow:
        """Make an object of the chunk's first `length_bytes`, and read it back; spared until settle().

        Args:
            sums: of its blocks, by which every byte is verified on the way out and again on the way back.
            is_first: no row names an object yet, so the service need not know this server.
        Raises: ChecksumMismatch (the bytes read, or those that came back), KeyError, BytesUnreachable,
            OSError.
        """
        row = new_row(self._server, handle, version, length_bytes, sums, self._token())
        with self._lock:
            self._uploading.add(row.name)
        try:
            self._require_mark(is_first=is_first)
            self._service.put(row.name, _pieces(row, read))
            self._compare(row)
        except OSError as error:
            self.settle(row)
            raise _unreachable(error) from error
        except BaseException:
            self.settle(row)
            raise
        return row

    def settle(self, row: TierRow) -> None:
        """From now on the rows alone say whether the object is wanted."""
        with self._lock:
            self._uploading.discard(row.name)

    def uploading(self) -> set[str]:
        with self._lock:
            return set(self._uploading)

    def _compare(self, row: TierRow) -> None:
        """Read the whole object back. Raises: ChecksumMismatch, OSError."""
        for start in range(0, row.length_bytes, EXTENT_BYTES):
            length = min(EXTENT_BYTES, row.length_bytes - start)
            piece = self._service.read(row.name, start, length)
            if len(piece) != length or first_bad_block(memoryview(piece), row.block_sums(start, length)) >= 0:
                raise ChecksumMismatch(f"{row.name} came back from the object service with other bytes")
        end = self._service.read(row.name, row.length_bytes, object_bytes(row) - row.length_bytes)
        if end != trailer(row):
            raise ChecksumMismatch(f"{row.name} came back from the object service with another trailer")

    # --- reading ------------------------------------------------------------------------------------

    def extent(self, row: TierRow, extent: int) -> bytes:
        """Bytes of one extent of the object, as far as it goes, from the cache if they are there.

        Raises: KeyError (the object is lost), BytesUnreachable.
        """
        piece = self._cache.get(row.name, extent)
        if piece is None:
            piece, is_good = self._fetch(row, extent)
            if is_good:
                self._cache.put(row.name, extent, piece)
        return piece

    def verified_extent(self, row: TierRow, extent: int) -> bytes:
        """As extent(). Raises: BytesUnreachable also when the bytes do not have their sums."""
        piece = self._cache.get(row.name, extent)
        if piece is None:
            piece, is_good = self._fetch(row, extent)
            if not is_good:
                raise BytesUnreachable(errno.EIO, f"{row.name} does not verify: nothing is made of it")
        return piece

    def forget(self, name: str) -> None:
        """Nobody reads this object any more."""
        self._cache.forget(name)

    def is_lost(self, row: TierRow) -> bool:
        """Whether the service says, and may be believed, that there is no such object. Raises: OSError."""
        try:
            self._ask(row, 0, 1)
        except KeyError:
            return True
        return False

    def _fetch(self, row: TierRow, extent: int) -> tuple[bytes, bool]:
        """One extent, and whether it verifies. Raises: KeyError, BytesUnreachable."""
        start = extent * EXTENT_BYTES
        length = min(EXTENT_BYTES, row.length_bytes - start)
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
                self._service.read(self.mark_name, 0, 1)
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

    # --- what is there ------------------------------------------------------------------------------

    @property
    def mark_name(self) -> str:
        return f"{self._server}/{MARK}"

    def names(self) -> list[str]:
        """Of all objects of this server, without its mark. Raises: OSError, also where the mark is not."""
        found = self._service.names(f"{self._server}/")
        if found and self.mark_name not in found:
            raise self._not_ours()
        return [name for name in found if name != self.mark_name]

    def delete(self, name: str) -> None:
        self._service.delete(name)

    def _require_mark(self, *, is_first: bool) -> None:
        if self._is_marked:
            return
        try:
            self._service.read(self.mark_name, 0, 1)
        except FileNotFoundError as error:
            if not is_first:
                raise self._not_ours() from error
            self._service.put(self.mark_name, [b"gfs"])
        self._is_marked = True

    def _not_ours(self) -> OSError:
        return BytesUnreachable(
            errno.EIO, f"the object service has nothing of this server: it lacks {self.mark_name}"
        )


def _pieces(row: TierRow, read: ReadLocal) -> Iterator[bytes]:
    for start in range(0, row.length_bytes, EXTENT_BYTES):
        piece = bytearray(min(EXTENT_BYTES, row.length_bytes - start))
        view = memoryview(piece)
        got = read(row.handle, view, start)
        if got < len(piece) or first_bad_block(view, row.block_sums(start, len(piece))) >= 0:
            raise ChecksumMismatch(f"chunk {row.handle:x} does not verify: it is not moved to the tier")
        yield bytes(piece)
    yield trailer(row)


def _unreachable(error: OSError) -> BytesUnreachable:
    return BytesUnreachable(error.errno or errno.EIO, error.strerror or str(error))
