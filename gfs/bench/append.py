"""Record append, exactly once: 1 KiB records to one file with three replicas, all read back at the end."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from gfs import aio
from gfs.bench.fixture import local_cluster
from gfs.client.client import AsyncClient
from gfs.transport.event_loop import run

PAYLOAD_BYTES = 1024
SECONDS = 4.0
APPENDERS = 8
OUTSTANDING = 64


async def append_for(client: AsyncClient, path: str, tasks: int, writer: int) -> tuple[int, float]:
    """Append from `tasks` tasks at once: how many records were acknowledged, in how many seconds."""
    began = time.monotonic()
    counts = [0] * tasks

    async def append(task: int) -> None:
        head = f"{writer}-{task}-"
        while time.monotonic() - began < SECONDS:
            payload = f"{head}{counts[task]}-".encode().ljust(PAYLOAD_BYTES, b".")
            await client.record_append(path, payload, framed=True)
            counts[task] += 1

    await asyncio.gather(*(append(task) for task in range(tasks)))
    return sum(counts), time.monotonic() - began


def append_alone(masters: Sequence[str], path: str, writer: int) -> tuple[int, float]:
    """In a process of its own: one appender that waits for each acknowledgement."""

    async def work() -> tuple[int, float]:
        async with await aio.connect(masters) as client:
            return await append_for(client, path, 1, writer)

    return run(work(), loop="auto")


async def check(client: AsyncClient, path: str, acknowledged: int) -> float:
    """Read everything back: each record once. Returns records/s of the reader."""
    began = time.monotonic()
    found = Counter([record.payload async for record in client.records(path)])
    assert found.total() == len(found) == acknowledged, (found.total(), len(found), acknowledged)
    return acknowledged / (time.monotonic() - began)


async def report() -> None:
    async with local_cluster(chunkservers=3) as (supervisor, client):
        masters = [node.control for node in supervisor.settings.masters.values()]
        for path in ("/processes", "/tasks", "/outstanding"):
            await client.create(path)
        loop = asyncio.get_running_loop()
        with ProcessPoolExecutor(APPENDERS, mp_context=multiprocessing.get_context("spawn")) as pool:
            parts = await asyncio.gather(
                *(
                    loop.run_in_executor(pool, append_alone, masters, "/processes", writer)
                    for writer in range(APPENDERS)
                )
            )
        count, rate = sum(n for n, _ in parts), sum(n / seconds for n, seconds in parts)
        read = await check(client, "/processes", count)
        print(
            f"{APPENDERS} processes, one record each at a time: {rate:.0f} records/s (read back {read:.0f}/s)"
        )
        for path, tasks in (("/tasks", APPENDERS), ("/outstanding", OUTSTANDING)):
            count, seconds = await append_for(client, path, tasks, 0)
            read = await check(client, path, count)
            print(
                f"one client, {tasks} outstanding: {count / seconds:.0f} records/s (read back {read:.0f}/s)"
            )
