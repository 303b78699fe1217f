"""One replica made, moved or taken away, safely (GFS §4.3). What to move where and when is not decided here.

A move of a chunk to `target`:
 1. The target copies the chunk from a member of the set while writers go on, at a limited speed; again while
    much is missing. What it has is a *guest*: no client sees it, and no report speaks of it.
 2. The chunk is fenced (quiet_grants): a new version that no client is told of. From now on nothing changes.
 3. The target fetches what is still missing, compares all checksums with the source's, and has the whole copy
    on its disk before it answers.
 4. The target joins the set by the next version, and every member is told. The guest is a replica now.
 5. Only then `drop` leaves, by one more version; it stays if somebody else was lost meanwhile.
2 to 5 take milliseconds while clients that want a lease wait; then they get one under a version of their
own. A crash at any point leaves the last logged set, whose members all hold what was acknowledged; a guest
that never joined is deleted on the leader's word.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from gfs import failpoints
from gfs.clock import Clock
from gfs.errors import DataUnavailable, GfsError, InvalidArgument, StaleVersion, Unavailable
from gfs.master.commit import Commits
from gfs.master.core.clone_task import CloneReason, CloneTask
from gfs.master.core.locations import KnownServer, Locations
from gfs.master.core.placement import Chance
from gfs.master.core.records import ChunkRecord
from gfs.master.granting import Secured
from gfs.master.lease_service import LeaseService
from gfs.master.quiet_grants import QuietGrants
from gfs.master.replica_calls import ReplicaCalls
from gfs.messages.replicas import CloneChunk, CloneReply
from gfs.settings import CLONE_BYTES_LEFT_MAX, CLONE_ROUNDS_MAX
from gfs.telemetry import logger
from gfs.vocabulary import CHUNK_BYTES, ChunkHandle, ChunkIndex, InodeId, ServerId

FENCED_COPY_SECONDS = 3.0  # how long writers may have to wait for the last piece of a copy
COPY_GRACE_SECONDS = 10.0  # on top of what the speed limit alone makes a copy take

# What is made although a member is away just now. A fence shuts such a member out: when it is back its
# replica is stale, which no other move is worth.
URGENT: frozenset[CloneReason] = frozenset({"lost replica", "corrupt replica"})

_log = logger("master.moves")


@dataclass(slots=True, eq=False)
class MoveUnderWay:
    """`step`: copying, fencing, joining, leaving."""

    task: CloneTask
    since: float  # monotonic seconds
    step: str = "copying"


class ReplicaMoves:
    """Changes of replica sets that no client asked for, while this master leads; one a chunk at a time."""

    def __init__(
        self,
        *,
        commits: Commits,
        locations: Locations,
        grants: QuietGrants,
        leases: LeaseService,
        calls: ReplicaCalls,
        clock: Clock,
        chance: Chance,
        bytes_per_second: int,
    ) -> None:
        """`bytes_per_second`: how fast one copy may be made while writers go on."""
        assert bytes_per_second > 0
        self._commits = commits
        self._locations = locations
        self._grants = grants
        self._leases = leases
        self._calls = calls
        self._clock = clock
        self._chance = chance
        self._bytes_per_second = bytes_per_second
        self._under_way: dict[ChunkHandle, MoveUnderWay] = {}
        self._joining: set[MoveUnderWay] = set()  # from the fence on; they end even if nobody waits any more

    def under_way(self) -> list[MoveUnderWay]:
        return list(self._under_way.values())

    def is_moving(self, handle: ChunkHandle) -> bool:
        """Whether a replica of this chunk is being made: what its target holds is no garbage."""
        return handle in self._under_way or any(move.task.handle == handle for move in self._joining)

    async def carry_out(self, task: CloneTask) -> None:
        """Make the replica, and take `task.drop` away. Returns once the chunk's set is as wanted.

        Doing it twice is harmless. Whatever it raises, the chunk is as safe as before; try again later.
        Raises: NotFound (the chunk is gone); Unavailable (a move of this chunk is under way, or the target or
            a member failed meanwhile); DataUnavailable (nobody to copy from); NotLeader, OutcomeUnknown …
        Source: GFS §4.3; the fence is ours.
        """
        if task.handle in self._under_way:
            raise Unavailable(f"a replica of chunk {task.handle} is being moved already")
        move = self._under_way[task.handle] = MoveUnderWay(task, self._clock.monotonic())
        try:
            await self._carry_out(move)
        finally:
            del self._under_way[task.handle]

    async def remove_replica(
        self, inode: InodeId, index: ChunkIndex, handle: ChunkHandle, server: ServerId
    ) -> None:
        """Take a replica, corrupt or needless, out of the chunk's set; its bytes are collected later.

        Returns when it is in no set any more, also when it was in none.
        Raises: NotFound (the chunk is gone); InvalidArgument when it is the only member; DataUnavailable when
            no other member could stay alone; NotLeader, OutcomeUnknown …
        """

        async def remove() -> None:
            members = self._grants.find(handle).replicas
            if server not in members:
                return
            if len(members) == 1:
                raise InvalidArgument(f"{server} has the only replica of chunk {handle}")
            secured = await self._grants.fence(inode, index, handle, without=server)
            _log.info("a replica has left", handle=handle, server=server, version=secured.grant.version)
            await self._seal_again(handle, secured)

        await self._leases.exclusively((inode, index), remove)

    async def settle_replicas(self, inode: InodeId, index: ChunkIndex, handle: ChunkHandle) -> None:
        """Have the members agree on one length, in a new version; one that lost bytes is in the set no more.

        Returns when that is so. Raises: NotFound (the chunk is gone); Unavailable, while a member is away:
            a grant would shut it out; NotLeader, OutcomeUnknown …
        """

        async def settle() -> None:
            self._require_all_alive(self._grants.find(handle))
            secured = await self._grants.fence(inode, index, handle)
            _log.info(
                "replicas are settled after a power cut",
                handle=handle,
                members=list(secured.grant.replicas),
                version=secured.grant.version,
            )
            await self._seal_again(handle, secured)

        await self._leases.exclusively((inode, index), settle)

    async def _carry_out(self, move: MoveUnderWay) -> None:
        task = move.task
        chunk = self._grants.find(task.handle)
        if task.target in chunk.replicas:
            if task.drop is not None and task.drop in chunk.replicas and len(chunk.replicas) > 1:
                await self.remove_replica(task.inode, task.index, task.handle, task.drop)
            return
        await self._copy_while_written(task)
        failpoints.hit("clone.before_fence")
        await self._leases.exclusively((task.inode, task.index), partial(self._join, move))
        _log.info(
            "a replica has joined",
            handle=task.handle,
            target=task.target,
            drop=task.drop or "",
            reason=task.reason,
            seconds=round(self._clock.monotonic() - move.since, 3),
        )

    async def _copy_while_written(self, task: CloneTask) -> None:
        """Copy until little is missing, or a writer keeps ahead of the speed limit."""
        seconds = COPY_GRACE_SECONDS + 2 * CHUNK_BYTES / self._bytes_per_second
        for _ in range(CLONE_ROUNDS_MAX):
            chunk = self._grants.find(task.handle)
            if not self._present(chunk):
                # A grant was cut short: it is logged, and nobody holds its version. The next one heals that.
                key = (task.inode, task.index)
                await self._leases.exclusively(key, partial(self._grants.fence, *key, task.handle))
                chunk = self._grants.find(task.handle)
            try:
                copied = await self._copy(
                    task, chunk, bytes_per_second=self._bytes_per_second, seconds=seconds
                )
            except StaleVersion:
                if self._grants.find(task.handle).version == chunk.version:
                    raise
                continue  # a writer was granted a newer version meanwhile; what was copied is kept
            if copied.fetched_bytes <= CLONE_BYTES_LEFT_MAX:
                return

    async def _join(self, move: MoveUnderWay) -> None:
        """Fence, complete the copy, let the target join and `drop` go; no grant of others is under way."""
        self._joining.add(move)
        try:
            await self._fence_and_join(move)
        finally:
            self._joining.discard(move)

    async def _fence_and_join(self, move: MoveUnderWay) -> None:
        task = move.task
        before = self._grants.find(task.handle)
        if task.target in before.replicas:
            return
        self._living(task.target)  # or writers would be interrupted for nothing
        if task.reason not in URGENT:
            self._require_all_alive(before)
        move.step = "fencing"
        fenced = await self._grants.fence(task.inode, task.index, task.handle)
        failpoints.hit("clone.after_fence")
        fence = self._grants.find(task.handle)
        if fence.version != fenced.grant.version:
            raise Unavailable(f"chunk {task.handle} was granted anew meanwhile")
        await self._copy(
            task,
            fence,
            bytes_per_second=0,
            seconds=FENCED_COPY_SECONDS,
            fenced_bytes=fenced.length_bytes,
        )
        failpoints.hit("clone.before_grant")
        move.step = "joining"
        secured = await self._grants.let_join(task.inode, task.index, fenced, task.target)
        failpoints.hit("clone.joined")
        await self._seal_again(task.handle, secured)
        if task.target not in secured.grant.replicas:
            raise Unavailable(f"{task.target} did not take its place in the set of chunk {task.handle}")
        if task.drop in secured.grant.replicas and len(secured.grant.replicas) > len(before.replicas):
            assert task.drop is not None
            move.step = "leaving"
            secured = await self._grants.let_go(task.inode, task.index, secured, task.drop)
            failpoints.hit("clone.left")
            await self._seal_again(task.handle, secured)

    async def _copy(
        self,
        task: CloneTask,
        chunk: ChunkRecord,
        *,
        bytes_per_second: int,
        seconds: float,
        fenced_bytes: int = -1,
    ) -> CloneReply:
        target = self._living(task.target)
        request = CloneChunk(
            cluster=self._calls.cluster,
            master_term=self._commits.leading(),
            handle=chunk.handle,
            version=chunk.version,
            sources=self._calls.replicas(self._sources(task, chunk)),
            bytes_per_second=bytes_per_second,
            fenced_bytes=fenced_bytes,
        )
        return await self._calls.clone(target, request, seconds=seconds)

    def _living(self, server: ServerId) -> KnownServer:
        known = self._locations.get(server)
        if known is None or not self._locations.is_alive(server, now=self._clock.monotonic()):
            raise Unavailable(f"chunk server {server} is not alive: it cannot take a replica")
        return known

    def _require_all_alive(self, chunk: ChunkRecord) -> None:
        now = self._clock.monotonic()
        away = [server for server in chunk.replicas if not self._locations.is_alive(server, now=now)]
        if away:
            raise Unavailable(f"chunk {chunk.handle} stays where it is while {', '.join(away)} may come back")

    def _sources(self, task: CloneTask, chunk: ChunkRecord) -> list[ServerId]:
        """Members that hold the present version (I5): the one named first, then the target's rack."""
        present = self._present(chunk)
        if not present:
            raise DataUnavailable(
                f"chunk {chunk.handle} cannot be copied: {', '.join(chunk.replicas)} cannot be reached",
                hint="It is copied when one of these chunk servers is back.",
                details={"handle": str(chunk.handle), "servers": ",".join(chunk.replicas)},
            )
        target = self._locations.get(task.target)
        rack = "" if target is None else target.rack
        present.sort(key=lambda s: (s.id != task.source, s.rack != rack, self._chance.random()))
        return [server.id for server in present]

    def _present(self, chunk: ChunkRecord) -> list[KnownServer]:
        now = self._clock.monotonic()
        return self._locations.current(chunk.handle, chunk.version, chunk.replicas, now=now)[0]

    async def _seal_again(self, handle: ChunkHandle, secured: Secured) -> None:
        """Tell the members of a sealed chunk's new version so; the log has said it long ago."""
        try:
            chunk = self._grants.find(handle)
        except GfsError:
            return
        if chunk.sealed and chunk.version == secured.grant.version:
            await self._calls.seal(secured.grant, chunk.length_bytes)
