"""Machines of a simulation: a disk, a clock, and the real program that runs on them, until it is killed."""

from __future__ import annotations

import asyncio
import contextvars
import os
import random
from collections.abc import Callable
from dataclasses import dataclass

from chaos.simulation import bulk, control
from chaos.simulation.bulk import BulkPorts, SimulatedBulkClient, SimulatedBulkServer
from chaos.simulation.control import Exchange, SimulatedCaller, SimulatedControlServer
from chaos.simulation.disk import ForgetfulDisk
from chaos.simulation.mortal_disk import Died, MortalDisk
from chaos.simulation.network import Network
from chaos.simulation.objects import SimulatedObjects
from chaos.simulation.world import Life, NodeClock, World, life, resume
from gfs.chunkserver.process import ChunkServer
from gfs.chunkserver.stores.file import CHUNKS_DIRECTORY
from gfs.chunkserver.stores.objects import ObjectService
from gfs.errors import GfsError
from gfs.master.process import Master
from gfs.master.state_machine import STATE_FILE
from gfs.settings import Settings
from gfs.telemetry import logger
from gfs.transport.wires import Wires

WIRES = Wires(SimulatedCaller, SimulatedControlServer, SimulatedBulkClient, SimulatedBulkServer)
RESTART_SECONDS = 0.5  # until whoever supervises a program starts it again when it has died by itself
_log = logger("simulation")


class Surroundings:
    """What all nodes of one simulation share."""

    def __init__(self, loop: World) -> None:
        self.loop = loop
        self.network = Network(loop)
        self.exchange = Exchange(self.network)
        self.ports = BulkPorts(self.network)
        control.use(self.exchange)
        bulk.use(self.ports)
        self.on_started: Callable[[str], None] = lambda node: None
        self.objects: SimulatedObjects | None = None  # made for the first who wants one
        self._base = contextvars.copy_context()

    def died(self, node: str, *, silently: bool) -> None:
        self.network.died(node, silently=silently)
        self.exchange.died(node, silently=silently)
        self.ports.died(node)

    def object_service(self, _: str) -> ObjectService:
        if self.objects is None:
            self.objects = SimulatedObjects(random.Random(self.loop.chance.random()))
        return self.objects

    def context_of(self, process: Life) -> contextvars.Context:
        """In which whatever is begun is work of this process."""
        context = self._base.copy()
        context.run(life.set, process)
        return context


@dataclass(slots=True)
class _Armed:
    failpoint: str
    passes_left: int
    die: Callable[[], None]


