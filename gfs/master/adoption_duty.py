"""After a state was put back: the leader hears all chunk servers and takes over what they have that is newer.

What is adopted is core/adoption's. Until everything from before is settled, its chunks are neither read nor
granted; after that, and until garbage is collected again, what late servers bring is adopted, too.
"""

from __future__ import annotations

import asyncio

from gfs.clock import Clock
from gfs.errors import GfsError, InvalidArgument, NotFound, StaleVersion
from gfs.master.commit import Commits
from gfs.master.core.adoption import adoptions, awaited_servers
from gfs.master.core.incarnation import Incarnation, read_incarnation
from gfs.master.core.locations import Locations
from gfs.master.reads import Reads
from gfs.messages.operations import SettleIncarnation
from gfs.telemetry import logger
from gfs.vocabulary import ChunkHandle, Term

LOOK_SECONDS = 0.5
REST_SECONDS = 0.005  # between two pages of a walk: the loop is for others meanwhile
WALK_CHUNKS = 1000  # a page: some milliseconds

_log = logger("master.adoption")


class AdoptionDuty:
    def __init__(
        self, *, commits: Commits, reads: Reads, locations: Locations, clock: Clock, patience_seconds: float
    ) -> None:
        """`patience_seconds`: how long chunk servers are awaited that say nothing."""
        self._commits, self._reads, self._locations, self._clock = commits, reads, locations, clock
        self._patience_seconds = patience_seconds
        self._term: Term | None = None
        self._leads_since = 0.0
        self._heard: dict[str, str] = {}  # servers at the last walk, with their incarnations

    async def run(self) -> None:
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """One look at whether there is something to do; never raises what a failing cluster can cause."""
        term = self._commits.leading() if self._commits.is_leading and self._reads.are_trusted else None
        now = self._clock.monotonic()
        if term != self._term:
            self._term, self._leads_since, self._heard = term, now, {}
        if term is None:
            return
        life = read_incarnation(self._reads.now())
        if not life.old_handles or (life.settled and not life.garbage_held):
            return
        if not self._locations.is_settled(now=now) or not self._is_time(life, now):
            return
        heard = self._reporting()
        if life.settled and heard == self._heard:
            return
        try:
            await self._walk(life)
            if not life.settled:
                await self._commits.commit(SettleIncarnation())
                _log.info("chunks from before this life are settled", life=life.name)
            self._heard = heard
        except GfsError as error:
            _log.info("taking over what chunk servers hold was put off", error=error.message)

    def _is_time(self, life: Incarnation, now: float) -> bool:
        if life.settled:
            return True
        awaited = awaited_servers(self._reads.now(), self._locations)
        if not awaited:
            return True
        if now - self._leads_since < self._patience_seconds:
            return False
        _log.warning("chunk servers are not waited for any longer", servers=awaited)
        return True

    def _reporting(self) -> dict[str, str]:
        return {server.id: server.incarnation for server in self._locations.servers() if server.reported}

    async def _walk(self, life: Incarnation) -> None:
        after: ChunkHandle | None = ChunkHandle(0)
        adopted = 0
        while after is not None:
            found, after = adoptions(
                self._reads.now(),
                self._locations,
                after=after,
                below=life.old_handles,
                chunks_max=WALK_CHUNKS,
            )
            results = await asyncio.gather(
                *(self._commits.commit(one) for one in found), return_exceptions=True
            )
            for one, result in zip(found, results, strict=True):
                if isinstance(
                    result, StaleVersion | InvalidArgument | NotFound
                ):  # granted, or deleted, meanwhile
                    _log.info("a replica is not taken over", handle=one.handle, why=result.message)
                elif isinstance(result, BaseException):
                    raise result
                else:
                    adopted += 1
            await self._clock.sleep(REST_SECONDS)
        if adopted:
            _log.warning("newer replicas than logged were taken over (§4.5)", chunks=adopted)
