"""A ChunkStore whose idle chunks lie on an object service, and all others in the local store below it.

It decides nothing: replica_tiering says which chunk goes out. Where bytes are is the store's own business, as
directories are of the file store: nothing above knows of it, and no index row can disagree.

**The row wins.** As long as a chunk has a row, the object is the truth but for the extents that the row calls
`here`; anything else local is the leftover of a move cut short. So every power cut falls on one side:
- out: the object is there, whole, read back and compared → the row is on the disk → the local bytes go;
- back: the extent's bytes are local, verified and synced → the row says so on the disk → now it may change;
- away: the row is gone from the disk → collect() may delete the object, and any other without a row.

A chunk that is written to comes back by the extents that change. The rest stays out until the chunk is idle
again and becomes a new object, or all of it has come back. A copy of a chunk shares its source's object.
"""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec

from gfs.chunkserver.core.tier_object import EXTENT_BYTES, EXTENTS, TierRow
from gfs.chunkserver.stores.interface import ChunkStore, StoreUsage
from gfs.chunkserver.stores.objects import ObjectService
from gfs.chunkserver.stores.tier_objects import TierObjects
from gfs.chunkserver.stores.tier_rows import TierRows
from gfs.disk import Bytes, Disk
from gfs.telemetry import logger
from gfs.vocabulary import ChunkHandle, ChunkVersion

TIER_DIRECTORY = "tier"  # in a chunk server's directory
_log = logger("chunkserver")


