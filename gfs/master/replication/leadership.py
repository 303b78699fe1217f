"""Who leads, as this master knows it: what callers are told and when listeners hear of a change."""

from __future__ import annotations

from collections.abc import Callable

from gfs.clock import Clock
from gfs.errors import GfsError, NoQuorum, NoSpace, NotLeader
from gfs.master.replication.elections import Elections
from gfs.master.replication.engine import Engine
from gfs.master.replication.log import OperationLog
from gfs.master.replication.log_writer import LogWriter
from gfs.master.replication.raft_transport import Wire
from gfs.telemetry import logger
from gfs.vocabulary import MasterId, Term

Listener = Callable[[bool, Term], None]

_HAND_OVER_POLL_SECONDS = 0.01


class Leadership:
    def __init__(
        self,
        me: MasterId,
        engine: Engine,
        log: OperationLog,
        writer: LogWriter,
        wire: Wire,
        elections: Elections,
        listeners: list[Listener],
    ) -> None:
        self._me, self._engine, self._log, self._writer = me, engine, log, writer
        self._wire, self._elections, self._listeners = wire, elections, listeners
        self._told: tuple[bool, Term] = (False, Term(0))

    def is_ready(self) -> bool:
        """Leader, and an entry of this term is applied: all that was committed before is known (Raft §8)."""
        engine = self._engine
        return engine.is_leader and self._log.term_at(engine.applied_index) == engine.term

    def known_leader(self) -> MasterId | None:
        """Where to send clients: this master, or one it is connected to and has heard lately."""
        leader = self._engine.leader
        if leader is None or leader == self._me:
            return leader if self._engine.is_leader else None
        return leader if leader in self._wire.connected() and self._elections.hears_leader() else None

    def why_not(self) -> GfsError:
        """What to tell a caller who needs the leader, when this master is not it or not yet ready."""
        leader = self.known_leader()
        if leader is not None and leader != self._me:
            return NotLeader(f"master {leader} leads", details={"leader": leader})
        if self._writer.out_of_space:
            return NoSpace("the disk of this master's operation log is full", details={"master": self._me})
        reachable = self._wire.connected()
        if self._me not in self._engine.voters:
            return NotLeader(f"{self._me} has no vote, and has not heard from the leader")
        voters, present = self._engine.voters, self._engine.voters & {self._me, *reachable}
        if not self._engine.is_majority(present):
            return NoQuorum(
                f"of {len(voters)} masters only {len(present)} can reach each other",
                details={"reachable": ",".join(sorted(present))},
            )
        return NotLeader("the masters are electing a leader")

    def notify(self) -> None:
        """Tell the listeners if anything has changed; a new term of ours is an end and a beginning."""
        leads, term = self.is_ready(), self._engine.term
        led, old_term = self._told
        if led and (not leads or term != old_term):
            self._tell(False, old_term)
        if leads and (not led or term != old_term):
            self._tell(True, term)

    async def hand_over(
        self, clock: Clock, *, seconds: float, is_quiet: Callable[[], bool], to: MasterId | None = None
    ) -> bool:
        """Ask a voter that has everything to take over, and wait until this master leads no more.

        Nothing should be proposed meanwhile. False: nobody took over in time, and this master still leads.
        """
        engine, asked = self._engine, False
        deadline = clock.monotonic() + seconds
        while engine.is_leader and engine.others and clock.monotonic() < deadline:
            if not asked and is_quiet():
                everything = self._log.end.index
                wanted = engine.others & self._wire.connected() & ({to} if to else engine.others)
                ready = [member for member in sorted(wanted) if engine.match_index(member) == everything]
                if ready:
                    asked = True
                    engine.transfer_leadership(ready[0])
            await clock.sleep(_HAND_OVER_POLL_SECONDS)
        return not engine.is_leader

    def end(self) -> None:
        """This master stops."""
        if self._told[0]:
            self._tell(False, self._told[1])

    def _tell(self, leads: bool, term: Term) -> None:
        self._told = (leads, term)
        logger("raft").info("leadership", leads=leads, term=term)
        for listener in self._listeners:
            listener(leads, term)
