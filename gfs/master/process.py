"""One master as a program: what is wired to what, in which order it starts and stops.

Master can live in a process with others (tests, bench); run_master makes a process of one.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import secrets
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack

from gfs.clock import Clock, SystemClock
from gfs.diagnosis.program import Diagnosis
from gfs.disk import Disk, SystemDisk
from gfs.errors import ConfigInvalid, GfsError, NoSpace, PermissionDenied, Unavailable
from gfs.identity import system_identity
from gfs.master.callers import Callers
from gfs.master.check_service import CheckService
from gfs.master.checkpoint import LmdbCheckpoints
from gfs.master.checkpoint_directory import CheckpointDirectory
from gfs.master.chunk_service import ChunkService
from gfs.master.cluster_service import ClusterService
from gfs.master.commit import Commits
from gfs.master.copy_on_write import CopyOnWrite
from gfs.master.core.chunk_homes import ChunkHomes
from gfs.master.core.garbage import Garbage
from gfs.master.core.leases import LeaseTable
from gfs.master.core.locations import Locations
from gfs.master.core.recent_grants import RecentGrants
from gfs.master.core.records import PolicyRecord
from gfs.master.core.repair_queue import Limits
from gfs.master.core.replica_survey import RACKS_WANTED
from gfs.master.core.replication_scan import ReplicationScan
from gfs.master.core.server_pool import ServerPool
from gfs.master.damage_duty import DamageDuty
from gfs.master.directory import MasterDirectory
from gfs.master.duties import Duties
from gfs.master.garbage_collection import GarbageCollection
from gfs.master.gauges import MasterGauges
from gfs.master.granting import Granting
from gfs.master.lease_revocation import LeaseRevocation
from gfs.master.lease_service import LeaseService
from gfs.master.namespace_service import NamespaceService
from gfs.master.placement_service import PlacementService
from gfs.master.policy_service import PolicyService
from gfs.master.quiet_grants import QuietGrants
from gfs.master.reads import Reads
from gfs.master.repair_duty import RepairDuty
from gfs.master.replica_calls import ReplicaCalls
from gfs.master.replica_moves import ReplicaMoves
from gfs.master.replication.options import RaftOptions
from gfs.master.replication.raft_node import RaftNode, end_process
from gfs.master.service import MasterService
from gfs.master.snapshot_service import SnapshotService
from gfs.master.standing import Standing
from gfs.master.state_machine import ReplicatedState
from gfs.master.trash_service import TrashService
from gfs.messages.operations import AnyOutcome, CheckDigest, ChunkGranted, LogRecord, Refused
from gfs.settings import CHUNK_HOMES_KEPT, Settings
from gfs.telemetry import Metrics, logger, set_up_logging
from gfs.transport import event_loop
from gfs.transport.websocket_client import WebSocketCaller
from gfs.transport.websocket_server import ControlServer
from gfs.vocabulary import Address, ChunkIndex, ClusterId, InodeId, LogIndex, MasterId, split_address

CHECKPOINT_DIRECTORY = "checkpoints"
SETTLE_HEARTBEATS = 3  # after a start, how many heartbeats a chunk server may take to be heard of
FULL_CHECK_SECONDS = 5.0
FREE_BYTES_TO_GO_ON = 256 * 2**20  # a master stopped by a full disk starts again when so much is free

_log = logger("master")


class Master:
    """One master on one directory. start() once, stop() once."""

    def __init__(
        self,
        settings: Settings,
        node_id: str,
        directory: str,
        *,
        clock: Clock | None = None,
        disk: Disk | None = None,
        chance: random.Random | None = None,
        fatal: Callable[[BaseException], None] = end_process,
    ) -> None:
        """Raises: ConfigInvalid."""
        if node_id not in settings.masters:
            raise ConfigInvalid(f"the configuration has no master {node_id!r}")
        if not settings.cluster.id:
            raise ConfigInvalid(
                "the configuration has no cluster.id", hint="Give all programs of one cluster the same id."
            )
        self.metrics = Metrics()
        self.standing = Standing()
        self.address = settings.masters[node_id].control
        self.locations = Locations(dead_seconds=settings.master.chunkserver_dead_seconds)
        self._settings = settings
        self._id = MasterId(node_id)
        self._cluster = ClusterId(settings.cluster.id)
        self._directory = directory
        self._clock = clock or SystemClock()
        self._disk = disk or SystemDisk()
        self._chance = chance or random.Random()
        self._fatal = fatal
        self._pool = ServerPool(self.locations)
        self._leases = LeaseTable()
        self._callers = Callers(
            superuser=settings.access.superuser or system_identity().user, check=settings.access.check
        )
        self._recent = RecentGrants(now=self._clock.monotonic(), lease_seconds=settings.master.lease_seconds)
        self._scan = ReplicationScan()
        self._garbage = Garbage(self.locations, is_moving=lambda handle: self.moves.is_moving(handle))
        self._homes = ChunkHomes(kept_max=CHUNK_HOMES_KEPT)
        self._to_stop = AsyncExitStack()
        self._retiring: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Restore the state, join the other masters, listen.

        Raises: Unavailable (directory or port in use), WrongCluster, CorruptState, NoSpace … with everything
            undone.
        """
        try:
            await self._start()
        except OSError as error:
            await self._to_stop.aclose()
            raise _start_error(error, self._directory, self._settings.masters[self._id].raft) from error
        except BaseException:
            await self._to_stop.aclose()
            raise

    async def stop(self) -> None:
        """An ordinary stop: leadership is handed over. A kill loses nothing either."""
        await self._to_stop.aclose()

    @property
    def is_leading(self) -> bool:
        return self._commits.is_leading

    def readiness(self) -> tuple[bool, str]:
        """Ready: knows a leader, has applied what it knows to be committed, and may be used."""
        if self.standing.reason:
            return False, f"out of service: {self.standing.reason}"
        status = self._node.status()
        if not status.ready:
            return False, self._commits.not_leader().message
        return True, ""

    # --- wiring --------------------------------------------------------------------------------

    async def _start(self) -> None:
        owned = MasterDirectory.claim(self._directory, self._disk, cluster=self._cluster, master=self._id)
        self._to_stop.callback(owned.release)
        diagnosis = Diagnosis(self._directory, self._id, self._settings.telemetry, self.metrics)
        self._to_stop.callback(diagnosis.close)
        self._state, self._checkpoints = self._open_state()
        self._to_stop.callback(self._state.close)
        self._state.on_applied(self.watch_digests)
        self._state.on_applied(self._note_grants)
        self._state.on_replaced(lambda: self._recent.forget_all(now=self._clock.monotonic()))
        self._node = self._make_node()
        self._caller = WebSocketCaller("master", self._id, self._cluster)
        self._to_stop.push_async_callback(self._caller.close)
        self._commits = Commits(
            self._node,
            self._clock,
            control_addresses={MasterId(name): node.control for name, node in self._settings.masters.items()},
            metrics=self.metrics,
        )
        self._reads = Reads(
            self._node,
            self._commits,
            self._clock,
            committed=self._state.committed,
            applied_index=self._state.committed_index,
            standing=self.standing,
        )
        self._collection = GarbageCollection(
            commits=self._commits,
            reads=self._reads,
            clock=self._clock,
            garbage=self._garbage,
            metrics=self.metrics,
        )
        service = self._make_service()
        await self._node.start()
        self._to_stop.push_async_callback(self._node.stop)
        MasterGauges(
            self.metrics,
            replicator=self._node,
            locations=self.locations,
            leases=self._leases,
            scan=self._scan,
            repair=self._repair,
            clock=self._clock,
            newest_checkpoint=self._checkpoints.newest,
        )
        self._start_duties()
        checks = CheckService(
            commits=self._commits,
            reads=self._reads,
            locations=self.locations,
            clock=self._clock,
            urge=self._repair.note_shortage,
        )
        placing = PlacementService(
            commits=self._commits,
            reads=self._reads,
            locations=self.locations,
            pool=self._pool,
            repair=self._repair,
            clock=self._clock,
        )
        server = ControlServer(
            self.address,
            self._callers.guarded(
                {**service.handlers(), **diagnosis.handlers(), **checks.handlers(), **placing.handlers()}
            ),
            observer=diagnosis.calls,
            cluster=lambda: self._cluster,
            role="master",
            node=self._id,
            metrics=self.metrics,
            live=lambda: True,
            ready=self.readiness,
        )
        await server.start()
        self._to_stop.push_async_callback(server.stop)
        self.address = server.address
        _log.info(
            "master started",
            master=self._id,
            cluster=self._cluster,
            control=self.address,
            applied=self._state.committed_index(),
        )

    def _open_state(self) -> tuple[ReplicatedState, LmdbCheckpoints]:
        directory = CheckpointDirectory(
            os.path.join(self._directory, CHECKPOINT_DIRECTORY),
            self._disk,
            kept_max=self._settings.raft.checkpoints_kept,
        )
        state = ReplicatedState(
            self._directory,
            directory,
            disk=self._disk,
            bytes_max=self._settings.master.state_bytes_max,
        )
        return state, LmdbCheckpoints(directory, state)

    def _make_node(self) -> RaftNode:
        masters, raft = self._settings.masters, self._settings.raft
        mine = masters[self._id]
        return RaftNode(
            me=self._id,
            peers={
                MasterId(name): split_address(mine.dial.get(name, node.raft))
                for name, node in masters.items()
                if name != self._id
            },
            listen=split_address(mine.raft),
            directory=self._directory,
            cluster=self._cluster,
            secret=_read_secret(self._settings),
            state=self._state,
            checkpoints=self._checkpoints,
            options=RaftOptions(
                election_seconds_min=raft.election_seconds_min,
                election_seconds_max=raft.election_seconds_max,
                heartbeat_seconds=raft.heartbeat_seconds,
                proposals_waiting_max=raft.proposals_waiting_max,
                segment_bytes=raft.segment_bytes,
                checkpoint_log_bytes=raft.checkpoint_log_bytes,
            ),
            disk=self._disk,
            clock=self._clock,
            chance=self._chance,
            fatal=self.replication_ended,
        )

    def _make_service(self) -> MasterService:
        tuning, callers = self._settings.master, self._callers
        calls = ReplicaCalls(
            self._caller,
            self.locations,
            cluster=self._cluster,
            bump_seconds=tuning.bump_seconds,
            lease_seconds=tuning.lease_seconds,
        )
        granting = Granting(
            commits=self._commits,
            reads=self._reads,
            locations=self.locations,
            pool=self._pool,
            leases=self._leases,
            calls=calls,
            clock=self._clock,
            chance=self._chance,
            configured_servers=len(self._settings.chunkservers),
        )
        copies = CopyOnWrite(
            commits=self._commits,
            reads=self._reads,
            granting=granting,
            calls=calls,
            locations=self.locations,
        )
        leases = LeaseService(
            commits=self._commits,
            reads=self._reads,
            leases=self._leases,
            calls=calls,
            granting=granting,
            copies=copies,
            clock=self._clock,
            lease_seconds=tuning.lease_seconds,
            callers=callers,
            short=self._note_shortage,
        )
        grants = QuietGrants(commits=self._commits, reads=self._reads, granting=granting)
        self.moves = ReplicaMoves(
            commits=self._commits,
            locations=self.locations,
            grants=grants,
            leases=leases,
            calls=calls,
            clock=self._clock,
            chance=self._chance,
            bytes_per_second=tuning.clone_bytes_per_second,
        )
        self._repair = self._make_repair()
        namespace = NamespaceService(
            self._commits,
            self._reads,
            self._clock,
            replication_goal=tuning.replication_goal,
            trash_seconds=tuning.trash_seconds,
            callers=callers,
        )
        snapshots = SnapshotService(
            commits=self._commits,
            reads=self._reads,
            revocation=LeaseRevocation(
                commits=self._commits,
                reads=self._reads,
                locations=self.locations,
                leases=self._leases,
                recent=self._recent,
                service=leases,
                grants=grants,
                calls=calls,
                clock=self._clock,
            ),
            copies=copies,
            clock=self._clock,
            callers=callers,
        )
        self._node.on_leadership(snapshots.lead)
        self._to_stop.push_async_callback(snapshots.stop)
        return MasterService(
            namespace=namespace,
            trash=TrashService(self._commits, self._reads, namespace, callers=callers),
            chunks=ChunkService(
                self._reads,
                self.locations,
                self._clock,
                homes=self._homes,
                callers=callers,
                short=self._note_shortage,
            ),
            policies=PolicyService(
                self._commits,
                self._reads,
                callers=callers,
                defaults=PolicyRecord(
                    replicas=tuning.replication_goal,
                    racks=RACKS_WANTED,
                    trash_ms=round(tuning.trash_seconds * 1000),
                    durability=self._settings.chunkserver.durability,
                ),
            ),
            leases=leases,
            snapshots=snapshots,
            cluster=ClusterService(
                cluster=self._cluster,
                replicator=self._node,
                commits=self._commits,
                reads=self._reads,
                locations=self.locations,
                leases=self._leases,
                scan=self._scan,
                garbage=self._collection,
                rpc=self._caller,
                clock=self._clock,
                masters={MasterId(name): node.control for name, node in self._settings.masters.items()},
                lease_seconds=tuning.lease_seconds,
                replication_goal=tuning.replication_goal,
                standing=self.standing,
                outlook=self._repair.outlook,
            ),
        )

    def _note_shortage(self, inode: InodeId, index: ChunkIndex) -> None:
        self._repair.note_shortage(inode, index)

    def _make_repair(self) -> RepairDuty:
        tuning = self._settings.master
        return RepairDuty(
            clock=self._clock,
            chance=self._chance,
            commits=self._commits,
            reads=self._reads,
            locations=self.locations,
            pool=self._pool,
            leases=self._leases,
            moves=self.moves,
            limits=Limits(
                active_max=tuning.clones_max,
                per_server_max=tuning.clones_per_server_max,
                rebalancing_max=max(1, min(tuning.rebalancing_max, tuning.clones_max)),
            ),
            patience_seconds=tuning.repair_delay_seconds,
            levels_by_itself=tuning.rebalancing_max > 0,
        )

    def _start_duties(self) -> None:
        duties = Duties(
            clock=self._clock,
            commits=self._commits,
            reads=self._reads,
            locations=self.locations,
            leases=self._leases,
            scan=self._scan,
            garbage=self._collection,
            digest_mark=lambda: self._state.state.digest_mark(),
            settle_seconds=SETTLE_HEARTBEATS * self._settings.chunkserver.heartbeat_seconds,
        )
        damage = DamageDuty(
            cluster=self._cluster,
            commits=self._commits,
            reads=self._reads,
            locations=self.locations,
            homes=self._homes,
            rpc=self._caller,
            clock=self._clock,
            remove=self.moves.remove_replica,
            urge=self._repair.note_shortage,
        )
        works = {"duties": duties.run(), "damage": damage.run(), "repair": self._repair.run()}
        for name, work in works.items():
            task = asyncio.get_running_loop().create_task(work, name=name)
            task.add_done_callback(self._duties_ended)
            self._to_stop.callback(task.cancel)

    # --- what must not go on -------------------------------------------------------------------

    def watch_digests(self, _index: LogIndex, record: LogRecord, outcome: AnyOutcome) -> None:
        """Hears of each record applied here; a state that differs from the leader's retires this master."""
        if isinstance(record.operation, CheckDigest) and isinstance(outcome, Refused):
            self.standing.report_untrusted(outcome.message)
            # Not now: this is called from within the node, which is applying the record.
            self._retiring = asyncio.get_running_loop().create_task(self._node.stop(), name="retire")

    def _note_grants(self, _index: LogIndex, _record: LogRecord, outcome: AnyOutcome) -> None:
        if isinstance(outcome, ChunkGranted):
            self._recent.note(outcome.handle, now=self._clock.monotonic())

    def replication_ended(self, error: BaseException) -> None:
        """The node has said its last word. A full disk leaves the committed state readable; anything else
        ends the process."""
        if isinstance(error, NoSpace) or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
            self.standing.report_full(str(error))
        else:
            self._fatal(error)

    def _duties_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fatal(error)

    async def space_again(self) -> None:
        """Return once this master was stopped by a full disk and there is space again: start it anew."""
        while True:
            await self._clock.sleep(FULL_CHECK_SECONDS)
            if self.standing.reason and not self.standing.untrusted:
                usage = os.statvfs(self._directory)
                if usage.f_bavail * usage.f_frsize >= FREE_BYTES_TO_GO_ON:
                    return


