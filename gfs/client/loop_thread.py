"""An event loop in a thread of its own, for code that has none. It knows nothing of files or clusters."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

from gfs.errors import Unavailable

T = TypeVar("T")


class LoopThread:
    """An event loop in a daemon thread, and the way into it from any other thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gfs-client", daemon=True)
        self._thread.start()
        self._stopped = False
        self._process = os.getpid()

    def run(self, work: Coroutine[Any, Any, T]) -> T:  # Any: what asyncio sends into a coroutine
        """Run `work` in the loop and wait for it; an interrupt of the waiting thread cancels it."""
        assert threading.current_thread() is not self._thread, "the sync client was called from its own loop"
        if self._stopped:
            work.close()
            raise Unavailable("this client is closed")
        if self._process != os.getpid():  # no thread survives a fork: nobody would do the work
            work.close()
            raise Unavailable(
                "this was opened by the process that this one was forked from",
                hint="Open it anew: the client itself can be used, and connects anew.",
            )
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError as error:
            raise Unavailable("this client was closed") from error
        except BaseException:
            future.cancel()
            raise

    def each(self, items: AsyncIterator[T]) -> Iterator[T]:
        """The items as they come."""

        async def following() -> T | None:
            return await anext(items, None)

        while (item := self.run(following())) is not None:
            yield item

    def finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`, which lets go of something, from anywhere.

        A finalizer may run in the loop's own thread, which cannot wait for itself, or in a child, where
        what would be let go of is the parent's.
        """
        if self._process != os.getpid() or self._stopped:
            work.close()
        elif threading.current_thread() is self._thread:
            self.begin(work)
        else:
            self.run(work)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` without waiting for it, from any thread; once the loop has stopped, not at all."""
        if self._stopped or self._process != os.getpid():
            work.close()
        else:
            asyncio.run_coroutine_threadsafe(work, self._loop)

    def stop(self) -> None:
        """End what other threads still wait for, and the loop."""
        self._stopped = True
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
