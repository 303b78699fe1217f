"""What tokens, capabilities, the audit log and TLS cost: the same calls of clusters with and without them.

Rounds take turns, so that a busy machine slows all sides. The figure is CPU time a call, of all programs of
a cluster, client included; rates are told beside it.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack

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
MASTERS = 3
PLAIN = "plain"
SIDES = ((PLAIN, False, False), ("tokens", True, False), ("tokens and TLS", True, True))
TARGET_PERCENT = 5.0  # of a namespace call

Work = Callable[[int], Awaitable[object]]


class Cost(msgspec.Struct, frozen=True):
    """Medians of all rounds. `percent`: more CPU time a call than in the cluster without any of it."""

    kind: str
    side: str
    us: float
    per_second: float
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
    """Measure fresh clusters of three masters and one chunk server; `say` is told of each round."""
    machine = describe()
    async with AsyncExitStack() as stack:
        sides: dict[str, _Side] = {}
        for name, tokens, tls in SIDES:
            programs, client = await stack.enter_async_context(
                local_cluster(masters=MASTERS, chunkservers=1, tokens=tokens, tls=tls)
            )
            sides[name] = _Side(programs, client, seconds=seconds)
        turns = list(sides.values())
        for number in range(rounds):
            for side in turns:
                await side.round(number)
            turns = [*turns[1:], turns[0]]
            say(f"  round {number + 1} of {rounds}: {', '.join(map(_in_words, _costs(sides)))}")
    return Report(machine=machine, rounds=rounds, seconds=seconds, costs=_costs(sides))


def in_words(found: Report) -> str:
    lines = [
        f"{found.machine.cores} cores of {found.machine.processor}, Python {found.machine.python}; "
        f"load average {found.machine.load} before",
        f"CPU time a call of all programs, three masters, medians of {found.rounds} rounds; namespace calls "
        f"may cost {TARGET_PERCENT:.0f} % more",
    ]
    lines += [
        f"  {cost.kind:<7}{cost.side:<16}{cost.us:8.0f} µs  {cost.per_second:8.0f}/s"
        + (f"  {cost.percent:+.1f} %" if cost.side != PLAIN else "")
        for cost in found.costs
    ]
    return "\n".join(lines)


def _costs(sides: Mapping[str, _Side]) -> list[Cost]:
    plain = sides[PLAIN]
    return [
        Cost(
            kind=kind,
            side=name,
            us=_median(side.cpu_us[kind]),
            per_second=_median(side.per_second[kind]),
            percent=_median(
                [100 * (b / a - 1) for a, b in zip(plain.cpu_us[kind], side.cpu_us[kind], strict=True)]
            ),
        )
        for kind in KINDS
        for name, side in sides.items()
    ]


def _in_words(cost: Cost) -> str:
    return f"{cost.kind} {cost.side} {cost.us:.0f} µs"


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 2)
