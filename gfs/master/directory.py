"""A master's directory: whose it is, and the lock that keeps a second process off it. Not what else is in it.

    DIRECTORY/master.json   {"format": 1, "cluster": "…", "master": "m1"}
    DIRECTORY/lock          locked (flock) as long as a process uses the directory

Both ids are written when the directory is first used and never change: a log of another master or cluster
must not be taken for one's own, as it would bring back a vote that was never given.
"""

from __future__ import annotations

import fcntl
import os

import msgspec

from gfs.disk import Disk, read_whole_file, write_file_durably
from gfs.errors import CorruptState, Unavailable, UnsupportedVersion, WrongCluster
from gfs.master.replication.member_disks import swapped_hint
from gfs.vocabulary import ClusterId, MasterId

FORMAT_VERSION = 1
IDENTITY_FILE = "master.json"
LOCK_FILE = "lock"


class _Format(msgspec.Struct, frozen=True):
    format: int


class _Identity(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    cluster: ClusterId
    master: MasterId


class MasterDirectory:
    """Held from `claim` until `release`; the kernel releases it for a process that dies."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def claim(cls, directory: str, disk: Disk, *, cluster: ClusterId, master: MasterId) -> MasterDirectory:
        """Lock the directory and see that it is this master's; a fresh one becomes so, durably.

        Raises: Unavailable when another process uses it; WrongCluster when it is another master's or
            cluster's; CorruptState, UnsupportedVersion; OSError.
        """
        disk.make_directory(directory)
        descriptor = os.open(os.path.join(directory, LOCK_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor, directory)
            _check_identity(disk, directory, cluster, master)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def is_in_use(directory: str) -> bool:
    """Whether a master is running in it."""
    try:
        descriptor = os.open(os.path.join(directory, LOCK_FILE), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def process_of(directory: str) -> int:
    """Process id of the master that uses this directory on this machine; 0 when none does, or it is another
    user's.

    Asked of the kernel, which is never out of date; to try the lock could keep a master from starting.
    """
    path = os.path.realpath(os.path.join(directory, LOCK_FILE))
    try:
        inode = str(os.stat(path).st_ino)
        with open("/proc/locks", encoding="ascii", errors="replace") as locks:
            fields = [line.split() for line in locks]
    except OSError:
        return 0
    held = [entry for entry in fields if len(entry) > 5 and entry[1] == "FLOCK"]
    for process in (entry[4] for entry in held if entry[5].rpartition(":")[2] == inode):
        if path in _open_files(process):
            return int(process)
    return 0


def _open_files(process: str) -> set[str]:
    found = set()
    try:
        for name in os.listdir(f"/proc/{process}/fd"):
            found.add(os.readlink(f"/proc/{process}/fd/{name}"))
    except OSError:
        pass  # it has ended, or is not ours to look at
    return found


def _hint(found: _Identity, mine: _Identity) -> str:
    if found.cluster != mine.cluster:
        return ""  # the default: it belongs to another cluster
    return swapped_hint(mine.master, found.master)


def _lock(descriptor: int, directory: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Unavailable(
            f"another process is using the directory {directory}",
            hint="Stop it first, or give this master a directory of its own.",
        ) from error


def _check_identity(disk: Disk, directory: str, cluster: ClusterId, master: MasterId) -> None:
    path = os.path.join(directory, IDENTITY_FILE)
    mine = _Identity(format=FORMAT_VERSION, cluster=cluster, master=master)
    if not disk.exists(path):
        write_file_durably(disk, path, msgspec.json.encode(mine) + b"\n")
        return
    content = read_whole_file(disk, path)
    try:
        form = msgspec.json.decode(content, type=_Format).format  # first: a later one has other fields
        if form != FORMAT_VERSION:
            raise UnsupportedVersion(
                f"{path} has format {form}; this program reads format {FORMAT_VERSION}",
                hint="A newer gfs wrote it. Start that one, or upgrade this one.",
            )
        found = msgspec.json.decode(content, type=_Identity)
    except msgspec.DecodeError as error:
        raise CorruptState(f"{path} cannot be read: {error}") from error
    if (found.cluster, found.master) != (cluster, master):
        raise WrongCluster(
            f"{directory} belongs to master {found.master} of cluster {found.cluster}, "
            f"not to {master} of {cluster}",
            hint=_hint(found, mine),
            details={"cluster": found.cluster, "master": found.master},
        )
