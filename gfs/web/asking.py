"""How a page asks its master: by the same handlers and with the same checks as any client. No HTML here."""

from __future__ import annotations

import asyncio
from typing import NamedTuple, TypeVar

from gfs.clock import Clock
from gfs.errors import (
    DeadlineExceeded,
    GfsError,
    InvalidArgument,
    NoQuorum,
    NotLeader,
    PermissionDenied,
    Unavailable,
)
from gfs.messages.base import NOBODY, Identity, Reply, Request
from gfs.messages.cluster import ClusterStatus, ClusterStatusReply
from gfs.telemetry import new_trace_id
from gfs.transport.dispatch import take_reply
from gfs.transport.interface import CallContext, Gate, Handlers
from gfs.vocabulary import Address
from gfs.web.limits import ASK_SECONDS, STATUS_SECONDS, TEXT_CHARS_MAX

R = TypeVar("R", bound=Reply)


class Caller(NamedTuple):
    """On whose behalf a page asks. `credential`: a token, in a cluster that wants them."""

    identity: Identity = NOBODY
    credential: str = ""
    signed_in: bool = False


class Asker:
    """`handlers`: those of this master, guarded. `gate`: looks at each call before, as on every wire."""

    def __init__(self, handlers: Handlers, clock: Clock, *, me: Address, gate: Gate | None) -> None:
        self._handlers = handlers
        self._gate = gate
        self._clock = clock
        self._me = me
        self._asking_status: asyncio.Task[ClusterStatusReply] | None = None
        self._status: tuple[float, ClusterStatusReply] | None = None

    async def ask(
        self,
        request: Request,
        expected: type[R],
        caller: Caller,
        *,
        seconds: float = ASK_SECONDS,
    ) -> R:
        """Raises: as the gate and the handler; DeadlineExceeded."""
        context = self.admit(request, caller, seconds=seconds)
        return await self._answer(request, expected, context, seconds)

    def admit(self, request: Request, caller: Caller, *, seconds: float = ASK_SECONDS) -> CallContext:
        """In which context the request is answered. Raises: as the gate."""
        context = CallContext("console", new_trace_id(), seconds, caller.identity, caller.credential)
        return context if self._gate is None else self._gate(request, context)

    async def _answer(self, request: Request, expected: type[R], context: CallContext, seconds: float) -> R:
        try:
            async with asyncio.timeout(seconds):
                reply = await self._handlers[type(request)](request, context)
        except TimeoutError as error:
            raise DeadlineExceeded(f"this master gave no answer within {seconds:g} s") from error
        return take_reply(reply, expected, self._me)

    async def status(self, caller: Caller) -> ClusterStatusReply:
        """Not older than STATUS_SECONDS; however many ask, one call to the other masters is under way.

        Raises: as the gate.
        """
        self.admit(ClusterStatus(), caller)
        known = self._status
        if known is not None and self._clock.monotonic() - known[0] < STATUS_SECONDS:
            return known[1]
        if self._asking_status is None or self._asking_status.done():
            self._asking_status = asyncio.get_running_loop().create_task(self._ask_status())
        return await asyncio.shield(self._asking_status)

    def forget_status(self) -> None:
        self._status = None

    async def _ask_status(self) -> ClusterStatusReply:
        context = CallContext("console", new_trace_id(), ASK_SECONDS)
        reply = await self._answer(ClusterStatus(), ClusterStatusReply, context, ASK_SECONDS)
        self._status = self._clock.monotonic(), reply
        return reply


class Asked(NamedTuple):
    """What a page is asked with, and by whom."""

    asker: Asker
    query: dict[str, str]
    caller: Caller

    async def ask(self, request: Request, expected: type[R]) -> R:
        """As Asker.ask."""
        return await self.asker.ask(request, expected, self.caller)

    async def ask_leader(self, request: Request, expected: type[R]) -> R | None:
        """None when only a leader knows, and this master is none; else as ask()."""
        try:
            return await self.ask(request, expected)
        except (NotLeader, NoQuorum, Unavailable):
            return None

    async def ask_if_allowed(self, request: Request, expected: type[R]) -> R | None:
        """None when the caller's token is not for this; else as ask()."""
        try:
            return await self.ask(request, expected)
        except PermissionDenied:
            return None

    async def status(self) -> ClusterStatusReply:
        """As Asker.status."""
        return await self.asker.status(self.caller)

    def text(self, name: str, default: str = "") -> str:
        """Raises: InvalidArgument."""
        value = self.query.get(name, default)
        if len(value) > TEXT_CHARS_MAX:
            raise InvalidArgument(f"{name} has {len(value)} characters: {TEXT_CHARS_MAX} at most")
        return value

    def number(self, name: str, default: int = 0) -> int:
        """Raises: InvalidArgument."""
        value = self.query.get(name, "") or str(default)
        if not value.isascii() or not value.isdigit() or len(value) > 20:
            raise InvalidArgument(f"{name}={value[:64]!r} is no number")
        return int(value)

    def handle(self, name: str) -> int:
        """A chunk handle as people see it. Raises: InvalidArgument."""
        value = self.query.get(name, "")
        try:
            return int(value, 16) if len(value) <= 16 else -1
        except ValueError as error:
            raise InvalidArgument(f"{value[:64]!r} is no chunk handle: 16 hexadecimal digits") from error


def told(error: GfsError) -> str:
    return f"{error.message}. {error.hint}" if error.hint else error.message
