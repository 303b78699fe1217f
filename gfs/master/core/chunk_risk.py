"""How near a chunk is to being lost, judged from its replicas as they are now (GFS §4.3). Repairs nothing."""

from __future__ import annotations

from gfs.master.core.locations import Locations
from gfs.master.core.records import ChunkRecord
from gfs.messages.check import CheckedChunk, ChunkRisk, MemberCondition
from gfs.vocabulary import ChunkIndex, ServerId


class RiskJudge:
    """Judges chunks at one moment; make a new one for the next."""

    def __init__(self, locations: Locations, *, now: float) -> None:
        self._locations = locations
        self._now = now
        servers = locations.servers()
        self._servers = len(servers)
        self._racks = {server.id: server.rack for server in servers}
        self._has_racks = len(set(self._racks.values())) > 1

    def judge(self, chunk: ChunkRecord, index: ChunkIndex, goal: int) -> CheckedChunk:
        """`goal`: replicas wanted; no more count as missing than there are servers for."""
        good: list[ServerId] = []
        bad: dict[ServerId, MemberCondition] = {}
        for member in chunk.replicas:
            condition = self._condition(chunk, member)
            if condition is None:
                good.append(member)
            else:
                bad[member] = condition
        wanted = min(goal, self._servers)
        return CheckedChunk(
            index=index,
            handle=chunk.handle,
            risk=self._risk(good, goal=goal, wanted=wanted),
            wanted=wanted,
            good=good,
            bad=bad,
        )

    def _condition(self, chunk: ChunkRecord, member: ServerId) -> MemberCondition | None:
        known = self._locations.get(member)
        if known is None or not self._locations.is_alive(member, now=self._now):
            return "away"
        if chunk.handle in known.corrupt:
            return "damaged"
        held = known.held.get(chunk.handle)
        if held == 0:
            return "missing"
        # A member that has not taken the newest grant yet still has all that was acknowledged (core/grants).
        return None if max(chunk.held_version, 1) <= held <= chunk.version else "stale"

    def _risk(self, good: list[ServerId], *, goal: int, wanted: int) -> ChunkRisk:
        if not good:
            return "lost"
        if len(good) == 1 < goal:
            return "last_replica"
        if self._has_racks and goal > 1 and len({self._racks[server] for server in good}) == 1:
            return "one_rack"
        return "short" if len(good) < wanted else "ok"
