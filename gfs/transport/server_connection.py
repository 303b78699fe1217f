"""One WebSocket at the server's side: calls in, handlers run, answers out. Ports and routes are elsewhere."""

from __future__ import annotations

import asyncio
import math
import types
from collections import deque
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, TypeVar

from aiohttp import WebSocketError, WSMsgType, web

from gfs.credentials import CREDENTIAL_CHARS_MAX
from gfs.errors import (
    DeadlineExceeded,
    FrameTooLarge,
    GfsError,
    InternalFault,
    Overloaded,
    ProtocolFault,
)
from gfs.messages.base import NOBODY, Reply, Request
from gfs.settings import CALLS_IN_FLIGHT_MAX, SEND_QUEUE_BYTES_MAX
from gfs.telemetry import logger
from gfs.tls import NOBODY as NOBODY_CERTIFIED
from gfs.tls import NodeName
from gfs.transport.dispatch import Begun, Dispatcher
from gfs.transport.frames import (
    DECODE_FAULTS,
    Answer,
    Call,
    Cancel,
    Hello,
    Refusal,
    agree,
    encode_frame,
    error_reply,
    join_frames,
    raw_request_decoder,
)
from gfs.transport.interface import CallContext
from gfs.transport.outbox import Outbox

_log = logger("transport")

T = TypeVar("T")

CALLS_PER_TURN = 64  # answered in one go before the loop's other work has its turn


TICK_SECONDS = 0.01  # how late a deadline may be noticed; one timer a tick is far cheaper than one a call


class _WaitingCall:
    """A call whose handler waits for something: in a task of its own, or for a future."""

    __slots__ = ("deadline", "late", "work")

    def __init__(self, work: asyncio.Future[Any], deadline: float) -> None:
        # Any: whatever task happened to run the handler; it is only ever cancelled
        self.work, self.deadline, self.late = work, deadline, False


