"""Which view of the state a read is answered from: linearizable, session or stale. Reading is core/lookup's.

A view is the state at the last commit. It is valid until control goes back to the loop, so a handler takes
one, reads to the end without waiting, and answers: each answer is of one point of the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from gfs.clock import Clock
from gfs.errors import GfsError, NoQuorum, NotLeader, Unavailable
from gfs.master.commit import Commits
from gfs.master.core.lookup import path_of
from gfs.master.core.tables import ReadTables
from gfs.master.replication.replicator import Replicator
from gfs.master.standing import Standing
from gfs.messages.base import Consistency, Reply, ViewReply
from gfs.transport.interface import Later
from gfs.vocabulary import InodeId, LogIndex

SESSION_WAIT_SECONDS = 0.5  # how long a read waits for what its client has already seen
SESSION_POLL_SECONDS = 0.002

V = TypeVar("V", bound=ViewReply)


class Reads:
    """Views of the committed state for the handlers of one master."""

    def __init__(
        self,
        replicator: Replicator,
        commits: Commits,
        clock: Clock,
        *,
        committed: Callable[[], ReadTables],
        applied_index: Callable[[], LogIndex],
        standing: Standing,
    ) -> None:
        """`applied_index`: of the last entry that is visible in `committed()`."""
        self._standing = standing
        self._replicator = replicator
        self._commits = commits
        self._clock = clock
        self.now = committed
        self.applied_index = applied_index

    async def view(self, consistency: Consistency, min_applied_index: int) -> ReadTables:
        """The state as a read of this consistency may see it.

        linearizable: this master leads, which a quorum has confirmed after the call came in.
        session: any master, not older than `min_applied_index`, waited for SESSION_WAIT_SECONDS at most.
        stale: whatever this master has.
        Raises: NotLeader naming the leader, or when this master is no member; NoQuorum; Unavailable when
            this master is too far behind, or its state is not to be trusted.
        """
        self._standing.require_trust()
        if consistency == "linearizable":
            return await self.linearizable()
        if (refusal := self._commits.roster.refusal()) is not None:
            raise refusal  # what it has is nobody's state, or grows old without end
        if consistency == "session" and self.applied_index() < min_applied_index:
            await self._catch_up(min_applied_index)
        return self.now()

    @property
    def are_trusted(self) -> bool:
        """Whether this master's state is not known to differ from the others' (I7)."""
        return not self._standing.untrusted

    async def linearizable(self) -> ReadTables:
        reached = self._replicator.submit_read()
        try:
            await reached
        except GfsError:
            assert reached.done()  # _view_behind() is shown it
        return self._view_behind(reached)

    def replied(
        self, consistency: Consistency, min_applied_index: int, read: Callable[[ReadTables], ViewReply]
    ) -> Awaitable[Reply]:
        """As view(), for a handler that then does nothing but `read`; the reply is stamped."""
        if consistency != "linearizable":
            return self._replied_from_view(consistency, min_applied_index, read)
        self._standing.require_trust()

        def conclude(reached: asyncio.Future[LogIndex]) -> Reply:
            return self.stamp(read(self._view_behind(reached)), consistency)

        return Later(self._replicator.submit_read(), conclude)

    async def _replied_from_view(
        self, consistency: Consistency, min_applied_index: int, read: Callable[[ReadTables], ViewReply]
    ) -> Reply:
        return self.stamp(read(await self.view(consistency, min_applied_index)), consistency)

    def _view_behind(self, barrier: asyncio.Future[LogIndex]) -> ReadTables:
        try:
            barrier.result()
        except (NotLeader, NoQuorum) as error:
            raise self._commits.named(error) from error
        self._standing.require_trust()
        return self.now()

    def stamp(self, reply: V, consistency: Consistency) -> V:
        """The reply to a read, with the state it is of and, where that need not be the newest, its age."""
        applied = self.applied_index()
        if consistency == "linearizable":
            return msgspec.structs.replace(reply, applied_index=applied)
        known = self._replicator.status()
        return msgspec.structs.replace(
            reply,
            applied_index=applied,
            answered_by=known.me,
            lag_entries=known.lag_entries,
            lag_seconds=round(known.lag_seconds, 3),
        )

    def path_of(self, inode: InodeId) -> str:
        """How to name a file to a person; its path where that is found by reading few rows."""
        return path_of(self.now(), inode)

    async def _catch_up(self, index: int) -> None:
        give_up_at = self._clock.monotonic() + SESSION_WAIT_SECONDS
        while self.applied_index() < index:
            if self._clock.monotonic() >= give_up_at:
                raise Unavailable(
                    f"this master has applied the log to {self.applied_index()}; "
                    f"the client has seen {index} already",
                    hint="It is catching up; another master, or the leader, can answer.",
                )
            await self._clock.sleep(SESSION_POLL_SECONDS)
