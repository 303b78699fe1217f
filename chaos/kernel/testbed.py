"""The cluster of layer K: real programs in namespaces, hurt by the kernel, their disks and their clocks.

What a run wants is said beforehand, since disks and clocks are under a program from its start: with
`power_cut` or `slow_disk` all disks are of the file system that forgets, with `disk_full` alone they are
small tmpfs, and only a program whose clock or disk is to lie runs under libfaketime or libfiu.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from chaos.kernel import sick_disk, tools
from chaos.kernel.clocks import JUMP_SEEN_SECONDS, clock_variables, set_offset
from chaos.kernel.forgetful_mount import ForgetfulMount
from chaos.kernel.freezer import Freezer
from chaos.kernel.machine import CommandFailed, Run, command
from chaos.kernel.machines import at, disk_of, lay_out, spread
from chaos.kernel.network import Network
from chaos.plan import Configuration
from chaos.real_testbed import RealTestbed
from chaos.testbed import CannotHere, Layer, Power
from gfs import aio
from gfs.chunkserver.stores.file import CHUNK_SUFFIX
from gfs.client.client import AsyncClient
from gfs.settings import ClientSettings
from gfs.vocabulary import Address, split_address

SMALL_DISK = "512m"  # of a disk that is to be filled; free_bytes_min leaves room for all a run writes
FORGETS: frozenset[Power] = frozenset(("power_cut", "slow_disk"))
LIES: frozenset[Power] = frozenset(("clock_drift", "clock_jump"))
ENDING_SECONDS_MAX = 10.0  # for a program whose disk has failed to be gone
LISTENING_SECONDS_MAX = 20.0  # for a program that was started anew to listen


class KernelTestbed(RealTestbed):
    layer: Layer = "kernel"

    def __init__(
        self, run: Run, directory: str, configuration: Configuration, *, seed: int, wanted: frozenset[Power]
    ) -> None:
        """`wanted`: the powers that will be used. Raises: CommandFailed."""
        self.powers = frozenset(power for power in tools.NEEDS if not tools.power_why_not(power))
        self._run, self._wanted, self._seed = run, wanted & self.powers, seed
        self._chance = random.Random(f"{seed}/kernel")
        self._network = Network(run, seed)
        self._freezer = Freezer(run, has_groups=not tools.why_not("freezer"))
        self._hurting = asyncio.Lock()  # one change of the machine at a time
        self._frozen: set[str] = set()
        self._rates: dict[str, float] = {}
        self._offsets: dict[str, float] = {}
        self._refusing: set[str] = set()
        self._full: set[str] = set()
        self._slow: set[str] = set()
        layout = lay_out(
            directory,
            masters=configuration.masters,
            chunkservers=configuration.chunkservers,
            add=self._network.add,
        )
        self._forgetful: ForgetfulMount | None = None
        super().__init__(layout, configuration)
        if self._wanted & FORGETS:
            self._forgetful = ForgetfulMount(
                Path(directory, "disks"),
                Path(directory, "durable"),
                (*self.masters, *self.chunkservers),
                seed=seed,
                name=f"{run.name}-forgetful",
            )
        for node in (*self.masters, *self.chunkservers):
            self._give_disk(node)

    # --- what programs are started with -------------------------------------------------

    def command_of(self, node: str, words: Sequence[str]) -> Sequence[str]:
        preloaded, variables = [], dict[str, str]()
        if "disk_errors" in self._wanted:
            variables |= sick_disk.disk_variables(self._pipe(node))
            preloaded.append(variables["LD_PRELOAD"])
        if self._wanted & LIES:
            variables |= clock_variables(self._clock(node), rate=self._rates.get(node, 1.0))
            preloaded.append(variables["LD_PRELOAD"])
            # Under libfaketime uvloop's timers come so late that a program answers a few times a second.
            variables |= {"GFS__MASTER__LOOP": "asyncio", "GFS__CHUNKSERVER__LOOP": "asyncio"}
        if preloaded:
            variables["LD_PRELOAD"] = " ".join(preloaded)
        # By env, and last: neither ip nor unshare is to run under what is preloaded.
        words = ["env", *(f"{key}={value}" for key, value in variables.items()), *words]
        if self._forgetful is not None:
            words = self._forgetful.as_of_this_boot(node, words)
        return [*self._run.inside(node), *words]

    def _give_disk(self, node: str) -> None:
        disk = Path(disk_of(self.layout.directory, node))
        if self._forgetful is None:
            disk.mkdir(parents=True, exist_ok=True)
            if "disk_full" in self._wanted:
                name = f"{self._run.name}-disk-{node}"
                command("mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", name, str(disk))
        if self._wanted & LIES:
            set_offset(self._clock(node), 0.0)

    def _pipe(self, node: str) -> Path:
        return self._run.directory / f"{node}-disk"

    def _clock(self, node: str) -> Path:
        return self._run.directory / f"{node}-clock"

    # --- the cluster as a whole ---------------------------------------------------------

    async def connect(self, name: str, settings: ClientSettings) -> AsyncClient:
        if name not in self._network.clients:
            await self._hurt(self._network.add_client, name)

        def dial(address: Address) -> Address:
            host = split_address(address)[0]
            node = next((n for n in self._network.nodes if self._network.address(n) == host), "")
            return at(address, self._network.address(node, name)) if node else address

        return await aio.connect(self._control_addresses(), settings=settings, dial=dial)

    async def stop(self) -> None:
        if self._is_stopped:
            return
        for node in list(self._frozen):
            await self.resume(node)
        await super().stop()
        await self._hurt(self._network.close)
        if self._forgetful is not None:
            await self._hurt(self._forgetful.close)

    async def node_added(self, node: str) -> None:
        await self._hurt(self._network.add, node)
        self.layout = self.programs.layout = spread(self.layout, {node: self._network.address(node)})
        if self._forgetful is not None:
            await self._hurt(self._forgetful.tell, "machine", node)
        await self._hurt(self._give_disk, node)

    async def heal_all(self) -> None:
        await self._hurt(self._network.heal_all)
        for node in list(self._full):
            await self.disk_full(node, False)
        for node in list(self._slow):
            await self.slow_disk(node, seconds=0.0)
        for node in list(self._refusing):
            await self.disk_errors(node, share=0.0)
        for node in [node for node, rate in self._rates.items() if rate != 1.0]:
            await self.clock_drift(node, 1.0)
        for node, seconds in list(self._offsets.items()):
            await self.clock_jump(node, -seconds)
        for node in list(self._frozen):
            await self.resume(node)
        await self.heal_programs()

    async def _hurt(self, what: Callable[..., object], *arguments: object, **named: object) -> None:
        """Call it beside the loop, where the harness and its clients run on."""
        async with self._hurting:
            await asyncio.to_thread(what, *arguments, **named)

    # --- links --------------------------------------------------------------------------

    async def cut(self, source: str, target: str) -> None:
        await self._hurt(self._network.cut, source, target)

    async def drop(self, source: str, target: str) -> None:
        await self._hurt(self._network.drop, source, target)

    async def hold(self, source: str, target: str) -> None:
        await self._hurt(self._network.hold, source, target)

    async def slow(self, source: str, target: str, *, seconds: float, jitter: float = 0.0) -> None:
        await self._hurt(self._network.slow, source, target, seconds=seconds, jitter=jitter)

    async def throttle(self, source: str, target: str, *, bytes_per_second: int) -> None:
        await self._hurt(self._network.throttle, source, target, bytes_per_second=bytes_per_second)

    async def slice(self, source: str, target: str, *, piece_bytes: int) -> None:
        await self._hurt(self._network.slice, source, target, piece_bytes=piece_bytes)

    async def reset(self, source: str, target: str) -> None:
        await self._hurt(self._network.reset, source, target)

    async def limit(self, source: str, target: str, *, limit_bytes: int) -> None:
        await self._hurt(self._network.limit, source, target, limit_bytes=limit_bytes)

    async def slow_close(self, source: str, target: str, *, seconds: float) -> None:
        raise CannotHere(tools.power_why_not("slow_close"))

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
        shares = {"loss": loss, "reorder": reorder, "duplicate": duplicate, "corrupt": corrupt}
        await self._hurt(self._network.packets, source, target, **shares)

    async def heal(self, source: str, target: str) -> None:
        await self._hurt(self._network.heal, source, target)

    # --- programs -----------------------------------------------------------------------

    async def kill(self, node: str) -> None:
        if node in self._frozen:  # it dies before anything of it runs again
            self.programs.send_kill(node)
            await self.resume(node)
        await super().kill(node)

    async def arm(self, node: str, failpoint: str) -> None:
        await self.kill(node)
        await self._power_on(node)
        await super().arm(node, failpoint)

    async def restart(self, node: str) -> None:
        if not self.programs.runs(node):
            await self._power_on(node)
            await super().restart(node)

    async def _power_on(self, node: str) -> None:
        if self._forgetful is not None:
            await self._hurt(self._forgetful.on, [node])

    async def power_cut(self, nodes: Sequence[str]) -> None:
        self._needs("power_cut")
        assert self._forgetful is not None
        await self._hurt(self._forgetful.cut, nodes)
        for node in nodes:
            await self.kill(node)

    async def pause(self, node: str) -> None:
        if self.programs.runs(node):
            await self._hurt(self._freezer.freeze, node, self.programs.process_id(node))
            self._frozen.add(node)

    async def resume(self, node: str) -> None:
        if node in self._frozen:
            self._frozen.discard(node)
            await self._hurt(self._freezer.thaw, node, self.programs.process_id(node))

    # --- clocks -------------------------------------------------------------------------

    async def clock_drift(self, node: str, rate: float) -> None:
        """A program gets its rate when it starts: it is stopped in an orderly way, and started anew."""
        self._needs("clock_drift")
        if self._rates.get(node, 1.0) == rate:
            return
        self._rates[node] = rate
        await self.programs.stop([node])
        await self.restart(node)
        await self._listening(node)

    async def clock_jump(self, node: str, seconds: float) -> None:
        """Returns once the program cannot but have seen it."""
        self._needs("clock_jump")
        if self._rates.get(node, 1.0) != 1.0:
            raise CannotHere(f"{node} has a clock that drifts: it takes no jumps")
        self._offsets[node] = self._offsets.get(node, 0.0) + seconds
        set_offset(self._clock(node), self._offsets[node])
        if not self._offsets[node]:
            del self._offsets[node]
        await asyncio.sleep(1.1 * JUMP_SEEN_SECONDS)

    async def _listening(self, node: str) -> None:
        """Wait until it takes connections again; give up when it does not: what it does then is its own."""
        host, port = split_address(self._addresses()[node])
        deadline = time.monotonic() + LISTENING_SECONDS_MAX
        while self.programs.runs(node) and time.monotonic() < deadline:
            try:
                _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 1.0)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return

    # --- disks --------------------------------------------------------------------------

    async def disk_full(self, node: str, full: bool) -> None:
        self._needs("disk_full")
        (self._full.add if full else self._full.discard)(node)
        if self._forgetful is not None:
            await self._hurt(self._forgetful.tell, "full" if full else "room", node)
        else:
            disk = Path(disk_of(self.layout.directory, node))
            await self._hurt(sick_disk.fill if full else sick_disk.empty, disk)

    async def disk_errors(self, node: str, *, share: float) -> None:
        """Of writes and syncs of files. A program that has died of them, and was started again, has none."""
        self._needs("disk_errors")
        if share > 0 and not self.programs.runs(node):
            raise CannotHere(f"{node} does not run")
        (self._refusing.add if share > 0 else self._refusing.discard)(node)
        if not self.programs.runs(node):
            return
        pipe, process = self._pipe(node), self.programs.process_id(node)
        try:
            await self._hurt(
                sick_disk.fail_calls, pipe, process, share=share, calls=sick_disk.WRITES_AND_SYNCS
            )
        except CommandFailed as error:
            try:
                await self.programs.ended(node, ENDING_SECONDS_MAX)  # it is about to: its pipes went first
            except TimeoutError:
                raise error from None

    async def slow_disk(self, node: str, *, seconds: float) -> None:
        self._needs("slow_disk")
        assert self._forgetful is not None
        (self._slow.add if seconds else self._slow.discard)(node)
        await self._hurt(self._forgetful.tell, "slow", node, f"{seconds}")

    async def bit_rot(self, node: str, *, bits: int) -> int:
        disk = Path(disk_of(self.layout.directory, node))
        hit = await asyncio.to_thread(
            sick_disk.flip_bits, disk, self._chance, bits=bits, suffixes=(CHUNK_SUFFIX,)
        )
        return len(hit)

    def _needs(self, power: Power) -> None:
        """Raises: CannotHere, when this run's programs were not started so that it can be done."""
        if reason := tools.power_why_not(power):
            raise CannotHere(reason)
        if power not in self._wanted and not (power in FORGETS and self._forgetful is not None):
            raise CannotHere(f"{power} was not asked for when this cluster was made")

    def discard_disks(self) -> None:
        """What remains of a run's disks on the real one. After stop()."""
        shutil.rmtree(Path(self.layout.directory, "durable"), ignore_errors=True)
