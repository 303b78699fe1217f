"""A disk in memory that forgets at a power cut what was not synced. Implements gfs.disk.Disk.

What survives a cut: the bytes each file held at its last sync, under the names each directory held at its
last sync. With `torn` sectors, chance decides for each unsynced sector and for a prefix of the unsynced
directory changes, as on a journalling file system; with `reorders_names` for each directory change by itself,
which POSIX allows. Directories themselves are durable when made.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from gfs.disk import Bytes

SECTOR_BYTES = 512
TOTAL_BYTES = 2**40  # of the file system, as programs are told


class PoweredOff(OSError):
    """The machine this file or call belonged to has lost its power."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "the power is cut")


@dataclass(slots=True)
class _Inode:
    content: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, bytes] | int] = field(default_factory=list)  # a write, or a truncation's length


def _write_into(content: bytearray, data: bytes, offset: int) -> None:
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _truncate(content: bytearray, length: int) -> None:
    if length < len(content):
        del content[length:]
    else:
        content.extend(bytes(length - len(content)))


class ForgetfulFile:
    def __init__(self, disk: ForgetfulDisk, inode: _Inode) -> None:
        self._disk, self._inode, self._boot = disk, inode, disk.boots
        self._is_closed = False

    def _alive(self) -> None:
        if self._is_closed:
            raise OSError(errno.EBADF, "the file has been closed")
        if self._boot != self._disk.boots or self._disk.powered_off:
            raise PoweredOff

    def pwrite(self, data: Bytes, offset: int) -> None:
        with self._disk.lock:
            self._alive()
            self._disk.trouble()
            written = bytes(data)
            growth = offset + len(written) - len(self._inode.content)
            short = self._disk.space_missing(growth)
            if short:
                written = written[: max(0, len(written) - short)]
            cut_now = self._disk.count_operation()
            _write_into(self._inode.content, written, offset)
            self._inode.unsynced.append((offset, written))
            if cut_now:
                self._disk.power_cut()
                raise PoweredOff
            if short:
                raise OSError(errno.ENOSPC, "no space left on the disk")

    def pread(self, length: int, offset: int) -> bytes:
        with self._disk.lock:
            self._alive()
            self._disk.trouble_reading()
            return bytes(self._inode.content[offset : offset + length])

    def pread_into(self, buffer: memoryview, offset: int) -> int:
        found = self.pread(len(buffer), offset)
        buffer[: len(found)] = found
        return len(found)

    def length(self) -> int:
        with self._disk.lock:
            self._alive()
            return len(self._inode.content)

    def truncate(self, length: int) -> None:
        with self._disk.lock:
            self._alive()
            cut_now = self._disk.count_operation()
            _truncate(self._inode.content, length)
            self._inode.unsynced.append(length)
            if cut_now:
                self._disk.power_cut()
                raise PoweredOff

    def sync(self) -> None:
        with self._disk.lock:
            self._alive()
            if self._disk.count_operation():
                self._disk.power_cut()
                raise PoweredOff
            self._disk.syncs += 1
            fails = self._disk.failing_sync
            try:
                self._disk.trouble()
            except OSError:
                fails = True
            if fails:
                # As on Linux: the pages are marked clean, so a later sync would "succeed" without them.
                self._inode.unsynced.clear()
                raise OSError(errno.EIO, "sync failed")
            for change in self._inode.unsynced:
                if isinstance(change, int):
                    _truncate(self._inode.durable, change)
                else:
                    _write_into(self._inode.durable, change[1], change[0])
            self._inode.unsynced.clear()

    def start_writeback(self, offset: int, length: int) -> None:
        return

    def close(self) -> None:
        self._is_closed = True


