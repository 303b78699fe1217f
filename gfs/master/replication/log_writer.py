"""Group commit of the operation log: one batch at a time, written and synced by one worker thread.

A sync that fails ends the process: the kernel may have dropped the pages, so trying again could report
success for bytes that are gone. A full disk is no failure: the same batch is tried until there is room, and
meanwhile nothing is promised.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from functools import partial

from gfs.clock import Clock
from gfs.disk import OpenFile
from gfs.master.replication.log import Batch, OperationLog
from gfs.telemetry import logger

InWorker = Callable[[Callable[[], OpenFile]], asyncio.Future[OpenFile]]

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class LogWriter:
    def __init__(
        self,
        log: OperationLog,
        in_worker: InWorker,
        clock: Clock,
        *,
        slow_seconds: float,
        retry_seconds: float,
        on_settled: Callable[[], None],
        on_space_changed: Callable[[bool], None],
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._log, self._in_worker, self._clock = log, in_worker, clock
        self._slow_seconds, self._retry_seconds = slow_seconds, retry_seconds
        self._on_settled, self._on_space_changed, self._fatal = on_settled, on_space_changed, fatal
        self._task: asyncio.Task[None] | None = None
        self._busy_since: float | None = None
        self.out_of_space = False

    @property
    def is_slow(self) -> bool:
        """A sync is taking so long that the leader should hear from us without it."""
        if self.out_of_space:
            return True
        return (
            self._busy_since is not None and self._clock.monotonic() - self._busy_since > self._slow_seconds
        )

    @property
    def is_idle(self) -> bool:
        return self._task is None

    def kick(self) -> None:
        """See to it that everything changed so far becomes durable."""
        if self._task is None and self._log.sequence > self._log.durable_sequence:
            self._task = asyncio.get_running_loop().create_task(self._write_all(), name="operation log")

    async def drain(self) -> None:
        """Wait until all is durable, or until the disk turns out to be full."""
        self.kick()
        while self._task is not None and not self.out_of_space:
            await asyncio.wait([self._task], timeout=self._retry_seconds)

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _write_all(self) -> None:
        try:
            while (batch := self._log.take_batch()) is not None:
                self._busy_since = self._clock.monotonic()
                file = await self._write(batch)
                self._busy_since = None
                self._log.settle(batch, file)
                self._on_settled()
        except (OSError, AssertionError) as error:
            self._fatal(error)
        finally:
            self._busy_since = None
            self._task = None

    async def _write(self, batch: Batch) -> OpenFile:
        while True:
            try:
                file = await self._in_worker(partial(self._log.write, batch))
            except OSError as error:
                if error.errno not in _NO_SPACE:
                    raise
                if not self.out_of_space:
                    logger("raft").error("operation_log_disk_full", retry_seconds=self._retry_seconds)
                    self.out_of_space = True
                    self._on_space_changed(True)
                await self._clock.sleep(self._retry_seconds)
                continue
            if self.out_of_space:
                logger("raft").info("operation_log_has_space_again")
                self.out_of_space = False
                self._on_space_changed(False)
            return file
