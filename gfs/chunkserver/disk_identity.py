"""Who a chunk server's disk is: its server id, its cluster, and the lock that keeps a second process off it.

One small file, replaced whole. Nothing about chunks here.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading

import msgspec

from gfs.disk import Disk, read_whole_file, write_file_durably
from gfs.errors import CorruptState, Unavailable, UnsupportedVersion, WrongCluster
from gfs.vocabulary import ClusterId, ServerId

IDENTITY_FILE = "identity.json"
LOCK_FILE = "lock"
FORMAT_VERSION = 1


class _Identity(msgspec.Struct, frozen=True, kw_only=True):
    format_version: int
    server: ServerId
    cluster: ClusterId = ClusterId("")  # empty until the first master has answered


class DiskIdentity:
    """The identity on one disk. `server` never changes; `cluster` is set once, by join()."""

    def __init__(self, disk: Disk, path: str, identity: _Identity) -> None:
        self._disk = disk
        self._path = path
        self._identity = identity
        self._lock = threading.Lock()

    @classmethod
    def open(cls, disk: Disk, directory: str, *, cluster: ClusterId | None = None) -> DiskIdentity:
        """Read the identity of a disk, or give a fresh disk one.

        `cluster`, when given, is the cluster the configuration names.
        Raises: WrongCluster (the disk belongs to another), CorruptState, UnsupportedVersion.
        """
        path = os.path.join(directory, IDENTITY_FILE)
        if disk.exists(path):
            identity = cls(disk, path, _decode(path, read_whole_file(disk, path)))
        else:
            made = _Identity(format_version=FORMAT_VERSION, server=ServerId("cs-" + secrets.token_hex(8)))
            write_file_durably(disk, path, msgspec.json.encode(made))
            identity = cls(disk, path, made)
        if cluster:
            identity.join(cluster)
        return identity

    @property
    def server(self) -> ServerId:
        return self._identity.server

    @property
    def cluster(self) -> ClusterId:
        return self._identity.cluster

    def join(self, cluster: ClusterId | str) -> None:
        """Belong to `cluster` from now on, on the disk too. No effect when it does already.

        Raises: WrongCluster when the disk belongs to another: its chunks mean nothing there.
        """
        with self._lock:
            ours = self._identity.cluster
            if ours == cluster and ours:
                return
            if ours or not cluster:
                raise WrongCluster(
                    f"the disk of {self.server} belongs to cluster {ours!r}, not {cluster!r}",
                    details={"cluster": ours},
                )
            joined = msgspec.structs.replace(self._identity, cluster=ClusterId(cluster))
            write_file_durably(self._disk, self._path, msgspec.json.encode(joined))
            self._identity = joined


class DirectoryLock:
    """Held as long as the process lives; the system releases it, also at kill -9."""

    def __init__(self, directory: str) -> None:
        """Raises: Unavailable when another process serves this directory."""
        self._descriptor = os.open(
            os.path.join(directory, LOCK_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise Unavailable(
                f"the directory {directory!r} is in use by another chunk server",
                hint="Give each chunk server a directory of its own, or stop the other one.",
            ) from error

    def release(self) -> None:
        os.close(self._descriptor)


def _decode(path: str, encoded: bytes) -> _Identity:
    try:
        identity = msgspec.json.decode(encoded, type=_Identity)
    except msgspec.MsgspecError as error:
        raise CorruptState(
            f"{path} is damaged: {error}",
            hint="If this disk's chunks are to be given up, empty its directory; else restore the file.",
        ) from error
    if identity.format_version > FORMAT_VERSION:
        raise UnsupportedVersion(
            f"{path} has format {identity.format_version}; this program knows up to {FORMAT_VERSION}"
        )
    if not identity.server:
        raise CorruptState(f"{path} names no server")
    return identity