class ForgetfulDisk:
    """Set `failing_sync` for a broken disk, `space_bytes_left` for a full one (None: endless)."""

    def __init__(self, seed: int = 0) -> None:
        self.lock = threading.RLock()
        self.failing_sync = False
        self.space_bytes_left: int | None = None
        self.operations_until_cut: int | None = None
        self.torn_when_cut = False
        self.reorders_names = False
        self.operations = 0
        self.syncs = 0
        self.boots = 0
        self.powered_off = False
        self.failing_share = 0.0  # of writes and syncs, with EIO
        self.failing_reads_share = 0.0
        self.on_slow: Callable[[], None] | None = None  # called by each write and sync
        self._chance = random.Random(seed)
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        self._unsynced_names: list[list[tuple[str, _Inode | None]]] = []  # each rename is one step
        self._directories = {"/"}

    # --- faults ---------------------------------------------------------------------------------

    def power_cut(self, *, torn: bool | None = None) -> None:
        """Lose power now. Calls fail until power_on(); files opened before never work again."""
        with self.lock:
            self.powered_off = True
            self.operations_until_cut = None
            if torn if torn is not None else self.torn_when_cut:
                self._keep_some_unsynced()
            inodes = {id(inode): inode for inode in (*self._names.values(), *self._durable_names.values())}
            for inode in inodes.values():
                inode.content = bytearray(inode.durable)
                inode.unsynced.clear()
            self._names = dict(self._durable_names)
            self._unsynced_names.clear()

    def power_on(self) -> None:
        with self.lock:
            self.powered_off = False
            self.boots += 1

    def cut_power_after(self, operations: int, *, torn: bool = False) -> None:
        """Lose power in the middle of the change (write, sync, rename …) that follows `operations` others."""
        self.operations_until_cut, self.torn_when_cut = operations, torn

    def flip_bit(self, path: str, offset: int, bit: int = 0) -> None:
        """Silent corruption: of the bytes on the disk and in the page cache alike."""
        with self.lock:
            inode = self._find(path)
            inode.content[offset] ^= 1 << bit
            if offset < len(inode.durable):
                inode.durable[offset] ^= 1 << bit

    def mend(self) -> None:
        """Neither full nor slow, and no errors any more."""
        self.failing_sync, self.failing_share, self.failing_reads_share = False, 0.0, 0.0
        self.space_bytes_left, self.on_slow = None, None

    def files_below(self, directory: str) -> list[str]:
        return sorted(path for path in self._names if path.startswith(f"{directory}/"))

    def length_of(self, path: str) -> int:
        return len(self._find(path).content)

    def trouble(self) -> None:
        """What a write or sync meets. Raises: OSError."""
        if self.on_slow is not None:
            self.on_slow()
        if self.failing_share and self._chance.random() < self.failing_share:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def trouble_reading(self) -> None:
        """What a read meets. Raises: OSError."""
        if self.failing_reads_share and self._chance.random() < self.failing_reads_share:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def count_operation(self) -> bool:
        """Whether the power goes now."""
        self.operations += 1
        if self.operations_until_cut is None:
            return False
        self.operations_until_cut -= 1
        return self.operations_until_cut < 0

    def space_missing(self, growth: int) -> int:
        if self.space_bytes_left is None or growth <= 0:
            return 0
        granted = min(growth, self.space_bytes_left)
        self.space_bytes_left -= granted
        return growth - granted

    def _keep_some_unsynced(self) -> None:
        for inode in {id(inode): inode for inode in self._names.values()}.values():
            for change in inode.unsynced:
                if isinstance(change, int):
                    if self._chance.random() < 0.5:
                        _truncate(inode.durable, change)
                    continue
                offset, data = change
                position = 0
                while position < len(data):
                    length = SECTOR_BYTES - (offset + position) % SECTOR_BYTES
                    if self._chance.random() < 0.5:
                        piece = data[position : position + length]
                        _write_into(inode.durable, piece, offset + position)
                    position += length
        if self.reorders_names:
            survivors = [step for step in self._unsynced_names if self._chance.random() < 0.5]
        else:
            survivors = self._unsynced_names[: self._chance.randint(0, len(self._unsynced_names))]
        for step in survivors:
            self._make_durable(step)

    # --- gfs.disk.Disk --------------------------------------------------------------------------

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> ForgetfulFile:
        with self.lock:
            self._alive()
            if path in self._directories:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            if path in self._names:
                if exclusive:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
                return ForgetfulFile(self, self._names[path])
            if not create and not exclusive:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            if os.path.dirname(path) not in self._directories:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            inode = _Inode()
            self._change_names([(path, inode)])
            return ForgetfulFile(self, inode)

    def rename(self, source: str, destination: str) -> None:
        with self.lock:
            self._alive()
            self._change_names([(destination, self._find(source)), (source, None)])

    def unlink(self, path: str) -> None:
        with self.lock:
            self._alive()
            self._find(path)
            self._change_names([(path, None)])

    def listdir(self, path: str) -> list[str]:
        with self.lock:
            self._alive()
            directory = path.rstrip("/") or "/"
            if directory not in self._directories:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            inside = (*self._names, *(self._directories - {"/"}))
            return sorted(os.path.basename(name) for name in inside if os.path.dirname(name) == directory)

    def exists(self, path: str) -> bool:
        with self.lock:
            self._alive()
            return path in self._names or path.rstrip("/") in self._directories

    def make_directory(self, path: str) -> None:
        with self.lock:
            self._alive()
            directory = path.rstrip("/")
            while directory and directory not in self._directories:
                self._directories.add(directory)
                directory = os.path.dirname(directory)

    def space(self, path: str) -> tuple[int, int]:
        with self.lock:
            self._alive()
            if self.space_bytes_left is not None:
                return TOTAL_BYTES, self.space_bytes_left
            return TOTAL_BYTES, TOTAL_BYTES - sum(len(inode.content) for inode in self._names.values())

    def sync_directory(self, path: str) -> None:
        with self.lock:
            self._alive()
            if self.count_operation():
                self.power_cut()
                raise PoweredOff
            directory = path.rstrip("/") or "/"
            waiting: list[list[tuple[str, _Inode | None]]] = []
            for step in self._unsynced_names:
                if any(os.path.dirname(name) == directory for name, _ in step):
                    self._make_durable(step)
                else:
                    waiting.append(step)
            self._unsynced_names = waiting

    def boot_id(self) -> str:
        return f"boot-{self.boots}"

    def _alive(self) -> None:
        if self.powered_off:
            raise PoweredOff

    def _find(self, path: str) -> _Inode:
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self._names[path]

    def _change_names(self, step: list[tuple[str, _Inode | None]]) -> None:
        if self.count_operation():
            self.power_cut()
            raise PoweredOff
        for path, inode in step:
            if inode is None:
                self._names.pop(path, None)
            else:
                self._names[path] = inode
        self._unsynced_names.append(step)

    def _make_durable(self, step: list[tuple[str, _Inode | None]]) -> None:
        for path, inode in step:
            if inode is None:
                self._durable_names.pop(path, None)
            else:
                self._durable_names[path] = inode
