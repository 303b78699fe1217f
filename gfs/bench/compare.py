"""The same work on gfs and on other file systems, in turns: how fast each is, beside the local disk and ours.

Who works on a mount does it by system calls of threads, who works on gfs by calls of its SDK, as many at a
time. A file that is written is closed, not synced: it then has all its copies, see each one's `what`. A file
that is read was written by the same client, whose cached pages of it are dropped before.
"""

from __future__ import annotations

import abc
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from gfs.bench import limit
from gfs.bench.fixture import local_cluster
from gfs.bench.machine import Machine, cpu_seconds, describe
from gfs.bench.peers.juicefs import JuiceFs
from gfs.bench.peers.local_disk import LocalDisk
from gfs.bench.peers.moosefs import MooseFs
from gfs.bench.peers.peer import Peer
from gfs.bench.peers.seaweedfs import SeaweedFs
from gfs.bench.plot import bar_chart
from gfs.client.client import AsyncClient
from gfs.errors import GfsError, InvalidArgument
from gfs.local.supervisor import Supervisor
from gfs.vocabulary import KIB, MIB

OURS = "gfs"
BARE = "bare limit"  # write: a chain of three C programs, no metadata; read: sendfile of a cached file
PEERS: Mapping[str, type[Peer]] = {
    "local": LocalDisk,
    "moosefs": MooseFs,
    "seaweedfs": SeaweedFs,
    "juicefs": JuiceFs,
}
FILE_BYTES = 256 * MIB
CALL_BYTES = 4 * MIB
WARM_BYTES = 4 * FILE_BYTES  # three copies, and what the rest of the machine takes meanwhile
SMALL_BYTES = 4 * KIB
AT_ONCE = 8
ROUNDS = 5
SECONDS = 1.0
UNITS = {
    "write": "MiB/s",
    "read": "MiB/s",
    "create": "/s",
    "stat": "/s",
    "small write": "/s",
    "small read": "/s",
}

Say = Callable[[str], None]
T = TypeVar("T")


class Measured(msgspec.Struct, frozen=True):
    """One kind of work on one file system. `ratio`: our rate to its, the median of the rounds' ratios.

    `cpu`: CPU seconds of its programs a GiB moved, or microseconds a call; the one who works is not in it.
    """

    subject: str
    work: str
    unit: str
    rates: list[float]
    cpu: float
    ratio: float


class Report(msgspec.Struct, frozen=True):
    """`missing`: peers that did not take part, and why."""

    machine: Machine
    rounds: int
    subjects: dict[str, str]
    missing: dict[str, str]
    measured: list[Measured]


class _Subject(Protocol):
    async def write(self, name: str) -> None: ...

    async def read(self, name: str) -> None: ...

    async def create(self, name: str) -> None: ...

    async def stat(self, name: str) -> None: ...

    async def write_small(self, name: str) -> None: ...

    async def read_small(self, name: str) -> None: ...

    async def make_folder(self, name: str) -> None: ...

    async def remove(self, name: str) -> None: ...

    def processes(self) -> Iterable[int]: ...


