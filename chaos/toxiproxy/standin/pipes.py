"""Proxies of the stand-in: a listener each, and two directions of bytes for every connection. No API here."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections import deque
from typing import NamedTuple

from chaos.toxiproxy.standin.toxics import STREAMS, DirectionState, Effects, ToxicSpec

READ_BYTES = 32 * 2**10
WAITING_BYTES_MAX = 4 * 2**20  # of one direction; more stays with the sender
PACE_SECONDS = 0.1  # a throttled piece goes out in parts that take so long
_LINGER_NONE = struct.pack("ii", 1, 0)  # closing resets


class _Piece(NamedTuple):
    arrived: float
    data: bytes  # empty: the sender has closed
    delays: dict[int, float]


class Proxy:
    def __init__(self, name: str, listen: str, upstream: str, chance: random.Random) -> None:
        self.name, self.listen, self.upstream = name, listen, upstream
        self.enabled = False
        self.toxics: dict[str, list[ToxicSpec]] = {stream: [] for stream in STREAMS}
        self._chance = chance
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._accepting: set[asyncio.Task[None]] = set()

    async def enable(self) -> None:
        """Raises: OSError, when its port is not to be had."""
        host, _, port = self.listen.rpartition(":")
        self._server = await asyncio.start_server(self._accept, host, int(port), reuse_address=True)
        bound = self._server.sockets[0].getsockname()
        self.listen, self.enabled = f"{bound[0]}:{bound[1]}", True

    async def disable(self) -> None:
        """End all connections, and stop listening."""
        self.enabled = False
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._accepting):
            task.cancel()
        for connection in list(self._connections):
            connection.end()
        await asyncio.sleep(0)  # the sockets are closed in the loop's next turn

    def toxic(self, name: str) -> ToxicSpec | None:
        return next(
            (toxic for stream in STREAMS for toxic in self.toxics[stream] if toxic.name == name), None
        )

    def add(self, toxic: ToxicSpec) -> None:
        self.toxics[toxic.stream].append(toxic)
        self._changed(toxic.stream)

    def remove(self, toxic: ToxicSpec) -> None:
        if toxic.type == "timeout":  # what it swallowed cannot be made good: the connection is closed
            for connection in list(self._connections):
                if connection.swallows(toxic):
                    connection.end()
        self.toxics[toxic.stream].remove(toxic)
        self._changed(toxic.stream)

    def update(self, old: ToxicSpec, new: ToxicSpec) -> None:
        self.toxics[old.stream][self.toxics[old.stream].index(old)] = new
        self._changed(old.stream)

    def forget(self, connection: _Connection) -> None:
        self._connections.discard(connection)

    def _changed(self, stream: str) -> None:
        for connection in self._connections:
            connection.directions[stream].changed.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._accepting.add(task)
        try:
            host, _, port = self.upstream.rpartition(":")
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except (OSError, asyncio.CancelledError):
            writer.close()  # it was accepted already, so who dialled sees an end, not a refusal
            return
        finally:
            self._accepting.discard(task)
        if not self.enabled:
            writer.close()
            far_writer.close()
            return
        self._connections.add(_Connection(self, self._chance, (reader, writer), (far_reader, far_writer)))


_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Connection:
    def __init__(self, proxy: Proxy, chance: random.Random, near: _Ends, far: _Ends) -> None:
        self._proxy, self._writers = proxy, (near[1], far[1])
        if any(toxic.type == "reset_peer" for stream in STREAMS for toxic in proxy.toxics[stream]):
            for writer in self._writers:
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
        for writer in self._writers:
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.directions = {
            "upstream": _Direction(proxy.toxics["upstream"], near[0], far[1], chance),
            "downstream": _Direction(proxy.toxics["downstream"], far[0], near[1], chance),
        }
        self._tasks = [asyncio.ensure_future(one.run()) for one in self.directions.values()]
        for task in self._tasks:
            task.add_done_callback(lambda _: self._one_ended())

    def swallows(self, toxic: ToxicSpec) -> bool:
        direction = self.directions[toxic.stream]
        return any(one is toxic for one in direction.state.acting(direction.toxics))

    def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        for writer in self._writers:
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()
        self._proxy.forget(self)

    def _one_ended(self) -> None:
        if all(task.done() for task in self._tasks):
            self.end()


class _Direction:
    """Bytes of one way: read as they come, each piece stamped, sent on when the toxics let them.

    Reading and sending go on beside each other, so a delay delays and does not slow down.
    """

    def __init__(
        self,
        toxics: list[ToxicSpec],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        chance: random.Random,
    ) -> None:
        self.toxics, self.state = toxics, DirectionState(chance)
        self.changed = asyncio.Event()  # also: something came, or something left
        self._reader, self._writer = reader, writer
        self._waiting: deque[_Piece] = deque()
        self._waiting_bytes = 0
        self._room = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._last_arrival = self._free_at = self._loop.time()  # when the next byte may go

    async def run(self) -> None:
        reading = asyncio.ensure_future(self._read())
        try:
            await self._send()
        except OSError:
            pass  # the far side is gone
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            with contextlib.suppress(OSError):
                self._writer.close()  # the server closes both ways when one way has ended

    async def _read(self) -> None:
        while True:
            try:
                data = await self._reader.read(READ_BYTES)
            except OSError:
                data = b""
            self._last_arrival = self._loop.time()
            self._waiting.append(_Piece(self._last_arrival, data, self.state.draw_delay(self.toxics)))
            self._waiting_bytes += len(data)
            self.changed.set()
            if not data:
                return
            while self._waiting_bytes > WAITING_BYTES_MAX:
                self._room.clear()
                await self._room.wait()

    async def _send(self) -> None:
        """Returns when this way has ended."""
        while True:
            effects = self.state.effects(self.toxics)
            self.changed.clear()
            if effects.swallows and effects.silent_seconds:
                silent = self._last_arrival + effects.silent_seconds - self._loop.time()
                if silent <= 0:
                    return
                if not self._waiting:
                    await self._change_within(silent)
                    continue
            if not self._waiting:
                await self.changed.wait()
                continue
            piece = self._waiting[0]
            if effects.swallows:
                if not piece.data:
                    return
                self._take()
            elif effects.resets:
                await asyncio.sleep(effects.reset_seconds)
                return
            elif effects.holds and piece.data:
                await self.changed.wait()
            elif (wait := self._wait_for(piece, effects)) > 0:
                await self._change_within(wait)
            elif not piece.data or not await self._pass_on():
                return

    def _wait_for(self, piece: _Piece, effects: Effects) -> float:
        """Seconds until this piece may go on its way, as the toxics are now."""
        present = {id(toxic) for toxic in self.toxics}
        seconds = sum(delay for key, delay in piece.delays.items() if key in present)
        if not piece.data:
            seconds += effects.close_seconds
        due = piece.arrived + seconds
        if effects.bytes_per_second or effects.slice_pause_seconds:
            due = max(due, self._free_at)
        return due - self._loop.time()

    async def _pass_on(self) -> bool:
        """Send what of the first piece may go now. Returns: False once its limit is reached."""
        effects = self.state.effects(self.toxics)
        data = self._waiting[0].data
        if effects.slice_bytes:
            data = data[: self.state.cut(len(data), effects)[0]]
        if effects.bytes_per_second:
            data = data[: max(1, int(effects.bytes_per_second * PACE_SECONDS))]
        if effects.limit_bytes >= 0:
            data = data[: max(0, effects.limit_bytes - self.state.passed_bytes)]
        self._take(len(data))
        self._writer.write(data)
        await self._writer.drain()
        self.state.passed_bytes += len(data)
        if 0 <= effects.limit_bytes <= self.state.passed_bytes:
            return False
        self._free_at = self._loop.time() + effects.slice_pause_seconds
        if effects.bytes_per_second:
            self._free_at += len(data) / effects.bytes_per_second
        return True

    def _take(self, count: int | None = None) -> None:
        """The first `count` bytes of the first piece, or all of it, wait no more."""
        piece = self._waiting.popleft()
        rest = b"" if count is None else piece.data[count:]
        if rest:
            self._waiting.appendleft(piece._replace(data=rest))
        self._waiting_bytes -= len(piece.data) - len(rest)
        self._room.set()

    async def _change_within(self, seconds: float) -> bool:
        """Wait so long, or until the toxics change or bytes come; whether they did."""
        try:
            async with asyncio.timeout(seconds):
                await self.changed.wait()
        except TimeoutError:
            return False
        return True
