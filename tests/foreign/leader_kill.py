"""Kill the leading master in the middle of a client's work. What they do: byte_clients, table_clients."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from gfs.client.blocking import Client
from gfs.client.client import AsyncClient
from gfs.errors import Unavailable
from tests.foreign.byte_clients import Work
from tests.foreign.conftest import ask_the_masters, leader_of, until_ready
from tests.processes.cluster import ProcessCluster
from tests.waiting import eventually

WORK_SECONDS = 120.0


class SmallSteps:
    """One small step after the other, in a thread of their own, until it is enough."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._enough = threading.Event()
        self.acknowledged = threading.Event()  # of the first step, or that there will be none
        self.done = 0
        self.longest_seconds = 0.0

    def end(self) -> None:
        """One more step begins after this, and is the last."""
        self._enough.set()

    def run(self) -> None:
        last = False
        try:
            while not last:
                last = self._enough.is_set()
                began = time.monotonic()
                self._work.step(f"small-{self.done}", big=False)
                self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
                self.done += 1
                self.acknowledged.set()
        finally:
            self.acknowledged.set()


def work_on_while_the_leader_is_killed(work: Work, cluster: ProcessCluster, client: Client) -> float:
    """Small steps before, during and after an election, and a big one in its midst; raises what they raise.

    A leader that is killed is followed by another within milliseconds. So that all have to wait for one, one
    of the two that are left votes only when nothing is done any more.
    Then what each step stored is compared with what the SDK finds. The killed master is back at the end.

    Returns: how many seconds the longest of the small steps took.
    """
    leader = leader_of(cluster)
    follower = next(master for master in cluster.masters if master != leader)
    small, big_begins = SmallSteps(work), threading.Event()

    def store_much() -> None:
        big_begins.set()
        work.step("big", big=True)

    try:
        with ThreadPoolExecutor(2) as pool:
            ended = [pool.submit(small.run)]
            try:
                assert small.acknowledged.wait(WORK_SECONDS)
                ended.append(pool.submit(store_much))
                assert big_begins.wait(WORK_SECONDS)
                cluster.processes[follower].send_signal(signal.SIGSTOP)
                cluster.kill([leader])
                until_it_stands_still(small, cluster)
                cluster.processes[follower].send_signal(signal.SIGCONT)
                leader_of(cluster, other_than=leader)
            finally:
                cluster.processes[follower].send_signal(signal.SIGCONT)
                small.end()
            for one in ended:
                one.result(WORK_SECONDS)
        for name in ("big", *(f"small-{number}" for number in range(small.done))):
            work.compare(client, name)
    finally:
        if cluster.processes[leader].poll() is not None:  # else it never came to the kill
            cluster.start([leader])
        until_ready(cluster)
    return small.longest_seconds


def until_it_stands_still(small: SmallSteps, cluster: ProcessCluster) -> None:
    """Nobody leads, and no step ends any more."""

    async def wait(client: AsyncClient) -> None:
        async def ask() -> Literal[True] | None:
            done = small.done
            try:
                leader = (await client.cluster_status()).leader
            except Unavailable:
                return None
            return True if not leader and small.done == done else None

        await eventually(ask, "nobody leads, and the work stands still")

    ask_the_masters(cluster, wait)
