"""Between pysyncobj and the wire: every message passes here, and most holes are closed here (see engine).

F1: promises (votes, success answers) are held until the log is durable, and a follower's answer never counts
for more than our own disk holds. P1: checkpoints travel apart and carry no commit index. P4, P7: an answer
never moves `nextIndex` the wrong way; entries already here are never deleted. P6: a follower that needs a
checkpoint is reported away for a moment, which ends pysyncobj's send loop. No sockets: see connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from pysyncobj.transport import Transport

from gfs import failpoints
from gfs.errors import CorruptState, ProtocolFault
from gfs.master.replication.engine import Engine, MemberNode, member_node
from gfs.master.replication.log import Entry, OperationLog
from gfs.master.replication.raft_messages import (
    AppendAnswer,
    AppendEntries,
    Message,
    Ping,
    TimeoutNow,
    Vote,
    VoteRequest,
)
from gfs.vocabulary import LogIndex, MasterId


class Wire(Protocol):
    def transmit(self, member: MasterId, message: Message) -> bool:
        """Queue a message; False when the peer is not connected or its send buffer is full."""
        ...

    def connected(self) -> frozenset[MasterId]: ...


class DiskState(Protocol):
    out_of_space: bool

    @property
    def is_slow(self) -> bool: ...


class _Held(NamedTuple):
    sequence: int
    member: MasterId
    message: Message


class RaftTransport(Transport):
    def __init__(
        self,
        log: OperationLog,
        wire: Wire,
        *,
        call_later: Callable[[float, Callable[[], None]], object],
        away_seconds: float,
        on_other: Callable[[MasterId, Message], None],
        on_leader_heard: Callable[[LogIndex | None], None],
        on_checkpoint_needed: Callable[[MasterId], None],
        on_log_replaced: Callable[[int, list[Entry]], None],
        may_vote: Callable[[], bool],
        writer: DiskState,
        fatal: Callable[[BaseException], None],
        may_stand: Callable[[], bool] = lambda: True,
    ) -> None:
        """
        Args:
            on_other: takes the messages that pysyncobj has no part in.
            on_leader_heard: a message of the current leader has come in, with its commit index if it has one.
            may_stand: whether this master may be asked to take over the leadership.
            on_log_replaced: the leader has made the log go on, after this index, with these entries.
        """
        super().__init__(None, None, None)
        self._log, self._wire, self._call_later, self._away_seconds = log, wire, call_later, away_seconds
        self._on_other, self._on_leader_heard = on_other, on_leader_heard
        self._on_checkpoint_needed, self._may_stand = on_checkpoint_needed, may_stand
        self._on_log_replaced = on_log_replaced
        self._may_vote = may_vote
        self._writer, self._fatal = writer, fatal
        self._held: list[_Held] = []
        self._waiting_for_our_disk: dict[MasterId, AppendAnswer] = {}
        self._last_append: tuple[tuple[int, int, int, int, int], AppendEntries] | None = None
        self._engine: Engine

    def bind(self, engine: Engine) -> None:
        self._engine = engine

    # --- connections ------------------------------------------------------------------------------

    def peer_up(self, member: MasterId) -> None:
        self._waiting_for_our_disk.pop(member, None)
        self._onNodeConnected(member_node(member))

    def peer_down(self, member: MasterId) -> None:
        self._waiting_for_our_disk.pop(member, None)
        self._onNodeDisconnected(member_node(member))

    def report_away(self, member: MasterId) -> None:
        """Keep pysyncobj from sending to a peer for a moment."""
        self._onNodeDisconnected(member_node(member))
        self._call_later(self._away_seconds, lambda: self._report_back(member))

    def _report_back(self, member: MasterId) -> None:
        if member in self._wire.connected():
            self._onNodeConnected(member_node(member))

    # --- outbound ---------------------------------------------------------------------------------

    def send(self, node: MemberNode, message: dict[str, Any]) -> bool:  # Any: pysyncobj's own message format
        member = MasterId(node.id)
        match message["type"]:
            case "append_entries":
                return self._send_append(member, message)
            case "next_node_idx":
                index, success, reset = message["next_node_idx"], message["success"], message["reset"]
                self.answer(member, index, success=success, reset=reset)
                return True
            case "request_vote":
                last = self._log.end
                return self._promise(member, VoteRequest(message["term"], last.index, last.term))
            case "response_vote":
                return self._promise(member, Vote(message["term"]))
            case "timeout_now":
                return self._wire.transmit(member, TimeoutNow(message["term"]))
            case other:
                raise AssertionError(f"pysyncobj sends {other!r}, which we do not use")

    def answer(self, member: MasterId, next_index: int, *, success: bool, reset: bool = False) -> None:
        answer = AppendAnswer(self._engine.term, next_index, success, reset)
        if not success:
            self._wire.transmit(member, answer)
            return
        if self._log.sequence > self._log.durable_sequence and self._writer.is_slow:
            # Stay visible, or the leader would step down because of our disk; promise nothing.
            self._wire.transmit(member, AppendAnswer(self._engine.term, 0, False, False))
        if not self._writer.out_of_space:
            self._promise(member, answer)

    def _promise(self, member: MasterId, message: Message) -> bool:
        """Send now if all the message rests on is durable, else when it is."""
        held = _Held(self._log.sequence, member, message)
        if held.sequence <= self._log.durable_sequence:
            return self._transmit_promise(held)
        self._held.append(held)
        return True

    def _transmit_promise(self, held: _Held) -> bool:
        is_ack = isinstance(held.message, AppendAnswer)
        failpoints.hit("raft.before_ack" if is_ack else "raft.before_vote")
        is_sent = self._wire.transmit(held.member, held.message)
        failpoints.hit("raft.acked" if is_ack else "raft.voted")
        return is_sent

    def log_settled(self) -> None:
        """More of the log is durable: let go what waited for it, of answers only the newest to each peer."""
        still_held: list[_Held] = []
        ready: dict[tuple[MasterId, type], _Held] = {}
        for held in self._held:
            if held.sequence > self._log.durable_sequence:
                still_held.append(held)
            elif getattr(held.message, "term", 0) == self._engine.term:
                ready[held.member, type(held.message)] = held
        self._held = still_held
        for held in ready.values():
            self._transmit_promise(held)
        for member, waiting in list(self._waiting_for_our_disk.items()):
            self._take_success(member, waiting)

    def drop_held_answers(self) -> None:
        """The disk is full: what waits now would go out late; the leader will ask again."""
        self._held = [held for held in self._held if not isinstance(held.message, AppendAnswer)]

    def _send_append(self, member: MasterId, message: dict[str, Any]) -> bool:  # Any: as in send()
        assert "transmission" not in message, "an entry is longer than ENTRY_BYTES_MAX"
        if "serialized" in message:
            self._on_checkpoint_needed(member)
            self._wire.transmit(member, AppendEntries(message["term"], 0, 0, 0, []))
            self.report_away(member)
            return False
        entries = message["entries"]
        previous_index = message["prevLogIdx"] or 0
        end = entries[-1][1] if entries else previous_index
        key = (message["term"], message["commit_index"], previous_index, end, len(entries))
        if self._last_append is None or self._last_append[0] != key:
            previous_term = message["prevLogTerm"] or 0
            append = AppendEntries(
                message["term"], message["commit_index"], previous_index, previous_term, entries
            )
            self._last_append = (key, append)  # the same object again lets the wire reuse its bytes
        if not self._wire.transmit(member, self._last_append[1]):
            self.report_away(member)
            return False
        return True

    # --- inbound ----------------------------------------------------------------------------------

    def receive(self, member: MasterId, message: Message) -> None:
        """Raises: ProtocolFault when the peer says what no correct master says; its connection is closed."""
        node = member_node(member)
        match message:
            case AppendEntries():
                self._receive_append(member, message)
            case AppendAnswer():
                self._receive_answer(member, message)
            case VoteRequest(term) if not self._may_vote():
                self.learn_term(member, term)
            case VoteRequest(term, last_index, last_term):
                request = {"type": "request_vote", "term": term}
                self._onMessageReceived(
                    node, request | {"last_log_index": last_index, "last_log_term": last_term}
                )
            case Vote(term):
                if member in self._engine.voters:
                    self._onMessageReceived(node, {"type": "response_vote", "term": term})
            case TimeoutNow(term):
                if self._may_stand():
                    self._onMessageReceived(node, {"type": "timeout_now", "term": term})
            case Ping():
                pass
            case _:
                self._on_other(member, message)

    def learn_term(self, member: MasterId, term: int) -> None:
        """Someone is in a newer term: join it, as for a vote request that we would not grant."""
        request = {"type": "request_vote", "term": term, "last_log_index": -1, "last_log_term": -1}
        self._onMessageReceived(member_node(member), request)

    def _receive_answer(self, member: MasterId, answer: AppendAnswer) -> None:
        if answer.term > self._engine.term:
            self.learn_term(member, answer.term)
        if not self._counts(member, answer):
            return
        if answer.next_index > self._log.end.index + 1:
            raise ProtocolFault(f"{member} acknowledges entry {answer.next_index - 1}, which does not exist")
        if answer.success:
            self._take_success(member, answer)
            return
        # An answer to a later message of a pipeline must not undo what an earlier one has asked for (P4).
        reset = answer.reset and 0 < answer.next_index < self._engine.next_index(member)
        self._deliver_answer(member, answer.next_index, success=False, reset=reset)

    def _counts(self, member: MasterId, answer: AppendAnswer) -> bool:
        engine = self._engine
        return answer.term == engine.term and engine.is_leader and engine.sends_to(member)

    def _take_success(self, member: MasterId, answer: AppendAnswer) -> None:
        """Count an answer up to what our own disk holds; the rest waits for it (F1)."""
        if not self._counts(member, answer):
            self._waiting_for_our_disk.pop(member, None)
            return
        countable = min(answer.next_index, self._log.durable_index + 1)
        if countable < answer.next_index:
            parked = self._waiting_for_our_disk.get(member)
            if parked is None or parked.next_index < answer.next_index:
                self._waiting_for_our_disk[member] = answer
        else:
            self._waiting_for_our_disk.pop(member, None)
        sent_up_to = self._engine.next_index(member)
        self._deliver_answer(member, countable, success=True, reset=False)
        # A late answer must not make us send again what is on its way (P7).
        self._engine.set_next_index(member, max(sent_up_to, answer.next_index))

    def _deliver_answer(self, member: MasterId, next_index: int, *, success: bool, reset: bool) -> None:
        message = {"type": "next_node_idx", "next_node_idx": next_index, "success": success, "reset": reset}
        self._onMessageReceived(member_node(member), message)

    def _receive_append(self, member: MasterId, append: AppendEntries) -> None:
        """Raft §5.3's consistency check, so that pysyncobj only ever sees entries it has to add."""
        if append.term < self._engine.term:
            self.answer(member, 0, success=False)  # tells a leader that is none any more our term
            return
        self._check_entries(member, append)
        previous, end = append.previous_index, self._log.end.index
        # A message without an index before its entries (P1) tells nothing of what is committed.
        self._on_leader_heard(LogIndex(append.commit_index) if previous > 0 else None)
        if previous == 0:
            self._take_sign_of_life(member, append, commit_index=0)
            self.answer(member, 0, success=False)
        elif previous > end:
            self._take_sign_of_life(member, append, commit_index=0)
            self.answer(member, end + 1, success=False, reset=True)
        elif previous < self._log.base.index:
            self._take_sign_of_life(member, append, commit_index=0)
            self.answer(member, self._engine.commit_index + 1, success=False, reset=True)
        elif self._log.term_at(previous) != append.previous_term:
            self._take_sign_of_life(member, append, commit_index=0)
            self.answer(member, self._first_doubtful(LogIndex(previous)), success=False, reset=True)
        else:
            self._receive_matching(member, append)

    def _receive_matching(self, member: MasterId, append: AppendEntries) -> None:
        known = 0
        for _, index, term in append.entries:
            if self._log.term_at(index) != term:
                break
            known += 1
        agreed = append.previous_index + known
        new = append.entries[known:]
        if not new and agreed < self._log.end.index:
            # A duplicate or a heartbeat from before our end: pysyncobj would cut the log there (P7).
            self._take_sign_of_life(member, append, commit_index=min(append.commit_index, agreed))
            self.answer(member, agreed + 1, success=True)
            return
        if new and agreed < min(self._engine.commit_index, self._log.end.index):
            self._contradiction(member, agreed + 1)
            return
        if new and self._writer.out_of_space:
            self._take_sign_of_life(member, append, commit_index=min(append.commit_index, agreed))
            self.answer(member, 0, success=False)
            return
        message = {
            "type": "append_entries",
            "term": append.term,
            "commit_index": append.commit_index,
            "entries": new,
            "prevLogIdx": agreed,
            "prevLogTerm": self._log.term_at(agreed),
        }
        self._onMessageReceived(member_node(member), message)
        if new:
            self._on_log_replaced(agreed, new)

    def _take_sign_of_life(self, member: MasterId, append: AppendEntries, *, commit_index: int) -> None:
        """Without entries or a previous index pysyncobj takes note of leader, term and commit index only."""
        message = {"type": "append_entries", "term": append.term, "commit_index": commit_index}
        self._onMessageReceived(member_node(member), message)

    def _first_doubtful(self, conflicting: LogIndex) -> int:
        """Where the leader should start over: before the whole term that conflicts (Raft §5.3, end)."""
        if conflicting <= self._engine.commit_index:
            self._contradiction(None, conflicting)
        term, index = self._log.term_at(conflicting), conflicting
        while self._log.term_at(index - 1) == term and index - 1 > self._engine.commit_index:
            index = LogIndex(index - 1)
        return index

    def _check_entries(self, member: MasterId, append: AppendEntries) -> None:
        for place, (_, index, term) in enumerate(append.entries):
            if index != append.previous_index + 1 + place or term > append.term:
                raise ProtocolFault(f"{member} sends entry {index} of term {term} out of place")

    def _contradiction(self, member: MasterId | None, index: int) -> None:
        """Never delete what is committed, whoever asks: someone has lost acknowledged entries."""
        who = f"the leader {member}" if member else "the leader"
        self._fatal(
            CorruptState(
                f"{who} contradicts log entry {index}, which this master knows to be committed",
                hint="A master has lost its disk and was let in again, or two clusters share addresses. "
                "Keep this directory: it may hold the only copy.",
            )
        )
