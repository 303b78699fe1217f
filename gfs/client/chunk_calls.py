"""One try at a mutation of one chunk, and what follows a failed one: what writers and appenders share.

What a failure means is decided in core/write_failure; which leases there are, chunk_leases knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from gfs.client.chunk_leases import ChunkLeases
from gfs.client.connections import Connections, answered_within
from gfs.client.core.retry_plan import GiveUp, RetryPlan
from gfs.client.core.write_failure import (
    AskForLease,
    Final,
    NewVersion,
    SameLease,
    diagnose,
    primary_of,
    push_failure,
    suspects_after_look,
)
from gfs.errors import GfsError, NoSpace, OutcomeUnknown, ReplicaFailed
from gfs.messages.base import Reply, Request
from gfs.messages.chunks import ChunkLease
from gfs.messages.data import PushAnswer
from gfs.vocabulary import ChunkIndex, PushId, ServerId

# A push or write that takes longer makes us look whether a replica has fallen silent. With the ping's
# limit this bounds what a stopped or cut off chunk server can hold a writer up.
PATIENCE_SECONDS = 0.3
LEASE_ASKED_MAX = 2  # LeaseExpired under one version so often: the master must grant a new one

T = TypeVar("T")
R = TypeVar("R", bound=Reply)


@dataclass(slots=True)
class FailedTries:
    """The failed tries at one piece or record so far."""

    plan: RetryPlan
    lease_asked: int = 0
    may_be_somewhere: bool = False  # the outcome of one of them is not known
    full: frozenset[ServerId] = frozenset()  # the last one found no space on any of these


class ChunkCalls:
    """Pushes bytes to the replicas of a lease, asks its primary, and gets a better lease after a failure."""

    def __init__(self, connections: Connections, leases: ChunkLeases) -> None:
        self._connections = connections
        self._leases = leases

    async def push(
        self,
        lease: ChunkLease,
        data: memoryview,
        *,
        offset: int,
        sums: Callable[[], list[int]],
        on_begun: Callable[[asyncio.Future[PushAnswer]], None] | None = None,
    ) -> PushId:
        """Send the bytes down the chain of replicas, nearest first as the master gave them (GFS §3.2).

        Args:
            sums: gives the checksums of `data` at `offset`; called on a worker thread.
            on_begun: gets the push itself, which may outlast this call: only when it ends is `data` let go.
        Raises: ReplicaFailed naming who does not have them; Overloaded; what the nearest replica answers.
        """
        first, *others = lease.replicas
        chain = [replica.data for replica in others]
        push = self._connections.new_push_id()
        deadline_seconds = self._connections.settings.data_seconds

        def blocking() -> PushAnswer:
            return self._connections.bulk.push(
                first.data,
                push,
                data,
                offset=offset,
                chain=chain,
                checksums=sums(),
                deadline_seconds=deadline_seconds,
                capability=lease.capability,
            )

        pushing = self._connections.in_worker(blocking)
        pushing.add_done_callback(_retrieve)
        if on_begun is not None:
            on_begun(pushing)
        answer = await self._watch(pushing, lease)
        if answer.failed:
            raise push_failure(answer.failed, lease)
        if answer.received_bytes != len(data) or answer.checksums != sums():
            raise ReplicaFailed(
                f"{first.data} received other bytes than were sent", details={"servers": first.server}
            )
        return push

    async def ask_primary(
        self,
        lease: ChunkLease,
        request: Request,
        expected: type[R],
        *,
        on_sent: Callable[[], Awaitable[None]] | None = None,
    ) -> R:
        """Have the primary order what was pushed, on every replica (GFS §3.1 steps 4-7).

        `on_sent` is called once the place of `request` among the requests of this client is certain.
        """
        primary = primary_of(lease)
        assert primary is not None  # ChunkLeases has checked it
        call = asyncio.ensure_future(
            self._connections.caller.call(
                primary.control,
                request,
                expected,
                deadline_seconds=self._connections.settings.call_seconds,
            )
        )
        try:
            # Tasks start in the order they were made, so what is noted here keeps the order on the wire.
            if on_sent is not None:
                await on_sent()
            return await self._watch(call, lease)
        finally:
            call.cancel()

    async def recover(
        self, index: ChunkIndex, lease: ChunkLease, asked: ServerId, error: GfsError, tries: FailedTries
    ) -> None:
        """Do what makes the next try worth it. Raises: when nothing does, or the budget is spent."""
        tries.may_be_somewhere = tries.may_be_somewhere or not error.definite
        if isinstance(error, NoSpace):
            _check_space(error, lease, tries)
        diagnosis = diagnose(error, lease, asked)
        if isinstance(diagnosis, Final):
            raise error
        tries.lease_asked += isinstance(diagnosis, AskForLease)
        servers = ",".join(replica.server for replica in lease.replicas)
        now = self._connections.clock.monotonic()
        # Any failure a new lease can cure is worth repeating, so the plan only sees when to stop.
        passing = ReplicaFailed(f"{error.code}: {error.message}", details=error.details)
        verdict = tries.plan.after(passing, target=f"version {lease.version} on {servers}", now=now)
        if isinstance(verdict, GiveUp):
            raise verdict.error from error
        match diagnosis:
            case AskForLease():
                await self._leases.renew(index, lease, failed=tries.lease_asked > LEASE_ASKED_MAX)
            case NewVersion(suspects, certain) if self._leases.version(index) <= lease.version:
                if not certain:
                    silent = await self._connections.silent(lease.replicas)
                    suspects = suspects_after_look(suspects, silent, lease)
                await self._leases.renew(index, lease, failed=True, suspects=suspects)
            case NewVersion() | SameLease():
                pass
        await self._connections.clock.sleep(verdict.wait_seconds)

    async def _watch(self, answer: asyncio.Future[T], lease: ChunkLease) -> T:
        """Wait for an answer that depends on all replicas, but not for one of them that has fallen silent.

        Raises: ReplicaFailed naming the silent ones; what the answer raises.
        """
        while not await answered_within(self._connections.clock, answer, PATIENCE_SECONDS):
            silent = await self._connections.silent(lease.replicas)
            if silent and not answer.done():
                named = ",".join(silent)
                raise ReplicaFailed(f"{named} fell silent during a write", details={"servers": named})
        return await answer


def _check_space(error: NoSpace, lease: ChunkLease, tries: FailedTries) -> None:
    """Raises: NoSpace when a newer version brought the same full servers: a chunk with bytes in it stays
    where it is, and waiting frees no disk. OutcomeUnknown when an earlier try may have had an effect."""
    servers = frozenset(replica.server for replica in lease.replicas)
    named = set(error.details.get("servers", "").split(","))
    everybody = servers if servers <= named or len(servers) == 1 else frozenset()
    if not everybody or tries.full != everybody:
        tries.full = everybody
        return
    if tries.may_be_somewhere:
        raise OutcomeUnknown(
            f"{error.message}; an earlier try may have taken effect", hint=error.hint, details=error.details
        ) from error
    raise error


def _retrieve(ended: asyncio.Future[PushAnswer]) -> None:
    """Nobody may be waiting for it any more; that is no reason for a warning from asyncio."""
    if not ended.cancelled():
        ended.exception()