def run_master(settings: Settings, node_id: str, directory: str) -> None:
    """Run one master until SIGTERM or SIGINT.

    Raises: the GfsError that kept it from starting, or NoSpace once a full disk that stopped it has room
        again, so that whoever supervises it starts it anew.
    """
    set_up_logging(
        role="master", node=node_id, level=settings.telemetry.level, style=settings.telemetry.format
    )
    event_loop.run(_run(Master(settings, node_id, directory)), loop=settings.master.loop)


async def _run(master: Master) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await master.start()
    asked = loop.create_task(stopped.wait())
    roomy = loop.create_task(master.space_again())
    try:
        await asyncio.wait({asked, roomy}, return_when=asyncio.FIRST_COMPLETED)
        starved = roomy.done()
    finally:
        asked.cancel()
        roomy.cancel()
        await master.stop()
    _log.info("master stopped")
    if starved:
        raise NoSpace("the disk was full and has room again: this master has to start anew")


def _read_secret(settings: Settings) -> bytes:
    """Raises: ConfigInvalid."""
    path = settings.cluster.secret_file
    if not path:
        if len(settings.masters) > 1:
            raise ConfigInvalid(
                "cluster.secret_file is missing: masters prove to each other that they know its content",
                hint="Put a long random line in a file, the same on every master, readable only by gfs.",
            )
        return secrets.token_bytes(32)  # a single master talks to no other
    try:
        with open(path, "rb") as file:
            secret = file.read().strip()
    except OSError as error:
        raise ConfigInvalid(f"cannot read cluster.secret_file {path!r}: {error.strerror}") from error
    if not secret:
        raise ConfigInvalid(f"cluster.secret_file {path!r} is empty")
    return secret


def _start_error(error: OSError, directory: str, raft: Address) -> GfsError:
    what = error.strerror or str(error)
    if error.errno == errno.ENOSPC:
        return NoSpace(f"no space left for the master's directory {directory}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PermissionDenied(f"cannot use the directory {directory} or a port: {what}")
    if error.errno == errno.EADDRINUSE:
        return Unavailable(
            f"the Raft port {raft} is in use",
            hint="Another program has this port; choose another, or stop that one.",
        )
    return Unavailable(f"this master cannot start in {directory}: {what}")
