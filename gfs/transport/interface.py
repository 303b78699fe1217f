"""What the programs know of the control wire: call a request, serve handlers. No library types leak.

Implementations: websocket_client / websocket_server, and an in-memory network in tests/fakes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from gfs.messages.base import NOBODY, Identity, Reply, Request
from gfs.tls import NOBODY as NOBODY_CERTIFIED
from gfs.tls import NodeName
from gfs.vocabulary import Address

R = TypeVar("R", bound=Reply)
T = TypeVar("T")


class CallContext(NamedTuple):
    """What a handler may know of the call it answers. `trace` follows a call across programs.

    `identity`: on whose behalf, as the caller says; nothing proves it. `credential`: what the caller shows to
    prove who it is (see gfs.credentials), never to be logged. `node`: of whose verified certificate the
    connection is, of nobody's without TLS.
    """

    peer: str
    trace: str
    seconds_left: float
    identity: Identity = NOBODY
    credential: str = ""
    node: NodeName = NOBODY_CERTIFIED


# Looks at a call before its handler does: returns the context it is answered in, or raises a GfsError.
Gate = Callable[[Request, CallContext], CallContext]

# Hears of each call once it was answered, in which context and with which code; never waits, never raises.
Audit = Callable[[Request, CallContext, str], None]


class Later(Awaitable[Reply]):
    """A reply that follows from a future, of a handler that waits for nothing else. It costs no task.

    Of a handler that is no coroutine function: what it can do at once it has done when it returns this. Once
    the future is done, `conclude` makes the reply of it, or raises, or gives something more to wait for.
    Awaiting a Later does all that, too. Cancelling the future ends the call.
    """

    __slots__ = ("_conclude", "future")

    def __init__(
        self, future: asyncio.Future[T], conclude: Callable[[asyncio.Future[T]], Reply | Awaitable[Reply]]
    ) -> None:
        self.future: asyncio.Future[Any] = future  # Any: only `conclude` knows what it brings
        self._conclude: Callable[[asyncio.Future[Any]], Reply | Awaitable[Reply]] = conclude

    def conclude(self) -> Reply | Awaitable[Reply]:
        """Call it once, when the future is done."""
        return self._conclude(self.future)

    def __await__(self) -> Generator[Any, Any, Reply]:  # Any: what passes to the loop is asyncio's
        return self._wait().__await__()

    async def _wait(self) -> Reply:
        try:
            await self.future
        except Exception:
            assert self.future.done()  # conclude() is shown it
        reply = self.conclude()
        return reply if isinstance(reply, Reply) else await reply


# A coroutine function, or a plain one that returns a Later where many calls wait for one thing.
Handler = Callable[[Request, CallContext], Awaitable[Reply]]
Handlers = Mapping[type[Request], Handler]


class CallObserver(Protocol):
    """Hears of each call once it was answered: an RPC log. Called from the loop and from bulk threads."""

    def called(
        self, request: Request, reply: Reply | None, *, peer: str, trace: str, code: str, seconds: float
    ) -> None:
        """A control call; `reply` is None when it was cancelled. Never waits."""
        ...

    def moved(
        self,
        method: str,
        head: dict[str, Any],  # Any: the fields of a bulk head
        *,
        peer: str,
        trace: str,
        code: str,
        seconds: float,
        moved_bytes: int,
    ) -> None:
        """A bulk read or push; `moved_bytes` of file data, which are not shown. Never waits."""
        ...


class RpcCaller(Protocol):
    async def call(
        self, address: Address, request: Request, expected: type[R], *, deadline_seconds: float
    ) -> R:
        """Send one request and wait for its reply. Many may be in flight to one address.

        Raises: the GfsError the peer answered with; Unavailable when no connection could be made
        (definite: nothing was sent); ConnectionLost or DeadlineExceeded once it may have been.
        Cancelling the caller cancels the handler on the other side.
        """
        ...

    async def close(self) -> None: ...
