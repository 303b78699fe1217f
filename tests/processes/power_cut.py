"""Power cuts of real master processes, on a file system that forgets what was not synced.

    python -m tests.processes.power_cut --cuts 20 [--seed 1]

Each master's whole directory (log, checkpoints, identity, and the state's LMDB file) lies on a disk of
chaos.kernel.forgetful_fs. A cut takes the power of all machines at once, under load, or of all but one, whose
process is killed like theirs. A start after a cut sees another boot: /proc says so in its mount namespace.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from chaos.kernel.forgetful_mount import ForgetfulMount
from chaos.kernel.tools import power_why_not
from gfs.client.client import AsyncClient
from gfs.errors import GfsError
from tests.processes.cluster import ProcessCluster
from tests.waiting import until

WRITERS = 8
# Small enough for several checkpoints and segments between two cuts.
OFTEN = {"GFS__RAFT__CHECKPOINT_LOG_BYTES": "20000", "GFS__RAFT__SEGMENT_BYTES": "8000"}


def why_not() -> str:
    """Why power cuts of real processes cannot be tried here; empty when they can."""
    return power_why_not("power_cut")


class PowerCluster(ProcessCluster):
    """Three masters on disks that forget, one chunk server on an ordinary one."""

    def __init__(self, directory: Path, seed: int) -> None:
        super().__init__(directory, masters=3, chunkservers=1)
        self._files = ForgetfulMount(
            directory / "masters", directory / "durable", self.masters, seed=seed, name="gfs-power-cut"
        )

    def start(self, nodes: Iterable[str] | None = None, *, failpoint: str = "", **environment: str) -> None:
        super().start(nodes, failpoint=failpoint, **OFTEN, **environment)

    def command(self, role: str, node: str) -> list[str]:
        found = super().command(role, node)
        if role != "master":
            return found
        return self._files.as_of_this_boot(node, found)

    def cut_power(self, machines: list[str]) -> None:
        """Of these masters' machines at once, whatever they are doing; the other masters are killed."""
        self._files.cut(machines)
        self.kill(self.masters)

    def power_on(self, machines: list[str]) -> None:
        self._files.on(machines)
        self.start(self.masters)

    def stop(self) -> None:
        super().stop()
        self._files.close()


class Load:
    """Files made and deleted by several at once. What had no clear answer is in neither set."""

    def __init__(self, client: AsyncClient, seed: int) -> None:
        self._client, self._chance = client, random.Random(seed)
        self._number = 0
        self.there: set[str] = set()
        self.gone: set[str] = set()

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self._step()
            except GfsError:
                await asyncio.sleep(self._chance.uniform(0, 0.05))

    async def _step(self) -> None:
        if self.there and self._chance.random() < 0.2:
            path = self._chance.choice(sorted(self.there))
            self.there.discard(path)
            await self._client.delete(path)
            self.gone.add(path)
        else:
            self._number += 1
            path = f"/f{self._number:06d}" + "x" * self._chance.choice((0, 60))
            await self._client.create(path)
            self.there.add(path)

    async def verify(self) -> None:
        listed = {entry.path async for entry in self._client.list("/")}
        lost, back = self.there - listed, self.gone & listed
        assert not lost, f"{len(lost)} acknowledged files are lost, like {min(lost)}"
        assert not back, f"{len(back)} deleted files are back, like {min(back)}"


async def survive(directory: Path, *, cuts: int, seed: int, tell: bool = False) -> Load:
    """Cut the power of all masters `cuts` times under load; after each, everything acknowledged is there."""
    chance = random.Random(seed)
    cluster = PowerCluster(directory, seed)
    try:
        cluster.start()
        client = await cluster.connect()
        load = Load(client, seed)
        try:
            await cluster.ready(client)
            for number in range(cuts):
                started = time.monotonic()
                stop = asyncio.Event()
                writers = [asyncio.create_task(load.run(stop)) for _ in range(WRITERS)]
                before = len(load.there)
                await _grown(load, before + 40)
                await asyncio.sleep(chance.uniform(0, 0.6))  # the moment of the cut is what chance decides
                dark = chance.sample(cluster.masters, chance.choice((3, 3, 2)))
                cluster.cut_power(dark)
                stop.set()
                cluster.power_on(dark)
                await asyncio.gather(*writers)
                await cluster.ready(client)
                await load.verify()
                await cluster.masters_agree()
                if tell:
                    _tell(number, len(dark), load, time.monotonic() - started)
        finally:
            await client.close()
        return load
    except BaseException as error:
        for master in cluster.masters:
            error.add_note(f"--- {master}:\n{cluster.log(master)[-3000:]}")
        raise
    finally:
        cluster.stop()


async def _grown(load: Load, count: int) -> None:
    async def enough() -> bool:
        return len(load.there) >= count

    await until(enough, "the load goes on")


def _tell(number: int, dark: int, load: Load, seconds: float) -> None:
    files = f"{len(load.there)} files there, {len(load.gone)} gone, none lost"
    line = f"cut {number + 1}, of {dark} machines: {files}; {seconds:.1f} s"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.processes.power_cut", description=__doc__)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if reason := why_not():
        sys.exit(f"power cuts cannot be tried here: {reason}")
    with tempfile.TemporaryDirectory(prefix="gfs-power-cut-") as directory:
        asyncio.run(survive(Path(directory), cuts=options.cuts, seed=options.seed, tell=True))


if __name__ == "__main__":
    main()
