"""A cluster of real programs whose links all run through proxies, and are spoilt one after the other."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chaos.plan import Configuration
from chaos.toxiproxy import tools
from chaos.toxiproxy.server import ToxiproxyServer
from chaos.toxiproxy.testbed import ToxiTestbed
from gfs.client.client import AsyncClient
from gfs.errors import GfsError
from gfs.local.layout import make_layout
from gfs.verification.history import History
from gfs.verification.recorder import Recorder
from tests.waiting import eventually

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]


@asynccontextmanager
async def cluster_in(
    directory: Path, configuration: Configuration
) -> AsyncIterator[tuple[ToxiTestbed, History]]:
    layout = make_layout(
        str(directory / "cluster"),
        masters=configuration.masters,
        chunkservers=configuration.chunkservers,
        first_port=0,
    )
    server = ToxiproxyServer(str(directory), binary=tools.find_server(), seed=1)
    testbed = ToxiTestbed(layout, configuration, server)
    history = History()
    try:
        await testbed.start(Recorder(history, testbed.now_ns))
        yield testbed, history
    finally:
        await testbed.stop()


def connections(process_id: int) -> set[tuple[int, int]]:
    """(own port, far port) of every TCP connection that this process has now."""
    sockets = set()
    for entry in Path(f"/proc/{process_id}/fd").iterdir():
        try:
            sockets.add(os.readlink(entry))
        except FileNotFoundError:
            continue
    found = set()
    for line in Path(f"/proc/{process_id}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        established = fields[3] == "01"
        if established and f"socket:[{fields[9]}]" in sockets:
            found.add((int(fields[1].split(":")[1], 16), int(fields[2].split(":")[1], 16)))
    return found


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


async def test_every_connection_of_every_program_runs_through_a_proxy_of_its_own(tmp_path: Path) -> None:
    async with cluster_in(tmp_path, Configuration(masters=3, chunkservers=3)) as (testbed, _):
        client = await testbed.client("w1")
        await client.write_bytes("/big", os.urandom(3_000_000))
        assert len(await client.read_bytes("/big")) == 3_000_000
        await client.close()
        listening = {port_of(address) for link in testbed.links.all_links() for address in (link.meant,)}
        used: set[str] = set()
        for node in (*testbed.masters, *testbed.chunkservers):
            book = {port_of(link.dialled): link for link in testbed.links.all_links() if link.source == node}
            for own, far in connections(testbed.programs.process_id(node)):
                if own in listening:
                    continue  # it was dialled
                assert far in book, f"{node} has a connection to port {far} past the proxies"
                used.add(book[far].wire)
        assert used == {"raft", "control", "data"}


class Writer:
    """Makes one directory after the other; remembers what was acknowledged, and when."""

    def __init__(self, testbed: ToxiTestbed, client: AsyncClient) -> None:
        self._testbed, self._client = testbed, client
        self.acknowledged: list[str] = []
        self._tried = 0
        self._task = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while True:
            self._tried += 1
            path = f"/w/{self._tried}"
            try:
                await self._client.write_bytes(path, path.encode())
            except GfsError:
                continue
            self.acknowledged.append(path)

    async def goes_on(self) -> None:
        before = len(self.acknowledged)

        async def more() -> bool | None:
            return True if len(self.acknowledged) > before + 2 else None

        await eventually(more, "writes are acknowledged", self._testbed.programs.state_of_all)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_writes_go_on_after_every_kind_of_spoilt_link_and_nothing_acknowledged_is_lost(
    tmp_path: Path,
) -> None:
    async with cluster_in(tmp_path, Configuration(masters=3, chunkservers=3)) as (testbed, history):
        client = await testbed.client("w1")
        await client.mkdir("/w")
        writer = Writer(testbed, client)
        await writer.goes_on()
        old = await testbed.leader()
        others = [master for master in testbed.masters if master != old]

        async def another_leads() -> str | None:
            found = await testbed.leader()
            return found if found not in ("", old) else None

        for other in others:
            await testbed.cut(old, other)
        new = await eventually(another_leads, "another master leads")
        await testbed.heal_all()
        await writer.goes_on()

        faults: list[Callable[[str, str], Awaitable[None]]] = [
            testbed.drop,
            testbed.hold,
            testbed.reset,
            lambda a, b: testbed.slow(a, b, seconds=0.02, jitter=0.01),
            lambda a, b: testbed.throttle(a, b, bytes_per_second=200_000),
            lambda a, b: testbed.slice(a, b, piece_bytes=100),
            lambda a, b: testbed.limit(a, b, limit_bytes=2000),
            lambda a, b: testbed.slow_close(a, b, seconds=0.2),
        ]
        for spoil in faults:
            await spoil(new, "w1")
            await spoil("c1", "c2")
            await testbed.sleep(0.3)
            await testbed.heal(new, "w1")
            await testbed.heal("c1", "c2")
            await writer.goes_on()
        os.kill(testbed.links.server.process_id, signal.SIGKILL)
        await writer.goes_on()
        assert testbed.links.restarts == 1
        await writer.stop()
        for path in writer.acknowledged:
            assert await client.read_bytes(path) == path.encode()
        await client.close()
        roles = [(s.node, s.values["role"]) for s in history.sightings if s.what == "role"]
        assert (old, "leader") in roles and (new, "leader") in roles
        assert any(s.what == "replaced" for s in history.sightings)
    grants = [s.values for s in history.sightings if s.what == "granted"]
    assert grants and {grant["primary"] for grant in grants} <= set(testbed.chunkservers)
    assert all(set(grant["replicas"]) <= set(testbed.chunkservers) for grant in grants)
    assert len({(grant["chunk"], grant["version"]) for grant in grants}) == len(grants)
    assert {s.node for s in history.sightings if s.what == "raised"} == set(testbed.chunkservers)
    assert {s.node for s in history.sightings if s.what == "state"} == set(testbed.masters)


async def test_a_master_that_comes_and_one_that_goes_have_links_through_proxies(tmp_path: Path) -> None:
    async with cluster_in(tmp_path, Configuration(masters=3, chunkservers=1, replication_goal=1)) as (
        testbed,
        _,
    ):
        before = len(testbed.links)
        client = await testbed.client("w1")
        name = await testbed.add_master()
        assert name == "m4" and testbed.masters == ("m1", "m2", "m3", "m4")
        book = {port_of(link.dialled) for link in testbed.links.all_links() if link.source == name}
        own = {port_of(link.meant) for link in testbed.links.all_links() if link.target == name}
        made = [far for mine, far in connections(testbed.programs.process_id(name)) if mine not in own]
        assert made and set(made) <= book
        await testbed.cut("m4", "m1")
        await testbed.heal_all()
        await testbed.remove_master("m1")
        assert "m1" not in testbed.masters and not testbed.programs.runs("m1")
        await client.mkdir("/after")
        await client.close()
        await testbed.remove_master("m4")
        assert len(testbed.links) < before + 8  # only the client's are new
