"""Masters as programs: three on loopback, what they claim on disk, and how they refuse to start."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gfs.disk import SystemDisk
from gfs.errors import (
    ConfigInvalid,
    CorruptState,
    InvalidArgument,
    NoSpace,
    NotLeader,
    Unavailable,
    WrongCluster,
)
from gfs.local.ports import free_ports
from gfs.master.directory import IDENTITY_FILE, MasterDirectory
from gfs.master.process import Master
from gfs.messages.base import Ack
from gfs.messages.cluster import (
    ClusterStatus,
    ClusterStatusReply,
    ReadmitMaster,
    StateDigest,
    StateDigestReply,
)
from gfs.messages.namespace import CreateFile, EntryReply, MakeDirectory, MutationReply, Stat
from gfs.settings import ClusterSettings, MasterNode, Settings
from gfs.transport.websocket_client import WebSocketCaller
from gfs.vocabulary import Address, ClusterId, MasterId
from tests.waiting import eventually, until

CLUSTER = "cluster-of-processes"
WAIT_SECONDS = 20.0


def free_addresses(count: int) -> list[Address]:
    return [Address(f"127.0.0.1:{port}") for port in free_ports(count)]


def settings_of(directory: Path, masters: int) -> Settings:
    secret = directory / "secret"
    secret.write_text("the masters of this test")
    free = iter(free_addresses(2 * masters))
    return Settings(
        cluster=ClusterSettings(id=CLUSTER, secret_file=str(secret)),
        masters={f"m{n + 1}": MasterNode(control=next(free), raft=next(free)) for n in range(masters)},
    )


class Cluster:
    def __init__(self, directory: Path, masters: int) -> None:
        self.directory = directory
        self.settings = settings_of(directory, masters)
        self.masters: dict[str, Master] = {}
        self.caller = WebSocketCaller("client", "test", CLUSTER)

    async def start(self, name: str) -> Master:
        master = Master(self.settings, name, str(self.directory / name))
        await master.start()
        self.masters[name] = master
        return master

    async def start_all(self) -> None:
        for name in self.settings.masters:
            await self.start(name)

    async def stop(self) -> None:
        await self.caller.close()
        for master in self.masters.values():
            await master.stop()

    async def leader(self) -> Master:
        async def leading() -> Master | None:
            return next((master for master in self.masters.values() if master.is_leading), None)

        return await eventually(leading, "somebody leads")

    async def until_applied(self, index: int) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            for master in self.masters.values():
                request = Stat(path="/", consistency="session", min_applied_index=index)
                while True:
                    try:
                        await self.caller.call(master.address, request, EntryReply, deadline_seconds=5.0)
                        break
                    except Unavailable:
                        continue


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    made = Cluster(tmp_path, 3)
    yield made
    await made.stop()


async def test_three_masters_commit_agree_and_go_on_without_their_leader(cluster: Cluster) -> None:
    await cluster.start_all()
    first = await cluster.leader()
    call = cluster.caller.call
    await call(first.address, MakeDirectory(path="/d"), MutationReply, deadline_seconds=5.0)
    follower = next(m for m in cluster.masters.values() if m is not first)
    with pytest.raises(NotLeader) as raised:
        await call(follower.address, CreateFile(path="/x"), MutationReply, deadline_seconds=5.0)
    assert raised.value.details["leader"] == first.address
    await first.stop()
    del cluster.masters[next(name for name, m in cluster.masters.items() if m is first)]
    second = await cluster.leader()
    made = await call(second.address, CreateFile(path="/d/f"), MutationReply, deadline_seconds=5.0)
    found = await call(second.address, Stat(path="/d/f"), EntryReply, deadline_seconds=5.0)
    assert found.entry.inode == made.inode
    await cluster.until_applied(made.applied_index)
    digests = [
        await call(master.address, StateDigest(), StateDigestReply, deadline_seconds=5.0)
        for master in cluster.masters.values()
    ]
    assert digests[0] == digests[1]
    assert second.readiness() == (True, "")


async def test_single_master_comes_back_with_everything_it_acknowledged(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 1)
    for round_number in range(3):
        master = await cluster.start("m1")
        await cluster.leader()
        path = f"/round-{round_number}"
        await cluster.caller.call(master.address, CreateFile(path=path), MutationReply, deadline_seconds=5.0)
        for earlier in range(round_number):
            request = Stat(path=f"/round-{earlier}")
            await cluster.caller.call(master.address, request, EntryReply, deadline_seconds=5.0)
        exposition = master.metrics.exposition().decode()
        assert "gfs_is_leader 1.0" in exposition and "gfs_commit_seconds_count" in exposition
        await master.stop()
    await cluster.caller.close()


async def test_master_without_a_quorum_is_not_ready_and_says_whom_it_waits_for(cluster: Cluster) -> None:
    master = await cluster.start("m2")
    ready, why = master.readiness()
    assert not ready and why.startswith("no quorum: 1 of 3 masters reachable (m2), waiting for m1 (not heard")


async def test_full_disk_under_the_state_leaves_reads_to_be_answered(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 1)
    master = await cluster.start("m1")
    await cluster.leader()
    master.replication_ended(NoSpace("no space left for state.lmdb"))
    request = Stat(path="/", consistency="stale")
    found = await cluster.caller.call(master.address, request, EntryReply, deadline_seconds=5.0)
    assert found.entry.path == "/"
    assert master.readiness() == (False, "out of service: no space left for state.lmdb")
    await cluster.stop()


async def test_wiped_master_shows_as_refused_with_the_next_step_whoever_is_asked(cluster: Cluster) -> None:
    await cluster.start_all()
    leader = await cluster.leader()
    victim = next(name for name, master in cluster.masters.items() if master is not leader)
    await cluster.caller.call(leader.address, MakeDirectory(path="/d"), MutationReply, deadline_seconds=5.0)
    await cluster.masters[victim].stop()
    shutil.rmtree(cluster.directory / victim)
    wiped = await cluster.start(victim)

    async def role(asked: Master) -> tuple[str, str]:
        status = await cluster.caller.call(
            asked.address, ClusterStatus(), ClusterStatusReply, deadline_seconds=5.0
        )
        return next((m.role, m.reason) for m in status.masters if m.id == victim)

    for asked in (leader, wiped):

        async def is_refused(asked: Master = asked) -> bool:
            return (await role(asked))[0] == "refused"

        await until(is_refused, "the wiped master is refused")
        assert f"gfs admin members readmit {victim}" in (await role(asked))[1]
    request = ReadmitMaster(member=MasterId(victim))

    async def readmit() -> Ack | None:
        try:
            return await cluster.caller.call(leader.address, request, Ack, deadline_seconds=5.0)
        except InvalidArgument:  # the other follower may have met it before the leader
            return None

    async def follows() -> bool:
        return await role(leader) == ("follower", "")

    await eventually(readmit, "it is let in again")
    await until(follows, "it follows")


class TestStarting:
    async def test_second_process_on_one_directory_is_refused(self, tmp_path: Path) -> None:
        cluster = Cluster(tmp_path, 1)
        await cluster.start("m1")
        with pytest.raises(Unavailable, match="another process is using the directory"):
            await Master(cluster.settings, "m1", str(tmp_path / "m1")).start()
        await cluster.stop()

    @pytest.mark.parametrize(("cluster_id", "master"), [("another", "m1"), (CLUSTER, "m2")])
    async def test_directory_of_another_cluster_or_master_is_refused(
        self, tmp_path: Path, cluster_id: str, master: str
    ) -> None:
        disk, directory = SystemDisk(), str(tmp_path / "m")
        MasterDirectory.claim(directory, disk, cluster=ClusterId(CLUSTER), master=MasterId("m1")).release()
        with pytest.raises(WrongCluster, match="belongs to master m1 of cluster cluster-of-processes"):
            MasterDirectory.claim(directory, disk, cluster=ClusterId(cluster_id), master=MasterId(master))
        with pytest.raises(WrongCluster) as swapped:
            MasterDirectory.claim(directory, disk, cluster=ClusterId(CLUSTER), master=MasterId("m2"))
        assert "Are the directories of m2 and m1 swapped?" in swapped.value.hint
        MasterDirectory.claim(directory, disk, cluster=ClusterId(CLUSTER), master=MasterId("m1")).release()

    async def test_unreadable_identity_is_named(self, tmp_path: Path) -> None:
        (tmp_path / IDENTITY_FILE).write_text("{")
        with pytest.raises(CorruptState, match=IDENTITY_FILE):
            MasterDirectory.claim(
                str(tmp_path), SystemDisk(), cluster=ClusterId(CLUSTER), master=MasterId("m1")
            )

    @pytest.mark.parametrize("which", ["control", "raft"])
    async def test_taken_port_is_a_clear_error_and_leaves_nothing_locked(
        self, tmp_path: Path, which: str
    ) -> None:
        cluster = Cluster(tmp_path, 1)
        node = cluster.settings.masters["m1"]
        host, _, port = getattr(node, which).rpartition(":")
        with socket.socket() as taken:
            taken.bind((host, int(port)))
            taken.listen()
            with pytest.raises(Unavailable, match=re.escape(getattr(node, which))):
                await cluster.start("m1")
        await cluster.start("m1")
        await cluster.leader()
        await cluster.stop()

    async def test_missing_secret_cluster_id_or_node_is_a_config_error(self, tmp_path: Path) -> None:
        settings = settings_of(tmp_path, 3)
        with pytest.raises(ConfigInvalid, match="no master"):
            Master(settings, "m9", str(tmp_path / "m9"))
        with pytest.raises(ConfigInvalid, match=r"cluster\.id"):
            Master(Settings(masters=settings.masters), "m1", str(tmp_path / "m1"))
        bare = Settings(cluster=ClusterSettings(id=CLUSTER), masters=settings.masters)
        with pytest.raises(ConfigInvalid, match="secret_file is missing"):
            await Master(bare, "m1", str(tmp_path / "m1")).start()
