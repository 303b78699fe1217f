"""When checkpoints are made, offered and installed, and how far the log is trimmed behind them (GFS §2.6.2).

Making one holds up no mutation: the view is pinned in one turn of the loop, the rest is a worker thread's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

from gfs.clock import Clock
from gfs.errors import ProtocolFault, Unavailable
from gfs.master.replication.checkpoint_shipping import CheckpointFetcher
from gfs.master.replication.checkpoints import CheckpointManifest, CheckpointStore
from gfs.master.replication.distrust import Distrust
from gfs.master.replication.engine import Engine
from gfs.master.replication.handshake import Dialer, Introduction
from gfs.master.replication.log import OperationLog, Position
from gfs.master.replication.log_writer import LogWriter
from gfs.master.replication.member_disks import MemberDisks
from gfs.master.replication.membership import Membership
from gfs.master.replication.raft_messages import CheckpointInstalled, CheckpointOffer
from gfs.master.replication.raft_transport import Wire
from gfs.master.replication.replicator import StateMachine
from gfs.telemetry import logger
from gfs.tls import TlsIdentity
from gfs.vocabulary import Address, ClusterId, LogIndex, MasterId


class CheckpointDuty:
    def __init__(
        self,
        *,
        store: CheckpointStore,
        state: StateMachine,
        log: OperationLog,
        writer: LogWriter,
        engine: Engine,
        disks: MemberDisks,
        wire: Wire,
        membership: Membership,
        dial: Callable[[MasterId, Address], tuple[str, int]],
        me: MasterId,
        cluster: ClusterId,
        clock: Clock,
        executor: Executor,
        log_bytes_max: int,
        new_dialer: Callable[[], Dialer],
        introduce: Callable[[], Introduction],
        on_installed: Callable[[], None],
        distrust: Distrust,
        fatal: Callable[[BaseException], None],
        tls: TlsIdentity | None = None,
    ) -> None:
        """
        Args:
            dial: where to reach a master that is, or says of itself to be, at this address.
            log_bytes_max: so much log since the last checkpoint makes the next one due.
        """
        self._store, self._state, self._log, self._writer, self._engine = store, state, log, writer, engine
        self._disks, self._wire, self._cluster = disks, wire, cluster
        self._membership, self._dial, self._me = membership, dial, me
        self._clock, self._executor, self._log_bytes_max = clock, executor, log_bytes_max
        self._on_installed, self._distrust = on_installed, distrust
        self._task: asyncio.Task[LogIndex] | None = None
        self._stopped = False
        self._fetcher = CheckpointFetcher(
            store,
            executor,
            new_dialer=new_dialer,
            introduce=introduce,
            is_wanted=lambda manifest: not self._stopped and self._is_of_use(manifest),
            on_installed=self._installed,
            fatal=fatal,
            clock=clock,
            tls=tls,
        )
        newest = store.newest()
        after = newest.index if newest is not None else LogIndex(0)
        since_then = sum(len(payload) for payload, index, _ in log if index > after)
        self._bytes_at_last = log.bytes_appended - since_then

    # --- making -----------------------------------------------------------------------------------

    def make(self) -> asyncio.Task[LogIndex]:
        """Start a checkpoint, or join the one under way."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._make(), name="checkpoint")
            self._task.add_done_callback(self._made)
        return self._task

    def make_if_due(self) -> None:
        if not self._stopped and self._log.bytes_appended - self._bytes_at_last >= self._log_bytes_max:
            self.make()

    async def stop(self) -> None:
        self._stopped = True
        await self._fetcher.stop()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _make(self) -> LogIndex:
        self._state.commit()
        index, term = self._state.applied()
        newest = self._store.newest()
        if newest is not None and newest.index >= index:
            return newest.index
        if self._distrust.stands_back:
            raise Unavailable("this master's state is quarantined: no checkpoint is made of it")
        if index == 0:
            raise Unavailable("there is nothing to make a checkpoint of yet")
        self._bytes_at_last = self._log.bytes_appended
        build = self._store.begin(
            cluster=self._cluster,
            index=index,
            term=term,
            members=self._disks.all(),
            configuration=self._membership.to_keep(index),
            now_ms=self._clock.wall_ms(),
        )
        manifest = await asyncio.get_running_loop().run_in_executor(self._executor, build.run)
        logger("raft").info("checkpoint_written", index=manifest.index, bytes=manifest.length_bytes)
        await self._trim_log()
        return manifest.index

    def _made(self, task: asyncio.Task[LogIndex]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            logger("raft").error("checkpoint_failed", reason=str(error))

    async def _trim_log(self) -> None:
        """Memory keeps what follows the last but one checkpoint: a follower a little behind needs none.

        Files go back to the oldest checkpoint: a newer one may turn out to be unreadable.
        """
        kept = self._store.kept()
        await self._writer.drain()
        if len(kept) < 2 or not kept[0].index <= kept[-2].index <= self._log.durable_index:
            return
        unneeded = self._log.compact_to(kept[-2].index, files_to=kept[0].index)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._executor, self._log.drop_segments, unneeded)

    # --- shipping ---------------------------------------------------------------------------------

    def offer(self, member: MasterId) -> None:
        """Leader: the log no longer reaches this follower."""
        manifest = self._store.newest()
        if manifest is None:
            self.make()  # the log is trimmed only behind a checkpoint, but all have gone bad since
            return
        mine = self._membership.latest.find(self._me)
        source = mine.raft if mine is not None else Address("")
        self._wire.transmit(member, CheckpointOffer(self._engine.term, manifest, source))

    def offer_later_than(self, member: MasterId, index_min: int) -> None:
        """Leader: this follower throws its state away. It asks again if there is no such checkpoint yet."""
        newest = self._store.newest()
        if newest is None or newest.index < index_min:
            self.make()
        else:
            self.offer(member)

    def _is_of_use(self, manifest: CheckpointManifest) -> bool:
        if self._distrust.state_wanted:
            # One from before our log begins would have to cut off entries that we have acknowledged.
            return manifest.index >= self._log.base.index
        return manifest.index > self._engine.applied_index

    def take_offer(self, leader: MasterId, manifest: CheckpointManifest, source: Address) -> None:
        """Raises: ProtocolFault."""
        if manifest.cluster != self._cluster:
            raise ProtocolFault(f"{leader} offers a checkpoint of cluster {manifest.cluster!r}")
        if not self._is_of_use(manifest):
            self._say_installed(leader)
        else:
            self._fetcher.offered(leader, self._dial(leader, source), manifest)

    def _installed(self, manifest: CheckpointManifest) -> None:
        position = Position(manifest.index, manifest.term)
        assert self._state.applied() == position, "install() leaves the state at the checkpoint"
        self._engine.restart_after_checkpoint(position)
        self._membership.restart(position, manifest.configuration)
        self._disks.replace(manifest.members)
        if manifest.configuration:
            # Who was taken out and added again, with another disk, is known by the leader's word only.
            voters = {member.id for member in manifest.configuration if member.voter}
            self._disks.keep_only(voters | manifest.members.keys())
        self._bytes_at_last = self._log.bytes_appended
        leader = self._engine.leader
        if leader is not None:
            self._say_installed(leader)
        self._on_installed()

    def _say_installed(self, leader: MasterId) -> None:
        self._wire.transmit(leader, CheckpointInstalled(self._engine.term, self._engine.applied_index))
