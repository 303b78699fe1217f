"""Clients of one workload that work side by side, each doing one thing after the other. Knows no verb."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from gfs.client.client import AsyncClient
from gfs.errors import GfsError
from gfs.verification.recorder import RecordedProcess, Recorder
from gfs.verification.subject import Subject

PAUSE_SECONDS = 0.05  # at most, between two operations of one client
REFUSED_SECONDS = 0.3  # at most, after one that a cluster could not do: nobody hammers one that is hurt
_ANSWERS = (2, 3, 4)  # exit statuses of errors that only say what names there are


class Worker:
    """One client, its recorded process, and chance of its own."""

    def __init__(self, number: int, client: AsyncClient, process: RecordedProcess, chance: random.Random):
        self.number, self.client, self.process, self.chance = number, client, process, chance


async def workers(
    subject: Subject, recorder: Recorder, workload: str, count: int, chance: random.Random
) -> list[Worker]:
    made = []
    for number in range(count):
        name = f"{workload}-{chance.getrandbits(16):04x}-{number}"
        client = await subject.client(name)
        process = recorder.process(workload)
        made.append(Worker(number, client, process, random.Random(chance.getrandbits(64))))
    return made


async def work(
    subject: Subject,
    crowd: Sequence[Worker],
    one: Callable[[Worker], Awaitable[object]],
    ended: Callable[[], bool],
    *,
    pause_seconds: float = PAUSE_SECONDS,
) -> None:
    """Each worker does `one` again and again until `ended()`. What the cluster refuses is not raised."""

    async def loop(worker: Worker) -> None:
        while not ended():
            try:
                await one(worker)
            except GfsError as error:
                if error.exit_status not in _ANSWERS:
                    await subject.sleep(worker.chance.uniform(0, REFUSED_SECONDS))
            await subject.sleep(worker.chance.uniform(0, pause_seconds))

    await asyncio.gather(*(loop(worker) for worker in crowd))


async def close(crowd: Sequence[Worker]) -> None:
    for worker in crowd:
        await worker.client.close()
