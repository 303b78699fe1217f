"""pysyncobj's Raft core with our log under it. The only file that touches pysyncobj's private names.

pysyncobj decides: elections, log matching, commit index, stepping down. Everything that costs it time or
safety (sockets, threads, files, pickles, dumps, its command queue) is replaced. The names below are those of
0.3.17; pyproject.toml pins the minor version, and a test in tests/raft fails when one of them goes away.

What pysyncobj lacks or does wrong for a file system, as the comments of this room and tests/raft number it:
F1 nothing is synced. F2 a leader without followers goes on for 30 s. F3 an exception while applying is
repeated for ever, everywhere. F4 peers exchange pickles. F5 its dumps are slow, in the way, and unequal.
F6 proposals wait for a tick. F7 its journal is made in the constructor. F8 it iterates sets of nodes by hash.
P1 a follower commits what a dump covers. P2 dump and journal change in two steps. P3 trimming empties the
journal first. P4 late answers can keep a follower from catching up. P5 commands near the batch size jam it.
P6 a leader spins while a dump is made. P7 a follower deletes applied entries, and adds them again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection
from functools import cache
from typing import Any, Final

from pysyncobj import SyncObj, SyncObjConf, syncobj
from pysyncobj.config import SERIALIZER_STATE
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from gfs.master.replication.log import OperationLog, Position
from gfs.master.replication.options import APPEND_BYTES_MAX, RaftOptions
from gfs.vocabulary import LogIndex, MasterId, Term

NO_OP: Final = b"\x01"  # what pysyncobj adds when a leader is elected
NEVER: Final = 10**9

ApplyEntry = Callable[[LogIndex, Term, bytes], None]


class MemberNode(Node):
    """A master by its id. Addresses are the connections' affair."""

    def __init__(self, member: str) -> None:
        super().__init__(member)
        # pysyncobj iterates over sets of nodes; str's own hash would make that order differ from run to run.
        self._hash = zlib.crc32(member.encode())

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, MemberNode) and bool(self.id == other.id))


@cache
def member_node(member: MasterId) -> MemberNode:
    """The one node of a master, which dictionaries find without calling its comparison."""
    return MemberNode(member)


class _NoDumps:
    """Stands where pysyncobj keeps its dump machinery. Checkpoints are ours (F5, P1, P2, P6)."""

    def checkSerializing(self) -> tuple[int, None]:  # noqa: N802 pysyncobj's names
        return SERIALIZER_STATE.SERIALIZING, None  # keeps pysyncobj from starting a compaction

    def getTransmissionData(self, node: Node) -> None:  # noqa: N802
        return None

    def setTransmissionData(self, data: object) -> bool:  # noqa: N802
        return False

    def cancelTransmisstion(self, node: Node) -> None:  # noqa: N802
        return


class _NoPoller:
    def poll(self, timeout: float) -> None:
        return


def engine_now() -> float:
    """pysyncobj's own clock; its deadlines are in this time."""
    return float(syncobj.monotonicTime())


