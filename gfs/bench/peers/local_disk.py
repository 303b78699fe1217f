"""The local file system: one copy, no network. What the others stand on."""

from __future__ import annotations

from gfs.bench.peers.peer import Peer


class LocalDisk(Peer):
    name = "local disk"
    what = "1 copy in the page cache"

    def start(self) -> str:
        return str(self.directory)
