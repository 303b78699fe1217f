"""What a leader does about replicas that may lack acknowledged bytes since a power cut of their server.

Such a replica holds the chunk's version like any other, so it counts as a good one, and the loss of the
others would lose what they alone have. A grant tells: it compares the members' lengths, and who has less is
in the set no more (core/grants). The next writer would bring one about; an idle chunk needs one now. Only
while all members are there: a grant shuts out who is away, and the whole replica may be just that one.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from gfs.clock import Clock
from gfs.errors import GfsError
from gfs.master.commit import Commits
from gfs.master.core.chunk_homes import ChunkHomes, Home
from gfs.master.core.locations import Locations
from gfs.master.core.lookup import chunk_by_handle
from gfs.master.core.tables import ReadTables
from gfs.master.damage_duty import Urge
from gfs.master.reads import Reads
from gfs.telemetry import logger
from gfs.vocabulary import ChunkHandle, ChunkIndex, InodeId

_log = logger("master.settling")

TICK_SECONDS = 0.25
LOOKS_PER_TICK = 1000  # unsettled replicas, and chunks of the walk for those whose file is not known
UNDER_WAY_MAX = 8
AGAIN_SECONDS = 5.0  # after one try at a chunk, whatever came of it
REMEMBERED_MAX = 65_536


class SettleReplicas(Protocol):
    async def __call__(self, inode: InodeId, index: ChunkIndex, handle: ChunkHandle) -> None: ...


class SettlingDuty:
    """Run `run()` as one task. Does nothing while this master does not lead."""

    def __init__(
        self,
        *,
        commits: Commits,
        reads: Reads,
        locations: Locations,
        homes: ChunkHomes,
        clock: Clock,
        settle: SettleReplicas,
        urge: Urge,
    ) -> None:
        self._commits = commits
        self._reads = reads
        self._locations = locations
        self._homes = homes
        self._clock = clock
        self._settle = settle
        self._urge = urge
        self._again_at: dict[ChunkHandle, float] = {}
        self._under_way: dict[ChunkHandle, asyncio.Task[None]] = {}

    async def run(self) -> None:
        try:
            while True:
                await self._clock.sleep(TICK_SECONDS)
                self.tick()
        finally:
            for task in list(self._under_way.values()):
                task.cancel()

    def tick(self) -> None:
        """Begin what is to be done, and look on for the files of unsettled chunks; short."""
        if not self._commits.is_leading:
            self._again_at.clear()
            return
        tables, now = self._reads.now(), self._clock.monotonic()
        homeless: set[ChunkHandle] = set()
        for handle in self._due(tables, now):
            home = self._homes.find(tables, handle)
            if home is None:
                homeless.add(handle)
            elif len(self._under_way) < UNDER_WAY_MAX:
                self._again_at[handle] = now + AGAIN_SECONDS
                self._start(handle, home)
        if homeless:
            self._homes.search(tables, homeless, chunks_max=LOOKS_PER_TICK)

    def _due(self, tables: ReadTables, now: float) -> list[ChunkHandle]:
        """Chunks with an unsettled member, all of whose members are there."""
        if len(self._again_at) > REMEMBERED_MAX:
            self._again_at.clear()
        found: dict[ChunkHandle, None] = {}
        looks = 0
        for server in self._locations.alive(now=now):
            for handle in server.unsettled:
                if handle in found or handle in self._under_way or now < self._again_at.get(handle, now):
                    continue
                looks += 1
                if looks > LOOKS_PER_TICK:
                    return list(found)
                chunk = chunk_by_handle(tables, handle)
                if chunk is None or server.id not in chunk.replicas:
                    self._again_at[handle] = now + AGAIN_SECONDS
                elif all(self._locations.is_alive(member, now=now) for member in chunk.replicas):
                    found[handle] = None
        return list(found)

    def _start(self, handle: ChunkHandle, home: Home) -> None:
        task = asyncio.get_running_loop().create_task(self._settle_one(handle, home))
        self._under_way[handle] = task

        def ended(_: asyncio.Task[None]) -> None:
            del self._under_way[handle]
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.warning("replicas stay unsettled for now", handle=handle, error=repr(error))

        task.add_done_callback(ended)

    async def _settle_one(self, handle: ChunkHandle, home: Home) -> None:
        try:
            await self._settle(*home, handle)
        except GfsError as error:
            _log.warning("replicas stay unsettled for now", handle=handle, error=error.message)
        else:
            self._urge(*home)  # a replica that had less is missing now
