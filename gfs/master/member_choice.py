"""Which servers the set of a grant is made of: members worth asking, servers for an empty chunk, the primary.

Where copies go to is core/repair's, what becomes of the chosen ones granting's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

from gfs.clock import Clock
from gfs.errors import ChecksumMismatch, DataUnavailable, GfsError, NoSpace, NotEnoughChunkServers
from gfs.master.core.grants import replicas_needed
from gfs.master.core.leases import LeaseTable
from gfs.master.core.locations import Locations
from gfs.master.core.lookup import live_file
from gfs.master.core.placement import (
    Chance,
    choose_primary,
    choose_servers,
    explain,
    lacks_room,
    order_replicas,
    usable_count,
)
from gfs.master.core.policies import replication_goal_of
from gfs.master.core.records import ChunkRecord
from gfs.master.core.server_pool import ServerPool
from gfs.master.reads import Reads
from gfs.master.replica_calls import ReplicaCalls
from gfs.vocabulary import ChunkIndex, InodeId, ServerId

SPARED_MAX = 4096  # chunks remembered for which a blamed replica was kept because it answered
UNSETTLED_POLL_SECONDS = 0.05

ChunkKey = tuple[InodeId, ChunkIndex]


class MemberChoice:
    """Part of a Granting."""

    def __init__(
        self,
        *,
        reads: Reads,
        locations: Locations,
        pool: ServerPool,
        leases: LeaseTable,
        calls: ReplicaCalls,
        clock: Clock,
        chance: Chance,
        configured_servers: int,
    ) -> None:
        self._reads = reads
        self._locations = locations
        self._pool = pool
        self._leases = leases
        self._calls = calls
        self._clock = clock
        self._chance = chance
        self._configured_servers = configured_servers
        self._spared: OrderedDict[ChunkKey, frozenset[ServerId]] = OrderedDict()

    def is_sound(self, server: ServerId, chunk: ChunkRecord) -> bool:
        """Heard of, and known for no damage in this chunk."""
        is_alive = self._locations.is_alive(server, now=self._clock.monotonic())
        return is_alive and not self.is_damaged(server, chunk)

    def is_damaged(self, server: ServerId, chunk: ChunkRecord) -> bool:
        return self._locations.is_corrupt(server, chunk.handle)

    async def await_heartbeats(self, members: Collection[ServerId]) -> None:
        """Just after a start silence says nothing: better wait a moment than leave a good replica out."""
        while not self._locations.is_settled(now=self._clock.monotonic()):
            alive = {server.id for server in self._locations.alive(now=self._clock.monotonic())}
            if alive.issuperset(members) if members else len(alive) >= self._configured_servers > 0:
                return
            await self._clock.sleep(UNSETTLED_POLL_SECONDS)

    async def candidates(
        self, key: ChunkKey, chunk: ChunkRecord, blamed: Collection[ServerId]
    ) -> list[ServerId]:
        """Members of the set that are worth asking. Never empty while any member is known.

        A blamed replica is kept when it answers a ping, once; blamed again, it is left out: it may be
        alive for us and dead for the others.
        """
        known = [server for server in chunk.replicas if self._locations.get(server) is not None]
        if not known:
            raise self.unavailable(*key, chunk.replicas, {})
        sound = [server for server in known if self.is_sound(server, chunk)]
        if not sound:
            # Nobody is heard from: ask before another version is spent on a set that cannot take it. Those
            # with bad blocks would refuse it, each time.
            whole = [server for server in known if not self.is_damaged(server, chunk)]
            silent = await self._calls.silent(whole)
            sound = [server for server in whole if server not in silent]
            if not sound:
                damaged: dict[ServerId, GfsError] = {
                    server: ChecksumMismatch("some of its blocks are damaged")
                    for server in known
                    if server not in whole
                }
                raise self.unavailable(*key, chunk.replicas, damaged)
        accused = [server for server in sound if server in blamed]
        already_spared = self._spared.pop(key, frozenset())
        guilty = {server for server in accused if server in already_spared}
        guilty |= await self._calls.silent([server for server in accused if server not in guilty])
        kept = [server for server in sound if server not in guilty]
        if not kept:
            return sound
        if spared := frozenset(accused) - guilty:
            self._spared[key] = spared
            while len(self._spared) > SPARED_MAX:
                self._spared.popitem(last=False)
        return kept

    def replicas_possible(self, inode: InodeId) -> int:
        """How many replicas a new chunk of this file would get now. Raises: NotFound."""
        tables = self._reads.now()
        goal = replication_goal_of(tables, inode) or live_file(tables, inode)[1].replication_goal
        candidates = self._pool.candidates(self._reads.now(), now=self._clock.monotonic())
        return min(goal, usable_count(candidates))

    def refill(self, members: list[ServerId], goal: int, left_out: Collection[ServerId]) -> list[ServerId]:
        """Members for an empty chunk: those that answered, and as many other servers as the goal wants.

        Raises: NotEnoughChunkServers, saying what speaks against each server; NoSpace when only the room on
            their disks does, which waiting does not change.
        """
        now = self._clock.monotonic()
        known = self._locations.servers()
        candidates = self._pool.candidates(self._reads.now(), now=now)
        excluded = {*members, *left_out}
        if len(members) < goal:
            chosen = choose_servers(
                candidates,
                goal - len(members),
                excluded=excluded,
                chance=self._chance,
                beside=[server.rack for server in known if server.id in members],
            )
            self._pool.note_placed(chosen, now=now)
            members = [*members, *chosen]
        needed = replicas_needed(goal=goal, known_servers=max(len(known), self._configured_servers))
        if len(members) < needed:
            verdicts = explain(candidates, excluded=excluded)
            why = "; ".join(f"{server}: {verdict}" for server, verdict in verdicts.items() if verdict)
            others = [c for c in candidates if c.id not in excluded]
            full = sum(c.alive and lacks_room(c) for c in others)
            away = sum(not c.alive and not lacks_room(c) for c in others)  # may be back, and have room
            is_full = len(members) + full >= needed > len(members) + away
            kind = NoSpace if is_full else NotEnoughChunkServers
            raise kind(
                f"a new chunk needs {needed} chunk server{'s' if needed > 1 else ''}, "
                f"and {len(members)} can take it now ({why or 'none has been heard of'})",
                hint="Start chunk servers or free disk space; see 'gfs status'.",
            )
        return members

    def choose_primary(self, members: list[ServerId], blamed: Collection[ServerId]) -> ServerId:
        """The one that leads fewest chunks now; a blamed one only if there is no other."""
        willing = [server for server in members if server not in blamed] or members
        counts = self._leases.count_by_primary()
        return choose_primary(willing, counts, chance=self._chance)

    def ordered(self, members: list[ServerId], primary: ServerId) -> tuple[ServerId, ...]:
        """The set in the order in which data is pushed along it."""
        racks = {server: known.rack for server in members if (known := self._locations.get(server))}
        return tuple(order_replicas(members, primary, racks))

    def unavailable(
        self,
        inode: InodeId,
        index: ChunkIndex,
        servers: Collection[ServerId],
        failures: dict[ServerId, GfsError],
    ) -> DataUnavailable:
        """The error that names chunk and servers; `failures`: what those that answered said."""
        path = self._reads.path_of(inode)
        reasons = "; ".join(
            f"{server}: {failures[server].message}" if server in failures else f"{server}: not heard of"
            for server in servers
        )
        return DataUnavailable(
            f"no replica of chunk {index} of {path} can be reached ({reasons})",
            hint=(
                "What is undamaged can be read, and is mended from other replicas when there are any."
                if failures and all(isinstance(error, ChecksumMismatch) for error in failures.values())
                else "The bytes are safe on these servers' disks; start one of them."
            ),
            details={"inode": str(inode), "index": str(index), "servers": ",".join(servers)},
        )
