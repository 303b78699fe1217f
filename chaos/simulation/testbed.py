"""The simulated cluster as a Testbed: every fault that links, processes, disks and clocks can have.

What programs do meanwhile is written down by `seen`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence

import msgspec

from chaos.plan import Configuration
from chaos.real_testbed import TUNINGS
from chaos.simulation.control import SimulatedCaller, node_of
from chaos.simulation.last_look import look_within
from chaos.simulation.network import HARNESS, Network
from chaos.simulation.nodes import WIRES, Node, Surroundings, make_node
from chaos.simulation.seen import ASK_SECONDS, NS, Seen, Stance
from chaos.simulation.world import Life, NodeClock, World, life
from chaos.testbed import CannotHere, Layer, Power
from gfs import aio, failpoints
from gfs.chunkserver.process import ChunkServer
from gfs.chunkserver.stores.file import CHUNKS_DIRECTORY, chunk_file_path
from gfs.client.client import AsyncClient
from gfs.errors import GfsError, NotFound, Unavailable
from gfs.master.process import Master
from gfs.messages.chunks import ChunkPlace
from gfs.messages.replicas import ChunkStatus, ChunkStatusReply
from gfs.settings import ChunkServerNode, MasterNode, Settings
from gfs.verification.recorder import Recorder
from gfs.vocabulary import Address, ChunkHandle, ChunkVersion

READY_SECONDS_MAX = 30.0
DISK_CALLS_MAX = 24  # before the one that a node dies in
DISK_CALL_SECONDS_MAX = 0.3  # an idle node dies without one
SPOILT_SHARE = 0.02
BOUNDS = {
    "master.state_bytes_max": 64 * 2**20,
    "chunkserver.free_bytes_min": 0,
    # Ticks are most of what an idle cluster costs: slower ones, and elections that wait accordingly.
    "raft.heartbeat_seconds": 0.2,
    "raft.election_seconds_min": 1.0,
    "raft.election_seconds_max": 2.0,
}
POWERS: frozenset[Power] = frozenset(
    (
        "cut",
        "drop",
        "hold",
        "slow",
        "throttle",
        "reset",
        "limit",
        "kill",
        "failpoint",
        "power_cut",
        "pause",
        "clock_drift",
        "clock_jump",
        "disk_full",
        "disk_errors",
        "bit_rot",
        "slow_disk",
    )
)


def settings_of(configuration: Configuration, secret_file: str, directory: str) -> Settings:
    """Raises: msgspec.ValidationError for a tuning that gfs does not have."""
    masters = [f"m{number}" for number in range(1, configuration.masters + 1)]
    servers = [f"c{number}" for number in range(1, configuration.chunkservers + 1)]
    wanted = {
        **TUNINGS,
        **BOUNDS,
        "cluster.id": "simulated",
        "cluster.secret_file": secret_file,
        "telemetry.rpc_log_bytes": 0,
        "telemetry.event_log_bytes": 0,
        "master.replication_goal": configuration.replication_goal,
        "chunkserver.durability": configuration.durability,
        **configuration.tunings,
    }
    tree: dict[str, dict[str, object]] = {}
    for path, value in wanted.items():
        section, _, key = path.partition(".")
        tree.setdefault(section, {})[key] = value
    found = msgspec.convert(tree, Settings)
    return msgspec.structs.replace(
        found,
        masters={
            name: MasterNode(
                control=Address(f"{name}:1"),
                raft=Address(f"{name}:2"),
                directory=os.path.join(directory, name),
            )
            for name in masters
        },
        chunkservers={
            name: ChunkServerNode(
                control=Address(f"{name}:1"),
                data=Address(f"{name}:3"),
                directory=os.path.join(directory, name),
            )
            for name in servers
        },
    )


class SimTestbed:
    """Implements chaos.testbed.Testbed. Made and used within the loop it lives on."""

    layer: Layer = "sim"
    powers = POWERS

    def __init__(self, loop: World, configuration: Configuration, directory: str) -> None:
        self._loop = loop
        self._around = Surroundings(loop)
        os.makedirs(directory, exist_ok=True)
        secret = os.path.join(directory, "secret")
        with open(secret, "w", encoding="ascii") as file:
            file.write("one secret of all masters\n")
        self.settings = settings_of(configuration, secret, directory)
        self.nodes: dict[str, Node] = {
            name: make_node(name, directory, self._around)
            for name in (*self.settings.masters, *self.settings.chunkservers)
        }
        self._clients: list[str] = []
        self._seen: Seen | None = None
        self._own: AsyncClient | None = None
        self._began = loop.now
        harness = self._around.context_of(Life(HARNESS, NodeClock(loop)))
        self._caller = harness.run(SimulatedCaller, "harness", HARNESS)

    @property
    def network(self) -> Network:
        return self._around.network

    # --- Subject ---------------------------------------------------------------------------------

    @property
    def masters(self) -> tuple[str, ...]:
        return tuple(self.settings.masters)

    @property
    def chunkservers(self) -> tuple[str, ...]:
        return tuple(self.settings.chunkservers)

    @property
    def clients(self) -> Sequence[str]:
        return tuple(self._clients)

    async def client(self, name: str) -> AsyncClient:
        if name not in self._clients:
            self._clients.append(name)
        process = Life(name, NodeClock(self._loop))
        return self._around.context_of(process).run(self._connect)

    def _connect(self) -> AsyncClient:
        here = life.get()
        assert here is not None
        return aio.assemble(
            [Address(node.control) for node in self.settings.masters.values()],
            self.settings.client,
            cluster=self.settings.cluster.id,
            clock=here.clock,
            wires=WIRES,
        )

    def now_ns(self) -> int:
        return int((self._loop.now - self._began) * NS)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    # --- the cluster as a whole --------------------------------------------------------------------

    async def start(self, recorder: Recorder) -> None:
        """Raises: Unavailable."""
        seen = self._seen = Seen(
            self._around, self._caller, self.settings, recorder, began=self._began, within=self._stance
        )
        seen.begin()
        for node in self.nodes.values():
            node.start(self.settings)
        self._own = self._around.context_of(Life(HARNESS, NodeClock(self._loop))).run(self._connect)
        await self._wait_until_ready(self._own, seen)
        seen.watch()

    async def _wait_until_ready(self, own: AsyncClient, seen: Seen) -> None:
        deadline = self._loop.now + READY_SECONDS_MAX
        while True:
            try:
                found = await own.cluster_status()
                seen.names = {str(one.id): node_of(one.control) for one in found.chunkservers}
                if found.leader and sum(one.alive for one in found.chunkservers) == len(self.chunkservers):
                    return
                said = f"leader: {found.leader or 'none'}, {len(found.chunkservers)} chunk servers"
            except GfsError as error:
                said = error.message
            if self._loop.now > deadline:
                raise Unavailable(f"the simulated cluster is not ready after {READY_SECONDS_MAX} s: {said}")
            await asyncio.sleep(0.1)

    async def look_within(self, recorder: Recorder) -> None:
        assert self._seen is not None
        await look_within(self, self.nodes, self._seen.names, await self.leader(), recorder)

    async def stop(self) -> None:
        failpoints.intercept(None)
        if self._seen is not None:
            await self._seen.end()
        if self._own is not None:
            await self._own.close()
        for node in self.nodes.values():
            node.kill()

    def _stance(self, name: str) -> Stance:
        program = self.nodes[name].program
        if not isinstance(program, Master) or not program._node.running:
            return None
        status = program._node.status()
        return status.role, status.term, status.ready

    async def leader(self) -> str:
        assert self._seen is not None
        found = [(name, *await self._seen.look_at(name)) for name in self.masters]
        return max(((term, name) for name, role, term, _ in found if role == "leader"), default=(0, ""))[1]

    async def primary(self, path: str) -> str:
        """As the chunk servers were last told."""
        places = await self._places(path)
        assert self._seen is not None
        return self._seen.primaries.get(places[-1].handle, "") if places else ""

    async def replicas(self, path: str) -> Sequence[str]:
        places = await self._places(path)
        return [node_of(replica.control) for replica in places[-1].replicas] if places else ()

    async def _places(self, path: str) -> Sequence[ChunkPlace]:
        assert self._own is not None
        try:
            return await self._own.chunks(path)
        except GfsError:
            return ()

    async def replica_bytes(
        self, client: AsyncClient, server: str, handle: int, version: int, capability: bytes = b""
    ) -> bytes:
        request = ChunkStatus(handle=ChunkHandle(handle), version=ChunkVersion(version))
        found = await self._caller.call(
            Address(server), request, ChunkStatusReply, deadline_seconds=ASK_SECONDS
        )
        name = node_of(server)
        program = self.nodes[name].program
        if isinstance(program, ChunkServer) and program.tier is not None and program.tier.row(request.handle):
            buffer = bytearray(found.length_bytes)
            got = program.tier.read_into(request.handle, memoryview(buffer), 0)
            return bytes(buffer[:got])
        path = self._file_of(name, ChunkHandle(handle))
        if path is None:
            raise NotFound(f"{name} holds no file of chunk {handle:x}")
        return self.nodes[name].disk.open(path).pread(found.length_bytes, 0)

    def _file_of(self, name: str, handle: ChunkHandle) -> str | None:
        node = self.nodes[name]
        path = chunk_file_path(os.path.join(node.directory, CHUNKS_DIRECTORY), handle)
        return path if node.disk.powered_off is False and node.disk.exists(path) else None

    # --- links ---------------------------------------------------------------------------------------

    async def cut(self, source: str, target: str) -> None:
        self._around.network.cut(source, target)

    async def drop(self, source: str, target: str) -> None:
        self._around.network.link(source, target).dropping = True

    async def hold(self, source: str, target: str) -> None:
        self._around.network.link(source, target).holding = True

    async def slow(self, source: str, target: str, *, seconds: float, jitter: float = 0.0) -> None:
        link = self._around.network.link(source, target)
        link.delay_seconds, link.jitter_seconds = seconds, jitter

    async def throttle(self, source: str, target: str, *, bytes_per_second: int) -> None:
        self._around.network.link(source, target).bytes_per_second = bytes_per_second

    async def slice(self, source: str, target: str, *, piece_bytes: int) -> None:
        raise CannotHere("simulated messages are whole; only real sockets have pieces")

    async def reset(self, source: str, target: str) -> None:
        self._around.network.break_connections(source, target)

    async def limit(self, source: str, target: str, *, limit_bytes: int) -> None:
        self._around.network.link(source, target).bytes_left = limit_bytes

    async def slow_close(self, source: str, target: str, *, seconds: float) -> None:
        raise CannotHere("simulated connections are closed at once; only real sockets can linger")

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
        raise CannotHere("simulated links have no packets")

    async def heal(self, source: str, target: str) -> None:
        self._around.network.heal(source, target)
        self._around.network.heal(target, source)

    async def heal_all(self) -> None:
        self._around.network.heal_all()
        failpoints.intercept(None)
        for node in self.nodes.values():
            node.disarm()
            node.resume()
            node.clock.mend()
            node.disk.mend()
        if self._around.objects is not None:
            self._around.objects.mend()

    # --- programs and their machines -----------------------------------------------------------------

    async def kill(self, node: str) -> None:
        await self._in_the_middle([node], lambda one: one.kill(in_the_middle=True))

    async def _in_the_middle(self, names: Sequence[str], end: Callable[[Node], None]) -> None:
        """End these nodes at one moment: now, or, as often, in one of the next calls to a disk of theirs."""
        chance, over = self._loop.chance, asyncio.Event()

        def end_all() -> None:
            over.set()
            for name in names:
                end(self.nodes[name])

        if names and chance.random() < 0.5:
            call_off = self.nodes[chance.choice(list(names))].at_disk_call(
                chance.randrange(DISK_CALLS_MAX), end_all
            )
            try:
                await asyncio.wait_for(over.wait(), DISK_CALL_SECONDS_MAX)
            except TimeoutError:
                call_off()
        if not over.is_set():
            end_all()
        await asyncio.sleep(0.001)  # the dead work comes off the stack

    async def restart(self, node: str) -> None:
        if not self.nodes[node].runs:
            self.nodes[node].start(self.settings)

    async def arm(self, node: str, failpoint: str) -> None:
        """From its next start on, or, as often, from now on: a leader that is started anew leads no more."""
        name, _, action = failpoint.partition("=")
        action, _, passes = action.partition("@")
        if name not in failpoints.NAMES or action != "kill":
            raise CannotHere(f"{failpoint}: simulated programs can only be killed at failpoints there are")
        armed = self.nodes[node]
        if self._loop.chance.random() < 0.5 or not armed.runs:
            armed.kill()
            armed.start(self.settings)
        armed.arm(name, int(passes or 1))
        failpoints.intercept(self._passed)

    def _passed(self, failpoint: str) -> None:
        """Some program does, in its own context."""
        here = life.get()
        node = None if here is None else self.nodes.get(here.node)
        if node is not None and node.process is here:
            node.passes(failpoint)
            if not any(one.is_armed for one in self.nodes.values()):
                failpoints.intercept(None)

    async def power_cut(self, nodes: Sequence[str]) -> None:
        torn = self._loop.chance.random() < 0.5
        await self._in_the_middle(nodes, lambda one: one.cut_power(torn=torn, in_the_middle=True))

    async def pause(self, node: str) -> None:
        self.nodes[node].pause()

    async def resume(self, node: str) -> None:
        self.nodes[node].resume()

    async def clock_drift(self, node: str, rate: float) -> None:
        self.nodes[node].clock.drift(rate)

    async def clock_jump(self, node: str, seconds: float) -> None:
        self.nodes[node].clock.jump(seconds)

    async def disk_full(self, node: str, full: bool) -> None:
        self.nodes[node].disk.space_bytes_left = 0 if full else None

    async def disk_errors(self, node: str, *, share: float) -> None:
        disk = self.nodes[node].disk
        disk.failing_share = disk.failing_reads_share = share

    async def slow_disk(self, node: str, *, seconds: float) -> None:
        disk = self.nodes[node].disk
        disk.on_slow = (lambda: self._loop.charge(seconds)) if seconds else None

    async def bit_rot(self, node: str, *, bits: int) -> int:
        disk, chance = self.nodes[node].disk, self.nodes[node].chance
        directory = os.path.join(self.nodes[node].directory, CHUNKS_DIRECTORY)
        flipped = 0
        for path in disk.files_below(directory):
            length = disk.length_of(path)
            while length and flipped < bits:
                disk.flip_bit(path, chance.randrange(length), chance.randrange(8))
                flipped += 1
        return flipped

    async def add_master(self) -> str:
        raise CannotHere("the simulated masters do not come and go yet")

    async def remove_master(self, node: str) -> None:
        raise CannotHere("the simulated masters do not come and go yet")
