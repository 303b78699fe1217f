"""What a master does without being asked: expire, scan, say who died. Nobody waits for it.

Every master watches and counts; only the leader proposes.
"""

from __future__ import annotations

from gfs.clock import Clock
from gfs.errors import GfsError
from gfs.master.commit import Commits
from gfs.master.core.idle_sessions import IdleSessions
from gfs.master.core.leases import LeaseTable
from gfs.master.core.locations import Locations
from gfs.master.core.replication_scan import ReplicationScan
from gfs.master.core.tenure import tenures
from gfs.master.garbage_collection import GarbageCollection
from gfs.master.reads import Reads
from gfs.messages.operations import ForgetSessions
from gfs.telemetry import logger
from gfs.vocabulary import ServerId

TICK_SECONDS = 0.25
PAUSE_SECONDS_MIN = 1.0  # a tick so late means that this process, or its machine, was stopped
SCAN_CHUNKS_PER_TICK = 500  # about 5 ms of reading
SCAN_REST_SECONDS = 10.0  # between two walks over all chunks
FORGET_SECONDS = 60.0
FORGET_CLIENTS_MAX = 256  # looked at by one ForgetSessions: keeps its apply short
LEASE_KEEP_SECONDS = 600.0  # an expired lease still proves that its grant was completed

_log = logger("master.duties")


class Duties:
    """Run `run()` as one task; each `tick()` is short and never raises what a caller could cause."""

    def __init__(
        self,
        *,
        clock: Clock,
        commits: Commits,
        reads: Reads,
        locations: Locations,
        leases: LeaseTable,
        scan: ReplicationScan,
        garbage: GarbageCollection,
        settle_seconds: float,
    ) -> None:
        self._clock = clock
        self._commits = commits
        self._reads = reads
        self._locations = locations
        self._leases = leases
        self._scan = scan
        self._garbage = garbage
        self._settle_seconds = settle_seconds
        now = clock.monotonic()
        self._due_at = now
        self._scan_at = now
        self._forget_at = now + FORGET_SECONDS
        self._idle = IdleSessions()
        self._alive: dict[ServerId, bool] = {}
        locations.unsettle(until=now + settle_seconds)

    async def run(self) -> None:
        while True:
            self._due_at = self._clock.monotonic() + TICK_SECONDS
            await self._clock.sleep(TICK_SECONDS)
            await self.tick()

    async def tick(self) -> None:
        now = self._clock.monotonic()
        if now - self._due_at > PAUSE_SECONDS_MIN:
            # Heartbeats that came meanwhile wait unread: silence says nothing of the servers yet.
            _log.warning("this master was stopped for a while", seconds=round(now - self._due_at, 3))
            self._locations.unsettle(until=now + self._settle_seconds)
        self._watch_servers(now)
        self._leases.expire(now=now, keep_seconds=LEASE_KEEP_SECONDS)
        if now >= self._scan_at and self._scan.step(
            self._reads.now(), self._locations, now=now, chunks_max=SCAN_CHUNKS_PER_TICK
        ):
            self._scan_at = now + SCAN_REST_SECONDS
        leads = self._commits.leading() if self._commits.is_leading else None
        self._idle.note(leads, now=now, wall_ms=self._clock.wall_ms())
        if leads is not None:
            await self._propose_due(now)
        await self._garbage.tick()

    def _watch_servers(self, now: float) -> None:
        if not self._locations.is_settled(now=now):
            return
        for server_id, tenure in tenures(self._reads.now()).items():
            if tenure == "removed":
                self._locations.forget(server_id)
                self._alive.pop(server_id, None)
        for server in self._locations.servers():
            alive = self._locations.is_alive(server.id, now=now)
            before = self._alive.get(server.id)
            self._alive[server.id] = alive
            if alive and before is False:
                _log.info("chunk server is back", server=server.id, address=server.control)
            elif alive and before is None:
                _log.info("chunk server joined", server=server.id, address=server.control, rack=server.rack)
            elif not alive and before is not False:
                _log.warning(
                    "chunk server is dead: no heartbeat",
                    server=server.id,
                    address=server.control,
                    silent_seconds=round(now - server.heard_at, 1),
                    chunks=server.chunk_count,
                )

    async def _propose_due(self, now: float) -> None:
        try:
            idle_since_ms = self._idle.idle_since_ms(now=now, wall_ms=self._clock.wall_ms())
            if now >= self._forget_at and idle_since_ms is not None:
                self._forget_at = now + FORGET_SECONDS
                await self._commits.commit(
                    ForgetSessions(idle_since_ms=idle_since_ms, limit=FORGET_CLIENTS_MAX)
                )
        except GfsError as error:  # leadership moved
            _log.info("a duty was put off", error=error.message)
