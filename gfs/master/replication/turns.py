"""The order in which a member works. Nothing of Raft is decided here.

There is one timer, the tick. Every event (a message, a finished sync, a proposal) asks for one turn of the
loop, and a turn adds waiting proposals to the log, ticks the engine, starts a sync, applies what is committed
and answers whoever waited for it. In this order: disks and followers work on the next entry while this
thread applies the one before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from gfs.errors import GfsError, NoQuorum, NotLeader, OutcomeUnknown
from gfs.master.replication.configuration import decode_configuration
from gfs.master.replication.group_commit import decode_entry, decode_readmission
from gfs.master.replication.log import Position
from gfs.master.replication.raft_messages import CheckpointWanted
from gfs.telemetry import logger
from gfs.vocabulary import LogIndex, Term

if TYPE_CHECKING:
    from gfs.master.replication.member_parts import MemberParts

STALL_HINT = "Free disk space on these masters; they go on by themselves. Reads are answered meanwhile."


class Turns:
    """`running`: from `begin()` until `end()`; `stopping`: leadership is being handed over before the end."""

    def __init__(self, parts: MemberParts, fatal: Callable[[BaseException], None]) -> None:
        self._parts, self._fatal = parts, fatal
        self.running = False
        self.stopping = False
        self._asked = False
        self._applied_something = False
        self._loop = asyncio.get_running_loop()
        self._tick_handle: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self.running = True
        self._tick()

    def end(self) -> None:
        self.running = False
        if self._tick_handle is not None:
            self._tick_handle.cancel()

    def ask(self) -> None:
        if not self._asked:
            self._asked = True
            self._loop.call_soon(self._turn)

    def demand_leadership(self) -> None:
        """Raises: NotLeader, NoQuorum, NoSpace: nothing can be proposed here, and why."""
        if not self.running or self.stopping:
            raise NotLeader("this master is stopping or not started")
        if not self._parts.leadership.is_ready():
            raise self._parts.leadership.why_not()

    def append(self, payload: bytes) -> Position:
        """An entry that is no proposal: it goes before those that wait."""
        position = self._parts.engine.append(payload)
        self._parts.membership_duty.log_replaced(position.index - 1, [(payload, *position)])
        self.ask()
        return position

    # --- a turn -----------------------------------------------------------------------------------

    def _tick(self) -> None:
        if self.running:
            self._turn()
            self._tick_handle = self._loop.call_later(self._parts.given.options.tick_seconds, self._tick)

    def _turn(self) -> None:
        self._asked = False
        if not self.running:
            return
        parts = self._parts
        try:
            self._append_waiting()
            if self._may_stand():
                parts.engine.tick()
            else:
                parts.engine.tick_without_election()
            if self._append_waiting():  # what has just been committed has made room
                parts.engine.send_now()
            parts.writer.kick()
            self._watch_commits()
            if parts.distrust.state_wanted:
                self._ask_for_checkpoint()
            else:
                parts.engine.apply_committed()
            self._finish_turn()
        except Exception as error:  # a bug, ours or pysyncobj's: a state machine must not skip or repeat (F3)
            self._fatal(error)

    def _append_waiting(self) -> bool:
        """Whether there is something new to send."""
        parts = self._parts
        group, engine = parts.group, parts.engine
        if not group.has_waiting or parts.changes.handing_over or not parts.leadership.is_ready():
            return False
        appended = False
        while group.may_place(engine.commit_index):
            group.placed(engine.append(group.next_entry()))
            appended = True
        return appended

    def _may_stand(self) -> bool:
        parts = self._parts
        return (
            not parts.writer.out_of_space
            and not parts.distrust.stands_back
            and not (self.stopping and not parts.engine.is_leader)
            and parts.elections.may_tick()
        )

    def _watch_commits(self) -> None:
        group, stall = self._parts.group, self._parts.stall
        if stall.watch(self._now()):
            logger("raft").error("commits_stalled", reason=stall.reason)
            group.fail_waiting(NoQuorum(stall.reason, hint=STALL_HINT))
            group.fail_in_flight(OutcomeUnknown(f"{stall.reason}; it may still be written"))

    def _ask_for_checkpoint(self) -> None:
        parts = self._parts
        leader = parts.leadership.known_leader()
        if leader not in (None, parts.given.me) and parts.distrust.must_ask(self._now()):
            assert leader is not None
            wanted = CheckpointWanted(parts.engine.term, parts.log.base.index)
            parts.connections.transmit(leader, wanted)

    def _finish_turn(self) -> None:
        parts = self._parts
        engine = parts.engine
        parts.membership_duty.follow_if_settled()
        if self._applied_something:
            self._applied_something = False
            parts.state.commit()
            parts.group.release()
            if not parts.distrust.stands_back:
                parts.checkpointing.make_if_due()
        behind = engine.applied_index < min(engine.commit_index, parts.log.durable_index)
        if behind and not parts.distrust.state_wanted:
            self.ask()
        parts.leadership.notify()
        if parts.leadership.is_ready():
            parts.freshness.leading(now=self._now())
            parts.reads.drive()
            if not parts.changes.handing_over and parts.group.may_place(engine.commit_index):
                self.ask()

    # --- what the parts report --------------------------------------------------------------------

    def apply_entry(self, index: LogIndex, term: Term, payload: bytes) -> None:
        """Of the engine: this entry is committed, and the next to be applied."""
        parts = self._parts
        readmission, configuration = decode_readmission(payload), decode_configuration(payload)
        proposals: list[bytes] = []
        if readmission is not None:
            parts.admission.readmitted(readmission)
        elif configuration is not None:
            parts.admission.configured(configuration)
            parts.membership_duty.settled()
        else:
            proposals = decode_entry(payload)
        outcomes = parts.state.apply(index, term, proposals)
        self._applied_something = True
        parts.group.applied(Position(index, term), outcomes)

    def engine_state_changed(self) -> None:
        """Of the engine: leader, candidate or follower."""
        parts = self._parts
        if not parts.engine.is_leader:
            parts.group.fail_waiting(parts.leadership.why_not())
            parts.group.fail_in_flight(
                OutcomeUnknown("leadership was lost while the operation was under way")
            )
            parts.reads.fail(parts.leadership.why_not())
            parts.leadership.notify()

    def leader_heard(self, commit_index: LogIndex | None) -> None:
        """Of the transport."""
        parts = self._parts
        parts.elections.leader_heard()
        if commit_index is not None:
            parts.freshness.leader_said(commit_index, applied=parts.engine.applied_index, now=self._now())

    def log_settled(self) -> None:
        """Of the log's writer: a sync has ended."""
        if not self.running:
            return
        try:
            self._parts.raft_transport.log_settled()
        except GfsError:
            raise
        except Exception as error:
            self._fatal(error)
        self.ask()

    def space_changed(self, out_of_space: bool) -> None:
        """Of the log's writer."""
        if out_of_space:
            self._parts.raft_transport.drop_held_answers()
            if self._parts.engine.is_leader:
                # Followers with room can go on; reads that need no leader go on here.
                self._parts.engine.step_down()
        self.ask()

    def checkpoint_installed(self) -> None:
        """Of the checkpoint duty: the state is another one."""
        self._parts.distrust.replaced()
        self._parts.membership_duty.follow()
        self.ask()

    def _now(self) -> float:
        return self._parts.given.clock.monotonic()