class TieredStore:
    """A ChunkStore over `local`, with rows in `directory` and objects named after `server`.

    Args:
        token: draws what no upload was ever named with.
        cache_bytes: of extents read, in memory.
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
        self._local = local
        self._objects = TierObjects(service, server=server, token=token, cache_bytes=cache_bytes)
        self._rows = TierRows(disk, directory, server=server)
        self._sync_failure = ""
        for handle in self._rows.unreadable:
            local.delete(handle)
        for handle, row in self._rows.all().items():
            if not row.here:
                local.delete(handle)
            elif not local.is_stored(handle):
                _log.error("the local part of a tiered chunk is missing", chunk=f"{handle:x}")
                self._rows.give_up(handle)

    # --- moving out: called by replica_tiering ----------------------------------------------------

    def upload(
        self, handle: ChunkHandle, version: ChunkVersion, length_bytes: int, sums: array[int]
    ) -> TierRow:
        """As TierObjects.upload, of what this chunk is now, wherever its bytes are; nothing else changes."""
        is_first = not self._rows.all()
        return self._objects.upload(
            handle, version, length_bytes, sums, read=self.read_into, is_first=is_first
        )

    def let_go(self, row: TierRow) -> None:
        """The bytes are the object's from now on, and the local ones go.

        The caller holds the chunk's lock, and has seen that it has not changed since upload() began.
        Raises: OSError: the bytes are where they were. If the row may come to the disk even so, the chunk
            does not change until a start has looked.
        """
        assert row.name in self._objects.uploading(), row.name
        self._rows.require()
        try:
            self._rows.put(row)
        except OSError:
            if self._rows.has_failed:
                self._rows.hold(row)
            raise
        self._objects.settle(row)
        self._local.delete(row.handle)

    def give_up(self, row: TierRow) -> None:
        """Nobody wants the object of an upload any more: collect() deletes it."""
        self._objects.settle(row)

    def collect(self) -> tuple[int, list[ChunkHandle]]:
        """Delete this server's objects that no row names: how many; and the chunks whose object is lost.

        Raises: OSError.
        """
        self._rows.require()
        before = self._rows.all()
        names = self._objects.names()
        uploading = self._objects.uploading()  # before the rows: what is in neither was never both
        wanted = {row.name for row in self._rows.all().values()} | uploading
        needless = [name for name in names if name not in wanted and not self._rows.is_kept(name)]
        for name in needless:
            self._objects.delete(name)
        found = set(names)
        unseen = [row for row in before.values() if row.name not in found]
        lost = [row.handle for row in unseen if self._rows.get(row.handle) is row and self._is_lost(row)]
        return len(needless), lost

    def tiered(self) -> dict[ChunkHandle, TierRow]:
        """Chunks that an object has bytes of now."""
        return self._rows.all()

    def row(self, handle: ChunkHandle) -> TierRow | None:
        return self._rows.get(handle)

    def is_elsewhere(self, handle: ChunkHandle, offset: int, length: int) -> bool:
        """Whether to read these bytes takes the service."""
        row = self._rows.get(handle)
        end = 0 if row is None else min(offset + length, row.valid_bytes)
        return row is not None and offset < end and bool(row.elsewhere(offset, end - offset))

    @property
    def cached_bytes(self) -> int:
        return self._objects.cached_bytes

    def _is_lost(self, row: TierRow) -> bool:
        return row.valid_bytes > 0 and self._objects.is_lost(row)

    # --- the plug ---------------------------------------------------------------------------------

    def create(self, handle: ChunkHandle) -> None:
        if handle not in self._rows:
            self._local.create(handle)

    def make_local(self, handle: ChunkHandle, offset: int, length: int) -> None:
        row = self._rows.get(handle)
        if row is None:
            self._local.make_local(handle, offset, length)
            return
        wanted = row.elsewhere(offset, length)
        if not wanted:
            return
        self._rows.require()
        try:
            if not row.here:
                self._begin_local(row)
            for extent in wanted:
                self._pull(row, extent)
            self._sync_local(handle)
        except BaseException:
            if not row.here:
                with suppress(OSError):
                    self._local.delete(handle)
            raise
        following = row.with_here(wanted)
        if following.is_needless:
            self._forget(handle)
        else:
            self._rows.put(following)

    def write_at(self, handle: ChunkHandle, data: Bytes, offset: int) -> None:
        self.make_local(handle, offset, len(data))
        self._local.write_at(handle, data, offset)

    def read_into(self, handle: ChunkHandle, buffer: memoryview, offset: int) -> int:
        while True:
            row = self._rows.get(handle)
            try:
                if row is None:
                    return self._local.read_into(handle, buffer, offset)
                return self._read(row, buffer, offset)
            except (KeyError, OSError):
                if self._rows.get(handle) is row:
                    raise  # else it has moved meanwhile

    def send(self, handle: ChunkHandle, out: int, offset: int, length: int) -> int:
        while True:
            row = self._rows.get(handle)
            here = length if row is None else _run_here(row, offset, length)
            try:
                if here:
                    return self._local.send(handle, out, offset, here)
            except KeyError:
                if self._rows.get(handle) is row:
                    raise
                continue
            inside = EXTENT_BYTES - offset % EXTENT_BYTES
            buffer = memoryview(bytearray(min(length, inside)))
            got = self.read_into(handle, buffer, offset)
            return os.write(out, buffer[:got]) if got else 0

    def length(self, handle: ChunkHandle) -> int:
        while True:
            row = self._rows.get(handle)
            if row is not None and not row.here:
                return row.valid_bytes
            try:
                return self._local.length(handle)
            except KeyError:
                if self._rows.get(handle) is row:
                    raise

    def is_stored(self, handle: ChunkHandle) -> bool:
        row = self._rows.get(handle)
        return (row is not None and not row.here) or self._local.is_stored(handle)

    def truncate(self, handle: ChunkHandle, length: int) -> None:
        row = self._rows.get(handle)
        if row is not None:
            before = self.length(handle)
            if length > before:
                self.make_local(handle, length - 1, 1)  # so that there is something local to be as long
            elif length < row.valid_bytes:
                self._rows.put(row.cut(length))
            row = self._rows.get(handle)
        if row is None or row.here:
            self._local.truncate(handle, length)

    def clone(self, source: ChunkHandle, destination: ChunkHandle) -> None:
        row = self._rows.get(source)
        if row is not None:
            self._rows.require()
        if row is None or row.here:
            self._local.clone(source, destination)
            if row is not None or destination in self._rows:
                self._sync_local(destination)
        else:
            self._local.delete(destination)
        if row is not None:
            self._rows.put(msgspec.structs.replace(row, handle=destination))
        else:
            self._forget(destination)

    def delete(self, handle: ChunkHandle) -> None:
        self._forget(handle)
        self._local.delete(handle)

    def handles(self) -> Iterator[ChunkHandle]:
        return iter(sorted(self._rows.all().keys() | set(self._local.handles())))

    def sync(self, handle: ChunkHandle) -> None:
        if self._sync_failure:
            raise OSError(errno.EIO, self._sync_failure)
        while True:
            row = self._rows.get(handle)
            if row is not None and not row.here:
                return None
            try:
                return self._local.sync(handle)
            except KeyError:
                if self._rows.get(handle) is row:
                    raise

    def sync_names(self) -> None:
        self._local.sync_names()

    def usage(self) -> StoreUsage:
        return self._local.usage()

    def close(self) -> None:
        self._local.close()

    # --- private ----------------------------------------------------------------------------------

    def _read(self, row: TierRow, buffer: memoryview, offset: int) -> int:
        length = self._local.length(row.handle) if row.here else row.valid_bytes
        stop = min(offset + len(buffer), length)
        position = offset
        while position < stop:
            extent = position // EXTENT_BYTES
            end = min(stop, (extent + 1) * EXTENT_BYTES)
            part = buffer[position - offset : end - offset]
            if row.is_here(extent):
                if self._local.read_into(row.handle, part, position) < len(part):
                    break
            else:
                self._read_elsewhere(row, extent, part, position)
            position = end
        return max(0, position - offset)

    def _read_elsewhere(self, row: TierRow, extent: int, part: memoryview, position: int) -> None:
        held = max(0, min(row.valid_bytes - position, len(part)))
        if held:
            start = position - extent * EXTENT_BYTES
            part[:held] = memoryview(self._objects.extent(row, extent))[start : start + held]
        part[held:] = bytes(len(part) - held)

    def _begin_local(self, row: TierRow) -> None:
        """A local part as long as the chunk, with nothing in it yet. What a move left of it is dropped."""
        self._local.delete(row.handle)
        self._local.create(row.handle)
        self._local.truncate(row.handle, row.valid_bytes)

    def _pull(self, row: TierRow, extent: int) -> None:
        start = extent * EXTENT_BYTES
        held = row.valid_bytes - start
        if held > 0:
            self._local.write_at(row.handle, self._objects.verified_extent(row, extent)[:held], start)

    def _sync_local(self, handle: ChunkHandle) -> None:
        """The local part, and its name, are on the disk. Raises: OSError, and every sync() from then on."""
        try:
            self._local.sync(handle)
            self._local.sync_names()
        except OSError as error:
            self._sync_failure = f"bytes of chunk {handle:x} that came back were not synced: {error}"
            self._rows.fail(self._sync_failure)
            raise

    def _forget(self, handle: ChunkHandle) -> None:
        row = self._rows.forget(handle)
        if row is not None:
            self._objects.forget(row.name)


def _run_here(row: TierRow, offset: int, length: int) -> int:
    """How many of the bytes from `offset` on are in the local store, without a gap."""
    extent = offset // EXTENT_BYTES
    while extent < EXTENTS and row.is_here(extent):
        extent += 1
    return max(0, min(length, extent * EXTENT_BYTES - offset))
