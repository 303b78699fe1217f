"""Snapshots as the leader takes them (GFS §3.4): lock, begin, revoke leases, copy step by step.

The log keeps the source as it is from the begin to the end, so whoever leads next goes on with what this
leader has begun. What a step does is core/snapshots'; leases are lease_revocation's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from gfs import failpoints
from gfs.clock import Clock
from gfs.errors import (
    DataUnavailable,
    GfsError,
    NotFound,
    NotLeader,
    Overloaded,
    PathBusy,
)
from gfs.master.callers import Callers, everybody
from gfs.master.commit import Commits
from gfs.master.copy_on_write import CopyOnWrite
from gfs.master.core.chunk_copies import reserved_copies
from gfs.master.core.lookup import inode_record, names_of
from gfs.master.core.records import TRASH_INODE, SnapshotJob
from gfs.master.core.snapshots import STEP_ROWS_MAX, jobs_under_way
from gfs.master.lease_revocation import LeaseRevocation
from gfs.master.reads import Reads
from gfs.messages import operations
from gfs.messages.base import Identity, Reply, Request
from gfs.messages.namespace import MutationReply
from gfs.messages.operations import RequestId
from gfs.messages.snapshots import TakeSnapshot
from gfs.telemetry import logger
from gfs.transport.interface import CallContext
from gfs.vocabulary import ChunkHandle, InodeId, Term

SNAPSHOTS_WAITING_MAX = 64  # taken or waiting for their locks
STEPS_AT_ONCE = 2  # one is on its way through the log while the other is applied
REVOKE_SECONDS_MAX = 10.0  # then a snapshot that finds no replica of a chunk is given up
RETRY_SECONDS = 0.1
WATCH_SECONDS = 1.0  # how soon a snapshot that nobody sees to its end is noticed

_log = logger("master.snapshots")


class SnapshotService:
    """Handlers of one master; what is under way goes on although its client has gone away."""

    def __init__(
        self,
        *,
        commits: Commits,
        reads: Reads,
        revocation: LeaseRevocation,
        copies: CopyOnWrite,
        clock: Clock,
        callers: Callers | None = None,
    ) -> None:
        self._commits = commits
        self._reads = reads
        self._revocation = revocation
        self._copies = copies
        self._clock = clock
        self._callers = callers or everybody()
        self._tasks: set[asyncio.Task[Any]] = set()  # Any: a request's answer, or nothing
        self._taking: dict[RequestId, asyncio.Task[MutationReply]] = {}  # a repeat waits with the first try
        self._driving: dict[InodeId, asyncio.Task[None]] = {}
        self._resuming: set[InodeId] = set()
        self._watching: asyncio.Task[None] | None = None

    async def take(self, request: Request, context: CallContext) -> Reply:
        """Answered when the copy is whole and in its place.

        Raises: InvalidPath, InvalidArgument (into itself, or of the root), NotFound, NotADirectory,
            AlreadyExists; DataUnavailable when a chunk may be written to and none of its replicas can be
            reached; Overloaded, NotLeader, OutcomeUnknown …
        """
        assert isinstance(request, TakeSnapshot)
        names_of(request.source)
        names_of(request.target)
        self._commits.leading()
        taking = None if request.request is None else self._taking.get(request.request)
        if taking is None:
            if len(self._tasks) >= SNAPSHOTS_WAITING_MAX:
                raise Overloaded(f"{len(self._tasks)} snapshots are under way or waiting")
            taking = self._start(self._take(request, self._callers.to_check(context)))
            if (asked := request.request) is not None:
                self._taking[asked] = taking
                taking.add_done_callback(lambda _: self._taking.pop(asked))
        return await asyncio.shield(taking)

    def lead(self, leads: bool, _term: Term) -> None:
        """Leadership has changed. As leader: go on with what an earlier one has begun."""
        self._commits.freezes.thaw_all()
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        if not leads:
            return
        for copy, job in jobs_under_way(self._reads.now()).items():
            self._go_on(copy, job)  # before any client is served: its leases may have been taken back already
        self._watching = self._start(self._watch())
        if left_over := reserved_copies(self._reads.now()):
            self._start(self._copies.forget(left_over))

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- one snapshot ---------------------------------------------------------------------------

    async def _take(self, request: TakeSnapshot, caller: Identity | None) -> MutationReply:
        operation = operations.BeginSnapshot(source=request.source, target=request.target)
        paths = names_of(request.source), names_of(request.target)
        while True:
            async with self._commits.freezes.locks.hold(write=paths):
                try:
                    begun = await self._commits.commit(operation, request.request, caller=caller)
                except PathBusy:
                    pass  # one that an earlier leader has begun, or too many
                else:
                    assert isinstance(begun, operations.Done), begun
                    failpoints.hit("snapshot.begun")
                    await self._drive(begun.inode)
                    break
            await self._commits.thawed()
        self._require_whole(begun.inode, request)
        return MutationReply(inode=begun.inode, applied_index=self._reads.applied_index())

    async def _watch(self) -> None:
        """See to what nobody sees to.

        A begin whose outcome nobody could tell may be in the log after all, and its client gone: the source
        would refuse every change for as long as this master leads. So with the reservation of a copy: it
        would hold replicas that are nobody's.
        """
        idle_before: set[ChunkHandle] = set()
        while True:
            await self._clock.sleep(WATCH_SECONDS)
            tables = self._reads.now()
            for copy, job in jobs_under_way(tables).items():
                if copy not in self._driving:
                    self._go_on(copy, job)
            idle = set(reserved_copies(tables)) - self._copies.under_way
            if left_over := sorted(idle & idle_before):
                with suppress(GfsError):  # next time
                    await self._copies.forget(left_over)
            idle_before = idle

    def _go_on(self, copy: InodeId, job: SnapshotJob) -> None:
        self._commits.freezes.freeze(copy, InodeId(job.source))
        if copy not in self._resuming:
            self._resuming.add(copy)
            self._start(self._resume(copy, job)).add_done_callback(lambda _: self._resuming.discard(copy))

    async def _resume(self, copy: InodeId, job: SnapshotJob) -> None:
        _log.info("a snapshot goes on", source=job.source_path, target=job.target_path)
        paths = names_of(job.source_path), names_of(job.target_path)
        async with self._commits.freezes.locks.hold(write=paths):
            await self._drive(copy)

    async def _drive(self, copy: InodeId) -> None:
        """Bring a snapshot to its end; a repeated request finds the one under way, or that it has ended."""
        driving = self._driving.get(copy)
        if driving is None:
            driving = self._driving[copy] = self._start(self._to_its_end(copy))
            driving.add_done_callback(lambda _: self._driving.pop(copy))
        await asyncio.shield(driving)

    async def _to_its_end(self, copy: InodeId) -> None:
        job = jobs_under_way(self._reads.now()).get(copy)
        if job is None:
            self._commits.freezes.thaw(copy)
            return
        self._commits.freezes.freeze(copy, InodeId(job.source))
        began = self._clock.monotonic()
        try:
            if not job.begun:
                await self._revoke(copy, job)
            failpoints.hit("snapshot.leases_revoked")
            revoked = self._clock.monotonic()
            await self._copy(copy)
            _log.info(
                "a snapshot was taken",
                source=job.source_path,
                target=job.target_path,
                revoking_seconds=round(revoked - began, 3),
                copying_seconds=round(self._clock.monotonic() - revoked, 3),
            )
        finally:
            # After the loss of leadership clients are not served here in any case.
            self._commits.freezes.thaw(copy)

    async def _revoke(self, copy: InodeId, job: SnapshotJob) -> None:
        give_up_at = self._clock.monotonic() + REVOKE_SECONDS_MAX
        while True:
            try:
                await self._revocation.revoke_below(InodeId(job.source))
                return
            except NotLeader:
                raise
            except GfsError as error:
                self._commits.leading()
                if self._clock.monotonic() < give_up_at:
                    await self._clock.sleep(RETRY_SECONDS)
                    continue
                _log.warning("a snapshot is given up", source=job.source_path, error=error.message)
                await self._commits.commit(operations.AbandonSnapshot(copy=copy))
                raise

    async def _copy(self, copy: InodeId) -> None:
        step = operations.CopySnapshot(copy=copy, rows=STEP_ROWS_MAX)
        while copy in jobs_under_way(self._reads.now()):
            try:
                await asyncio.gather(*(self._step(step) for _ in range(STEPS_AT_ONCE)))
            except NotLeader:
                raise
            except GfsError as error:
                self._commits.leading()
                _log.info("a step of a snapshot is made again", error=error.message)
                await self._clock.sleep(RETRY_SECONDS)
            failpoints.hit("snapshot.step")

    async def _step(self, step: operations.CopySnapshot) -> None:
        try:
            await self._commits.commit(step)
        except NotFound:
            pass  # the one before it was the last

    def _require_whole(self, copy: InodeId, request: TakeSnapshot) -> None:
        """Raises: DataUnavailable when it was given up, which a repeated request hears of only here."""
        record = inode_record(self._reads.now(), copy)
        if record is None or record.parent == TRASH_INODE:
            raise DataUnavailable(
                f"the snapshot of {request.source} to {request.target} was given up, because chunks that are "
                "written to could not be reached, or it has been deleted since",
                hint="Take it again when the chunk servers are back; see 'gfs status'.",
            )

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, GfsError):
                _log.info("a snapshot is left to the next leader, or refused", error=error.message)
            else:
                _log.error("taking a snapshot failed unexpectedly", error=repr(error))
