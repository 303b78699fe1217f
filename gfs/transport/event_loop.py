"""Which event loop a program runs on: uvloop where it is installed (twice the calls), else asyncio."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from gfs.errors import ConfigInvalid

T = TypeVar("T")

ENVIRONMENT_KEY = "GFS_LOOP"


def run(main: Coroutine[Any, Any, T], *, loop: str = "auto") -> T:
    """Run `main` to its end on a new loop: "auto", "uvloop" or "asyncio"; GFS_LOOP overrides.

    Raises: ConfigInvalid when uvloop is asked for by name and not installed, or the name is another.
    """
    # Any: what a coroutine passes to the loop is theirs
    try:
        factory = _factory(os.environ.get(ENVIRONMENT_KEY) or loop)
    except ConfigInvalid:
        main.close()
        raise
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def _factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    if name not in ("auto", "uvloop"):
        raise ConfigInvalid(f"there is no event loop {name!r}; it is auto, uvloop or asyncio")
    try:
        import uvloop
    except ImportError as error:
        if name == "auto":
            return asyncio.SelectorEventLoop
        raise ConfigInvalid("uvloop is not installed", hint="pip install 'pygfs[speed]'") from error
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
