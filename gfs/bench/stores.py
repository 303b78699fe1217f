"""Small chunks in one store and in another: how many of 4 KiB are created and written, and read, a second.

The stores are asked as a chunk server asks them, without one: no network, no index, no checksums. Rounds take
turns, so that a busy machine slows both sides, and the ratio is that of each round.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from gfs.bench.machine import Machine, describe
from gfs.chunkserver.stores.interface import ChunkStore
from gfs.chunkserver.stores.plugin import StoreSite
from gfs.chunkserver.stores.registry import load, read_options
from gfs.disk import SystemDisk
from gfs.vocabulary import KIB, ChunkHandle

CHUNK_BYTES = 4 * KIB
CHUNKS = 2000  # of one round
ROUNDS = 5
SYNC_EVERY = 64  # chunks: as a server does for all that have waited


class StoreRound(msgspec.Struct, frozen=True, kw_only=True):
    """Chunks a second. `write`: created, written and synced in groups; `read`: in any order, just written."""

    store: str
    write_per_second: float
    read_per_second: float


class StoreFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Medians of all rounds; `both`: of one chunk written and read. `files`: on the disk after all rounds."""

    store: str
    write_per_second: float
    read_per_second: float
    both_per_second: float
    files: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`…_ratio`: of the second store to the first, medians of the ratios of all rounds."""

    machine: Machine
    chunk_bytes: int
    chunks: int
    rounds: list[StoreRound]
    stores: list[StoreFigures]
    write_ratio: float
    read_ratio: float
    both_ratio: float
    files_ratio: float


class _Side:
    def __init__(self, name: str, directory: str) -> None:
        self.name, self.directory = name, os.path.join(directory, name)
        os.makedirs(self.directory)
        plugin = load(name)
        site = StoreSite(SystemDisk(), self.directory)
        self._store: ChunkStore = plugin.open(site, read_options(plugin, {}))
        self._next = 1
        self.rounds: list[StoreRound] = []

    def play(self, chunks: int, content: bytes) -> None:
        handles = [ChunkHandle(number) for number in range(self._next, self._next + chunks)]
        self._next += chunks
        began = time.perf_counter()
        for first in range(0, chunks, SYNC_EVERY):
            group = handles[first : first + SYNC_EVERY]
            for handle in group:
                self._store.create(handle)
                self._store.write_at(handle, content, 0)
            for handle in group:
                self._store.sync(handle)
            self._store.sync_names()
        written = time.perf_counter()
        random.Random(self._next).shuffle(handles)
        buffer = memoryview(bytearray(len(content)))
        for handle in handles:
            got = self._store.read_into(handle, buffer, 0)
            assert got == len(content) and buffer == content, handle
        ended = time.perf_counter()
        self.rounds.append(
            StoreRound(
                store=self.name,
                write_per_second=round(chunks / (written - began), 1),
                read_per_second=round(chunks / (ended - written), 1),
            )
        )

    def figures(self) -> StoreFigures:
        return StoreFigures(
            store=self.name,
            write_per_second=_median([one.write_per_second for one in self.rounds]),
            read_per_second=_median([one.read_per_second for one in self.rounds]),
            both_per_second=_median([_both(one) for one in self.rounds]),
            files=sum(path.is_file() for path in Path(self.directory).rglob("*")),
        )

    def close(self) -> None:
        self._store.close()


def measure(
    machine: Machine,
    names: tuple[str, str] = ("file", "lmdb"),
    *,
    directory: str | None = None,
    chunks: int = CHUNKS,
    rounds: int = ROUNDS,
    say: Callable[[str], None] = print,
) -> Report:
    """Blocking. `directory`: on the disk that is meant, used and cleared; `say` is told of each round.

    Raises: ConfigInvalid for a store that is not installed; OSError.
    """
    content = os.urandom(CHUNK_BYTES)
    with tempfile.TemporaryDirectory(dir=directory, prefix="gfs-bench-") as place:
        sides = [_Side(name, place) for name in names]
        try:
            for number in range(rounds):
                for side in sides if number % 2 == 0 else sides[::-1]:
                    side.play(chunks, content)
                told = ", ".join(_in_words(side.rounds[-1]) for side in sides)
                say(f"  round {number + 1} of {rounds}: {told}")
            figures = [side.figures() for side in sides]
        finally:
            for side in sides:
                side.close()
    first, second = (side.rounds for side in sides)
    return Report(
        machine=machine,
        chunk_bytes=CHUNK_BYTES,
        chunks=chunks,
        rounds=[*first, *second],
        stores=figures,
        write_ratio=_ratio(first, second, lambda one: one.write_per_second),
        read_ratio=_ratio(first, second, lambda one: one.read_per_second),
        both_ratio=_ratio(first, second, _both),
        files_ratio=round(figures[0].files / figures[1].files, 2),
    )


async def report(
    *, directory: str | None, chunks: int, rounds: int, as_json: bool, say: Callable[[str], None]
) -> str:
    """Measure; returns what is to be printed."""
    work = partial(measure, describe(), directory=directory, chunks=chunks, rounds=rounds, say=say)
    found = await asyncio.to_thread(work)
    return msgspec.json.encode(found).decode() if as_json else in_words(found)


def in_words(found: Report) -> str:
    machine = found.machine
    lines = [
        f"{machine.cores} cores of {machine.processor}, Python {machine.python}; "
        f"load average {machine.load} before",
        f"chunks of {found.chunk_bytes} bytes, {found.chunks} a round, medians:",
        f"  {'store':<8}{'create+write/s':>16}{'read/s':>12}{'both/s':>10}{'files':>8}",
    ]
    lines += [
        f"  {one.store:<8}{one.write_per_second:>16.0f}{one.read_per_second:>12.0f}"
        f"{one.both_per_second:>10.0f}{one.files:>8}"
        for one in found.stores
    ]
    lines.append(
        f"  {found.stores[1].store} to {found.stores[0].store}: create+write {found.write_ratio:.2f}x, "
        f"read {found.read_ratio:.2f}x, both {found.both_ratio:.2f}x; {found.files_ratio:.0f}x fewer files"
    )
    return "\n".join(lines)


def _both(one: StoreRound) -> float:
    return 1 / (1 / one.write_per_second + 1 / one.read_per_second)


def _ratio(
    first: Sequence[StoreRound], second: Sequence[StoreRound], rate: Callable[[StoreRound], float]
) -> float:
    return _median([rate(b) / rate(a) for a, b in zip(first, second, strict=True)])


def _in_words(one: StoreRound) -> str:
    return f"{one.store} writes {one.write_per_second:.0f}/s, reads {one.read_per_second:.0f}/s"


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 2)
