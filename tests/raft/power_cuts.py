"""Power cuts of all masters at random moments: nothing acknowledged is lost, and all masters come out equal.

    python -m tests.raft.power_cuts --seeds 1000 [--first 0]

Each seed is a cluster of whole masters under load, with several power cuts: in the middle of a write, a sync
or a rename, with torn and dropped unsynced bytes and reordered directory entries, of all machines or of all
but one whose process is killed instead, again while they start, while checkpoints are made and shipped.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import structlog

from chaos.simulation.loop import run_virtual
from chaos.simulation.stepped_work import SteppedLoop
from gfs.master.replication.options import RaftOptions
from tests.raft.whole_masters import Client, WholeCluster, WholeMaster

ROUNDS = 4
CLIENTS = 5
OPTIONS = RaftOptions(checkpoint_log_bytes=5000, segment_bytes=3000)

# Real sizes would write every checkpoint of these small states in one piece.
_PIECES = {
    "gfs.master.lmdb_tables.COPY_PIECE_BYTES": 16 * 1024,
    "gfs.master.checkpoint_directory.SYNC_STEP_BYTES": 32 * 1024,
    "gfs.master.checkpoint.SYNC_STEP_BYTES": 32 * 1024,
    "gfs.master.checkpoint_directory.READ_PIECE_BYTES": 64 * 1024,
    "gfs.master.replication.checkpoint_shipping.CHECKPOINT_PIECE_BYTES": 24 * 1024,
}


@contextmanager
def small_pieces() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _PIECES.items():
            patch.setattr(name, value)
        yield


class Storm:
    """One seed's power cuts."""

    def __init__(self, cluster: WholeCluster, told: Counter[str]) -> None:
        self.cluster, self.told = cluster, told
        self.chance = random.Random(cluster.loop.chance.random())
        for master in cluster.masters:
            master.disk.reorders_names = self.chance.random() < 0.5

    async def round(self) -> None:
        """Load, maybe one master left behind, then the power goes, and comes back."""
        network = self.cluster.loop.network
        if self.chance.random() < 0.6:
            # Long enough away for the log to be trimmed: it comes back to a checkpoint.
            away = self.chance.choice(self.cluster.names)
            network.isolate(away, list(self.cluster.names))
            await asyncio.sleep(self.chance.uniform(0.5, 1.5))
            network.heal()
            await asyncio.sleep(self.chance.uniform(0.0, 0.3))
        else:
            await asyncio.sleep(self.chance.uniform(0.05, 0.8))
        await self.cut_power()
        if self.chance.random() < 0.4:
            await self.switch_on(within=0.1)
            await asyncio.sleep(self.chance.uniform(0.0, 0.6))
            self.told["again while starting"] += 1
            await self.cut_power()
        await self.switch_on(within=self.chance.choice((0.0, 0.2, 1.0)))

    async def cut_power(self) -> None:
        torn = self.chance.random() < 0.7
        masters = list(self.cluster.masters)
        self.chance.shuffle(masters)
        if self.chance.random() < 0.3:
            # One keeps its power and is killed; its page cache must not save the others.
            self.told["killed only"] += 1
            masters.pop().kill()
        if self.chance.random() < 0.6:
            # In the middle of something each machine does; those that do nothing lose it a moment later.
            for master in masters:
                master.cut_power_within(self.chance.choice((6, 30, 120)), torn=torn)
            await asyncio.sleep(self.chance.uniform(0.05, 0.4))
        for master in masters:
            self.told["in the middle" if master.disk.powered_off else "between"] += 1
            if not master.disk.powered_off:
                master.cut_power(torn=torn)
        for master in self.cluster.masters:
            master.disk.operations_until_cut = None

    async def switch_on(self, *, within: float) -> None:
        starts = [asyncio.create_task(self._start_later(master, within)) for master in self.cluster.masters]
        for start in starts:
            await start

    async def _start_later(self, master: WholeMaster, within: float) -> None:
        await asyncio.sleep(self.chance.uniform(0.0, within))
        master.power_on()
        if self.chance.random() < 0.2:
            master.cut_power_within(40, torn=True)
        for _ in range(20):
            if master.node is None:
                master.power_on()
                await master.start()
                master.disk.operations_until_cut = None
            else:
                return
        raise AssertionError(f"{master.name} does not start")


async def survive(loop: SteppedLoop, directory: str, told: Counter[str]) -> None:
    cluster = WholeCluster(loop, directory, OPTIONS)
    try:
        for master in cluster.masters:
            await master.start()
        storm = Storm(cluster, told)
        stop = asyncio.Event()
        clients = [Client(cluster, number) for number in range(CLIENTS)]
        running = [asyncio.create_task(client.run(stop)) for client in clients]
        for number in range(ROUNDS):
            await storm.round()
            if number == ROUNDS - 1:
                stop.set()
                await asyncio.gather(*running)
            if number % 2 or number == ROUNDS - 1:
                await _everybody_runs(cluster, stop, running)
        cluster.check()
        told["acknowledged"] += len(cluster.history.acknowledged)
        told["entries"] += len(cluster.history.entries)
        told["power cuts"] += sum(master.power_cuts for master in cluster.masters)
        told["checkpoints installed"] += sum(master.checkpoints_installed for master in cluster.masters)
        told["checkpoints kept"] += sum(
            name.endswith(".manifest")
            for master in cluster.masters
            for name in master.disk.listdir(f"{master.directory}/checkpoints")
        )
        assert len(cluster.history.acknowledged) > CLIENTS, "the load got nowhere: this seed proves nothing"
    finally:
        cluster.remove()


async def _everybody_runs(
    cluster: WholeCluster, stop: asyncio.Event, running: list[asyncio.Task[None]]
) -> None:
    """With the load still on it is enough that a leader is there; in the end all must be equal."""
    for master in cluster.masters:
        master.disk.operations_until_cut = None
        if master.node is None:
            master.power_on()
            await master.start()
    for task in running:
        if task.done() and not stop.is_set():
            task.result()
    if stop.is_set():
        await cluster.settled()


def run_seed(seed: int, told: Counter[str]) -> None:
    parent = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with small_pieces(), tempfile.TemporaryDirectory(prefix="gfs-power-cuts-", dir=parent) as directory:
        run_virtual(
            lambda loop: survive(loop, f"{directory}/masters", told), seed=seed, make_loop=SteppedLoop
        )


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.raft.power_cuts", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    told: Counter[str] = Counter()
    started = time.monotonic()
    for count, seed in enumerate(itertools.islice(itertools.count(options.first), options.seeds), start=1):
        try:
            run_seed(seed, told)
        except BaseException:
            tell(f"seed {seed} fails: python -m tests.raft.power_cuts --first {seed} --seeds 1")
            raise
        if count % 25 == 0 or count == options.seeds:
            seconds = time.monotonic() - started
            tell(f"{count} seeds, {seconds:.0f} s: {dict(sorted(told.items()))}")


if __name__ == "__main__":
    main()
