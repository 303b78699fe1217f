"""How the leader changes who the masters are, one step at a time; membership tells why that is safe. No wire.

Adding: a configuration with the new one as a learner; it gets the log, or a checkpoint first; when it keeps
up, a configuration with it as a voter. Removing: one without it. Every step is an entry in the log, and each
waits until the step before it is committed, whoever began that one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from gfs import failpoints
from gfs.clock import Clock
from gfs.errors import (
    AlreadyExists,
    DeadlineExceeded,
    InvalidArgument,
    NoQuorum,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    Unavailable,
)
from gfs.master.replication.configuration import MEMBERS_MAX, encode_configuration
from gfs.master.replication.engine import Engine
from gfs.master.replication.leadership import Leadership
from gfs.master.replication.log import OperationLog, Position
from gfs.master.replication.member_disks import MemberDisks
from gfs.master.replication.membership import Membership
from gfs.master.replication.options import RaftOptions
from gfs.master.replication.raft_transport import Wire
from gfs.master.replication.replicator import Member
from gfs.telemetry import logger
from gfs.vocabulary import MasterId

_NO_SUCCESSOR_SECONDS = 2.0  # for a new leader to make itself known after it was asked to take over


class MemberChanges:
    def __init__(
        self,
        me: MasterId,
        *,
        engine: Engine,
        log: OperationLog,
        membership: Membership,
        disks: MemberDisks,
        leadership: Leadership,
        wire: Wire,
        clock: Clock,
        options: RaftOptions,
        append: Callable[[bytes], Position],
        demand_leadership: Callable[[], None],
        is_quiet: Callable[[], bool],
        pieces_served: Callable[[], int],
        has_ended: Callable[[], bool],
    ) -> None:
        """
        Args:
            append: puts an entry in the log, where it is in force at once.
            is_quiet: no proposal is in flight.
            pieces_served: of checkpoints, to anybody, so far: a sign that a learner makes progress.
        """
        self._me, self._engine, self._log, self._membership = me, engine, log, membership
        self._disks, self._leadership, self._wire, self._clock = disks, leadership, wire, clock
        self._options, self._append, self._demand_leadership = options, append, demand_leadership
        self._is_quiet, self._pieces_served, self._has_ended = is_quiet, pieces_served, has_ended
        self._busy_with = ""
        self.handing_over = False  # nothing is to be proposed: the successor needs everything

    async def add(self, member: Member) -> None:
        with self._one_at_a_time(f"master {member.id} is being added"):
            known = self._membership.latest.find(member.id)
            learner = member._replace(voter=False)
            if known is not None and known.voter:
                raise AlreadyExists(f"master {member.id} is a member already")
            if known != learner:
                self._demand_room(member)
                await self._change([*self._others(member.id), learner])
            await self._caught_up(member.id)
            failpoints.hit("member.caught_up")
            voter = member._replace(voter=True)
            disk = self._disks.known.get(member.id)
            if disk is None:
                raise Unavailable(f"master {member.id} was lost sight of; it stays a learner")
            await self._change([*self._others(member.id), voter], {member.id: disk})

    async def remove(self, member: MasterId) -> None:
        self._demand_leadership()
        known = self._membership.latest.find(member)
        if known is None:
            raise NotFound(f"there is no master {member} to remove")
        if known.voter and len(self._membership.latest.voters()) == 1:
            raise InvalidArgument(
                f"{member} is the last master: without it there is no cluster",
                hint="Add another one first: 'gfs admin members add'.",
            )
        if member == self._me:
            self._demand_majority_of(self._others(member))
            successor = await self.transfer(None)
            raise NotLeader(
                f"{member} has handed over to {successor}, which can remove it", details={"leader": successor}
            )
        with self._one_at_a_time(f"master {member} is being removed"):
            await self._change(self._others(member))

    async def transfer(self, to: MasterId | None) -> MasterId:
        if to == self._me:
            self._demand_leadership()
            return to
        with self._one_at_a_time("leadership is being handed over"):
            if to is not None and to not in self._engine.voters:
                raise NotFound(f"{to} is not a voter", hint="'gfs admin members ls' shows who is.")
            if not self._engine.others & ({to} if to else self._engine.others) & self._wire.connected():
                raise Unavailable(f"{to or 'no other voter'} can be reached; {self._me} leads on")
            self.handing_over = True
            try:
                done = await self._leadership.hand_over(
                    self._clock,
                    seconds=2 * self._options.election_seconds_max,
                    is_quiet=self._is_quiet,
                    to=to,
                )
            finally:
                self.handing_over = False
        if not done:
            raise Unavailable(f"{to or 'no other voter'} has not taken over in time; {self._me} leads on")
        return await self._successor()

    async def settled(self, position: Position, what: str) -> None:
        """Return once the entry is applied here. Raises: OutcomeUnknown."""
        engine = self._engine
        while engine.is_leader and engine.term == position.term and not self._has_ended():
            if engine.applied_index >= position.index:
                return
            await self._clock.sleep(self._options.tick_seconds)
        raise OutcomeUnknown(f"leadership was lost while {what}")

    # --- one change -------------------------------------------------------------------------------

    @contextmanager
    def _one_at_a_time(self, what: str) -> Iterator[None]:
        self._demand_leadership()
        if self._busy_with:
            raise Unavailable(f"{self._busy_with}; one change at a time")
        self._busy_with = what
        try:
            yield
        finally:
            self._busy_with = ""

    async def _change(self, members: list[Member], disks: Mapping[MasterId, str] | None = None) -> None:
        """Commit one configuration, which differs from the one in force by one master."""
        await self._before_is_committed()
        self._demand_leadership()
        self._demand_majority_of(members)
        before = self._membership.latest.voters()
        after = {member.id for member in members if member.voter}
        assert len(before ^ after) <= 1, "majorities of neighbours share a master"
        assert self._me in after, "a leader that goes hands over first"
        failpoints.hit("member.before_change")
        position = self._append(encode_configuration(members, disks))
        failpoints.hit("member.changing")
        logger("raft").info("configuration_appended", index=position.index, voters=sorted(after))
        await self.settled(position, "the masters were being changed")
        failpoints.hit("member.changed")

    async def _before_is_committed(self) -> None:
        """Also the first entry of our own term is: is_ready() says so, and demand_leadership() asks it."""
        self._demand_leadership()
        version = self._membership.latest
        if version.at.index > self._engine.applied_index:
            await self.settled(
                version.at._replace(term=self._engine.term), "an earlier change was waited for"
            )

    def _others(self, member: MasterId) -> list[Member]:
        return [known for known in self._membership.latest.members if known.id != member]

    def _demand_room(self, member: Member) -> None:
        if len(self._others(member.id)) >= MEMBERS_MAX:
            raise InvalidArgument(f"a cluster has at most {MEMBERS_MAX} masters")

    def _demand_majority_of(self, members: list[Member]) -> None:
        """Masters that would not be enough to go on must not be what remains."""
        voters = {member.id for member in members if member.voter}
        present = voters & {self._me, *self._wire.connected()}
        if len(present) * 2 <= len(voters):
            raise NoQuorum(
                f"of the {len(voters)} masters after this change only {len(present)} can be reached: "
                "they could not go on",
                hint="Start the missing masters, or remove those that will not come back first.",
                details={"reachable": ",".join(sorted(present))},
            )

    # --- learners ---------------------------------------------------------------------------------

    async def _caught_up(self, member: MasterId) -> None:
        """Rounds, each up to where the log ended as it began, until one is short (dissertation §4.2.1)."""
        while True:
            began, goal = self._clock.monotonic(), self._log.end.index
            await self._reaches(member, goal)
            if self._clock.monotonic() - began <= self._options.catch_up_round_seconds:
                return

    async def _reaches(self, member: MasterId, goal: int) -> None:
        clock, patience = self._clock, self._options.catch_up_patience_seconds
        progress, since = (-1, -1), clock.monotonic()
        while (matched := self._engine.match_index(member)) < goal or member not in self._wire.connected():
            self._demand_leadership()
            if (now := (matched, self._pieces_served())) != progress:
                progress, since = now, clock.monotonic()
            elif clock.monotonic() - since > patience:
                behind = f"is {self._log.end.index - matched} entries behind"
                where = behind if member in self._wire.connected() else "cannot be reached"
                raise DeadlineExceeded(
                    f"master {member} {where} and has not come nearer for {patience:g} s: it stays a learner",
                    hint=f"See the log of {member}; the same command goes on from here, or 'gfs admin "
                    f"members remove {member}' takes it out again.",
                )
            await clock.sleep(self._options.tick_seconds)

    # --- afterwards -------------------------------------------------------------------------------

    async def _successor(self) -> MasterId:
        deadline = self._clock.monotonic() + _NO_SUCCESSOR_SECONDS
        while (leader := self._leadership.known_leader()) is None:
            if self._clock.monotonic() > deadline:
                raise OutcomeUnknown(f"{self._me} leads no more, and nobody has said yet that he does")
            await self._clock.sleep(self._options.tick_seconds)
        return leader
