"""Live pages: one event stream for each page somebody looks at, each rendered once for all who look at it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gfs.clock import Clock
from gfs.errors import GfsError, Overloaded
from gfs.web.limits import LIVE_SECONDS, LIVE_STREAMS_MAX

Render = Callable[[], Awaitable[bytes]]


class LiveParts:
    """The newest rendering by what is looked at; renderings that nobody looks at any more are dropped."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._parts: dict[object, tuple[float, asyncio.Task[bytes]]] = {}
        self._streams = 0

    @property
    def streams(self) -> int:
        return self._streams

    def enter(self) -> None:
        """A stream begins. Raises: Overloaded."""
        if self._streams >= LIVE_STREAMS_MAX:
            raise Overloaded(f"{LIVE_STREAMS_MAX} live pages are open on this master")
        self._streams += 1

    def leave(self) -> None:
        self._streams -= 1

    async def part(self, seen: object, render: Render) -> bytes:
        """Not older than LIVE_SECONDS. Raises: what `render` raises."""
        now = self._clock.monotonic()
        known = self._parts.get(seen)
        if known is None or now - known[0] >= LIVE_SECONDS * 0.9:
            stale = [key for key, (at, _) in self._parts.items() if now - at > 2 * LIVE_SECONDS]
            for key in stale:
                del self._parts[key]
            known = now, asyncio.ensure_future(render())
            self._parts[seen] = known
        return await asyncio.shield(known[1])


def as_event(part: bytes) -> bytes:
    """One server-sent event: each line of it on a data line of its own."""
    lines = part.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"


async def next_event(parts: LiveParts, seen: object, render: Render) -> bytes:
    """A comment when the page cannot be made for the moment: what is seen stays, and says how old it is."""
    try:
        return as_event(await parts.part(seen, render))
    except GfsError:
        return b": nothing new\n\n"
