"""What the programs know of the control wire: call a request, serve handlers. No library types leak.

Implementations: websocket_client / websocket_server, and an in-memory network in tests/fakes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from gfs.messages.base import NOBODY, Identity, Reply, Request
from gfs.vocabulary import Address

R = TypeVar("R", bound=Reply)


class CallContext(NamedTuple):
    """What a handler may know of the call it answers. `trace` follows a call across programs.

    `identity`: on whose behalf, as the caller says; nothing proves it.
    """

    peer: str
    trace: str
    seconds_left: float
    identity: Identity = NOBODY


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
