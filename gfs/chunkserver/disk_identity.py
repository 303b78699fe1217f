"""Who a chunk server's disk is: a small durable file, and the lock that keeps a second process off it.

    DIRECTORY/identity.json   {"format": 1, "server": "cs-1a2b3c4d", "cluster": ""}
    DIRECTORY/lock            locked (flock) as long as a process uses the directory

The server id is made once per disk; the cluster id is empty until the first master has answered, and never
changes after that: a disk carried into another cluster is refused, its chunks are not that cluster's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets

import msgspec

from gfs.disk import Disk, read_whole_file, write_file_durably
from gfs.errors import CorruptState, Unavailable, UnsupportedVersion, WrongCluster
from gfs.vocabulary import ClusterId, ServerId

FORMAT_VERSION = 1
_FILE = "identity.json"


class _Format(msgspec.Struct, frozen=True):
    format: int


class Identity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`cluster` is empty on a disk that has not joined one yet."""

    format: int = FORMAT_VERSION
    server: ServerId
    cluster: ClusterId = ClusterId("")


class DiskIdentity:
    """The identity file of one data directory. Not thread-safe: the service's loop owns it."""

    def __init__(self, disk: Disk, directory: str, identity: Identity) -> None:
        self._disk, self._directory = disk, directory
        self._identity = identity

    @classmethod
    def load_or_create(cls, disk: Disk, directory: str) -> DiskIdentity:
        """Read the directory's identity, or give a fresh directory one, durably.

        Raises: CorruptState, UnsupportedVersion (a newer program has written it), OSError.
        """
        disk.make_directory(directory)
        path = os.path.join(directory, _FILE)
        if disk.exists(path):
            disk.sync_directory(directory)  # a kill may have come between its rename and the sync of that
            return cls(disk, directory, _read(disk, path))
        made = cls(disk, directory, Identity(server=ServerId(f"cs-{secrets.token_hex(4)}")))
        made._write()
        return made

    @property
    def server(self) -> ServerId:
        return self._identity.server

    @property
    def cluster(self) -> ClusterId:
        return self._identity.cluster

    def adopt_cluster(self, cluster: ClusterId) -> None:
        """Join `cluster` for good; no effect when this disk belongs to it. Durable when this returns.

        Raises: WrongCluster, OSError.
        """
        assert cluster
        if self._identity.cluster == cluster:
            return
        if self._identity.cluster:
            raise WrongCluster(
                f"{self._directory} belongs to cluster {self._identity.cluster}, not to {cluster}",
                details={"cluster": self._identity.cluster},
            )
        before = self._identity
        self._identity = msgspec.structs.replace(before, cluster=cluster)
        try:
            self._write()
        except OSError:
            self._identity = before
            raise

    def _write(self) -> None:
        content = msgspec.json.encode(self._identity) + b"\n"
        write_file_durably(self._disk, os.path.join(self._directory, _FILE), content)


def read_identity(disk: Disk, directory: str) -> Identity:
    """Whose disk this is, for who only looks. Raises: CorruptState, UnsupportedVersion; OSError."""
    return _read(disk, os.path.join(directory, _FILE))


def _read(disk: Disk, path: str) -> Identity:
    content = read_whole_file(disk, path)
    try:
        found = msgspec.json.decode(content, type=_Format).format
        if found > FORMAT_VERSION:
            raise UnsupportedVersion(f"{path} has format {found}; this program knows up to {FORMAT_VERSION}")
        return msgspec.json.decode(content, type=Identity)
    except msgspec.MsgspecError as error:
        raise CorruptState(f"{path} is not an identity file: {error}") from error


class DirectoryLock:
    """Held from construction to release(), or to the end of the process however it comes."""

    def __init__(self, directory: str) -> None:
        """Raises: Unavailable when another process uses `directory`."""
        os.makedirs(directory, mode=0o700, exist_ok=True)
        path = os.path.join(directory, "lock")
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise Unavailable(
                f"{directory} is in use by another chunk server",
                hint="Stop the other process, or give this one a directory of its own.",
            ) from error

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
