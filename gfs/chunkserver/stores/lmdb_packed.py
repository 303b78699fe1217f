"""Small chunks packed in one LMDB file behind a journal, larger ones as files. A door to lmdb; no decisions.

    DIRECTORY/packed/packed.lmdb          chunks of at most `packed_bytes_max`, as of the last flush
    DIRECTORY/packed/chunks-N.journal     what is newer, in frames as of index_journal
    DIRECTORY/chunks/…                    chunks that have been longer, kept by a FileStore

A change is one frame at the end of the journal, in the page cache: a kill loses nothing, and a sync of any
packed chunk is one of the journal, which all of them share. LMDB itself is written in few, large, synced
transactions: unsynced ones would be faster, but a power cut could then take the whole file.

A value of LMDB is written anew as a whole, and its file never shrinks: so a chunk that outgrows the limit
becomes a file, and stays one. Its bytes are on the disk, under their name, before the packed ones go; where a
chunk has both, the file is the chunk.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Callable, Iterator

import lmdb

from gfs.chunkserver.index_journal import JournalSegment, read_segment, segment_path, segment_sequences
from gfs.chunkserver.stores.file import CHUNKS_DIRECTORY, FileStore
from gfs.chunkserver.stores.interface import StoreUsage
from gfs.chunkserver.stores.plugin import StoreOptions, StorePlugin, StoreSite
from gfs.disk import Bytes, Disk, reserve_lock_file
from gfs.errors import CorruptState, UnsupportedVersion
from gfs.vocabulary import CHUNK_BYTES, KIB, MIB, ChunkHandle

FORMAT_VERSION = 1
PACKED_DIRECTORY = "packed"
PACKED_BYTES_MAX = 64 * KIB
PACKED_BYTES_LIMIT = MIB  # of the option above: a chunk's bytes are written anew with every flush
MAP_BYTES_MAX = 64 * 2**30  # address space, not memory or disk
JOURNAL_BYTES_MAX = 8 * MIB  # a change that finds more flushes first
NEWER_BYTES_MAX = 32 * MIB  # and so it does when the chunks that are newer than LMDB take more memory
READERS_MAX = 512
_FLUSHED, _FORMAT = b"flushed", b"format"
_FRAME = struct.Struct("<BQQ")  # kind, handle, offset or length; data follow
_PUT, _WRITE, _TRUNCATE, _DELETE = range(1, 5)


class LmdbPackedStore:
    """A ChunkStore in `directory`, made when missing. LMDB's file is a real one, whatever `disk` is."""

    def __init__(
        self,
        disk: Disk,
        directory: str,
        *,
        packed_bytes_max: int = PACKED_BYTES_MAX,
        map_bytes_max: int = MAP_BYTES_MAX,
        journal_bytes_max: int = JOURNAL_BYTES_MAX,
    ) -> None:
        """Raises: CorruptState, UnsupportedVersion, OSError."""
        assert 0 < packed_bytes_max <= PACKED_BYTES_LIMIT
        self._disk = disk
        self._directory = os.path.join(directory, PACKED_DIRECTORY)
        self._packed_bytes_max, self._journal_bytes_max = packed_bytes_max, journal_bytes_max
        self._lock = threading.Lock()
        self._newer: dict[ChunkHandle, bytearray | None] = {}  # than LMDB; None: deleted
        self._newer_bytes = 0  # of them, or somewhat more
        self._unmoved: set[ChunkHandle] = set()  # of which a file may be left that is not to be believed
        self._unsynced_names: set[ChunkHandle] = set()  # of files that packed chunks have become
        disk.make_directory(self._directory)
        self._files = FileStore(disk, os.path.join(directory, CHUNKS_DIRECTORY))
        self._large = set(self._files.handles())
        self._environment = _open_environment(os.path.join(self._directory, "packed.lmdb"), map_bytes_max)
        try:
            self._chunks = self._environment.open_db(b"chunks")
            self._meta = self._environment.open_db(b"meta")
            self._segment: JournalSegment | None = None
            self._check_format()
            self._recover()
        except BaseException:
            self._environment.close()
            raise

    # --- mutations ------------------------------------------------------------------------------------

    def create(self, handle: ChunkHandle) -> None:
        with self._lock:
            if handle not in self._large and self._packed(handle) is None:
                self._note(_PUT, handle)
                self._newer[handle] = bytearray()

    def make_local(self, handle: ChunkHandle, offset: int, length: int) -> None:
        return  # it never is anything else

    def write_at(self, handle: ChunkHandle, data: Bytes, offset: int) -> None:
        assert offset >= 0 and offset + len(data) <= CHUNK_BYTES, (offset, len(data))
        if not self._is_large(handle, offset + len(data)):
            with self._lock:
                content = self._to_change(handle)
                self._note(_WRITE, handle, offset, data)
                before = len(content)
                _write(content, data, offset)
                self._keep(handle, content, grown=len(content) - before)
            return
        self._files.write_at(handle, data, offset)

    def truncate(self, handle: ChunkHandle, length: int) -> None:
        assert 0 <= length <= CHUNK_BYTES, length
        if not self._is_large(handle, length):
            with self._lock:
                content = self._to_change(handle)
                self._note(_TRUNCATE, handle, length)
                grown = max(0, length - len(content))
                _truncate(content, length)
                self._keep(handle, content, grown=grown)
            return
        self._files.truncate(handle, length)

    def clone(self, source: ChunkHandle, destination: ChunkHandle) -> None:
        if source in self._large:
            self._files.clone(source, destination)
            with self._lock:
                self._large.add(destination)
                self._forget_packed(destination)
            return
        with self._lock:
            content = self._to_change(source)
            self._note(_PUT, destination, 0, content)
            self._keep(destination, bytearray(content), grown=len(content))
            if destination in self._large:
                self._files.delete(destination)
                self._large.discard(destination)

    def delete(self, handle: ChunkHandle) -> None:
        with self._lock:
            self._forget_packed(handle)
            if handle not in self._large and handle not in self._unmoved:
                return
            if self._segment is not None:
                # What was packed before it became a file must not come back when the file has gone.
                self._segment.sync()
            self._files.delete(handle)
            self._large.discard(handle)
            self._unmoved.discard(handle)
            self._unsynced_names.discard(handle)

    # --- looking --------------------------------------------------------------------------------------

    def read_into(self, handle: ChunkHandle, buffer: memoryview, offset: int) -> int:
        if handle not in self._large:
            with self._lock:
                if handle in self._newer:
                    found = self._newer[handle]
                    if found is not None:
                        return _copy_out(memoryview(found), buffer, offset)
            with self._environment.begin(buffers=True) as transaction:
                packed = transaction.get(_key(handle), db=self._chunks)
                if packed is not None:
                    return _copy_out(packed, buffer, offset)
        return self._files.read_into(handle, buffer, offset)

    def send(self, handle: ChunkHandle, out: int, offset: int, length: int) -> int:
        with self._lock:
            content = self._packed(handle) if handle not in self._large else None
        if content is None:
            return self._files.send(handle, out, offset, length)
        found = content[offset : offset + length]
        return os.write(out, found) if found else 0

    def length(self, handle: ChunkHandle) -> int:
        with self._lock:
            content = self._packed(handle) if handle not in self._large else None
        return self._files.length(handle) if content is None else len(content)

    def is_stored(self, handle: ChunkHandle) -> bool:
        with self._lock:
            if handle not in self._large:
                return self._packed(handle) is not None
        return self._files.is_stored(handle)

    def handles(self) -> Iterator[ChunkHandle]:
        with self._lock:
            found = self._packed_handles() | self._large
        return iter(sorted(found))

    def usage(self) -> StoreUsage:
        total_bytes, free_bytes = self._disk.space(self._directory)
        return StoreUsage(total_bytes, free_bytes)

    # --- the disk -------------------------------------------------------------------------------------

    def sync(self, handle: ChunkHandle) -> None:
        with self._lock:
            is_packed = handle not in self._large and self._packed(handle) is not None
            segment = self._segment
            has_new_name = handle in self._unsynced_names
        if not is_packed:
            self._files.sync(handle)
            if has_new_name:
                self.sync_names()
        elif segment is not None:  # else all is in LMDB, whose transactions are synced
            segment.sync()

    def sync_names(self) -> None:
        with self._lock:
            segment, named = self._segment, set(self._unsynced_names)
        if segment is not None:
            segment.sync()
        self._files.sync_names()
        with self._lock:
            self._unsynced_names -= named

    def flush(self) -> None:
        """Move what the journal holds to LMDB, durably. Raises: OSError, with nothing lost."""
        with self._lock:
            self._flush()

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of the files as a killed process does."""
        if self._segment is not None:
            self._segment.close()
        self._environment.close()
        self._files.close()

    # --- packed chunks; the lock is held ----------------------------------------------------------------

    def _packed(self, handle: ChunkHandle) -> bytes | bytearray | None:
        if handle in self._newer:
            return self._newer[handle]
        with self._environment.begin() as transaction:
            found: bytes | None = transaction.get(_key(handle), db=self._chunks)
        return found

    def _to_change(self, handle: ChunkHandle) -> bytearray:
        """Raises: KeyError; OSError (an earlier change has left the disk in doubt)."""
        found = self._packed(handle)
        if found is None:
            raise KeyError(handle)
        if handle in self._unmoved:
            raise OSError(errno.EIO, "a file of this chunk could not be removed")
        return found if isinstance(found, bytearray) else bytearray(found)

    def _keep(self, handle: ChunkHandle, content: bytearray, *, grown: int) -> None:
        self._newer_bytes += grown if handle in self._newer else len(content)
        self._newer[handle] = content

    def _packed_handles(self) -> set[ChunkHandle]:
        with self._environment.begin(db=self._chunks) as transaction:
            keys = transaction.cursor().iternext(keys=True, values=False)
            found = {ChunkHandle(int.from_bytes(key, "big")) for key in keys}
        found -= self._newer.keys()
        return found | {handle for handle, content in self._newer.items() if content is not None}

    def _forget_packed(self, handle: ChunkHandle) -> None:
        if self._packed(handle) is not None:
            self._note(_DELETE, handle)
            self._newer[handle] = None

    def _is_large(self, handle: ChunkHandle, length: int) -> bool:
        """Whether this chunk is a file, which it becomes here when it is about to be too long."""
        if handle in self._large:
            return True
        if length <= self._packed_bytes_max:
            return False
        with self._lock:
            content = self._to_change(handle)
            try:
                if content:
                    self._files.create_durably(handle, content)
                else:
                    self._files.create(handle)
            except OSError:
                self._unmoved.add(handle)
                self._files.delete(handle)
                self._unmoved.discard(handle)
                raise
            self._large.add(handle)  # from here on the file counts, also after a crash
            if content:
                self._forget_packed(handle)
            else:
                # The empty packed chunk stays for a power cut that comes before the file's name is synced.
                self._unsynced_names.add(handle)
        return True

    def _note(self, kind: int, handle: ChunkHandle, number: int = 0, data: Bytes = b"") -> None:
        if self._segment is not None:
            is_long = self._segment.end > self._journal_bytes_max
            if is_long or self._newer_bytes > NEWER_BYTES_MAX:
                self._flush()
        if self._segment is None:
            sequence = self._read_meta(_FLUSHED) + 1
            self._segment = JournalSegment.create(self._disk, self._directory, sequence, durable=False)
        self._segment.append(_FRAME.pack(kind, handle, number) + data)

    def _flush(self) -> None:
        segment = self._segment
        if segment is None:
            return
        self._write_newer(segment.sequence)
        self._segment = None
        segment.retire()
        self._disk.unlink(segment_path(self._directory, segment.sequence))

    def _write_newer(self, sequence: int) -> None:
        try:
            with self._environment.begin(write=True) as transaction:
                for handle in sorted(self._newer):
                    content = self._newer[handle]
                    if content is None:
                        transaction.delete(_key(handle), db=self._chunks)
                    else:
                        transaction.put(_key(handle), bytes(content), db=self._chunks)
                transaction.put(_FLUSHED, sequence.to_bytes(8, "big"), db=self._meta)
        except lmdb.Error as error:
            is_full = isinstance(error, lmdb.MapFullError) or os.strerror(errno.ENOSPC) in str(error)
            raise OSError(errno.ENOSPC if is_full else errno.EIO, f"packed.lmdb: {error}") from error
        self._newer.clear()
        self._newer_bytes = 0

    # --- the start --------------------------------------------------------------------------------------

    def _check_format(self) -> None:
        found = self._read_meta(_FORMAT)
        if found > FORMAT_VERSION:
            raise UnsupportedVersion(
                f"{self._directory} has format {found}; this program knows up to {FORMAT_VERSION}"
            )
        if not found:
            with self._environment.begin(write=True) as transaction:
                transaction.put(_FORMAT, FORMAT_VERSION.to_bytes(8, "big"), db=self._meta)

    def _recover(self) -> None:
        """Lay the journal over LMDB. A flush ends before the next segment begins, so only one is newer."""
        flushed = self._read_meta(_FLUSHED)
        for sequence in segment_sequences(self._disk, self._directory):
            if sequence > flushed:
                for _, payload in read_segment(self._disk, self._directory, sequence).payloads:
                    self._replay(payload)
                self._write_newer(sequence)
            self._disk.unlink(segment_path(self._directory, sequence))
        twice = self._packed_handles() & self._large
        if twice:
            self._files.sync_names()
        for handle in twice:
            self._forget_packed(handle)

    def _replay(self, payload: bytes) -> None:
        handle, content = _replayed(payload, self._packed, self._directory)
        self._newer[handle] = content

    def _read_meta(self, key: bytes) -> int:
        with self._environment.begin() as transaction:
            return int.from_bytes(transaction.get(key, default=b"", db=self._meta), "big")


class PackedReader:
    """The packed chunks of `directory` as they are on the disk, for looking only: nothing is written.

    A chunk server may be running: see IndexTables.open_to_read, whose cautions hold here, too.
    """

    def __init__(self, disk: Disk, directory: str) -> None:
        """Raises: CorruptState, UnsupportedVersion; FileNotFoundError: its journal was just flushed."""
        self._directory = os.path.join(directory, PACKED_DIRECTORY)
        self._newer: dict[ChunkHandle, bytearray | None] = {}
        path = os.path.join(self._directory, "packed.lmdb")
        try:
            self._environment = lmdb.open(
                path, map_size=MAP_BYTES_MAX, max_dbs=2, subdir=False, readonly=True, lock=False, create=False
            )
            self._chunks = self._environment.open_db(b"chunks", create=False)
            self._meta = self._environment.open_db(b"meta", create=False)
        except lmdb.Error as error:
            raise CorruptState(f"{path}: cannot be opened as a store of chunks: {error}") from error
        found = self._read_meta(_FORMAT)
        if found > FORMAT_VERSION:
            raise UnsupportedVersion(
                f"{self._directory} has format {found}; this program knows up to {FORMAT_VERSION}"
            )
        flushed = self._read_meta(_FLUSHED)
        for sequence in segment_sequences(disk, self._directory):
            if sequence > flushed:
                for _, payload in read_segment(disk, self._directory, sequence).payloads:
                    handle, content = _replayed(payload, self.content, self._directory)
                    self._newer[handle] = content
        self.is_current = self._read_meta(_FLUSHED) == flushed

    def content(self, handle: ChunkHandle) -> bytes | bytearray | None:
        """All bytes of a chunk, unless it is a file; None: it is not packed. Raises: CorruptState."""
        if handle in self._newer:
            return self._newer[handle]
        try:
            with self._environment.begin() as transaction:
                found: bytes | None = transaction.get(_key(handle), db=self._chunks)
        except lmdb.Error as error:
            raise CorruptState(f"{self._directory}: packed.lmdb cannot be read: {error}") from error
        return found

    def handles(self) -> set[ChunkHandle]:
        """Raises: CorruptState."""
        try:
            with self._environment.begin(db=self._chunks) as transaction:
                keys = transaction.cursor().iternext(keys=True, values=False)
                found = {ChunkHandle(int.from_bytes(key, "big")) for key in keys}
        except lmdb.Error as error:
            raise CorruptState(f"{self._directory}: packed.lmdb cannot be walked: {error}") from error
        found -= self._newer.keys()
        return found | {handle for handle, content in self._newer.items() if content is not None}

    def close(self) -> None:
        self._environment.close()

    def _read_meta(self, key: bytes) -> int:
        with self._environment.begin() as transaction:
            return int.from_bytes(transaction.get(key, default=b"", db=self._meta), "big")


class LmdbOptions(StoreOptions, frozen=True, kw_only=True):
    """`packed_bytes_max`: a chunk that grows beyond it becomes a file. `map_bytes_max`: address space."""

    packed_bytes_max: int = PACKED_BYTES_MAX
    map_bytes_max: int = MAP_BYTES_MAX

    def fault(self) -> str:
        if not 0 < self.packed_bytes_max <= PACKED_BYTES_LIMIT:
            return f"packed_bytes_max: {self.packed_bytes_max} is not between 1 and {PACKED_BYTES_LIMIT}"
        least = 8 * JOURNAL_BYTES_MAX
        if self.map_bytes_max < least:
            return f"map_bytes_max: {self.map_bytes_max} is less than {least}"
        return ""


def _open_store(site: StoreSite, options: LmdbOptions) -> LmdbPackedStore:
    return LmdbPackedStore(
        site.disk,
        site.directory,
        packed_bytes_max=options.packed_bytes_max,
        map_bytes_max=options.map_bytes_max,
    )


PLUGIN = StorePlugin("lmdb", LmdbOptions, _open_store, names=(PACKED_DIRECTORY, CHUNKS_DIRECTORY))


def _open_environment(path: str, map_bytes_max: int) -> lmdb.Environment:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    reserve_lock_file(path, readers=READERS_MAX)
    try:
        return lmdb.open(
            path, map_size=map_bytes_max, max_dbs=2, max_readers=READERS_MAX, mode=0o600, subdir=False
        )
    except lmdb.Error as error:
        raise CorruptState(f"{path}: cannot be opened as a store of chunks: {error}") from error


def _key(handle: ChunkHandle) -> bytes:
    return handle.to_bytes(8, "big")


def _replayed(
    payload: bytes, packed: Callable[[ChunkHandle], bytes | bytearray | None], directory: str
) -> tuple[ChunkHandle, bytearray | None]:
    """What a frame of the journal makes of the chunk it is of. Raises: CorruptState."""
    kind, number, place = _FRAME.unpack_from(payload)
    handle, data = ChunkHandle(number), payload[_FRAME.size :]
    if kind == _DELETE:
        return handle, None
    if kind == _PUT:
        return handle, bytearray(data)
    content = packed(handle)
    if content is None or kind not in (_WRITE, _TRUNCATE):
        raise CorruptState(f"the journal in {directory} changes chunk {handle:x}, which it has not")
    changed = bytearray(content)
    if kind == _WRITE:
        _write(changed, data, place)
    else:
        _truncate(changed, place)
    return handle, changed


def _write(content: bytearray, data: Bytes, offset: int) -> None:
    _truncate(content, max(offset, len(content)))
    content[offset : offset + len(data)] = data


def _truncate(content: bytearray, length: int) -> None:
    if length < len(content):
        del content[length:]
    else:
        content.extend(bytes(length - len(content)))


def _copy_out(content: memoryview, buffer: memoryview, offset: int) -> int:
    found = content[offset : offset + len(buffer)]
    buffer[: len(found)] = found
    return len(found)
