"""Bulk bytes between simulated programs: pushes down the chain and verified reads, over the links.

What the programs do with the bytes is their own code; the HTTP heads and sockets of the real wire are not
here. A transfer happens at one moment, and what it takes of time is charged to whoever waits for it. Bytes
that go wrong on the way go wrong before the receiver sums them.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from chaos.simulation.mortal_disk import Died
from chaos.simulation.network import HARNESS, Network
from chaos.simulation.world import life
from gfs.errors import ConnectionLost, DeadlineExceeded, GfsError, InternalFault, Unavailable
from gfs.messages.data import PushAnswer
from gfs.telemetry import trace_id
from gfs.transport.data_client import DataClient, OutgoingPush
from gfs.transport.data_handler import DataHandler
from gfs.transport.data_head import PushHead
from gfs.transport.data_server import DataServer
from gfs.vocabulary import Address, ChunkHandle, ChunkVersion, PushId

T = TypeVar("T")
WINDOW_BYTES = 64 * 1024


class BulkPorts:
    """Who serves bulk bytes where. `spoiled_share` of all transfers have one bit flipped on their way."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.servers: dict[Address, SimulatedBulkServer] = {}
        self.spoiled_share = 0.0

    def died(self, node: str) -> None:
        for address in [address for address, server in self.servers.items() if server.life.node == node]:
            del self.servers[address]

    def spoil(self, data: memoryview) -> None:
        chance = self.network.loop.chance
        if self.spoiled_share and len(data) and chance.random() < self.spoiled_share:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


_ports: contextvars.ContextVar[BulkPorts] = contextvars.ContextVar("bulk ports")


def use(ports: BulkPorts) -> None:
    """Of all programs that are started from this context."""
    _ports.set(ports)


class SimulatedBulkServer(DataServer):
    def __init__(self, address: Address, handler: DataHandler, **_: Any) -> None:  # Any: what sockets need
        here = life.get()
        assert here is not None
        self._address, self.handler, self.life = address, handler, here
        self._ports = _ports.get()
        self.context = contextvars.copy_context()

    @property
    def address(self) -> Address:
        return self._address

    def start(self) -> None:
        self._ports.servers[self._address] = self

    def stop(self) -> None:
        if self._ports.servers.get(self._address) is self:
            del self._ports.servers[self._address]

    def run(self, work: Callable[[], T]) -> T:
        """As work of this server's process. Raises: GfsError, as the wire would tell it."""
        try:
            return self.context.copy().run(work)
        except GfsError as error:
            if self.life.dead:
                raise ConnectionLost(f"{self._address} died meanwhile") from error
            raise
        except Died as error:
            if not self.life.dead:
                raise
            raise ConnectionLost(f"{self._address} died meanwhile") from error
        except OSError as error:
            raise InternalFault(f"{self._address} could not do it: {error}") from error


