"""Servers and rude peers for the tests of the control wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from gfs.messages.base import PROTO_VERSION, PROTO_VERSION_MIN, Ping
from gfs.telemetry import Metrics
from gfs.transport.dispatch import answer_ping
from gfs.transport.frames import Frame, Hello, encode_frame, join_frames, raw_reply_decoder
from gfs.transport.interface import Handlers
from gfs.transport.websocket_server import ControlServer
from gfs.vocabulary import Address, split_address

HELLO = Hello(PROTO_VERSION_MIN, PROTO_VERSION, "client", "c1")


def make_server(
    handlers: Handlers | None = None,
    *,
    address: str = "127.0.0.1:0",
    cluster: str = "",
    metrics: Metrics | None = None,
    live: Callable[[], bool] = lambda: True,
    ready: Callable[[], tuple[bool, str]] = lambda: (True, ""),
    **limits: Any,  # Any: whatever limits ControlServer takes
) -> ControlServer:
    return ControlServer(
        Address(address),
        handlers or {Ping: answer_ping},
        cluster=lambda: cluster,
        role="master",
        node="m1",
        metrics=metrics or Metrics(),
        live=live,
        ready=ready,
        **limits,
    )


@asynccontextmanager
async def running(server: ControlServer) -> AsyncIterator[ControlServer]:
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def tcp(address: Address) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection, for bytes no client of ours would send."""
    reader, writer = await asyncio.open_connection(*split_address(address))
    try:
        yield reader, writer
    finally:
        writer.close()


@asynccontextmanager
async def websocket(address: Address) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A WebSocket to /rpc that has not said hello."""
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(f"http://{address}/rpc") as socket:
            yield socket


def message(*frames: Frame) -> bytes:
    return join_frames([encode_frame(frame) for frame in frames])


async def next_frames(socket: aiohttp.ClientWebSocketResponse) -> list[Any]:
    """The frames of the next message; replies in them stay undecoded. Any: a test knows what it expects."""
    return list(raw_reply_decoder.decode(await asyncio.wait_for(socket.receive_bytes(), 5)))


async def greeted(socket: aiohttp.ClientWebSocketResponse) -> None:
    await socket.send_bytes(message(HELLO))
    (hello,) = await next_frames(socket)
    assert isinstance(hello, Hello)
