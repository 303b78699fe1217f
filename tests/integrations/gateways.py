"""A gateway on a port of its own, run in a thread beside the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gfs import aio
from gfs.client.client import AsyncClient
from gfs.client.loop_thread import LoopThread
from gfs.integrations.gateways.gateway_server import GatewayServer


@contextmanager
def running(masters: str, make: Callable[[AsyncClient], GatewayServer]) -> Iterator[str]:
    """Yields the gateway's URL, without a slash at its end."""
    thread = LoopThread()
    client = thread.run(aio.connect(masters))
    try:
        server = make(client)
        url = thread.run(server.start())
        try:
            yield url
        finally:
            thread.run(server.stop())
    finally:
        thread.run(client.close())
        thread.stop()
