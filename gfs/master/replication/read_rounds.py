"""Carries ReadIndex rounds between masters: asks, counts, answers. What is enough, read_index says."""

from __future__ import annotations

import asyncio

from gfs.clock import Clock
from gfs.errors import GfsError
from gfs.master.replication.engine import Engine
from gfs.master.replication.options import RaftOptions
from gfs.master.replication.raft_messages import ReadIndexAnswer, ReadIndexRequest
from gfs.master.replication.raft_transport import Wire
from gfs.master.replication.read_index import ReadIndex
from gfs.vocabulary import LogIndex, MasterId


class ReadRounds:
    def __init__(self, me: MasterId, engine: Engine, wire: Wire, clock: Clock, options: RaftOptions) -> None:
        self._engine, self._wire, self._clock, self._options = engine, wire, clock, options
        self._reads = ReadIndex(me)

    def submit(self) -> asyncio.Future[LogIndex]:
        return self._reads.submit()

    def fail(self, error: GfsError) -> None:
        self._reads.fail(error)

    def drive(self) -> None:
        """In each turn of a leader that is ready."""
        engine, reads, now = self._engine, self._reads, self._clock.monotonic()
        while True:
            number = reads.begin(term=engine.term, commit_index=engine.commit_index, now=now)
            if number is not None:
                self._ask_the_prompt(ReadIndexRequest(engine.term, number))
            elif overdue := reads.overdue(now=now, seconds=self._options.read_patience_seconds):
                for member in sorted(engine.others - overdue[1]):
                    self._wire.transmit(member, ReadIndexRequest(engine.term, overdue[0]))
            if not reads.confirmations() or not engine.is_majority(reads.confirmations()):
                break
            reads.finish()
        reads.applied(engine.applied_index)

    def asked(self, member: MasterId, request: ReadIndexRequest) -> None:
        if request.term == self._engine.term and self._engine.leader == member:
            self._wire.transmit(member, ReadIndexAnswer(request.term, request.round))

    def answered(self, member: MasterId, answer: ReadIndexAnswer) -> None:
        if answer.term == self._engine.term and self._engine.is_leader:
            self._reads.confirm(member, term=answer.term, number=answer.round)

    def _ask_the_prompt(self, message: ReadIndexRequest) -> None:
        """Ask as many as make a majority with us; all of them if they let us wait (see drive)."""
        others = self._engine.others
        missing = (len(others) + 1) // 2
        for member in self._reads.by_promptness(sorted(others)):
            if missing == 0:
                return
            missing -= self._wire.transmit(member, message)
