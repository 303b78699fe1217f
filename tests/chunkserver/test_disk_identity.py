"""Who a chunk server's disk is, over restarts, power cuts, other clusters, other formats, other processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.simulation.disk import ForgetfulDisk
from gfs.chunkserver.disk_identity import DirectoryLock, DiskIdentity
from gfs.disk import write_file_durably
from gfs.errors import CorruptState, Unavailable, UnsupportedVersion, WrongCluster
from gfs.vocabulary import ClusterId

FILE = "/data/identity.json"
OURS = ClusterId("ours")


def test_a_fresh_disk_gets_an_identity_that_outlives_a_power_cut() -> None:
    disk = ForgetfulDisk()
    made = DiskIdentity.load_or_create(disk, "/data")
    assert made.server.startswith("cs-") and len(made.server) == 11 and made.cluster == ""
    disk.power_cut()
    disk.power_on()
    assert DiskIdentity.load_or_create(disk, "/data").server == made.server


def test_two_disks_are_two_servers() -> None:
    first = DiskIdentity.load_or_create(ForgetfulDisk(), "/data")
    second = DiskIdentity.load_or_create(ForgetfulDisk(), "/data")
    assert first.server != second.server


def test_a_disk_joins_one_cluster_for_good() -> None:
    disk = ForgetfulDisk()
    identity = DiskIdentity.load_or_create(disk, "/data")
    identity.adopt_cluster(OURS)
    identity.adopt_cluster(OURS)
    disk.power_cut()
    disk.power_on()
    again = DiskIdentity.load_or_create(disk, "/data")
    assert (again.cluster, again.server) == (OURS, identity.server)
    with pytest.raises(WrongCluster, match="ours"):
        again.adopt_cluster(ClusterId("theirs"))
    assert again.cluster == OURS


def test_an_adoption_that_is_cut_short_leaves_the_identity_whole() -> None:
    for operations in range(8):
        disk = ForgetfulDisk(operations)
        identity = DiskIdentity.load_or_create(disk, "/data")
        disk.cut_power_after(operations, torn=True)
        try:
            identity.adopt_cluster(OURS)
            adopted = True
        except OSError:
            adopted = False
        if not disk.powered_off:
            disk.power_cut()
        disk.power_on()
        again = DiskIdentity.load_or_create(disk, "/data")
        assert again.server == identity.server
        assert again.cluster in ([OURS] if adopted else [OURS, ""])


def test_a_disk_of_a_newer_format_is_refused() -> None:
    disk = ForgetfulDisk()
    disk.make_directory("/data")
    newer = {"format": 2, "server": "cs-00000000", "cluster": "", "something": "new"}
    write_file_durably(disk, FILE, json.dumps(newer).encode())
    with pytest.raises(UnsupportedVersion, match="format 2"):
        DiskIdentity.load_or_create(disk, "/data")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"format": 1}', b'{"format": 1, "server": 7}'])
def test_a_damaged_identity_is_never_replaced_by_a_new_one(content: bytes) -> None:
    disk = ForgetfulDisk()
    disk.make_directory("/data")
    write_file_durably(disk, FILE, content)
    with pytest.raises(CorruptState, match="identity"):
        DiskIdentity.load_or_create(disk, "/data")


def test_a_directory_is_used_by_one_process_at_a_time(tmp_path: Path) -> None:
    lock = DirectoryLock(str(tmp_path))
    program = (
        "import sys; from gfs.chunkserver.disk_identity import DirectoryLock; DirectoryLock(sys.argv[1])"
    )
    other = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert other.returncode != 0 and "in use by another chunk server" in other.stderr
    with pytest.raises(Unavailable):
        DirectoryLock(str(tmp_path))
    lock.release()
    DirectoryLock(str(tmp_path)).release()


def test_a_lock_that_is_let_go_twice_closes_no_file_of_anybody_else(tmp_path: Path) -> None:
    lock = DirectoryLock(str(tmp_path / "one"))
    lock.release()
    other = DirectoryLock(str(tmp_path / "two"))  # has the descriptor that the first one had
    lock.release()
    with pytest.raises(Unavailable):
        DirectoryLock(str(tmp_path / "two"))
    other.release()


def test_an_identity_found_after_a_kill_survives_a_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masters were told of it: with another one, all replicas here would be strangers to their sets."""
    disk = ForgetfulDisk()

    def killed(_path: str) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync_directory", killed)
        with pytest.raises(InterruptedError):
            DiskIdentity.load_or_create(disk, "/data")
    found = DiskIdentity.load_or_create(disk, "/data").server
    disk.power_cut()
    disk.power_on()
    assert DiskIdentity.load_or_create(disk, "/data").server == found
