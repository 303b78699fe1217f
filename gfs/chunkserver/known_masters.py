"""Which masters a chunk server tells of itself: its settings name some, the cluster's leader names all.

    DIRECTORY/masters.json   {"format": 1, "cluster": "…", "masters": ["10.0.0.1:9500", …]}

The leader's word, in the reply to a heartbeat, is the set; it is kept on disk, so that a server that comes
back after all masters of its settings were replaced still finds the cluster. A follower may lag behind the
log, or have been removed: its word only adds, and only while no leader is heard. Whoever answers has said, at
the connection's hello and in each reply, that it is of this disk's cluster.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from gfs.disk import Disk, read_whole_file, write_file_durably
from gfs.settings import MASTERS_NAMED_MAX
from gfs.telemetry import logger
from gfs.vocabulary import Address, ClusterId

FORMAT_VERSION = 1
MASTERS_FILE = "masters.json"

_log = logger("chunkserver")


class _Remembered(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    cluster: ClusterId
    masters: list[Address]


class KnownMasters:
    """Not thread-safe; `remember` writes to the disk, one call at a time."""

    def __init__(self, disk: Disk, directory: str, *, seeds: Sequence[Address], cluster: ClusterId) -> None:
        """`cluster`: of this disk, empty on a fresh one. A file that cannot be used is as good as none."""
        assert seeds
        self._disk, self._path = disk, os.path.join(directory, MASTERS_FILE)
        self.seeds = tuple(dict.fromkeys(seeds))
        self._on_disk: tuple[Address, ...] = self._load(cluster)
        self.at_start = tuple(dict.fromkeys((*self._on_disk, *self.seeds)))

    def remember(self, masters: Sequence[Address], cluster: ClusterId) -> None:
        """The leader has named these. On disk when this returns, unless the disk refuses: then it is tried
        again at the leader's next word."""
        named = tuple(sorted(masters))
        if named == self._on_disk:
            return
        content = _Remembered(format=FORMAT_VERSION, cluster=cluster, masters=list(named))
        try:
            write_file_durably(self._disk, self._path, msgspec.json.encode(content) + b"\n")
        except OSError as error:
            _log.warning("the masters cannot be remembered", path=self._path, error=error.strerror)
            return
        self._on_disk = named
        _log.info("the masters are remembered", masters=named)

    def _load(self, cluster: ClusterId) -> tuple[Address, ...]:
        try:
            if not self._disk.exists(self._path):
                return ()
            found = msgspec.json.decode(read_whole_file(self._disk, self._path), type=_Remembered)
        except (OSError, msgspec.DecodeError) as error:
            _log.warning("the remembered masters cannot be read", path=self._path, error=str(error))
            return ()
        if found.format != FORMAT_VERSION or found.cluster != cluster:
            _log.warning("the remembered masters are not used", path=self._path, cluster=found.cluster)
            return ()
        return tuple(found.masters[:MASTERS_NAMED_MAX])
