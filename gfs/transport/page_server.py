"""Web pages for one person on this machine: files and JSON answers on loopback. Not the port of a program.

Nothing but GET and what a page of its own asks by POST is answered, and only under the names of this machine:
a page from elsewhere, or a name from elsewhere that leads here, gets nothing.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from aiohttp import web

from gfs.errors import InvalidArgument, PermissionDenied, Unavailable
from gfs.transport.aiohttp_log import protocol_logger
from gfs.transport.http_methods import guard_routes

QUERY_BYTES_MAX = 64 * 2**10
STOP_SECONDS = 1.0

_HEADERS = {
    # A file name that was taken for markup after all could load and run nothing.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Content(NamedTuple):
    """What is at a path: a media type, and the bytes."""

    media_type: str
    body: bytes


class Asked(NamedTuple):
    """`query`: what stands behind the question mark; the last of what comes twice."""

    query: Mapping[str, str]


Answer = Callable[[Asked], Awaitable[Content]]


class PageServer:
    """`pages`: by "GET /path" or "POST /path". Errors of ours become ErrorReply as JSON, see http_methods."""

    def __init__(self, host: str, port: int, pages: Mapping[str, Answer]) -> None:
        """`port` 0: any free one. Raises: InvalidArgument unless `host` is this machine alone."""
        if not _is_loopback(host):
            raise InvalidArgument(
                f"{host} is no loopback address: these pages are for this machine alone",
                hint="127.0.0.1 or ::1 will do; from elsewhere, come by a tunnel of ssh.",
            )
        self._host, self._port = host, port
        application = web.Application(
            middlewares=[guard_routes, self._guard], client_max_size=QUERY_BYTES_MAX
        )
        for place, answer in pages.items():
            method, _, path = place.partition(" ")
            application.router.add_route(method, path, _handler(answer))
        self._runner = web.AppRunner(
            application, access_log=None, logger=protocol_logger(), shutdown_timeout=STOP_SECONDS
        )

    async def start(self) -> str:
        """Returns: where to look. Raises: Unavailable when the port is taken."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            if error.errno != errno.EADDRINUSE:
                raise
            raise Unavailable(f"port {self._port} is taken", hint="Give another with --port.") from error
        self._port = self._runner.addresses[0][1]
        return f"http://{self._netloc(self._host)}/"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def serve_for_ever(self) -> None:
        await asyncio.Event().wait()

    def _netloc(self, host: str) -> str:
        return f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}"

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        # Another site's name may be made to lead to this machine; its pages would pass for ours.
        if request.host not in (self._netloc(self._host), self._netloc("localhost")):
            raise PermissionDenied(f"nothing is served here as {request.host!r}")
        response = await handler(request)
        response.headers.update(_HEADERS)
        return response


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _handler(answer: Answer) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        content = await answer(Asked(dict(request.query)))
        charset = "utf-8" if content.media_type.startswith(("text/", "application/json")) else None
        return web.Response(body=content.body, content_type=content.media_type, charset=charset)

    return handle
