"""Which replicas are garbage: orphans, and stale ones that nobody can need (GFS §4.4, §4.5). Decides only.

I6, no live chunk is ever collected. A replica is named to its server for one of two reasons.

Orphan: the chunk's handle has been given out, and the chunk is neither in the log's tables nor being copied
(§3.4). That stays so for ever: a handle is never given out again, and a chunk that is gone never comes back.
So any master may say it at any time, however old its state. A handle that was not given out yet is another
matter: it is of a chunk this master has yet to hear of, or of a log that lost its end. It is left alone.

Stale: the chunk is there, and the server is no member of its set. Every change of a set raises the version,
so what the server holds is not above the logged version, and no member's set can contain it again but by a
new copy. It is named only by the leader, from a state that a quorum has just confirmed, STALE_KEPT_SECONDS
after it was first seen, while no replica of the chunk is being moved, and once the chunk has as many valid
replicas as it should have, or as there are other living servers to have them (two at least, where there are
two). Members are never collected, whatever they hold: each is complete (core/grants), or leaves first.

A guest, a copy that has not joined the set (replica_moves), is treated as a replica is.

The server deletes a replica only at the version named, so that a word that comes late harms no newer replica.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gfs.master.core.chunk_copies import is_reserved
from gfs.master.core.locations import KnownServer, Locations
from gfs.master.core.lookup import chunk_by_handle, chunks_after, handle_of, inode_record, read_counters
from gfs.master.core.policies import InheritedPolicies
from gfs.master.core.records import ChunkRecord, decode_chunk, id_key, server_id_key
from gfs.master.core.tables import ReadTables, Table
from gfs.messages.heartbeat import GarbageReplica
from gfs.settings import GARBAGE_NAMED_MAX, GARBAGE_REPLICAS_PER_HEARTBEAT
from gfs.vocabulary import ChunkHandle, ChunkIndex, ChunkVersion, InodeId, ServerId

STALE_KEPT_SECONDS = 10.0
STALE_KNOWN_MAX = 10_000  # of one server; others are seen when these are gone
_BEGINNING = InodeId(0), ChunkIndex(0)


@dataclass(slots=True)
class _StaleReplica:
    """`goal`: replicas the chunk should have; 0 until a walk over the files has found that out."""

    version: ChunkVersion
    since: float
    goal: int = 0


@dataclass(slots=True)
class _Looked:
    """How far one server's replicas were looked at in this round, and what was found stale."""

    incarnation: str
    after: ChunkHandle
    stale: dict[ChunkHandle, _StaleReplica] = field(default_factory=dict)


