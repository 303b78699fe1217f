"""How a request finds its handler and every outcome becomes a Reply. Knows no wire: all of them use it."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Coroutine
from typing import Any, NamedTuple, TypeVar

import msgspec

from gfs.errors import GfsError, InternalFault, InvalidArgument, ProtocolFault, from_code
from gfs.messages.base import Ack, ErrorReply, Ping, Reply, Request, method_name
from gfs.telemetry import logger, trace_id
from gfs.transport.call_tally import CallTally
from gfs.transport.frames import DECODE_FAULTS, error_reply, request_decoder
from gfs.transport.interface import Audit, CallContext, CallObserver, Gate, Handler, Handlers, Later
from gfs.vocabulary import Address

R = TypeVar("R", bound=Reply)

_log = logger("transport")


class Begun(NamedTuple):
    """A call whose handler waits for nothing but a future. `started`: as time.perf_counter()."""

    later: Later
    request: Request
    context: CallContext
    started: float


class Dispatcher:
    """The methods of one program. Answering never raises, cancellation aside."""

    def __init__(
        self,
        handlers: Handlers,
        *,
        role: str,
        tally: CallTally | None = None,
        observer: CallObserver | None = None,
        gate: Gate | None = None,
        audit: Audit | None = None,
    ) -> None:
        assert handlers, "a server without a single method"
        self.requests: tuple[type[Request], ...] = tuple(handlers)
        self.by_method = {method_name(kind): kind for kind in handlers}
        assert len(self.by_method) == len(handlers), "two requests share a method name"
        self._handlers: dict[type[Request], Handler] = dict(handlers)
        self._coroutines = frozenset(
            kind for kind, handler in handlers.items() if inspect.iscoroutinefunction(handler)
        )
        self._role = role
        self._tally = tally or CallTally()
        self._observer = observer
        self._gate, self._audit = gate, audit
        self.message_decoder = request_decoder(self.requests)
        self._request_decoders = {
            method: msgspec.msgpack.Decoder(kind) for method, kind in self.by_method.items()
        }

    def begin(self, request: Request, context: CallContext) -> Reply | Begun | Coroutine[Any, Any, Reply]:
        """Run the handler with the call's trace id bound, and turn whatever it raises into an ErrorReply.

        Returns: the reply, if the handler has failed at once; what conclude() makes one of when its future is
        done; or a coroutine that ends with it.
        """
        started = time.perf_counter()
        # Set in every call rather than reset after it: the tasks that run handlers do nothing else.
        trace_id.set(context.trace)
        try:
            if self._gate is not None:
                context = self._gate(request, context)
            answering = self._handlers[type(request)](request, context)
        except Exception as error:
            reply = self._refusal(error, request, context)
            self._told(request, reply, context, started)
            return reply
        if isinstance(answering, Later):
            return Begun(answering, request, context, started)
        return self._wait(answering, request, context, started)

    def conclude(self, begun: Begun) -> Reply | Coroutine[Any, Any, Reply]:
        """The reply to a call whose future is done, or a coroutine that ends with it."""
        later, request, context, started = begun
        trace_id.set(context.trace)
        try:
            reply = later.conclude()
            if not isinstance(reply, Reply):
                return self._wait(reply, request, context, started)
            _check(reply, request)
        except asyncio.CancelledError:
            reply = self._fault(request, context)  # not by the caller: see abandoned()
        except Exception as error:
            reply = self._refusal(error, request, context)
        self._told(request, reply, context, started)
        return reply

    def abandoned(self, begun: Begun) -> None:
        """The future of this call was cancelled, because its caller does not wait any more."""
        self._told(begun.request, None, begun.context, begun.started)

    async def answer(self, request: Request, context: CallContext) -> Reply:
        """As begin(), to the end."""
        begun = self.begin(request, context)
        if isinstance(begun, Reply):
            return begun
        return await (self._wait(*begun) if isinstance(begun, Begun) else begun)

    def waits_in_task(self, request: Request) -> bool:
        """Whether the handler of such a request needs a task when it waits."""
        return type(request) in self._coroutines

    async def _wait(
        self, answering: Awaitable[Reply], request: Request, context: CallContext, started: float
    ) -> Reply:
        reply: Reply | None = None
        trace_id.set(context.trace)
        try:
            reply = await answering
            _check(reply, request)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled this call: something it waited for was. Its caller must not wait for ever.
            reply = self._fault(request, context)
        except Exception as error:
            reply = self._refusal(error, request, context)
        finally:
            self._told(request, reply, context, started)
        return reply

    def _told(self, request: Request, reply: Reply | None, context: CallContext, started: float) -> None:
        """Count the call and tell the observer; without a reply it was cancelled."""
        seconds = time.perf_counter() - started
        code = "cancelled" if reply is None else reply.code if isinstance(reply, ErrorReply) else "ok"
        self._tally.count(type(request), code, seconds)
        if self._audit is not None:
            self._audit(request, context, code)
        if self._observer is not None:
            self._observer.called(
                request, reply, peer=context.peer, trace=context.trace, code=code, seconds=seconds
            )

    def _refusal(self, error: Exception, request: Request, context: CallContext) -> ErrorReply:
        return error_reply(error) if isinstance(error, GfsError) else self._fault(request, context)

    def _fault(self, request: Request, context: CallContext) -> ErrorReply:
        method = method_name(type(request))
        _log.exception("a handler failed unexpectedly", method=method, peer=context.peer)
        return error_reply(
            InternalFault(
                f"this {self._role} failed at {method}; its log tells why under request {context.trace}",
                details={"request_id": context.trace},
            )
        )

    def decode(self, encoded: msgspec.Raw | bytes) -> Request:
        """Decode one request alone, to say what is wrong with it.

        Raises: InvalidArgument naming the method that is unknown or the field that is wrong.
        """
        try:
            method = _peek_method(encoded)
            decoder = self._request_decoders.get(method)
            if decoder is None:
                raise InvalidArgument(f"this {self._role} has no method {method!r}")
            return decoder.decode(encoded)
        except DECODE_FAULTS as error:
            raise InvalidArgument(f"the request cannot be understood: {error}") from error


def _check(reply: Reply, request: Request) -> None:
    if not isinstance(reply, request.reply) and not isinstance(reply, ErrorReply):
        raise TypeError(f"{method_name(type(request))} answered with {type(reply).__name__}")


class _Tagged(msgspec.Struct):
    type: str


_peek_decoder = msgspec.msgpack.Decoder(_Tagged)


def _peek_method(encoded: msgspec.Raw | bytes) -> str:
    return _peek_decoder.decode(encoded).type


def take_reply(reply: Reply, expected: type[R], address: Address) -> R:
    """What a call returns for the reply that came.

    Raises: the error the peer answered with; ProtocolFault when it answered with another kind of reply.
    """
    if isinstance(reply, expected):
        return reply
    if isinstance(reply, ErrorReply):
        raise from_code(reply.code, reply.message, hint=reply.hint, details=reply.details)
    raise ProtocolFault(f"{address} answered with {type(reply).__name__} where {expected.__name__} belongs")


async def answer_ping(request: Request, _context: CallContext) -> Reply:
    """The handler of Ping, the same in every program."""
    assert isinstance(request, Ping)
    return Ack()
