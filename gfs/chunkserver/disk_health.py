"""What a disk's errors mean: an error of ours for the caller, or the end of this server. No retries."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gfs.chunkserver.stores.interface import BytesUnreachable
from gfs.errors import GfsError, NoSpace, OutcomeUnknown, Unavailable
from gfs.telemetry import logger

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_log = logger("chunkserver")


class _Refusals:
    """Told in the log at the first, second, fourth … time: a disk that refuses everything is asked often."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times = 0

    def note(self, what: str, reason: str) -> None:
        with self._lock:
            self._times += 1
            times = self._times
        if times & (times - 1) == 0:
            _log.error("the disk refuses", what=what, problem=reason, times=times)


_refusals = _Refusals()


def disk_error(error: OSError, what: str) -> GfsError:
    """The error for an operation that was undone, or had no effect: NoSpace or Unavailable."""
    reason = error.strerror or str(error)
    if error.errno in FULL_DISK:
        return NoSpace(f"{what}: {reason}")
    if isinstance(error, BytesUnreachable):
        return Unavailable(f"{what}: {reason}")
    _refusals.note(what, reason)
    return Unavailable(f"{what}: the disk answers {reason}")


@contextmanager
def undone_on_error(what: str) -> Iterator[None]:
    """Turn an OSError of a step that leaves nothing behind into NoSpace or Unavailable."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, what) from error


class DiskHealth:
    """Knows whether a sync has failed. After that nothing may be acknowledged any more, ever: the page cache
    may have dropped the bytes and call the next sync a success.
    """

    def __init__(self, on_fatal: Callable[[str], None]) -> None:
        self._on_fatal = on_fatal
        self.failure = ""

    def require(self) -> None:
        """Raises: Unavailable once a sync has failed."""
        if self.failure:
            raise Unavailable(f"this chunk server's disk has failed: {self.failure}")

    def fail(self, what: str, error: Exception) -> GfsError:
        """Take the disk out of service; returns the error for whoever waited for the sync."""
        reason = f"{what}: {error}"
        if not self.failure:
            self.failure = reason
            self._on_fatal(reason)
        return OutcomeUnknown(reason)
