"""Which event loop a program runs on: uvloop where it is installed (twice the calls), else asyncio."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from gfs.errors import ConfigInvalid

T = TypeVar("T")

ENVIRONMENT_KEY = "GFS_LOOP"
COLLECT_EVERY_OBJECTS = 20_000


def run(main: Coroutine[Any, Any, T], *, loop: str = "auto") -> T:
    """Run `main` to its end on a new loop: "auto", "uvloop" or "asyncio"; GFS_LOOP overrides.

    For programs: it sets how often the whole process looks for garbage in cycles.

    Raises: ConfigInvalid when uvloop is asked for by name and not installed, or the name is another.
    """
    # Any: what a coroutine passes to the loop is theirs
    try:
        factory = _factory(os.environ.get(ENVIRONMENT_KEY) or loop)
    except ConfigInvalid:
        main.close()
        raise
    # What is loaded by now stays, and calls leave few cycles behind: looking for some at every 700th object
    # is a tenth of a loaded master's time.
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY_OBJECTS, 10, 10)
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
