"""A queue on record append with real programs: producers, primary and leader are killed, and the consumer
gets every record once (GFS §2.1, §3.3; I9)."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from gfs.client.client import AsyncClient
from tests.paper.boxes import keeps
from tests.processes.cluster import ProcessCluster, eventually
from tests.programs.record_producer import payload

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

PRODUCERS, RECORDS = 8, 300
KILLED = ("p0", "p1")
QUEUE = "/queue"


class Noted(NamedTuple):
    """A record as a program has noted it."""

    name: str
    number: int
    offset: int


class Programs:
    """The producers and the consumer, and what they have noted in files of their own."""

    def __init__(self, cluster: ProcessCluster, directory: Path) -> None:
        self._addresses, self._directory = ",".join(cluster.addresses), directory
        self.producers: dict[str, subprocess.Popen[bytes]] = {}
        self.consumer = self._start("record_consumer", str(directory / "consumed"))

    def produce(self, name: str) -> None:
        self.producers[name] = self._start(
            "record_producer", name, str(RECORDS), str(self._directory / f"{name}.acknowledged")
        )

    def acknowledged(self) -> list[Noted]:
        return [
            Noted(name, *map(int, line.split()))
            for name in self.producers
            for line in self._lines(f"{name}.acknowledged")
        ]

    def consumed(self) -> list[Noted]:
        lines = (line.split() for line in self._lines("consumed"))
        return [Noted(name, int(number), int(offset)) for name, number, offset in lines]

    def stop(self) -> None:
        for process in (self.consumer, *self.producers.values()):
            process.kill()
            process.wait(40)

    def _start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"tests.programs.{program}", self._addresses, QUEUE, *arguments]
        return subprocess.Popen(command)

    def _lines(self, file: str) -> list[str]:
        """Without the last one, when it is being written."""
        try:
            return (self._directory / file).read_text().rpartition("\n")[0].splitlines()
        except FileNotFoundError:
            return []


async def primary_of(cluster: ProcessCluster, client: AsyncClient) -> str:
    places = await client.chunks(QUEUE)
    nodes = cluster.layout.settings.chunkservers
    return next(name for name in nodes if nodes[name].control == places[-1].replicas[0].control)


@keeps("hundreds-of-appenders", "record-append")
async def test_a_queue_loses_and_doubles_no_record_when_producers_primary_and_leader_are_killed(
    tmp_path: Path,
) -> None:
    """Many producers on many machines append to one file that is a queue, while a consumer follows it."""
    cluster = ProcessCluster(tmp_path / "cluster", masters=3, chunkservers=4)
    cluster.start()
    client = await cluster.connect()
    try:
        await cluster.ready(client)
        await client.create(QUEUE)
        programs = Programs(cluster, tmp_path)
        try:
            await produce_while_programs_die(cluster, client, programs)
            await check(client, programs)
        finally:
            programs.stop()
    finally:
        await client.close()
        cluster.stop()


async def produce_while_programs_die(
    cluster: ProcessCluster, client: AsyncClient, programs: Programs
) -> None:
    for number in range(PRODUCERS):
        programs.produce(f"p{number}")

    async def reach(total: int) -> None:
        async def reached() -> bool | None:
            assert programs.consumer.poll() is None, "the consumer has ended"
            return len(programs.acknowledged()) >= total or None

        await eventually(reached, f"{total} records are acknowledged")

    await reach(200)
    programs.producers[KILLED[0]].kill()
    primary = await primary_of(cluster, client)
    cluster.kill([primary])
    await reach(600)
    leader = (await client.cluster_status()).leader
    cluster.kill([leader])
    programs.producers[KILLED[1]].kill()
    await reach(1200)
    cluster.start([primary, leader])
    for name, process in programs.producers.items():

        async def ended(process: subprocess.Popen[bytes] = process) -> int | None:
            return process.poll()

        status = await eventually(ended, f"{name} is done")
        assert status == (-9 if name in KILLED else 0), name


async def check(client: AsyncClient, programs: Programs) -> None:
    acknowledged = set(programs.acknowledged())

    async def all_consumed() -> list[Noted] | None:
        found = programs.consumed()
        return found if acknowledged <= set(found) else None

    found = await eventually(all_consumed, "the consumer has every acknowledged record, where it was told")
    assert len({(noted.name, noted.number) for noted in found}) == len(found), "a record came twice"
    counts = Counter(noted.name for noted in acknowledged)
    assert all(counts[name] == RECORDS for name in programs.producers if name not in KILLED)
    assert all(counts[name] < RECORDS for name in KILLED), "they were killed too late to be a test"
    # Each that was killed may have had one record under way.
    left = Counter(noted.name for noted in set(found) - acknowledged)
    assert set(left) <= set(KILLED) and all(count == 1 for count in left.values()), left
    # The file itself has no other records than the consumer got: none comes later.
    records = [record async for record in client.records(QUEUE)]
    assert {record.offset_bytes: record.payload for record in records} == {
        noted.offset: payload(noted.name, noted.number) for noted in found
    }
    assert len(records) == len(found)
