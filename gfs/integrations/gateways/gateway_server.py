"""What all gateways share: the port, who may come in, limits, bodies in both directions. No verbs.

A gateway does everything as the user it connects as; who may use it is decided at its door. On loopback
everybody on this machine may; elsewhere a secret is needed that each request shows.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import hmac
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from urllib.parse import urlsplit

from aiohttp import web

from gfs.client.file import AsyncReader
from gfs.errors import (
    ConnectionLost,
    DeadlineExceeded,
    GfsError,
    InternalFault,
    InvalidArgument,
    NotFound,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from gfs.settings import GATEWAY_REQUESTS_MAX, GATEWAY_STALL_SECONDS
from gfs.telemetry import logger
from gfs.transport.aiohttp_log import protocol_logger
from gfs.vocabulary import MIB

BLOCK_BYTES = 4 * MIB  # asked of the cluster, and given to the caller, at once
LINE_BYTES_MAX = 64 * 2**10  # of a request's first line: paths may be long
STOP_SECONDS = 2.0

_log = logger("gateway")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Refusal = Callable[[GfsError], web.Response]


class GatewayServer:
    """One port. Errors of ours, and those of requests we do not understand, are answered by `refusal`."""

    def __init__(
        self,
        routes: Sequence[web.RouteDef],
        *,
        host: str,
        port: int,
        refusal: Refusal,
        secret: str = "",
        encryption: ssl.SSLContext | None = None,
        signed: bool = False,
        plain: bool = False,
    ) -> None:
        """`port` 0: any free one. `secret`: what every request must show, see _shown_secret(); "": nothing.

        `signed`: the handlers check a signature of every request themselves, and nothing else is asked for.

        `plain`: whoever starts it says by name that bodies and secrets may go over the network unencrypted.

        Raises: InvalidArgument for a host beyond this machine with neither secret nor signatures, or, unless
            `plain`, without encryption.
        """
        if not _is_loopback(host):
            _check_open_to_others(host, known=bool(secret) or signed, unread=encryption is not None or plain)
        self._host, self._port = host, port
        self._secret, self._signed = secret.encode(), signed
        self._encryption = encryption
        self._refusal = refusal
        self._under_way = 0
        application = web.Application(middlewares=[self._guard])
        application.add_routes(routes)
        application.on_response_prepare.append(_forbid_guessing)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            logger=protocol_logger(),
            shutdown_timeout=STOP_SECONDS,
            max_line_size=LINE_BYTES_MAX,
            handler_cancellation=True,
        )

    async def start(self) -> str:
        """Returns: the gateway's URL, no slash at its end. Raises: Unavailable when the port is taken."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port, ssl_context=self._encryption)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            if error.errno != errno.EADDRINUSE:
                raise Unavailable(f"cannot listen on {self._host}: {error.strerror}") from error
            raise Unavailable(f"port {self._port} is taken", hint="Give another with --port.") from error
        self._port = self._runner.addresses[0][1]
        return f"{'https' if self._encryption else 'http'}://{self._netloc(self._host)}"

    async def stop(self) -> None:
        """Requests under way may end within STOP_SECONDS."""
        await self._runner.cleanup()

    def _netloc(self, host: str) -> str:
        return f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}"

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._check_caller(request)
            if self._under_way >= GATEWAY_REQUESTS_MAX:
                raise Overloaded(f"{GATEWAY_REQUESTS_MAX} requests are under way already; try again soon")
            self._under_way += 1
            try:
                response = await handler(request)
            finally:
                self._under_way -= 1
        except GfsError as error:
            response = self._refused(request, error)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            kind = NotFound if error.status == 404 else InvalidArgument
            response = self._refused(request, kind(f"{request.method} {request.path}: {error.reason}"))
            response.set_status(error.status)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except (ConnectionError, asyncio.CancelledError):
            raise  # the caller has gone
        except Exception:
            _log.exception("a request failed unexpectedly", method=request.method, path=request.path)
            fault = InternalFault(f"{request.method} {request.path} failed; the gateway's log tells why")
            response = self._refused(request, fault)
        return response

    def _refused(self, request: web.Request, error: GfsError) -> web.Response:
        response = self._refusal(error)
        if isinstance(error, Unauthenticated):
            response.headers["WWW-Authenticate"] = 'Basic realm="gfs", charset="UTF-8"'
        if request.can_read_body:
            response.force_close()  # what is left of the body is nothing we want to read
        return response

    def _check_caller(self, request: web.Request) -> None:
        """Raises: PermissionDenied for a page of another site in a browser; Unauthenticated."""
        if self._signed:
            return
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            raise PermissionDenied(f"a page of {origin} may not call {request.host}")
        if self._secret:
            if not hmac.compare_digest(_shown_secret(request).encode(), self._secret):
                raise Unauthenticated(
                    "the request does not show the gateway's secret",
                    hint="Send 'Authorization: Bearer SECRET', or it as the password of any user.",
                )
        elif request.host not in (self._netloc(self._host), self._netloc("localhost")):
            # Another site's name may be made to lead to this machine; its pages would pass for ours.
            raise PermissionDenied(f"nothing is served here as {request.host!r}")


