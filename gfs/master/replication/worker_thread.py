"""One thread that does blocking work for the loop, a piece at a time. Knows nothing of the work.

An executor does the same for many threads; its locks, conditions and futures cost more than handing over the
work itself, and the operation log pays that at every entry, on every master.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class WorkerThread:
    """run() from the loop it was made on. What was given to it is done in order."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        # Any: results of whatever the callers ask for
        self._work: SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        # A daemon: a disk that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Result or exception of `work`. It is done to its end also when nobody waits for it any more."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._work.put((future, work))
        return future

    def stop(self) -> None:
        """Wait until everything is done. run() must not be called any more."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            future, work = item
            result: Any = None  # Any: as above
            error: Exception | None = None
            try:
                result = work()
            except Exception as raised:
                error = raised
            try:
                self._loop.call_soon_threadsafe(_settle, future, result, error)
            except RuntimeError:
                return  # the loop is closed
            del item, future, work, result, error  # not kept alive until the next piece


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:  # Any: as above
    if future.done():
        return  # cancelled
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
