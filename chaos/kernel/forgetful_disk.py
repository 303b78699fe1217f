"""A disk that forgets at a power cut what was not synced, page by page: chunks of 64 MiB are no matter to it.

Bytes that were synced lie in a file on the real disk, younger ones in memory. At a cut, chance decides for
each sector that was not synced whether it is there afterwards (torn writes), and for a prefix of the changes
of names that no sync of their directory has made durable, as on a journalling file system; with
`reorders_names` for each of those by itself, which POSIX allows (lost renames). Directories are durable when
made.

The FUSE file system over it is `forgetful_fs`; the disk of tests in memory is another, in tests/fakes.
"""

from __future__ import annotations

import errno
import os
import random
import tempfile
import threading
import weakref
from dataclasses import dataclass, field
from typing import TypeAlias

PAGE_BYTES = 4096
SECTOR_BYTES = 512
assert PAGE_BYTES % SECTOR_BYTES == 0


class PoweredOff(OSError):
    """The machine this file or call belonged to has lost its power."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "the power is cut")


class Content:
    """The bytes of one file: durable ones in a nameless file, dirty pages in memory."""

    def __init__(self, directory: str) -> None:
        descriptor, path = tempfile.mkstemp(dir=directory)
        os.unlink(path)
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        self._pages: dict[int, bytearray] = {}
        self._durable_length = 0
        self._kept = 0  # of the durable bytes; the file has been shorter than they are since the last sync
        self.length = 0

    def read(self, offset: int, length: int) -> bytes:
        length = max(0, min(length, self.length - offset))
        first, last = offset // PAGE_BYTES, (offset + length - 1) // PAGE_BYTES
        if not length:
            return b""
        if not any(number in self._pages for number in range(first, last + 1)):
            return self._durable(offset, length)
        found = b"".join(bytes(self._page(number)) for number in range(first, last + 1))
        return found[offset - first * PAGE_BYTES :][:length]

    def write(self, data: bytes, offset: int) -> None:
        position = 0
        while position < len(data):
            number, start = divmod(offset + position, PAGE_BYTES)
            piece = data[position : position + PAGE_BYTES - start]
            page = self._dirty(number)
            page[start : start + len(piece)] = piece
            position += len(piece)
        self.length = max(self.length, offset + len(data))

    def truncate(self, length: int) -> None:
        if length < self.length:
            self._kept = min(self._kept, length)
            for number in [number for number in self._pages if number * PAGE_BYTES >= length]:
                del self._pages[number]
            number, start = divmod(length, PAGE_BYTES)
            if number in self._pages:
                self._pages[number][start:] = bytes(PAGE_BYTES - start)
        self.length = length

    def sync(self) -> None:
        self._cut_durable(self._kept)
        for number, page in self._pages.items():
            os.pwrite(self._descriptor, page, number * PAGE_BYTES)
        self._pages.clear()
        self._cut_durable(self.length)
        self._kept = self._durable_length

    def power_cut(self, chance: random.Random | None) -> None:
        """Without `chance` everything since the last sync is lost, with it some sectors survive."""
        if chance is not None and self._kept < self._durable_length and chance.random() < 0.5:
            self._cut_durable(self._kept)
        if chance is not None:
            for number, page in sorted(self._pages.items()):
                for start in range(0, PAGE_BYTES, SECTOR_BYTES):
                    offset = number * PAGE_BYTES + start
                    if offset < self.length and chance.random() < 0.5:
                        sector = page[start : min(start + SECTOR_BYTES, self.length - number * PAGE_BYTES)]
                        os.pwrite(self._descriptor, sector, offset)
                        self._durable_length = max(self._durable_length, offset + len(sector))
        self._pages.clear()
        self.length = self._kept = self._durable_length

    def _dirty(self, number: int) -> bytearray:
        if number not in self._pages:
            self._pages[number] = bytearray(self._page(number))
        return self._pages[number]

    def _page(self, number: int) -> bytes | bytearray:
        return self._pages.get(number) or self._durable(number * PAGE_BYTES, PAGE_BYTES)

    def _durable(self, offset: int, length: int) -> bytes:
        """As a program sees them: zeros where the file has been shorter meanwhile."""
        kept = max(0, min(length, self._kept - offset))
        return os.pread(self._descriptor, kept, offset).ljust(length, b"\0") if kept else bytes(length)

    def _cut_durable(self, length: int) -> None:
        os.ftruncate(self._descriptor, length)
        self._durable_length = length


_Step: TypeAlias = "list[tuple[str, Content | None]]"  # a rename is one


@dataclass(slots=True)
class OpenFile:
    content: Content
    boot: int


@dataclass
class ForgetfulDisk:
    """One machine's disk; names are absolute paths. From any thread.

    `directory`: on the real disk, for the durable bytes. `is_full`: nothing grows any more. `delay_seconds`
    is for the file system to keep, before each write and sync.
    """

    directory: str
    seed: int = 0
    reorders_names: bool = False
    is_full: bool = False
    delay_seconds: float = 0.0
    boots: int = 0
    is_off: bool = False
    _chance: random.Random = field(init=False)
    _names: dict[str, Content] = field(default_factory=dict)
    _durable_names: dict[str, Content] = field(default_factory=dict)
    _unsynced_names: list[_Step] = field(default_factory=list)
    _directories: set[str] = field(default_factory=lambda: {"/"})

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self._chance = random.Random(self.seed)

    # --- faults ---------------------------------------------------------------------------------

    def power_cut(self, *, torn: bool = True) -> None:
        """Calls fail until power_on(); files opened before never work again."""
        with self.lock:
            self.is_off = True
            contents = {id(c): c for c in (*self._names.values(), *self._durable_names.values())}
            if torn:
                self._keep_some_names()
            for content in contents.values():
                content.power_cut(self._chance if torn else None)
            self._names = dict(self._durable_names)
            self._unsynced_names.clear()

    def power_on(self) -> None:
        with self.lock:
            if self.is_off:
                self.is_off = False
                self.boots += 1

    def _keep_some_names(self) -> None:
        if self.reorders_names:
            survivors = [step for step in self._unsynced_names if self._chance.random() < 0.5]
        else:
            survivors = self._unsynced_names[: self._chance.randint(0, len(self._unsynced_names))]
        for step in survivors:
            self._make_durable(step)

    # --- names ------------------------------------------------------------------------------------

    def is_directory(self, path: str) -> bool:
        """Raises: FileNotFoundError."""
        with self.lock:
            self._alive()
            if path in self._directories:
                return True
            self._find(path)
            return False

    def open(self, path: str, *, create: bool = False) -> OpenFile:
        with self.lock:
            self._alive()
            if path not in self._names and create:
                self._room()
                if os.path.dirname(path) not in self._directories:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
                self._change([(path, Content(self.directory))])
            return OpenFile(self._find(path), self.boots)

    def rename(self, source: str, destination: str) -> None:
        with self.lock:
            self._alive()
            if source in self._directories:
                raise OSError(errno.EPERM, "directories are not renamed here", source)
            self._change([(destination, self._find(source)), (source, None)])

    def unlink(self, path: str) -> None:
        with self.lock:
            self._alive()
            self._find(path)
            self._change([(path, None)])

    def listdir(self, path: str) -> list[str]:
        with self.lock:
            self._alive()
            inside = (*self._names, *(self._directories - {"/"}))
            return sorted(os.path.basename(name) for name in inside if os.path.dirname(name) == path)

    def make_directory(self, path: str) -> None:
        with self.lock:
            self._alive()
            if path in self._directories or path in self._names:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
            self._directories.add(path)

    def remove_directory(self, path: str) -> None:
        with self.lock:
            self._alive()
            if self.listdir(path):
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
            self._directories.discard(path)

    def sync_directory(self, path: str) -> None:
        with self.lock:
            self._alive()
            waiting: list[_Step] = []
            for step in self._unsynced_names:
                if any(os.path.dirname(name) == path for name, _ in step):
                    self._make_durable(step)
                else:
                    waiting.append(step)
            self._unsynced_names = waiting

    # --- bytes --------------------------------------------------------------------------------------

    def content(self, file: OpenFile) -> Content:
        """Under the lock. Raises: PoweredOff, also for what was opened before the power went."""
        self._alive()
        if file.boot != self.boots:
            raise PoweredOff
        return file.content

    def read(self, file: OpenFile, offset: int, length: int) -> bytes:
        with self.lock:
            return self.content(file).read(offset, length)

    def write(self, file: OpenFile, data: bytes, offset: int) -> None:
        with self.lock:
            content = self.content(file)
            if offset + len(data) > content.length:
                self._room()
            content.write(data, offset)

    def truncate(self, file: OpenFile, length: int) -> None:
        with self.lock:
            self.content(file).truncate(length)

    def sync(self, file: OpenFile) -> None:
        with self.lock:
            self.content(file).sync()

    # --- ours -----------------------------------------------------------------------------------------

    def _alive(self) -> None:
        if self.is_off:
            raise PoweredOff

    def _room(self) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _find(self, path: str) -> Content:
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self._names[path]

    def _change(self, step: _Step) -> None:
        _apply(step, self._names)
        self._unsynced_names.append(step)

    def _make_durable(self, step: _Step) -> None:
        _apply(step, self._durable_names)


def _apply(step: _Step, names: dict[str, Content]) -> None:
    for path, content in step:
        if content is None:
            names.pop(path, None)
        else:
            names[path] = content