class Engine(SyncObj):
    # Data descriptors win over instance attributes, so the constructor's assignments come to nothing (F7).
    _SyncObj__raftLog = property(lambda self: self.log, lambda self, _: None)
    _SyncObj__serializer = property(lambda self: self._no_dumps, lambda self, _: None)

    def __init__(
        self,
        me: MasterId,
        others: list[MasterId],
        log: OperationLog,
        transport: Transport,
        options: RaftOptions,
        *,
        apply_entry: ApplyEntry,
        apply_bytes_per_turn: int,
        on_state_changed: Callable[[], None],
    ) -> None:
        self.log = log
        self._no_dumps = _NoDumps()
        self._apply_entry, self._apply_bytes_per_turn = apply_entry, apply_bytes_per_turn
        configuration = SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=True,
            appendEntriesPeriod=options.heartbeat_seconds,
            appendEntriesBatchSizeBytes=APPEND_BYTES_MAX,
            raftMinTimeout=options.election_seconds_min,
            raftMaxTimeout=options.election_seconds_max,
            leaderFallbackTimeout=options.fallback_seconds,
            connectionTimeout=NEVER,  # our transport judges its connections itself
            logCompactionMinEntries=NEVER,
            logCompactionMinTime=NEVER,
            dynamicMembershipChange=False,
            pollerType="select",
            onStateChanged=lambda old, new: on_state_changed(),
        )
        self._me, self._voters = me, frozenset((me, *others))
        nodes = [member_node(member) for member in others]
        super().__init__(member_node(me), nodes, configuration, nodeClass=MemberNode, transport=transport)
        self._poller = _NoPoller()

    def begin_at(self, applied: LogIndex) -> None:
        """At the start: everything up to `applied` is committed and in the state already."""
        self._SyncObj__raftLastApplied = max(applied, self.log.base.index)
        self._SyncObj__raftCommitIndex = self.applied_index

    def reconfigure(self, voters: frozenset[MasterId], receivers: frozenset[MasterId]) -> None:
        """From now on these count, and those get the log as well (pysyncobj's read-only nodes).

        pysyncobj counts itself in every majority, so a leader is always among its voters.
        """
        assert self._me in voters or not self.is_leader
        assert not voters & receivers
        others = {member_node(member) for member in sorted(voters) if member != self._me}
        readers = {member_node(member) for member in sorted(receivers) if member != self._me}
        kept = others | readers
        tables = (
            self._SyncObj__raftNextIndex,
            self._SyncObj__raftMatchIndex,
            self._SyncObj__lastResponseTime,
        )
        for table in tables:
            for node in [node for node in table if node not in kept]:
                del table[node]
        for node in kept:
            for table, value in zip(tables, (self.log.end.index + 1, 0, engine_now()), strict=True):
                table.setdefault(node, value)
        self._voters = voters
        self._SyncObj__otherNodes, self._SyncObj__readonlyNodes = others, readers
        self.send_soon()

    # --- driving --------------------------------------------------------------------------------

    def tick(self) -> None:
        """Elect, commit and send as is due. What is committed waits for apply_committed()."""
        self._onTick(0.0)

    def tick_without_election(self) -> None:
        deadline, never = self.election_deadline, engine_now() + NEVER
        self.election_deadline = never
        self.tick()
        if self.election_deadline == never:
            self.election_deadline = deadline

    def send_now(self) -> None:
        """Leader: send what was added since the tick."""
        self._SyncObj__sendAppendEntries()

    def append(self, payload: bytes) -> Position:
        """Leader: add an entry and send it with the next tick."""
        assert self.is_leader
        position = Position(LogIndex(self.log.end.index + 1), self.term)
        self.log.add(payload, position.index, position.term)
        self.send_soon()
        return position

    def send_soon(self) -> None:
        self._SyncObj__newAppendEntriesTime = 0

    def step_down(self) -> None:
        self._SyncObj__raftLeader = None
        self.election_deadline = engine_now() + self.conf.raftMaxTimeout
        self._SyncObj__setState(syncobj._RAFT_STATE.FOLLOWER)

    def transfer_leadership(self, to: MasterId | None = None) -> None:
        """Ask a voter, or the most advanced one, when it has everything, to stand for election at once."""
        self.transferLeadership(None if to is None else member_node(to))

    def restart_after_checkpoint(self, base: Position) -> None:
        """A checkpoint was installed: the state is at `base`, whatever the log held before."""
        if not self.log.holds(base):
            self.log.reset(base)
        self._SyncObj__raftLastApplied = base.index
        self._SyncObj__raftCommitIndex = max(self._SyncObj__raftCommitIndex, base.index)

    def apply_committed(self) -> None:
        """Apply committed entries, a bounded number of bytes a turn. Nothing here can be retried (F3).

        Only entries on our own disk: the state outlives a kill, and must never be ahead of the log.
        """
        last = self.applied_index
        commit = min(self.commit_index, self.log.durable_index)
        room = self._apply_bytes_per_turn
        while last < commit and room > 0:
            payload, index, term = self.log[last + 1 - self.log.base.index]
            assert index == last + 1
            self._apply_entry(LogIndex(index), Term(term), payload)
            self._SyncObj__raftLastApplied = last = LogIndex(index)
            room -= len(payload) + 1

    def _SyncObj__applyLogEntries(self) -> bool:  # noqa: N802
        return False  # not within a tick: what is to be sent and synced comes first, see Turns

    def _SyncObj__tryLogCompaction(self) -> None:  # noqa: N802
        return  # checkpoints are ours

    def _checkCommandsToApply(self) -> None:  # noqa: N802
        return  # commands come through append()

    def _SyncObj__doApplyCommand(self, command: bytes) -> Any:  # noqa: N802  Any: pysyncobj's signature
        raise AssertionError("entries are applied by _SyncObj__applyLogEntries")

    # --- what the rest of the room may look at ----------------------------------------------------

    @property
    def is_leader(self) -> bool:
        return bool(self._SyncObj__raftState == syncobj._RAFT_STATE.LEADER)

    @property
    def is_candidate(self) -> bool:
        return bool(self._SyncObj__raftState == syncobj._RAFT_STATE.CANDIDATE)

    @property
    def leader(self) -> MasterId | None:
        node = self._getLeader()
        return None if node is None else MasterId(node.id)

    @property
    def term(self) -> Term:
        term: Term = self._SyncObj__raftCurrentTerm
        return term

    @property
    def commit_index(self) -> LogIndex:
        index: LogIndex = self._SyncObj__raftCommitIndex
        return index

    @property
    def applied_index(self) -> LogIndex:
        index: LogIndex = self._SyncObj__raftLastApplied
        return index

    @property
    def voters(self) -> frozenset[MasterId]:
        return self._voters

    @property
    def others(self) -> frozenset[MasterId]:
        """The voters but for this master."""
        return self._voters - {self._me}

    def is_majority(self, members: Collection[MasterId]) -> bool:
        """Whether these are one; who is no voter does not count."""
        return len(self._voters.intersection(members)) * 2 > len(self._voters)

    def sends_to(self, member: MasterId) -> bool:
        """Whether this master, as a leader, sends its log there."""
        return member_node(member) in self._SyncObj__raftMatchIndex

    @property
    def election_deadline(self) -> float:
        return float(self._SyncObj__raftElectionDeadline)

    @election_deadline.setter
    def election_deadline(self, when: float) -> None:
        self._SyncObj__raftElectionDeadline = when

    @property
    def told_to_stand(self) -> bool:
        """The leader has asked this master to take over."""
        return bool(self._SyncObj__transferInProgress)

    def next_index(self, member: MasterId) -> int:
        return int(self._SyncObj__raftNextIndex.get(member_node(member), 0))

    def set_next_index(self, member: MasterId, index: int) -> None:
        self._SyncObj__raftNextIndex[member_node(member)] = index

    def match_index(self, member: MasterId) -> int:
        return int(self._SyncObj__raftMatchIndex.get(member_node(member), 0))

    def forget_match_index(self, member: MasterId) -> None:
        """What this member has acknowledged is gone with its disk."""
        if member_node(member) in self._SyncObj__raftMatchIndex:
            self._SyncObj__raftMatchIndex[member_node(member)] = 0
