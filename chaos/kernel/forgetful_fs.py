"""A file system in user space whose disks forget at a power cut what was not synced, fill up, or turn slow.

    python -m chaos.kernel.forgetful_fs MOUNTPOINT STORE SEED NAME MACHINE…

Each machine's disk is a directory in MOUNTPOINT (rules: forgetful_disk); durable bytes lie in STORE, NAME is
what /proc/mounts shows. Commands come on standard input, a line each, and are answered by a line:

    cut MACHINE…            takes the power: every call there fails, and what is not synced is lost, or torn
    on MACHINE…             gives it back
    full MACHINE  room MACHINE      nothing grows there any more; it does again
    slow MACHINE SECONDS    each write and sync takes so much longer
    boots                   how often each machine was switched on
    machine MACHINE         one more machine

The file system ends with its standard input, so that it does not outlive who started it.
"""

from __future__ import annotations

import errno
import itertools
import os
import resource
import stat
import sys
import threading
import time
from typing import Any

import mfusepy

from chaos.kernel.forgetful_disk import ForgetfulDisk, OpenFile

FREE_BLOCKS = 2**24  # of 4 KiB: what a disk that is not full says


class ForgetfulFileSystem(mfusepy.Operations):  # type: ignore[misc]  # it has no types
    """Paths are /MACHINE/…. Calls come from several threads: a slow disk keeps nobody else waiting."""

    use_ns = True  # mfusepy asks

    def __init__(self, machines: list[str], seed: int, store: str) -> None:
        self.disks = {name: ForgetfulDisk(store, seed + number) for number, name in enumerate(machines)}
        for number, (name, disk) in enumerate(self.disks.items()):
            disk.make_directory(f"/{name}")
            disk.reorders_names = number % 2 == 1
        self._files: dict[int, tuple[ForgetfulDisk, OpenFile]] = {}
        self._numbers = itertools.count(1)

    # --- names ------------------------------------------------------------------------------------

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:  # Any: mfusepy's stat
        if path == "/" or self._disk(path).is_directory(path):
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
        disk, file = self._open_file(path, fh)
        with disk.lock:
            length = disk.content(file).length
        return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": length, "st_blocks": length // 512}

    def readdir(self, path: str, fh: int) -> list[str]:
        names = list(self.disks) if path == "/" else self._disk(path).listdir(path)
        return [".", "..", *names]

    def mkdir(self, path: str, mode: int) -> int:
        self._disk(path).make_directory(path)
        return 0

    def rmdir(self, path: str) -> int:
        self._disk(path).remove_directory(path)
        return 0

    def unlink(self, path: str) -> int:
        self._disk(path).unlink(path)
        return 0

    def rename(self, old: str, new: str) -> int:
        disk = self._disk(old)
        if disk is not self._disk(new):
            raise mfusepy.FuseOSError(errno.EXDEV)
        disk.rename(old, new)
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        disk = self._disk(path)
        time.sleep(disk.delay_seconds)
        disk.sync_directory(path)
        return 0

    # --- files ------------------------------------------------------------------------------------

    def create(self, path: str, mode: int, fi: Any = None) -> int:  # Any: mfusepy's
        disk = self._disk(path)
        return self._keep(disk, disk.open(path, create=True))

    def open(self, path: str, flags: int) -> int:
        disk = self._disk(path)
        file = disk.open(path)
        if flags & os.O_TRUNC:
            disk.truncate(file, 0)
        return self._keep(disk, file)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        disk, file = self._files[fh]
        return disk.read(file, offset, size)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        disk, file = self._files[fh]
        time.sleep(disk.delay_seconds)
        disk.write(file, data, offset)
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        disk, file = self._open_file(path, fh)
        disk.truncate(file, length)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        disk, file = self._files[fh]
        time.sleep(disk.delay_seconds)
        disk.sync(file)
        return 0

    def release(self, path: str, fh: int) -> int:
        del self._files[fh]
        return 0

    def chmod(self, path: str, mode: int) -> int:
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        is_full = path != "/" and self._disk(path).is_full
        free = 0 if is_full else FREE_BLOCKS
        blocks = 2 * FREE_BLOCKS
        return {"f_bsize": 4096, "f_frsize": 4096, "f_blocks": blocks, "f_bfree": free, "f_bavail": free}

    # --- commands ---------------------------------------------------------------------------------

    def obey(self, line: str) -> str:
        match line.split():
            case ["boots"]:
                return " ".join(f"{name}={disk.boots}" for name, disk in self.disks.items())
            case ["cut", *machines]:
                for name in machines:
                    self.disks[name].power_cut()
            case ["on", *machines]:
                for name in machines:
                    self.disks[name].power_on()
            case [("full" | "room") as word, machine]:
                self.disks[machine].is_full = word == "full"
            case ["slow", machine, seconds]:
                self.disks[machine].delay_seconds = float(seconds)
            case ["machine", name]:
                disk = ForgetfulDisk(next(iter(self.disks.values())).directory, len(self.disks))
                disk.make_directory(f"/{name}")
                self.disks[name] = disk
            case _:
                return f"what is {line.strip()!r}?"
        return "done"

    # --- ours -------------------------------------------------------------------------------------

    def _disk(self, path: str) -> ForgetfulDisk:
        try:
            return self.disks[path.split("/")[1]]
        except KeyError as error:
            raise mfusepy.FuseOSError(errno.ENOENT) from error

    def _open_file(self, path: str, fh: int | None) -> tuple[ForgetfulDisk, OpenFile]:
        if fh is not None and (found := self._files.get(fh)):
            return found
        disk = self._disk(path)
        return disk, disk.open(path)

    def _keep(self, disk: ForgetfulDisk, file: OpenFile) -> int:
        number = next(self._numbers)
        self._files[number] = (disk, file)
        return number


def main() -> None:
    mountpoint, store, seed, name, *machines = sys.argv[1:]
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # one for each file there is
    files = ForgetfulFileSystem(machines, int(seed), store)

    def listen() -> None:
        for line in sys.stdin:
            sys.stdout.write(files.obey(line) + "\n")
            sys.stdout.flush()
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    # Nothing is remembered by the kernel that the file system itself may have forgotten.
    mfusepy.FUSE(
        files,
        mountpoint,
        foreground=True,
        nothreads=False,
        fsname=name,
        hard_remove=True,
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
    )


if __name__ == "__main__":
    main()
