"""What one Raft member is made of: the parts, made in order and introduced to each other. Decides nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from gfs.clock import Clock
from gfs.disk import Disk
from gfs.master.replication.admission import Admission
from gfs.master.replication.checkpoint_duty import CheckpointDuty
from gfs.master.replication.checkpoints import CheckpointStore
from gfs.master.replication.commit_stall import CommitStall
from gfs.master.replication.distrust import Distrust
from gfs.master.replication.elections import Elections
from gfs.master.replication.engine import Engine
from gfs.master.replication.freshness import Freshness
from gfs.master.replication.group_commit import GroupCommit
from gfs.master.replication.handshake import Dialer
from gfs.master.replication.leadership import Leadership, Listener
from gfs.master.replication.log_writer import InWorker, LogWriter
from gfs.master.replication.member_changes import MemberChanges
from gfs.master.replication.membership_duty import MembershipDuty
from gfs.master.replication.options import APPLY_BYTES_PER_TURN, RaftOptions
from gfs.master.replication.peer_connections import PeerConnections
from gfs.master.replication.peer_events import PeerEvents
from gfs.master.replication.peer_messages import PeerMessages
from gfs.master.replication.raft_transport import RaftTransport
from gfs.master.replication.read_rounds import ReadRounds
from gfs.master.replication.recovery import Recovered
from gfs.master.replication.replicator import Member, MembersListener, StateMachine
from gfs.master.replication.turns import Turns
from gfs.master.replication.worker_thread import WorkerThread
from gfs.vocabulary import ClusterId, MasterId


@dataclass(frozen=True, slots=True)
class Given:
    """What a member is given by its owner, see RaftNode; and who is told what it comes to know."""

    me: MasterId
    founders: tuple[Member, ...]
    dial: Callable[[Member], tuple[str, int]]
    listen: tuple[str, int]
    directory: str
    cluster: ClusterId
    secret: bytes
    state: StateMachine
    checkpoints: CheckpointStore
    options: RaftOptions
    disk: Disk
    clock: Clock
    chance: random.Random
    in_worker: InWorker | None
    distrust: Distrust
    leadership_listeners: list[Listener] = field(default_factory=list)
    members_listeners: list[MembersListener] = field(default_factory=list)


class MemberParts:
    """Each part once, by its name. Those made early hear of those made later through this object."""

    def __init__(self, given: Given, recovered: Recovered, *, fatal: Callable[[BaseException], None]) -> None:
        self.given = given
        self.distrust, self.state = given.distrust, given.state
        self.log, self.disks, self.membership = recovered.log, recovered.disks, recovered.membership
        self.group = GroupCommit(given.options)
        self.freshness = Freshness()
        self.turns = Turns(self, fatal)
        self.events = PeerEvents(self, fatal)
        self._make_wires(fatal)
        self._make_raft()
        self._make_duties(fatal)

    def close(self) -> None:
        """End the threads; the log's last work is done."""
        if self.log_thread is not None:
            self.log_thread.stop()
        self.checkpoint_threads.shutdown()

    def _make_wires(self, fatal: Callable[[BaseException], None]) -> None:
        given, options = self.given, self.given.options
        self.checkpoint_threads = ThreadPoolExecutor(2, "checkpoint")
        self.log_thread = None if given.in_worker is not None else WorkerThread("operation-log")
        in_worker = given.in_worker if self.log_thread is None else self.log_thread.run
        assert in_worker is not None
        self.writer = LogWriter(
            self.log,
            in_worker,
            given.clock,
            slow_seconds=options.slow_disk_seconds,
            retry_seconds=options.no_space_retry_seconds,
            on_settled=self.turns.log_settled,
            on_space_changed=self.turns.space_changed,
            fatal=fatal,
        )
        self.connections = PeerConnections(
            me=given.me,
            peers={},
            listen=given.listen,
            cluster=given.cluster,
            secret=given.secret,
            options=options,
            clock=given.clock,
            chance=given.chance,
            events=self.events,
        )
        self.raft_transport = RaftTransport(
            self.log,
            self.connections,
            call_later=asyncio.get_running_loop().call_later,
            away_seconds=options.heartbeat_seconds,
            on_other=lambda member, message: self.messages.receive(member, message),
            on_leader_heard=self.turns.leader_heard,
            on_checkpoint_needed=lambda member: self.checkpointing.offer(member),
            may_stand=lambda: not self.distrust.stands_back,
            on_log_replaced=lambda after, entries: self.membership_duty.log_replaced(after, entries),
            may_vote=self.membership.may_vote,
            writer=self.writer,
            fatal=fatal,
        )

    def _make_raft(self) -> None:
        given, options = self.given, self.given.options
        self.engine = Engine(
            given.me,
            [],
            self.log,
            self.raft_transport,
            options,
            apply_entry=self.turns.apply_entry,
            apply_bytes_per_turn=APPLY_BYTES_PER_TURN,
            on_state_changed=self.turns.engine_state_changed,
        )
        self.raft_transport.bind(self.engine)
        self.membership_duty = MembershipDuty(
            given.me,
            self.membership,
            self.engine,
            self.connections,
            dial=given.dial,
            listeners=given.members_listeners,
        )
        self.admission = Admission(self.disks, self.membership, self.engine)
        self.reads = ReadRounds(given.me, self.engine, self.connections, given.clock, options)
        self.stall = CommitStall(
            given.me, self.engine, self.log, patience_seconds=options.commit_patience_seconds
        )
        self.elections = Elections(
            given.me,
            self.engine,
            self.log,
            self.membership,
            options,
            given.chance,
            send=self.connections.transmit,
        )
        self.leadership = Leadership(
            given.me,
            self.engine,
            self.log,
            self.writer,
            self.connections,
            self.elections,
            given.leadership_listeners,
        )

    def _make_duties(self, fatal: Callable[[BaseException], None]) -> None:
        given = self.given
        self.checkpointing = CheckpointDuty(
            store=given.checkpoints,
            state=given.state,
            log=self.log,
            writer=self.writer,
            engine=self.engine,
            disks=self.disks,
            wire=self.connections,
            membership=self.membership,
            dial=self.membership_duty.address_of,
            me=given.me,
            cluster=given.cluster,
            clock=given.clock,
            executor=self.checkpoint_threads,
            log_bytes_max=given.options.checkpoint_log_bytes,
            tls=given.options.tls,
            new_dialer=lambda: Dialer(me=given.me, cluster=given.cluster, secret=given.secret),
            introduce=self.events.introduce,
            on_installed=self.turns.checkpoint_installed,
            distrust=self.distrust,
            fatal=fatal,
        )
        self.changes = MemberChanges(
            given.me,
            engine=self.engine,
            log=self.log,
            membership=self.membership,
            disks=self.disks,
            leadership=self.leadership,
            wire=self.connections,
            clock=given.clock,
            options=given.options,
            append=self.turns.append,
            demand_leadership=self.turns.demand_leadership,
            is_quiet=lambda: self.group.in_flight == 0,
            pieces_served=lambda: self.events.pieces_served,
            has_ended=lambda: not self.turns.running,
        )
        self.messages = PeerMessages(
            engine=self.engine,
            log=self.log,
            wire=self.connections,
            raft=self.raft_transport,
            writer=self.writer,
            elections=self.elections,
            reads=self.reads,
            checkpointing=self.checkpointing,
            distrust=self.distrust,
        )