class SimulatedBulkClient(DataClient):
    def __init__(self, **_: Any) -> None:  # Any: what only sockets need
        self._ports = _ports.get()
        here = life.get()
        self._here = HARNESS if here is None else here.node
        self._is_closed = False

    def close(self) -> None:
        self._is_closed = True

    def push(
        self,
        address: Address,
        push_id: PushId,
        data: memoryview,
        *,
        offset: int,
        chain: Sequence[Address],
        checksums: Sequence[int] | None,
        deadline_seconds: float,
        capability: bytes = b"",
    ) -> PushAnswer:
        outgoing = self.begin_push(
            address,
            push_id,
            data,
            offset=offset,
            chain=chain,
            checksums=checksums,
            connect_seconds=deadline_seconds,
        )
        return outgoing.finish(within_seconds=deadline_seconds)

    def begin_push(
        self,
        address: Address,
        push_id: PushId,
        data: memoryview,
        *,
        offset: int,
        chain: Sequence[Address],
        checksums: Sequence[int] | None,
        connect_seconds: float,
        capability: bytes = b"",
    ) -> OutgoingPush:
        head = PushHead(
            push_id=push_id,
            length=len(data),
            offset=offset,
            chain=tuple(chain),
            checksums=None if checksums is None else tuple(checksums),
            trace=trace_id.get(),
        )
        self._reach(address, connect_seconds)
        return _Push(self, address, head, data)

    def read_into(
        self,
        address: Address,
        handle: ChunkHandle,
        version: ChunkVersion,
        first: int,
        buffer: memoryview,
        *,
        deadline_seconds: float,
        verify_here: bool = False,
        capability: bytes = b"",
    ) -> tuple[int, int]:
        assert len(buffer) > 0
        server = self._reach(address, deadline_seconds)
        self.cross(self._here, server, 200, deadline_seconds)

        def read() -> tuple[int, int]:
            reader = server.handler.open_read(handle, version, first, first + len(buffer) - 1)
            at = 0
            while at < reader.length:
                window = buffer[at : min(reader.length, at + WINDOW_BYTES)]
                got = reader.read_into(window, first + at)
                if got != len(window):
                    raise InternalFault(f"read {got} of {len(window)} bytes, within the committed length")
                at += got
            return reader.length, reader.committed_length

        found = server.run(read)
        self.cross_back(server, found[0] + 200, deadline_seconds)
        return found

    # --- links ---------------------------------------------------------------------------------

    def _reach(self, address: Address, seconds: float) -> SimulatedBulkServer:
        network, server = self._ports.network, self._ports.servers.get(address)
        if self._is_closed:
            raise Unavailable("this client is closed")
        if server is None or server.life.dead or network.is_cut(self._here, server.life.node):
            raise Unavailable(f"no connection from {self._here} to {address}")
        node = server.life.node
        out, back = network.link(self._here, node), network.link(node, self._here)
        if out.dropping or out.holding or back.dropping or back.holding or server.life.paused is not None:
            network.loop.charge(seconds)
            raise Unavailable(f"no connection from {self._here} to {address} in time")
        return server

    def cross(self, source: str, server: SimulatedBulkServer, length: int, seconds: float) -> int:
        """How many of `length` bytes arrive; charges the time."""
        return self._cross(source, server.life.node, length, seconds)

    def cross_back(self, server: SimulatedBulkServer, length: int, seconds: float) -> None:
        if self._cross(server.life.node, self._here, length, seconds) < length:
            raise ConnectionLost(f"the connection to {server.address} broke before its answer")

    def _cross(self, source: str, target: str, length: int, seconds: float) -> int:
        network = self._ports.network
        link = network.link(source, target)
        if link.cut:
            return 0
        taken = network.latency(link, length)
        if link.dropping or link.holding or taken > seconds:
            network.loop.charge(seconds)
            raise DeadlineExceeded(f"{target} did not answer {source} in time")
        network.loop.charge(taken)
        if link.bytes_left is not None:
            link.bytes_left -= length
            if link.bytes_left < 0:
                arrived, link.bytes_left = max(0, length + link.bytes_left), None
                network.break_connections(source, target)
                return arrived
        return length

    @property
    def here(self) -> str:
        return self._here

    @property
    def ports(self) -> BulkPorts:
        return self._ports


class _Push(OutgoingPush):
    def __init__(
        self, client: SimulatedBulkClient, address: Address, head: PushHead, data: memoryview
    ) -> None:
        self._client, self._address, self._head, self._bytes = client, address, head, data

    def advance(self, have: int) -> None:
        return

    def close(self) -> None:
        return

    def finish(self, *, within_seconds: float) -> PushAnswer:
        client, head = self._client, self._head
        server = client.ports.servers.get(self._address)
        if server is None or server.life.dead:
            raise ConnectionLost(f"{self._address} is gone")
        length = len(self._bytes)
        arrived = client.cross(client.here, server, length, within_seconds)

        def receive() -> PushAnswer:
            sink = server.handler.begin_push(head)
            memory = sink.memory
            memory[:arrived] = self._bytes[:arrived]
            if arrived < length:
                sink.abandon()
                raise ConnectionLost(f"closed after {arrived} of {length} bytes")
            client.ports.spoil(memory)
            for end in range(WINDOW_BYTES, length, WINDOW_BYTES):
                sink.arrived(end)
            sink.arrived(length)
            return sink.finish()

        answer = server.run(receive)
        client.cross_back(server, 300, within_seconds)
        return answer