class _Ours:
    """gfs by its SDK. Names are paths below its root."""

    def __init__(self, supervisor: Supervisor, client: AsyncClient) -> None:
        self._supervisor, self._client = supervisor, client
        self._piece, self._small = os.urandom(CALL_BYTES), os.urandom(SMALL_BYTES)
        self._memory = bytearray(CALL_BYTES)

    async def write(self, name: str) -> None:
        async with await self._client.open(f"/{name}", "xb") as file:
            for _ in range(FILE_BYTES // CALL_BYTES):
                await file.write(self._piece)

    async def read(self, name: str) -> None:
        seen = 0
        async with await self._client.open(f"/{name}", "rb") as file:
            while got := await file.readinto(self._memory):
                seen += got
        assert seen == FILE_BYTES, seen

    async def create(self, name: str) -> None:
        await self._client.create(f"/{name}")

    async def stat(self, name: str) -> None:
        await self._client.stat(f"/{name}")

    async def write_small(self, name: str) -> None:
        await self._client.write_bytes(f"/{name}", self._small)

    async def read_small(self, name: str) -> None:
        assert len(await self._client.read_bytes(f"/{name}")) == SMALL_BYTES

    async def make_folder(self, name: str) -> None:
        await self._client.mkdir(f"/{name}", parents=True)

    async def remove(self, name: str) -> None:
        await self._client.delete(f"/{name}")

    def processes(self) -> Iterable[int]:
        settings = self._supervisor.settings
        return [self._supervisor.process_id(node) for node in (*settings.masters, *settings.chunkservers)]


class _Folder:
    """Whatever has a folder of the system, by system calls of threads."""

    def __init__(self, peer: Peer, folder: str, threads: ThreadPoolExecutor) -> None:
        self._peer, self._folder, self._threads = peer, Path(folder), threads
        self._piece, self._small = os.urandom(CALL_BYTES), os.urandom(SMALL_BYTES)
        self._memory = bytearray(CALL_BYTES)

    async def write(self, name: str) -> None:
        await self._do(self._write, name)

    def _write(self, path: Path) -> None:
        with open(path, "xb", buffering=0) as file:
            for _ in range(FILE_BYTES // CALL_BYTES):
                assert file.write(self._piece) == CALL_BYTES

    async def read(self, name: str) -> None:
        await self._do(self._read, name)

    def _read(self, path: Path) -> None:
        seen = 0
        with open(path, "rb", buffering=0) as file:
            if self._peer.is_mounted:  # what this client has cached; servers keep their pages, as ours do
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while got := file.readinto(self._memory):
                seen += got
        assert seen == FILE_BYTES, seen

    async def create(self, name: str) -> None:
        await self._do(lambda path: path.touch(exist_ok=False), name)

    async def stat(self, name: str) -> None:
        await self._do(Path.stat, name)

    async def write_small(self, name: str) -> None:
        await self._do(lambda path: path.write_bytes(self._small), name)

    async def read_small(self, name: str) -> None:
        assert len(await self._do(Path.read_bytes, name)) == SMALL_BYTES

    async def make_folder(self, name: str) -> None:
        await self._do(lambda path: path.mkdir(parents=True), name)

    async def remove(self, name: str) -> None:
        await self._do(Path.unlink, name)

    def processes(self) -> Iterable[int]:
        return self._peer.processes()

    async def _do(self, work: Callable[[Path], T], name: str) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, work, self._folder / name)


class _Rounds(abc.ABC):
    """What one subject has done, round by round."""

    def __init__(self) -> None:
        self.rates: dict[str, list[float]] = {work: [] for work in UNITS}
        self.cpu: dict[str, list[float]] = {work: [] for work in UNITS}

    @abc.abstractmethod
    async def play(self, number: int) -> None:
        """Raises: OSError."""

    def note(self, work: str, rate: float, cpu: float) -> None:
        self.rates[work].append(round(rate, 1))
        self.cpu[work].append(cpu)


class _BareRounds(_Rounds):
    async def play(self, number: int) -> None:
        for work, measure_limit in (("write", limit.measure_write), ("read", limit.measure_read)):
            self.note(work, *await asyncio.to_thread(measure_limit, FILE_BYTES))


class _SubjectRounds(_Rounds):
    def __init__(self, subject: _Subject, seconds: float) -> None:
        super().__init__()
        self._subject, self._seconds = subject, seconds

    async def play(self, number: int) -> None:
        subject, folder = self._subject, f"round-{number}"
        await subject.make_folder(folder)
        await self._move("write", subject.write(f"{folder}/file"))
        await self._move("read", subject.read(f"{folder}/file"))
        await subject.remove(f"{folder}/file")
        made = await self._load("create", lambda i: subject.create(f"{folder}/empty-{i}"))
        await self._load("stat", lambda i: subject.stat(f"{folder}/empty-{i % made}"))
        made = await self._load("small write", lambda i: subject.write_small(f"{folder}/small-{i}"))
        await self._load("small read", lambda i: subject.read_small(f"{folder}/small-{i % made}"))

    async def _move(self, work: str, moving: Awaitable[None]) -> None:
        used, began = self._used(), time.monotonic()
        await moving
        rate = FILE_BYTES / MIB / (time.monotonic() - began)
        self.note(work, rate, (self._used() - used) / (FILE_BYTES / 2**30))

    async def _load(self, work: str, do: Callable[[int], Awaitable[None]]) -> int:
        """Calls of numbers from 0 on, AT_ONCE at a time. Returns: how many numbers were used up in order."""
        numbers, done = count(), [0] * AT_ONCE
        used, began = self._used(), time.monotonic()

        async def loop(lane: int) -> None:
            while time.monotonic() < began + self._seconds or not done[lane]:
                await do(next(numbers))
                done[lane] += 1

        await asyncio.gather(*(loop(lane) for lane in range(AT_ONCE)))
        rate = sum(done) / (time.monotonic() - began)
        self.note(work, rate, 1e6 * (self._used() - used) / sum(done))
        return sum(done)

    def _used(self) -> float:
        return sum(map(cpu_seconds, self._subject.processes()))


async def measure(
    *,
    wanted: Sequence[str] = tuple(PEERS),
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    say: Say = print,
) -> Report:
    """Measure a fresh cluster of ours and fresh ones of the peers `wanted`; `say` is told how it goes.

    Raises: InvalidArgument for a peer that is not known.
    """
    if unknown := sorted(set(wanted) - set(PEERS)):
        raise InvalidArgument(f"no such peer: {', '.join(unknown)}", hint=f"Known: {', '.join(PEERS)}.")
    machine, missing, subjects = describe(), dict[str, str](), dict[str, str]()
    played: dict[str, _Rounds] = {}
    async with AsyncExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(AT_ONCE))
        supervisor, client = await stack.enter_async_context(local_cluster())
        played[OURS] = _SubjectRounds(_Ours(supervisor, client), seconds)
        subjects[OURS] = "3 copies in page caches of chunk servers; names on the disks of 3 masters"
        for peer_class in (PEERS[name] for name in wanted):
            peer = peer_class(stack.enter_context(tempfile.TemporaryDirectory(prefix="gfs-peer-")))
            stack.callback(peer.stop)
            folder, why_not = await asyncio.to_thread(_started, peer)
            if why_not:
                missing[peer.name] = why_not
                say(f"  {peer.name} is left out: {why_not}")
                continue
            subjects[peer.name] = peer.what
            played[peer.name] = _SubjectRounds(_Folder(peer, folder, threads), seconds)
        played[BARE], subjects[BARE] = _BareRounds(), "3 copies in page caches by a chain in C; sendfile"
        turns = list(played.items())
        for number in range(rounds):
            for name, subject in list(turns):
                try:
                    # What the one before has left, and fresh memory of the machine, are not this one's work.
                    await asyncio.to_thread(os.sync)
                    await asyncio.to_thread(limit.warm_free_memory, WARM_BYTES)
                    await subject.play(number)
                except OSError as error:
                    turns.remove((name, subject))
                    missing[name] = f"broke off in round {number + 1}: {error}"
                    say(f"  {name} {missing[name]}")
                    continue
                told = (
                    f"{work} {all_of[-1]:.0f}{UNITS[work]}"
                    for work, all_of in subject.rates.items()
                    if all_of
                )
                say(f"  round {number + 1} of {rounds}, {name}: {', '.join(told)}")
            turns = [*turns[1:], *turns[:1]]
    measured = [row for name, subject in played.items() for row in _rows(name, subject, played[OURS])]
    return Report(machine, rounds, subjects, missing, measured)


