"""Gateways on ports of their own, run in threads beside the test: the one way tests start them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from gfs import aio
from gfs.client.client import AsyncClient
from gfs.client.loop_thread import LoopThread
from gfs.integrations.gateways import http_gateway, s3_gateway, webhdfs_gateway
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


def running_http(masters: str) -> AbstractContextManager[str]:
    def make(client: AsyncClient) -> GatewayServer:
        routes = http_gateway.HttpGateway(client).routes
        return GatewayServer(routes, host="127.0.0.1", port=0, refusal=http_gateway.refusal)

    return running(masters, make)


def running_s3(masters: str, keys: dict[str, str]) -> AbstractContextManager[str]:
    """`keys`: the secret of each access key."""

    def make(client: AsyncClient) -> GatewayServer:
        routes = s3_gateway.S3Gateway(client, keys).routes
        return GatewayServer(routes, host="127.0.0.1", port=0, refusal=s3_gateway.refusal, signed=True)

    return running(masters, make)


def running_webhdfs(masters: str) -> AbstractContextManager[str]:
    def make(client: AsyncClient) -> GatewayServer:
        routes = webhdfs_gateway.WebHdfsGateway(client).routes
        return GatewayServer(routes, host="127.0.0.1", port=0, refusal=webhdfs_gateway.refusal)

    return running(masters, make)
