"""Kill the leading master in the middle of a client's work. What they do: byte_clients, table_clients."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from gfs.client.blocking import Client
from tests.foreign.byte_clients import Work
from tests.foreign.conftest import leader_of, until_ready
from tests.processes.cluster import ProcessCluster

BIG_STEP = 1  # it is under way when the leader dies
WORK_SECONDS = 120.0


class Pace:
    """One step after the other, in a thread of its own, until it is enough."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._enough = threading.Event()
        self.acknowledged = threading.Event()  # of the first step, or that there will be none
        self.steps = 0
        self.longest_seconds = 0.0

    def end(self) -> None:
        """One more step begins after this, and is the last."""
        self._enough.set()

    def run(self) -> None:
        try:
            while True:
                last = self._enough.is_set() and self.steps > BIG_STEP
                began = time.monotonic()
                self._work.step(self.steps, big=self.steps == BIG_STEP)
                self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
                self.steps += 1
                self.acknowledged.set()
                if last:
                    return
        finally:
            self.acknowledged.set()


def work_on_while_the_leader_is_killed(work: Work, cluster: ProcessCluster, client: Client) -> Pace:
    """Steps before, during and after an election; whatever one of them raises, this raises.

    Then what each step stored is compared with what the SDK finds. The killed master is back at the end.
    """
    leader = leader_of(cluster)
    pace = Pace(work)
    try:
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(pace.run)
            try:
                assert pace.acknowledged.wait(WORK_SECONDS)
                cluster.kill([leader])
                leader_of(cluster, other_than=leader)
            finally:
                pace.end()
            ended.result(WORK_SECONDS)
        for step in range(pace.steps):
            work.compare(client, step)
    finally:
        cluster.start([leader])
        until_ready(cluster)
    return pace
