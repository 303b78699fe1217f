"""What all gateways share: limits, stalled bodies, and bodies that cannot be sent to their end."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from urllib.parse import SplitResult, urlsplit

import pytest
import requests
from aiohttp import web

import gfs
from gfs.client.file import AsyncReader
from gfs.client.loop_thread import LoopThread
from gfs.errors import DataUnavailable
from gfs.integrations.gateways import gateway_server, http_gateway
from gfs.integrations.gateways.gateway_server import GatewayServer, send_range
from tests.integrations.gateways import running_http

FIRST_BLOCK = 1000
WIRE_SECONDS = 60.0


@pytest.fixture
def gateway(masters: str) -> Iterator[str]:
    with running_http(masters) as url:
        yield url


@contextmanager
def half_a_put(url: SplitResult) -> Iterator[socket.socket]:
    """A PUT of which the second half does not come."""
    assert url.hostname is not None
    with socket.create_connection((url.hostname, url.port or 0), timeout=WIRE_SECONDS) as wire:
        head = f"PUT {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: 2000\r\n"
        wire.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
        assert wire.recv(1000).startswith(b"HTTP/1.1 100")  # the gateway waits for the body
        wire.sendall(b"x" * 1000)
        yield wire


def test_request_beyond_the_limit_is_refused_until_another_ends(
    gateway: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_server, "GATEWAY_REQUESTS_MAX", 1)
    with half_a_put(urlsplit(f"{gateway}/v1/fs/slow")) as wire:
        refused = requests.get(f"{gateway}/v1/fs/")
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
        wire.sendall(b"x" * 1000)
        assert wire.recv(1000).startswith(b"HTTP/1.1 201")
    assert requests.get(f"{gateway}/v1/fs/slow").content == b"x" * 2000


def test_body_that_stalls_is_given_up_and_leaves_nothing(
    gateway: str, masters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_server, "GATEWAY_STALL_SECONDS", 0.2)
    with half_a_put(urlsplit(f"{gateway}/v1/fs/stalled")) as wire:
        assert wire.recv(1000).startswith(b"HTTP/1.1 504")
    with gfs.connect(masters) as client:
        assert not [name for name in client.listdir("/") if "stalled" in name]


class DamagedFile:
    """Its first block can be read, the next one not."""

    def __init__(self) -> None:
        self.reads = 0

    def seek(self, offset: int) -> int:
        return offset

    async def read_views(self, length_bytes: int) -> list[memoryview]:
        self.reads += 1
        if self.reads > 1:
            raise DataUnavailable("no good replica is left")
        return [memoryview(b"x" * FIRST_BLOCK)]


def test_body_that_cannot_be_sent_to_its_end_is_broken_off() -> None:
    async def damaged(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await send_range(request, response, cast(AsyncReader, DamagedFile()), 0, 3 * FIRST_BLOCK)
        return response

    thread = LoopThread()
    server = GatewayServer(
        [web.get("/damaged", damaged)], host="127.0.0.1", port=0, refusal=http_gateway.refusal
    )
    url = thread.run(server.start())
    try:
        # Nobody may take the first block for the whole file.
        with pytest.raises(requests.exceptions.RequestException, match="IncompleteRead"):
            requests.get(f"{url}/damaged", timeout=WIRE_SECONDS)
    finally:
        thread.run(server.stop())
        thread.stop()
