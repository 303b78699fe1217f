"""One Raft member alone with a recording wire: plain pysyncobj, or ours, fed message by message.

Most holes (told in replication/engine) show in how one member answers one message, so both kinds get the same
messages here, in pysyncobj's own format. Time stands still unless a test moves it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from pysyncobj import SyncObj, SyncObjConf, syncobj
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from chaos.simulation.disk import ForgetfulDisk
from gfs.master.replication.engine import Engine
from gfs.master.replication.log import OperationLog
from gfs.master.replication.options import RaftOptions
from gfs.master.replication.raft_messages import AppendAnswer, AppendEntries, Message, Vote, VoteRequest
from gfs.master.replication.raft_transport import RaftTransport
from gfs.vocabulary import LogIndex, MasterId, Term

ME, PEER, THIRD = MasterId("m1"), MasterId("m2"), MasterId("m3")
SPIN_LIMIT = 200


class Spinning(Exception):
    """More messages in one instant than any sane sender sends."""


@dataclass
class StoppedClock:
    now: float = 5000.0

    def __call__(self) -> float:
        return self.now


class _PlainTransport(Transport):
    def __init__(self) -> None:
        super().__init__(None, None, None)
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        self.sent.append((node.id, message))
        if len(self.sent) > SPIN_LIMIT:
            raise Spinning
        return True


class _NoFiles:
    def subscribe(self, *_: object) -> None:
        return

    def unsubscribe(self, *_: object) -> None:
        return

    def poll(self, timeout: float) -> None:
        return


class _PlainSyncObj(SyncObj):
    def __init__(self, member: PlainMember, transport: Transport, **options: Any) -> None:
        self._member = member
        configuration = SyncObjConf(
            autoTick=False, raftMinTimeout=0.4, raftMaxTimeout=1.4, useFork=False, **options
        )
        super().__init__(Node(ME), [Node(PEER), Node(THIRD)], configuration, transport=transport)
        self._poller = _NoFiles()

    def _SyncObj__doApplyCommand(self, command: bytes) -> Any:  # noqa: N802
        if command[:1] == b"\x00":
            self._member.applied.append((self.raftLastApplied + 1, command))
            return self._member.on_apply(command)
        return None


class PlainMember:
    """pysyncobj as it comes, with its own journal in memory."""

    def __init__(self, **options: Any) -> None:
        self.applied: list[tuple[int, bytes]] = []
        self.on_apply: Callable[[bytes], Any] = lambda command: None
        self.transport = _PlainTransport()
        self.raft = _PlainSyncObj(self, self.transport, **options)
        for peer in (PEER, THIRD):
            self.transport._onNodeConnected(Node(peer))

    def fill(self, entries: list[tuple[bytes, int, int]], *, applied: int, term: int) -> None:
        for entry in entries:
            self.raft._SyncObj__raftLog.add(*entry)
        self.raft._SyncObj__raftCurrentTerm = term
        self.raft._SyncObj__raftCommitIndex = self.raft._SyncObj__raftLastApplied = applied

    def receive(self, member: str, message: dict[str, Any]) -> None:
        self.transport._onMessageReceived(Node(member), message)

    def tick(self) -> None:
        self.raft.doTick(0.0)

    def lead(self) -> None:
        self.raft._SyncObj__setCurrentTerm(self.raft.raftCurrentTerm + 1, ME)
        self.raft._SyncObj__onBecomeLeader()
        self.transport.sent.clear()

    @property
    def log(self) -> list[tuple[bytes, int, int]]:
        return list(self.raft._SyncObj__raftLog[:])

    def next_index(self, member: str) -> int:
        return int(self.raft._SyncObj__raftNextIndex[Node(member)])

    def sent_to(self, member: str) -> list[Any]:
        return [message for target, message in self.transport.sent if target == member]

    def synced(self) -> None:
        """Plain pysyncobj has no notion of it."""


@dataclass
class _RecordingWire:
    sent: list[tuple[MasterId, Message]] = field(default_factory=list)

    def transmit(self, member: MasterId, message: Message) -> bool:
        self.sent.append((member, message))
        if len(self.sent) > SPIN_LIMIT:
            raise Spinning
        return True

    def connected(self) -> frozenset[MasterId]:
        return frozenset((PEER, THIRD))


class _Disk:
    out_of_space = False
    is_slow = False


class OurMember:
    """Our engine, transport and log; only the wire and the moments of syncing are the test's."""

    def __init__(self, **_: Any) -> None:
        self.applied: list[tuple[int, bytes]] = []
        self.on_apply: Callable[[bytes], Any] = lambda command: None
        self.wire = _RecordingWire()
        self.disk = ForgetfulDisk()
        self.oplog = OperationLog("/log", self.disk, segment_bytes=2**20)
        self.writer = _Disk()
        self.failures: list[BaseException] = []
        self.checkpoints_needed: list[MasterId] = []
        self.later: list[Callable[[], None]] = []
        self.transport = RaftTransport(
            self.oplog,
            self.wire,
            call_later=lambda seconds, call: self.later.append(call),
            away_seconds=0.05,
            on_other=lambda member, message: None,
            on_leader_heard=lambda commit_index: None,
            on_checkpoint_needed=self.checkpoints_needed.append,
            on_log_replaced=lambda after, entries: None,
            may_vote=lambda: True,
            writer=self.writer,
            fatal=self.failures.append,
        )
        self.raft = Engine(
            ME,
            [PEER, THIRD],
            self.oplog,
            self.transport,
            RaftOptions(),
            apply_entry=self._apply,
            apply_bytes_per_turn=2**20,
            on_state_changed=lambda: None,
        )
        self.transport.bind(self.raft)
        for peer in (PEER, THIRD):
            self.transport.peer_up(peer)

    def _apply(self, index: LogIndex, term: Term, payload: bytes) -> None:
        if payload[:1] == b"\x00":
            self.applied.append((index, payload))
            self.on_apply(payload)

    def fill(self, entries: list[tuple[bytes, int, int]], *, applied: int, term: int) -> None:
        for entry in entries:
            self.oplog.add(*entry)
        self.raft._SyncObj__setCurrentTerm(term, None)
        self.synced()
        self.raft.begin_at(LogIndex(applied))

    def receive(self, member: str, message: dict[str, Any]) -> None:
        self.transport.receive(MasterId(member), _translate(message, self.raft.term))

    def tick(self) -> None:
        self.raft.tick()
        self.raft.apply_committed()

    def lead(self) -> None:
        self.raft._SyncObj__setCurrentTerm(self.raft.term + 1, ME)
        self.raft._SyncObj__onBecomeLeader()
        self.synced()
        self.wire.sent.clear()

    @property
    def log(self) -> list[tuple[bytes, int, int]]:
        return list(self.oplog[:])

    def next_index(self, member: str) -> int:
        return self.raft.next_index(MasterId(member))

    def sent_to(self, member: str) -> list[Any]:
        return [message for target, message in self.wire.sent if target == member]

    def synced(self) -> None:
        self.oplog.flush()
        self.transport.log_settled()


