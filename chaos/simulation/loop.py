"""An asyncio loop with its own time and network: whole clusters run in one thread, fast and repeatable.

Time moves only when nothing is left to do. Work given to executors takes a disk's latency. Streams and
protocols connect through VirtualNetwork, whose links behave like TCP: order is kept, a blocked direction
holds its bytes and delivers them late, a reset loses what is under way.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

from pysyncobj import syncobj


class _NoFiles(selectors.BaseSelector):
    def __init__(self, loop_box: list[VirtualLoop]) -> None:
        self._loop_box = loop_box

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing is scheduled: the test waits for something that cannot happen")
        if timeout > 0:
            self._loop_box[0].now += timeout
        return []

    def get_map(self) -> Any:
        return {}

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        raise KeyError(fileobj)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, seed: int) -> None:
        self.now = 1000.0
        box: list[VirtualLoop] = []
        super().__init__(_NoFiles(box))
        box.append(self)
        self._clock_resolution = 1e-6
        self.chance = random.Random(f"{seed}/world")
        self.network = VirtualNetwork(self)
        self.disk_seconds = (0.0002, 0.002)

    def time(self) -> float:
        return self.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """The work is done now or when its time is up, by chance: a crash finds it done, or not."""
        done: asyncio.Future[Any] = self.create_future()

        def work() -> tuple[Any, Exception | None]:
            try:
                return func(*args), None
            except Exception as error:
                return None, error

        def deliver(early: tuple[Any, Exception | None] | None) -> None:
            if done.done():
                return  # cancelled: the process is gone
            result, error = early or work()
            if done.done():
                return  # the work was this process's last
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)

        early = work() if self.chance.random() < 0.3 else None
        self.call_later(self.chance.uniform(*self.disk_seconds), deliver, early)
        return done

    async def create_server(  # type: ignore[override]
        self, factory: Callable[[], asyncio.Protocol], host: str, port: int, *, ssl: None = None
    ) -> VirtualServer:
        assert ssl is None, "this network has no wires that anybody could listen to"
        return self.network.listen(host, factory)

    async def create_connection(  # type: ignore[override]
        self, factory: Callable[[], asyncio.Protocol], host: str, port: int, **_: Any
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """`host` is "dialer>target": addresses say who dials, because the loop cannot know."""
        dialer, _sep, target = host.partition(">")
        return await self.network.connect(dialer, target, factory)


class VirtualServer:
    def __init__(self, network: VirtualNetwork, host: str) -> None:
        self._network, self._host = network, host

    def close(self) -> None:
        self._network.listeners.pop(self._host, None)


class VirtualTransport(asyncio.Transport):
    def __init__(self, network: VirtualNetwork, source: str, target: str) -> None:
        super().__init__()
        self._network, self.source, self.target = network, source, target
        self.protocol: asyncio.Protocol
        self.far_end: VirtualTransport
        self._closing = False
        self._arrives_at = 0.0
        self.held: list[bytes | None] = []  # None: the end of the stream
        self.unread: list[bytes | None] = []

    def write(self, data: Any) -> None:
        if not self._closing:
            self._send(bytes(data))

    def get_write_buffer_size(self) -> int:
        return sum(len(data) for data in self.held if data is not None)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._send(None)
            self._network.loop.call_soon(self._lost)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def vanish(self) -> None:
        """Our side is gone without a word."""
        self._closing = True
        self._lost()

    def _send(self, data: bytes | None) -> None:
        if self._network.is_blocked(self.source, self.target):
            self.held.append(data)
            return
        self.flow(data)

    def flow(self, data: bytes | None) -> None:
        self._arrives_at = max(self._network.arrival(), self._arrives_at)
        self._network.loop.call_at(self._arrives_at, self.far_end.arrive, data)

    def arrive(self, data: bytes | None) -> None:
        if self._closing:
            return
        if self.source in self._network.frozen:
            self.unread.append(data)
            return
        if data is None:
            self._closing = True
            self._lost()
        else:
            self.protocol.data_received(data)

    def _lost(self) -> None:
        self._network.transports.discard(self)
        self.protocol.connection_lost(None)


class VirtualNetwork:
    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.latency_seconds = (0.0001, 0.0006)
        self.listeners: dict[str, Callable[[], asyncio.Protocol]] = {}
        self.transports: set[VirtualTransport] = set()
        self._blocked: set[tuple[str, str]] = set()
        self.frozen: set[str] = set()

    def arrival(self) -> float:
        return self.loop.now + self.loop.chance.uniform(*self.latency_seconds)

    def is_blocked(self, source: str, target: str) -> bool:
        return (source, target) in self._blocked

    def listen(self, host: str, factory: Callable[[], asyncio.Protocol]) -> VirtualServer:
        self.listeners[host] = factory
        return VirtualServer(self, host)

    async def connect(
        self, source: str, target: str, factory: Callable[[], asyncio.Protocol]
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        if self.is_blocked(source, target) or self.is_blocked(target, source) or target in self.frozen:
            await asyncio.sleep(3)  # a SYN that gets no answer; the dialer's time-out ends this
            raise TimeoutError(f"{target} does not answer")
        await asyncio.sleep(self.arrival() - self.loop.now)
        if target not in self.listeners:
            raise ConnectionRefusedError(f"{target} does not listen")
        near, far = VirtualTransport(self, source, target), VirtualTransport(self, target, source)
        near.far_end, far.far_end = far, near
        near.protocol, far.protocol = factory(), self.listeners[target]()
        self.transports |= {near, far}
        far.protocol.connection_made(far)
        near.protocol.connection_made(near)
        return near, near.protocol

    # --- faults -----------------------------------------------------------------------------------

    def block(self, source: str, target: str) -> None:
        self._blocked.add((source, target))

    def isolate(self, host: str, others: list[str]) -> None:
        for other in others:
            if other != host:
                self.block(host, other)
                self.block(other, host)

    def heal(self) -> None:
        self._blocked.clear()
        for transport in self._ordered():
            held, transport.held = transport.held, []
            for data in held:
                transport.flow(data)

    def freeze(self, host: str) -> None:
        """The process is stopped: what arrives is not read, and it does not accept connections."""
        self.frozen.add(host)

    def thaw(self, host: str) -> None:
        self.frozen.discard(host)
        for transport in self._ordered():
            if transport.source == host:
                unread, transport.unread = transport.unread, []
                for data in unread:
                    self.loop.call_soon(transport.arrive, data)

    def reset(self, one: str, two: str) -> None:
        for transport in self._ordered():
            if {transport.source, transport.target} == {one, two}:
                transport.vanish()

    def reset_one_side(self, host: str, other: str) -> None:
        """`host` sees its connections to `other` break; `other` does not."""
        for transport in self._ordered():
            if (transport.source, transport.target) == (host, other):
                transport.vanish()

    def power_off(self, host: str) -> None:
        """Nobody is told: to the others the connections stay open and silent."""
        self.listeners.pop(host, None)
        for transport in self._ordered():
            if transport.source == host:
                transport.vanish()

    def _ordered(self) -> list[VirtualTransport]:
        return sorted(self.transports, key=lambda transport: (transport.source, transport.target))


class VirtualClock:
    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        return self._loop.now

    def wall_ms(self) -> int:
        return int(self._loop.now * 1000)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


LoopT = TypeVar("LoopT", bound=VirtualLoop)


@overload
def run_virtual(scenario: Callable[[VirtualLoop], Coroutine[Any, Any, Any]], *, seed: int = 1) -> Any: ...
@overload
def run_virtual(
    scenario: Callable[[LoopT], Coroutine[Any, Any, Any]], *, seed: int = 1, make_loop: Callable[[int], LoopT]
) -> Any: ...
def run_virtual(
    scenario: Callable[[Any], Coroutine[Any, Any, Any]],
    *,
    seed: int = 1,
    make_loop: Callable[[int], VirtualLoop] = VirtualLoop,
) -> Any:
    """Run `scenario` to its end in virtual time. A failure names the seed."""
    loop = make_loop(seed)
    real_time, real_random = syncobj.monotonicTime, syncobj.random
    syncobj.monotonicTime = loop.time
    syncobj.random = random.Random(f"{seed}/raft")
    try:
        return loop.run_until_complete(scenario(loop))
    except BaseException as error:
        error.add_note(f"seed {seed}, virtual second {loop.now - 1000:.3f}")
        raise
    finally:
        syncobj.monotonicTime, syncobj.random = real_time, real_random
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
