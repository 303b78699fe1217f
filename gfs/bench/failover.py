"""How long no namespace write is answered when the leader is lost: kill -9 and SIGSTOP, many runs."""

from __future__ import annotations

import asyncio
import itertools
import signal
import statistics
import time
from collections.abc import Callable

from gfs.bench.fixture import local_cluster
from gfs.client.client import AsyncClient
from gfs.local.supervisor import Supervisor, wait_until_ready

WRITERS = 4
ANSWERS_BEFORE, ANSWERS_AFTER = 40, 40


async def measure(runs: int, *, freeze: bool = False) -> list[float]:
    """Gap in seconds between the last answer before and the first after the loss, one per run."""
    gaps = []
    async with local_cluster(chunkservers=1) as (supervisor, client):
        for run in range(runs):
            gap = await _one_run(supervisor, client, run, freeze)
            gaps.append(gap)
            print(f"  run {run + 1}/{runs}: {gap * 1000:.0f} ms", flush=True)
    return gaps


async def _one_run(supervisor: Supervisor, client: AsyncClient, run: int, freeze: bool) -> float:
    leader = await _all_masters_up(client)
    answers: list[float] = []
    stop = False
    await client.mkdir(f"/run{run}")

    async def write(writer: int) -> None:
        number = 0
        while not stop:
            await client.mkdir(f"/run{run}/{writer}-{number}")
            answers.append(time.monotonic())
            number += 1

    writers = [asyncio.create_task(write(number)) for number in range(WRITERS)]
    await _until(lambda: len(answers) >= ANSWERS_BEFORE)
    lost_at = time.monotonic()
    supervisor.signal(leader, signal.SIGSTOP if freeze else signal.SIGKILL)
    # Answers that were already on their way may still come in for a moment after the loss.
    await _until(lambda: sum(at > lost_at + 0.02 for at in answers) >= ANSWERS_AFTER)
    stop = True
    await asyncio.gather(*writers)
    around = [at for at in answers if at > lost_at - 1.0]
    gap = max(after - before for before, after in itertools.pairwise(around))
    if freeze:
        supervisor.signal(leader, signal.SIGCONT)
        supervisor.signal(leader, signal.SIGKILL)
    await supervisor.ended(leader)
    await supervisor.start_node(leader)
    return gap


async def _all_masters_up(client: AsyncClient) -> str:
    """Wait until the master lost in the last run follows again: with two of three there is no fail-over."""
    while True:
        found = await wait_until_ready(client.cluster_status, chunkservers=1)
        roles = sorted(master.role for master in found.masters)
        caught_up = all(master.lag_entries == 0 for master in found.masters)
        if roles == ["follower", "follower", "leader"] and caught_up:
            return found.leader
        await asyncio.sleep(0.05)


async def _until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 — a poll of 2 ms does not disturb what is measured
        await asyncio.sleep(0.002)


async def report(runs: int) -> None:
    for name, freeze in (("kill -9", False), ("SIGSTOP", True)):
        print(f"fail-over after {name} of the leader, {runs} runs, {WRITERS} writers")
        gaps = await measure(runs, freeze=freeze)
        print(f"{name}: median {statistics.median(gaps) * 1000:.0f} ms, max {max(gaps) * 1000:.0f} ms")
