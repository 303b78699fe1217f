"""Links keep what is wrong with them, also over a proxy server that hangs or dies, until they are healed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chaos.toxiproxy import control
from chaos.toxiproxy.links import Links
from chaos.toxiproxy.server import ToxiproxyServer
from gfs.vocabulary import Address
from tests.waiting import eventually

pytestmark = pytest.mark.processes


class World:
    """Two nodes that dial each other, and somebody who listens for both and answers each byte."""

    def __init__(self, links: Links, listens: str) -> None:
        self.links, self.listens = links, listens
        self.replaced: list[str] = []

    async def add(self, source: str, target: str) -> None:
        await self.links.add([(source, target, "control", Address(self.listens))])

    async def answers(self, source: str, seconds: float = 0.3) -> bool:
        """Whether a byte from `source` comes back in time."""
        (dialled,) = self.links.book_of(source).values()
        host, _, port = dialled.rpartition(":")
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            return False
        try:
            writer.write(b"x")
            async with asyncio.timeout(seconds):
                return await reader.read(1) == b"x"
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    behind = await asyncio.start_server(echo, "127.0.0.1", 0)
    replaced: list[str] = []
    links = Links(ToxiproxyServer(str(tmp_path)), replaced.append)
    await links.start()
    made = World(links, f"127.0.0.1:{behind.sockets[0].getsockname()[1]}")
    made.replaced = replaced
    await made.add("m1", "m2")
    await made.add("m2", "m1")
    yield made
    await links.stop()
    behind.close()


async def test_a_cut_concerns_both_ways_of_dialling_and_no_other_pair(world: World) -> None:
    await world.add("c1", "m1")
    await world.links.cut("m1", "m2")
    assert not await world.answers("m1") and not await world.answers("m2")
    assert await world.answers("c1")
    await world.links.heal("m2", "m1")
    assert await world.answers("m1") and await world.answers("m2")


@pytest.mark.parametrize("kind, attribute", [("timeout", "timeout"), ("bandwidth", "rate")])
async def test_what_one_sends_is_spoilt_whoever_has_dialled(world: World, kind: str, attribute: str) -> None:
    await world.links.poison("m1", "m2", kind, **{attribute: 0})
    spoilt = {
        (seen.name, toxic["stream"])
        for seen in world.links.server.control.proxies().values()
        for toxic in seen.toxics
    }
    assert spoilt == {("m1.m2.control", "upstream"), ("m2.m1.control", "downstream")}
    assert not await world.answers("m1") and not await world.answers("m2")
    await world.links.heal_all()
    assert not any(seen.toxics for seen in world.links.server.control.proxies().values())
    assert await world.answers("m1") and await world.answers("m2")


async def test_a_link_that_comes_while_its_pair_is_cut_is_cut_too(world: World) -> None:
    await world.links.cut("c1", "m1")
    await world.add("c1", "m1")
    assert not await world.answers("c1")
    await world.links.heal("c1", "m1")
    assert await world.answers("c1")


async def test_links_of_a_node_that_has_gone_are_gone(world: World) -> None:
    await world.links.remove_all_of("m2")
    assert len(world.links) == 0
    assert not world.links.server.control.proxies()


async def test_a_server_that_hangs_on_an_order_is_replaced_by_one_that_has_it_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.add("c1", "m1")
    await world.links.cut("m1", "m2")
    monkeypatch.setattr(control, "ANSWER_SECONDS_MAX", 1.0)
    os.kill(world.links.server.process_id, signal.SIGSTOP)
    await asyncio.gather(
        world.links.poison("c1", "m1", "bandwidth", rate=0),
        world.links.poison("m2", "m1", "latency", latency=1),
    )
    assert world.links.restarts == len(world.replaced) == 1
    monkeypatch.undo()
    assert not await world.answers("m1") and not await world.answers("c1")
    seen = world.links.server.control.proxies()
    assert not seen["m1.m2.control"].enabled
    assert [toxic["type"] for toxic in seen["c1.m1.control"].toxics] == ["bandwidth"]
    await world.links.heal_all()
    assert await world.answers("m1") and await world.answers("c1")


async def test_a_server_that_dies_is_replaced_although_nobody_orders_anything(world: World) -> None:
    os.kill(world.links.server.process_id, signal.SIGKILL)

    async def back() -> bool | None:
        return True if world.links.restarts and await world.answers("m1") else None

    await eventually(back, "the links are back")
    assert world.replaced == ["its process has ended"]


async def test_a_reset_ends_connections_and_passes(world: World) -> None:
    (dialled,) = world.links.book_of("m1").values()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(dialled.rpartition(":")[2]))
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    await world.links.reset("m1", "m2")
    async with asyncio.timeout(5):
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
    writer.close()

    async def again() -> bool | None:
        return True if await world.answers("m1") else None

    await eventually(again, "the link passes bytes again")