def _translate(message: dict[str, Any], term: int) -> Message:
    """What a master of ours would have sent to say the same."""
    match message["type"]:
        case "append_entries":
            previous = (message.get("prevLogIdx", 0), message.get("prevLogTerm", 0))
            entries = message.get("entries", [])
            return AppendEntries(message["term"], message["commit_index"], *previous, entries)
        case "next_node_idx":
            index, success, reset = message["next_node_idx"], message["success"], message["reset"]
            return AppendAnswer(term, index, success, reset)
        case "request_vote":
            return VoteRequest(message["term"], message["last_log_index"], message["last_log_term"])
        case "response_vote":
            return Vote(message["term"])
    raise AssertionError(message)


def command(text: str) -> bytes:
    return b"\x00" + text.encode()


def append(
    term: int, previous: tuple[int, int], entries: list[tuple[bytes, int, int]], *, commit: int = 1
) -> dict[str, Any]:
    return {
        "type": "append_entries",
        "term": term,
        "commit_index": commit,
        "prevLogIdx": previous[0],
        "prevLogTerm": previous[1],
        "entries": entries,
    }


def answer(next_index: int, *, success: bool = False, reset: bool = False) -> dict[str, Any]:
    return {"type": "next_node_idx", "next_node_idx": next_index, "success": success, "reset": reset}


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> StoppedClock:
    clock = StoppedClock()
    monkeypatch.setattr(syncobj, "monotonicTime", clock)
    return clock
