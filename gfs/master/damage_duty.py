"""What a leader does about replicas that are said to be damaged (GFS §5.2). Cloning itself is replica_moves'.

A damaged replica is handed out to nobody from the heartbeat on that names it. Then:
- the others are good, or damaged too: it leaves the chunk's set by a logged grant, and a clone is asked for.
  Its bytes are collected once the chunk has as many good replicas as it should (a last resort until then);
- some are good, others away: a clone is asked for at once; who leaves is decided when it is made. To fence
  the chunk now would shut out members that are back in a moment;
- none is good: each damaged one is asked to mend itself with the blocks that others still have, also those
  that have left the set: what they have missed shows in the checksums. What nobody has whole stays as it is:
  its good blocks can be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from gfs.clock import Clock
from gfs.errors import GfsError
from gfs.master.chunk_service import damaged_members
from gfs.master.commit import Commits
from gfs.master.core.chunk_homes import ChunkHomes, Home
from gfs.master.core.chunk_risk import RiskJudge
from gfs.master.core.locations import Locations
from gfs.master.core.lookup import chunk_by_handle
from gfs.master.core.records import ChunkRecord
from gfs.master.core.tables import ReadTables
from gfs.master.reads import Reads
from gfs.messages.check import MendReplica, MendReplicaReply, ReplicaVersion
from gfs.telemetry import logger
from gfs.transport.interface import RpcCaller
from gfs.vocabulary import ChunkHandle, ChunkIndex, ClusterId, InodeId, ServerId

_log = logger("master.damage")

TICK_SECONDS = 0.1
LOOKS_PER_TICK = 1000  # damaged replicas, and chunks of the walk for those whose file is not known
UNDER_WAY_MAX = 8
AGAIN_SECONDS = 5.0  # after one try at a damaged replica, whatever came of it
REMEMBERED_MAX = 65_536
MEND_SECONDS = 30.0


class RemoveReplica(Protocol):
    async def __call__(
        self, inode: InodeId, index: ChunkIndex, handle: ChunkHandle, server: ServerId
    ) -> None: ...


class Urge(Protocol):
    """Ask for the repair of one chunk before others."""

    def __call__(self, inode: InodeId, index: ChunkIndex) -> None: ...


@dataclass(frozen=True, slots=True)
class _Damaged:
    chunk: ChunkRecord
    server: ServerId


class DamageDuty:
    """Run `run()` as one task. Does nothing while this master does not lead."""

    def __init__(
        self,
        *,
        cluster: ClusterId,
        commits: Commits,
        reads: Reads,
        locations: Locations,
        homes: ChunkHomes,
        rpc: RpcCaller,
        clock: Clock,
        remove: RemoveReplica,
        urge: Urge,
    ) -> None:
        self._cluster = cluster
        self._commits = commits
        self._reads = reads
        self._locations = locations
        self._homes = homes
        self._rpc = rpc
        self._clock = clock
        self._remove = remove
        self._urge = urge
        self._again_at: dict[tuple[ChunkHandle, ServerId], float] = {}
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
        """Begin what is to be done, and look on for the files of damaged chunks; short."""
        if not self._commits.is_leading:
            self._again_at.clear()
            return
        tables, now = self._reads.now(), self._clock.monotonic()
        homeless: set[ChunkHandle] = set()
        for damaged in self._due(tables, now):
            handle = damaged.chunk.handle
            home = self._homes.find(tables, handle)
            if home is None:
                homeless.add(handle)
            elif len(self._under_way) < UNDER_WAY_MAX:
                self._again_at[handle, damaged.server] = now + AGAIN_SECONDS
                self._begin(handle, home, damaged, now)
        if homeless:
            self._homes.search(tables, homeless, chunks_max=LOOKS_PER_TICK)

    def _due(self, tables: ReadTables, now: float) -> list[_Damaged]:
        """Damaged members of present sets; what is no member any more is garbage, and not looked at here."""
        if len(self._again_at) > REMEMBERED_MAX:
            self._again_at.clear()
        found: dict[ChunkHandle, _Damaged] = {}
        looks = 0
        for server in self._locations.alive(now=now):
            for handle in server.corrupt:
                if handle in found or handle in self._under_way:
                    continue
                if now < self._again_at.get((handle, server.id), now):
                    continue
                looks += 1
                if looks > LOOKS_PER_TICK:
                    return list(found.values())
                chunk = chunk_by_handle(tables, handle)
                if chunk is not None and server.id in chunk.replicas:
                    found[handle] = _Damaged(chunk, server.id)
                else:
                    self._again_at[handle, server.id] = now + AGAIN_SECONDS
        return list(found.values())

    def _begin(self, handle: ChunkHandle, home: Home, damaged: _Damaged, now: float) -> None:
        chunk = damaged.chunk
        judged = RiskJudge(self._locations, now=now).judge(chunk, home[1], len(chunk.replicas))
        if judged.good and set(judged.bad.values()) == {"damaged"}:
            self._start(handle, self._take_out(home, damaged))
        elif judged.good:
            self._urge(*home)
        else:
            for member in chunk.replicas:  # one try is of all of them
                self._again_at[handle, member] = now + AGAIN_SECONDS
            self._start(handle, self._mend(chunk))

    def _start(self, handle: ChunkHandle, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._under_way[handle] = task

        def ended(_: asyncio.Task[None]) -> None:
            del self._under_way[handle]
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.warning("damage is left for later", handle=handle, error=repr(error))

        task.add_done_callback(ended)

    async def _take_out(self, home: Home, damaged: _Damaged) -> None:
        handle, server = damaged.chunk.handle, damaged.server
        try:
            await self._remove(*home, handle, server)
        except GfsError as error:
            _log.warning(
                "a damaged replica stays in its set for now",
                handle=handle,
                server=server,
                error=error.message,
            )
        self._urge(*home)

    async def _mend(self, chunk: ChunkRecord) -> None:
        now = self._clock.monotonic()
        version, servers = damaged_members(self._locations, chunk, now=now)
        replicas = [server.replica() for server in servers]
        having = self._locations.having(chunk.handle, now=now)
        asked = {server.id for server in servers}
        older = [ReplicaVersion(server.replica(), held) for server, held in having if server.id not in asked]
        for replica in replicas:
            request = MendReplica(
                cluster=self._cluster,
                master_term=self._commits.leading(),
                handle=chunk.handle,
                version=version,
                sources=[other for other in replicas if other.server != replica.server],
                older=older,
            )
            try:
                mended = await self._rpc.call(
                    replica.control, request, MendReplicaReply, deadline_seconds=MEND_SECONDS
                )
            except GfsError as error:
                _log.warning(
                    "a replica was not mended",
                    handle=chunk.handle,
                    server=replica.server,
                    error=error.message,
                )
                continue
            if not mended.bad_blocks:
                _log.warning("a replica was mended", handle=chunk.handle, server=replica.server)
                return
        _log.error(
            "no replica of a chunk is whole, and none could be made whole from the others",
            handle=chunk.handle,
            servers=[replica.server for replica in replicas],
        )
