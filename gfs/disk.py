"""The one door to files whose loss would be noticed: the operation log, checkpoints, chunk bytes.

A second implementation (tests/fakes) forgets at a power cut what was not synced; the same contract
tests run over both. A failed sync is never retried: the page cache may have dropped the bytes, so the
caller must treat it as fatal.
"""

from __future__ import annotations

import os
from typing import Protocol

from gfs import failpoints

_LOCK_HEADER_BYTES, _LOCK_READER_BYTES = 4096, 64  # at least what LMDB needs

Bytes = bytes | bytearray | memoryview


class OpenFile(Protocol):
    """A file opened for reading and writing at explicit offsets. Offsets and lengths in bytes."""

    def pwrite(self, data: Bytes, offset: int) -> None:
        """Write all of `data` at `offset`, or raise OSError (ENOSPC, EIO) with any prefix written."""
        ...

    def pread(self, length: int, offset: int) -> bytes:
        """Read up to `length` bytes; shorter only at the end of the file."""
        ...

    def pread_into(self, buffer: memoryview, offset: int) -> int: ...

    def length(self) -> int: ...

    def truncate(self, length: int) -> None: ...

    def sync(self) -> None:
        """fdatasync: bytes and length are on the disk when this returns."""
        ...

    def start_writeback(self, offset: int, length: int) -> None:
        """Ask for early writeback of a range; a hint, no promise (data-plane: 1.5x faster syncs)."""
        ...

    def close(self) -> None: ...


class Disk(Protocol):
    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> OpenFile: ...

    def rename(self, source: str, destination: str) -> None: ...

    def unlink(self, path: str) -> None: ...

    def listdir(self, path: str) -> list[str]:
        """Names in a directory, sorted."""
        ...

    def space(self, path: str) -> tuple[int, int]:
        """Bytes of the file system that `path` is on, and how many of them are free. Raises: OSError."""
        ...

    def exists(self, path: str) -> bool: ...

    def make_directory(self, path: str) -> None:
        """Create a directory and its parents; no error when it is there."""
        ...

    def sync_directory(self, path: str) -> None:
        """Creations, renames and unlinks in this directory are on the disk when this returns."""
        ...

    def boot_id(self) -> str:
        """Changes whenever unsynced bytes may have been forgotten: a restart of the machine."""
        ...


class SystemFile:
    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def pwrite(self, data: Bytes, offset: int) -> None:
        written = os.pwrite(self.descriptor, data, offset)
        if written == len(data):
            return
        view = memoryview(data)
        while written < len(view):
            written += os.pwrite(self.descriptor, view[written:], offset + written)

    def pread(self, length: int, offset: int) -> bytes:
        found = os.pread(self.descriptor, length, offset)
        if len(found) == length or not found:
            return found
        pieces = [found]
        have = len(found)
        while have < length and (found := os.pread(self.descriptor, length - have, offset + have)):
            pieces.append(found)
            have += len(found)
        return b"".join(pieces)

    def pread_into(self, buffer: memoryview, offset: int) -> int:
        have = 0
        while have < len(buffer):
            got = os.preadv(self.descriptor, [buffer[have:]], offset + have)
            if got == 0:
                break
            have += got
        return have

    def length(self) -> int:
        return os.fstat(self.descriptor).st_size

    def truncate(self, length: int) -> None:
        os.ftruncate(self.descriptor, length)

    def sync(self) -> None:
        os.fdatasync(self.descriptor)

    def start_writeback(self, offset: int, length: int) -> None:
        # The standard library has no sync_file_range; DONTNEED on dirty pages starts their writeback
        # without waiting, but would also drop clean ones, so a plain no-op is the honest default.
        return

    def close(self) -> None:
        os.close(self.descriptor)


class SystemDisk:
    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> OpenFile:
        flags = os.O_RDWR | os.O_CLOEXEC
        if create:
            flags |= os.O_CREAT
        if exclusive:
            flags |= os.O_CREAT | os.O_EXCL
        return SystemFile(os.open(path, flags, 0o600))

    def rename(self, source: str, destination: str) -> None:
        os.rename(source, destination)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def space(self, path: str) -> tuple[int, int]:
        found = os.statvfs(path)
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def make_directory(self, path: str) -> None:
        os.makedirs(path, mode=0o700, exist_ok=True)

    def sync_directory(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def boot_id(self) -> str:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()


def reserve_lock_file(path: str, *, readers: int) -> None:
    """Give the lock file of the LMDB database at `path` its blocks, so that a full disk refuses them here.

    LMDB maps that file with holes in it: to touch one on a full disk ends the process with SIGBUS.
    Raises: OSError (ENOSPC).
    """
    descriptor = os.open(path + "-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, _LOCK_HEADER_BYTES + readers * _LOCK_READER_BYTES)
    finally:
        os.close(descriptor)


def write_file_durably(disk: Disk, path: str, data: bytes) -> None:
    """Replace `path` by `data` in one step: after a crash it holds the old bytes or the new, whole."""
    temporary = path + ".tmp"
    file = disk.open(temporary, create=True)
    try:
        file.truncate(0)
        file.pwrite(data, 0)
        failpoints.hit("file.written")
        file.sync()
        failpoints.hit("file.synced")
    finally:
        file.close()
    disk.rename(temporary, path)
    failpoints.hit("file.renamed")
    disk.sync_directory(os.path.dirname(path))
    failpoints.hit("file.durable")


def read_whole_file(disk: Disk, path: str) -> bytes:
    file = disk.open(path)
    try:
        return file.pread(file.length(), 0)
    finally:
        file.close()
