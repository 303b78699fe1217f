"""What lies between nodes: links that can be hurt one way, streams over them, and who answers where.

All wires share the links: the Raft streams of masters (here), calls (`control`) and bulk bytes (`bulk`).
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

from chaos.simulation.world import Life, World, life

HARNESS = "harness"  # where clients are that nobody named
LATENCY_SECONDS = (0.001, 0.006)  # one way, of whatever is not hurt; slow links make runs cheap, too


class Link:
    """One direction between two nodes."""

    def __init__(self) -> None:
        self.cut = self.dropping = self.holding = False
        self.delay_seconds = self.jitter_seconds = 0.0
        self.bytes_per_second = 0
        self.bytes_left: int | None = None  # until connections break
        self.held: list[tuple[int, Callable[[], None]]] = []
        self.arrives_at = 0.0

    @property
    def swallows(self) -> bool:
        return self.cut or self.dropping


class Network:
    def __init__(self, loop: World) -> None:
        self.loop = loop
        self.latency_seconds = LATENCY_SECONDS
        self._links: dict[tuple[str, str], Link] = {}
        self.streams: list[Stream] = []
        self.listeners: dict[str, tuple[Callable[[], asyncio.Protocol], contextvars.Context, Life]] = {}
        self.on_broken: list[Callable[[str, str], None]] = []  # told of both ends of what breaks
        loop.wires = self

    def link(self, source: str, target: str) -> Link:
        found = self._links.get((source, target))
        if found is None:
            found = self._links[source, target] = Link()
        return found

    def is_cut(self, one: str, other: str) -> bool:
        return self.link(one, other).cut or self.link(other, one).cut

    def latency(self, link: Link, length: int) -> float:
        chance = self.loop.chance
        seconds = chance.uniform(*self.latency_seconds) + link.delay_seconds
        if link.jitter_seconds:
            seconds += chance.uniform(0, link.jitter_seconds)
        if link.bytes_per_second:
            seconds += length / link.bytes_per_second
        return seconds

    def send(self, source: str, target: str, length: int, arrive: Callable[[], None]) -> None:
        """Have `arrive` called, in no node's name, when `length` bytes have come over the link, in order.

        Or never.
        """
        link = self.link(source, target)
        if link.swallows:
            return
        if link.holding:
            link.held.append((length, arrive))
            return
        if link.bytes_left is not None:
            link.bytes_left -= length
            if link.bytes_left < 0:
                self.break_connections(source, target)
                link.bytes_left = None
                return
        link.arrives_at = max(link.arrives_at, self.loop.now + self.latency(link, length))
        self.loop.outside(link.arrives_at - self.loop.now, arrive)

    # --- faults --------------------------------------------------------------------------------

    def cut(self, source: str, target: str) -> None:
        self.link(source, target).cut = True
        self.break_connections(source, target)

    def heal(self, source: str, target: str) -> None:
        """What was held arrives late; what was dropped has broken its connections."""
        link = self._links.pop((source, target), None)
        if link is None:
            return
        if link.dropping:
            self.break_connections(source, target)
        for length, arrive in link.held:
            self.send(source, target, length, arrive)

    def heal_all(self) -> None:
        for source, target in sorted(self._links):
            self.heal(source, target)

    def break_connections(self, one: str, other: str) -> None:
        """Both ends see it."""
        for stream in list(self.streams):
            if {stream.source, stream.target} == {one, other}:
                stream.vanish()
        for told in self.on_broken:
            told(one, other)

    def died(self, node: str, *, silently: bool) -> None:
        """Of a process that was killed the others' connections end; a machine without power says nothing."""
        self.listeners.pop(node, None)
        for stream in list(self.streams):
            if stream.source == node:
                stream.end_of_process(silently=silently)

    # --- asyncio's side: streams ---------------------------------------------------------------

    def listen(self, factory: Callable[[], asyncio.Protocol]) -> Listener:
        here = life.get()
        assert here is not None
        self.listeners[here.node] = factory, contextvars.copy_context(), here
        return Listener(self, here.node)

    async def connect(
        self, host: str, factory: Callable[[], asyncio.Protocol]
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        here = life.get()
        assert here is not None
        source = here.node
        out, back = self.link(source, host), self.link(host, source)
        if out.dropping or out.holding or back.dropping or back.holding:
            await asyncio.sleep(3)  # a SYN without an answer; the dialler's time-out ends this
            raise TimeoutError(f"{host} does not answer")
        await asyncio.sleep(self.latency(out, 0) + self.latency(back, 0))
        found = self.listeners.get(host)
        if found is None or self.is_cut(source, host):
            raise ConnectionRefusedError(f"{host} does not listen")
        make_far, context, there = found
        near = Stream(self, source, host, contextvars.copy_context())
        far = Stream(self, host, source, context.copy())
        near.far_end, far.far_end = far, near
        self.streams += [near, far]
        near.protocol = factory()
        far.protocol = far.context.run(make_far)
        if not there.dead:
            far.context.run(far.protocol.connection_made, far)
        near.protocol.connection_made(near)
        return near, near.protocol


class Listener:
    def __init__(self, network: Network, node: str) -> None:
        self._network, self._node = network, node

    def close(self) -> None:
        self._network.listeners.pop(self._node, None)


class Stream(asyncio.Transport):
    """One end of a connection, at `source`."""

    def __init__(self, network: Network, source: str, target: str, context: contextvars.Context) -> None:
        super().__init__()
        self._network, self.source, self.target, self.context = network, source, target, context
        self.protocol: asyncio.Protocol
        self.far_end: Stream
        self._closing = False

    def write(self, data: Any) -> None:  # Any: as the base class has it
        if not self._closing:
            piece = bytes(data)
            self._network.send(self.source, self.target, len(piece), lambda: self.far_end.arrive(piece))

    def get_write_buffer_size(self) -> int:
        return sum(length for length, _ in self._network.link(self.source, self.target).held)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._network.send(self.source, self.target, 0, lambda: self.far_end.arrive(None))
            self._network.loop.call_soon(self._lost)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # Any: as the base class has it
        return default

    def arrive(self, data: bytes | None) -> None:
        """None: the end of the stream."""
        loop = self._network.loop
        if data is None:
            loop.call_soon(self._ended, context=self.context)
        else:
            loop.call_soon(self._received, data, context=self.context)

    def vanish(self) -> None:
        """The connection is broken: this end sees it."""
        self._network.loop.call_soon(self._ended, context=self.context)

    def end_of_process(self, *, silently: bool) -> None:
        if not self._closing:
            self._closing = True
            self._forget()
            if not silently:
                self._network.send(self.source, self.target, 0, lambda: self.far_end.arrive(None))

    def _received(self, data: bytes) -> None:
        if not self._closing:
            self.protocol.data_received(data)

    def _ended(self) -> None:
        if not self._closing:
            self._closing = True
            self._lost()

    def _lost(self) -> None:
        self._forget()
        self.protocol.connection_lost(None)

    def _forget(self) -> None:
        if self in self._network.streams:
            self._network.streams.remove(self)