class Node:
    """One machine. `directory` is a real one: LMDB's files are in it, all else is on `disk`."""

    def __init__(self, name: str, directory: str, around: Surroundings) -> None:
        self.name, self.directory, self._around = name, directory, around
        self.chance = random.Random(around.loop.chance.random())
        self.disk = ForgetfulDisk(seed=self.chance.randrange(2**32))
        self.disk.make_directory(directory)
        os.makedirs(os.path.join(directory, CHUNKS_DIRECTORY))  # of which free space is asked
        self.clock = NodeClock(around.loop)
        self.settings: Settings
        self.process: Life | None = None
        self.deaths = 0
        self._program: Master | ChunkServer | None = None
        self._process_disk: MortalDisk | None = None
        self._armed: _Armed | None = None
        self._wanted = False  # it is to be started again when it dies by itself
        self._buried: list[Life] = []

    @property
    def runs(self) -> bool:
        return self.process is not None

    @property
    def program(self) -> Master | ChunkServer | None:
        return self._program

    def start(self, settings: Settings) -> None:
        """Begin to start the program; it may fail, or die again, and is then started anew by and by."""
        assert self.process is None
        self.settings, self._wanted = settings, True
        if self.disk.powered_off:
            self.disk.power_on()
        process = self.process = Life(self.name, self.clock)
        self._around.on_started(self.name)
        context = self._around.context_of(process)
        self._around.loop.call_soon(self._begin, process, context=context)

    def kill(self, *, in_the_middle: bool = False) -> None:
        """kill -9: what was written stays. `in_the_middle`: some program's work is under way meanwhile."""
        self._wanted = False
        self._end(silently=False, in_the_middle=in_the_middle)

    def cut_power(self, *, torn: bool, in_the_middle: bool = False) -> None:
        self._wanted = False
        if self._process_disk is not None:
            self._process_disk.is_dead = True
        if not self.disk.powered_off:
            self.disk.power_cut(torn=torn)
        self._end(silently=True, in_the_middle=in_the_middle)
        self._after(in_the_middle, self._spoil_state_file)

    def at_disk_call(self, calls: int, end: Callable[[], None]) -> Callable[[], None]:
        """In the call to its disk after `calls` others, do `end`, which kills it or cuts its power.

        Returns what calls that off.
        """
        disk = self._process_disk
        if self.process is None or disk is None:
            return lambda: None
        ours = contextvars.copy_context()  # not the dying program's: what is begun then is no work of its
        disk.die_at_call(calls, is_done_first=self.chance.random() < 0.5, on_death=lambda: ours.run(end))
        return disk.live_on

    def arm(self, failpoint: str, passes: int) -> None:
        """Die, by kill -9, when the program that runs passes this failpoint for the `passes`-th time."""
        ours = contextvars.copy_context()  # as in at_disk_call
        self._armed = _Armed(failpoint, passes, lambda: ours.run(self.kill, in_the_middle=True))

    def disarm(self) -> None:
        self._armed = None

    @property
    def is_armed(self) -> bool:
        return self._armed is not None

    def passes(self, failpoint: str) -> None:
        """Its program is at this failpoint. Raises: Died."""
        armed = self._armed
        if armed is None or armed.failpoint != failpoint:
            return
        armed.passes_left -= 1
        if not armed.passes_left:
            armed.die()
            raise Died

    def pause(self) -> None:
        if self.process is not None and self.process.paused is None:
            self.process.paused = []

    def resume(self) -> None:
        if self.process is not None and self.process.paused is not None:
            resume(self._around.loop, self.process)

    # --- private -------------------------------------------------------------------------------

    def _begin(self, process: Life) -> None:
        loop = self._around.loop
        disk = self._process_disk = MortalDisk(self.disk, loop, on_cut=lambda: self._power_went(process))
        chance = random.Random(self.chance.random())

        def died(error: BaseException) -> None:
            loop.call_soon(self._died, process, error)

        program: Master | ChunkServer
        if self.name in self.settings.masters:
            program = Master(
                self.settings,
                self.name,
                self.directory,
                clock=self.clock,
                disk=disk,
                chance=chance,
                fatal=died,
                wires=WIRES,
                log_worker=lambda work: loop.run_in_executor(None, work),
            )
        else:
            program = ChunkServer(
                self.settings,
                self.name,
                self.directory,
                clock=self.clock,
                disk=disk,
                wires=WIRES,
                open_service=self._around.object_service,
            )
        self._program = program
        loop.create_task(self._run(program, process, died))

    async def _run(
        self, program: Master | ChunkServer, process: Life, died: Callable[[BaseException], None]
    ) -> None:
        try:
            await program.start()
            if isinstance(program, ChunkServer):
                reason = await program.failed()
                died(OSError(reason))
        except (GfsError, OSError) as error:
            died(error)

    def _died(self, process: Life, error: BaseException) -> None:
        """By its own hand, or on its start. Whatever it was, a supervisor starts it again."""
        if process is not self.process or process.dead:
            return
        self.deaths += 1
        _log.warning("a simulated program has died", node=self.name, error=repr(error))
        self._end(silently=False)
        self._around.loop.outside(RESTART_SECONDS, self._start_again)

    def _start_again(self) -> None:
        if self._wanted and self.process is None:
            self.start(self.settings)

    def _power_went(self, process: Life) -> None:
        if process is self.process:
            self.cut_power(torn=False, in_the_middle=True)

    def _end(self, *, silently: bool, in_the_middle: bool = False) -> None:
        process, self.process = self.process, None
        self._armed = None
        if process is None:
            return
        process.dead = True
        self._buried.append(process)
        if self._process_disk is not None:
            self._process_disk.is_dead = True
        self._around.died(self.name, silently=silently)
        program, self._program = self._program, None
        if program is not None:
            self._after(in_the_middle, program.abandon)

    def _after(self, in_the_middle: bool, work: Callable[[], None]) -> None:
        """What the system does for a dead process, once the work that it died in has come off the stack."""
        if in_the_middle:
            self._around.loop.outside(0, work)
        else:
            work()

    def _spoil_state_file(self) -> None:
        """Nobody ever synced it: after a power cut it may be old, torn, empty or gone."""
        path = os.path.join(self.directory, STATE_FILE)
        if not os.path.exists(path):
            return
        what = self.chance.choice(("as it was", "cut short", "gone"))
        if what == "gone":
            os.unlink(path)
        elif what == "cut short":
            os.truncate(path, self.chance.randrange(os.path.getsize(path) + 1))


def make_node(name: str, parent: str, around: Surroundings) -> Node:
    return Node(name, os.path.join(parent, name), around)


async def until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Raises: TimeoutError."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        if loop.time() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        await asyncio.sleep(0.05)
