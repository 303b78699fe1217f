"""A queue on record append with real programs: producers, primary and leader are killed, no record is lost or
doubled (GFS §2.1, §3.3; I9)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from gfs.client.client import AsyncClient
from gfs.client.records import Record
from tests.paper.boxes import keeps
from tests.processes.cluster import ProcessCluster, eventually
from tests.programs.record_producer import payload

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

PRODUCERS, RECORDS = 8, 300
QUEUE = "/queue"


class Producers:
    def __init__(self, cluster: ProcessCluster, directory: Path) -> None:
        self._cluster, self._directory = cluster, directory
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        arguments = [",".join(self._cluster.addresses), QUEUE, name, str(RECORDS), str(self._notes(name))]
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", "tests.programs.record_producer", *arguments]
        )

    def acknowledged(self, name: str) -> dict[int, int]:
        """Offsets by number, as the producer has noted them."""
        try:
            lines = self._notes(name).read_text().splitlines()
        except FileNotFoundError:
            return {}
        pairs = (line.split() for line in lines)
        return {int(pair[0]): int(pair[1]) for pair in pairs if len(pair) == 2}

    def total(self) -> int:
        return sum(len(self.acknowledged(name)) for name in self.processes)

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait(40)

    def _notes(self, name: str) -> Path:
        return self._directory / f"{name}.acknowledged"


async def follow(client: AsyncClient, found: list[Record]) -> None:
    async for record in client.records(QUEUE, follow=True):
        found.append(record)


@keeps("hundreds-of-appenders", "record-append")
async def test_a_queue_loses_and_doubles_no_record_when_producers_primary_and_leader_are_killed(
    tmp_path: Path,
) -> None:
    """Many producers on many machines append to one file that is a queue, while a consumer follows it."""
    cluster = ProcessCluster(tmp_path / "cluster", masters=3, chunkservers=4)
    cluster.start()
    producers = Producers(cluster, tmp_path)
    client = await cluster.connect()
    found: list[Record] = []
    try:
        await cluster.ready(client)
        await client.create(QUEUE)
        following = asyncio.create_task(follow(client, found))
        for number in range(PRODUCERS):
            producers.start(f"p{number}")

        async def reach(total: int) -> None:
            async def reached() -> bool | None:
                assert not following.done()
                return producers.total() >= total or None

            await eventually(reached, f"{total} records are acknowledged")

        await reach(200)
        producers.processes["p0"].kill()
        places = await client.chunks(QUEUE)
        nodes = cluster.layout.settings.chunkservers
        primary = next(name for name in nodes if nodes[name].control == places[-1].replicas[0].control)
        cluster.kill([primary])
        await reach(600)
        leader = (await client.cluster_status()).leader
        cluster.kill([leader])
        await reach(1200)
        cluster.start([primary, leader])
        for name, process in producers.processes.items():
            if name != "p0":

                async def ended(process: subprocess.Popen[bytes] = process) -> int | None:
                    return process.poll()

                assert await eventually(ended, f"{name} is done") == 0
        everything = await eventually(
            lambda: complete(producers, found), "the follower has seen every record"
        )
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        read = [record async for record in client.records(QUEUE)]
        assert sorted(read) == sorted(found)
        check(producers, everything)
    finally:
        await client.close()
        producers.stop()
        cluster.stop()


async def complete(producers: Producers, found: list[Record]) -> list[Record] | None:
    seen = {record.offset_bytes for record in found}
    expected = {offset for name in producers.processes for offset in producers.acknowledged(name).values()}
    return list(found) if expected <= seen else None


def check(producers: Producers, found: list[Record]) -> None:
    by_payload = {record.payload: record.offset_bytes for record in found}
    assert len(by_payload) == len(found)
    for name in producers.processes:
        acknowledged = producers.acknowledged(name)
        for number, offset in acknowledged.items():
            assert by_payload.pop(payload(name, number)) == offset
        if name != "p0":
            assert len(acknowledged) == RECORDS
    # The one that was killed may have had one record under way.
    assert len(by_payload) <= 1 and all(left.startswith(b"p0-") for left in by_payload)
