"""Calls between simulated programs: as bytes over the links; deadlines, cancellation, broken connections.

Requests and replies are encoded and decoded as on the real wire; handlers run as work of the node they are
on. There is no hello: all programs of a simulation are of one cluster and one version.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from chaos.simulation.network import HARNESS, Network
from chaos.simulation.world import life
from gfs.errors import ConnectionLost, DeadlineExceeded, GfsError, Unavailable
from gfs.identity import system_identity
from gfs.messages.base import ErrorReply, Identity, Reply, Request
from gfs.telemetry import new_trace_id, trace_id
from gfs.transport.dispatch import Dispatcher, take_reply
from gfs.transport.frames import (
    Answer,
    Call,
    Hello,
    encode_frame,
    error_reply,
    join_frames,
    raw_request_decoder,
    reply_decoder,
)
from gfs.transport.interface import CallContext, Handlers
from gfs.transport.websocket_client import WebSocketCaller
from gfs.transport.websocket_server import ControlServer
from gfs.vocabulary import Address

R = TypeVar("R", bound=Reply)


class Exchange:
    """The calls under way, and who answers at which address."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.servers: dict[Address, SimulatedControlServer] = {}
        self.open: dict[int, OpenCall] = {}
        self.numbers = 0
        self.on_answered: Callable[[str, Request, Reply], None] = lambda node, request, reply: None
        network.on_broken.append(self.lose)

    def lose(self, one: str, other: str) -> None:
        for call in list(self.open.values()):
            if {call.source, call.target} == {one, other}:
                call.break_off()

    def died(self, node: str, *, silently: bool) -> None:
        for address in [address for address, server in self.servers.items() if server.node == node]:
            del self.servers[address]
        for call in list(self.open.values()):
            if call.source == node or (call.target == node and not silently):
                call.break_off()


# One process runs one simulation at a time, and programs make their wires themselves.
_exchange: contextvars.ContextVar[Exchange] = contextvars.ContextVar("exchange")


def use(exchange: Exchange) -> None:
    """Of all programs that are started from this context."""
    _exchange.set(exchange)


def node_of(address: str) -> str:
    return address.rpartition(":")[0]


class OpenCall:
    def __init__(self, number: int, source: str, target: str, answer: asyncio.Future[bytes]) -> None:
        self.number, self.source, self.target, self.answer = number, source, target, answer
        self.handler: asyncio.Task[None] | None = None
        self.context = contextvars.copy_context()

    def break_off(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(self._broken, context=self.context)
        if self.handler is not None:
            self.handler.cancel()

    def _broken(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(ConnectionLost(f"the connection to {self.target} broke"))

    def answered(self, message: bytes) -> None:
        """Told by the network, in no node's name: a future wakes whoever waits as work of its own node."""
        if not self.answer.done():
            self.answer.set_result(message)

    def late(self, address: Address, seconds: float) -> None:
        if not self.answer.done():
            self.answer.set_exception(DeadlineExceeded(f"{address} did not answer within {seconds:.3g} s"))


class SimulatedCaller(WebSocketCaller):
    def __init__(
        self,
        role: str,
        node: str,
        cluster: str = "",
        *,
        identity: Identity | None = None,
        **_: Any,  # Any: what only sockets need
    ) -> None:
        self.cluster = cluster
        self._exchange = _exchange.get()
        here = life.get()
        self._here = HARNESS if here is None else here.node
        self._peer_name = f"{role}:{node}"
        self._identity = system_identity() if identity is None else identity
        self._closed = False

    async def call(
        self, address: Address, request: Request, expected: type[R], *, deadline_seconds: float
    ) -> R:
        exchange, target = self._exchange, node_of(address)
        network = exchange.network
        server = exchange.servers.get(address)
        if self._closed:
            raise Unavailable(f"{self._here} has closed its connections")
        if server is None or network.is_cut(self._here, target):
            await asyncio.sleep(network.latency(network.link(self._here, target), 0))
            raise Unavailable(f"no connection from {self._here} to {address}")
        trace = trace_id.get() or new_trace_id()
        exchange.numbers += 1
        message = join_frames([encode_frame(Call(exchange.numbers, deadline_seconds, trace, request))])
        loop = asyncio.get_running_loop()
        call = OpenCall(exchange.numbers, self._here, target, loop.create_future())
        exchange.open[call.number] = call
        peer, identity = self._peer_name, self._identity
        network.send(self._here, target, len(message), lambda: server.arrive(call, message, peer, identity))
        timer = loop.call_later(deadline_seconds, call.late, address, deadline_seconds)
        answered = False
        try:
            answer = await call.answer
            answered = True
        finally:
            timer.cancel()
            exchange.open.pop(call.number, None)
            if not answered:
                network.send(self._here, target, 0, lambda: _cancel(call))
        frame = _decoder_of(expected).decode(answer)[0]
        assert isinstance(frame, Answer)
        return take_reply(frame.reply, expected, address)

    def peer(self, address: Address) -> Hello | None:
        return None

    async def close(self) -> None:
        self._closed = True
        for call in list(self._exchange.open.values()):
            if call.source == self._here and self._here != HARNESS:
                call.break_off()


@cache
def _decoder_of(expected: type[Reply]) -> Any:  # Any: as reply_decoder has it
    return reply_decoder((expected, ErrorReply))


def _cancel(call: OpenCall) -> None:
    if call.handler is not None:
        call.handler.cancel()


class SimulatedControlServer(ControlServer):
    def __init__(
        self,
        address: Address,
        handlers: Handlers,
        *,
        role: str,
        ready: Callable[[], tuple[bool, str]],
        **_: Any,  # Any: what only sockets need
    ) -> None:
        here = life.get()
        assert here is not None
        self.address, self.node, self.ready = address, here.node, ready
        self._process = here
        self._dispatcher = Dispatcher(handlers, role=role)
        self._exchange = _exchange.get()

    async def start(self) -> None:
        self._context = contextvars.copy_context()
        self._exchange.servers[self.address] = self

    async def stop(self) -> None:
        if self._exchange.servers.pop(self.address, None) is not None:
            self._exchange.died(self.node, silently=False)

    def arrive(self, call: OpenCall, message: bytes, peer: str, identity: Identity) -> None:
        if self._exchange.servers.get(self.address) is self:
            answering = self._answer(call, message, peer, identity)
            handler = asyncio.get_running_loop().create_task(answering, context=self._context.copy())
            if self._process.paused is None:
                call.handler = handler
            # Else it goes on where it stood still: it reads the request, and begins, before it reads more.

    async def _answer(self, call: OpenCall, message: bytes, peer: str, identity: Identity) -> None:
        frame = raw_request_decoder.decode(message)[0]
        assert isinstance(frame, Call)
        reply: Reply
        try:
            request = self._dispatcher.decode(frame.request)
            context = CallContext(peer, frame.trace, frame.seconds_left, identity)
            reply = await self._dispatcher.answer(request, context)
            self._exchange.on_answered(self.node, request, reply)
        except GfsError as error:
            reply = error_reply(error)
        answer = join_frames([encode_frame(Answer(frame.id, reply))])
        self._exchange.network.send(self.node, call.source, len(answer), lambda: call.answered(answer))
