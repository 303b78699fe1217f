"""The door to mfusepy: a mounted tree as the kernel calls it, from several threads. Decides nothing."""

from __future__ import annotations

import errno
import functools
import grp
import os
import pwd
import stat
from collections.abc import Coroutine
from typing import Any, TypeVar

import mfusepy

from gfs.client.loop_thread import LoopThread
from gfs.errors import GfsError
from gfs.messages.namespace import Entry
from gfs.mount.tree import MountedTree, Opened
from gfs.telemetry import logger

T = TypeVar("T")

BLOCK_BYTES = 4096
KERNEL_SECONDS = 1  # how long the kernel believes attributes and names
_LIMIT_FILES = 2**31
_log = logger("mount")

_NUMBERS = {
    "not_found": errno.ENOENT,
    "already_exists": errno.EEXIST,
    "is_a_directory": errno.EISDIR,
    "not_a_directory": errno.ENOTDIR,
    "directory_not_empty": errno.ENOTEMPTY,
    "permission_denied": errno.EACCES,
    "unauthenticated": errno.EACCES,
    "invalid_path": errno.EINVAL,
    "invalid_argument": errno.EINVAL,
    "no_space": errno.ENOSPC,
    "quota_exceeded": errno.EDQUOT,
    "superseded": errno.ESTALE,
    "path_busy": errno.EBUSY,
    "overloaded": errno.EAGAIN,
    "no_quorum": errno.EHOSTDOWN,
    "unavailable": errno.EHOSTDOWN,
    "deadline_exceeded": errno.ETIMEDOUT,
}


def error_number(error: GfsError) -> int:
    """What a program is told; EIO for what has no number of its own."""
    return _NUMBERS.get(error.code, errno.EIO)


