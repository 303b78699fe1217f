"""What tokens, capabilities and the audit log cost: the same calls of two clusters, with and without them.

Rounds take turns, so that a busy machine slows both sides. The figure is CPU time a call, of all programs of
a cluster, client included; rates are told beside it.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from gfs.bench.fixture import local_cluster
from gfs.bench.machine import Machine, cpu_seconds, describe
from gfs.client.client import AsyncClient
from gfs.local.supervisor import Supervisor

IN_FLIGHT = 64
DATA_IN_FLIGHT = 4
ROUNDS = 5
SECONDS = 1.0
READ_BYTES = 64 * 2**10
KINDS = ("create", "stat", "read", "write")
TARGET_PERCENT = 5.0  # of a namespace call

Work = Callable[[int], Awaitable[object]]


class Cost(msgspec.Struct, frozen=True):
    """Medians of all rounds. `percent`: more CPU time a call with security than without."""

    kind: str
    plain_us: float
    secured_us: float
    plain_per_second: float
    secured_per_second: float
    percent: float


class Report(msgspec.Struct, frozen=True):
    machine: Machine
    rounds: int
    seconds: float
    costs: list[Cost]


class _Side:
    def __init__(self, supervisor: Supervisor, client: AsyncClient, *, seconds: float) -> None:
        self._client, self._seconds = client, seconds
        nodes = [*supervisor.settings.masters, *supervisor.settings.chunkservers]
        self._processes = [supervisor.process_id(node) for node in nodes]
        self.cpu_us: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.per_second: dict[str, list[float]] = {kind: [] for kind in KINDS}

    async def round(self, number: int) -> None:
        client, folder = self._client, f"/s/{number}"
        await client.mkdir(folder, parents=True)
        content = bytes(READ_BYTES)
        await client.write_bytes(f"{folder}/read", content)
        await self._load("create", lambda i: client.create(f"{folder}/{i}"), IN_FLIGHT)
        await self._load("stat", lambda _: client.stat(f"{folder}/read"), IN_FLIGHT)
        await self._load("read", lambda _: client.read_bytes(f"{folder}/read"), DATA_IN_FLIGHT)
        await self._load("write", lambda i: client.write_bytes(f"{folder}/w{i}", content), DATA_IN_FLIGHT)

    async def _load(self, kind: str, do: Work, in_flight: int) -> None:
        numbers = iter(range(1 << 60))
        used, began = self._used(), time.monotonic()
        ends, done = began + self._seconds, 0

        async def loop() -> None:
            nonlocal done
            while time.monotonic() < ends:
                await do(next(numbers))
                done += 1

        await asyncio.gather(*(loop() for _ in range(in_flight)))
        self.per_second[kind].append(done / (time.monotonic() - began))
        self.cpu_us[kind].append(1e6 * (self._used() - used) / done)

    def _used(self) -> float:
        return cpu_seconds(os.getpid()) + sum(cpu_seconds(process) for process in self._processes)


async def measure(
    *, rounds: int = ROUNDS, seconds: float = SECONDS, say: Callable[[str], None] = print
) -> Report:
    """Measure two fresh clusters of one master and one chunk server; `say` is told of each round."""
    machine = describe()
    async with (
        local_cluster(masters=1, chunkservers=1) as (plain_programs, plain_client),
        local_cluster(masters=1, chunkservers=1, tokens=True) as (programs, client),
    ):
        plain = _Side(plain_programs, plain_client, seconds=seconds)
        secured = _Side(programs, client, seconds=seconds)
        for number in range(rounds):
            for side in (plain, secured) if number % 2 == 0 else (secured, plain):
                await side.round(number)
            say(f"  round {number + 1} of {rounds}: {', '.join(map(_in_words, _costs(plain, secured)))}")
    return Report(machine=machine, rounds=rounds, seconds=seconds, costs=_costs(plain, secured))


def in_words(found: Report) -> str:
    lines = [
        f"{found.machine.cores} cores of {found.machine.processor}, Python {found.machine.python}; "
        f"load average {found.machine.load} before",
        f"CPU time a call of all programs, medians of {found.rounds} rounds; namespace calls may cost "
        f"{TARGET_PERCENT:.0f} % more",
    ]
    lines += [
        f"  {cost.kind}: {cost.plain_us:.0f} µs without, {cost.secured_us:.0f} µs with "
        f"({cost.percent:+.1f} %); "
        f"{cost.plain_per_second:.0f}/s and {cost.secured_per_second:.0f}/s"
        for cost in found.costs
    ]
    return "\n".join(lines)


def _costs(plain: _Side, secured: _Side) -> list[Cost]:
    return [
        Cost(
            kind=kind,
            plain_us=_median(plain.cpu_us[kind]),
            secured_us=_median(secured.cpu_us[kind]),
            plain_per_second=_median(plain.per_second[kind]),
            secured_per_second=_median(secured.per_second[kind]),
            percent=_median(
                [100 * (b / a - 1) for a, b in zip(plain.cpu_us[kind], secured.cpu_us[kind], strict=True)]
            ),
        )
        for kind in KINDS
    ]


def _in_words(cost: Cost) -> str:
    return f"{cost.kind} {cost.percent:+.1f} %"


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 2)
