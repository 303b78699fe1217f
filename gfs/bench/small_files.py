"""Small files: how many of 4 KiB are created and written, and opened and read, a second, many at a time.

Beside them stand the creates of the same round: one record of the operation log, where a file with a chunk
takes more for the chunk and for its length, and a version that three chunk servers have on their disks.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from gfs.bench.fixture import local_cluster
from gfs.bench.machine import cpu_seconds
from gfs.client.client import AsyncClient
from gfs.local.supervisor import Supervisor
from gfs.vocabulary import KIB

FILE_BYTES = 4 * KIB
IN_FLIGHT = 12
ROUNDS = 5
SECONDS = 3.0
REPLICAS = 3
KINDS = ("create", "write", "read")


class Load(msgspec.Struct, frozen=True):
    """`cpu_us`: CPU time of the client, all masters and all chunk servers, in microseconds a file."""

    per_second: float
    cpu_us: dict[str, float]


class Round(msgspec.Struct, frozen=True):
    create: Load
    write: Load
    read: Load


class _Bench:
    def __init__(
        self, supervisor: Supervisor, client: AsyncClient, *, in_flight: int, seconds: float
    ) -> None:
        self._client, self._in_flight, self._seconds = client, in_flight, seconds
        settings = supervisor.settings
        self._programs = {
            "client": [os.getpid()],
            "masters": [supervisor.process_id(node) for node in settings.masters],
            "chunk servers": [supervisor.process_id(node) for node in settings.chunkservers],
        }

    async def round(self, number: int) -> Round:
        client, content = self._client, os.urandom(FILE_BYTES)
        empty, folder = f"/small/{number}-empty", f"/small/{number}"
        for directory in (empty, folder):
            await client.mkdir(directory, parents=True)
        written = 0

        async def write(i: int) -> None:
            nonlocal written
            async with await client.open(f"{folder}/{i}", "xb") as file:
                await file.write(content)
            written += 1

        async def read(i: int) -> None:
            async with await client.open(f"{folder}/{i % written}", "rb") as file:
                assert await file.read() == content

        create_load = await self._load(lambda i: client.create(f"{empty}/{i}"))
        return Round(create_load, await self._load(write), await self._load(read))

    async def _load(self, do: Callable[[int], Awaitable[None]]) -> Load:
        """Completed calls a second of `do(number)`, as many at a time as are to be in flight."""
        numbers = iter(range(1 << 60))
        used, began, done = self._used(), time.monotonic(), 0

        async def loop() -> None:
            nonlocal done
            while time.monotonic() < began + self._seconds:
                await do(next(numbers))
                done += 1

        await asyncio.gather(*(loop() for _ in range(self._in_flight)))
        seconds = time.monotonic() - began
        cpu_us = {name: round(1e6 * (after - used[name]) / done, 1) for name, after in self._used().items()}
        return Load(round(done / seconds, 1), cpu_us)

    def _used(self) -> dict[str, float]:
        return {name: sum(map(cpu_seconds, processes)) for name, processes in self._programs.items()}


async def measure(
    *,
    in_flight: int = IN_FLIGHT,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    say: Callable[[str], None] = print,
) -> list[Round]:
    """Measure a fresh cluster of three masters and three chunk servers; `say` is told of each round."""
    measured: list[Round] = []
    async with local_cluster(chunkservers=REPLICAS) as (supervisor, client):
        bench = _Bench(supervisor, client, in_flight=in_flight, seconds=seconds)
        for number in range(rounds):
            measured.append(await bench.round(number))
            told = ", ".join(f"{kind} {getattr(measured[-1], kind).per_second:.0f}/s" for kind in KINDS)
            say(f"  round {number + 1} of {rounds}: {told}")
    return measured


async def report(*, in_flight: int = IN_FLIGHT, rounds: int = ROUNDS, seconds: float = SECONDS) -> None:
    """Measure and print."""
    measured = await measure(in_flight=in_flight, rounds=rounds, seconds=seconds)
    print(
        f"{FILE_BYTES} bytes a file, {REPLICAS} replicas, {in_flight} in flight, medians of {rounds} rounds:"
    )
    for kind, what in zip(KINDS, ("create, empty", "create and write", "open and read"), strict=True):
        print(f"  {what}: {_in_words([getattr(one, kind) for one in measured])}")


def _in_words(loads: Sequence[Load]) -> str:
    rates = [load.per_second for load in loads]
    used = {name: statistics.median(load.cpu_us[name] for load in loads) for name in loads[0].cpu_us}
    parts = ", ".join(f"{name} {one:.0f}" for name, one in used.items())
    return (
        f"{statistics.median(rates):.0f}/s ({min(rates):.0f} … {max(rates):.0f}), "
        f"{sum(used.values()):.0f} µs CPU a file ({parts})"
    )
