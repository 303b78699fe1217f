"""What is done to the cluster, in order, while clients work; and what has to hold then."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from deploy.rehearsal.cluster import MASTERS, Cluster, wheel_of_version
from deploy.rehearsal.hosts import Hosts
from deploy.rehearsal.load import Load
from deploy.rehearsal.report import Report
from gfs import __version__

THREE_HOSTS = {
    "10.0.0.1": ("master1", "storage1", "storage2"),
    "10.0.0.2": ("master2", "storage3", "storage4"),
    "10.0.0.3": ("master3", "storage5"),
}
EIGHT_HOSTS = {
    **{f"10.0.0.{n}": (f"master{n}",) for n in (1, 2, 3)},
    **{f"10.0.0.{10 + n}": (f"storage{n}",) for n in (1, 2, 3, 4, 5)},
}
NEW_SERVER = ("c6", "10.0.0.16", "storage6")
NEW_VERSION = __version__ + ".post1"
DRAINED = "c2"
LOST_RACK = ("c3", "c4")
FIRST_CHUNK_SECONDS_MAX = 2.0
REPLICAS = 3  # master.replication_goal of the shipped file
FILES_ASKED = 200  # whether they have all their replicas again
SEED = 6


def rehearse(work: Path, say: Callable[[str], None], *, quick: bool) -> Report:
    """Everything in order, in an empty directory. Raises: CommandFailed at what does not work at all."""
    (work / "wheel").mkdir()
    wheel = wheel_of_version(NEW_VERSION, work / "wheel")
    cluster = Cluster(Hosts(work / "hosts"), THREE_HOSTS if quick else EIGHT_HOSTS)
    return Rehearsal(cluster, wheel, say).run(quick=quick)


class Rehearsal:
    def __init__(self, cluster: Cluster, wheel: Path, say: Callable[[str], None]) -> None:
        self._cluster, self._wheel, self._say = cluster, wheel, say
        layout = f"3 masters, 5 chunk servers on {len(cluster.machines)} hosts"
        self.report = Report(layout, f"version {__version__}, then {NEW_VERSION}: one source, two wheels")

    def run(self, *, quick: bool) -> Report:
        self._timed("set up, by README's commands", self._cluster.set_up)
        self._timed("from there to healthy", self._cluster.until_healthy)
        load = Load(MASTERS, self._cluster.client_settings(), SEED)
        try:
            self._under_load("leader killed (kill -9)", load, self._kill_leader)
            if not quick:
                self._under_load("chunk server added", load, self._add_server)
                self._under_load("chunk server drained and removed", load, self._drain)
                self._under_load("rack lost and come back", load, lambda: self._lose_rack(load))
            self._under_load("upgrade", load, self._upgrade)
            if not quick:
                self._under_load("keys of capabilities changed at once", load, self._rotate_keys)
                self._under_load("all certificates renewed", load, self._renew_certificates)
                self._timed("backup", lambda: self._gfs("backup create backups"))
        finally:
            load.stop()
        self._judge(load, "under load")
        if not quick:
            self._timed("backup of the end", lambda: self._gfs("backup create backups"))
            self._timed("all masters lost and restored", self._restore)
            self._judge(load, "after the restore")
        return self.report

    def _timed(self, what: str, act: Callable[[], object], *, seconds_max: float | None = None) -> None:
        began = time.monotonic()
        act()
        seconds = time.monotonic() - began
        self.report.took(what, seconds, seconds_max=seconds_max)
        self._say(f"{seconds:6.2f} s  {what}")

    def _under_load(self, what: str, load: Load, act: Callable[[], object]) -> None:
        load.slowest_seconds()
        failed, calls = len(load.failed), load.calls
        self._timed(what, act)
        slowest = load.slowest_seconds()
        self.report.took(f"… slowest client call meanwhile, of {load.calls - calls}", slowest)
        self._say(f"{slowest:6.2f} s  … slowest client call meanwhile; {len(load.failed) - failed} failed")

    def _judge(self, load: Load, when: str) -> None:
        lost = load.lost()
        self.report.calls, self.report.files, self.report.records = (
            load.calls,
            len(load.files),
            len(load.records),
        )
        self.report.problems += [f"{when}: {one}" for one in [*load.failed, *lost]]
        load.failed.clear()
        if not load.files or not load.records:
            self.report.problems.append(f"{when}: no client has stored anything")

    def _gfs(self, arguments: str) -> str:
        return self._cluster.gfs(arguments)

    def _kill_leader(self) -> None:
        leader = self._cluster.status()["leader"]
        self._cluster.systemctl("kill -s KILL", leader)
        self._cluster.until("led by another", lambda: self._cluster.status()["leader"] not in ("", leader))
        self._cluster.until_healthy()

    def _add_server(self) -> None:
        node, address, name = NEW_SERVER
        hosts, site = self._cluster.hosts, self._cluster.site
        host = f"host{len(hosts.names) + 1}"
        hosts.add(host, address, aliases=[name])
        self._cluster.machines.append(host)
        self._cluster.host_of[node] = host
        text = (site / "gfs.toml").read_text()
        section = f'[chunkservers.{node}]\ncontrol = "{name}:9600"\ndata = "{name}:9601"\n'
        section += f'directory = "/var/lib/gfs/{node}"\nrack = "rack1"\n\n'
        (site / "new").mkdir()
        (site / "new" / "gfs.toml").write_text(text.replace("[master]\n", f"{section}[master]\n"))
        for machine in self._cluster.machines:
            hosts.on(machine, f"echo {address} {name} >> /etc/hosts")
        hosts.on(host, f"cat {site}/hosts >> /etc/hosts; python3 -m venv /opt/gfs")
        hosts.on(host, f"/opt/gfs/bin/pip install -q {site}/wheels/*.whl")
        self._gfs(f"-q cert issue chunkserver {node} --cluster prod --dir ca --out {node}")
        hosts.run(f"cd {site}; scp -qr new/gfs.toml secret ca/ca.pem {node} {name}:/etc/gfs/")
        hosts.run(f"cd {site}; scp -q deploy/systemd/gfs* {name}:/etc/systemd/system/")

        def has_a_chunk() -> bool:
            return int(self._cluster.server(node).get("chunk_count", 0)) > 0

        self._cluster.systemctl("start", node)
        self._timed(
            "… new chunk server started to first chunk",
            lambda: self._cluster.until("in use", has_a_chunk),
            seconds_max=FIRST_CHUNK_SECONDS_MAX,
        )

    def _drain(self) -> None:
        server = self._cluster.server(DRAINED)["id"]
        self._timed("… drained", lambda: self._gfs(f"admin chunkservers drain {server} --wait"))
        self._gfs(f"admin chunkservers remove {server}")
        self._cluster.systemctl("stop", DRAINED)
        del self._cluster.host_of[DRAINED]
        self._cluster.until_healthy()

    def _lose_rack(self, load: Load) -> None:
        """The power of a rack goes; its switch, too. It comes back when everything has been made up for."""

        cluster = self._cluster
        hit = [path for path in list(load.files)[:FILES_ASKED] if cluster.servers_of(path) & set(LOST_RACK)]
        assert hit, "no file has a replica on the rack that is to be lost"

        def all_is_made_up_for() -> bool:
            return all(len(cluster.servers_of(path) - set(LOST_RACK)) >= REPLICAS for path in hit)

        def is_away() -> bool:
            return not any(self._cluster.server(node).get("alive", True) for node in LOST_RACK)

        for node in LOST_RACK:
            self._cluster.hosts.unplug(self._cluster.host_of[node])
            self._cluster.systemctl("lose", node)
        self._cluster.until("known to be away", is_away)
        self._timed(
            "… all replicas made anew elsewhere",
            lambda: self._cluster.until("repaired", all_is_made_up_for),
        )
        for node in LOST_RACK:
            self._cluster.hosts.plug_in(self._cluster.host_of[node])
            self._cluster.systemctl("start", node)
        self._timed("… healthy again", self._cluster.until_healthy)

    def _upgrade(self) -> None:
        for machine in self._cluster.machines:
            self._cluster.hosts.on(machine, f"/opt/gfs/bin/pip install -q {self._wheel}")
        servers = sorted(node for node in self._cluster.host_of if node.startswith("c"))
        for node in servers:
            self._cluster.systemctl("restart", node)
            self._cluster.until(
                f"{node} back", lambda node=node: self._cluster.server(node).get("version") == NEW_VERSION
            )
            self._cluster.until_healthy()
        restart = "bash -c 'n={}; ssh master${n#m} systemctl restart gfs-master@{}'"
        self._gfs(f'admin restart-masters --command "{restart.replace("$", chr(92) + "$")}"')
        self._cluster.until_healthy()

    def _rotate_keys(self) -> None:
        self._gfs("secret rotate --now")

    def _renew_certificates(self) -> None:
        cluster = self._cluster
        for node, host in cluster.host_of.items():
            self._gfs(f"-q cert renew {node}/certificate.pem --dir ca")
            cluster.hosts.run(f"cd {cluster.site}; scp -qr {node} {host}:/etc/gfs/")
            renewed = (cluster.site / node / "certificate.pem").read_text().strip()
            cluster.until(
                f"{node} shows its new certificate",
                lambda node=node, renewed=renewed: cluster.certificate_shown_by(node) in renewed,
            )

    def _restore(self) -> None:
        """Every master's disk is gone; nothing is left of them but the backup."""
        cluster = self._cluster
        masters = sorted(node for node in cluster.host_of if node.startswith("m"))
        for node in masters:
            cluster.systemctl("lose", node)
            cluster.hosts.on(cluster.host_of[node], f"rm -rf /var/lib/gfs/{node}/*")
        self._gfs("backup verify backups")
        self._gfs(f"backup restore backups --to {cluster.site}/restored --masters {','.join(masters)}")
        for node in masters:
            cluster.hosts.run(
                f"cd {cluster.site}/restored; scp -qr {node} {cluster.host_of[node]}:/var/lib/gfs/"
            )
            cluster.systemctl("start", node)
        cluster.until_healthy()
        self._gfs("admin gc resume")
        shutil.rmtree(cluster.site / "restored")
