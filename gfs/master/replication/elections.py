"""When this master may stand for election: pre-vote, and a quick start when the leader's connection breaks.

Pre-vote (Raft dissertation §9.6): before raising its term a master asks whether it could win. Nobody who
hears from a leader says yes, so a master that was cut off does not unseat a working leader when it is back.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from gfs.master.replication.engine import Engine, engine_now
from gfs.master.replication.log import OperationLog
from gfs.master.replication.membership import Membership
from gfs.master.replication.options import RaftOptions
from gfs.master.replication.raft_messages import Message, PreVote, PreVoteRequest
from gfs.vocabulary import MasterId, Term

_ROUND_SECONDS_MIN, _ROUND_SECONDS_MAX = (
    0.05,
    0.12,
)  # a few round trips; random, so that rounds do not collide


class Elections:
    def __init__(
        self,
        me: MasterId,
        engine: Engine,
        log: OperationLog,
        membership: Membership,
        options: RaftOptions,
        chance: random.Random,
        send: Callable[[MasterId, Message], object],
    ) -> None:
        self._me, self._engine, self._log, self._options = me, engine, log, options
        self._membership = membership
        self._chance, self._send = chance, send
        self._began = engine_now()
        self._leader_heard_at = float("-inf")
        self._granted: set[MasterId] = set()
        self._round_ends_at = float("-inf")
        self._round_term = Term(0)

    def leader_heard(self) -> None:
        self._leader_heard_at = engine_now()

    def hears_leader(self) -> bool:
        """Recently enough to send clients there."""
        return engine_now() - self._leader_heard_at < self._options.election_seconds_max

    def leader_connection_lost(self) -> None:
        """A closed connection is better evidence than a time-out; the others will have seen it too."""
        soon = engine_now() + self._chance.uniform(0, self._options.failover_seconds_max)
        self._engine.election_deadline = min(self._engine.election_deadline, soon)
        self._leader_heard_at = float("-inf")

    def may_tick(self) -> bool:
        """Whether the next tick may start an election, should one be due. Asks for pre-votes first."""
        engine = self._engine
        now = engine_now()
        if engine.is_leader:
            return True
        if not self._membership.may_stand():
            return False
        if self._membership.founds_alone() and now < self._began + self._options.founding_seconds:
            return False
        if engine.election_deadline >= now or engine.told_to_stand:
            return True
        if now > self._round_ends_at or self._round_term != engine.term:
            self._granted = {self._me}
            self._round_term = engine.term
            self._round_ends_at = now + self._chance.uniform(_ROUND_SECONDS_MIN, _ROUND_SECONDS_MAX)
            for member in sorted(engine.others):
                self._ask(member)
        if not engine.is_majority(self._granted):
            return False
        self._round_ends_at = float("-inf")
        return True

    def would_vote_for(self, member: MasterId, request: PreVoteRequest) -> bool:
        """`request` is of this term or a later one. Saying yes, this master stands back for a moment.

        Of two that ask each other at the same time one must give way, or both would stand and split the vote:
        the one with the shorter log, or else with the smaller id.
        """
        now, ours = engine_now(), self._log.end
        hears_a_leader = now - self._leader_heard_at < self._options.election_seconds_min
        if self._engine.is_leader or hears_a_leader or not self._membership.may_vote():
            return False
        if (request.last_term, request.last_index) < (ours.term, ours.index):
            return False
        asking_too = now <= self._round_ends_at and self._round_term == self._engine.term
        theirs = (request.last_term, request.last_index, member)
        if asking_too and theirs < (ours.term, ours.index, self._me):
            # It may have said no before it noticed that the leader is gone; now it has noticed.
            self._ask(member)
            return False
        self._round_ends_at = float("-inf")
        stand_back = now + self._chance.uniform(_ROUND_SECONDS_MIN, _ROUND_SECONDS_MAX)
        self._engine.election_deadline = max(self._engine.election_deadline, stand_back)
        return True

    def _ask(self, member: MasterId) -> None:
        last = self._log.end
        self._send(member, PreVoteRequest(self._engine.term, last.index, last.term))

    def take_pre_vote(self, member: MasterId, vote: PreVote) -> None:
        if vote.term == self._round_term and engine_now() <= self._round_ends_at:
            self._granted.add(member)
