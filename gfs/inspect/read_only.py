"""Files opened for reading alone: the seam to the disk as whoever only looks may use it."""

from __future__ import annotations

import os
from typing import NoReturn

from gfs.disk import OpenFile, SystemDisk, SystemFile


def open_read_only(path: str) -> SystemFile:
    """Raises: OSError."""
    return SystemFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


class ReadOnlyDisk(SystemDisk):
    """A Disk that is never changed: for readers that were written for programs which also write."""

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> OpenFile:
        assert not create and not exclusive, path
        return open_read_only(path)

    def rename(self, source: str, destination: str) -> NoReturn:
        raise AssertionError(f"looking renames nothing: {source}")

    def unlink(self, path: str) -> NoReturn:
        raise AssertionError(f"looking removes nothing: {path}")

    def make_directory(self, path: str) -> NoReturn:
        raise AssertionError(f"looking makes nothing: {path}")

    def sync_directory(self, path: str) -> NoReturn:
        raise AssertionError(f"looking syncs nothing: {path}")
