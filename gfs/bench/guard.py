"""Has anything become dearer since the baseline? CPU time of each kind of work, beside the round's yardstick.

Rates jump with whatever else a machine does; the CPU time of a call, as a multiple of that of an echo or of
the bare chain of the same round, hardly does. It says nothing of waiting: `failover`, `io` and `metadata` do.
"""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path

import msgspec

from gfs.bench import limit
from gfs.bench.fixture import local_cluster
from gfs.bench.machine import Machine, cpu_seconds, describe
from gfs.client.client import AsyncClient
from gfs.errors import ConfigInvalid, NotFound
from gfs.local.supervisor import Supervisor
from gfs.messages.base import Ack, Ping
from gfs.transport.websocket_client import WebSocketCaller
from gfs.vocabulary import KIB, MIB, Address

BASELINE = Path(__file__).with_name("baseline.json")
ROUNDS = 5
TOLERANCE_PERCENT = 25.0
FILE_BYTES = 128 * MIB
CALL_BYTES = 4 * MIB
SMALL_BYTES = 4 * KIB
RECORD_BYTES = 1 * KIB
CALLS = {"create": 3000, "stat": 5000, "append": 5000, "small write": 300, "small read": 600}  # of a round
ECHOES = 40_000
IN_FLIGHT = 64

Say = Callable[[str], None]


class Baseline(msgspec.Struct, frozen=True):
    """`costs`: multiples of the yardstick, medians of the rounds; lower is better."""

    machine: Machine
    costs: dict[str, float]


class Comparison(msgspec.Struct, frozen=True):
    """`change_percent`: dearer above zero, cheaper below; None where the baseline has no such work."""

    work: str
    baseline: float | None
    now: float
    change_percent: float | None
    is_dearer: bool


class Report(msgspec.Struct, frozen=True):
    """`held`: nothing is dearer by more than `tolerance_percent`."""

    machine: Machine
    tolerance_percent: float
    held: bool
    compared: list[Comparison]


class _Bench:
    def __init__(self, supervisor: Supervisor, client: AsyncClient, leader: Address) -> None:
        self._client, self._leader = client, leader
        settings = supervisor.settings
        nodes = (*settings.masters, *settings.chunkservers)
        self._processes = [os.getpid(), *(supervisor.process_id(node) for node in nodes)]
        self._caller = WebSocketCaller(role="bench", node="bench")

    async def round(self, number: int) -> dict[str, float]:
        """What each kind of work has cost, in yardsticks."""
        client, folder = self._client, f"/guard/{number}"
        await client.mkdir(folder, parents=True)
        small, record = os.urandom(SMALL_BYTES), os.urandom(RECORD_BYTES)
        await client.create(f"{folder}/log")
        works: dict[str, Callable[[int], Awaitable[object]]] = {
            "create": lambda i: client.create(f"{folder}/empty-{i}"),
            "stat": lambda i: client.stat(f"{folder}/empty-{i % CALLS['create']}"),
            "append": lambda _: client.record_append(f"{folder}/log", record, framed=True),
            "small write": lambda i: client.write_bytes(f"{folder}/small-{i}", small),
            "small read": lambda i: client.read_bytes(f"{folder}/small-{i % CALLS['small write']}"),
        }
        echo = await self._cost(lambda _: self._echo(), ECHOES)
        costs = {work: await self._cost(do, CALLS[work]) / echo for work, do in works.items()}
        _, chain = await asyncio.to_thread(limit.measure_write, FILE_BYTES)
        _, bare = await asyncio.to_thread(limit.measure_read, FILE_BYTES)
        gib = FILE_BYTES / 2**30
        costs["write"] = await self._cost(lambda _: self._write(f"{folder}/file"), 1) / gib / chain
        costs["read"] = await self._cost(lambda _: self._read(f"{folder}/file"), 1) / gib / bare
        await client.delete(f"{folder}/file")
        return costs

    async def close(self) -> None:
        await self._caller.close()

    async def _cost(self, do: Callable[[int], Awaitable[object]], calls: int) -> float:
        """CPU seconds a call, of all programs."""
        numbers, used = count(), self._used()

        async def lane() -> None:
            while (number := next(numbers)) < calls:
                await do(number)

        await asyncio.gather(*(lane() for _ in range(min(IN_FLIGHT, calls))))
        return (self._used() - used) / calls

    async def _echo(self) -> None:
        await self._caller.call(self._leader, Ping(), Ack, deadline_seconds=10.0)

    async def _write(self, path: str) -> None:
        piece = os.urandom(CALL_BYTES)
        async with await self._client.open(path, "xb") as file:
            for _ in range(FILE_BYTES // CALL_BYTES):
                await file.write(piece)

    async def _read(self, path: str) -> None:
        memory, seen = bytearray(CALL_BYTES), 0
        async with await self._client.open(path, "rb") as file:
            while got := await file.readinto(memory):
                seen += got
        assert seen == FILE_BYTES, seen

    def _used(self) -> float:
        return sum(map(cpu_seconds, self._processes))


async def measure(*, rounds: int = ROUNDS, say: Say = print) -> Baseline:
    """What work costs now, on a fresh cluster of three masters and three chunk servers."""
    machine, found = describe(), list[dict[str, float]]()
    async with local_cluster() as (supervisor, client):
        leader = Address(supervisor.settings.masters[(await client.cluster_status()).leader].control)
        bench = _Bench(supervisor, client, leader)
        for number in range(rounds):
            found.append(await bench.round(number))
            told = ", ".join(f"{work} {cost:.2f}" for work, cost in found[-1].items())
            say(f"  round {number + 1} of {rounds}: {told}")
        await bench.close()
    costs = {work: round(statistics.median(one[work] for one in found), 3) for work in found[0]}
    return Baseline(machine=machine, costs=costs)


def read(path: Path = BASELINE) -> Baseline:
    """Raises: NotFound, ConfigInvalid."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Baseline)
    except FileNotFoundError as error:
        raise NotFound(
            f"there is no baseline in {path}", hint="'gfs bench guard --write' makes one."
        ) from error
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigInvalid(f"{path} cannot be read as a baseline: {error}") from error


def write(baseline: Baseline, path: Path = BASELINE) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(baseline)) + b"\n")


def compare(now: Baseline, baseline: Baseline, *, tolerance_percent: float = TOLERANCE_PERCENT) -> Report:
    compared = []
    for work, cost in now.costs.items():
        before = baseline.costs.get(work)
        change = None if not before else round(100 * (cost / before - 1), 1)
        is_dearer = change is not None and change > tolerance_percent
        compared.append(Comparison(work, before, cost, change, is_dearer))
    held = not any(one.is_dearer for one in compared)
    return Report(now.machine, tolerance_percent, held, compared)


def in_words(found: Report) -> str:
    lines = [
        f"CPU time of each kind of work, multiples of its yardstick; load average {found.machine.load} before"
    ]
    for one in found.compared:
        if one.change_percent is None:
            lines.append(f"  {one.work:<12}{one.now:8.2f}  the baseline has none")
            continue
        verdict = f"dearer by more than {found.tolerance_percent:.0f} %" if one.is_dearer else "held"
        change = f"{one.baseline:8.2f} before  {one.change_percent:+6.1f} %"
        lines.append(f"  {one.work:<12}{one.now:8.2f}  {change}  {verdict}")
    return "\n".join(lines)