async def _forbid_guessing(_: web.Request, response: web.StreamResponse) -> None:
    # A browser that took stored bytes for a page would run what is in it.
    response.headers["X-Content-Type-Options"] = "nosniff"


def _shown_secret(request: web.Request) -> str:
    """A bearer token, or the password of basic authentication, as browsers and WebHDFS clients send it."""
    kind, _, value = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return _password(value)
        except ValueError:
            return ""
    return ""


def _password(encoded: str) -> str:
    return base64.b64decode(encoded, validate=True).decode().partition(":")[2]


def _check_open_to_others(host: str, *, known: bool, unread: bool) -> None:
    if not known:
        raise InvalidArgument(
            f"{host} can be reached from elsewhere, and nothing says who may use the gateway",
            hint="Give --secret-file FILE with a secret that clients show, or listen on 127.0.0.1.",
        )
    if not unread:
        raise InvalidArgument(
            f"{host} can be reached from elsewhere, and what is sent could be read on its way",
            hint="Give --certificate and --key, or say --plain where the network is yours alone or a proxy "
            "in front speaks TLS.",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def blocks_of_body(request: web.Request, *, framing: str = "identity") -> AsyncIterator[bytes]:
    """What the caller sends, as it comes. `framing`: a content encoding that the caller of this takes off.

    Raises: DeadlineExceeded when nothing comes for GATEWAY_STALL_SECONDS; ConnectionLost when it ends early.
    """
    if request.headers.get("Content-Encoding", "identity") not in ("identity", framing):
        raise InvalidArgument("the body is compressed on its way; send it plain")
    try:
        while True:
            async with asyncio.timeout(GATEWAY_STALL_SECONDS):
                block = await request.content.readany()
            if not block:
                return
            yield block
    except TimeoutError as error:
        raise DeadlineExceeded(f"nothing of the body came for {GATEWAY_STALL_SECONDS:.0f} s") from error
    except (web.RequestPayloadError, ConnectionError) as error:
        raise ConnectionLost("the connection broke before the whole body was here") from error


async def send_range(
    request: web.Request, response: web.StreamResponse, file: AsyncReader, first: int, length_bytes: int
) -> None:
    """Send bytes of `file` as the body of `response`, whose headers say how many.

    What fails after the headers breaks the connection, so that nobody takes a part for the whole.
    """
    file.seek(first)
    # The first block before the headers: what cannot be read at all is answered with an error, not a break.
    views = await file.read_views(min(BLOCK_BYTES, length_bytes))
    response.content_length = length_bytes
    await response.prepare(request)
    assert request.transport is not None
    request.transport.set_write_buffer_limits(
        high=0
    )  # what write() has taken is the kernel's when it returns
    left = length_bytes
    try:
        while left:
            if not views:
                raise ConnectionLost(f"{request.path} became shorter while it was read")
            for view in views:
                async with asyncio.timeout(GATEWAY_STALL_SECONDS):
                    await response.write(view)
                left -= len(view)
            views = await file.read_views(min(BLOCK_BYTES, left)) if left else []
        await response.write_eof()
    except (GfsError, TimeoutError) as error:
        _log.warning("a body was broken off", path=request.path, reason=str(error))
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError(str(error)) from error
