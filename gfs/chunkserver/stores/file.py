"""Chunk bytes in plain files, one sparse file a chunk, over the Disk seam. No versions, lengths or checksums.

    DIRECTORY/0000000000/01a/000000000001a5f0.chunk     by the handle: 4096 consecutive ones share a directory

Handles are given out in order, so new chunks meet in one directory, and one sync of it serves them all.
A file system's holes make a gap cheap; a clone shares blocks where the file system can.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from gfs import failpoints
from gfs.chunkserver.stores.interface import StoreUsage
from gfs.chunkserver.stores.plugin import StoreOptions, StorePlugin, StoreSite
from gfs.disk import Bytes, Disk, OpenFile, SystemFile
from gfs.vocabulary import CHUNK_BYTES, MIB, ChunkHandle

OPEN_FILES_MAX = 512
DIRECTORY_BITS = 12  # of the handle, for each level
CHUNKS_DIRECTORY = "chunks"  # in a chunk server's directory
CHUNK_SUFFIX = ".chunk"
CLONE_TEMPORARY = ".clone"
_COPY_PIECE_BYTES = MIB
_FICLONE = 0x40049409  # share all blocks of one file with another: btrfs, XFS, bcachefs
_NO_REFLINK = (errno.EOPNOTSUPP, errno.EINVAL, errno.EXDEV, errno.ENOTTY, errno.ENOSYS)


class _Cached:
    __slots__ = ("file", "forgotten", "users")

    def __init__(self, file: OpenFile) -> None:
        self.file, self.users, self.forgotten = file, 0, False


class FileStore:
    """A ChunkStore over `directory`, which is made when missing.

    Args:
        usage: space of the disk below, when `disk` is not to be asked.
    """

    def __init__(
        self,
        disk: Disk,
        directory: str,
        *,
        usage: Callable[[], StoreUsage] | None = None,
        open_files_max: int = OPEN_FILES_MAX,
    ) -> None:
        assert open_files_max > 0
        self._disk, self._directory = disk, directory
        self._usage = usage or self._system_usage
        self._open_files_max = open_files_max
        self._lock = threading.Lock()
        self._open: OrderedDict[ChunkHandle, _Cached] = OrderedDict()  # least recently used first
        self._known_directories: set[str] = set()
        self._unsynced_directories: set[str] = set()
        self._names_lock = threading.Lock()
        disk.make_directory(directory)
        for first in disk.listdir(directory):
            inside = os.path.join(directory, first)
            self._known_directories.update(os.path.join(inside, second) for second in disk.listdir(inside))
        self._drop_temporaries()
        # A kill may have come before the names in them were synced: the first sync_names() makes up for it.
        self._unsynced_directories |= {directory, *self._known_directories}
        self._unsynced_directories |= {os.path.dirname(known) for known in self._known_directories}

    def create(self, handle: ChunkHandle) -> None:
        self._make_parent(handle)
        self._disk.open(self.path_of(handle), create=True).close()
        self._names_changed(handle)

    def create_durably(self, handle: ChunkHandle, data: Bytes) -> None:
        """Make a chunk that holds `data`; its bytes and its name are on the disk when this returns.

        After a crash there is the whole chunk or none. Raises: OSError; then there may be one.
        """
        self._make_parent(handle)
        path = self.path_of(handle)
        with self._half_made(path + CLONE_TEMPORARY) as file:
            file.pwrite(data, 0)
            file.sync()
        self._forget(handle)
        self._disk.rename(path + CLONE_TEMPORARY, path)
        self._names_changed(handle)
        self.sync_names()

    def make_local(self, handle: ChunkHandle, offset: int, length: int) -> None:
        return  # it never is anything else

    def write_at(self, handle: ChunkHandle, data: Bytes, offset: int) -> None:
        assert offset >= 0 and offset + len(data) <= CHUNK_BYTES, (offset, len(data))
        with self._file(handle) as file:
            file.pwrite(data, offset)

    def read_into(self, handle: ChunkHandle, buffer: memoryview, offset: int) -> int:
        with self._file(handle) as file:
            return file.pread_into(buffer, offset)

    def send(self, handle: ChunkHandle, out: int, offset: int, length: int) -> int:
        with self._file(handle) as file:
            if isinstance(file, SystemFile):
                return os.sendfile(out, file.descriptor, offset, length)
            found = file.pread(length, offset)
            return os.write(out, found) if found else 0

    def length(self, handle: ChunkHandle) -> int:
        with self._file(handle) as file:
            return file.length()

    def is_stored(self, handle: ChunkHandle) -> bool:
        return self._disk.exists(self.path_of(handle))

    def truncate(self, handle: ChunkHandle, length: int) -> None:
        assert 0 <= length <= CHUNK_BYTES, length
        with self._file(handle) as file:
            file.truncate(length)

    def clone(self, source: ChunkHandle, destination: ChunkHandle) -> None:
        self._make_parent(destination)
        path = self.path_of(destination)
        temporary = path + CLONE_TEMPORARY
        with self._half_made(temporary) as target, self._file(source) as file:
            _copy(file, target)
        self._forget(destination)
        failpoints.hit("chunk.copy_written")
        self._disk.rename(temporary, path)
        failpoints.hit("chunk.copy_renamed")
        self._names_changed(destination)

    def delete(self, handle: ChunkHandle) -> None:
        self._forget(handle)
        try:
            self._disk.unlink(self.path_of(handle))
        except FileNotFoundError:
            return
        self._names_changed(handle)

    def handles(self) -> Iterator[ChunkHandle]:
        for directory in sorted(self._known_directories):
            for name in self._disk.listdir(directory):
                if name.endswith(CHUNK_SUFFIX):
                    yield ChunkHandle(int(name.removesuffix(CHUNK_SUFFIX), 16))

    def sync(self, handle: ChunkHandle) -> None:
        with self._file(handle) as file:
            file.sync()

    def sync_names(self) -> None:
        # Held over the syncs: whoever comes second must not return before the first one is done.
        with self._names_lock:
            with self._lock:
                waiting, self._unsynced_directories = self._unsynced_directories, set()
            for directory in sorted(waiting):
                self._disk.sync_directory(directory)

    def usage(self) -> StoreUsage:
        return self._usage()

    def close(self) -> None:
        with self._lock:
            closing, self._open = self._open, OrderedDict()
        for cached in closing.values():
            cached.file.close()

    def path_of(self, handle: ChunkHandle) -> str:
        return chunk_file_path(self._directory, handle)

    def _drop_temporaries(self) -> None:
        """What clones that were cut short have left."""
        for directory in sorted(self._known_directories):
            for name in self._disk.listdir(directory):
                if name.endswith(CLONE_TEMPORARY):
                    self._disk.unlink(os.path.join(directory, name))

    @contextmanager
    def _half_made(self, temporary: str) -> Iterator[OpenFile]:
        """An empty file to be filled; what could not be filled is removed: a full disk needs the room."""
        file = self._disk.open(temporary, create=True)
        try:
            file.truncate(0)
            yield file
        except OSError:
            with suppress(OSError):
                self._disk.unlink(temporary)
            raise
        finally:
            file.close()

    def _parent(self, handle: ChunkHandle) -> str:
        return os.path.dirname(self.path_of(handle))

    def _make_parent(self, handle: ChunkHandle) -> None:
        parent = self._parent(handle)
        if parent in self._known_directories:
            return
        self._disk.make_directory(parent)
        with self._lock:
            self._known_directories.add(parent)
            self._unsynced_directories |= {self._directory, os.path.dirname(parent)}

    def _names_changed(self, handle: ChunkHandle) -> None:
        with self._lock:
            self._unsynced_directories.add(self._parent(handle))

    @contextmanager
    def _file(self, handle: ChunkHandle) -> Iterator[OpenFile]:
        """The chunk's open file, kept open while in use. Raises: KeyError."""
        with self._lock:
            cached = self._open.get(handle)
            if cached is None:
                try:
                    cached = _Cached(self._disk.open(self.path_of(handle)))
                except FileNotFoundError as error:
                    raise KeyError(handle) from error
                self._open[handle] = cached
                self._close_surplus()
            else:
                self._open.move_to_end(handle)
            cached.users += 1
        try:
            yield cached.file
        finally:
            with self._lock:
                cached.users -= 1
                if cached.forgotten and cached.users == 0:
                    cached.file.close()

    def _close_surplus(self) -> None:
        """Close the least recently used files that nobody uses; the newest is about to be used."""
        surplus = len(self._open) - self._open_files_max
        if surplus <= 0:
            return
        idle = [handle for handle, cached in list(self._open.items())[:-1] if cached.users == 0]
        for handle in idle[:surplus]:
            self._open.pop(handle).file.close()

    def _forget(self, handle: ChunkHandle) -> None:
        with self._lock:
            cached = self._open.pop(handle, None)
            if cached is None:
                return
            cached.forgotten = True
            if cached.users == 0:
                cached.file.close()

    def _system_usage(self) -> StoreUsage:
        total_bytes, free_bytes = self._disk.space(self._directory)
        return StoreUsage(total_bytes, free_bytes)