class Door(mfusepy.Operations):  # type: ignore[misc]  # it has no types
    """Each call runs in the client's loop while the kernel's thread waits."""

    use_ns = True  # mfusepy asks

    def __init__(self, tree: MountedTree, thread: LoopThread) -> None:
        self._tree, self._thread = tree, thread

    def _do(self, work: Coroutine[Any, Any, T]) -> T:  # Any: what asyncio sends into a coroutine
        try:
            return self._thread.run(work)
        except GfsError as error:
            number = error_number(error)
            if number == errno.EIO:
                _log.warning("a call failed", error=error.message, hint=error.hint)
            raise mfusepy.FuseOSError(number) from error

    # --- names ----------------------------------------------------------------------------------

    def getattr(self, path: str, fh: Any = None) -> dict[str, Any]:  # Any: mfusepy's own structures
        entry, length = self._do(self._tree.attributes(path, fh.fh if fh else 0))
        is_directory = entry.kind == "directory"
        return {
            "st_mode": (stat.S_IFDIR if is_directory else stat.S_IFREG) | entry.mode,
            "st_ino": entry.inode,
            "st_nlink": 2 if is_directory else 1,
            "st_size": 0 if is_directory else length,
            "st_blocks": -(-length // 512),
            "st_blksize": BLOCK_BYTES,
            "st_uid": _user_number(entry.owner),
            "st_gid": _group_number(entry.group),
            "st_mtime": entry.modified_ms * 1_000_000,
            "st_ctime": entry.modified_ms * 1_000_000,
            "st_atime": entry.modified_ms * 1_000_000,
        }

    def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, int], int]]:
        # Inode numbers, too: an entry without one is passed over by readdir(3).
        above = {"st_mode": stat.S_IFDIR, "st_ino": 1}
        return [(".", above, 0), ("..", above, 0), *map(_listed, self._do(self._tree.entries(path)))]

    def mkdir(self, path: str, mode: int) -> int:
        self._do(self._tree.make_directory(path, mode))
        return 0

    def rmdir(self, path: str) -> int:
        self._do(self._tree.remove(path))
        return 0

    def unlink(self, path: str) -> int:
        self._do(self._tree.remove(path))
        return 0

    def rename(self, old: str, new: str) -> int:
        self._do(self._tree.rename(old, new))
        return 0

    def chmod(self, path: str, mode: int) -> int:
        self._do(self._tree.change_mode(path, mode))
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        owner = None if uid in (-1, 0xFFFFFFFF) else pwd.getpwuid(uid).pw_name
        group = None if gid in (-1, 0xFFFFFFFF) else grp.getgrgid(gid).gr_name
        self._do(self._tree.change_owner(path, owner, group))
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        return 0  # times are the masters'; a refusal would fail every cp -p and tar

    def symlink(self, target: str, source: str) -> int:
        raise mfusepy.FuseOSError(errno.EPERM)  # as a file system without them says

    def link(self, target: str, source: str) -> int:
        raise mfusepy.FuseOSError(errno.EPERM)

    def statfs(self, path: str) -> dict[str, int]:
        space = self._do(self._tree.space())
        return {
            "f_bsize": BLOCK_BYTES,
            "f_frsize": BLOCK_BYTES,
            "f_blocks": space.total_bytes // BLOCK_BYTES,
            "f_bfree": space.free_bytes // BLOCK_BYTES,
            "f_bavail": space.free_bytes // BLOCK_BYTES,
            "f_files": _LIMIT_FILES,
            "f_ffree": max(0, _LIMIT_FILES - space.files),
            "f_favail": max(0, _LIMIT_FILES - space.files),
            "f_namemax": 255,
        }

    # --- files ----------------------------------------------------------------------------------

    def open(self, path: str, fi: Any) -> int:
        self._opened(fi, self._do(self._tree.open(path, truncate=bool(fi.flags & os.O_TRUNC))))
        return 0

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        self._opened(fi, self._do(self._tree.create(path, mode)))
        return 0

    def _opened(self, fi: Any, opened: Opened) -> None:
        fi.fh = opened.handle
        fi.direct_io = opened.uncached

    def read(self, path: str, size: int, offset: int, fh: Any) -> bytes:
        return self._do(self._tree.read(fh.fh, offset, size))

    def write(self, path: str, data: bytes, offset: int, fh: Any) -> int:
        self._do(self._tree.write(fh.fh, offset, data))
        return len(data)

    def truncate(self, path: str, length: int, fh: Any = None) -> int:
        self._do(self._tree.truncate(path, length, fh.fh if fh else 0))
        return 0

    def flush(self, path: str, fh: Any) -> int:
        self._do(self._tree.flush(fh.fh))
        return 0

    def fsync(self, path: str, datasync: int, fh: Any) -> int:
        self._do(self._tree.flush(fh.fh))
        return 0

    def release(self, path: str, fh: Any) -> int:
        self._do(self._tree.release(fh.fh))
        return 0

    def destroy(self, path: str) -> None:
        self._do(self._tree.close())


def _listed(entry: Entry) -> tuple[str, dict[str, int], int]:
    kind = stat.S_IFDIR if entry.kind == "directory" else stat.S_IFREG
    return entry.path.rpartition("/")[2], {"st_mode": kind, "st_ino": entry.inode}, 0


@functools.lru_cache(maxsize=1024)
def _user_number(name: str) -> int:
    """Of an owner that this machine does not know: who mounted it."""
    try:
        return pwd.getpwnam(name).pw_uid if name else os.getuid()
    except KeyError:
        return os.getuid()


@functools.lru_cache(maxsize=1024)
def _group_number(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid if name else os.getgid()
    except KeyError:
        return os.getgid()


def serve(tree: MountedTree, thread: LoopThread, directory: str, *, name: str, allow_other: bool) -> None:
    """Mount `tree` at `directory` and serve it until it is unmounted. Raises: RuntimeError of mfusepy."""
    mfusepy.FUSE(
        Door(tree, thread),
        directory,
        raw_fi=True,
        foreground=True,
        fsname=name,
        subtype="gfs",
        use_ino=True,
        attr_timeout=KERNEL_SECONDS,
        entry_timeout=KERNEL_SECONDS,
        allow_other=allow_other,
    )
