"""AcquireLease and SealChunk: who may mutate a chunk, as clients ask for it (GFS §3.1).

A client is told of a version only here, and only once granting has secured it on every replica of its set.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from typing import Any, TypeVar

from gfs import failpoints
from gfs.clock import Clock
from gfs.errors import (
    ChunkSealed,
    GfsError,
    InvalidArgument,
    PathBusy,
    Superseded,
    Unavailable,
)
from gfs.master.callers import Callers, everybody
from gfs.master.commit import Commits
from gfs.master.copy_on_write import CopyOnWrite
from gfs.master.core.access import WRITE
from gfs.master.core.leases import LeaseTable
from gfs.master.core.records import ChunkRecord
from gfs.master.freezes import is_below
from gfs.master.granting import Granting, Secured
from gfs.master.member_choice import ChunkKey
from gfs.master.reads import Reads
from gfs.master.replica_calls import Grant, ReplicaCalls
from gfs.messages import operations
from gfs.messages.base import Reply, Request
from gfs.messages.chunks import AcquireLease, ChunkLease, SealChunk
from gfs.messages.namespace import MutationReply
from gfs.transport.interface import CallContext
from gfs.vocabulary import ChunkHandle, ChunkIndex, ChunkVersion, InodeId, ServerId

T = TypeVar("T")

GRANTS_RUNNING_MAX = 4096
DURABLE_VERSIONS_KEPT = 65_536  # one that is forgotten is granted anew at the next asking
LEASE_FRACTION_LEFT_MIN = 0.05  # a lease about to end is granted anew rather than handed out


class LeaseService:
    """Grants for this master while it leads. Two calls for one chunk share one grant; a caller that goes away
    does not stop it."""

    def __init__(
        self,
        *,
        commits: Commits,
        reads: Reads,
        leases: LeaseTable,
        calls: ReplicaCalls,
        granting: Granting,
        copies: CopyOnWrite,
        clock: Clock,
        lease_seconds: float,
        callers: Callers | None = None,
        short: Callable[[InodeId, ChunkIndex], None] | None = None,
    ) -> None:
        """`short` is told of chunks whose writers have met a failed replica."""
        self._short = short
        self._commits = commits
        self._reads = reads
        self._leases = leases
        self._calls = calls
        self._granting = granting
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._copies = copies
        self._callers = callers or everybody()
        self._durable: OrderedDict[ChunkHandle, ChunkVersion] = OrderedDict()  # known to be granted so
        self._running: dict[ChunkKey, asyncio.Task[Any]] = {}  # Any: a lease or a seal, whoever came first

    # --- what clients call ---------------------------------------------------------------------

    async def acquire(self, request: Request, context: CallContext) -> Reply:
        """Find or grant the lease of a chunk.

        Raises: NotLeader; NotFound; PermissionDenied; ChunkSealed; DataUnavailable when no replica can be
            reached; NotEnoughChunkServers, NoSpace or QuotaExceeded for a new chunk; OutcomeUnknown when
            leadership was lost meanwhile (asking again is always safe).
        Source: GFS §3.1 steps 1 and 2, §4.5.
        """
        assert isinstance(request, AcquireLease)
        self._commits.leading()
        self._callers.require_inode(self._reads.now(), context, request.inode, WRITE)
        key = (request.inode, request.index)
        while True:
            self._commits.leading()
            running = self._running.get(key)
            if running is not None:
                await asyncio.wait({running})  # the caller's deadline ends this wait with the call
                _raise_failure(running)
                continue
            _, chunk = await self._granting.look_up(request.inode, request.index, certain=not request.create)
            if self._is_frozen(request.inode):
                await self._commits.thawed()
                continue
            lease = None if chunk is None else self._usable(chunk, request)
            if lease is not None:
                return lease
            if key not in self._running:
                try:
                    return await self._run(key, self._grant(request))
                except PathBusy:
                    await self._commits.thawed()  # a snapshot began meanwhile

    async def seal(self, request: Request, context: CallContext) -> Reply:
        """Fence the chunk under a new version, agree on its length, log the seal. Sealing twice is harmless.

        Raises: as `acquire`.
        """
        assert isinstance(request, SealChunk)
        self._commits.leading()
        self._callers.require_inode(self._reads.now(), context, request.inode, WRITE)
        key = (request.inode, request.index)
        while True:
            if (running := self._running.get(key)) is not None:
                await asyncio.wait({running})
            elif self._is_frozen(request.inode):
                await self._commits.thawed()
            else:
                return await self._run(key, self._seal(request))

    async def until_none_runs_below(self, source: InodeId) -> None:
        """Wait for the grants under way for files at or below `source`; how they end does not matter.

        The caller has frozen the source, so none for a client begins meanwhile.
        """
        tables = self._reads.now()
        running = {task for (inode, _), task in self._running.items() if is_below(tables, inode, {source})}
        if running:
            await asyncio.wait(running)

    def _is_frozen(self, inode: InodeId) -> bool:
        """A snapshot under way has taken the leases back: there is no new one before it is whole."""
        return self._commits.freezes.covers(self._reads.now(), inode)

    async def exclusively(self, key: ChunkKey, work: Callable[[], Awaitable[T]]) -> T:
        """Do `work`, which changes the chunk's replica set, while no client's grant or seal is under way.

        Clients that ask meanwhile wait, and then get a grant of their own: a failure of `work` is not theirs.
        """
        while (running := self._running.get(key)) is not None:
            await asyncio.wait({running})
        done: list[T] = []
        failed: list[Exception] = []

        async def keep() -> None:
            try:
                done.append(await work())
            except Exception as error:
                failed.append(error)

        await self._run(key, keep())
        if failed:
            raise failed[0]
        return done[0]

    def _usable(self, chunk: ChunkRecord, request: AcquireLease) -> ChunkLease | None:
        """The chunk's present lease, when a client can work with it."""
        if chunk.sealed:
            raise self._sealed(request, chunk.handle, chunk.version, chunk.replicas)
        if chunk.references > 1:
            return None  # whoever was told of a lease before the snapshot must not write under it any more
        now = self._clock.monotonic()
        lease = self._leases.find(chunk.handle, chunk.version, now=now)
        if lease is None or chunk.version <= request.failed_version or lease.primary != chunk.primary:
            return None
        assert not chunk.quiet, chunk  # whoever joins next has nothing of what would be written under it
        seconds_left = lease.expires_at - now
        if seconds_left < LEASE_FRACTION_LEFT_MIN * self._lease_seconds:
            return None
        if not all(self._granting.members.is_sound(server, chunk) for server in chunk.replicas):
            return None
        if self._granting.shall_be_durable(request.inode) and not self._is_durable(chunk):
            return None  # granted before the policy, or by another leader
        return self._reply(request, chunk.replicas, chunk, seconds_left)

    def _reply(
        self,
        request: AcquireLease,
        replicas: Iterable[ServerId],
        chunk: ChunkRecord | Grant,
        seconds_left: float,
    ) -> ChunkLease:
        return ChunkLease(
            index=request.index,
            handle=chunk.handle,
            version=chunk.version,
            primary=chunk.primary,
            replicas=self._calls.replicas(replicas),
            lease_seconds=seconds_left,
            applied_index=self._reads.applied_index(),
        )

    # --- granting ------------------------------------------------------------------------------

    async def _run(self, key: ChunkKey, work: Coroutine[Any, Any, T]) -> T:
        """Do `work` as the one grant under way for this chunk; it outlives its caller."""
        assert key not in self._running
        if len(self._running) >= GRANTS_RUNNING_MAX:
            work.close()
            raise Unavailable(f"{GRANTS_RUNNING_MAX} grants are under way; ask again in a moment")
        task: asyncio.Task[T] = asyncio.get_running_loop().create_task(work)
        self._running[key] = task

        def ended(_: asyncio.Task[T]) -> None:
            del self._running[key]
            if not task.cancelled():
                task.exception()  # the callers have it; nobody may be left, which is no fault

        task.add_done_callback(ended)
        return await asyncio.shield(task)

    async def _grant(self, request: AcquireLease) -> ChunkLease:
        blamed = request.suspects if request.failed_version else ()
        if request.failed_version and self._short is not None:
            self._short(request.inode, request.index)
        key = request.inode, request.index
        _, chunk = await self._granting.look_up(*key, certain=not request.create)
        await self._part(key, chunk, blamed)
        secured = await self._granting.secure(*key, create=request.create, blamed=blamed)
        grant = secured.grant
        if grant.version <= request.failed_version:
            raise InvalidArgument(
                f"no client can have used version {request.failed_version} of chunk {grant.handle}"
            )
        if request.appending and request.failed_version and self._is_better_left(request, secured):
            await self._log_seal(grant, secured.length_bytes)
            raise self._sealed(request, grant.handle, grant.version, grant.replicas)
        lease = self._leases.confirm(
            grant.handle,
            grant.version,
            grant.primary,
            expires_at=secured.bumped_at + self._lease_seconds,
        )
        if secured.durable:
            self._note_durable(grant)
        if lease.version != grant.version:
            raise Superseded(f"chunk {grant.handle} has been granted anew by another master")
        return self._reply(
            request, grant.replicas, grant, max(0.0, lease.expires_at - self._clock.monotonic())
        )

    def _is_durable(self, chunk: ChunkRecord) -> bool:
        return self._durable.get(chunk.handle) == chunk.version

    def _note_durable(self, grant: Grant) -> None:
        self._durable[grant.handle] = grant.version
        self._durable.move_to_end(grant.handle)
        while len(self._durable) > DURABLE_VERSIONS_KEPT:
            self._durable.popitem(last=False)

    async def _seal(self, request: SealChunk) -> MutationReply:
        _, chunk = await self._granting.look_up(request.inode, request.index, certain=True)
        assert chunk is not None
        if not chunk.sealed:
            await self._part((request.inode, request.index), chunk, ())
            secured = await self._granting.secure(request.inode, request.index, create=False, blamed=())
            await self._log_seal(secured.grant, secured.length_bytes)
        return MutationReply(inode=request.inode, applied_index=self._reads.applied_index())

    async def _part(self, key: ChunkKey, chunk: ChunkRecord | None, blamed: Collection[ServerId]) -> None:
        """Before a lease is granted: a chunk that other files share is not this file's to change (§3.4)."""
        if chunk is not None and chunk.references > 1 and not chunk.sealed:
            await self._copies.part(key, chunk, blamed)

    def _is_better_left(self, request: AcquireLease, secured: Secured) -> bool:
        """Whether an appender is to go on in a new chunk, because that would have more replicas. An empty
        chunk is given other servers instead."""
        possible = self._granting.members.replicas_possible(request.inode)
        return secured.length_bytes > 0 and len(secured.grant.replicas) < possible

    async def _log_seal(self, grant: Grant, length_bytes: int) -> None:
        """Nobody was told of this grant's version: the length its replicas were cut to is the last word."""
        failpoints.hit("seal.before_log")
        await self._commits.commit(
            operations.SealChunk(handle=grant.handle, version=grant.version, length_bytes=length_bytes)
        )
        failpoints.hit("seal.logged")
        self._leases.forget(grant.handle)
        await self._calls.seal(grant, length_bytes)
        failpoints.hit("seal.told")

    def _sealed(
        self,
        request: AcquireLease,
        handle: ChunkHandle,
        version: ChunkVersion,
        replicas: Iterable[ServerId],
    ) -> ChunkSealed:
        """Says whom to ask for a record that was under way: replicas of this version know for good."""
        controls = [replica.control for replica in self._calls.replicas(replicas)]
        return ChunkSealed(
            f"chunk {request.index} of inode {request.inode} is sealed",
            details={"handle": str(handle), "version": str(version), "replicas": ",".join(controls)},
        )


def _raise_failure(task: asyncio.Task[Any]) -> None:
    """The callers that waited for one grant share its failure: trying again at once would only repeat it."""
    error = None if task.cancelled() else task.exception()
    if isinstance(error, GfsError) and not isinstance(error, PathBusy):
        raise error
