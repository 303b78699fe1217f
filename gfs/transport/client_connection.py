"""One WebSocket at the caller's side: calls out, replies back, deadlines and silence watched."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Coroutine
from typing import Any, NamedTuple, TypeVar

import aiohttp
from aiohttp import WSMsgType

from gfs.errors import (
    ConnectionLost,
    DeadlineExceeded,
    GfsError,
    Overloaded,
    ProtocolFault,
    Unavailable,
    from_code,
)
from gfs.messages.base import ErrorReply, Reply, Request
from gfs.settings import (
    CALLS_IN_FLIGHT_MAX,
    PING_BUSY_SECONDS,
    PING_IDLE_SECONDS,
    SEND_QUEUE_BYTES_MAX,
    SILENCE_BUSY_SECONDS_MAX,
    SILENCE_IDLE_SECONDS_MAX,
)
from gfs.telemetry import logger
from gfs.transport.dispatch import take_reply
from gfs.transport.frames import (
    DECODE_FAULTS,
    Answer,
    Call,
    Cancel,
    Hello,
    Refusal,
    ReplyFrames,
    agree,
    decode_reply,
    encode_frame,
    join_frames,
    raw_reply_decoder,
    reply_decoder,
)
from gfs.transport.outbox import Outbox
from gfs.vocabulary import KIB, Address

_log = logger("transport")

R = TypeVar("R", bound=Reply)

CLOSE_SECONDS = 0.5  # for the peer's goodbye
TICK_SECONDS = 0.01  # how late a deadline may be noticed; one timer a tick is far cheaper than one a call
ALONE_BYTES_MAX = 16 * KIB  # what an empty socket buffer surely takes


class _OpenCall(NamedTuple):
    reply: asyncio.Future[Reply]
    expected: type[Reply]
    deadline: float


class ClientConnection:
    """Many calls share the connection; each waits for the answer with its id.

    It counts as lost when the peer closes it, or is silent for SILENCE_BUSY_SECONDS_MAX with calls open in
    spite of pings. All open calls then end with ConnectionLost.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, address: Address) -> None:
        self.lost = False
        self.peer: Hello | None = None
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._socket = socket
        self._outbox = Outbox(socket.send_bytes)
        self._open: dict[int, _OpenCall] = {}
        self._places = CALLS_IN_FLIGHT_MAX  # for further open calls
        self._line: deque[asyncio.Future[None]] = deque()  # calls that wait for a place, first come first
        self._next_id = 0
        self._answered_id = 0
        self._expected: set[type[Reply]] = {ErrorReply}
        self._decoder = reply_decoder(self._expected)
        self._next_deadline = math.inf  # no open call's is earlier
        self._quiet_since = self._loop.time()
        self._pinged_at = -math.inf
        self._ping: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = math.inf
        self._ticking = False  # the timer runs for open calls, not only for the next idle ping
        self._tasks: set[asyncio.Task[None]] = set()

    async def exchange_hello(self, mine: Hello) -> None:
        """Say who we are and learn who answers; the first thing on a connection.

        Raises: UnsupportedVersion, WrongCluster, ProtocolFault, Unavailable (it closed instead).
        """
        await self._socket.send_bytes(join_frames([encode_frame(mine)]))
        message = await self._receive()
        if message is None:
            raise Unavailable(f"{self._address} closed the connection instead of saying hello")
        frames = self._decode(message)
        for frame in frames:
            if isinstance(frame, Refusal):
                error = frame.error
                raise from_code(error.code, error.message, hint=error.hint, details=error.details)
        if not frames or not isinstance(hello := frames[0], Hello):
            raise ProtocolFault(f"{self._address} did not begin with hello")
        agree(mine, hello)
        self.peer = hello
        self._start(self._write())
        self._start(self._read())
        self._watch_in(PING_IDLE_SECONDS)

    async def call(self, request: Request, expected: type[R], trace: str, deadline_seconds: float) -> R:
        """One request and its reply; see RpcCaller.call."""
        if expected not in self._expected:
            self._expected.add(expected)
            self._decoder = reply_decoder(self._expected)
        now = self._loop.time()
        deadline = now + deadline_seconds
        if self._places > 0 and self._outbox.queued_bytes <= SEND_QUEUE_BYTES_MAX:
            self._places -= 1  # nobody is in line while there are places
        else:
            await self._stand_in_line(deadline)
            now = self._loop.time()
        try:
            if self.lost:
                raise Unavailable(f"the connection to {self._address} is gone")
            call_id = self._next_id = self._next_id + 1
            frame = encode_frame(Call(call_id, deadline - now, trace, request))
            self._outbox.put(frame)
            # Then the peer has read all that was sent before, so that sending this one cannot have to wait.
            alone = not self._open and self._answered_id == call_id - 1 and len(frame) <= ALONE_BYTES_MAX
            reply: asyncio.Future[Reply] = self._loop.create_future()
            self._open[call_id] = _OpenCall(reply, expected, deadline)
            if deadline < self._next_deadline:
                self._next_deadline = deadline
            if not self._ticking:
                self._quiet_since = now
                self._ticking = True
                self._watch_in(TICK_SECONDS)
            if alone:
                await self._flush()  # at once: spares the turn of the loop that gathers frames
            else:
                self._outbox.wake()
            try:
                return take_reply(await reply, expected, self._address)
            except asyncio.CancelledError:
                self._take_back(call_id)
                raise
        finally:
            self._leave_place()

    async def close(self) -> None:
        """Break what is in flight and close."""
        self._lose("it was closed")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._say_goodbye()

    # --- limits ----------------------------------------------------------------------------------

    async def _stand_in_line(self, deadline: float) -> None:
        """Wait for a place among the open calls, and for room in the queue to the peer.

        Raises: Overloaded (definite: nothing was sent).
        """
        try:
            async with asyncio.timeout_at(deadline):
                await self._take_place()
                try:
                    await self._outbox.room()
                except BaseException:
                    self._leave_place()
                    raise
        except TimeoutError as error:
            raise Overloaded(
                f"too many calls to {self._address} were ahead of this one until its deadline"
            ) from error

    async def _take_place(self) -> None:
        if self._places > 0:
            self._places -= 1
            return
        turn: asyncio.Future[None] = self._loop.create_future()
        self._line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._leave_place()  # it was given just now
            raise

    def _leave_place(self) -> None:
        """Give the place to the first in line, or back."""
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._places += 1

    # --- reading and writing ---------------------------------------------------------------------

    async def _write(self) -> None:
        try:
            await self._outbox.run()
        except (aiohttp.ClientError, OSError):
            self._lose("it broke while writing")

    async def _flush(self) -> None:
        try:
            await self._outbox.flush()
        except (aiohttp.ClientError, OSError):
            self._lose("it broke while writing")

    async def _read(self) -> None:
        reason = "the peer closed it"
        try:
            while (message := await self._receive()) is not None:
                for frame in self._decode(message):
                    if isinstance(frame, Answer):
                        self._answered_id = frame.id
                        call = self._open.pop(frame.id, None)  # None: nobody waits any more
                        if call is not None and not call.reply.done():
                            call.reply.set_result(frame.reply)
        except GfsError as error:
            reason = error.message
            _log.warning("connection closed", address=self._address, reason=reason)
        except (aiohttp.ClientError, OSError):
            reason = "it broke while reading"
        except Exception:
            reason = "an internal fault"
            _log.exception("the connection failed unexpectedly", address=self._address)
        self._lose(reason)

    async def _receive(self) -> bytes | None:
        """The next message; None when the peer has closed. Raises: ProtocolFault."""
        while True:
            message = await self._socket.receive()
            self._quiet_since = self._loop.time()
            if message.type is WSMsgType.BINARY:
                payload: bytes = message.data
                return payload
            if message.type is WSMsgType.PING:
                await self._socket.pong(message.data)
            elif message.type is WSMsgType.ERROR and isinstance(message.data, aiohttp.WebSocketError):
                raise ProtocolFault(f"not a WebSocket message of ours: {message.data}")
            elif message.type is WSMsgType.TEXT:
                raise ProtocolFault("a text message, where binary ones belong")
            elif message.type is not WSMsgType.PONG:
                return None

    def _decode(self, message: bytes) -> ReplyFrames:
        try:
            return self._decoder.decode(message)
        except DECODE_FAULTS:
            return self._decode_one_by_one(message)

    def _decode_one_by_one(self, message: bytes) -> ReplyFrames:
        """Something in `message` is wrong: fail the calls whose replies are at fault, return the others."""
        try:
            frames = raw_reply_decoder.decode(message)
        except DECODE_FAULTS as error:
            raise ProtocolFault(f"not frames of ours: {error}") from error
        good: ReplyFrames = []
        for frame in frames:
            if not isinstance(frame, Answer):
                good.append(frame)
                continue
            call = self._open.get(frame.id)
            if call is None:
                continue
            try:
                good.append(Answer(frame.id, decode_reply(frame.reply, call.expected)))
            except DECODE_FAULTS as error:
                del self._open[frame.id]
                if not call.reply.done():
                    call.reply.set_exception(
                        ProtocolFault(f"the reply of {self._address} cannot be understood: {error}")
                    )
        return good

    # --- deadlines, silence, loss ----------------------------------------------------------------

    def _watch_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = self._loop.time() + seconds
        self._timer = self._loop.call_later(seconds, self._watch)

    def _watch(self) -> None:
        now = self._loop.time()
        if now - self._timer_due > PING_BUSY_SECONDS:
            self._quiet_since = now  # this program stood still: what the peer sent is not read yet
        if now >= self._next_deadline:
            self._expire_calls(now)
        busy = bool(self._open)
        quiet_seconds = now - self._quiet_since
        if quiet_seconds > (SILENCE_BUSY_SECONDS_MAX if busy else SILENCE_IDLE_SECONDS_MAX):
            self._lose(f"nothing was heard for {quiet_seconds:.1f} s")
            return
        ping_seconds = PING_BUSY_SECONDS if busy else PING_IDLE_SECONDS
        if min(quiet_seconds, now - self._pinged_at) >= ping_seconds and (
            self._ping is None or self._ping.done()
        ):
            self._pinged_at = now
            self._ping = self._start(self._send_ping())
        self._ticking = busy
        self._watch_in(TICK_SECONDS if busy else PING_IDLE_SECONDS)

    def _expire_calls(self, now: float) -> None:
        late = [call_id for call_id, call in self._open.items() if call.deadline <= now]
        for call_id in late:
            call = self._open[call_id]
            self._take_back(call_id)
            if not call.reply.done():
                call.reply.set_exception(DeadlineExceeded(f"{self._address} did not answer in time"))
        self._next_deadline = min((call.deadline for call in self._open.values()), default=math.inf)

    def _take_back(self, call_id: int) -> None:
        """Nobody waits for this call any more: tell the server, which may stop working on it."""
        if self._open.pop(call_id, None) is not None and not self.lost:
            self._outbox.put(encode_frame(Cancel(call_id)))
            self._outbox.wake()

    async def _send_ping(self) -> None:
        with contextlib.suppress(aiohttp.ClientError, OSError):  # the reader learns of it too
            await self._socket.ping()

    def _lose(self, reason: str) -> None:
        if self.lost:
            return
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
        for call in self._open.values():
            if not call.reply.done():
                call.reply.set_exception(
                    ConnectionLost(f"the connection to {self._address} was lost: {reason}")
                )
        self._open.clear()
        self._outbox.abandon()
        while self._line:
            self._leave_place()
        self._start(self._say_goodbye())

    async def _say_goodbye(self) -> None:
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            # A peer that does not read may keep this waiting; being cancelled drops the connection at once.
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._socket.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)  # Any: what a coroutine passes to the loop is theirs
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