class Garbage:
    """What this leader knows of needless replicas; volatile, and forgotten when it does not lead.

    Times are monotonic seconds. `is_moving`: whether a replica of the chunk is being made or moved right now.
    """

    def __init__(self, locations: Locations, *, is_moving: Callable[[ChunkHandle], bool]) -> None:
        self._locations = locations
        self._is_moving = is_moving
        self._servers: dict[ServerId, _Looked] = {}
        self._at = _BEGINNING
        self._wanted: set[ChunkHandle] = set()  # by the walk under way
        self._goals: dict[ChunkHandle, int] = {}  # found by it

    def forget(self) -> None:
        """This master does not lead, or leads anew."""
        self._servers.clear()
        self._goals.clear()
        self._at = _BEGINNING

    @property
    def stale_count(self) -> int:
        return sum(len(looked.stale) for looked in self._servers.values())

    # --- a server's heartbeat ------------------------------------------------------------------

    def look(self, tables: ReadTables, server_id: ServerId, *, now: float) -> list[GarbageReplica]:
        """Look at the next few replicas of this server; notes the stale ones. Returns the orphans."""
        server = self._locations.get(server_id)
        if server is None or not server.reported:
            return []
        looked = self._servers.get(server_id)
        if looked is None or looked.incarnation != server.incarnation:
            looked = self._servers[server_id] = _Looked(server.incarnation, ChunkHandle(0))
        number = tables.get(Table.SERVERS, server_id_key(server_id))
        next_handle = read_counters(tables).next_handle
        orphans: list[GarbageReplica] = []
        page = server.held.page(looked.after, GARBAGE_REPLICAS_PER_HEARTBEAT)
        is_last = len(page) < GARBAGE_REPLICAS_PER_HEARTBEAT
        looked.after = ChunkHandle(0) if is_last else page[-1][0]
        unreadable = [(handle, ChunkVersion(0)) for handle in server.corrupt if not server.held.get(handle)]
        for handle, version in (*page, *sorted(unreadable), *server.guests.items()):
            row = tables.get(Table.CHUNKS, id_key(handle))
            if row is None:
                looked.stale.pop(handle, None)
                if 0 < handle < next_handle and not is_reserved(tables, handle):
                    orphans.append(GarbageReplica(handle, version))
                continue
            chunk = decode_chunk(row)
            is_member = number is not None and int.from_bytes(number, "big") in chunk.servers
            if is_member or version > chunk.version:
                looked.stale.pop(handle, None)
                continue
            known = looked.stale.get(handle)
            is_news = known is None or known.version != version
            if is_news and len(looked.stale) < STALE_KNOWN_MAX:
                looked.stale[handle] = _StaleReplica(version, now)
        return orphans[:GARBAGE_NAMED_MAX]

    def may_have_stale(self, server_id: ServerId, *, now: float) -> bool:
        """Whether it is worth asking a quorum, to name stale replicas of this server."""
        looked = self._servers.get(server_id)
        return looked is not None and any(_is_ripe(found, now) for found in looked.stale.values())

    def stale(self, tables: ReadTables, server_id: ServerId, *, now: float) -> list[GarbageReplica]:
        """The stale replicas of this server that can go, by a state that a quorum has just confirmed."""
        server, looked = self._locations.get(server_id), self._servers.get(server_id)
        if server is None or looked is None or not server.reported:
            return []
        named: list[GarbageReplica] = []
        for handle, found in list(looked.stale.items()):
            if len(named) == GARBAGE_NAMED_MAX:
                break
            if not _is_ripe(found, now):
                continue
            chunk = chunk_by_handle(tables, handle)
            if chunk is None or not self._is_still_stale(server, chunk, found):
                del looked.stale[handle]
            elif not self._is_moving(handle) and self._has_enough(chunk, found.goal, now=now):
                named.append(GarbageReplica(handle, found.version))
        return named

    def _is_still_stale(self, server: KnownServer, chunk: ChunkRecord, found: _StaleReplica) -> bool:
        held = server.guests.get(chunk.handle) or server.held.get(chunk.handle)
        is_there = held == found.version and (held > 0 or chunk.handle in server.corrupt)
        return is_there and held <= chunk.version and server.id not in chunk.replicas

    def _has_enough(self, chunk: ChunkRecord, goal: int, *, now: float) -> bool:
        valid = [member for member in chunk.replicas if self._is_valid(member, chunk, now=now)]
        # Beyond two, no new replica is waited for on a server where a stale one stands in its way.
        garbage = {server for server, looked in self._servers.items() if chunk.handle in looked.stale}
        known = len(self._locations.servers())
        alive = sum(server.id not in garbage for server in self._locations.alive(now=now))
        return len(valid) >= max(1, min(goal, alive), min(goal, known, 2))

    def _is_valid(self, member: ServerId, chunk: ChunkRecord, *, now: float) -> bool:
        """A member holds all that was acknowledged, also before it was told of the newest version, which may
        never come (core/grants); below `held_version` it has gone back in time."""
        server = self._locations.get(member)
        if server is None or not self._locations.is_alive(member, now=now) or chunk.handle in server.corrupt:
            return False
        return max(chunk.held_version, 1) <= server.held.get(chunk.handle) <= chunk.version

    # --- the walk for goals -----------------------------------------------------------------------

    def walk(self, tables: ReadTables, *, chunks_max: int) -> bool:
        """Look at the next chunks of all files for those that have stale replicas; returns whether a walk has
        just ended. A chunk that files share should have as many replicas as any of them wants."""
        if self._at == _BEGINNING:
            self._wanted = {handle for looked in self._servers.values() for handle in looked.stale}
            if not self._wanted:
                return True
        policies = InheritedPolicies(tables)
        named, following = chunks_after(tables, *self._at, limit=chunks_max)
        for inode, index in named:
            file = inode_record(tables, inode)
            assert file is not None, inode
            handle = handle_of(tables, inode, file, index)
            if handle in self._wanted:
                self._goals[handle] = max(self._goals.get(handle, 0), policies.goal_of(file))
        if following is not None:
            self._at = following
            return False
        for looked in self._servers.values():
            for handle, found in looked.stale.items():
                found.goal = self._goals.get(handle, 0)
        self._at, self._goals = _BEGINNING, {}
        for server_id in [known for known in self._servers if self._locations.get(known) is None]:
            del self._servers[server_id]  # it was removed from the cluster
        return True

    def check_invariants(self) -> None:
        for looked in self._servers.values():
            assert len(looked.stale) <= STALE_KNOWN_MAX
            assert all(found.version >= 0 and found.goal >= 0 for found in looked.stale.values())


def _is_ripe(found: _StaleReplica, now: float) -> bool:
    return found.goal > 0 and now - found.since >= STALE_KEPT_SECONDS