class FileOptions(StoreOptions, frozen=True, kw_only=True):
    open_files_max: int = OPEN_FILES_MAX

    def fault(self) -> str:
        return "" if self.open_files_max > 0 else f"open_files_max: {self.open_files_max} is not above zero"


def _open_store(site: StoreSite, options: FileOptions) -> FileStore:
    directory = os.path.join(site.directory, CHUNKS_DIRECTORY)
    return FileStore(site.disk, directory, open_files_max=options.open_files_max)


PLUGIN = StorePlugin("file", FileOptions, _open_store, names=(CHUNKS_DIRECTORY,))


def chunk_file_path(directory: str, handle: ChunkHandle) -> str:
    """Where the bytes of a chunk are in a store over `directory`."""
    upper, lower = handle >> 2 * DIRECTORY_BITS, handle >> DIRECTORY_BITS & (1 << DIRECTORY_BITS) - 1
    return os.path.join(directory, f"{upper:010x}", f"{lower:03x}", f"{handle:016x}{CHUNK_SUFFIX}")


def _copy(source: OpenFile, target: OpenFile) -> None:
    if isinstance(source, SystemFile) and isinstance(target, SystemFile):
        try:
            fcntl.ioctl(target.descriptor, _FICLONE, source.descriptor)
            return
        except OSError as error:
            if error.errno not in _NO_REFLINK:
                raise
        _copy_in_kernel(source, target)
        return
    position, length = 0, source.length()
    while position < length:
        piece = source.pread(min(_COPY_PIECE_BYTES, length - position), position)
        if not piece:
            break
        target.pwrite(piece, position)
        position += len(piece)


def _copy_in_kernel(source: SystemFile, target: SystemFile) -> None:
    """Copy the parts that hold data; the holes between stay holes."""
    length = source.length()
    target.truncate(length)
    position = 0
    while position < length:
        try:
            start = os.lseek(source.descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        stop = os.lseek(source.descriptor, start, os.SEEK_HOLE)
        while start < stop:
            copied = os.copy_file_range(source.descriptor, target.descriptor, stop - start, start, start)
            if copied == 0:
                raise OSError(errno.EIO, "the source ended while it was copied")
            start += copied
        position = stop
