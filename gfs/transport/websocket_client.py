"""Calls other programs over the control wire: one connection an address, made on demand. Serves nothing."""

from __future__ import annotations

import asyncio
import os
from typing import TypeVar

import aiohttp

from gfs.errors import ProtocolFault, Unauthenticated, Unavailable
from gfs.identity import system_identity
from gfs.messages.base import Identity, Reply, Request
from gfs.settings import CONNECT_SECONDS_MAX
from gfs.telemetry import trace_id
from gfs.tls import TlsIdentity, handshake_failure
from gfs.transport.client_connection import CLOSE_SECONDS, ClientConnection
from gfs.transport.dial_map import Dial, dialled_address
from gfs.transport.frames import MESSAGE_BYTES_MAX, Hello, own_hello
from gfs.vocabulary import Address

R = TypeVar("R", bound=Reply)

_TLS_HINT = "GFS_CA_FILE or client.ca_file in gfs.toml names the cluster's certificate authority."


class WebSocketCaller:
    """An RpcCaller (see interface). `cluster` may be set later: it is said at each new connection's hello.

    `identity`: on whose behalf it calls; by default of whoever runs this program. `credential` proves it.
    With `tls` it speaks to nobody but nodes of the cluster, by their certificates.

    All methods belong to one event loop, the one of the first call.
    """

    def __init__(
        self,
        role: str,
        node: str,
        cluster: str = "",
        *,
        identity: Identity | None = None,
        credential: str = "",
        tls: TlsIdentity | None = None,
        connect_seconds_max: float = CONNECT_SECONDS_MAX,
        dial: Dial = dialled_address,
    ) -> None:
        self.cluster = cluster
        self._role, self._node = role, node
        self._identity = system_identity() if identity is None else identity
        self._credential, self._tls = credential, tls
        self._connect_seconds_max = connect_seconds_max
        self._dial = dial
        self._session: aiohttp.ClientSession | None = None
        self._connections: dict[Address, ClientConnection] = {}
        self._connecting: dict[Address, asyncio.Task[ClientConnection]] = {}
        self._closed = False
        self._trace_stem = os.urandom(4).hex()
        self._traces = 0

    async def call(
        self, address: Address, request: Request, expected: type[R], *, deadline_seconds: float
    ) -> R:
        """As RpcCaller.call. Raises besides: Overloaded when too many calls were ahead of this one;
        UnsupportedVersion or WrongCluster when the peer's hello does not fit; FrameTooLarge. All definite.
        """
        connection = self._connections.get(address)
        if connection is None or connection.lost:
            started = asyncio.get_running_loop().time()
            connection = await self._connect(address, deadline_seconds)
            deadline_seconds -= asyncio.get_running_loop().time() - started
        return await connection.call(request, expected, self._trace(), deadline_seconds)

    def peer(self, address: Address) -> Hello | None:
        """What the program at `address` said of itself; None when there is no connection to it now."""
        connection = self._connections.get(address)
        return None if connection is None or connection.lost else connection.peer

    async def close(self) -> None:
        """Close all connections. Calls under way get ConnectionLost, later ones Unavailable."""
        self._closed = True
        connecting = list(self._connecting.values())
        for task in connecting:
            task.cancel()
        await asyncio.gather(*connecting, return_exceptions=True)
        await asyncio.gather(*(connection.close() for connection in self._connections.values()))
        self._connections.clear()
        if self._session is not None:
            await self._session.close()

    def _trace(self) -> str:
        trace = trace_id.get()
        if trace:
            return trace
        self._traces += 1
        return f"{self._trace_stem}{self._traces:08x}"

    async def _connect(self, address: Address, deadline_seconds: float) -> ClientConnection:
        """The one connection to `address`, made once for all calls that wait for it."""
        if self._closed:
            raise Unavailable("this program has closed its connections")
        task = self._connecting.get(address)
        if task is None:
            task = asyncio.create_task(self._open(address))
            self._connecting[address] = task
            task.add_done_callback(lambda done: self._connected(address, done))
        try:
            # Shielded: a call that gives up does not take the connection from the others.
            async with asyncio.timeout(min(deadline_seconds, self._connect_seconds_max)):
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise Unavailable(f"no connection to {address} in time") from error
        except asyncio.CancelledError as error:
            if not self._closed:
                raise
            raise Unavailable("this program has closed its connections") from error

    def _connected(self, address: Address, task: asyncio.Task[ClientConnection]) -> None:
        del self._connecting[address]
        if not task.cancelled():
            task.exception()  # whoever waited has it; all may have given up, which is no fault

    async def _open(self, address: Address) -> ClientConnection:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
            )
        try:
            async with asyncio.timeout(self._connect_seconds_max):
                socket = await self._session.ws_connect(
                    f"{'http' if self._tls is None else 'https'}://{self._dial(address)}/rpc",
                    ssl=True if self._tls is None else self._tls.client_context(),
                    autoping=False,
                    compress=0,
                    max_msg_size=MESSAGE_BYTES_MAX,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
                )
                connection = ClientConnection(socket, address)
                try:
                    if self._tls is not None:
                        self._tls.require_node(socket.get_extra_info("peercert"), cluster=self.cluster)
                    mine = own_hello(
                        role=self._role,
                        node=self._node,
                        cluster=self.cluster,
                        identity=self._identity,
                        credential=self._credential,
                    )
                    await connection.exchange_hello(mine)
                except BaseException:
                    await connection.close()
                    raise
        except aiohttp.WSServerHandshakeError as error:
            raise ProtocolFault(f"{address} is not a gfs control port (HTTP {error.status})") from error
        except (aiohttp.ClientError, OSError, TimeoutError, UnicodeError) as error:
            if problem := _tls_problem(error, self._tls):
                raise Unauthenticated(f"no connection to {address}: {problem}", hint=_TLS_HINT) from error
            number = getattr(error, "errno", None) or 0  # negative: of the resolver, whose words are its own
            words = getattr(error, "strerror", None) or type(error).__name__
            reason = os.strerror(number) if number > 0 else words
            if self._tls is None and isinstance(error, aiohttp.ServerDisconnectedError):
                reason = f"it hung up at once; perhaps it wants TLS, and {_TLS_HINT}"
            raise Unavailable(f"no connection to {address}: {reason}") from error
        self._connections[address] = connection
        return connection


def _tls_problem(error: BaseException, tls: TlsIdentity | None) -> str:
    """In words, when it was TLS that did not fit; else empty."""
    cause: BaseException | None = error
    while cause is not None:
        if tls is not None and (problem := handshake_failure(cause)):
            return problem
        cause = cause.__cause__ or cause.__context__ or getattr(cause, "os_error", None)
    return ""
