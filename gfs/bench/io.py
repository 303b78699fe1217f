"""Sequential write and read with three replicas and one client, as a share of the limit of the same run.

On a machine with other work the rates of both sides jump by a factor of two and more; the CPU time that a GiB
costs each program does not, so it is told beside them.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from gfs.bench import limit
from gfs.bench.fixture import local_cluster
from gfs.bench.machine import cpu_seconds
from gfs.client.client import AsyncClient
from gfs.local.supervisor import Supervisor
from gfs.vocabulary import MIB

FILE_BYTES = 512 * MIB
CALL_BYTES = 4 * MIB
READ_CALL_BYTES = 32 * MIB
ROUNDS = 9
COLD_ROUNDS = 3
REPLICAS = 3
WARM_BYTES = (REPLICAS + 1) * FILE_BYTES

Given = ParamSpec("Given")
T = TypeVar("T")


async def write_rate(client: AsyncClient, path: str) -> float:
    """MiB/s of one streaming writer, from open to a closed, acknowledged file."""
    piece = os.urandom(CALL_BYTES)
    began = time.monotonic()
    async with await client.open(path, "xb") as file:
        for _ in range(FILE_BYTES // CALL_BYTES):
            await file.write(piece)
    return FILE_BYTES / MIB / (time.monotonic() - began)


async def read_rate(client: AsyncClient, path: str) -> float:
    """MiB/s of one sequential reader into memory of its own, used again and again."""
    memory = bytearray(READ_CALL_BYTES)
    began = time.monotonic()
    seen = 0
    async with await client.open(path, "rb") as file:
        while count := await file.readinto(memory):
            seen += count
    assert seen == FILE_BYTES, seen
    return FILE_BYTES / MIB / (time.monotonic() - began)


async def read_copies_rate(client: AsyncClient, path: str) -> float:
    """MiB/s of one sequential reader that wants new bytes objects."""
    began = time.monotonic()
    seen = 0
    async with await client.open(path, "rb") as file:
        while data := await file.read(CALL_BYTES):
            seen += len(data)
    assert seen == FILE_BYTES, seen
    return FILE_BYTES / MIB / (time.monotonic() - began)


class CpuTime:
    """CPU seconds a GiB of the client, of all masters and of all chunk servers, by what they did."""

    def __init__(self, supervisor: Supervisor) -> None:
        settings = supervisor.settings
        self._programs = {
            "client": [os.getpid()],
            "masters": [supervisor.process_id(node) for node in settings.masters],
            "chunk servers": [supervisor.process_id(node) for node in settings.chunkservers],
        }
        self._found: dict[str, dict[str, list[float]]] = {}

    async def of(self, what: str, work: Awaitable[T]) -> T:
        """The result of `work`, which moves FILE_BYTES."""
        before = self._used()
        done = await work
        for name, after in self._used().items():
            self.note(what, name, (after - before[name]) / (FILE_BYTES / 2**30))
        return done

    def note(self, what: str, name: str, seconds_a_gib: float) -> None:
        self._found.setdefault(what, {}).setdefault(name, []).append(seconds_a_gib)

    def lines(self) -> list[str]:
        medians = {
            what: {name: statistics.median(values) for name, values in programs.items()}
            for what, programs in self._found.items()
        }
        return [
            f"{what}: {sum(programs.values()):.2f} CPU seconds a GiB "
            f"({', '.join(f'{name} {seconds:.2f}' for name, seconds in programs.items())})"
            for what, programs in medians.items()
        ]

    def _used(self) -> dict[str, float]:
        return {name: sum(map(cpu_seconds, processes)) for name, processes in self._programs.items()}


async def report() -> None:
    shares: dict[str, list[float]] = {
        "write": [],
        "write to memory never touched before": [],
        "read": [],
        "read in copies": [],
    }
    async with local_cluster(chunkservers=REPLICAS) as (supervisor, client):
        cpu = CpuTime(supervisor)
        await client.mkdir("/io")
        with tempfile.TemporaryDirectory(prefix="gfs-limit-") as files:
            for number in range(COLD_ROUNDS):
                write_limit = await _beside(limit.write_limit, FILE_BYTES, files=files)
                wrote = await write_rate(client, f"/io/cold-{number}")
                shares["write to memory never touched before"].append(wrote / write_limit)
                print(f"  cold round {number + 1}: write {wrote:.0f} of {write_limit:.0f} MiB/s")
        for number in range(ROUNDS):
            await _beside(limit.warm_free_memory, WARM_BYTES)
            write_limit, used = await _beside(limit.measure_write, FILE_BYTES)
            cpu.note("limit of write", "with the start of its programs", used)
            await _beside(limit.warm_free_memory, WARM_BYTES)
            wrote = await cpu.of("write", write_rate(client, f"/io/{number}"))
            read_limit, used = await _beside(limit.measure_read, FILE_BYTES)
            cpu.note("limit of read", "with the start of its program", used)
            read = await cpu.of("read", read_rate(client, f"/io/{number}"))
            copies = await cpu.of("read in copies", read_copies_rate(client, f"/io/{number}"))
            await client.delete(f"/io/{number}")
            shares["write"].append(wrote / write_limit)
            shares["read"].append(read / read_limit)
            shares["read in copies"].append(copies / read_limit)
            print(
                f"  round {number + 1}: write {wrote:.0f} of {write_limit:.0f} MiB/s, "
                f"read {read:.0f} (copies {copies:.0f}) of {read_limit:.0f} MiB/s"
            )
    for name, values in shares.items():
        print(
            f"{name}: median {100 * statistics.median(values):.0f} % of the limit "
            f"({100 * min(values):.0f} … {100 * max(values):.0f}), {REPLICAS} replicas, one client"
        )
    for line in cpu.lines():
        print(line)


async def _beside(measure: Callable[Given, T], *args: Given.args, **kwargs: Given.kwargs) -> T:
    """Run a blocking tool while the client's connections stay alive."""
    return await asyncio.to_thread(measure, *args, **kwargs)
