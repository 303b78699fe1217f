"""A file system in user space that forgets at a power cut what was not synced; the rules are fakes.disk's.

    python -m tests.processes.forgetful_fs MOUNTPOINT SEED MACHINE…

Each machine's disk is a directory in MOUNTPOINT. Commands come on standard input, a line each, and are
answered by a line: "cut MACHINE…" takes the power (every call there fails, and what is not synced is lost, or
torn), "on MACHINE…" gives it back, "boots" tells how often each machine was switched on.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import sys
import threading
from typing import Any

import mfusepy

from tests.fakes.disk import ForgetfulDisk, ForgetfulFile


class ForgetfulFileSystem(mfusepy.Operations):  # type: ignore[misc]  # it has no types
    """Paths are /MACHINE/…; each machine has a ForgetfulDisk, which serves one call at a time."""

    use_ns = True  # mfusepy asks

    def __init__(self, machines: list[str], seed: int) -> None:
        self.disks = {name: ForgetfulDisk(seed + number) for number, name in enumerate(machines)}
        for number, (name, disk) in enumerate(self.disks.items()):
            disk.make_directory(f"/{name}")
            disk.reorders_names = number % 2 == 1
        self._files: dict[int, ForgetfulFile] = {}
        self._numbers = itertools.count(1)

    # --- names ------------------------------------------------------------------------------------

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:  # Any: mfusepy's stat
        if path == "/" or self._is_directory(path):
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
        length = self._length(path, fh)
        return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": length, "st_blocks": length // 512}

    def readdir(self, path: str, fh: int) -> list[str]:
        names = list(self.disks) if path == "/" else self._disk(path).listdir(path)
        return [".", "..", *names]

    def mkdir(self, path: str, mode: int) -> int:
        if self._disk(path).exists(path):
            raise mfusepy.FuseOSError(errno.EEXIST)
        self._disk(path).make_directory(path)
        return 0

    def unlink(self, path: str) -> int:
        self._disk(path).unlink(path)
        return 0

    def rename(self, old: str, new: str) -> int:
        self._disk(old).rename(old, new)
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        self._disk(path).sync_directory(path)
        return 0

    # --- files ------------------------------------------------------------------------------------

    def create(self, path: str, mode: int, fi: Any = None) -> int:  # Any: mfusepy's
        return self._keep(self._disk(path).open(path, create=True))

    def open(self, path: str, flags: int) -> int:
        file = self._disk(path).open(path)
        if flags & os.O_TRUNC:
            file.truncate(0)
        return self._keep(file)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return self._files[fh].pread(size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._files[fh].pwrite(data, offset)
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        file = self._files[fh] if fh in self._files else self._disk(path).open(path)
        file.truncate(length)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self._files[fh].sync()
        return 0

    def release(self, path: str, fh: int) -> int:
        self._files.pop(fh).close()
        return 0

    def chmod(self, path: str, mode: int) -> int:
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        free = 2**24
        return {"f_bsize": 4096, "f_frsize": 4096, "f_blocks": 2 * free, "f_bfree": free, "f_bavail": free}

    # --- commands ---------------------------------------------------------------------------------

    def obey(self, line: str) -> str:
        command, *machines = line.split()
        if command == "boots":
            return " ".join(f"{name}={disk.boots}" for name, disk in self.disks.items())
        for name in machines:
            if command == "cut":
                self.disks[name].power_cut(torn=True)
            elif command == "on":
                self.disks[name].power_on()
            else:
                return f"what is {command!r}?"
        return "done"

    # --- ours -------------------------------------------------------------------------------------

    def _disk(self, path: str) -> ForgetfulDisk:
        try:
            return self.disks[path.split("/")[1]]
        except KeyError as error:
            raise mfusepy.FuseOSError(errno.ENOENT) from error

    def _is_directory(self, path: str) -> bool:
        disk = self._disk(path)
        if not disk.exists(path):
            raise mfusepy.FuseOSError(errno.ENOENT)
        try:
            disk.listdir(path)
        except FileNotFoundError:
            return False
        return True

    def _length(self, path: str, fh: int | None) -> int:
        file = self._files[fh] if fh in self._files else self._disk(path).open(path)
        return file.length()

    def _keep(self, file: ForgetfulFile) -> int:
        number = next(self._numbers)
        self._files[number] = file
        return number


def main() -> None:
    mountpoint, seed, machines = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    files = ForgetfulFileSystem(machines, seed)

    def listen() -> None:
        for line in sys.stdin:
            sys.stdout.write(files.obey(line) + "\n")
            sys.stdout.flush()

    threading.Thread(target=listen, daemon=True).start()
    # Nothing is remembered by the kernel that the file system itself may have forgotten.
    mfusepy.FUSE(
        files,
        mountpoint,
        foreground=True,
        nothreads=True,
        fsname="forgetful",
        hard_remove=True,
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
    )


if __name__ == "__main__":
    main()
