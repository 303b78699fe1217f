"""A storm of harder faults than one program at a time: everything killed at once, disks emptied, filled and
flipped, primaries stopped for longer than it takes to be given up. What was acknowledged must be there.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path

import pytest

from tests.paper.boxes import keeps
from tests.processes.cluster import eventually
from tests.processes.storm import APPENDERS, QUICK, STEPS, Storm, all_is_well, prepared_storm

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

SEEDS = [int(seed) for seed in os.environ.get("GFS_TEST_HARD_STORM_SEEDS", "0").split(",")]
FAULTS = (
    "stop for long",
    "stop masters",
    "kill chunk servers",
    "kill masters",
    "kill all",
    "empty a disk",
    "flip bits",
    "lose files",
    "full disk",
)


class HardFaults:
    """One fault after the other; before one that destroys a replica, all chunks have theirs."""

    def __init__(self, storm: Storm, chance: random.Random) -> None:
        self.cluster, self.client, self.progress = storm.cluster, storm.client, storm.progress
        self.chance = chance
        self.done: list[str] = []

    async def run(self) -> None:
        order: list[str] = []
        while not self.progress.over:
            order = order or self.chance.sample(FAULTS, len(FAULTS))
            fault = order.pop()
            server = self.chance.choice(self.cluster.chunkservers)
            if fault in ("empty a disk", "flip bits", "lose files"):
                await eventually(
                    lambda: all_is_well(self.client), f"all is well before: {fault}, {self.done}"
                )
            self.done.append(f"{fault} {server}")
            await self.do(fault, server)
            await self.cluster.ready(self.client)
            await self.progress.pass_by(self.chance.randrange(5, 25))

    async def is_given_up(self, server: str) -> bool | None:
        control = self.cluster.layout.settings.chunkservers[server].control
        known = (await self.client.cluster_status()).chunkservers
        return all(not one.alive for one in known if one.control == control) or None

    async def do(self, fault: str, server: str) -> None:
        cluster = self.cluster
        match fault:
            case "stop for long" | "stop masters":
                names = [server] if fault == "stop for long" else self.chance.sample(cluster.masters, 2)
                for name in names:
                    cluster.processes[name].send_signal(signal.SIGSTOP)
                if fault == "stop for long":
                    await eventually(lambda: self.is_given_up(server), f"{server} counts as dead")
                else:
                    await self.progress.pass_by(STEPS * APPENDERS)  # nobody gets on: until it is stuck
                for name in names:
                    cluster.processes[name].send_signal(signal.SIGCONT)
            case "kill chunk servers" | "kill masters" | "kill all":
                names = {
                    "kill chunk servers": cluster.chunkservers,
                    "kill masters": cluster.masters,
                    "kill all": cluster.masters + cluster.chunkservers,
                }[fault]
                cluster.kill(names)
                cluster.start(self.chance.sample(names, len(names)), **QUICK)
            case "empty a disk":
                cluster.kill([server])
                directory = Path(cluster.layout.settings.chunkservers[server].directory)
                shutil.rmtree(directory)
                cluster.start([server], **QUICK)
            case "flip bits" | "lose files":
                directory = Path(cluster.layout.settings.chunkservers[server].directory)
                files = sorted(
                    path for path in directory.rglob("*") if path.is_file() and "chunks/" in str(path)
                )
                for path in self.chance.sample(files, min(5, len(files))):
                    if fault == "flip bits":
                        flip(path, self.chance)
                    else:
                        path.unlink(missing_ok=True)
            case "full disk":
                cluster.kill([server])
                cluster.start([server], failpoint="chunk.before_write=nospace@3", **QUICK)
                await self.progress.pass_by(self.chance.randrange(5, 25))
                cluster.kill([server])
                cluster.start([server], **QUICK)


def flip(path: Path, chance: random.Random) -> None:
    try:
        with open(path, "r+b") as file:
            at = chance.randrange(max(1, path.stat().st_size))
            file.seek(at)
            old = file.read(1)
            if old:
                file.seek(at)
                file.write(bytes([old[0] ^ 1 << chance.randrange(8)]))
    except FileNotFoundError:
        pass  # collected in this moment


@keeps("failures-are-the-norm")
@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_acknowledged_is_lost_in_a_hard_storm(tmp_path: Path, seed: int) -> None:
    """Constant failure is the norm, and failures come together: machines, disks and whole clusters."""
    async with prepared_storm(tmp_path, seed) as storm:
        faults = HardFaults(storm, random.Random(seed))
        await storm.rage(faults.run())
        assert len(faults.done) >= 3, faults.done
        await storm.verify()
