"""What the rest of the master knows of Raft: propose, read barrier, status, leadership. Nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from gfs.vocabulary import Address, LogIndex, MasterId, Term


class Member(NamedTuple):
    """One master as the log knows it."""

    id: MasterId
    raft: Address  # "host:port", where other masters dial it
    control: Address  # "host:port", where clients and chunk servers dial it
    voter: bool  # False: a learner, gets the log, counts in no quorum


MembersListener = Callable[[tuple[Member, ...]], None]


class ReplicatorStatus(NamedTuple):
    me: MasterId
    role: str  # "leader", "follower" or "candidate"
    leader: MasterId | None
    term: Term
    applied: LogIndex
    committed: LogIndex
    reachable: frozenset[MasterId]  # peers with a live connection
    ready: bool  # leader: an entry of this term is applied; follower: a leader is known
    disk_full: bool = False  # the operation log waits for space: nothing more is acknowledged here
    stalled: str = ""  # leader: why mutations are refused, too few masters keep what they are sent
    kept_out: tuple[tuple[MasterId, str], ...] = ()  # masters, maybe this one, that may not take part; why
    lag_entries: int = 0  # behind what the leader last called committed
    lag_seconds: float = 0.0  # since this state was surely the newest; below zero: no leader was heard yet
    silent: tuple[tuple[MasterId, str], ...] = ()  # other masters that are not reachable; since when and why
    disks: tuple[tuple[MasterId, str], ...] = ()  # which log each master votes from, as known here
    part: str = "voter"  # or "learner", "stranger" (not added yet) or "removed"


class StateMachine(Protocol):
    """What is replicated. All calls come from the event loop's thread, in log order."""

    def applied(self) -> tuple[LogIndex, Term]:
        """Index and term of the last entry in the state; survives restarts together with it."""
        ...

    def apply(self, index: LogIndex, term: Term, proposals: Sequence[bytes]) -> list[bytes]:
        """Apply one log entry, a batch of proposals; one outcome each, in order.

        An empty batch (the first entry of each new leader) moves applied() and nothing else. Entries come
        without gaps: `index` is applied()'s plus one, except that a fresh state may start at index 2.
        Total: an exception is a bug and ends this master loudly at this index.
        """
        ...

    def commit(self) -> None:
        """Make what was applied visible to readers; called once per turn of the loop, not per entry."""
        ...


class Replicator(Protocol):
    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def propose(self, proposal: bytes) -> bytes:
        """Commit one proposal and return its outcome; all waiting proposals share one log entry.

        Raises: NotLeader, NoQuorum, Overloaded, InvalidArgument (too large): definite, nothing happened.
        OutcomeUnknown: leadership was lost while it was under way.
        """
        ...

    def submit(self, proposal: bytes) -> asyncio.Future[bytes]:
        """As propose(), for whoever needs no task to wait in; every failure is the future's."""
        ...

    async def read_barrier(self) -> LogIndex:
        """Return once a quorum has confirmed this leadership and everything committed before is applied.

        Raises: NotLeader, NoQuorum. Source: Raft §6.4 (ReadIndex); one round serves all who wait.
        """
        ...

    def submit_read(self) -> asyncio.Future[LogIndex]:
        """As read_barrier(), for whoever needs no task to wait in; every failure is the future's."""
        ...

    def status(self) -> ReplicatorStatus: ...

    def term(self) -> Term:
        """As in status(), for whoever asks often."""
        ...

    def on_leadership(self, listener: Callable[[bool, Term], None]) -> None:
        """Call `listener(is_leader_and_ready, term)` at each change, on the loop's thread."""
        ...

    async def readmit(self, member: MasterId) -> None:
        """Let a member that was refused for its new disk vote again, by an entry in the log.

        Raises: NotLeader, InvalidArgument when no such member was refused here, OutcomeUnknown.
        """
        ...

    def members(self) -> tuple[Member, ...]:
        """The latest configuration in this master's log, committed or not, sorted by id."""
        ...

    def on_members(self, listener: MembersListener) -> None:
        """Call `listener(members())` at each change, on the loop's thread."""
        ...

    async def add_member(self, member: Member) -> None:
        """Make `member` a voter: a learner first, and a voter as soon as it has caught up.

        Whatever ends this half way leaves it a learner; calling again goes on from there.
        Raises: NotLeader, NoQuorum; AlreadyExists when it is a voter; Unavailable while another change is
        under way; DeadlineExceeded when it makes no progress; OutcomeUnknown.
        Source: Raft dissertation §4.2.1.
        """
        ...

    async def remove_member(self, member: MasterId) -> None:
        """Take a voter or learner out. The leader first hands over, and raises NotLeader: ask the new one.

        Raises: NotLeader, NotFound; InvalidArgument for the last voter; NoQuorum when too few of those who
        stay can be reached; Unavailable while another change is under way; OutcomeUnknown.
        """
        ...

    async def transfer_leadership(self, to: MasterId | None) -> MasterId:
        """Hand over to a voter, or to the most advanced one; returns who leads then.

        Raises: NotLeader, NotFound; Unavailable when it did not take over in time: this master leads on.
        """
        ...

    async def checkpoint(self) -> LogIndex:
        """Write a checkpoint of the state now; returns its index. Joins one already under way."""
        ...
