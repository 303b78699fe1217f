"""What one side of a connection still has to send: frames gathered into few messages, within a limit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from gfs.settings import SEND_QUEUE_BYTES_MAX
from gfs.transport.frames import COALESCE_BYTES_MAX, join_frames


class Outbox:
    """Frames leave in the order they were put. Whoever flushes takes along what others have put.

    `send` carries one message and waits while the peer does not read (back-pressure); what it raises goes
    to whoever flushed, and the connection is over then. `run` is the task that flushes after `wake`.
    """

    def __init__(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._send = send
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._sending = False
        self._over = False
        self._wakeup: asyncio.Future[None] | None = None
        self._waiting_for_room: list[asyncio.Future[None]] = []

    def put(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._bytes += len(frame)

    def wake(self) -> None:
        """Have everything sent in the loop's next turn, together with what is put until then."""
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    async def flush(self) -> None:
        """Send what is queued; returns at once when another task is at it."""
        if self._sending:
            return
        self._sending = True
        try:
            while self._frames:
                await self._send(self._take())
        finally:
            self._sending = False
            if self._frames:
                self.wake()  # cancelled half-way: the rest goes out all the same

    async def run(self) -> None:
        """Send what is put, until abandon()."""
        loop = asyncio.get_running_loop()
        while not self._over:
            self._wakeup = loop.create_future()
            if not self._frames or self._sending:
                await self._wakeup
            await self.flush()

    async def room(self) -> None:
        """Wait until less than SEND_QUEUE_BYTES_MAX is queued."""
        while self._bytes > SEND_QUEUE_BYTES_MAX:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting_for_room.append(waiter)
            await waiter

    def abandon(self) -> None:
        """The connection is over: drop what is queued, let go whoever waits for room, and end run()."""
        self._over = True
        self.wake()
        self._frames.clear()
        self._bytes = 0
        self._announce_room()

    @property
    def queued_bytes(self) -> int:
        return self._bytes

    def _take(self) -> bytes:
        """One message: all that is queued, up to COALESCE_BYTES_MAX, but at least one frame."""
        if self._bytes <= COALESCE_BYTES_MAX:
            message = join_frames(self._frames)
            self._frames.clear()
            self._bytes = 0
        else:
            some = [self._frames.popleft()]
            some_bytes = len(some[0])
            while self._frames and some_bytes + len(self._frames[0]) <= COALESCE_BYTES_MAX:
                some.append(self._frames.popleft())
                some_bytes += len(some[-1])
            message = join_frames(some)
            self._bytes -= some_bytes
        assert self._bytes >= 0
        if self._waiting_for_room and self._bytes <= SEND_QUEUE_BYTES_MAX:
            self._announce_room()
        return message

    def _announce_room(self) -> None:
        for waiter in self._waiting_for_room:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting_for_room.clear()
