"""One grant of a chunk's next version, from the log to equal replicas (§3.1). Why it is safe: core/grants.

One attempt: log the version and its set, bump every replica of the set, judge the answers, cut all to one
length. When a replica stays silent, again without it. Who may be in the set is member_choice's; telling
clients, or not, is lease_service's; grants that no client is told of are quiet_grants'.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace

from gfs import failpoints
from gfs.clock import Clock
from gfs.errors import (
    ChunkSealed,
    DataUnavailable,
    NotFound,
    StaleVersion,
    Superseded,
    Unavailable,
)
from gfs.master.commit import Commits
from gfs.master.core.grants import judge_answers
from gfs.master.core.leases import LeaseTable
from gfs.master.core.locations import Locations
from gfs.master.core.lookup import chunk_of, live_file
from gfs.master.core.placement import (
    Chance,
)
from gfs.master.core.policies import policy_of, replication_goal_of
from gfs.master.core.records import ChunkRecord, InodeRecord
from gfs.master.core.server_pool import ServerPool
from gfs.master.member_choice import MemberChoice
from gfs.master.reads import Reads
from gfs.master.replica_calls import Grant, ReplicaCalls
from gfs.messages import operations
from gfs.telemetry import note_event
from gfs.vocabulary import CHUNK_BYTES, ChunkIndex, ChunkVersion, InodeId, ServerId

GRANT_ATTEMPTS_MAX = 5  # each leaves out at least one more replica, or meets a newer grant


@dataclass(frozen=True, slots=True)
class Secured:
    """A grant that every replica of its set holds, all equally long. No client knows of it yet."""

    grant: Grant
    length_bytes: int
    bumped_at: float  # before the first replica heard of it
    durable: bool  # what is written under it is on the disk before it is acknowledged


class Granting:
    """Grants by this master while it leads. The caller sees to it that one chunk has one at a time."""

    def __init__(
        self,
        *,
        commits: Commits,
        reads: Reads,
        locations: Locations,
        pool: ServerPool,
        leases: LeaseTable,
        calls: ReplicaCalls,
        clock: Clock,
        chance: Chance,
        configured_servers: int,
    ) -> None:
        self._commits = commits
        self._reads = reads
        self._leases = leases
        self._calls = calls
        self._clock = clock
        self.logged = {"first": 0, "again": 0, "quiet": 0}  # grants by this master, for Prometheus
        self.members = MemberChoice(
            reads=reads,
            locations=locations,
            pool=pool,
            leases=leases,
            calls=calls,
            clock=clock,
            chance=chance,
            configured_servers=configured_servers,
        )

    async def look_up(
        self, inode: InodeId, index: ChunkIndex, *, certain: bool
    ) -> tuple[InodeRecord, ChunkRecord | None]:
        """The file and its chunk. What is found may be old if this leader has been replaced without knowing
        it, and is refused when it is acted on; only that something is *missing* needs a quorum's word."""
        with suppress(NotFound):
            tables = self._reads.now()
            file, chunk = live_file(tables, inode)[1], chunk_of(tables, inode, index)
            if chunk is not None or not certain:
                return file, chunk
        tables = await self._reads.linearizable()
        file, chunk = live_file(tables, inode)[1], chunk_of(tables, inode, index)
        if chunk is None and certain:
            raise NotFound(f"{self._reads.path_of(inode)} has no chunk {index}")
        return file, chunk

    def shall_be_durable(self, inode: InodeId) -> bool:
        """Whether the policy wants what is written to a file on the disk before it is acknowledged."""
        return policy_of(self._reads.now(), inode).durability == "sync"

    async def secure(
        self, inode: InodeId, index: ChunkIndex, *, create: bool, blamed: Collection[ServerId]
    ) -> Secured:
        """Bring the chunk to a new version that every replica of a logged set holds at one length."""
        file, chunk = await self.look_up(inode, index, certain=not create)
        goal = replication_goal_of(self._reads.now(), inode) or file.replication_goal
        await self.members.await_heartbeats(() if chunk is None else chunk.replicas)
        if chunk is None:
            grant = await self._add_chunk(inode, index, goal)
        else:
            if chunk.sealed:
                raise ChunkSealed(f"chunk {index} of inode {inode} is sealed")
            members = await self.members.candidates((inode, index), chunk, blamed)
            grant = await self.log_grant(
                inode, index, chunk, members, blamed, acknowledged_bytes=acknowledged_bytes_of(file, index)
            )
        return await self.settle(
            inode,
            index,
            grant,
            goal=goal,
            acknowledged_bytes=acknowledged_bytes_of(file, index),
        )

    # --- one grant ------------------------------------------------------------------------------

    async def settle(
        self,
        inode: InodeId,
        index: ChunkIndex,
        grant: Grant,
        *,
        acknowledged_bytes: int,
        goal: int = 0,
    ) -> Secured:
        """Bump and align the set of `grant`, again without those that fail, until all of a set hold it.

        `goal`: how many replicas an empty chunk is filled up to; a quiet grant fills up nothing.
        """
        left_out: set[ServerId] = set()
        durable = self.shall_be_durable(inode)
        for _ in range(GRANT_ATTEMPTS_MAX):
            bumped_at = self._clock.monotonic()
            try:
                answers, failures = await self._calls.bump(grant, durable=durable)
            except Superseded as error:
                raise self._commits.not_leader() from error
            judged = judge_answers(grant.replicas, answers, acknowledged_bytes=acknowledged_bytes)
            members = list(judged.members)
            if judged.members == grant.replicas:
                failed = await self._calls.align(grant, judged.longer, judged.align_to_bytes)
                if not failed:
                    return Secured(grant, judged.align_to_bytes, bumped_at, durable)
                members = [server for server in members if server not in failed]
            empty = not grant.quiet and (grant.created or judged.empty)
            left_out |= set(grant.replicas) - set(members)
            if empty:
                members = self.members.refill(members, goal, left_out)
            elif not members:
                raise self.members.unavailable(inode, index, grant.replicas, failures)
            elif judged.doubtful:
                raise self._incomplete(inode, index, members, failures)
            grant = await self.log_again(inode, index, grant, members, fresh=empty)
        raise Unavailable(
            f"chunk {index} of inode {inode} found no steady replica set in {GRANT_ATTEMPTS_MAX} attempts",
            hint="Chunk servers are failing one after another; see 'gfs status'.",
        )

    async def _add_chunk(self, inode: InodeId, index: ChunkIndex, goal: int) -> Grant:
        term = self._commits.leading()
        members = self.members.refill([], goal, set())
        primary = self.members.choose_primary(members, ())
        failpoints.hit("lease.before_grant")
        outcome = await self._commits.commit(
            operations.AddChunk(
                inode=inode,
                index=index,
                replicas=self.members.ordered(members, primary),
                primary=primary,
            )
        )
        assert isinstance(outcome, operations.ChunkGranted), outcome
        failpoints.hit("lease.granted")
        if outcome.existed:
            # Another leader was first, or an earlier answer was lost: then somebody may know this version.
            _, chunk = await self.look_up(inode, index, certain=True)
            assert chunk is not None
            candidates = await self.members.candidates((inode, index), chunk, ())
            return await self.log_grant(inode, index, chunk, candidates, ())
        self.logged["first"] += 1
        _note_grant(index, outcome)
        return Grant(
            handle=outcome.handle,
            version=outcome.version,
            replicas=outcome.replicas,
            primary=outcome.primary,
            held_version=ChunkVersion(0),
            term=term,
            created=True,
        )

    async def log_grant(
        self,
        inode: InodeId,
        index: ChunkIndex,
        chunk: ChunkRecord,
        members: list[ServerId],
        blamed: Collection[ServerId],
        *,
        acknowledged_bytes: int = 0,
        quiet: bool = False,
    ) -> Grant:
        held = chunk.version if self._leases.was_confirmed(chunk.handle, chunk.version) else ChunkVersion(0)
        present = Grant(
            handle=chunk.handle,
            version=chunk.version,
            replicas=chunk.replicas,
            primary=chunk.primary,
            held_version=max(held, chunk.held_version),
            term=self._commits.leading(),
            created=False,
            quiet=quiet,
        )
        away = [s for s in chunk.replicas if s not in members and not self.members.is_damaged(s, chunk)]
        if away and not await self._calls.any_is_complete(
            present, members, acknowledged_bytes=acknowledged_bytes
        ):
            raise self._incomplete(inode, index, members, away)
        return await self.log_again(inode, index, present, members, blamed=blamed)

    async def log_again(
        self,
        inode: InodeId,
        index: ChunkIndex,
        grant: Grant,
        members: list[ServerId],
        *,
        fresh: bool = False,
        blamed: Collection[ServerId] = (),
        joined: tuple[ServerId, ...] = (),
    ) -> Grant:
        """Log the next version with `members` as its set; nobody hears of it before it is committed (I1)."""
        assert members and not (fresh and grant.quiet)
        primary = self.members.choose_primary(members, blamed)
        held = ChunkVersion(0) if fresh else grant.held_version
        self._leases.forget(grant.handle)
        failpoints.hit("lease.before_grant")
        operation: operations.GrantLease | operations.ChangeReplicas
        if grant.quiet:
            operation = operations.ChangeReplicas(
                handle=grant.handle,
                from_version=grant.version,
                replicas=self.members.ordered(members, primary),
                primary=primary,
                joined=joined,
                held_version=held,
            )
        else:
            operation = operations.GrantLease(
                inode=inode,
                index=index,
                handle=grant.handle,
                from_version=grant.version,
                replicas=self.members.ordered(members, primary),
                primary=primary,
                fresh=fresh,
                held_version=held,
            )
        try:
            outcome = await self._commits.commit(operation)
        except (Superseded, StaleVersion) as error:
            raise Unavailable(
                f"chunk {index} of inode {inode} was granted anew meanwhile; ask again"
            ) from error
        assert isinstance(outcome, operations.ChunkGranted), outcome
        failpoints.hit("lease.granted")
        self.logged["quiet" if grant.quiet else "again"] += 1
        _note_grant(index, outcome)
        return replace(
            grant,
            version=outcome.version,
            replicas=outcome.replicas,
            primary=outcome.primary,
            held_version=held,
            created=grant.created,
        )

    def _incomplete(
        self, inode: InodeId, index: ChunkIndex, doubtful: Collection[ServerId], away: Collection[ServerId]
    ) -> DataUnavailable:
        return DataUnavailable(
            f"chunk {index} of {self._reads.path_of(inode)}: {', '.join(doubtful)} may have lost bytes "
            f"in a power cut, and {', '.join(away)}, which may have them, cannot be reached",
            hint="The chunk can be written again when one of these chunk servers is back.",
            details={"inode": str(inode), "index": str(index), "servers": ",".join(away)},
        )


def acknowledged_bytes_of(file: InodeRecord, index: ChunkIndex) -> int:
    """How far the acknowledged bytes of a file's last chunk are known to reach: to where its writer closed
    it. An earlier chunk may end in a hole."""
    if not file.length_exact or index != file.chunk_count - 1:
        return 0
    return max(0, min(CHUNK_BYTES, file.length_bytes - index * CHUNK_BYTES))


def _note_grant(index: ChunkIndex, granted: operations.ChunkGranted) -> None:
    """For the events ring alone: there are too many for a log line each."""
    note_event(
        "master",
        "chunk granted",
        handle=f"{granted.handle:x}",
        index=index,
        version=granted.version,
        primary=granted.primary,
        replicas=granted.replicas,
    )
