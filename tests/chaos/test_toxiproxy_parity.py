"""The real Toxiproxy server and our stand-in: a table of orders and one of what toxics do, held to both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from chaos.toxiproxy import tools
from chaos.toxiproxy.control import Control, Toxic, ToxiproxyFault
from chaos.toxiproxy.server import ToxiproxyServer
from gfs.local.ports import free_ports

pytestmark = pytest.mark.processes

QUICK = 0.15  # seconds, below what toxics here are set to
SET_MS = 600


@pytest.fixture(params=["real", "stand-in"], scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "real" and not tools.find_server():
        pytest.skip(tools.why_no_server())
    return str(request.param)


@pytest.fixture(scope="module")
def server(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToxiproxyServer]:
    binary = tools.find_server() if kind == "real" else ""
    made = ToxiproxyServer(str(tmp_path_factory.mktemp("toxiproxy")), binary=binary, seed=1)
    asyncio.run(made.start())
    yield made
    asyncio.run(made.kill())


class Bench:
    """A proxy with somebody behind it, and connections through it, by both ends."""

    def __init__(self, control: Control, port: int, arrivals: asyncio.Queue[Any]) -> None:
        self.control, self.port, self._arrivals = control, port, arrivals
        self._open: list[asyncio.StreamWriter] = []

    async def connect(self) -> tuple[Ends, Ends]:
        """The dialling end and the end behind the proxy."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._open.append(writer)
        far = await asyncio.wait_for(self._arrivals.get(), 5)
        return Ends(reader, writer), far

    async def toxic(
        self, kind: str, stream: str = "upstream", toxicity: float = 1.0, **attributes: int
    ) -> None:
        toxic = Toxic("t", kind, stream, attributes, toxicity)
        await asyncio.to_thread(self.control.add_toxic, "link", toxic)

    async def heal(self) -> None:
        await asyncio.to_thread(self.control.remove_toxic, "link", "t")

    def close(self) -> None:
        for writer in self._open:
            writer.close()


class Ends:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def gets(self, count: int, within: float = 5.0) -> bytes:
        async with asyncio.timeout(within):
            return await self.reader.readexactly(count)

    async def gets_nothing(self, seconds: float = QUICK) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                got = await self.reader.read(1)
                raise AssertionError(f"got {got!r}")

    async def ends(self, within: float = 5.0) -> None:
        """Whatever comes, then the end, by FIN or RST."""
        async with asyncio.timeout(within):
            try:
                await self.reader.read()
            except ConnectionError:
                pass


