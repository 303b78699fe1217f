"""One master's Raft member: the Replicator. Wires the parts together and drives them from the event loop.

There is one timer, the tick. Every event (a message, a finished sync, a proposal) asks for one turn of the
loop, and a turn adds waiting proposals to the log, ticks the engine, starts a sync, applies what is committed
and answers whoever waited for it. In this order: disks and followers work on the next entry while this
thread applies the one before.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from gfs.clock import Clock, SystemClock
from gfs.disk import Disk, SystemDisk
from gfs.errors import (
    GfsError,
    InternalFault,
    NoQuorum,
    NotLeader,
    OutcomeUnknown,
    Unavailable,
)
from gfs.master.replication.admission import Admission
from gfs.master.replication.checkpoint_duty import CheckpointDuty
from gfs.master.replication.checkpoint_shipping import serve_piece
from gfs.master.replication.checkpoints import CheckpointStore
from gfs.master.replication.commit_stall import CommitStall
from gfs.master.replication.configuration import decode_configuration
from gfs.master.replication.distrust import Distrust
from gfs.master.replication.elections import Elections
from gfs.master.replication.engine import Engine
from gfs.master.replication.freshness import Freshness
from gfs.master.replication.group_commit import (
    GroupCommit,
    decode_entry,
    decode_readmission,
)
from gfs.master.replication.handshake import Dialer, Introduction
from gfs.master.replication.leadership import Leadership, Listener
from gfs.master.replication.log import Position
from gfs.master.replication.log_writer import InWorker, LogWriter
from gfs.master.replication.member_changes import MemberChanges
from gfs.master.replication.membership_duty import MembershipDuty
from gfs.master.replication.options import APPLY_BYTES_PER_TURN, RaftOptions
from gfs.master.replication.peer_connections import PeerConnections
from gfs.master.replication.peer_messages import PeerMessages
from gfs.master.replication.raft_messages import (
    CheckpointWanted,
    FetchPiece,
    Message,
    NoSuchCheckpoint,
    Ping,
)
from gfs.master.replication.raft_transport import RaftTransport
from gfs.master.replication.read_rounds import ReadRounds
from gfs.master.replication.recovery import recover
from gfs.master.replication.replicator import (
    Member,
    MembersListener,
    ReplicatorStatus,
    StateMachine,
)
from gfs.master.replication.worker_thread import WorkerThread
from gfs.telemetry import logger
from gfs.vocabulary import ClusterId, LogIndex, MasterId, Term

STALL_HINT = "Free disk space on these masters; they go on by themselves. Reads are answered meanwhile."
EXIT_IO_ERROR = 74  # EX_IOERR
EXIT_BUG = 70  # EX_SOFTWARE


def end_process(error: BaseException) -> None:
    """The default `fatal`: a master that cannot trust its disk or its state must not say another word."""
    logger("raft").critical("master_ends", reason=str(error), exc_info=error)
    os._exit(EXIT_IO_ERROR if isinstance(error, OSError) else EXIT_BUG)


class RaftNode:
    def __init__(
        self,
        *,
        me: MasterId,
        founders: Sequence[Member],
        dial: Callable[[Member], tuple[str, int]],
        listen: tuple[str, int],
        directory: str,
        cluster: ClusterId,
        secret: bytes,
        state: StateMachine,
        checkpoints: CheckpointStore,
        options: RaftOptions | None = None,
        disk: Disk | None = None,
        clock: Clock | None = None,
        chance: random.Random | None = None,
        fatal: Callable[[BaseException], None] = end_process,
        in_worker: InWorker | None = None,
        distrust: Distrust | None = None,
    ) -> None:
        """
        Args:
            founders: the masters of a cluster whose membership has never changed. Who is to be added later,
                or has been, is no voter here; this one may be among them. After a change the log tells.
            dial: where to reach a member, if not at its own address.
            directory: of this master; the operation log goes into its "log".
            state: restored from the newest checkpoint, or further on its own; never behind it.
            fatal: called once when this master must not go on; the default ends the process.
            in_worker: does the log's blocking work beside the loop; the default is a thread of its own.
            distrust: what is known from before of a state that is not to be trusted.
        """
        self._me, self._listen, self._directory = me, listen, directory
        self._founders = tuple(sorted(founders))
        self._dial = dial
        self._cluster, self._secret, self._state, self._checkpoints = cluster, secret, state, checkpoints
        self._options = options or RaftOptions()
        self._disk, self._clock = disk or SystemDisk(), clock or SystemClock()
        self._chance, self._on_fatal = chance or random.Random(), fatal
        self._in_worker = in_worker
        self._distrust = distrust or Distrust(state_wanted=False, stands_back=False)
        self._log_thread: WorkerThread | None = None
        self._listeners: list[Listener] = []
        self._members_listeners: list[MembersListener] = []
        self._group = GroupCommit(self._options)
        self._freshness = Freshness()
        self._pieces_served = 0
        self._turn_asked = False
        self._running = False
        self._stopping = False
        self._applied_something = False
        self._tick_handle: asyncio.TimerHandle | None = None

    # --- Replicator -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the log, compare it with the state, listen and dial.

        Raises: CorruptState, UnsupportedVersion, WrongCluster; OSError when the port is taken.
        """
        self._loop = asyncio.get_running_loop()
        self._checkpoint_threads = ThreadPoolExecutor(2, "checkpoint")
        recovered = recover(
            self._directory,
            self._disk,
            me=self._me,
            cluster=self._cluster,
            founders=self._founders,
            state=self._state,
            checkpoints=self._checkpoints,
            state_wanted=self._distrust.state_wanted,
            segment_bytes=self._options.segment_bytes,
        )
        self._log, self._disks, self._membership = recovered.log, recovered.disks, recovered.membership
        self._wire_up()
        self._engine.begin_at(recovered.applied.index)
        self._membership_duty.follow()
        await self._connections.start()
        self._running = True
        self._tick()

    async def stop(self) -> None:
        """Hand leadership over if someone can take it, sync, and close."""
        if not self._running:
            return
        self._stopping = True
        await self._leadership.hand_over(
            self._clock,
            seconds=self._options.election_seconds_max,
            is_quiet=lambda: self._group.in_flight == 0,
        )
        self._running = False
        self._end_everything(NotLeader("this master is stopping"))
        if self._tick_handle is not None:
            self._tick_handle.cancel()
        await self._connections.stop()
        await self._checkpointing.stop()
        await self._writer.drain()
        self._writer.stop()
        if not self._writer.out_of_space:
            self._log.close()
        if self._log_thread is not None:
            self._log_thread.stop()
        self._checkpoint_threads.shutdown()

    async def propose(self, proposal: bytes) -> bytes:
        return await self.submit(proposal)

    def submit(self, proposal: bytes) -> asyncio.Future[bytes]:
        try:
            self._demand_leadership()
            if self._stall.reason:
                raise NoQuorum(self._stall.reason, hint=STALL_HINT)
            outcome = self._group.submit(proposal)
        except GfsError as error:
            return self._failed(error)
        self._ask_for_turn()
        return outcome

    async def read_barrier(self) -> LogIndex:
        return await self.submit_read()

    def submit_read(self) -> asyncio.Future[LogIndex]:
        try:
            self._demand_leadership()
        except GfsError as error:
            return self._failed(error)
        reached = self._reads.submit()
        self._ask_for_turn()
        return reached

    def _failed(self, error: GfsError) -> asyncio.Future[Any]:  # Any: it has no result
        future: asyncio.Future[Any] = self._loop.create_future()
        future.set_exception(error)
        return future

    def status(self) -> ReplicatorStatus:
        engine = self._engine
        role = "leader" if engine.is_leader else "candidate" if engine.is_candidate else "follower"
        leader = self._leadership.known_leader()
        lag_entries, lag_seconds = self._lag()
        return ReplicatorStatus(
            me=self._me,
            role=role,
            leader=leader,
            term=engine.term,
            applied=engine.applied_index,
            committed=engine.commit_index,
            reachable=self._connections.connected(),
            ready=self._leadership.is_ready() if engine.is_leader else leader is not None,
            disk_full=self._writer.out_of_space,
            stalled=self._stall.reason,
            kept_out=tuple(sorted(self._connections.kept_out().items())),
            lag_entries=lag_entries,
            lag_seconds=lag_seconds,
            silent=self._silent(),
            part=self._membership.part(),
            disks=tuple(self._disks.all().items()),
        )

    def _silent(self) -> tuple[tuple[MasterId, str], ...]:
        connections, now = self._connections, self._clock.monotonic()
        away = sorted({member.id for member in self.members()} - connections.connected() - {self._me})
        return tuple((member, connections.silence.in_words(member, now=now)) for member in away)

    def _lag(self) -> tuple[int, float]:
        if self._running and self._leadership.is_ready():
            return 0, 0.0
        return self._freshness.lag(applied=self._engine.applied_index, now=self._clock.monotonic())

    def on_leadership(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def members(self) -> tuple[Member, ...]:
        return self._membership.latest.members

    def on_members(self, listener: MembersListener) -> None:
        self._members_listeners.append(listener)

    async def add_member(self, member: Member) -> None:
        await self._changes.add(member)

    async def remove_member(self, member: MasterId) -> None:
        await self._changes.remove(member)

    async def transfer_leadership(self, to: MasterId | None) -> MasterId:
        return await self._changes.transfer(to)

    async def checkpoint(self) -> LogIndex:
        if self._distrust.stands_back:
            raise Unavailable("this master's state is quarantined: no checkpoint is made of it")
        return await asyncio.shield(self._checkpointing.make())

    # --- beyond Replicator ------------------------------------------------------------------------

    @property
    def port(self) -> int:
        return self._connections.port

    def refusals(self) -> dict[MasterId, str]:
        """Peers that are kept out, or keep us out, and why; for status pages."""
        return dict(self._connections.last_refusal)

    async def readmit(self, member: MasterId) -> None:
        """Let a member that was refused for its new disk vote again, by an entry in the log.

        Committed without that member, so a majority of the others then holds all it may have acknowledged.
        Raises: NotLeader, InvalidArgument when no such member has knocked, OutcomeUnknown.
        """
        self._demand_leadership()
        position = self._append(self._admission.readmission(member))
        await self._changes.settled(position, f"{member} was being readmitted")

    # --- a state that is not to be trusted --------------------------------------------------------

    def distrust(self) -> None:
        """From now on as Distrust says: the state is thrown away for a checkpoint of the leader's."""
        self._distrust.begin()
        if self._running and self._engine.is_leader:
            self._engine.transfer_leadership()  # who has everything need not wait for a time-out
            self._engine.step_down()
        if self._running:
            self._ask_for_turn()

    def trust(self) -> None:
        """The state was compared with the other masters' and is right."""
        self._distrust.end()

    @property
    def state_wanted(self) -> bool:
        return self._distrust.state_wanted

    def _ask_for_checkpoint(self) -> None:
        leader = self._leadership.known_leader()
        if leader not in (None, self._me) and self._distrust.must_ask(self._clock.monotonic()):
            assert leader is not None
            wanted = CheckpointWanted(self._engine.term, self._log.base.index)
            self._connections.transmit(leader, wanted)

    def _checkpoint_installed(self) -> None:
        self._distrust.replaced()
        self._membership_duty.follow()
        self._ask_for_turn()

    # --- construction -----------------------------------------------------------------------------

    def _wire_up(self) -> None:
        options, in_worker = self._options, self._in_worker
        if in_worker is None:
            self._log_thread = WorkerThread("operation-log")
            in_worker = self._log_thread.run
        self._writer = LogWriter(
            self._log,
            in_worker,
            self._clock,
            slow_seconds=options.slow_disk_seconds,
            retry_seconds=options.no_space_retry_seconds,
            on_settled=self._log_settled,
            on_space_changed=self._space_changed,
            fatal=self._fail,
        )
        self._connections = PeerConnections(
            me=self._me,
            peers={},
            listen=self._listen,
            cluster=self._cluster,
            secret=self._secret,
            options=options,
            clock=self._clock,
            chance=self._chance,
            events=self,
        )
        self._raft_transport = RaftTransport(
            self._log,
            self._connections,
            call_later=self._loop.call_later,
            away_seconds=options.heartbeat_seconds,
            on_other=lambda member, message: self._messages.receive(member, message),
            on_leader_heard=self._leader_heard,
            on_checkpoint_needed=lambda member: self._checkpointing.offer(member),
            may_stand=lambda: not self._distrust.stands_back,
            on_log_replaced=lambda after, entries: self._membership_duty.log_replaced(after, entries),
            may_vote=self._membership.may_vote,
            writer=self._writer,
            fatal=self._fail,
        )
        self._engine = Engine(
            self._me,
            [],
            self._log,
            self._raft_transport,
            options,
            apply_entry=self._apply_entry,
            apply_bytes_per_turn=APPLY_BYTES_PER_TURN,
            on_state_changed=self._engine_state_changed,
        )
        self._raft_transport.bind(self._engine)
        self._membership_duty = MembershipDuty(
            self._me,
            self._membership,
            self._engine,
            self._connections,
            dial=self._dial,
            listeners=self._members_listeners,
        )
        self._admission = Admission(self._disks, self._membership, self._engine)
        self._reads = ReadRounds(self._me, self._engine, self._connections, self._clock, options)
        self._stall = CommitStall(
            self._me, self._engine, self._log, patience_seconds=options.commit_patience_seconds
        )
        self._elections = Elections(
            self._me,
            self._engine,
            self._log,
            self._membership,
            options,
            self._chance,
            send=self._connections.transmit,
        )
        self._leadership = Leadership(
            self._me,
            self._engine,
            self._log,
            self._writer,
            self._connections,
            self._elections,
            self._listeners,
        )
        self._checkpointing = CheckpointDuty(
            store=self._checkpoints,
            state=self._state,
            log=self._log,
            writer=self._writer,
            engine=self._engine,
            disks=self._disks,
            wire=self._connections,
            membership=self._membership,
            dial=self._membership_duty.address_of,
            me=self._me,
            cluster=self._cluster,
            clock=self._clock,
            executor=self._checkpoint_threads,
            log_bytes_max=options.checkpoint_log_bytes,
            tls=options.tls,
            new_dialer=lambda: Dialer(me=self._me, cluster=self._cluster, secret=self._secret),
            introduce=self.introduce,
            on_installed=self._checkpoint_installed,
            distrust=self._distrust,
            fatal=self._fail,
        )
        self._changes = MemberChanges(
            self._me,
            engine=self._engine,
            log=self._log,
            membership=self._membership,
            disks=self._disks,
            leadership=self._leadership,
            wire=self._connections,
            clock=self._clock,
            options=options,
            append=self._append,
            demand_leadership=self._demand_leadership,
            is_quiet=lambda: self._group.in_flight == 0,
            pieces_served=lambda: self._pieces_served,
            has_ended=lambda: not self._running,
        )
        self._messages = PeerMessages(
            engine=self._engine,
            log=self._log,
            wire=self._connections,
            raft=self._raft_transport,
            writer=self._writer,
            elections=self._elections,
            reads=self._reads,
            checkpointing=self._checkpointing,
            distrust=self._distrust,
        )

    # --- turns ------------------------------------------------------------------------------------

    def _ask_for_turn(self) -> None:
        if not self._turn_asked:
            self._turn_asked = True
            self._loop.call_soon(self._turn)

    def _tick(self) -> None:
        if self._running:
            self._turn()
            self._tick_handle = self._loop.call_later(self._options.tick_seconds, self._tick)

    def _turn(self) -> None:
        self._turn_asked = False
        if not self._running:
            return
        try:
            self._append_waiting()
            if (
                not self._writer.out_of_space
                and not self._distrust.stands_back
                and not self._stopping_as_follower()
                and self._elections.may_tick()
            ):
                self._engine.tick()
            else:
                self._engine.tick_without_election()
            if self._append_waiting():  # what has just been committed has made room
                self._engine.send_now()
            self._writer.kick()
            self._watch_commits()
            if self._distrust.state_wanted:
                self._ask_for_checkpoint()
            else:
                self._engine.apply_committed()
            self._finish_turn()
        except Exception as error:  # a bug, ours or pysyncobj's: a state machine must not skip or repeat (F3)
            self._fail(error)

    def _watch_commits(self) -> None:
        if self._stall.watch(self._clock.monotonic()):
            logger("raft").error("commits_stalled", reason=self._stall.reason)
            self._group.fail_waiting(NoQuorum(self._stall.reason, hint=STALL_HINT))
            self._group.fail_in_flight(OutcomeUnknown(f"{self._stall.reason}; it may still be written"))

    def _finish_turn(self) -> None:
        engine = self._engine
        self._membership_duty.follow_if_settled()
        if self._applied_something:
            self._applied_something = False
            self._state.commit()
            self._group.release()
            if not self._distrust.stands_back:
                self._checkpointing.make_if_due()
        behind = engine.applied_index < min(engine.commit_index, self._log.durable_index)
        if behind and not self._distrust.state_wanted:
            self._ask_for_turn()
        self._leadership.notify()
        if self._leadership.is_ready():
            self._freshness.leading(now=self._clock.monotonic())
            self._reads.drive()
            if not self._changes.handing_over and self._group.may_place(self._engine.commit_index):
                self._ask_for_turn()

    def _append_waiting(self) -> bool:
        """Whether there is something new to send."""
        group, engine = self._group, self._engine
        if not group.has_waiting or self._changes.handing_over or not self._leadership.is_ready():
            return False
        appended = False
        while group.may_place(engine.commit_index):
            group.placed(engine.append(group.next_entry()))
            appended = True
        return appended

    def _apply_entry(self, index: LogIndex, term: Term, payload: bytes) -> None:
        readmission, configuration = decode_readmission(payload), decode_configuration(payload)
        proposals: list[bytes] = []
        if readmission is not None:
            self._admission.readmitted(readmission)
        elif configuration is not None:
            self._admission.configured(configuration)
            self._membership_duty.settled()
        else:
            proposals = decode_entry(payload)
        outcomes = self._state.apply(index, term, proposals)
        self._applied_something = True
        self._group.applied(Position(index, term), outcomes)

    # --- membership -------------------------------------------------------------------------------

    def _append(self, payload: bytes) -> Position:
        position = self._engine.append(payload)
        self._membership_duty.log_replaced(position.index - 1, [(payload, *position)])
        self._ask_for_turn()
        return position

    # --- leadership -------------------------------------------------------------------------------

    def _demand_leadership(self) -> None:
        if not self._running or self._stopping:
            raise NotLeader("this master is stopping or not started")
        if not self._leadership.is_ready():
            raise self._leadership.why_not()

    def _leader_heard(self, commit_index: LogIndex | None) -> None:
        self._elections.leader_heard()
        if commit_index is not None:
            self._freshness.leader_said(
                commit_index, applied=self._engine.applied_index, now=self._clock.monotonic()
            )

    def _engine_state_changed(self) -> None:
        if not self._engine.is_leader:
            self._group.fail_waiting(self._leadership.why_not())
            self._group.fail_in_flight(
                OutcomeUnknown("leadership was lost while the operation was under way")
            )
            self._reads.fail(self._leadership.why_not())
            self._leadership.notify()

    def _stopping_as_follower(self) -> bool:
        return self._stopping and not self._engine.is_leader

    # --- the log's disk ---------------------------------------------------------------------------

    def _log_settled(self) -> None:
        if self._running:
            self._guarded(self._raft_transport.log_settled)
            self._ask_for_turn()

    def _space_changed(self, out_of_space: bool) -> None:
        if out_of_space:
            self._raft_transport.drop_held_answers()
            if self._engine.is_leader:
                # Followers with room can go on; reads that need no leader go on here.
                self._engine.step_down()
        self._ask_for_turn()

    # --- ConnectionEvents -------------------------------------------------------------------------

    def introduce(self) -> Introduction:
        return self._admission.introduce(log_end=self._log.end.index)

    def check_peer(self, member: MasterId, introduction: Introduction, *, is_connected: bool) -> None:
        self._admission.check(member, introduction, is_connected=is_connected)

    def refused_by(self, member: MasterId, introduction: Introduction) -> None:
        self._admission.refused_by(member, introduction)

    def peer_up(self, member: MasterId) -> None:
        self._raft_transport.peer_up(member)
        self._ask_for_turn()

    def peer_down(self, member: MasterId) -> None:
        self._raft_transport.peer_down(member)
        if member == self._engine.leader:
            self._elections.leader_connection_lost()

    def message(self, member: MasterId, message: Message) -> None:
        if type(message) is Ping:  # who dials decides last, and has kept the connection
            self._membership.let_in_by(member)
        if self._running:
            self._guarded(lambda: self._raft_transport.receive(member, message))

    def messages_done(self) -> None:
        self._ask_for_turn()

    async def serve_piece(self, request: FetchPiece) -> msgspec.Struct:
        if self._distrust.stands_back:
            return NoSuchCheckpoint()
        self._pieces_served += 1
        return await serve_piece(
            self._checkpoints,
            self._checkpoint_threads,
            request,
            on_gone_bad=self._checkpointing.make,
        )

    # --- the end ----------------------------------------------------------------------------------

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except GfsError:
            raise  # the peer's fault; its connection is closed
        except Exception as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Say nothing more to anybody, then let `fatal` end the process."""
        if not self._running:
            return
        self._running = False
        self._end_everything(InternalFault(f"this master has stopped: {error}"))
        self._connections.abort_all()
        self._writer.stop()
        self._on_fatal(error)

    def _end_everything(self, error: GfsError) -> None:
        self._group.fail_waiting(error)
        self._group.fail_in_flight(OutcomeUnknown("this master stopped while the operation was under way"))
        self._reads.fail(error)
        self._leadership.end()
