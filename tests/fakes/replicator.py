"""Several masters' Replicators over one log in memory: commits at once, and misbehaves on demand.

It keeps what the real one promises and nothing more: an old leader that has not noticed its successor still
believes itself leader, but cannot commit; an answer may be lost although the operation is in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from gfs.errors import AlreadyExists, NotFound, NotLeader, OutcomeUnknown
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables, ReadTables
from gfs.master.replication.replicator import Member, MembersListener, ReplicatorStatus
from gfs.master.roster import Roster
from gfs.messages.operations import LogRecord, Outcome
from gfs.vocabulary import Address, LogIndex, MasterId, Term

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(LogRecord).decode


class FakeLog:
    """What the masters of one test have committed, and who leads."""

    def __init__(self) -> None:
        self.proposals: list[bytes] = []
        self.term = Term(0)
        self.leader: FakeReplicator | None = None
        self.members: list[FakeReplicator] = []
        self.configuration: tuple[Member, ...] = ()

    def member(self, name: str) -> FakeReplicator:
        member = FakeReplicator(self, MasterId(name))
        self.members.append(member)
        return member

    def elect(self, member: FakeReplicator, *, unnoticed: bool = False) -> None:
        """Make `member` the leader. `unnoticed`: the old leader goes on believing that it is."""
        old = self.leader
        self.term = Term(self.term + 1)
        self.leader = member
        if old is not None and old is not member and not unnoticed:
            old.notice()
        member.catch_up()
        member.believes_term = self.term
        member.tell(True)

    def configure(self, members: Sequence[Member]) -> None:
        self.configuration = tuple(sorted(members))
        for member in self.members:
            member.tell_members()

    def records(self) -> list[LogRecord]:
        return [_decode(proposal) for proposal in self.proposals]


def member_at(name: str) -> Member:
    """As services of tests answer: control at `<name>:1`."""
    return Member(MasterId(name), Address(f"{name}:2"), Address(f"{name}:1"), voter=True)


def roster_of(replicator: FakeReplicator, names: Sequence[str]) -> Roster:
    """Of a cluster whose masters are `names`, unless the log knows better already."""
    log = replicator.log
    if not log.configuration:
        log.configure([member_at(name) for name in names])
    seeds = {MasterId(name): member_at(name).control for name in names}
    return Roster(replicator, me=member_at(replicator.me), seeds=seeds)


class FakeReplicator:
    """A `gfs.master.replication.replicator.Replicator` on its own copy of the state."""

    def __init__(self, log: FakeLog, me: MasterId) -> None:
        self.me = me
        self.tables = MemoryTables()
        self.state = MasterState(self.tables)
        self.believes_term: Term | None = None
        self.answers_to_lose = 0
        self.hold: asyncio.Event | None = None  # proposals and barriers wait until it is set
        self.checkpoints: list[LogIndex] = []
        self.readmitted: list[MasterId] = []
        self.applied_listeners: list[Callable[[Outcome], None]] = []
        self.part = ""  # stranger or removed, when it is told so
        self.lag = 0  # entries this master has not applied yet
        self.log = log
        self._applied = 0
        self._listeners: list[Callable[[bool, Term], None]] = []
        self._members_listeners: list[MembersListener] = []

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def propose(self, proposal: bytes) -> bytes:
        if self.believes_term is None:
            raise NotLeader(f"{self.me} does not lead")
        if self.hold is not None:
            await self.hold.wait()
        if self.log.leader is not self:
            self.notice()
            raise NotLeader(f"{self.me} leads no more")
        self.log.proposals.append(proposal)
        outcome = self.catch_up()
        for member in self.log.members:
            member.catch_up()
        assert outcome is not None
        if self.answers_to_lose > 0:
            self.answers_to_lose -= 1
            raise OutcomeUnknown("leadership was lost while it was under way")
        return _encode(outcome)

    def submit(self, proposal: bytes) -> asyncio.Future[bytes]:
        return asyncio.ensure_future(self.propose(proposal))

    def submit_read(self) -> asyncio.Future[LogIndex]:
        return asyncio.ensure_future(self.read_barrier())

    async def read_barrier(self) -> LogIndex:
        if self.hold is not None:
            await self.hold.wait()
        if self.log.leader is not self:
            self.notice()
            raise NotLeader(f"{self.me} does not lead")
        return self.applied_index()

    def term(self) -> Term:
        return self.status().term

    def status(self) -> ReplicatorStatus:
        leads = self.believes_term is not None
        others = frozenset(member.me for member in self.log.members if member is not self)
        mine = next((member for member in self.members() if member.id == self.me), None)
        leader = self.me if leads else self.log.leader.me if self.log.leader else None
        return ReplicatorStatus(
            me=self.me,
            role="leader" if leads else "follower",
            leader=leader,
            term=self.believes_term or self.log.term,
            applied=self.applied_index(),
            committed=LogIndex(len(self.log.proposals)),
            reachable=others,
            ready=leader is not None,
            part=self.part or ("voter" if mine is None or mine.voter else "learner"),
        )

    def on_leadership(self, listener: Callable[[bool, Term], None]) -> None:
        self._listeners.append(listener)

    async def readmit(self, member: MasterId) -> None:
        self.readmitted.append(member)

    async def checkpoint(self) -> LogIndex:
        self.checkpoints.append(self.applied_index())
        return self.applied_index()

    def members(self) -> tuple[Member, ...]:
        return self.log.configuration

    def on_members(self, listener: MembersListener) -> None:
        self._members_listeners.append(listener)

    async def add_member(self, member: Member) -> None:
        """The learner has caught up already."""
        self._demand_leadership()
        if any(known.id == member.id and known.voter for known in self.members()):
            raise AlreadyExists(f"{member.id} is a master already")
        others = [known for known in self.members() if known.id != member.id]
        self.log.configure([*others, member._replace(voter=True)])

    async def remove_member(self, member: MasterId) -> None:
        self._demand_leadership()
        others = [known for known in self.members() if known.id != member]
        if len(others) == len(self.members()):
            raise NotFound(f"there is no master {member}")
        if member == self.me:
            successor = await self.transfer_leadership(None)
            raise NotLeader(f"master {successor} leads", details={"leader": successor})
        self.log.configure(others)

    async def transfer_leadership(self, to: MasterId | None) -> MasterId:
        self._demand_leadership()
        found = [m for m in self.log.members if m is not self and to in (None, m.me)]
        if to == self.me or not found:
            raise NotFound(f"there is no other master {to}")
        self.log.elect(found[0])
        return found[0].me

    def _demand_leadership(self) -> None:
        if self.log.leader is not self:
            raise NotLeader(f"{self.me} does not lead")

    def tell_members(self) -> None:
        for listener in self._members_listeners:
            listener(self.members())

    def applied_index(self) -> LogIndex:
        return LogIndex(self._applied)

    def committed_tables(self) -> ReadTables:
        return self.tables

    def catch_up(self) -> Outcome | None:
        """Apply what is committed, but for the last `lag` entries; returns the outcome of the last."""
        outcome: Outcome | None = None
        end = max(self._applied, len(self.log.proposals) - self.lag)
        todo: Sequence[bytes] = self.log.proposals[self._applied : end]
        for proposal in todo:
            self._applied += 1
            outcome = self.state.apply(_decode(proposal), index=self.applied_index())
            for listener in self.applied_listeners:
                listener(outcome)
        self.state.save()
        return outcome

    def notice(self) -> None:
        """Find out that another master leads."""
        if self.believes_term is not None:
            self.believes_term = None
            self.tell(False)

    def tell(self, leads: bool) -> None:
        for listener in self._listeners:
            listener(leads, self.log.term)
