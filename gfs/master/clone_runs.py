"""Clones and removals of replicas that are under way in one term of this leader. What to do is repair_duty's.

Each runs as a task; whatever comes of it is noted in the queue. They end with the term.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Protocol

from gfs.clock import Clock
from gfs.errors import GfsError
from gfs.master.core.clone_task import CloneTask
from gfs.master.core.repair_queue import RepairQueue
from gfs.master.core.replica_traffic import ReplicaTraffic
from gfs.telemetry import logger
from gfs.vocabulary import ChunkHandle, ChunkIndex, InodeId, ServerId

REMOVALS_MAX = 4  # needless replicas given up at once

_log = logger("master.repair")


class CarriesOut(Protocol):
    """ReplicaMoves, as this is used here."""

    async def carry_out(self, task: CloneTask) -> None:
        """Make the replica and enter it in the chunk's set. Raises: GfsError; then nothing is worse."""
        ...

    async def remove_replica(
        self, inode: InodeId, index: ChunkIndex, handle: ChunkHandle, server: ServerId
    ) -> None:
        """Take a member out of the chunk's set. Raises: GfsError; then nothing is worse."""
        ...


class CloneRuns:
    """Begins what it is told to begin, and tells `ended` of each clone that ended in this term, and whether
    the replica was made."""

    def __init__(
        self,
        moves: CarriesOut,
        queue: RepairQueue,
        traffic: ReplicaTraffic,
        clock: Clock,
        ended: Callable[[CloneTask, bool], None],
    ) -> None:
        self._moves = moves
        self._queue = queue
        self._traffic = traffic
        self._clock = clock
        self._ended = ended
        self.removals_begun = 0
        self._is_over = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._removing: set[ChunkHandle] = set()

    def cancel(self) -> None:
        """The term is over."""
        self._is_over = True
        for task in self._tasks:
            task.cancel()

    def begin(self, task: CloneTask, *, source: ServerId, members: Collection[ServerId], now: float) -> None:
        """`members` of the chunk's set, as it is."""
        self._queue.begin(task, source, now=now)
        self._traffic.began(task)
        self._run(self._carry_out(task, leaves_first=task.target in members), "clone")

    def give_up(self, inode: InodeId, index: ChunkIndex, handle: ChunkHandle, server: ServerId) -> None:
        """Remove a needless replica, unless enough others are being removed; who asked will ask again."""
        if len(self._removing) < REMOVALS_MAX and handle not in self._removing:
            self._removing.add(handle)
            self.removals_begun += 1
            self._run(self._remove(inode, index, handle, server), "removal")

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:  # Any: unused
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, task: CloneTask, *, leaves_first: bool) -> None:
        failure = "it failed unexpectedly; see the leader's log"
        try:
            if leaves_first:
                # A member whose replica is useless: only a stranger can be copied to.
                await self._moves.remove_replica(task.inode, task.index, task.handle, task.target)
            await self._moves.carry_out(task)
            failure = ""
        except GfsError as error:
            failure = error.message
        except Exception:
            _log.exception("a clone failed unexpectedly", chunk=f"{task.handle:x}", target=task.target)
        if self._is_over:
            return
        now = self._clock.monotonic()
        self._traffic.ended(task, made=not failure)
        if failure:
            self._queue.fail(task.handle, failure, now=now)
            _log.info("a clone failed", chunk=f"{task.handle:x}", target=task.target, error=failure)
        else:
            self._queue.succeed(task.handle, now=now)
        self._ended(task, not failure)

    async def _remove(self, inode: InodeId, index: ChunkIndex, handle: ChunkHandle, server: ServerId) -> None:
        try:
            await self._moves.remove_replica(inode, index, handle, server)
        except GfsError as error:
            _log.info("a needless replica stays", chunk=f"{handle:x}", server=server, error=error.message)
        except Exception:
            _log.exception("a removal failed unexpectedly", chunk=f"{handle:x}", server=server)
        finally:
            self._removing.discard(handle)
