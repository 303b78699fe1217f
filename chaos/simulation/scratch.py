"""The directory of one simulated cluster: gone when its run ends or, at the latest, when the next begins.

A run that is killed cannot tidy up, so each holds a lock on its directory for as long as its process
lives: what nobody holds was left behind. What the nodes keep in there is not known here.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

PREFIX = "gfs-simulated-"


@contextmanager
def scratch_directory(parent: str) -> Iterator[str]:
    """A new directory below `parent`; what killed runs of this user have left there is removed first."""
    remove_left_behind(parent)
    path, lock = _made(parent)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def remove_left_behind(parent: str) -> list[str]:
    """The directories below `parent` that no living run holds, now removed; other users' stay."""
    removed = []
    for name in sorted(os.listdir(parent)):
        path = os.path.join(parent, name)
        if not name.startswith(PREFIX) or (lock := _locked(path, wait=False)) is None:
            continue
        try:
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
        finally:
            os.close(lock)
    return removed


def _made(parent: str) -> tuple[str, int]:
    while True:
        path = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
        lock = _locked(path, wait=True)
        if lock is None:
            continue
        # Another run may have taken it for left behind, before the lock was on it.
        if os.path.isdir(path):
            return path, lock
        os.close(lock)


def _locked(path: str, *, wait: bool) -> int | None:
    """A descriptor that holds the lock until it is closed; None where it cannot be had."""
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(directory, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(directory)
        return None
    return directory
