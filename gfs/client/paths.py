"""Paths as callers spell them, made those the masters know. What a path may be, vocabulary says."""

from __future__ import annotations

from gfs.errors import InvalidPath
from gfs.vocabulary import NAME_BYTES_MAX, PATH_DEPTH_MAX, join_path, path_fault, split_path


def checked_path(path: str) -> str:
    """The path without empty parts. Raises: InvalidPath."""
    # Nearly all paths are short ASCII and spelled as we would, which a few scans of the string tell.
    if (
        path.isascii()
        and len(path) <= NAME_BYTES_MAX
        and path.startswith("/")
        and not path.endswith("/")
        and "//" not in path
        and "/." not in path
        and "\0" not in path
        and path.count("/") <= PATH_DEPTH_MAX
    ):
        return path
    fault = path_fault(path)
    if fault is not None:
        raise InvalidPath(fault)
    return join_path(split_path(path))
