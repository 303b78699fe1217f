"""The control port of a program: multiplexed calls over WebSockets, and its HTTP pages. Decides no method.

GET /rpc is the wire between programs of gfs; the routes of http_methods stand beside it.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Sequence

from aiohttp import web

from gfs.errors import ConfigInvalid, Unavailable
from gfs.settings import (
    CONNECTIONS_MAX,
    FRAME_BYTES_MAX,
    HELLO_SECONDS_MAX,
    SILENCE_IDLE_SECONDS_MAX,
)
from gfs.telemetry import Metrics, logger
from gfs.tls import TlsIdentity
from gfs.transport.aiohttp_log import protocol_logger
from gfs.transport.call_tally import CallTally, ConnectionTally
from gfs.transport.dispatch import Dispatcher
from gfs.transport.frames import MESSAGE_BYTES_MAX, own_hello
from gfs.transport.http_methods import guard_routes, health_routes, method_routes, peer_node
from gfs.transport.interface import Audit, CallObserver, Gate, Handlers
from gfs.transport.program_gauges import ProgramGauges
from gfs.transport.server_connection import ServerConnection
from gfs.vocabulary import Address, split_address

_log = logger("transport")

_LISTEN_BACKLOG = 1024
_STOP_SECONDS = 1.0


class ControlServer:
    """Serves `handlers` at `address` (port 0: any free one; `.address` tells which after `start`).

    `cluster` is asked at each hello, for a fresh disk learns its cluster late. `live` and `ready` answer
    /livez and /readyz; ready gives a sentence saying why not. `gate` looks at each call before its handler.
    With `tls` nobody is served in plain text. `extra_routes` are aiohttp routes (web pages); `alongside`, a
    cleanup context of aiohttp's, goes on while they are served.
    """

    def __init__(
        self,
        address: Address,
        handlers: Handlers,
        *,
        cluster: Callable[[], str],
        role: str,
        node: str,
        metrics: Metrics,
        live: Callable[[], bool],
        ready: Callable[[], tuple[bool, str]],
        observer: CallObserver | None = None,
        gate: Gate | None = None,
        audit: Audit | None = None,
        tls: TlsIdentity | None = None,
        extra_routes: Sequence[web.AbstractRouteDef] = (),
        alongside: Callable[[web.Application], AsyncIterator[None]] | None = None,
        connections_max: int = CONNECTIONS_MAX,
        hello_seconds_max: float = HELLO_SECONDS_MAX,
        silence_seconds_max: float = SILENCE_IDLE_SECONDS_MAX,
    ) -> None:
        self.address = address
        self._cluster, self._role, self._node = cluster, role, node
        self._tls = tls
        self.calls = CallTally(metrics)
        ProgramGauges(metrics, tls)
        self._dispatcher = Dispatcher(
            handlers, role=role, tally=self.calls, observer=observer, gate=gate, audit=audit
        )
        self._connections: set[ServerConnection] = set()
        self._tally = ConnectionTally(metrics, lambda: len(self._connections))
        self._connections_max = connections_max
        self._hello_seconds_max = hello_seconds_max
        self._silence_seconds_max = silence_seconds_max
        application = web.Application(client_max_size=FRAME_BYTES_MAX, middlewares=[guard_routes])
        application.router.add_get("/rpc", self._serve_websocket)
        application.add_routes(method_routes(self._dispatcher))
        application.add_routes(health_routes(live, ready, metrics))
        application.add_routes(extra_routes)
        if alongside is not None:
            application.cleanup_ctx.append(alongside)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            logger=protocol_logger(),
            auto_decompress=False,  # a small body must not unfold into a large one
            keepalive_timeout=hello_seconds_max,
            shutdown_timeout=_STOP_SECONDS,
        )
        self._listener: asyncio.Server | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. Raises: Unavailable when the port is taken, ConfigInvalid for an impossible address."""
        assert self._listener is None, "started twice"
        host, port = split_address(self.address)
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(
                self._accept,
                host,
                port,
                backlog=_LISTEN_BACKLOG,
                reuse_address=True,
                ssl=None if self._tls is None else self._tls.server_context(),
                ssl_handshake_timeout=None if self._tls is None else self._hello_seconds_max,
            )
        except OSError as error:
            await self._runner.cleanup()
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise Unavailable(
                    f"cannot listen on {self.address}: {error.strerror}",
                    hint="Another program has this port; choose another, or stop that one.",
                ) from error
            raise ConfigInvalid(f"cannot listen on {self.address}: {error.strerror or error}") from error
        bound = self._listener.sockets[0].getsockname()[1]
        self.address = Address(f"{self.address.rpartition(':')[0]}:{bound}")
        self._watch = asyncio.create_task(self._watch_silence())

    async def stop(self) -> None:
        """Stop listening and close all connections; calls under way are cancelled."""
        if self._listener is None:
            return
        self._listener.close()
        self._listener = None
        assert self._watch is not None
        self._watch.cancel()
        for connection in list(self._connections):
            connection.end("")
        await self._runner.cleanup()

    def _accept(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        assert server is not None
        if len(server.connections) >= self._connections_max:
            self._tally.refused += 1
            if self._tally.refused == 1:
                _log.warning("connections are refused: too many are open", limit=self._connections_max)
            return _Refused()
        return server()

    async def _serve_websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(
            compress=False,  # costs far more than loopback or a data centre's network gains by it
            max_msg_size=MESSAGE_BYTES_MAX,  # checked on the length in a frame's head, before its body
            autoping=False,
            timeout=_STOP_SECONDS,
        )
        await socket.prepare(request)
        connection = ServerConnection(
            socket,
            self._dispatcher,
            own_hello(role=self._role, node=self._node, cluster=self._cluster()),
            remote=str(request.remote),
            peer_node=peer_node(request),
        )
        self._connections.add(connection)
        try:
            await connection.serve(hello_seconds_max=self._hello_seconds_max)
        finally:
            self._connections.discard(connection)
        return socket

    async def _watch_silence(self) -> None:
        """Close the connections of peers that vanished without a word, so that their slots are free."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._silence_seconds_max / 4)
            oldest = loop.time() - self._silence_seconds_max
            for connection in list(self._connections):
                if connection.heard_at < oldest:
                    connection.end("nothing was heard of the peer")


class _Refused(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()
