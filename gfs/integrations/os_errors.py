"""Our errors as the OSErrors that Python's own file functions raise. What they say stays."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from gfs import errors
from gfs.errors import GfsError

P = ParamSpec("P")
T = TypeVar("T")

# The first that fits counts: subclasses stand before their bases.
_NUMBERS: tuple[tuple[type[GfsError], int], ...] = (
    (errors.NotFound, errno.ENOENT),
    (errors.AlreadyExists, errno.EEXIST),
    (errors.IsADirectory, errno.EISDIR),
    (errors.NotADirectory, errno.ENOTDIR),
    (errors.DirectoryNotEmpty, errno.ENOTEMPTY),
    (errors.PermissionDenied, errno.EACCES),
    (errors.Unauthenticated, errno.EACCES),
    (errors.QuotaExceeded, errno.EDQUOT),
    (errors.NoSpace, errno.ENOSPC),
    (errors.Superseded, errno.ESTALE),
    (errors.PathBusy, errno.EBUSY),
    (errors.DeadlineExceeded, errno.ETIMEDOUT),
    (errors.InvalidArgument, errno.EINVAL),
)


def as_os_error(error: GfsError) -> OSError:
    """FileNotFoundError, PermissionError … with our sentence; EIO for what has no number of its own."""
    number = next((number for kind, number in _NUMBERS if isinstance(error, kind)), errno.EIO)
    told = f"{error.message} ({error.hint})" if error.hint else error.message
    return OSError(number, told)  # Python makes the subclass from the number


def with_os_errors(
    work: Callable[P, Coroutine[Any, Any, T]],  # Any: what asyncio sends into a coroutine
) -> Callable[P, Coroutine[Any, Any, T]]:
    """Let `work` raise OSErrors instead of ours."""

    @functools.wraps(work)
    async def translated(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await work(*args, **kwargs)
        except GfsError as error:
            raise as_os_error(error) from error

    return translated
