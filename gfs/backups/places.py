"""Where backups are kept: the interface, and a directory. Blocking: for threads that may wait.

What is written appears under its name only when it is whole and durable.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple, Protocol

from gfs import failpoints
from gfs.errors import InvalidArgument, NotFound

PIECE_BYTES = 2**20
PART_SUFFIX = ".part"


class Kept(NamedTuple):
    name: str
    length_bytes: int
    changed_at_ms: int


class Writing(Protocol):
    """One object on its way in. After publish() it is there; after give_up() it is not."""

    def write(self, piece: bytes) -> None: ...

    def publish(self) -> None: ...

    def give_up(self) -> None: ...


class Place(Protocol):
    """Raises everywhere: OSError, or Unavailable, when the place cannot be reached or written."""

    url: str

    def listed(self) -> list[Kept]:
        """Everything that is kept here, half-written things included where the place can tell."""
        ...

    def begin(self, name: str) -> Writing: ...

    def read(self, name: str) -> Iterator[bytes]:
        """Raises: NotFound."""
        ...

    def delete(self, name: str) -> None:
        """Harmless when it is gone already."""
        ...


def open_place(url: str) -> Place:
    """A directory by its path, or an object store by its URL (s3://bucket/prefix …).

    Raises: InvalidArgument; Unavailable when the package for object stores is not installed.
    """
    scheme, found, _ = url.partition("://")
    if not found:
        return DirectoryPlace(url)
    if not scheme.isalnum():
        raise InvalidArgument(f"{url!r} is neither a directory nor the URL of an object store")
    from gfs.backups.object_place import ObjectPlace  # imports a package that only object stores need

    return ObjectPlace.of_url(url)


def put(place: Place, name: str, content: bytes) -> None:
    writing = place.begin(name)
    try:
        writing.write(content)
        writing.publish()
    except BaseException:
        writing.give_up()
        raise


class DirectoryPlace:
    """Implements Place over a directory of this machine, or one it has mounted."""

    def __init__(self, directory: str) -> None:
        self.url = os.path.abspath(directory)

    def path_of(self, name: str) -> str:
        return os.path.join(self.url, name)

    def listed(self) -> list[Kept]:
        try:
            names = sorted(os.listdir(self.url))
        except FileNotFoundError as error:
            raise NotFound(f"there is no directory {self.url}") from error
        found = []
        for name in names:
            with suppress(FileNotFoundError):
                status = os.stat(self.path_of(name))
                found.append(Kept(name, status.st_size, status.st_mtime_ns // 1_000_000))
        return found

    def begin(self, name: str) -> Writing:
        os.makedirs(self.url, mode=0o700, exist_ok=True)
        return _FileWriting(self.path_of(name))

    def read(self, name: str) -> Iterator[bytes]:
        try:
            file = open(self.path_of(name), "rb", buffering=0)  # noqa: SIM115 closed just below
        except FileNotFoundError as error:
            raise NotFound(f"there is no {self.path_of(name)}") from error
        with file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.path_of(name))


class _FileWriting:
    def __init__(self, path: str) -> None:
        self._path, self._part = path, path + PART_SUFFIX
        self._file = open(self._part, "wb", buffering=0)  # noqa: SIM115 closed by publish() or give_up()

    def write(self, piece: bytes) -> None:
        left = memoryview(piece)
        while left:  # a raw write may take less than it was given
            left = left[self._file.write(left) :]

    def publish(self) -> None:
        failpoints.hit("backup.written")
        os.fsync(self._file.fileno())
        self._file.close()
        failpoints.hit("backup.synced")
        os.rename(self._part, self._path)
        failpoints.hit("backup.renamed")
        _sync_directory(os.path.dirname(self._path))

    def give_up(self) -> None:
        self._file.close()
        with suppress(OSError):
            os.unlink(self._part)


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
