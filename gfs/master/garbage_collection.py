"""Garbage collection as the leader carries it out (GFS §4.4): naming replicas, reclaiming what was deleted.

What is garbage is core/garbage's, how deleted files are taken apart core/reclamation's.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from gfs import failpoints
from gfs.clock import Clock
from gfs.errors import GfsError
from gfs.master.commit import Commits
from gfs.master.core.garbage import Garbage
from gfs.master.core.incarnation import read_incarnation
from gfs.master.core.steady_time import SteadyTime
from gfs.master.core.trash import reclaim_due
from gfs.master.reads import Reads
from gfs.messages.heartbeat import GarbageReplica
from gfs.messages.operations import Reclaim
from gfs.settings import RECLAIM_ROWS_MAX
from gfs.telemetry import Metrics, logger
from gfs.vocabulary import ServerId, Term

RECLAIMS_PER_TICK = 8  # records of a few milliseconds each: most of a tick is left to clients
WALK_CHUNKS_PER_TICK = 500
WALK_REST_SECONDS = 2.0

_log = logger("master.garbage")


class GarbageCollection:
    def __init__(
        self, *, commits: Commits, reads: Reads, clock: Clock, garbage: Garbage, metrics: Metrics
    ) -> None:
        self._commits = commits
        self._reads = reads
        self._clock = clock
        self._garbage = garbage
        self._time = SteadyTime()
        self._term: Term | None = None
        self._walk_at = 0.0
        self._reclaims = 0  # records since the trash was last up to date
        self._named = Counter(
            "gfs_garbage_named", "Replicas named to chunk servers for deletion", registry=metrics.registry
        )
        Gauge(
            "gfs_stale_replicas",
            "Replicas known to be stale, not collected yet",
            registry=metrics.registry,
        ).set_function(lambda: garbage.stale_count)

    async def name_for(self, server: ServerId) -> list[GarbageReplica]:
        """What this chunk server is to delete, asked at its heartbeat; nothing unless this master leads."""
        if not self._leads() or self._is_held():
            return []
        now = self._clock.monotonic()
        named = self._garbage.look(self._reads.now(), server, now=now)
        if self._garbage.may_have_stale(server, now=now):
            try:
                tables = await self._reads.linearizable()
            except GfsError:
                return named  # perhaps another master leads; orphans are orphans whoever says so
            if self._leads() and not self._is_held():
                named += self._garbage.stale(tables, server, now=self._clock.monotonic())
        if named:
            failpoints.hit("garbage.named")
            self._named.inc(len(named))
            _log.info("garbage is named to a chunk server", server=server, replicas=len(named))
        return named

    async def tick(self) -> None:
        """Every quarter of a second or so, by whoever leads."""
        if not self._leads() or self._is_held():
            return
        now = self._clock.monotonic()
        if now >= self._walk_at and self._garbage.walk(self._reads.now(), chunks_max=WALK_CHUNKS_PER_TICK):
            self._walk_at = now + WALK_REST_SECONDS
        for _ in range(RECLAIMS_PER_TICK):
            now_ms = self._time.now_ms(now=self._clock.monotonic(), wall_ms=self._clock.wall_ms())
            if not reclaim_due(self._reads.now(), now_ms=now_ms):
                if self._reclaims:
                    _log.info("what was deleted is reclaimed", steps=self._reclaims)
                    self._reclaims = 0
                return
            self._reclaims += 1
            try:
                failpoints.hit("trash.before_reclaim")
                await self._commits.commit(Reclaim(now_ms=now_ms, rows_max=RECLAIM_ROWS_MAX))
                failpoints.hit("trash.reclaimed")
            except GfsError as error:
                _log.info("reclaiming was put off", error=error.message)
                return

    def _is_held(self) -> bool:
        """By an operator, or since a state was put back; see core/incarnation."""
        return read_incarnation(self._reads.now()).garbage_held

    def _leads(self) -> bool:
        is_leading = self._commits.is_leading and self._reads.are_trusted
        term = self._commits.leading() if is_leading else None
        if term != self._term:
            self._term = term
            self._garbage.forget()
            self._time = SteadyTime()
            self._reclaims = 0
        return term is not None