@pytest.fixture
async def bench(server: ToxiproxyServer) -> AsyncIterator[Bench]:
    arrivals: asyncio.Queue[Any] = asyncio.Queue()
    accepted: list[asyncio.StreamWriter] = []

    def arrived(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        arrivals.put_nowait(Ends(reader, writer))

    behind = await asyncio.start_server(arrived, "127.0.0.1", 0)
    (port,) = free_ports(1)
    upstream = f"127.0.0.1:{behind.sockets[0].getsockname()[1]}"
    await asyncio.to_thread(server.control.create, "link", listen=f"127.0.0.1:{port}", upstream=upstream)
    made = Bench(server.control, port, arrivals)
    yield made
    await asyncio.to_thread(server.control.destroy, "link")
    made.close()
    for writer in accepted:
        writer.close()
    behind.close()


async def passes(near: Ends, far: Ends) -> None:
    near.send(b"there")
    assert await far.gets(5) == b"there"
    far.send(b"back")
    assert await near.gets(4) == b"back"


# --- what toxics do ---------------------------------------------------------------------------------


async def nothing_set(bench: Bench) -> None:
    await passes(*await bench.connect())


async def disabled(bench: Bench) -> None:
    near, far = await bench.connect()
    await asyncio.to_thread(bench.control.disable, "link")
    await near.ends()
    await far.ends()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", bench.port)
    await asyncio.to_thread(bench.control.enable, "link")
    await passes(*await bench.connect())


async def swallowed_one_way(bench: Bench) -> None:
    near, far = await bench.connect()
    await bench.toxic("timeout", timeout=0)
    near.send(b"lost")
    await far.gets_nothing()
    far.send(b"back")
    assert await near.gets(4) == b"back"
    await bench.heal()
    await far.ends()  # closed, for what was lost is missing
    await passes(*await bench.connect())


async def swallowed_and_closed(bench: Bench) -> None:
    near, far = await bench.connect()
    began = time.monotonic()
    await bench.toxic("timeout", timeout=SET_MS)
    near.send(b"lost")
    await far.ends()
    assert time.monotonic() - began > QUICK


async def held_and_delivered_late(bench: Bench) -> None:
    near, far = await bench.connect()
    await bench.toxic("bandwidth", rate=0)
    near.send(b"first")
    await far.gets_nothing()
    near.send(b"second")
    far.send(b"back")
    assert await near.gets(4) == b"back"
    await bench.heal()
    assert await far.gets(11) == b"firstsecond"
    await passes(near, far)


async def held_for_who_dials_meanwhile(bench: Bench) -> None:
    await bench.toxic("bandwidth", "downstream", rate=0)
    near, far = await bench.connect()
    near.send(b"there")
    assert await far.gets(5) == b"there"
    far.send(b"back")
    await near.gets_nothing()
    await bench.heal()
    assert await near.gets(4) == b"back"


async def held_until_the_rate_is_another(bench: Bench) -> None:
    near, far = await bench.connect()
    await bench.toxic("bandwidth", rate=0)
    near.send(b"first")
    await far.gets_nothing()
    await asyncio.to_thread(bench.control.change_toxic, "link", "t", rate=1_000_000_000)
    assert await far.gets(5) == b"first"
    await passes(near, far)


async def throttled(bench: Bench) -> None:
    near, far = await bench.connect()
    await bench.toxic("bandwidth", rate=100)
    began = time.monotonic()
    near.send(bytes(60_000))
    assert await far.gets(60_000) == bytes(60_000)
    assert 0.3 < time.monotonic() - began < 10


async def delayed(bench: Bench) -> None:
    near, far = await bench.connect()
    await bench.toxic("latency", latency=SET_MS)
    began = time.monotonic()
    near.send(b"0")
    await far.gets_nothing()
    for number in range(1, 8):  # sent while the first is on its way: a delay delays, it does not slow down
        near.send(b"%d" % number)
        await asyncio.sleep(0.03)
    assert await far.gets(8) == b"01234567"
    assert QUICK < time.monotonic() - began < 4 * SET_MS / 1000
    near.send(b"last")
    await bench.heal()
    assert await far.gets(4) == b"last"


async def cut_in_slices(bench: Bench) -> None:
    near, far = await bench.connect()
    await bench.toxic("slicer", average_size=10, size_variation=2, delay=1000)
    sent = bytes(range(200))
    near.send(sent)
    pieces = []
    while sum(map(len, pieces)) < len(sent):
        pieces.append(await asyncio.wait_for(far.reader.read(1000), 5))
    assert b"".join(pieces) == sent
    assert len(pieces) > 5


async def limited(bench: Bench) -> None:
    near, far = await bench.connect()
    await bench.toxic("limit_data", bytes=7)
    near.send(b"1234")
    assert await far.gets(4) == b"1234"
    near.send(b"56789")
    assert await far.gets(3) == b"567"
    await far.ends()
    near, far = await bench.connect()  # each connection has as much
    near.send(b"123456789")
    assert await far.gets(7) == b"1234567"


async def closed_slowly(bench: Bench) -> None:
    near, far = await bench.connect()
    await bench.toxic("slow_close", delay=SET_MS)
    began = time.monotonic()
    near.send(b"last")
    near.writer.close()
    assert await far.gets(4) == b"last"
    await far.ends()
    assert time.monotonic() - began > QUICK


async def reset(bench: Bench) -> None:
    near, far = await bench.connect()
    await bench.toxic("reset_peer", timeout=0)
    near.send(b"x")
    await far.ends()
    await near.ends()
    near, far = await bench.connect()
    near.send(b"x")
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(near.reader.read(), 5)
    await bench.heal()
    await passes(*await bench.connect())


async def spared_by_chance(bench: Bench) -> None:
    await bench.toxic("timeout", toxicity=0.0, timeout=0)
    near, far = await bench.connect()
    await passes(near, far)
    await bench.heal()


async def nobody_behind(bench: Bench) -> None:
    (nobody,) = free_ports(1)
    (port,) = free_ports(1, but=[nobody])
    create = bench.control.create
    await asyncio.to_thread(create, "other", listen=f"127.0.0.1:{port}", upstream=f"127.0.0.1:{nobody}")
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)  # accepted all the same
        await Ends(reader, writer).ends()
        writer.close()
    finally:
        await asyncio.to_thread(bench.control.destroy, "other")


BEHAVIOURS: list[Callable[[Bench], Awaitable[None]]] = [
    nothing_set,
    disabled,
    swallowed_one_way,
    swallowed_and_closed,
    held_and_delivered_late,
    held_for_who_dials_meanwhile,
    held_until_the_rate_is_another,
    throttled,
    delayed,
    cut_in_slices,
    limited,
    closed_slowly,
    reset,
    spared_by_chance,
    nobody_behind,
]


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda behaviour: behaviour.__name__)
async def test_toxics_do_the_same_in_both_servers(
    bench: Bench, behaviour: Callable[[Bench], Awaitable[None]]
) -> None:
    await behaviour(bench)


