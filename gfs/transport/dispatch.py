"""How a request finds its handler and every outcome becomes a Reply. Knows no wire: all of them use it."""

from __future__ import annotations

import asyncio
import time
from typing import TypeVar

import msgspec

from gfs.errors import GfsError, InternalFault, InvalidArgument, ProtocolFault, from_code
from gfs.messages.base import Ack, ErrorReply, Ping, Reply, Request, method_name
from gfs.telemetry import logger, trace_id
from gfs.transport.call_tally import CallTally
from gfs.transport.frames import DECODE_FAULTS, error_reply, request_decoder
from gfs.transport.interface import CallContext, CallObserver, Handler, Handlers
from gfs.vocabulary import Address

R = TypeVar("R", bound=Reply)

_log = logger("transport")


class Dispatcher:
    """The methods of one program. `answer` never raises, cancellation aside."""

    def __init__(
        self,
        handlers: Handlers,
        *,
        role: str,
        tally: CallTally | None = None,
        observer: CallObserver | None = None,
    ) -> None:
        assert handlers, "a server without a single method"
        self.requests: tuple[type[Request], ...] = tuple(handlers)
        self.by_method = {method_name(kind): kind for kind in handlers}
        assert len(self.by_method) == len(handlers), "two requests share a method name"
        self._handlers: dict[type[Request], Handler] = dict(handlers)
        self._role = role
        self._tally = tally or CallTally()
        self._observer = observer
        self.message_decoder = request_decoder(self.requests)
        self._request_decoders = {
            method: msgspec.msgpack.Decoder(kind) for method, kind in self.by_method.items()
        }

    async def answer(self, request: Request, context: CallContext) -> Reply:
        """Run the handler with the call's trace id bound, and turn whatever it raises into an ErrorReply."""
        kind = type(request)
        started = time.perf_counter()
        code = "cancelled"
        reply: Reply | None = None
        # Set in every call rather than reset after it: the tasks that run handlers do nothing else.
        trace_id.set(context.trace)
        try:
            reply = await self._handlers[kind](request, context)
            if isinstance(reply, ErrorReply):
                code = reply.code
            elif isinstance(reply, kind.reply):
                code = "ok"
            else:
                raise TypeError(f"{method_name(kind)} answered with {type(reply).__name__}")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled this call: something it waited for was. Its caller must not wait for ever.
            code = InternalFault.code
            reply = self._fault(method_name(kind), context)
        except GfsError as error:
            code = error.code
            reply = error_reply(error)
        except Exception:
            code = InternalFault.code
            reply = self._fault(method_name(kind), context)
        finally:
            seconds = time.perf_counter() - started
            self._tally.count(kind, code, seconds)
            if self._observer is not None:
                self._observer.called(
                    request, reply, peer=context.peer, trace=context.trace, code=code, seconds=seconds
                )
        return reply

    def _fault(self, method: str, context: CallContext) -> ErrorReply:
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
