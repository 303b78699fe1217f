"""Testbeds of real programs: the cluster brought up and asked, its programs hurt, its masters changed.

Links, clocks and disks are the layers' own: here they are what cannot be done.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from chaos.plan import Configuration
from chaos.processes import Programs
from chaos.replaying import log_reaches, replayed
from chaos.sightings import Sightings
from chaos.testbed import CannotHere, Layer, Power
from gfs import aio
from gfs import settings as settings_module
from gfs.chunkserver.stores.file import CHUNK_SUFFIX
from gfs.client.client import AsyncClient
from gfs.errors import GfsError, NotFound, Unavailable
from gfs.local.layout import Layout
from gfs.local.layout_changes import add_master, drop_master
from gfs.local.supervisor import wait_until_ready
from gfs.messages.cluster import ClusterStatus, ClusterStatusReply, StateDigest, StateDigestReply
from gfs.messages.diagnosis import ReadRpcLog, RpcLogPage
from gfs.messages.replicas import ChunkStatus, ChunkStatusReply
from gfs.settings import ClientSettings
from gfs.transport.websocket_client import WebSocketCaller
from gfs.verification.recorder import Recorder
from gfs.vocabulary import Address, ChunkHandle, ChunkVersion

READY_SECONDS_MAX = 60.0  # on a machine that does much else
ASK_SECONDS = 2.0
LOG_TRIES_MAX = 20  # a follower may apply an entry before its own log has it on its disk
LOG_PAUSE_SECONDS = 0.5
MEMBER_SECONDS_MAX = 60.0  # for a master to come or go, in the midst of faults

# Where a plan does not say: leases and patience so short that a run of minutes sees them end, and clients
# that give up while somebody still watches.
TUNINGS: dict[str, object] = {
    "master.lease_seconds": 8.0,
    "master.chunkserver_dead_seconds": 3.0,
    "master.repair_delay_seconds": 5.0,
    "client.call_seconds": 3.0,
    "client.data_seconds": 4.0,
    "client.retry_seconds": 12.0,
    "client.quorum_seconds": 8.0,
    "client.metadata_cache_seconds": 2.0,
    "telemetry.rpc_log_bytes": 64 * 2**20,
}
POWERS: frozenset[Power] = frozenset(("kill", "pause", "failpoint", "membership"))


def settings_environment(configuration: Configuration, directory: str) -> dict[str, str]:
    """What a plan says of the cluster, and TUNINGS, as GFS__SECTION__KEY for every program.

    A tier has a directory below `directory` for its object service.
    """
    wanted: dict[str, object] = {
        **TUNINGS,
        "master.replication_goal": configuration.replication_goal,
        "chunkserver.durability": configuration.durability,
        **configuration.tunings,
    }
    tier = wanted.pop("chunkserver.tier", None)
    if isinstance(tier, dict):
        objects = os.path.join(directory, "objects")
        os.makedirs(objects, exist_ok=True)
        wanted |= {f"chunkserver.tier.{key}": value for key, value in tier.items()}
        wanted["chunkserver.tier.url"] = f"file://{objects}"
    return {"GFS__" + path.upper().replace(".", "__"): str(value) for path, value in wanted.items()}


class RealTestbed:
    """A Testbed but for links; a layer completes it."""

    layer: Layer
    powers: frozenset[Power] = POWERS

    def __init__(self, layout: Layout, configuration: Configuration) -> None:
        self.layout = layout
        self.configuration = configuration
        self._settings_environment = settings_environment(configuration, layout.directory)
        self.programs = Programs(layout, environment=self.environment_of, wrapped=self.command_of)
        self._began_ns = time.monotonic_ns()
        self._clients: list[str] = []
        self._caller = WebSocketCaller("client", "harness", dial=lambda address: address)
        self._own: AsyncClient | None = None
        self._sightings: Sightings | None = None
        self._is_stopped = False

    # --- for layers to say ------------------------------------------------------------------------

    def environment_of(self, node: str) -> Mapping[str, str]:
        """What the environment of this program has beyond the harness's."""
        return self._settings_environment

    def command_of(self, _node: str, command: Sequence[str]) -> Sequence[str]:
        return command

    async def connect(self, _name: str, settings: ClientSettings) -> AsyncClient:
        """A client whose links are those of `_name`."""
        return await aio.connect(self._control_addresses(), settings=settings, dial=lambda address: address)

    async def node_added(self, _node: str) -> None:
        """A master is in the layout, and about to be started."""

    async def node_gone(self, _node: str) -> None:
        """A master is out of the cluster, and stopped."""

    # --- Subject ------------------------------------------------------------------------------------

    @property
    def masters(self) -> tuple[str, ...]:
        return tuple(self.layout.settings.masters)

    @property
    def chunkservers(self) -> tuple[str, ...]:
        return tuple(self.layout.settings.chunkservers)

    @property
    def clients(self) -> Sequence[str]:
        return tuple(self._clients)

    @property
    def client_settings(self) -> ClientSettings:
        found = settings_module.load(self.layout.config_path, environment=self._settings_environment)
        return found.client

    async def client(self, name: str) -> AsyncClient:
        if name not in self._clients:
            self._clients.append(name)
        return await self.connect(name, self.client_settings)

    def now_ns(self) -> int:
        return time.monotonic_ns() - self._began_ns

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    # --- the cluster as a whole -----------------------------------------------------------------------

    async def start(self, recorder: Recorder) -> None:
        """Raises: Unavailable, with what each program said last, when the cluster does not come up."""
        for node in (*self.masters, *self.chunkservers):
            self.programs.start(node)
        # Past the spoilt links: what the harness does for itself must not depend on what it attacks.
        self._own = await aio.connect(
            self._control_addresses(), settings=self.client_settings, dial=lambda address: address
        )
        try:
            await wait_until_ready(
                self._own.cluster_status, chunkservers=len(self.chunkservers), seconds=READY_SECONDS_MAX
            )
        except GfsError as error:
            raise Unavailable(f"{error.message}\n{self.programs.state_of_all()}") from error
        self._sightings = Sightings(
            self._caller,
            self._master_addresses,
            self._chunkserver_addresses,
            recorder,
            trusts_clocks=not self.powers & {"clock_drift", "clock_jump"},
        )
        self._sightings.start()

    async def look_within(self, recorder: Recorder) -> None:
        for node in self.masters:
            await self._look_at_master(node, recorder)

    async def _look_at_master(self, node: str, recorder: Recorder) -> None:
        master = self.layout.settings.masters[node]
        try:
            said = await self._caller.call(
                Address(master.control), StateDigest(), StateDigestReply, deadline_seconds=ASK_SECONDS
            )
            await asyncio.to_thread(log_reaches, master.directory)
        except GfsError:
            return  # it is down, or what it calls its disk is not to be seen from here
        index = int(said.applied_index)
        with tempfile.TemporaryDirectory(prefix="gfs-chaos-") as work:
            for _ in range(LOG_TRIES_MAX):
                made, from_index = await asyncio.to_thread(
                    replayed, master.directory, index, oldest=True, work=work
                )
                if not made.startswith("none: "):
                    break
                await asyncio.sleep(LOG_PAUSE_SECONDS)
        recorder.audit("within", "state", node=node, index=index, digest=said.digest)
        recorder.audit("within", "replayed", node=node, index=index, digest=made, from_index=from_index)

    async def stop(self) -> None:
        """May be called twice, and without start()."""
        if self._is_stopped:
            return
        self._is_stopped = True
        if self._sightings is not None:
            await self._sightings.stop()
        if self._own is not None:
            await self._own.close()
        await self._caller.close()
        await self.programs.stop()

    def _master_addresses(self) -> dict[str, Address]:
        return {name: Address(node.control) for name, node in self.layout.settings.masters.items()}

    def _addresses(self) -> dict[str, Address]:
        return {**self._master_addresses(), **self._chunkserver_addresses()}

    def _chunkserver_addresses(self) -> dict[str, Address]:
        return {name: Address(node.control) for name, node in self.layout.settings.chunkservers.items()}

    def _control_addresses(self) -> list[str]:
        return [node.control for node in self.layout.settings.masters.values()]

    @property
    def own_client(self) -> AsyncClient:
        assert self._own is not None, "the testbed has not been started"
        return self._own

    async def leader(self) -> str:
        async def said_by(node: str) -> tuple[int, str]:
            try:
                answer = await self._caller.call(
                    self._addresses()[node],
                    ClusterStatus(alone=True),
                    ClusterStatusReply,
                    deadline_seconds=ASK_SECONDS,
                )
            except GfsError:
                return 0, ""
            mine = next((one for one in answer.masters if one.id == node), None)
            return (mine.term, node) if mine is not None and mine.role == "leader" else (0, "")

        running = [node for node in self.masters if self.programs.runs(node)]
        return max(await asyncio.gather(*map(said_by, running)), default=(0, ""))[1]

    async def primary(self, path: str) -> str:
        """As the chunk servers told the leader in their last heartbeats."""
        leader = await self.leader()
        try:
            places = await self.own_client.chunks(path)
            if not places or not leader:
                return ""
            page = await self._caller.call(
                self._addresses()[leader],
                ReadRpcLog(newest=True, limit=4 * len(self.chunkservers), methods=["heartbeat"]),
                RpcLogPage,
                deadline_seconds=ASK_SECONDS,
            )
        except GfsError:
            return ""
        newest = {record.request["control"]: record.request for record in page.records if record.request}
        for request in newest.values():
            if any(lease[0] == places[-1].handle for lease in request.get("leases", ())):
                return self._node_at(request["control"])
        return ""

    async def replicas(self, path: str) -> Sequence[str]:
        try:
            places = await self.own_client.chunks(path)
        except GfsError:
            return ()
        return [self._node_at(replica.control) for replica in places[-1].replicas] if places else ()

    def _node_at(self, control: str) -> str:
        return next(node for node, address in self._addresses().items() if address == control)

    async def replica_bytes(
        self, client: AsyncClient, server: str, handle: int, version: int, capability: bytes = b""
    ) -> bytes:
        """As the file on the server's disk has them, to the committed length the server answers."""
        request = ChunkStatus(handle=ChunkHandle(handle), version=ChunkVersion(version))
        found = await self._caller.call(
            Address(server), request, ChunkStatusReply, deadline_seconds=ASK_SECONDS
        )
        directory = Path(self.layout.settings.chunkservers[self._node_at(server)].directory)
        return await asyncio.to_thread(_read_chunk_file, directory, handle, found.length_bytes)

    # --- programs -------------------------------------------------------------------------------------

    async def kill(self, node: str) -> None:
        await self.programs.kill([node])

    async def restart(self, node: str) -> None:
        if not self.programs.runs(node):
            self.programs.start(node)

    async def arm(self, node: str, failpoint: str) -> None:
        await self.programs.kill([node])
        self.programs.start(node, failpoint=failpoint)

    async def pause(self, node: str) -> None:
        self.programs.pause(node)

    async def resume(self, node: str) -> None:
        self.programs.resume(node)

    async def heal_programs(self) -> None:
        """All that were paused run on, all that are down are started."""
        for node in (*self.masters, *self.chunkservers):
            self.programs.resume(node)
            await self.restart(node)

    # --- masters that come and go -----------------------------------------------------------------------

    async def add_master(self) -> str:
        self.layout, name = add_master(self.layout)
        self.programs.layout = self.layout
        await self.node_added(name)
        self.programs.start(name)
        node = self.layout.settings.masters[name]

        async def add() -> None:
            await self.own_client.operator.add_member(name, control=node.control, raft=node.raft)

        try:
            await _until_it_is_done(add, NotFound)  # NotFound: its program is starting
        except GfsError:
            await self._forget_unless_a_member(name)
            raise
        return name

    async def remove_master(self, node: str) -> None:
        async def remove() -> None:
            await self.own_client.operator.remove_member(node)

        await _until_it_is_done(remove, Unavailable)
        await self._forget(node)

    async def _forget_unless_a_member(self, node: str) -> None:
        members = await self.own_client.operator.members()
        if node not in {str(row.id) for row in members.members}:
            await self._forget(node)

    async def _forget(self, node: str) -> None:
        self.layout = self.programs.layout = drop_master(self.layout, node)
        await self.programs.stop([node])
        await self.node_gone(node)

    # --- what a layer of real programs cannot do, unless it says how ------------------------------------

    async def power_cut(self, nodes: Sequence[str]) -> None:
        raise CannotHere(f"layer {self.layer} keeps what was not synced")

    async def packets(
        self,
        source: str,
        target: str,
        *,
        loss: float = 0,
        reorder: float = 0,
        duplicate: float = 0,
        corrupt: float = 0,
    ) -> None:
        raise CannotHere(f"layer {self.layer} sees no packets")

    async def clock_drift(self, node: str, rate: float) -> None:
        raise CannotHere(f"layer {self.layer} leaves clocks alone")

    async def clock_jump(self, node: str, seconds: float) -> None:
        raise CannotHere(f"layer {self.layer} leaves clocks alone")

    async def disk_full(self, node: str, full: bool) -> None:
        raise CannotHere(f"layer {self.layer} leaves disks alone")

    async def disk_errors(self, node: str, *, share: float) -> None:
        raise CannotHere(f"layer {self.layer} leaves disks alone")

    async def slow_disk(self, node: str, *, seconds: float) -> None:
        raise CannotHere(f"layer {self.layer} leaves disks alone")

    async def bit_rot(self, node: str, *, bits: int) -> int:
        raise CannotHere(f"layer {self.layer} leaves disks alone")


def _read_chunk_file(directory: Path, handle: int, length: int) -> bytes:
    """Raises: NotFound, when the server's disk has no such file."""
    path = next(directory.rglob(f"{handle:016x}{CHUNK_SUFFIX}"), None)
    if path is None:
        raise NotFound(f"{directory} holds no file of chunk {handle:x}")
    with path.open("rb") as file:
        return file.read(length)


async def _until_it_is_done(change: Callable[[], Awaitable[None]], passing: type[GfsError]) -> None:
    """Ask again while the refusal is a `passing` one, for MEMBER_SECONDS_MAX. Asking twice is harmless."""
    deadline = time.monotonic() + MEMBER_SECONDS_MAX
    while True:
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + deadline - time.monotonic()):
                return await change()
        except passing:
            if time.monotonic() > deadline:
                raise
        except TimeoutError as error:
            raise Unavailable(f"the masters were not changed within {MEMBER_SECONDS_MAX:.0f} s") from error
        await asyncio.sleep(0.2)
