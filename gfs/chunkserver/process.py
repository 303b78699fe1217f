"""One chunk server as a program: what is wired to what, in which order it starts and stops.

ChunkServer can live in a process with others (tests, bench); run_chunkserver makes a process of one.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

from gfs.chunkserver.disk_health import FULL_DISK
from gfs.chunkserver.disk_identity import DirectoryLock, DiskIdentity
from gfs.chunkserver.gate import ChunkServerGate, ServerKeys
from gfs.chunkserver.heartbeat import Announcement, Heartbeats
from gfs.chunkserver.known_masters import KnownMasters
from gfs.chunkserver.last_uses import LastUses
from gfs.chunkserver.push_buffer import PushBuffer, Pushed
from gfs.chunkserver.push_chain import PushChain
from gfs.chunkserver.replica_checks import FETCH_SECONDS, ReplicaChecks
from gfs.chunkserver.replica_store import ReplicaStore
from gfs.chunkserver.scrubber import RunBlocking, Scrubber, ScrubProgress
from gfs.chunkserver.service import ChunkService
from gfs.chunkserver.store_migration import StoreMigration
from gfs.chunkserver.stores.plugin import StoreSite
from gfs.chunkserver.stores.store_moves import StoreMoves
from gfs.chunkserver.stores.tiered import TieredStore
from gfs.chunkserver.tallies import CountedReads, Tallies
from gfs.chunkserver.tier_setup import OpenService, open_obstore, open_tier
from gfs.chunkserver.tiering_duty import LocalScrubbing, TieringDuty, show_no_tier
from gfs.clock import Clock, SystemClock
from gfs.credentials import program_proof, read_cluster_secret
from gfs.diagnosis.program import Diagnosis
from gfs.disk import Disk, SystemDisk
from gfs.errors import ConfigInvalid, CorruptState, GfsError, NoSpace, Unavailable
from gfs.messages.stores import ShowTier
from gfs.settings import CHECKS_RUNNING_MAX, CLONES_RUNNING_MAX, STORE_THREADS, Settings
from gfs.telemetry import Metrics, logger, set_up_logging
from gfs.tls import TlsIdentity
from gfs.tls_files import tls_of
from gfs.transport import event_loop
from gfs.transport.data_client import DataClient
from gfs.transport.data_server import DataServer
from gfs.transport.interface import Handlers
from gfs.transport.websocket_client import WebSocketCaller
from gfs.transport.websocket_server import ControlServer
from gfs.transport.wires import SOCKETS, Wires
from gfs.vocabulary import Address, ChunkHandle, ChunkVersion, ClusterId

_log = logger("chunkserver")
T = TypeVar("T")

CLONE_PIECE_SECONDS = 5.0  # how long a source may take to send one piece of a copy


class ChunkServer:
    """One chunk server on one directory. start() once, stop() once."""

    def __init__(
        self,
        settings: Settings,
        node_id: str,
        directory: str,
        *,
        clock: Clock | None = None,
        disk: Disk | None = None,
        wires: Wires = SOCKETS,
        open_service: OpenService = open_obstore,
    ) -> None:
        if node_id not in settings.chunkservers:
            raise ConfigInvalid(f"the configuration has no chunk server {node_id!r}")
        if not settings.masters:
            raise ConfigInvalid("the configuration names no master for this chunk server")
        self.metrics = Metrics()
        self._settings = settings
        self._node = settings.chunkservers[node_id]
        self._node_id = node_id
        self._directory = directory
        self._clock = clock or SystemClock()
        self._disk, self._wires = disk or SystemDisk(), wires
        self._open_service = open_service
        self._moves = StoreMoves(settings, node_id, StoreSite(self._disk, directory))
        self._tallies = Tallies()
        self._keys = ServerKeys()
        self._tls: TlsIdentity | None = None
        self._to_stop = AsyncExitStack()
        self._to_let_go: list[Callable[[], None]] = []
        self._failed: asyncio.Future[str] | None = None
        self._control: ControlServer | None = None
        self._data: DataServer | None = None
        self._service: ChunkService | None = None
        self._heartbeats: Heartbeats | None = None
        self._scrubber: Scrubber | None = None
        self._tier: TieredStore | None = None
        self._tiering: TieringDuty | None = None
        self._uses = LastUses(self._clock)

    @property
    def control_address(self) -> Address:
        assert self._control is not None, "not started"
        return self._control.address

    @property
    def data_address(self) -> Address:
        assert self._data is not None, "not started"
        return self._data.address

    @property
    def tier(self) -> TieredStore | None:
        """What has chunks of this server on an object service; None: nothing."""
        return self._tier

    async def start(self) -> None:
        """Recover the disk, listen, and begin to tell the masters.

        Raises: Unavailable (directory or port in use), WrongCluster, CorruptState, ConfigInvalid, NoSpace …
            with everything undone.
        """
        try:
            await self._start()
        except (NoSpace, OSError) as error:
            await self._to_stop.aclose()
            if isinstance(error, OSError) and error.errno not in FULL_DISK:
                raise
            raise NoSpace(
                f"no space is left for this chunk server's directory {self._directory}: "
                f"{error.message if isinstance(error, NoSpace) else error.strerror}",
                hint="Free some space on that disk, and start it again; its chunks are all there.",
            ) from error
        except BaseException:
            await self._to_stop.aclose()
            raise

    async def stop(self) -> None:
        """An ordinary stop; a kill is as good, only without the last flush."""
        await self._to_stop.aclose()

    def abandon(self) -> None:
        """Let go of the directory as a killed process does: nothing is written, nobody is told.

        For a harness in which the process itself lives on, after everything of this server was stopped.
        """
        for let_go in reversed(self._to_let_go):
            let_go()

    async def failed(self) -> str:
        """Wait until the disk has failed beyond repair, and say how."""
        assert self._failed is not None, "not started"
        return await asyncio.shield(self._failed)

    def readiness(self) -> tuple[bool, str]:
        if self._failed is not None and self._failed.done():
            return False, self._failed.result()
        if self._heartbeats is None:
            return False, "starting"
        return self._heartbeats.readiness()

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._failed = loop.create_future()
        tuning = self._settings.chunkserver
        identity = self._open_identity()
        diagnosis = Diagnosis(self._directory, self._node_id, self._settings.telemetry, self.metrics)
        self._to_stop.callback(diagnosis.close)
        self._to_let_go.append(diagnosis.close)
        workers = ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="store")
        self._to_stop.callback(workers.shutdown)
        replicas = await self._open_replicas(loop, workers, identity)
        pushes = PushBuffer(tuning.push_buffer_bytes, tuning.push_seconds, self._clock)
        cluster = ClusterId(self._settings.cluster.id)
        self._tls = tls = tls_of(self._settings, cluster=cluster, role="chunkserver", node=self._node_id)
        data_client = self._wires.bulk_client(congestion_control=tuning.congestion_control)
        self._to_stop.callback(data_client.close)
        caller = self._wires.caller(
            "chunkserver", self._node_id, identity.cluster, credential=self._proof(), tls=tls
        )
        self._to_stop.push_async_callback(caller.close)

        def note_joined(cluster: ClusterId) -> None:
            caller.cluster = cluster

        self._service = service = ChunkService(
            identity,
            replicas,
            pushes,
            caller,
            workers,
            self._clock,
            push_copy=partial(_push_copy, data_client, tuning.forward_seconds, self._own_capability),
            read_replica=partial(self._read_elsewhere, data_client, deadline_seconds=CLONE_PIECE_SECONDS),
            clone_workers=self._clone_workers(),
            forward_seconds=tuning.forward_seconds,
            tallies=self._tallies,
            on_joined=note_joined,
        )
        chain = PushChain(
            pushes,
            data_client,
            CountedReads(replicas, self._tallies),
            hop_seconds=tuning.forward_seconds,
        )
        checks = self._make_checks(replicas, data_client, service)
        migration = self._start_migrating(loop, replicas)
        handlers = {**service.handlers(), **checks.handlers(), **migration.handlers()}
        handlers |= self._start_tiering(loop, replicas)
        await self._listen(identity, chain, handlers, diagnosis)
        self._to_stop.push_async_callback(service.stop)
        self._start_sweeping(loop, service)
        self._publish(replicas, pushes)
        self._start_scrubbing(loop, replicas)
        self._start_flushing(loop, replicas, workers)
        self._heartbeats = self._make_heartbeats(identity, replicas, service, caller)
        self._report_damage_at_once(loop, replicas, self._heartbeats)
        self._heartbeats.start()
        self._to_stop.push_async_callback(self._heartbeats.stop)
        _log.info(
            "chunk server started",
            server=identity.server,
            cluster=identity.cluster,
            control=self.control_address,
            data=self.data_address,
            chunks=replicas.chunk_count,
        )

    def _own_capability(self, handle: ChunkHandle, version: ChunkVersion) -> bytes:
        return self._keys.own(handle, version, now_s=self._clock.wall_ms() / 1000)

    def _read_elsewhere(
        self,
        data_client: DataClient,
        address: Address,
        handle: ChunkHandle,
        version: ChunkVersion,
        first: int,
        buffer: memoryview,
        *,
        deadline_seconds: float,
    ) -> tuple[int, int]:
        """As DataClient.read_into, from another chunk server on behalf of this one."""
        return data_client.read_into(
            address,
            handle,
            version,
            first,
            buffer,
            deadline_seconds=deadline_seconds,
            capability=self._own_capability(handle, version),
        )

    def _make_gate(self) -> ChunkServerGate | None:
        cluster = self._settings.cluster
        if not self._settings.access.tokens:
            return None
        loop = asyncio.get_running_loop()

        def hurry() -> None:
            if self._heartbeats is not None and not loop.is_closed():
                loop.call_soon_threadsafe(self._heartbeats.hurry)  # the bulk port's threads call it, too

        secret = read_cluster_secret(cluster.secret_file)
        return ChunkServerGate(
            self._keys, self._clock, secret=secret, cluster=cluster.id, hurry=hurry, tls=self._tls
        )

    def _proof(self) -> str:
        """What this server shows to others to prove that it is one of the cluster."""
        cluster = self._settings.cluster
        if not self._settings.access.tokens:
            return ""
        return program_proof(read_cluster_secret(cluster.secret_file), cluster=cluster.id, role="chunkserver")

    def _clones_running(self) -> float:
        return len(self._service.clones.progress()) if self._service is not None else 0

    def _clone_workers(self) -> ThreadPoolExecutor:
        workers = ThreadPoolExecutor(CLONES_RUNNING_MAX, thread_name_prefix="clone")
        self._to_stop.callback(workers.shutdown)
        return workers

    def _start_sweeping(self, loop: asyncio.AbstractEventLoop, service: ChunkService) -> None:
        sweeping = loop.create_task(service.clones.sweep_for_ever(), name="sweep unfinished copies")
        self._to_stop.callback(sweeping.cancel)

    def _report_damage_at_once(
        self, loop: asyncio.AbstractEventLoop, replicas: ReplicaStore, heartbeats: Heartbeats
    ) -> None:
        def tell(_: ChunkHandle) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(heartbeats.hurry)

        replicas.on_damage(tell)

    def _make_heartbeats(
        self, identity: DiskIdentity, replicas: ReplicaStore, service: ChunkService, caller: WebSocketCaller
    ) -> Heartbeats:
        # A thread of their own: writes that wait for a slow disk must not make this server look dead.
        reporting = ThreadPoolExecutor(1, thread_name_prefix="heartbeat")
        self._to_stop.callback(reporting.shutdown)

        async def in_worker(work: Callable[[], T]) -> T:
            return await asyncio.get_running_loop().run_in_executor(reporting, work)

        return Heartbeats(
            KnownMasters(
                self._disk,
                self._directory,
                seeds=[master.control for master in self._settings.masters.values()],
                cluster=identity.cluster,
            ),
            Announcement(
                incarnation=secrets.token_hex(8),
                control=self.control_address,
                data=self.data_address,
                rack=self._node.rack,
                version=_release(),
            ),
            identity,
            replicas,
            service.orders,
            caller,
            self._clock,
            in_worker=in_worker,
            collect=service.collect,
            keys=self._keys,
            heartbeat_seconds=self._settings.chunkserver.heartbeat_seconds,
            registered_seconds=self._settings.master.chunkserver_dead_seconds,
            join=service.join,
        )

    def _open_identity(self) -> DiskIdentity:
        try:
            lock = DirectoryLock(self._directory)
            self._to_stop.callback(lock.release)
            self._to_let_go.append(lock.release)
            identity = DiskIdentity.load_or_create(self._disk, self._directory)
            if self._settings.cluster.id:
                identity.adopt_cluster(ClusterId(self._settings.cluster.id))
            return identity
        except OSError as error:
            if error.errno in FULL_DISK:
                raise
            raise ConfigInvalid(
                f"cannot use the directory {self._directory!r}: {error.strerror or error}"
            ) from error

    async def _open_replicas(
        self, loop: asyncio.AbstractEventLoop, workers: ThreadPoolExecutor, identity: DiskIdentity
    ) -> ReplicaStore:
        tuning = self._settings.chunkserver

        def on_fatal(reason: str) -> None:
            loop.call_soon_threadsafe(self._fail, reason)

        def recover() -> ReplicaStore:
            local = self._moves.open()
            self._tier = open_tier(
                self._settings,
                self._node_id,
                local,
                self._disk,
                self._directory,
                server=identity.server,
                is_durable=self._moves.is_durable,
                open_service=self._open_service,
            )
            return ReplicaStore.open(
                self._directory,
                self._tier or local,
                self._disk,
                durability="sync" if tuning.durability == "sync" else "flush",
                free_bytes_min=tuning.free_bytes_min,
                on_fatal=on_fatal,
                uses=self._uses if self._tier is not None else None,
            )

        try:
            replicas = await loop.run_in_executor(workers, recover)
            self._to_let_go.append(replicas.abandon)
        except OSError as error:
            if error.errno in FULL_DISK:
                raise
            raise Unavailable(f"the disk at {self._directory!r} failed: {error.strerror or error}") from error

        async def close() -> None:
            await loop.run_in_executor(workers, _close, replicas)

        self._to_stop.push_async_callback(close)
        return replicas

    async def _listen(
        self, identity: DiskIdentity, chain: PushChain, handlers: Handlers, diagnosis: Diagnosis
    ) -> None:
        tuning = self._settings.chunkserver
        gate = self._make_gate()
        self._data = self._wires.bulk_server(
            self._node.data,
            chain,
            connections_max=tuning.data_connections_max,
            congestion_control=tuning.congestion_control,
            observer=diagnosis.calls,
            gate=None if gate is None else gate.admit_data,
        )
        self._data.start()
        self._to_stop.push_async_callback(partial(asyncio.to_thread, self._data.stop))
        self._control = self._wires.control_server(
            self._node.control,
            {**handlers, **diagnosis.handlers()},
            observer=diagnosis.calls,
            gate=None if gate is None else gate.admit,
            tls=self._tls,
            cluster=lambda: identity.cluster,
            role="chunkserver",
            node=self._node_id,
            metrics=self.metrics,
            live=lambda: self._failed is not None and not self._failed.done(),
            ready=self.readiness,
        )
        await self._control.start()
        self._to_stop.push_async_callback(self._control.stop)

    def _make_checks(
        self, replicas: ReplicaStore, data_client: DataClient, service: ChunkService
    ) -> ReplicaChecks:
        workers = ThreadPoolExecutor(CHECKS_RUNNING_MAX, thread_name_prefix="check")
        self._to_stop.callback(workers.shutdown)
        read = partial(self._read_elsewhere, data_client, deadline_seconds=FETCH_SECONDS)
        return ReplicaChecks(replicas.verifier, read, workers, join=service.join)

    def _start_flushing(
        self, loop: asyncio.AbstractEventLoop, replicas: ReplicaStore, workers: ThreadPoolExecutor
    ) -> None:
        self._keep_running(loop, self._flush_for_ever(loop, replicas, workers), "flush")

    async def _flush_for_ever(
        self, loop: asyncio.AbstractEventLoop, replicas: ReplicaStore, workers: ThreadPoolExecutor
    ) -> None:
        while True:
            await self._clock.sleep(self._settings.chunkserver.flush_seconds)
            began = self._clock.monotonic()
            try:
                await loop.run_in_executor(workers, replicas.flush)
            except NoSpace as error:
                _log.error("a flush must wait for free space", error=error.message)
                continue
            except GfsError as error:
                # A disk that cannot flush cannot keep the promise made with each acknowledgement, and a
                # sync is never retried: the page cache may have dropped what could not be written.
                self._fail(error.message)
                return
            self._tallies.flushed(self._clock.monotonic() - began)

    def _scrubbed(self) -> ScrubProgress:
        return ScrubProgress() if self._scrubber is None else self._scrubber.progress

    def _start_scrubbing(self, loop: asyncio.AbstractEventLoop, replicas: ReplicaStore) -> None:
        tuning = self._settings.chunkserver
        scrubbed = replicas.verifier
        self._scrubber = scrubber = Scrubber(
            scrubbed if self._tier is None else LocalScrubbing(scrubbed, self._tier),
            self._clock,
            self._disk,
            self._directory,
            in_worker=self._own_thread(loop, "scrub"),
            client_work=lambda: self._tallies.mutations + self._tallies.bytes_out,
            bytes_per_second=tuning.scrub_bytes_per_second,
            pass_seconds=tuning.scrub_pass_seconds,
        )
        self._keep_running(loop, scrubber.run(), "scrubber").add_done_callback(_note_end_of_scrubbing)

    def _start_migrating(self, loop: asyncio.AbstractEventLoop, replicas: ReplicaStore) -> StoreMigration:
        """Also goes on with what an earlier process had begun."""
        in_worker = self._own_thread(loop, "move")
        mover = replicas.mover(self._moves.store)
        migration = StoreMigration(
            self._moves,
            mover,
            self._clock,
            in_worker=in_worker,
            bytes_per_second=self._settings.chunkserver.migrate_bytes_per_second,
        )
        self._keep_running(loop, migration.run(), "move chunks to another store")
        return migration

    def _start_tiering(self, loop: asyncio.AbstractEventLoop, replicas: ReplicaStore) -> Handlers:
        if self._tier is None:
            return {ShowTier: show_no_tier}
        duty = TieringDuty(
            replicas.tiering(self._tier),
            self._tier,
            replicas.verifier,
            self._uses,
            self._clock,
            self._settings.chunkserver.tier,
            in_worker=self._own_thread(loop, "tier"),
        )
        self._tiering = duty
        self._keep_running(loop, duty.run(), "move idle chunks to the object service")
        return duty.handlers()

    def _own_thread(self, loop: asyncio.AbstractEventLoop, name: str) -> RunBlocking:
        """One piece of work at a time, and no client waits behind it."""
        thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._to_stop.callback(thread.shutdown)

        async def in_worker(work: Callable[[], T]) -> T:
            return await loop.run_in_executor(thread, work)

        return in_worker

    def _keep_running(
        self, loop: asyncio.AbstractEventLoop, work: Coroutine[None, None, None], name: str
    ) -> asyncio.Task[None]:
        """Until this server stops."""
        running = loop.create_task(work, name=name)

        async def end() -> None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        self._to_stop.push_async_callback(end)
        return running

    def _fail(self, reason: str) -> None:
        if self._failed is not None and not self._failed.done():
            _log.error("the disk has failed", reason=reason)
            if self._service is not None:
                self._service.take_out_of_service(f"this chunk server's disk has failed: {reason}")
            self._failed.set_result(reason)

    def _publish(self, replicas: ReplicaStore, pushes: PushBuffer) -> None:
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "chunks": ("Replicas held", lambda: replicas.chunk_count),
            "corrupt_chunks": ("Replicas with a block that does not verify", lambda: len(replicas.corrupt())),
            "clones": ("Copies of chunks being received", self._clones_running),
            "disk_free_bytes": ("Free bytes for chunks", lambda: replicas.usage().free_bytes),
            "disk_total_bytes": ("Bytes of the disk", lambda: replicas.usage().total_bytes),
            "push_buffer_bytes": ("Pushed bytes waiting to be ordered", lambda: pushes.used_bytes),
            "scrub_passes": ("Complete passes of the scrubber", lambda: self._scrubbed().passes),
            "scrub_bytes": ("Bytes verified in the present pass", lambda: self._scrubbed().verified_bytes),
            "scrub_chunks": ("Replicas verified in the present pass", lambda: self._scrubbed().chunks),
            "ready": ("1 when a master has this server registered", lambda: self.readiness()[0]),
        }
        if self._tiering is not None:
            gauges |= self._tiering.gauges()
        self._tallies.publish(self.metrics, gauges)


def run_chunkserver(settings: Settings, node_id: str, directory: str) -> None:
    """Run one chunk server until SIGTERM or SIGINT.

    Raises: GfsError when it cannot start or its disk fails; the command line turns it into one
        sentence and an exit status.
    """
    set_up_logging(
        role="chunkserver", node=node_id, level=settings.telemetry.level, style=settings.telemetry.format
    )
    event_loop.run(_serve(settings, node_id, directory), loop=settings.chunkserver.loop)


async def _serve(settings: Settings, node_id: str, directory: str) -> None:
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_stop.set)
    server = ChunkServer(settings, node_id, directory)
    starting = asyncio.ensure_future(server.start())
    stop = asyncio.ensure_future(asked_to_stop.wait())
    await asyncio.wait({starting, stop}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return
    starting.result()
    failed = asyncio.ensure_future(server.failed())
    await asyncio.wait({stop, failed}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    await server.stop()
    if failed.done():
        raise CorruptState(
            failed.result(),
            hint="Check the disk (dmesg, smartctl). Its chunks are on other servers and will be restored.",
        )
    failed.cancel()
    _log.info("chunk server stopped")


async def _push_copy(
    client: DataClient,
    deadline_seconds: float,
    capability: Callable[[ChunkHandle, ChunkVersion], bytes],
    address: Address,
    pushed: Pushed,
) -> None:
    answer = await asyncio.to_thread(
        partial(
            client.push,
            address,
            pushed.push_id,
            pushed.data,
            offset=pushed.offset,
            chain=(),
            checksums=pushed.checksums,
            deadline_seconds=deadline_seconds,
            capability=capability(ChunkHandle(0), ChunkVersion(0)),  # pushed bytes are of no chunk yet
        )
    )
    assert not answer.failed  # no hop behind the first


def _note_end_of_scrubbing(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("scrubbing has ended unexpectedly", error=repr(error))


def _close(replicas: ReplicaStore) -> None:
    try:
        replicas.close()
    except GfsError as error:
        _log.error("the last flush failed", code=error.code, error=error.message)


def _release() -> str:
    try:
        return version("pygfs")
    except PackageNotFoundError:
        return ""
