"""Creates and linearizable stats a second, each as a share of the echo rate of the same round; and one create
at a time beside what it is made of at least, one sync of the disk and one round trip.

Every round measures all of them one after the other, so that a machine that is busy, or slow, for a while
slows both sides of each ratio.
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
from gfs.bench.plot import Mark, curve_chart
from gfs.client.client import AsyncClient
from gfs.errors import Unavailable
from gfs.local.supervisor import Supervisor
from gfs.messages.base import Ack, Ping
from gfs.transport.websocket_client import WebSocketCaller
from gfs.vocabulary import Address, MasterId

IN_FLIGHT = 256
ROUNDS = 5
SECONDS = 2.0
SINGLES = 200  # of each kind, in every round
SYNCED_BYTES = 256  # what the log writes for one create, about
TARGETS = {"create": 25, "stat": 50}  # per cent of the echo rate

Work = Callable[[int], Awaitable[object]]


class Load(msgspec.Struct, frozen=True):
    """One kind of call with many in flight. `cpu_us`: CPU time of each program, in microseconds a call."""

    per_second: float
    cpu_us: dict[str, float]


class Round(msgspec.Struct, frozen=True):
    """Single operations are medians, in microseconds."""

    echo: Load
    create: Load
    stat: Load
    round_trip_us: float
    fdatasync_us: float
    create_us: float

    @property
    def single_ratio(self) -> float:
        return self.create_us / (self.fdatasync_us + self.round_trip_us)


class Summary(msgspec.Struct, frozen=True):
    """Of one figure over all rounds."""

    median: float
    lowest: float
    highest: float


class Report(msgspec.Struct, frozen=True):
    """Shares are per cent of the echo rate of the same round; `single_create` is a multiple of one bare
    fdatasync and one bare round trip of the same round."""

    in_flight: int
    seconds: float
    machine: Machine
    create_share: Summary
    stat_share: Summary
    single_create: Summary
    rounds: list[Round]


class MetadataBench:
    """A cluster under measurement, and what its programs have used."""

    def __init__(
        self, supervisor: Supervisor, client: AsyncClient, leader: MasterId, *, in_flight: int, seconds: float
    ) -> None:
        self._client, self._in_flight, self._seconds = client, in_flight, seconds
        self._leader = Address(supervisor.settings.masters[leader].control)
        self._caller = WebSocketCaller(role="bench", node="bench")
        self._sync_file = os.path.join(supervisor.layout.directory, "bare-sync")
        self._supervisor = supervisor
        followers = sorted(set(supervisor.settings.masters) - {leader})
        masters = {f"follower {number}": follower for number, follower in enumerate(followers, start=1)}
        self._masters = {"leader": leader, **masters}

    async def round(self, number: int) -> Round:
        client, folder = self._client, f"/m/{number}"
        await client.mkdir(folder, parents=True)
        await client.create(f"{folder}/one")
        echo = await self._load(lambda _: self._echo())
        create = await self._load(lambda i: client.create(f"{folder}/{i}"))
        stat = await self._load(lambda _: client.stat(f"{folder}/one"))
        trips, syncs, creates = await self._singles(folder)
        return Round(echo, create, stat, trips, syncs, creates)

    async def close(self) -> None:
        await self._caller.close()

    async def _echo(self) -> None:
        await self._caller.call(self._leader, Ping(), Ack, deadline_seconds=10.0)

    async def _load(self, do: Work) -> Load:
        """Completed calls a second of `do(number)`, as many at a time as are to be in flight."""
        numbers = iter(range(1 << 60))
        used = self._used()
        began = time.monotonic()
        ends = began + self._seconds
        done = 0

        async def loop() -> None:
            nonlocal done
            while time.monotonic() < ends:
                await do(next(numbers))
                done += 1

        await asyncio.gather(*(loop() for _ in range(self._in_flight)))
        seconds = time.monotonic() - began
        cpu_us = {name: round(1e6 * (after - used[name]) / done, 1) for name, after in self._used().items()}
        return Load(round(done / seconds, 1), cpu_us)

    async def _singles(self, folder: str) -> tuple[float, float, float]:
        """Medians in microseconds of a round trip, a bare sync and a create, each alone and in turns."""
        trips: list[float] = []
        syncs: list[float] = []
        creates: list[float] = []
        descriptor = os.open(self._sync_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            for number in range(SINGLES):
                trips.append(await _seconds(self._echo()))
                began = time.perf_counter()
                os.write(descriptor, bytes(SYNCED_BYTES))
                os.fdatasync(descriptor)
                syncs.append(time.perf_counter() - began)
                creates.append(await _seconds(self._client.create(f"{folder}/single-{number}")))
        finally:
            os.close(descriptor)
        return _median_us(trips), _median_us(syncs), _median_us(creates)

    def _used(self) -> dict[str, float]:
        """Raises: Unavailable when a master has ended."""
        used = {"client": cpu_seconds(os.getpid())}
        for name, master in self._masters.items():
            try:
                used[name] = cpu_seconds(self._supervisor.process_id(master))
            except FileNotFoundError as error:
                words = self._supervisor.last_words(master)
                raise Unavailable(f"master {master} ended while it was measured: {words}") from error
        return used


async def measure(
    *,
    in_flight: int = IN_FLIGHT,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    say: Callable[[str], None] = print,
) -> Report:
    """Measure a fresh cluster of three masters on this machine; `say` is told of each round."""
    machine = describe()
    measured: list[Round] = []
    async with local_cluster(chunkservers=1) as (supervisor, client):
        leader = (await client.cluster_status()).leader
        bench = MetadataBench(supervisor, client, leader, in_flight=in_flight, seconds=seconds)
        for number in range(rounds):
            measured.append(await bench.round(number))
            say(f"  round {number + 1} of {rounds}: {_in_words(measured[-1])}")
        await bench.close()
    return Report(
        in_flight=in_flight,
        seconds=seconds,
        machine=machine,
        create_share=_summary([100 * r.create.per_second / r.echo.per_second for r in measured]),
        stat_share=_summary([100 * r.stat.per_second / r.echo.per_second for r in measured]),
        single_create=_summary([r.single_ratio for r in measured]),
        rounds=measured,
    )


def in_words(found: Report) -> str:
    machine = found.machine
    used = "; ".join(_cpu_in_words(found.rounds, kind) for kind in KINDS)
    return "\n".join(
        (
            f"{machine.cores} cores of {machine.processor}, Linux {machine.kernel}, Python {machine.python}, "
            f"{machine.event_loop}; load average {machine.load} before",
            f"{found.in_flight} in flight, medians of {len(found.rounds)} rounds (lowest … highest):",
            f"  create: {_spread(found.create_share)} % of the echo rate",
            f"  linearizable stat: {_spread(found.stat_share)} % of the echo rate",
            f"one create alone: {_spread(found.single_create)} × (bare fdatasync + round trip)",
            f"CPU time a call, µs: {used}",
        )
    )


def chart(found: Report) -> str:
    """The shares of every round, as SVG."""
    shares = {
        "create": [100 * one.create.per_second / one.echo.per_second for one in found.rounds],
        "linearizable stat": [100 * one.stat.per_second / one.echo.per_second for one in found.rounds],
    }
    return curve_chart(
        f"Namespace calls beside echoes, {found.in_flight} in flight",
        {name: list(enumerate(values, start=1)) for name, values in shares.items()},
        x_label="round",
        y_label="per cent of the echo rate",
        marks=[Mark(f"{name} ≥ {share}", y=share) for name, share in TARGETS.items()],
    )


KINDS = ("echo", "create", "stat")


def _in_words(one: Round) -> str:
    return (
        f"echo {one.echo.per_second:.0f}/s, create {one.create.per_second:.0f}/s, "
        f"stat {one.stat.per_second:.0f}/s; alone: round trip {one.round_trip_us:.0f} µs, "
        f"fdatasync {one.fdatasync_us:.0f} µs, create {one.create_us:.0f} µs"
    )


def _cpu_in_words(rounds: Sequence[Round], kind: str) -> str:
    loads: list[Load] = [getattr(one, kind) for one in rounds]
    medians = {name: statistics.median(load.cpu_us[name] for load in loads) for name in loads[0].cpu_us}
    parts = ", ".join(f"{name} {used:.0f}" for name, used in medians.items())
    return f"{kind} {sum(medians.values()):.0f} ({parts})"


def _summary(values: Sequence[float]) -> Summary:
    return Summary(round(statistics.median(values), 2), round(min(values), 2), round(max(values), 2))


def _spread(summary: Summary) -> str:
    return f"{summary.median:.1f} ({summary.lowest:.1f} … {summary.highest:.1f})"


def _median_us(seconds: Sequence[float]) -> float:
    return round(1e6 * statistics.median(seconds), 1)


async def _seconds(call: Awaitable[object]) -> float:
    began = time.perf_counter()
    await call
    return time.perf_counter() - began
