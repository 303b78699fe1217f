"""One master as a program: in which order it starts and stops. What answers and works in it is services'.

Master can live in a process with others (tests, bench); run_master makes a process of one.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack

from gfs.clock import Clock, SystemClock
from gfs.credentials import program_proof, read_cluster_secret
from gfs.diagnosis.program import Diagnosis
from gfs.disk import Disk, SystemDisk
from gfs.errors import ConfigInvalid, GfsError, NoSpace, PermissionDenied, Unavailable
from gfs.master.audit import AuditLog
from gfs.master.checkpoint import LmdbCheckpoints
from gfs.master.checkpoint_directory import CheckpointDirectory
from gfs.master.core.locations import Locations
from gfs.master.directory import MasterDirectory
from gfs.master.gauges import MasterGauges
from gfs.master.quarantine import Quarantine
from gfs.master.replication.log import bytes_on_disk
from gfs.master.replication.log_writer import InWorker
from gfs.master.replication.options import RaftOptions
from gfs.master.replication.raft_node import RaftNode, end_process
from gfs.master.replication.recovery import LOG_DIRECTORY
from gfs.master.replication.replicator import Member
from gfs.master.roster import Roster
from gfs.master.services import MasterServices
from gfs.master.standing import Standing
from gfs.master.state_machine import ReplicatedState
from gfs.settings import RaftSettings, Settings
from gfs.telemetry import Metrics, logger, set_up_logging
from gfs.tls_files import tls_of
from gfs.transport import event_loop
from gfs.transport.discovery import Program, discovery_routes
from gfs.transport.interface import Audit, Handlers, RpcCaller
from gfs.transport.wires import SOCKETS, Wires
from gfs.vocabulary import Address, ClusterId, MasterId, split_address
from gfs.web.console import Console

CHECKPOINT_DIRECTORY = "checkpoints"
FULL_CHECK_SECONDS = 5.0
TICKS_PER_HEARTBEAT = 5
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
        wires: Wires = SOCKETS,
        log_worker: InWorker | None = None,
    ) -> None:
        """`log_worker`: does the log's blocking work; by default a thread. Raises: ConfigInvalid."""
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
        self._fatal, self._wires, self._log_worker = fatal, wires, log_worker
        self._to_stop = AsyncExitStack()
        self._to_let_go: list[Callable[[], None]] = []
        self._said_outside = ""

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

    def abandon(self) -> None:
        """Let go of the directory as a killed process does: nothing is written, nobody is told.

        For a harness in which the process itself lives on, after everything of this master was stopped.
        """
        for let_go in reversed(self._to_let_go):
            let_go()

    @property
    def is_leading(self) -> bool:
        return self.services.commits.is_leading

    def readiness(self) -> tuple[bool, str]:
        """Ready: knows a leader, has applied what it knows to be committed, and may be used."""
        if self.standing.reason:
            return False, f"{self.standing.role}: {self.standing.reason}"
        if why := self.services.commits.roster.why_outside():
            return False, why
        status = self._node.status()
        if not status.ready:
            return False, self.services.commits.not_leader().message
        return True, ""

    # --- wiring --------------------------------------------------------------------------------

    async def _start(self) -> None:
        owned = MasterDirectory.claim(self._directory, self._disk, cluster=self._cluster, master=self._id)
        self._to_stop.callback(owned.release)
        self._to_let_go.append(owned.release)
        diagnosis = Diagnosis(self._directory, self._id, self._settings.telemetry, self.metrics)
        self._to_stop.callback(diagnosis.close)
        self._to_let_go.append(diagnosis.close)
        self._state, self._checkpoints = self._open_state()
        self._to_stop.callback(self._state.close)
        self._to_let_go.append(self._state.close)
        self._secret = _read_secret(self._settings)
        self._tls = tls_of(self._settings, cluster=self._cluster, role="master", node=self._id)
        self._node = self._make_node()
        self._quarantine.watch(self._state, self._node, soon=asyncio.get_running_loop().call_soon)
        proof = program_proof(self._secret, cluster=self._cluster, role="master")
        caller = self._wires.caller("master", self._id, self._cluster, credential=proof, tls=self._tls)
        self._to_stop.push_async_callback(caller.close)
        self.services = services = MasterServices(
            self._settings,
            cluster=self._cluster,
            node=self._node,
            roster=self._make_roster(),
            state=self._state,
            rpc=caller,
            locations=self.locations,
            standing=self.standing,
            checkpoints=self._checkpoints,
            quarantine=self._quarantine,
            metrics=self.metrics,
            clock=self._clock,
            chance=self._chance,
            secret=self._secret,
            tls=self._tls,
        )
        self._to_stop.push_async_callback(services.stop)
        handlers = services.guarded({**services.handlers(), **diagnosis.handlers()})
        await self._node.start()
        self._to_stop.push_async_callback(self._node.stop)
        MasterGauges(
            self.metrics,
            replicator=self._node,
            locations=self.locations,
            leases=services.leases,
            scan=services.scan,
            repair=services.repair,
            clock=self._clock,
            newest_checkpoint=self._checkpoints.newest,
            standing=self.standing,
            grants=services.grants_logged,
            lease_seconds=self._settings.master.lease_seconds,
            log_bytes=lambda: bytes_on_disk(f"{self._directory}/{LOG_DIRECTORY}", self._disk),
            log_bytes_expected=_log_bytes_expected(self._settings.raft),
        )
        self._say_outside()
        self._node.on_members(lambda _members: self._say_outside())
        self._start_works()
        await self._listen(handlers, caller, diagnosis)
        _log.info(
            "master started",
            master=self._id,
            cluster=self._cluster,
            control=self.address,
            applied=self._state.committed_index(),
        )

    def _say_outside(self) -> None:
        """A master that is no member runs on: it must not make its supervisor start it for ever, and whoever
        knows only its address is sent on to the others."""
        why = self.services.commits.roster.why_outside()
        if why and why != self._said_outside:
            _log.warning("this master is no member of its cluster", reason=why)
        self._said_outside = why

    async def _listen(self, handlers: Handlers, caller: RpcCaller, diagnosis: Diagnosis) -> None:
        gate = self.services.gate
        console = Console(
            handlers,
            me=self._id,
            address=self.address,
            settings=self._settings,
            secret=self._secret if self._settings.cluster.secret_file else b"",
            superuser=self.services.superuser,
            rpc=caller,
            vitals=lambda: self.services.vitals(server.calls.total()),
            clock=self._clock,
            gate=None if gate is None else gate.admit,
            known=None if gate is None else gate.bearer,
        )
        server = self._wires.control_server(
            self.address,
            handlers,
            observer=diagnosis.calls,
            gate=None if gate is None else gate.admit,
            audit=self._open_audit(),
            tls=self._tls,
            cluster=lambda: self._cluster,
            role="master",
            node=self._id,
            metrics=self.metrics,
            live=lambda: True,
            ready=self.readiness,
            extra_routes=[
                *console.routes(),
                *discovery_routes(self._programs, encrypted=self._tls is not None),
            ],
            alongside=console.alongside,
        )
        await server.start()
        self._to_stop.push_async_callback(server.stop)
        self._to_stop.callback(console.end_streams)
        self.address = server.address

    def _programs(self) -> Iterator[Program]:
        """Members as the log has them, and all chunk servers heard of; dead ones too, for an alert."""
        for master, control in self.services.commits.roster.with_me().items():
            yield Program("master", master, control)
        for server in self.locations.servers():
            yield Program("chunkserver", server.id, server.control, server.rack)

    def _open_audit(self) -> Audit | None:
        """Where nobody has to say who they are, there is nothing to note."""
        bytes_max = self._settings.telemetry.audit_log_bytes
        if not self._settings.access.tokens or not bytes_max:
            return None
        audit = AuditLog(self._directory, self._clock, bytes_max=bytes_max)
        self._to_stop.callback(audit.close)
        return audit.note

    def _open_state(self) -> tuple[ReplicatedState, LmdbCheckpoints]:
        directory = CheckpointDirectory(
            os.path.join(self._directory, CHECKPOINT_DIRECTORY),
            self._disk,
            kept_max=self._settings.raft.checkpoints_kept,
        )
        self._quarantine = Quarantine(
            self._id, self._directory, self._disk, standing=self.standing, checkpoints=directory
        )
        state = ReplicatedState(
            self._directory,
            directory,
            disk=self._disk,
            bytes_max=self._settings.master.state_bytes_max,
        )
        return state, LmdbCheckpoints(directory, state)

    def _make_roster(self) -> Roster:
        masters = self._settings.masters
        mine = masters[self._id]
        return Roster(
            self._node,
            me=Member(self._id, raft=mine.raft, control=mine.control, voter=True),
            seeds={MasterId(name): node.control for name, node in masters.items()},
        )

    def _make_node(self) -> RaftNode:
        masters, raft = self._settings.masters, self._settings.raft
        mine = masters[self._id]
        return RaftNode(
            me=self._id,
            founders=[  # one that joins later is nobody's member until the log says so
                Member(MasterId(name), node.raft, node.control, voter=not node.joins)
                for name, node in masters.items()
            ],
            dial=lambda member: split_address(mine.dial.get(member.id, member.raft)),
            listen=split_address(mine.raft),
            directory=self._directory,
            cluster=self._cluster,
            secret=self._secret,
            state=self._state,
            checkpoints=self._checkpoints,
            options=RaftOptions(
                election_seconds_min=raft.election_seconds_min,
                election_seconds_max=raft.election_seconds_max,
                heartbeat_seconds=raft.heartbeat_seconds,
                tick_seconds=raft.heartbeat_seconds / TICKS_PER_HEARTBEAT,
                proposals_waiting_max=raft.proposals_waiting_max,
                segment_bytes=raft.segment_bytes,
                checkpoint_log_bytes=raft.checkpoint_log_bytes,
                tls=self._tls,
            ),
            disk=self._disk,
            clock=self._clock,
            chance=self._chance,
            fatal=self.replication_ended,
            in_worker=self._log_worker,
            distrust=self._quarantine.distrust(),
        )

    def _start_works(self) -> None:
        for name, work in self.services.works().items():
            task = asyncio.get_running_loop().create_task(work, name=name)
            task.add_done_callback(self._work_ended)
            self._to_stop.callback(task.cancel)

    # --- what must not go on -------------------------------------------------------------------

    def replication_ended(self, error: BaseException) -> None:
        """The node has said its last word. A full disk leaves the committed state readable; anything else
        ends the process."""
        if isinstance(error, NoSpace) or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
            self.standing.report_full(str(error))
        else:
            self._fatal(error)

    def _work_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fatal(error)

    async def space_again(self) -> None:
        """Return once this master was stopped by a full disk and there is space again: start it anew."""
        while True:
            await self._clock.sleep(FULL_CHECK_SECONDS)
            if self.standing.reason and not self.standing.untrusted:
                _, free_bytes = self._disk.space(self._directory)
                if free_bytes >= FREE_BYTES_TO_GO_ON:
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
        if len(settings.masters) > 1 or settings.access.tokens:
            raise ConfigInvalid(
                "cluster.secret_file is missing: programs prove to each other that they know its content",
                hint="Put a long random line in a file, the same on every host, readable only by gfs.",
            )
        return secrets.token_bytes(32)  # a single master talks to no other
    return read_cluster_secret(path)


def _log_bytes_expected(raft: RaftSettings) -> int:
    """It reaches back to the oldest checkpoint kept, in whole segments, while the next one is written."""
    return (raft.checkpoints_kept + 1) * raft.checkpoint_log_bytes + raft.segment_bytes


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
