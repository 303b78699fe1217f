"""MooseFS: one master, three chunk servers, a FUSE mount, goal 3, in its default settings."""

from __future__ import annotations

import shutil
from pathlib import Path

from gfs.bench.peers.peer import Peer, own_address
from gfs.local.ports import free_ports

CHUNKSERVERS = 3
_EMPTY_METADATA = Path("/var/lib/mfs/metadata.mfs.empty")  # as the package brings it


class MooseFs(Peer):
    name = "MooseFS"
    what = "3 copies in page caches of chunk servers; one master, which syncs nothing"
    needs = ("mfsmaster", "mfschunkserver", "mfsmount", "mfssetgoal", "mfssettrashtime")
    get = "apt install moosefs-master moosefs-chunkserver moosefs-client"
    is_mounted = True

    def missing(self) -> str:
        if found := super().missing():
            return found
        return "" if own_address() else "it refuses loopback, and this machine has no other address"

    def start(self) -> str:
        host = own_address()
        to_masters, to_servers, to_clients, *own = free_ports(3 + CHUNKSERVERS)
        data = self._folder("master")
        shutil.copy(_EMPTY_METADATA, data / "metadata.mfs")
        exports = self._write("exports.cfg", ["* / rw,alldirs,admin,maproot=0:0"])
        settings = self._write(
            "master.cfg",
            [
                "WORKING_USER = root",
                "WORKING_GROUP = root",
                f"DATA_PATH = {data}",
                f"EXPORTS_FILENAME = {exports}",
                f"MATOML_LISTEN_PORT = {to_masters}",
                f"MATOCS_LISTEN_PORT = {to_servers}",
                f"MATOCL_LISTEN_PORT = {to_clients}",
            ],
        )
        self.run("master", "mfsmaster", "-f", "-c", str(settings), "start")
        self.wait_listening(host, to_clients)
        for number, port in enumerate(own, 1):
            self._run_chunkserver(f"server{number}", host, to_servers, port)
        mount = self.mount_point()
        self.run("mount", "mfsmount", str(mount), "-f", "-H", host, "-P", str(to_clients))
        self.wait_mounted()
        self.call("mfssetgoal", "-r", str(CHUNKSERVERS), str(mount))
        self.call("mfssettrashtime", "-r", "0", str(mount))  # deleted rounds take no room
        self.wait_until(lambda: self._takes_files(mount), "ready to take files")
        return str(mount)

    def _run_chunkserver(self, name: str, host: str, master_port: int, port: int) -> None:
        data, disk = self._folder(name), self._folder(f"{name}-disk")
        disks = self._write(f"{name}-disks.cfg", [str(disk)])
        settings = self._write(
            f"{name}.cfg",
            [
                "WORKING_USER = root",
                "WORKING_GROUP = root",
                f"DATA_PATH = {data}",
                f"HDD_CONF_FILENAME = {disks}",
                f"MASTER_HOST = {host}",
                f"MASTER_PORT = {master_port}",
                f"CSSERV_LISTEN_PORT = {port}",
            ],
        )
        self.run(name, "mfschunkserver", "-f", "-c", str(settings), "start")

    def _folder(self, name: str) -> Path:
        folder = self.directory / name
        folder.mkdir()
        return folder

    def _write(self, name: str, lines: list[str]) -> Path:
        path = self.directory / name
        path.write_text("\n".join([*lines, ""]), encoding="ascii")
        return path

    def _takes_files(self, mount: Path) -> bool:
        """Chunk servers report a while after their start; until then a write finds no place."""
        try:
            (mount / "first").write_bytes(b"x")
            return (mount / "first").read_bytes() == b"x"
        except OSError:
            return False
