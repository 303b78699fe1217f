"""The one place in the tests that waits for real time: until something is so. Virtual time is elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

T = TypeVar("T")
PATIENCE_SECONDS = 40.0
POLL_SECONDS = 0.02


async def eventually(
    ask: Callable[[], Awaitable[T | None]], what: str, seen: Callable[[], object] = lambda: ""
) -> T:
    """Poll until `ask` gives something other than None.

    `seen`: what a failure should tell besides.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = await ask()
        if found is not None:
            return found
        assert time.monotonic() < deadline, f"never happened: {what} {seen()}"
        await asyncio.sleep(POLL_SECONDS)


async def until(is_so: Callable[[], Awaitable[bool]], what: str) -> None:
    """Poll until `is_so` says yes."""

    async def ask() -> Literal[True] | None:
        return True if await is_so() else None

    await eventually(ask, what)