# --- orders -----------------------------------------------------------------------------------------

ORDERS: list[tuple[str, str, Any, int]] = [  # Any: JSON, or a body that is none
    ("GET", "/version", None, 200),
    ("GET", "/proxies", None, 200),
    ("GET", "/proxies/none", None, 404),
    ("DELETE", "/proxies/none", None, 404),
    ("POST", "/proxies", {"name": "p"}, 400),
    ("POST", "/proxies", {"upstream": "127.0.0.1:1"}, 400),
    ("POST", "/proxies", "{", 400),
    ("POST", "/proxies", {"name": "p", "upstream": "127.0.0.1:1", "listen": "127.0.0.1:0"}, 201),
    ("POST", "/proxies", {"name": "p", "upstream": "127.0.0.1:1"}, 409),
    ("GET", "/proxies/p", None, 200),
    ("POST", "/proxies/p", {"enabled": False}, 200),
    ("PATCH", "/proxies/p", {"enabled": True}, 200),
    ("GET", "/proxies/p/toxics", None, 200),
    ("GET", "/proxies/none/toxics", None, 404),
    ("POST", "/proxies/p/toxics", {"type": "nonsense"}, 400),
    ("POST", "/proxies/p/toxics", {"type": "latency", "stream": "sideways"}, 400),
    ("POST", "/proxies/p/toxics", {"type": "latency", "attributes": {"latency": 5}}, 200),
    ("POST", "/proxies/p/toxics", {"type": "latency"}, 409),
    ("GET", "/proxies/p/toxics/latency_downstream", None, 200),
    ("GET", "/proxies/p/toxics/none", None, 404),
    ("POST", "/proxies/p/toxics/latency_downstream", {"attributes": {"latency": 7}}, 200),
    ("DELETE", "/proxies/p/toxics/latency_downstream", None, 204),
    ("DELETE", "/proxies/p/toxics/latency_downstream", None, 404),
    ("POST", "/reset", None, 204),
    ("DELETE", "/proxies/p", None, 204),
    ("GET", "/proxies/p", None, 404),
]


def test_orders_are_answered_the_same_by_both_servers(server: ToxiproxyServer) -> None:
    base = f"http://127.0.0.1:{server.control.port}"
    for method, path, body, status in ORDERS:
        sent: dict[str, Any] = {"data": body} if isinstance(body, str) else {"json": body} if body else {}
        answer = requests.request(method, base + path, timeout=5, **sent)
        assert answer.status_code == status, (method, path, body, answer.text)
        if status == 201:
            assert answer.json().keys() >= {"name", "listen", "upstream", "enabled", "toxics"}
        if status >= 400:
            assert answer.json()["status"] == status and answer.json()["error"]
    assert requests.get(base + "/version", headers={"User-Agent": "Mozilla/5"}, timeout=5).status_code == 403


def test_a_refused_order_is_readable(server: ToxiproxyServer) -> None:
    control = server.control
    with pytest.raises(ToxiproxyFault, match=r"remove t from none.*not found"):
        control.remove_toxic("none", "t")
    (port,) = free_ports(1)
    control.create("p", listen=f"127.0.0.1:{port}", upstream="127.0.0.1:1")
    try:
        with pytest.raises(ToxiproxyFault, match=r"create p.*exists"):
            control.create("p", listen="127.0.0.1:0", upstream="127.0.0.1:1")
        with pytest.raises(ToxiproxyFault, match="in use"):
            control.create("q", listen=f"127.0.0.1:{port}", upstream="127.0.0.1:1")
        control.add_toxic("p", Toxic("t", "latency", "upstream", {"latency": 5}))
        with pytest.raises(ToxiproxyFault, match="exists"):
            control.add_toxic("p", Toxic("t", "latency", "downstream", {"latency": 5}))
        seen = control.proxies()["p"]
        assert seen.enabled and [toxic["attributes"]["latency"] for toxic in seen.toxics] == [5]
    finally:
        control.destroy("p")
    assert "p" not in control.proxies()


async def test_the_report_can_tell_which_server_it_was(kind: str, server: ToxiproxyServer) -> None:
    assert server.is_real == (kind == "real")
    assert ("stand-in" in server.description) == (kind == "stand-in")
    assert server.control.version() == (tools.VERSION if kind == "real" else f"{tools.VERSION}-standin")


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ToxiproxyFault, match="does not start"):
        await ToxiproxyServer(str(tmp_path), binary="/bin/false").start()
