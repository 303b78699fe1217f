"""Programs of one test connected in memory, with the wire's faults on demand. No sockets, any clock.

Requests and replies cross as bytes, so that what the real wire would refuse is refused here too.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import NamedTuple, TypeVar

from gfs.clock import Clock, SystemClock
from gfs.errors import ConnectionLost, DeadlineExceeded, GfsError, Unavailable
from gfs.messages.base import ErrorReply, Reply, Request
from gfs.telemetry import new_trace_id, trace_id
from gfs.transport.dispatch import Dispatcher, take_reply
from gfs.transport.frames import (
    Answer,
    Call,
    encode_frame,
    error_reply,
    join_frames,
    raw_request_decoder,
    reply_decoder,
)
from gfs.transport.interface import CallContext, Handlers
from gfs.vocabulary import Address

R = TypeVar("R", bound=Reply)


class SeenCall(NamedTuple):
    caller: str
    server: str
    request: Request


class _Link:
    """What lies between two programs, the same in both directions."""

    def __init__(self) -> None:
        self.cut = False
        self.delay_seconds = 0.0
        self.requests_to_drop = 0
        self.replies_to_drop = 0


class FakeNetwork:
    """All links between named programs. A server is named by `name`, or else by its address.

    `seen` holds every request that reached a server, in order.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or SystemClock()
        self.seen: list[SeenCall] = []
        self.servers: dict[Address, FakeServer] = {}
        self.links: dict[frozenset[str], _Link] = {}
        self.exchanges: dict[asyncio.Task[bytes], frozenset[str]] = {}  # open calls and whom they connect

    def server(self, address: str, handlers: Handlers, *, name: str = "", role: str = "server") -> FakeServer:
        """A program that answers at `address` from now on, until its `stop()`."""
        server = FakeServer(self, Address(address), handlers, name=name or address, role=role)
        server.serve()
        return server

    def caller(self, name: str) -> FakeCaller:
        return FakeCaller(self, name)

    def cut(self, one: str, other: str) -> None:
        """Break the link: what is in flight is lost with the connection, new calls find nobody."""
        self._link(one, other).cut = True
        self.lose_calls(frozenset((one, other)))

    def isolate(self, name: str) -> None:
        """Cut `name` off from every server, and from everyone it was ever linked to."""
        others = {server.name for server in self.servers.values()}
        others |= {end for ends in self.links for end in ends} | {call.caller for call in self.seen}
        for other in sorted(others - {name}):
            self.cut(name, other)

    def heal(self, one: str, other: str) -> None:
        """The link is as new: no cut, no delay, nothing dropped."""
        self.links.pop(frozenset((one, other)), None)

    def heal_all(self) -> None:
        self.links.clear()

    def delay(self, one: str, other: str, seconds: float) -> None:
        """Each message on the link takes `seconds` of the network's clock, each way."""
        self._link(one, other).delay_seconds = seconds

    def drop(self, one: str, other: str, *, requests: int = 0, replies: int = 0) -> None:
        """Lose the next messages on the link without a trace: only a deadline ends those calls."""
        link = self._link(one, other)
        link.requests_to_drop += requests
        link.replies_to_drop += replies

    def lose_calls(self, ends: frozenset[str]) -> None:
        """End every open call between programs that include all of `ends` as a broken connection does."""
        for exchange, between in self.exchanges.items():
            if ends <= between:
                exchange.cancel()

    def link(self, one: str, other: str) -> _Link:
        return self.links.get(frozenset((one, other))) or _Link()

    def _link(self, one: str, other: str) -> _Link:
        return self.links.setdefault(frozenset((one, other)), _Link())


class FakeServer:
    """One program's methods at one address."""

    def __init__(
        self, network: FakeNetwork, address: Address, handlers: Handlers, *, name: str, role: str
    ) -> None:
        self.address = address
        self.name = name
        self.dispatcher = Dispatcher(handlers, role=role)
        self._network = network

    def serve(self) -> None:
        assert self.address not in self._network.servers, f"{self.address} is already taken"
        self._network.servers[self.address] = self

    async def start(self) -> None:
        self.serve()

    async def stop(self) -> None:
        """Go away as a killed program does: open calls are lost, and their handlers cancelled."""
        if self._network.servers.pop(self.address, None) is not None:
            self._network.lose_calls(frozenset((self.name,)))


class FakeCaller:
    """A `gfs.transport.interface.RpcCaller` for the program `name`."""

    def __init__(self, network: FakeNetwork, name: str) -> None:
        self.name = name
        self._network = network
        self._next_id = 0
        self._closed = False

    async def call(
        self, address: Address, request: Request, expected: type[R], *, deadline_seconds: float
    ) -> R:
        server = self._network.servers.get(address)
        if self._closed:
            raise Unavailable(f"{self.name} has closed its connections")
        if server is None or self._network.link(self.name, server.name).cut:
            raise Unavailable(f"no connection from {self.name} to {address}")
        self._next_id += 1
        trace = trace_id.get() or new_trace_id()
        message = join_frames([encode_frame(Call(self._next_id, deadline_seconds, trace, request))])
        # An empty context: a handler sees nothing of its caller but what the wire carries.
        exchange = asyncio.create_task(self._exchange(server, message), context=contextvars.Context())
        alarm = asyncio.create_task(self._network.clock.sleep(deadline_seconds))
        self._network.exchanges[exchange] = frozenset((self.name, server.name))
        try:
            await asyncio.wait({exchange, alarm}, return_when=asyncio.FIRST_COMPLETED)
            if not exchange.done():
                raise DeadlineExceeded(f"{address} did not answer within {deadline_seconds} s")
            if exchange.cancelled():
                raise ConnectionLost(f"the connection from {self.name} to {address} broke")
            frame = reply_decoder((expected, ErrorReply)).decode(exchange.result())[0]
            assert isinstance(frame, Answer)
            return take_reply(frame.reply, expected, address)
        finally:
            exchange.cancel()
            alarm.cancel()
            del self._network.exchanges[exchange]

    async def close(self) -> None:
        """Closing breaks what is in flight."""
        self._closed = True
        for exchange, between in self._network.exchanges.items():
            if self.name in between:
                exchange.cancel()

    async def _exchange(self, server: FakeServer, message: bytes) -> bytes:
        """Carry one message there and its answer back, over a link that may lose or delay either."""
        link = self._network.link(self.name, server.name)
        await self._cross(link)
        if link.requests_to_drop > 0:
            link.requests_to_drop -= 1
            await _never()
        frame = raw_request_decoder.decode(message)[0]
        assert isinstance(frame, Call)
        try:
            request = server.dispatcher.decode(frame.request)
            self._network.seen.append(SeenCall(self.name, server.name, request))
            context = CallContext(self.name, frame.trace, frame.seconds_left)
            reply = await server.dispatcher.answer(request, context)
            answer = encode_frame(Answer(frame.id, reply))
        except GfsError as error:
            answer = encode_frame(Answer(frame.id, error_reply(error)))
        link = self._network.link(self.name, server.name)
        if link.replies_to_drop > 0:
            link.replies_to_drop -= 1
            await _never()
        await self._cross(link)
        return join_frames([answer])

    async def _cross(self, link: _Link) -> None:
        if link.delay_seconds > 0:
            await self._network.clock.sleep(link.delay_seconds)


async def _never() -> None:
    await asyncio.get_running_loop().create_future()
