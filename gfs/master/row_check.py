"""Whether the rows of this master's state are those of its digest: all read once, beside everything else.

The digest follows the writes (core/digest); a row that was changed behind our back (a flipped bit, somebody
with a tool) does not move it. So each master reads all its rows after a start, and when an operator asks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

from gfs.master.core.digest import DIGEST_BYTES, digest_rows
from gfs.master.core.records import DIGEST_KEY
from gfs.master.core.tables import ReadTables, Table
from gfs.master.state_machine import ReplicatedState
from gfs.telemetry import logger

REST_PER_WORK = 3.0  # a thread that hashes rows takes turns with the loop for the interpreter
STEP_ROWS = 500  # between two rests: about a millisecond of work

_log = logger("master.rows")


class RowCheck:
    """`result`: empty, running, sound or unsound."""

    def __init__(self, state: ReplicatedState) -> None:
        self._state = state
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.result = ""
        state.on_replaced(self._forget)

    def start(self) -> None:
        """Begin to read, unless that is under way."""
        if not self._stopping and (self._task is None or self._task.done()):
            self.result = "running"
            self._task = asyncio.get_running_loop().create_task(self._run(), name="row-check")

    def _forget(self) -> None:
        self.result = ""  # nothing is known of the new state

    async def wait(self) -> str:
        if self._task is not None:
            await asyncio.shield(self._task)
        return self.result

    async def stop(self) -> None:
        """The file must not be closed under the thread: it is told to end, and waited for."""
        self._stopping = True
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        state, started = self._state.state, time.perf_counter()
        with self._state.held() as tables:
            unhurried = _Unhurried(tables, lambda: self._stopping)
            sound = await asyncio.get_running_loop().run_in_executor(None, rows_are_sound, unhurried)
        if sound is None or state is not self._state.state:
            self.result = ""  # it is not known, or was of a state that has been replaced
            return
        self.result = "sound" if sound else "unsound"
        say = _log.info if sound else _log.error
        say("rows were read", rows=self.result, seconds=round(time.perf_counter() - started, 1))


def rows_are_sound(tables: ReadTables) -> bool | None:
    """None: reading was given up."""
    kept = tables.get(Table.META, DIGEST_KEY) or b""
    try:
        return len(kept) == DIGEST_BYTES and int.from_bytes(kept, "big") == digest_rows(tables)
    except _GivenUp:
        return None


class _GivenUp(Exception):
    pass


class _Unhurried:
    """Tables that are read with rests."""

    def __init__(self, tables: ReadTables, is_stopping: Callable[[], bool]) -> None:
        self.get = tables.get
        self._scan, self._is_stopping = tables.scan, is_stopping

    def scan(
        self, table: Table, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        began = time.perf_counter()
        for number, row in enumerate(self._scan(table, start, stop), start=1):
            yield row
            if number % STEP_ROWS == 0:
                time.sleep(REST_PER_WORK * (time.perf_counter() - began))
                began = time.perf_counter()
                if self._is_stopping():
                    raise _GivenUp