def _started(peer: Peer) -> tuple[str, str]:
    """Its folder, or why it cannot take part."""
    if why_not := peer.missing():
        return "", why_not
    try:
        return peer.start(), ""
    except (GfsError, OSError) as error:
        return "", str(error)


def _rows(name: str, subject: _Rounds, ours: _Rounds) -> list[Measured]:
    return [
        Measured(
            subject=name,
            work=work,
            unit=unit,
            rates=subject.rates[work],
            cpu=round(statistics.median(subject.cpu[work]), 2),
            ratio=round(
                statistics.median(a / b for a, b in zip(ours.rates[work], subject.rates[work], strict=False)),
                2,
            ),
        )
        for work, unit in UNITS.items()
        if subject.rates[work]
    ]


def in_words(found: Report) -> str:
    lines = [
        f"{found.machine.cores} cores of {found.machine.processor}, kernel {found.machine.kernel}; "
        f"load average {found.machine.load}; medians of {found.rounds} rounds (lowest … highest)"
    ]
    for work, unit in UNITS.items():
        at_once = "" if unit == "MiB/s" else f", {AT_ONCE} at once"
        lines.append(f"{work}, {unit}{at_once}")
        lines += [f"  {_in_words(row)}" for row in found.measured if row.work == work]
    lines += [f"{name}: {what}" for name, what in found.subjects.items()]
    lines += [f"left out: {name}: {why}" for name, why in found.missing.items()]
    return "\n".join(lines)


def _in_words(row: Measured) -> str:
    rates = f"{statistics.median(row.rates):8.0f} ({min(row.rates):.0f} … {max(row.rates):.0f})"
    cpu = f"{row.cpu:.2f} CPU s a GiB" if row.unit == "MiB/s" else f"{row.cpu:.0f} µs CPU a call"
    beside = "" if row.subject == OURS else f"; gfs is {row.ratio:.2g} times as fast"
    return f"{row.subject:<12}{rates}; {cpu}{beside}"


def chart(found: Report) -> str:
    """How many times as fast as each peer gfs was, by work, as an SVG picture."""
    rows = {
        name: [(row.work, row.ratio) for row in found.measured if row.subject == name]
        for name in found.subjects
        if name != OURS
    }
    return bar_chart(
        "gfs against others, the same work in the same run",
        rows,
        y_label="gfs is so many times as fast",
        level=1.0,
    )
