"""Masters come and go on real processes while writers work: nothing acknowledged is lost, no call fails."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from gfs import aio
from gfs.client.client import AsyncClient
from gfs.errors import GfsError, InvalidArgument
from gfs.local.layout import Layout
from gfs.local.layout_changes import add_master, drop_master
from gfs.messages.cluster import ClusterStatus, ClusterStatusReply
from gfs.messages.members import MembersReply
from gfs.settings import ClientSettings
from gfs.transport.websocket_client import WebSocketCaller
from gfs.vocabulary import Address
from tests.processes.cluster import ProcessCluster, eventually
from tests.processes.workload import Workload

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

WRITERS = 3
PATIENT = ClientSettings(retry_seconds=90.0)  # on a busy machine programs take long to start
CHECKPOINT_OFTEN = {"GFS__RAFT__CHECKPOINT_LOG_BYTES": "60000"}  # so that the log alone does not reach back


class Load:
    """Writers that go on until they are told to stop; each remembers what was acknowledged to it."""

    def __init__(self, clients: list[AsyncClient]) -> None:
        self.workloads = [Workload(client, f"/load/w{n}", seed=n) for n, client in enumerate(clients)]
        self.longest_step = 0.0
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        for workload in self.workloads:
            await workload.set_up()
        self._tasks = [asyncio.ensure_future(self._work(workload)) for workload in self.workloads]

    @property
    def steps(self) -> int:
        return sum(workload.steps_done for workload in self.workloads)

    async def _work(self, workload: Workload) -> None:
        while not self._stopping:
            began = time.monotonic()
            await workload.step()
            self.longest_step = max(self.longest_step, time.monotonic() - began)

    async def go_on(self, steps: int = 40) -> None:
        """Return when so many more steps were acknowledged. Raises what a writer failed with."""
        until = self.steps + steps

        async def done() -> bool | None:
            for task in self._tasks:
                if task.done():
                    await task  # it has failed: nothing else ends it
            return True if self.steps >= until else None

        await eventually(done, f"{steps} more steps of the writers", lambda: self.steps)

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def abandon(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def verify(self) -> None:
        for workload in self.workloads:
            await workload.verify()


@asynccontextmanager
async def loaded(cluster: ProcessCluster) -> AsyncIterator[tuple[AsyncClient, Load]]:
    """A client that watches, and writers with clients of their own."""
    clients = [await aio.connect(cluster.addresses, settings=PATIENT) for _ in range(1 + WRITERS)]
    load = Load(clients[1:])
    try:
        await cluster.ready(clients[0])
        await load.start()
        await load.go_on(20)
        yield clients[0], load
        await load.stop()
        await load.verify()
        await cluster.masters_agree()
    finally:
        await load.abandon()
        for client in clients:
            await client.close()
        cluster.stop()


async def grow(cluster: ProcessCluster, client: AsyncClient) -> str:
    """One more master, written down, started and added, as 'gfs up' does it."""
    cluster.layout, name = add_master(cluster.layout)
    cluster.start([name], **CHECKPOINT_OFTEN)
    await waiting(cluster, name)
    node = cluster.layout.settings.masters[name]
    await client.operator.add_member(name, control=node.control, raft=node.raft)
    return name


async def shrink(cluster: ProcessCluster, client: AsyncClient, name: str) -> None:
    await client.operator.remove_member(name)
    cluster.layout = drop_master(cluster.layout, name)
    if cluster.processes[name].poll() is None:
        cluster.kill([name], signal.SIGTERM)


async def waiting(cluster: ProcessCluster, name: str, role: str = "waiting") -> str:
    """Wait until a master says of itself that it has this role; returns its reason."""
    caller = WebSocketCaller(role="test", node="test")
    seen: list[object] = []

    async def says_so() -> str | None:
        if cluster.processes[name].poll() is not None and "is in use" in cluster.log(name):
            cluster.start([name])  # somebody else's connection had its port for a moment
        address = Address(cluster.layout.settings.masters[name].control)
        try:
            found = await caller.call(
                address, ClusterStatus(alone=True), ClusterStatusReply, deadline_seconds=1.0
            )
        except GfsError:
            return None
        seen[:] = found.masters
        return next((m.reason for m in found.masters if m.id == name and m.role == role), None)

    try:
        return await eventually(says_so, f"{name} is {role}", lambda: seen)
    finally:
        await caller.close()


async def all_serve(cluster: ProcessCluster, client: AsyncClient, names: list[str]) -> MembersReply:
    """Wait until exactly these are voters and each takes part."""
    seen: list[object] = []

    async def complete() -> MembersReply | None:
        try:
            found = await client.operator.members()
        except GfsError as error:
            seen[:] = [error]
            return None
        seen[:] = found.members
        fit = [row.id for row in found.members] == sorted(names)
        return (
            found
            if fit and all(r.voter and r.role in ("leader", "follower") for r in found.members)
            else None
        )

    return await eventually(complete, f"{names} serve", lambda: seen)


async def test_a_cluster_grows_from_one_to_three_to_five_and_back_to_three_under_load(tmp_path: Path) -> None:
    cluster = ProcessCluster(tmp_path / "growing", masters=1, chunkservers=3)
    cluster.start(**CHECKPOINT_OFTEN)
    async with loaded(cluster) as (client, load):
        for names in (["m1", "m2", "m3"], ["m1", "m2", "m3", "m4", "m5"]):
            while len(cluster.masters) < len(names):
                await grow(cluster, client)
                await load.go_on()
            found = await all_serve(cluster, client, names)
            assert found.spare == len(names) // 2
        for name in (found.leader, next(name for name in names if name != found.leader)):
            await shrink(cluster, client, name)
            await load.go_on()
        await all_serve(cluster, client, cluster.masters)
        # Whoever is left can lose one: those who went are needed by nobody.
        victim = (await client.operator.members()).leader
        cluster.kill([victim])
        await load.go_on()
        cluster.start([victim])
        await all_serve(cluster, client, cluster.masters)


async def test_a_master_lost_for_good_is_replaced_under_load_by_one_with_a_configuration_of_its_own(
    tmp_path: Path,
) -> None:
    cluster = ProcessCluster(tmp_path / "replacing", masters=3, chunkservers=3)
    cluster.start(**CHECKPOINT_OFTEN)
    before = Path(cluster.layout.config_path).read_text()
    async with loaded(cluster) as (client, load):
        lost = (await client.operator.members()).leader
        cluster.kill([lost])
        shutil.rmtree(cluster.layout.node_directory(lost))
        await load.go_on()
        # The new one knows the others from its own file; theirs never hears of it.
        cluster.layout, name = add_master(cluster.layout)
        node = cluster.layout.settings.masters[name]
        own = tmp_path / f"{name}.toml"
        own.write_text(Path(cluster.layout.config_path).read_text())
        Path(cluster.layout.config_path).write_text(before)
        cluster.start([name], config=str(own))
        reason = await waiting(cluster, name)
        assert f"gfs admin members add {name} --control {node.control} --raft {node.raft}" in reason
        await client.operator.add_member(name, control=node.control, raft=node.raft)
        await load.go_on()
        await client.operator.remove_member(lost)
        await load.go_on()
        masters = dict(cluster.layout.settings.masters)
        del masters[lost]
        cluster.layout = Layout(
            cluster.layout.directory, msgspec.structs.replace(cluster.layout.settings, masters=masters)
        )
        await all_serve(cluster, client, list(masters))
        # Killed and started again, everybody finds everybody by what they remember.
        cluster.kill([*masters, *cluster.chunkservers])
        cluster.start([one for one in masters if one != name] + cluster.chunkservers)
        cluster.start([name], config=str(own))
        await all_serve(cluster, client, list(masters))
        await load.go_on()


async def test_chunk_servers_and_clients_outlive_every_master_they_were_told_of(tmp_path: Path) -> None:
    cluster = ProcessCluster(tmp_path / "moving", masters=1, chunkservers=2)
    settings = Path(cluster.layout.config_path).read_text()
    first = cluster.addresses
    cluster.start()
    async with loaded(cluster) as (client, load):
        for _ in range(2):  # … so that the one that was the very first is gone, and then its successor
            name = await grow(cluster, client)
            await load.go_on(20)
            old = next(one for one in cluster.masters if one != name)
            await shrink(cluster, client, old)
            await load.go_on(20)

        async def up_to_date() -> bool | None:
            await client.exists("/load")  # a client in use asks the leader now and then
            return set(client.masters) - set(first) == set(cluster.addresses) or None

        await eventually(up_to_date, "the client asks who is there and nobody else", lambda: client.masters)
        # Chunk servers whose settings name nobody who lives find the cluster by what they remember.
        Path(cluster.layout.config_path).write_text(settings)
        cluster.kill(cluster.chunkservers)
        cluster.start(cluster.chunkservers)
        await load.go_on(20)


async def test_a_removed_master_stands_by_sends_everybody_on_and_is_not_taken_back_with_its_old_log(
    tmp_path: Path,
) -> None:
    cluster = ProcessCluster(tmp_path / "removed", masters=3, chunkservers=1)
    cluster.start()
    async with loaded(cluster) as (client, _):
        leader = (await client.operator.members()).leader
        victim = next(one for one in cluster.masters if one != leader)
        node = cluster.layout.settings.masters[victim]
        await client.operator.remove_member(victim)
        assert f"master {victim} was removed from the cluster: stop it" in await waiting(
            cluster, victim, "removed"
        )
        cluster.kill([victim])
        cluster.start([victim])  # as a supervisor would
        await waiting(cluster, victim, "removed")
        assert cluster.processes[victim].poll() is None
        astray = await aio.connect([node.control])
        try:
            assert await astray.exists("/load")  # it knew no living member's address
        finally:
            await astray.close()
        with pytest.raises(InvalidArgument, match="still has its old log") as raised:
            await client.operator.add_member(victim, control=node.control, raft=node.raft)
        assert "empty its directory" in raised.value.hint
        # With an empty one it may come back under its old name: it was nobody's voter meanwhile.
        cluster.kill([victim])
        shutil.rmtree(cluster.layout.node_directory(victim))
        own = tmp_path / "own.toml"
        text = Path(cluster.layout.config_path).read_text()
        own.write_text(text.replace(f"[masters.{victim}]", f"[masters.{victim}]\njoins = true"))
        cluster.start([victim], config=str(own))
        await waiting(cluster, victim)
        await client.operator.add_member(victim, control=node.control, raft=node.raft)
        await all_serve(cluster, client, cluster.masters)


async def test_a_leader_that_dies_in_the_middle_of_an_add_or_a_removal_leaves_a_set_that_goes_on(
    tmp_path: Path,
) -> None:
    cluster = ProcessCluster(tmp_path / "dying", masters=3, chunkservers=3)
    cluster.start(**CHECKPOINT_OFTEN)
    async with loaded(cluster) as (client, load):
        cluster.layout, name = add_master(cluster.layout)
        # It dies while it learns, and so stays a learner for as long as we like.
        cluster.start([name], failpoint="raft.before_ack=kill")
        await waiting(cluster, name)
        node = cluster.layout.settings.masters[name]
        adding = asyncio.ensure_future(client.operator.add_member(name, control=node.control, raft=node.raft))
        assert await cluster.died(name) == -signal.SIGKILL
        found = await client.operator.members()
        assert not next(row for row in found.members if row.id == name).voter
        first = found.leader
        cluster.kill([first])
        await load.go_on()
        cluster.start([name], **CHECKPOINT_OFTEN)
        await brought_to_an_end(
            adding, lambda: client.operator.add_member(name, control=node.control, raft=node.raft)
        )
        cluster.start([first], **CHECKPOINT_OFTEN)
        found = await all_serve(cluster, client, cluster.masters)
        assert len(found.members) == 4
        # The leader removes itself, and dies before it can say so.
        second = found.leader
        removing = asyncio.ensure_future(client.operator.remove_member(second))
        await asyncio.wait([removing], timeout=0.02)  # anywhere between its call and its answer
        cluster.kill([second])
        await load.go_on()
        await brought_to_an_end(removing, lambda: client.operator.remove_member(second))
        cluster.layout = drop_master(cluster.layout, second)
        await load.go_on()
        await all_serve(cluster, client, cluster.masters)


async def brought_to_an_end(change: asyncio.Future[object], again: Callable[[], Awaitable[object]]) -> None:
    """A change whose leader has died is done, or can be asked for again."""
    try:
        await change
    except GfsError as error:
        assert not error.definite, error
        await again()


async def test_leadership_is_handed_from_one_to_the_next_under_load_without_a_failed_call(
    tmp_path: Path,
) -> None:
    cluster = ProcessCluster(tmp_path / "handing", masters=3, chunkservers=3)
    cluster.start()
    async with loaded(cluster) as (client, load):
        for turn in range(6):
            target = cluster.masters[turn % 3]
            done = await client.operator.transfer_leadership(target)
            assert done.state == f"{target} leads"
            await load.go_on(20)
            assert (await client.operator.members()).leader == target
        term = (await client.operator.members()).term
        await client.operator.transfer_leadership()
        await load.go_on(20)
        found = await client.operator.members()
        assert found.leader != target and found.term > term


async def test_a_copied_disk_is_refused_and_the_hint_says_so(tmp_path: Path) -> None:
    cluster = ProcessCluster(tmp_path / "copied", masters=3, chunkservers=1)
    cluster.start()
    async with loaded(cluster) as (client, load):
        leader = (await client.operator.members()).leader
        original = next(one for one in cluster.masters if one != leader)
        node = cluster.layout.settings.masters[original]
        copied = tmp_path / "copy"
        shutil.copytree(node.directory, copied, ignore=shutil.ignore_patterns("lock"))
        # The copy runs elsewhere: all but its name and its log is its own.
        layout, _ = add_master(cluster.layout, "spare")
        spare = layout.settings.masters["spare"]
        text = Path(layout.config_path).read_text()
        for mine, other in ((node.control, spare.control), (node.raft, spare.raft)):
            text = (
                text.replace(f'"{other}"', '"-"', 1)
                .replace(f'"{mine}"', f'"{other}"', 1)
                .replace('"-"', f'"{mine}"', 1)
            )
        own = tmp_path / "copy.toml"
        own.write_text(text.replace(f'"{node.directory}"', f'"{copied}"'))
        drop_master(layout, "spare")
        with open(tmp_path / "copy.log", "wb") as log:
            copy = subprocess.Popen(
                [sys.executable, "-m", "gfs", "--config", str(own), "master", original],
                stdout=log,
                stderr=log,
            )
        try:

            async def refused() -> bool | None:
                said = " ".join(cluster.log(one) for one in cluster.masters)
                return f"two processes say that they are {original}" in said or None

            await eventually(refused, "the copy is refused by name")
            await load.go_on()
        finally:
            copy.kill()
            copy.wait()


def gfs(data: Path, *arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "gfs", "--data", str(data), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, f"{arguments}: {ran.stdout}{ran.stderr}"
    return ran.stdout


def test_gfs_up_grows_and_shrinks_a_cluster_that_is_there_without_migration(tmp_path: Path) -> None:
    data = tmp_path / "local"
    content = tmp_path / "content"
    content.write_bytes(b"0123456789" * 100_000)

    def members() -> list[str]:
        found = json.loads(gfs(data, "admin", "members", "ls", "-o", "json"))
        assert all(row["voter"] for row in found["members"])
        return [row["id"] for row in found["members"]]

    def is_there(path: str) -> bool:
        gfs(data, "get", path, str(tmp_path / "back"))
        same = (tmp_path / "back").read_bytes() == content.read_bytes()
        (tmp_path / "back").unlink()
        return same

    gfs(data, "up", "--masters", "1", "--chunkservers", "1", "--port", "0", "--detach")
    try:
        gfs(data, "put", str(content), "/one")
        gfs(data, "up", "--masters", "3")  # while it runs
        assert members() == ["m1", "m2", "m3"]
        gfs(data, "put", str(content), "/three")
        gfs(data, "admin", "members", "add")
        gfs(data, "admin", "members", "remove", "m1")
        assert members() == ["m2", "m3", "m4"]
        gfs(data, "down")
        gfs(data, "up", "--masters", "1", "--detach")  # and as it starts
        left = members()
        assert len(left) == 1 and left != ["m1"]
        assert is_there("/one") and is_there("/three")
        said = gfs(data, "admin", "members", "ls")
        assert "there is one voter" in said
    finally:
        gfs(data, "down")
    toml = (data / "gfs.toml").read_text()
    assert toml.count("[masters.") == 1 and f"[masters.{left[0]}]" in toml
