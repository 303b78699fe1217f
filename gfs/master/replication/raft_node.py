"""One master's Raft member, as the rest of the master knows it; made of `member_parts`, driven by `turns`."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from typing import Any

from gfs.clock import Clock, SystemClock
from gfs.disk import Disk, SystemDisk
from gfs.errors import GfsError, InternalFault, NoQuorum, NotLeader, OutcomeUnknown, Unavailable
from gfs.master.replication.checkpoints import CheckpointStore
from gfs.master.replication.distrust import Distrust
from gfs.master.replication.leadership import Listener
from gfs.master.replication.log_writer import InWorker
from gfs.master.replication.member_parts import Given, MemberParts
from gfs.master.replication.options import RaftOptions
from gfs.master.replication.recovery import recover
from gfs.master.replication.replicator import Member, MembersListener, ReplicatorStatus, StateMachine
from gfs.master.replication.turns import STALL_HINT
from gfs.telemetry import logger
from gfs.vocabulary import ClusterId, LogIndex, MasterId, Term

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
        self._given = Given(
            me,
            tuple(sorted(founders)),
            dial,
            listen,
            directory,
            cluster,
            secret,
            state,
            checkpoints,
            options or RaftOptions(),
            disk or SystemDisk(),
            clock or SystemClock(),
            chance or random.Random(),
            in_worker,
            distrust or Distrust(state_wanted=False, stands_back=False),
        )
        self._on_fatal = fatal
        self._made: MemberParts | None = None

    @property
    def parts(self) -> MemberParts:
        """Of a member that has been started."""
        assert self._made is not None, "this member was never started"
        return self._made

    @property
    def running(self) -> bool:
        return self._made is not None and self._made.turns.running

    # --- Replicator -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the log, compare it with the state, listen and dial.

        Raises: CorruptState, UnsupportedVersion, WrongCluster; OSError when the port is taken.
        """
        given = self._given
        recovered = recover(
            given.directory,
            given.disk,
            me=given.me,
            cluster=given.cluster,
            founders=given.founders,
            state=given.state,
            checkpoints=given.checkpoints,
            state_wanted=given.distrust.state_wanted,
            segment_bytes=given.options.segment_bytes,
        )
        self._made = parts = MemberParts(given, recovered, fatal=self._fail)
        parts.engine.begin_at(recovered.applied.index)
        parts.membership_duty.follow()
        await parts.connections.start()
        parts.turns.begin()

    async def stop(self) -> None:
        """Hand leadership over if someone can take it, sync, and close."""
        if not self.running:
            return
        parts = self.parts
        parts.turns.stopping = True
        await parts.leadership.hand_over(
            self._given.clock,
            seconds=self._given.options.election_seconds_max,
            is_quiet=lambda: parts.group.in_flight == 0,
        )
        parts.turns.end()
        self._end_everything(NotLeader("this master is stopping"))
        await parts.connections.stop()
        await parts.checkpointing.stop()
        await parts.writer.drain()
        parts.writer.stop()
        if not parts.writer.out_of_space:
            parts.log.close()
        parts.close()

    async def propose(self, proposal: bytes) -> bytes:
        return await self.submit(proposal)

    def submit(self, proposal: bytes) -> asyncio.Future[bytes]:
        try:
            self._demand_leadership()
            parts = self.parts
            if parts.stall.reason:
                raise NoQuorum(parts.stall.reason, hint=STALL_HINT)
            outcome = parts.group.submit(proposal)
        except GfsError as error:
            return _failed(error)
        parts.turns.ask()
        return outcome

    async def read_barrier(self) -> LogIndex:
        return await self.submit_read()

    def submit_read(self) -> asyncio.Future[LogIndex]:
        try:
            self._demand_leadership()
        except GfsError as error:
            return _failed(error)
        reached = self.parts.reads.submit()
        self.parts.turns.ask()
        return reached

    def _demand_leadership(self) -> None:
        if self._made is None:
            raise NotLeader("this master is not started")
        self._made.turns.demand_leadership()

    def status(self) -> ReplicatorStatus:
        parts = self.parts
        engine = parts.engine
        role = "leader" if engine.is_leader else "candidate" if engine.is_candidate else "follower"
        leader = parts.leadership.known_leader()
        lag_entries, lag_seconds = self._lag()
        return ReplicatorStatus(
            me=self._given.me,
            role=role,
            leader=leader,
            term=engine.term,
            applied=engine.applied_index,
            committed=engine.commit_index,
            reachable=parts.connections.connected(),
            ready=parts.leadership.is_ready() if engine.is_leader else leader is not None,
            disk_full=parts.writer.out_of_space,
            stalled=parts.stall.reason,
            kept_out=tuple(sorted(parts.connections.kept_out().items())),
            lag_entries=lag_entries,
            lag_seconds=lag_seconds,
            silent=self._silent(),
            part=parts.membership.part(),
            disks=tuple(parts.disks.all().items()),
        )

    def term(self) -> Term:
        return self.parts.engine.term

    def _silent(self) -> tuple[tuple[MasterId, str], ...]:
        connections, now = self.parts.connections, self._given.clock.monotonic()
        away = sorted({member.id for member in self.members()} - connections.connected() - {self._given.me})
        return tuple((member, connections.silence.in_words(member, now=now)) for member in away)

    def _lag(self) -> tuple[int, float]:
        parts = self.parts
        if self.running and parts.leadership.is_ready():
            return 0, 0.0
        return parts.freshness.lag(applied=parts.engine.applied_index, now=self._given.clock.monotonic())

    def on_leadership(self, listener: Listener) -> None:
        self._given.leadership_listeners.append(listener)

    def members(self) -> tuple[Member, ...]:
        return self.parts.membership.latest.members

    def on_members(self, listener: MembersListener) -> None:
        self._given.members_listeners.append(listener)

    async def add_member(self, member: Member) -> None:
        await self.parts.changes.add(member)

    async def remove_member(self, member: MasterId) -> None:
        await self.parts.changes.remove(member)

    async def transfer_leadership(self, to: MasterId | None) -> MasterId:
        return await self.parts.changes.transfer(to)

    async def checkpoint(self) -> LogIndex:
        if self._given.distrust.stands_back:
            raise Unavailable("this master's state is quarantined: no checkpoint is made of it")
        return await asyncio.shield(self.parts.checkpointing.make())

    # --- beyond Replicator ------------------------------------------------------------------------

    @property
    def port(self) -> int:
        return self.parts.connections.port

    def refusals(self) -> dict[MasterId, str]:
        """Peers that are kept out, or keep us out, and why; for status pages."""
        return dict(self.parts.connections.last_refusal)

    async def readmit(self, member: MasterId) -> None:
        """Let a member that was refused for its new disk vote again, by an entry in the log.

        Committed without that member, so a majority of the others then holds all it may have acknowledged.
        Raises: NotLeader, InvalidArgument when no such member has knocked, OutcomeUnknown.
        """
        self._demand_leadership()
        position = self.parts.turns.append(self.parts.admission.readmission(member))
        await self.parts.changes.settled(position, f"{member} was being readmitted")

    # --- a state that is not to be trusted --------------------------------------------------------

    def distrust(self) -> None:
        """From now on as Distrust says: the state is thrown away for a checkpoint of the leader's."""
        self._given.distrust.begin()
        if not self.running:
            return
        engine = self.parts.engine
        if engine.is_leader:
            engine.transfer_leadership()  # who has everything need not wait for a time-out
            engine.step_down()
        self.parts.turns.ask()

    def trust(self) -> None:
        """The state was compared with the other masters' and is right."""
        self._given.distrust.end()

    @property
    def state_wanted(self) -> bool:
        return self._given.distrust.state_wanted

    # --- the end ----------------------------------------------------------------------------------

    def _fail(self, error: BaseException) -> None:
        """Say nothing more to anybody, then let `fatal` end the process."""
        if not self.running:
            return
        self.parts.turns.end()
        self._end_everything(InternalFault(f"this master has stopped: {error}"))
        self.parts.connections.abort_all()
        self.parts.writer.stop()
        self._on_fatal(error)

    def _end_everything(self, error: GfsError) -> None:
        parts = self.parts
        parts.group.fail_waiting(error)
        parts.group.fail_in_flight(OutcomeUnknown("this master stopped while the operation was under way"))
        parts.reads.fail(error)
        parts.leadership.end()


def _failed(error: GfsError) -> asyncio.Future[Any]:  # Any: it has no result
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future