class ServerConnection:
    """Most handlers answer without waiting for anything; a task for each would cost as much as the rest.

    So one task, the leader, reads and runs handlers itself. When a handler has to wait, that task stays with
    the call, as an ordinary task of its own, and a new leader reads on. What waits for nothing but a future
    (see interface.Later) needs no task at all: the reply is made when the future is done.
    """

    def __init__(
        self,
        socket: web.WebSocketResponse,
        dispatcher: Dispatcher,
        mine: Hello,
        *,
        remote: str,
        peer_node: NodeName = NOBODY_CERTIFIED,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()
        self._socket = socket
        self._dispatcher = dispatcher
        self._mine = mine
        self._remote = remote
        self._peer = ""
        self._identity = NOBODY
        self._credential = ""
        self._peer_node = peer_node
        self._outbox = Outbox(socket.send_bytes)
        self._inbox: deque[Call[Request] | Cancel | Hello] = deque()
        self._waiting: dict[int, _WaitingCall] = {}
        self._next_deadline = math.inf  # no waiting call's is earlier
        self._timer: asyncio.TimerHandle | None = None  # runs while calls wait
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: asyncio.Future[str] = self._loop.create_future()

    async def serve(self, *, hello_seconds_max: float) -> None:
        """Return when the connection is over and everything begun for it has ended."""
        try:
            async with asyncio.timeout(hello_seconds_max):
                await self._exchange_hello()
            self._start(self._write())
            self._start(self._lead())
            reason = await self._over
        except TimeoutError:
            reason = f"no hello within {hello_seconds_max} s"
        except GfsError as error:
            reason = error.message
        except ConnectionError:
            reason = ""
        finally:
            if self._timer is not None:
                self._timer.cancel()
            waiting_calls, self._waiting = self._waiting, {}
            for waiting in waiting_calls.values():
                waiting.work.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if reason:
            _log.warning("connection closed", peer=self._peer, remote=self._remote, reason=reason)
        await self._socket.close()

    def end(self, reason: str) -> None:
        """Close the connection; an empty reason is the ordinary end and is not logged."""
        if not self._over.done():
            self._over.set_result(reason)

    async def _exchange_hello(self) -> None:
        message = await self._receive()
        if message is None:
            raise ConnectionResetError
        frames = self._decode(message)
        if not frames or not isinstance(first := frames[0], Hello):
            raise ProtocolFault("the peer did not begin with hello")
        try:
            agree(self._mine, first)
        except GfsError as error:
            refusal = Refusal(error_reply(error))
            await self._socket.send_bytes(join_frames([encode_frame(self._mine), encode_frame(refusal)]))
            raise
        self._peer = first.node or first.role
        self._identity, self._credential = first.identity, first.credential[: CREDENTIAL_CHARS_MAX + 1]
        self._inbox.extend(frames[1:])
        await self._socket.send_bytes(join_frames([encode_frame(self._mine)]))

    # --- reading ---------------------------------------------------------------------------------

    async def _lead(self) -> None:
        """Read and answer, until a handler has to wait: then this task is that call's, and another leads."""
        try:
            while True:
                answered = 0
                while self._inbox:
                    frame = self._inbox.popleft()
                    if isinstance(frame, Call):
                        if await self._answer(frame):
                            return
                        answered += 1
                        if answered % CALLS_PER_TURN == 0:
                            await self._outbox.flush()
                            await asyncio.sleep(0)
                    elif isinstance(frame, Cancel):
                        self._cancel(frame.id)
                await self._outbox.flush()
                await self._outbox.room()  # a peer that does not read is not read from
                message = await self._receive()
                if message is None:
                    self.end("")
                    return
                self._inbox.extend(self._decode(message))
        except GfsError as error:
            self.end(error.message)
        except ConnectionError:
            self.end("")
        except Exception:
            _log.exception("the connection failed unexpectedly", peer=self._peer, remote=self._remote)
            self.end("internal fault")

    async def _write(self) -> None:
        try:
            await self._outbox.run()
        except ConnectionError:
            self.end("")

    async def _receive(self) -> bytes | None:
        """The next message; None when the peer has closed. Raises: ProtocolFault."""
        while True:
            message = await self._socket.receive()
            self.heard_at = self._loop.time()
            if message.type is WSMsgType.BINARY:
                payload: bytes = message.data
                return payload
            if message.type is WSMsgType.PING:
                await self._socket.pong(message.data)
            elif message.type is WSMsgType.ERROR and isinstance(message.data, WebSocketError):
                raise ProtocolFault(f"not a WebSocket message of ours: {message.data}")
            elif message.type is WSMsgType.TEXT:
                raise ProtocolFault("a text message, where binary ones belong")
            elif message.type is not WSMsgType.PONG:
                return None

    def _decode(self, message: bytes) -> list[Call[Request] | Cancel | Hello]:
        try:
            return self._dispatcher.message_decoder.decode(message)
        except DECODE_FAULTS:
            return self._decode_one_by_one(message)

    def _decode_one_by_one(self, message: bytes) -> list[Call[Request] | Cancel | Hello]:
        """Something in `message` is wrong: answer the calls that are at fault, return the others."""
        try:
            frames = raw_request_decoder.decode(message)
        except DECODE_FAULTS as error:
            raise ProtocolFault(f"not frames of ours: {error}") from error
        good: list[Call[Request] | Cancel | Hello] = []
        for frame in frames:
            if not isinstance(frame, Call):
                good.append(frame)
                continue
            try:
                request = self._dispatcher.decode(frame.request)
            except GfsError as error:
                self._outbox.put(encode_frame(Answer(frame.id, error_reply(error))))
            else:
                good.append(Call(frame.id, frame.seconds_left, frame.trace, request))
        return good

    # --- answering -------------------------------------------------------------------------------

    async def _answer(self, call: Call[Request]) -> bool:
        """Run the call's handler. True when it had to wait, so that this task no longer leads."""
        if not self._accept(call):
            return False
        begun = self._dispatcher.begin(call.request, self._context(call))
        if isinstance(begun, Begun):
            self._conclude_when_done(call, begun)
            return False
        if isinstance(begun, Reply):
            self._put(call.id, begun)
            return False
        try:
            waits_for = begun.send(None)
        except StopIteration as done:
            self._put(call.id, done.value)
            return False
        task = asyncio.current_task()
        assert task is not None
        waiting = self._remember(call, task)
        self._hand_over()
        await self._finish(call, waiting, _resume(begun, waits_for))
        return True

    def _hand_over(self) -> None:
        """Another task leads from now on. What came together with a call that waits will likely wait too:
        those calls get their tasks at once, all in the loop's next turn, rather than one a turn.
        """
        rest: deque[Call[Request] | Cancel | Hello] = deque()
        for frame in self._inbox:
            if not isinstance(frame, Call) or not self._dispatcher.waits_in_task(frame.request):
                rest.append(frame)
            elif self._accept(frame):
                self._remember(frame, self._start(self._answer_alone(frame)))
        self._inbox = rest
        self._start(self._lead())

    async def _answer_alone(self, call: Call[Request]) -> None:
        answering = self._dispatcher.answer(call.request, self._context(call))
        await self._finish(call, self._waiting[call.id], answering)

    def _conclude_when_done(self, call: Call[Request], begun: Begun) -> None:
        waiting = self._remember(call, begun.later.future)

        def conclude(future: asyncio.Future[Any]) -> None:  # Any: only the handler knows what it brings
            if future.cancelled() and self._waiting.get(call.id) is not waiting:
                self._dispatcher.abandoned(begun)
                if waiting.late:
                    self._put(call.id, error_reply(_too_late(call)))
                    self._outbox.wake()
                return
            reply = self._dispatcher.conclude(begun)
            if isinstance(reply, Reply):
                self._waiting.pop(call.id, None)
                self._put(call.id, reply)
                self._outbox.wake()
            else:
                waiting.work = self._start(self._finish(call, waiting, reply))

        begun.later.future.add_done_callback(conclude)

    async def _finish(self, call: Call[Request], waiting: _WaitingCall, answering: Awaitable[Reply]) -> None:
        try:
            reply = await answering
        except asyncio.CancelledError:
            if not waiting.late:
                raise  # the caller took the call back, or the connection is over
            reply = error_reply(_too_late(call))
        finally:
            self._waiting.pop(call.id, None)
        if self._outbox.queued_bytes > SEND_QUEUE_BYTES_MAX:
            await self._outbox.room()
        self._put(call.id, reply)
        self._outbox.wake()

    def _accept(self, call: Call[Request]) -> bool:
        """False when the call was answered with a refusal instead."""
        if call.id in self._waiting:
            raise ProtocolFault(f"two open calls have the id {call.id}")
        if call.seconds_left <= 0:
            self._put(call.id, error_reply(_too_late(call)))
        elif len(self._waiting) >= CALLS_IN_FLIGHT_MAX:
            limit = f"more than {CALLS_IN_FLIGHT_MAX} calls in flight on one connection"
            self._put(call.id, error_reply(Overloaded(limit)))
        else:
            return True
        return False

    def _context(self, call: Call[Request]) -> CallContext:
        return CallContext(
            self._peer, call.trace, call.seconds_left, self._identity, self._credential, self._peer_node
        )

    def _remember(self, call: Call[Request], work: asyncio.Future[Any]) -> _WaitingCall:
        """From now on the call has a task or future of its own, cancelled when it is taken back or late."""
        deadline = self._loop.time() + call.seconds_left
        waiting = self._waiting[call.id] = _WaitingCall(work, deadline)
        if deadline < self._next_deadline:
            self._next_deadline = deadline
        if self._timer is None:
            self._timer = self._loop.call_later(TICK_SECONDS, self._watch)
        return waiting

    def _watch(self) -> None:
        now = self._loop.time()
        if now >= self._next_deadline:
            for call_id in [call_id for call_id, call in self._waiting.items() if call.deadline <= now]:
                waiting = self._waiting.pop(call_id)
                waiting.late = True
                waiting.work.cancel()
            self._next_deadline = min((call.deadline for call in self._waiting.values()), default=math.inf)
        self._timer = self._loop.call_later(TICK_SECONDS, self._watch) if self._waiting else None

    def _cancel(self, call_id: int) -> None:
        waiting = self._waiting.pop(call_id, None)  # None: answered while the cancellation was under way
        if waiting is not None:
            waiting.work.cancel()

    def _put(self, call_id: int, reply: Reply) -> None:
        try:
            frame = encode_frame(Answer(call_id, reply))
        except FrameTooLarge as error:
            frame = encode_frame(Answer(call_id, error_reply(error)))
        except Exception:
            _log.exception("a reply cannot be encoded", reply=type(reply).__name__, peer=self._peer)
            fault = InternalFault(f"the reply {type(reply).__name__} cannot be sent; the log tells why")
            frame = encode_frame(Answer(call_id, error_reply(fault)))
        self._outbox.put(frame)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _too_late(call: Call[Request]) -> DeadlineExceeded:
    return DeadlineExceeded(f"the call was not answered within its {call.seconds_left:.3f} s")


@types.coroutine
def _resume(coroutine: Coroutine[Any, Any, T], waits_for: object) -> Generator[Any, Any, T]:
    """Await a coroutine that was already driven to its first wait, by the same task that goes on here.

    Any: what passes between a coroutine and the loop is theirs.
    """
    try:
        while True:
            try:
                sent = yield waits_for
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:
                waits_for = coroutine.throw(error)
            else:
                waits_for = coroutine.send(sent)
    except StopIteration as done:
        result: T = done.value
        return result
