"""How a master's services get an operation into the log, and whom they name to a caller of the wrong master.

Knows nothing of what operations mean: that is MasterState's. Reading is in reads.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec
from prometheus_client import Counter

from gfs import failpoints
from gfs.clock import Clock
from gfs.errors import (
    GfsError,
    NoQuorum,
    NoSpace,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    PathBusy,
    from_code,
)
from gfs.master.freezes import THAW_LOOK_SECONDS, Freezes, written_paths
from gfs.master.replication.replicator import Replicator
from gfs.master.roster import Roster
from gfs.master.standing import Standing
from gfs.messages.base import Identity, Reply
from gfs.messages.operations import (
    AnyOperation,
    AnyOutcome,
    ChunkGranted,
    Done,
    LogRecord,
    Refused,
    RequestId,
)
from gfs.telemetry import Metrics, SecondsHistogram
from gfs.transport.interface import Later
from gfs.vocabulary import Term

COMMIT_SECONDS_BOUNDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.25, 0.5, 1.0, 5.0)

_encode = msgspec.msgpack.Encoder().encode
_decode_outcome = msgspec.msgpack.Decoder(AnyOutcome).decode


class Commits:
    """Proposes operations; outcomes become answers or errors. The Replicator limits how many wait."""

    def __init__(
        self,
        replicator: Replicator,
        clock: Clock,
        *,
        roster: Roster,
        metrics: Metrics,
        standing: Standing | None = None,
    ) -> None:
        """`standing`: while this master's state is not to be trusted, it leads nobody but the log."""
        self._replicator = replicator
        self._clock = clock
        self.roster = roster
        self._standing = standing or Standing()
        self.freezes = Freezes()
        self._leads_term: Term | None = None
        replicator.on_leadership(self._note_leadership)
        self._seconds = SecondsHistogram(
            "gfs_commit_seconds",
            "From proposing an operation until it is on a majority's disks and applied here",
            COMMIT_SECONDS_BOUNDS,
            metrics,
        )
        self._failures = Counter(
            "gfs_commit_failures", "Proposals that failed", ["code"], registry=metrics.registry
        )
        for kind in (NoQuorum, NotLeader, Overloaded, OutcomeUnknown, NoSpace):
            self._failures.labels(kind.code)  # shown as 0: the first failure has to be seen as an increase

    async def commit(
        self, operation: AnyOperation, request: RequestId | None = None, *, caller: Identity | None = None
    ) -> Done | ChunkGranted:
        """Log one operation, stamped with this leader's time, and return its outcome once it is applied.

        `caller`: on whose behalf, when it is to be checked whether they may.

        Raises: the error the state refused it with (definite); NotLeader naming the leader, NoQuorum,
            Overloaded (definite); OutcomeUnknown when leadership was lost meanwhile.
        """
        started = time.perf_counter()
        submitted = self._submit(operation, request, caller)
        try:
            await submitted
        except GfsError:
            assert submitted.done()  # _outcome() is shown it
        return self._outcome(submitted, started)

    async def commit_in_turn(
        self, operation: AnyOperation, request: RequestId | None = None, *, caller: Identity | None = None
    ) -> Done | ChunkGranted:
        """As commit(), for an operation on paths or a file: it waits while a snapshot keeps them as they are.

        Raises: as commit(); Overloaded when too many wait.
        """
        if self.freezes.is_idle:
            try:
                return await self.commit(operation, request, caller=caller)
            except PathBusy:
                pass  # a snapshot began meanwhile, or goes on after a change of leader
        paths = written_paths(operation)
        while True:
            async with self.freezes.locks.hold(write=paths):
                try:
                    return await self.commit(operation, request, caller=caller)
                except PathBusy:
                    pass
            await self.thawed()

    def replied(
        self,
        operation: AnyOperation,
        request: RequestId | None,
        reply: Callable[[Done | ChunkGranted], Reply],
        *,
        caller: Identity | None = None,
    ) -> Awaitable[Reply]:
        """As commit_in_turn(), for a handler that then does nothing but make its `reply` of the outcome."""
        if not self.freezes.is_idle:
            return self._replied_in_turn(operation, request, reply, caller)
        started = time.perf_counter()

        def conclude(submitted: asyncio.Future[bytes]) -> Reply | Awaitable[Reply]:
            try:
                return reply(self._outcome(submitted, started))
            except PathBusy:
                return self._replied_in_turn(operation, request, reply, caller)

        return Later(self._submit(operation, request, caller), conclude)

    async def _replied_in_turn(
        self,
        operation: AnyOperation,
        request: RequestId | None,
        reply: Callable[[Done | ChunkGranted], Reply],
        caller: Identity | None,
    ) -> Reply:
        return reply(await self.commit_in_turn(operation, request, caller=caller))

    def _submit(
        self, operation: AnyOperation, request: RequestId | None, caller: Identity | None
    ) -> asyncio.Future[bytes]:
        self._standing.require_trust()
        failpoints.hit("master.before_propose")
        record = LogRecord(at_ms=self._clock.wall_ms(), operation=operation, request=request, caller=caller)
        return self._replicator.submit(_encode(record))

    def _outcome(self, submitted: asyncio.Future[bytes], started: float) -> Done | ChunkGranted:
        """Raises: as commit()."""
        try:
            encoded = submitted.result()
        except (NotLeader, NoQuorum) as error:
            self._failures.labels(error.code).inc()
            raise self.named(error) from error
        except GfsError as error:
            self._failures.labels(error.code).inc()
            raise
        self._seconds.observe(time.perf_counter() - started)
        outcome: Done | ChunkGranted | Refused = _decode_outcome(encoded)
        if isinstance(outcome, Refused):
            raise from_code(outcome.code, outcome.message)
        failpoints.hit("master.before_reply")
        return outcome

    async def thawed(self) -> None:
        """Return when a snapshot made here has come to its end, or after a short while: then look again."""
        ended = asyncio.ensure_future(self.freezes.next_thaw().wait())
        alarm = asyncio.ensure_future(self._clock.sleep(THAW_LOOK_SECONDS))
        try:
            await asyncio.wait({ended, alarm}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            alarm.cancel()

    def leading(self) -> Term:
        """The term in which this master leads, with all earlier entries applied.

        Raises: NotLeader naming the leader, NoQuorum; Unavailable when its state is not to be trusted.
        """
        if self._leads_term is None:
            raise self.not_leader()
        self._standing.require_trust()
        return self._leads_term

    @property
    def is_leading(self) -> bool:
        return self._leads_term is not None and not self._standing.untrusted

    def named(self, error: NotLeader | NoQuorum) -> NotLeader | NoQuorum:
        """The replicator's refusal with addresses; its own words where it alone knows the reason."""
        known = self.not_leader()
        if isinstance(error, NoQuorum) and isinstance(known, NotLeader) and not self.roster.outside():
            return error
        return known

    def not_leader(self) -> NotLeader | NoQuorum:
        if (refusal := self.roster.refusal()) is not None:
            return refusal
        status, roster = self._replicator.status(), self.roster
        leader, voters = status.leader, roster.voters()
        here = [voter for voter in voters if voter in status.reachable or voter == status.me]
        if leader is None and 2 * len(here) <= len(voters):
            why = dict(status.silent)
            away = [f"{v} ({why[v]})" if v in why else v for v in sorted(set(voters) - set(here))]
            return NoQuorum(
                f"no quorum: {len(here)} of {len(voters)} masters reachable ({', '.join(sorted(here))}), "
                f"waiting for {', '.join(away)}"
            )
        masters = ",".join(roster.controls().values())
        if leader is None or leader == status.me:
            return NotLeader(
                f"master {status.me} does not lead, and no leader is known yet",
                hint="An election takes well under a second; then the call will succeed.",
                details={"masters": masters},
            )
        address = roster.control(leader)
        return NotLeader(
            f"master {status.me} does not lead; {leader} does, at {address}",
            details={"leader": address, "leader_id": leader, "masters": masters},
        )

    def _note_leadership(self, leads: bool, term: Term) -> None:
        self._leads_term = term if leads else None
