"""What many files cost a master and the inspection tool: checkpoint, start, memory, verify, diff.

The states are big_state's, at rest on a disk; the master that is started on one is a real process, alone in
its cluster. Targets are marked in the plot; other programs on the machine make every time longer, which is
why CPU seconds are told beside it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from gfs import aio
from gfs.bench import plot
from gfs.bench.big_state import (
    BEGAN_MS,
    STATE_BYTES_MAX,
    file_path,
    write_checkpoint,
    write_rows,
)
from gfs.bench.lone_master import CHECKPOINT_INDEX, CHECKPOINTS, LoneMaster, give_checkpoint
from gfs.bench.machine import Machine, cpu_seconds, describe
from gfs.bench.processes import mapped_memory, own_memory, run_measured
from gfs.local.layout import make_layout
from gfs.master.core.state import MasterState
from gfs.master.lmdb_tables import LmdbTables
from gfs.messages import operations as op
from gfs.telemetry import set_up_logging

CHANGES_EVERY = 100  # of so many files one is changed for the second checkpoint of a comparison
MUTATION_SECONDS = 20.0
MUTATIONS_A_SECOND = 100


class Latency(msgspec.Struct, kw_only=True):
    """Milliseconds of creates, one at a time at a steady pace: while a checkpoint is made, and otherwise."""

    checkpoints: int
    quiet_p50: float
    quiet_p99: float
    during_p50: float
    during_p99: float
    added_p99: float
    quiet_samples: int
    during_samples: int


class Figures(msgspec.Struct, kw_only=True):
    """Of one size. `*_own_bytes`: written memory, without pages of mapped files; see processes."""

    files: int
    bytes_per_file: float
    checkpoint_seconds: float
    verify_seconds: float
    verify_cpu_seconds: float
    verify_files_per_second: float
    verify_own_bytes: int
    diff_seconds: float
    diff_cpu_seconds: float
    diff_own_bytes: int
    differences: int
    start_seconds: float  # from the checkpoint, as after a power cut
    start_cpu_seconds: float
    restart_seconds: float  # with the state a killed process has left
    master_own_bytes: int
    master_mapped_bytes: int
    latency: Latency | None = None


class Report(msgspec.Struct, kw_only=True):
    machine: Machine
    sizes: list[Figures]


async def report(sizes: Sequence[int], *, directory: str | None, picture: str, as_json: bool) -> None:
    """`directory`: where the states lie while they are measured; some 400 bytes a file."""
    set_up_logging(role="bench", node="state", level="warning")  # standard output is for the report alone
    found = Report(machine=describe(), sizes=[])
    for files in sizes:
        place = tempfile.mkdtemp(prefix="gfs-state-", dir=directory)
        try:
            found.sizes.append(await measure(files, place))
        finally:
            shutil.rmtree(place, ignore_errors=True)
        if not as_json:
            print("\n".join(in_words(found.sizes[-1])), flush=True)
    if picture:
        Path(picture).write_text(drawn(found.sizes), encoding="utf-8")
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())


async def measure(files: int, place: str) -> Figures:
    tables = LmdbTables(f"{place}/state.lmdb", bytes_max=STATE_BYTES_MAX)
    write_rows(tables, files)
    seconds: list[float] = []
    for index in range(CHECKPOINTS):
        began = time.monotonic()
        manifest = write_checkpoint(tables, f"{place}/first", index=CHECKPOINT_INDEX + index)
        seconds.append(time.monotonic() - began)
    _change(tables, files)
    write_checkpoint(tables, f"{place}/second", index=CHECKPOINT_INDEX + CHECKPOINTS)
    tables.close()
    os.unlink(f"{place}/state.lmdb")
    verified = run_measured("-o", "json", "checkpoint", "verify", f"{place}/first")
    compared = run_measured("-o", "jsonl", "checkpoint", "diff", f"{place}/first", f"{place}/second")
    shutil.rmtree(f"{place}/second")
    figures = Figures(
        files=files,
        bytes_per_file=round(manifest.length_bytes / files, 1),
        checkpoint_seconds=round(statistics.median(seconds), 3),
        verify_seconds=round(verified.seconds, 3),
        verify_cpu_seconds=round(verified.cpu_seconds, 3),
        verify_files_per_second=round(files / verified.seconds),
        verify_own_bytes=verified.own_bytes,
        diff_seconds=round(compared.seconds, 3),
        diff_cpu_seconds=round(compared.cpu_seconds, 3),
        diff_own_bytes=compared.own_bytes,
        differences=compared.output.count(b"\n"),
        start_seconds=0.0,
        start_cpu_seconds=0.0,
        restart_seconds=0.0,
        master_own_bytes=0,
        master_mapped_bytes=0,
    )
    await _measure_master(figures, place)
    return figures


def _change(tables: LmdbTables, files: int) -> None:
    """Create, delete, move and chmod, one for every CHANGES_EVERY files."""
    state = MasterState(tables)
    for number in range(0, files, CHANGES_EVERY):
        path = file_path(number)
        changes: tuple[op.AnyOperation, ...] = (
            op.CreateFile(path=f"{path}.new", replication_goal=3),
            op.DeletePath(path=path, expires_at_ms=2 * BEGAN_MS),
            op.RenamePath(source=path, destination=f"{path}.moved", expires_at_ms=2 * BEGAN_MS),
            op.ChangeMode(path=path, mode=0o600),
        )
        operation = changes[number // CHANGES_EVERY % len(changes)]
        outcome = state.apply(op.LogRecord(at_ms=BEGAN_MS, operation=operation))
        assert not isinstance(outcome, op.Refused), (operation, outcome)
    state.save()


# --- a master on such a state -------------------------------------------------------------------------


async def _measure_master(figures: Figures, place: str) -> None:
    """A fresh master is stopped, given the checkpoint, and started again: as one whose state was lost."""
    layout = make_layout(f"{place}/cluster", masters=1, chunkservers=1, first_port=0)
    master = LoneMaster(layout)
    await master.start("/")
    master.kill()
    give_checkpoint(layout, f"{place}/first")
    path = file_path(figures.files - 1)
    try:
        figures.start_seconds = round(await master.start(path), 3)
        figures.start_cpu_seconds = round(cpu_seconds(master.process), 3)
        master.kill()
        figures.restart_seconds = round(await master.start(path), 3)
        figures.latency = await _latency(master)
        figures.master_own_bytes = own_memory(master.process)
        figures.master_mapped_bytes = mapped_memory(master.process)
    finally:
        master.kill()


async def _latency(master: LoneMaster) -> Latency:
    """Creates at a steady pace, while small amounts of log make one checkpoint after the other due."""
    client = await aio.connect([master.control], settings=master.layout.settings.client)
    watch = _Watch(master.checkpoints)
    taken: list[tuple[float, float]] = []
    try:
        await client.mkdir("/latency")
        began, number = time.monotonic(), 0
        while (due := began + number / MUTATIONS_A_SECOND) < began + MUTATION_SECONDS:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            sent = time.monotonic()
            await client.create(f"/latency/{number}")
            taken.append((sent, time.monotonic()))
            number += 1
            watch.look()
    finally:
        await client.close()
    during = [_milliseconds(one) for one in taken if watch.overlaps(*one)]
    quiet = [_milliseconds(one) for one in taken if not watch.overlaps(*one)]
    return Latency(
        checkpoints=watch.seen,
        quiet_p50=statistics.median(quiet) if quiet else 0.0,
        quiet_p99=_p99(quiet),
        during_p50=statistics.median(during) if during else 0.0,
        during_p99=_p99(during),
        added_p99=round(_p99(during) - _p99(quiet), 2),
        quiet_samples=len(quiet),
        during_samples=len(during),
    )


def _p99(samples: Sequence[float]) -> float:
    return plot.percentile(samples, 99) if samples else 0.0


class _Watch:
    """When checkpoints were on their way, as their unfinished files show."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._spans: list[tuple[float, float]] = []
        self._under_way = False
        self._looked_at = time.monotonic()

    @property
    def seen(self) -> int:
        return len(self._spans)

    def look(self) -> None:
        now, is_under_way = time.monotonic(), any(name.endswith(".tmp") for name in os.listdir(self._folder))
        if is_under_way and not self._under_way:
            self._spans.append((self._looked_at, now))  # it may have begun right after the last look
        elif is_under_way or self._under_way:
            self._spans[-1] = (self._spans[-1][0], now)
        self._under_way, self._looked_at = is_under_way, now

    def overlaps(self, began: float, ended: float) -> bool:
        return any(began <= end and start <= ended for start, end in self._spans)


def _milliseconds(one: tuple[float, float]) -> float:
    return round(1000 * (one[1] - one[0]), 3)


# --- what is told -------------------------------------------------------------------------------------


def in_words(found: Figures) -> list[str]:
    lines = [
        f"{found.files} files of one chunk",
        f"  checkpoint    {found.bytes_per_file} bytes a file, {found.checkpoint_seconds:.2f} s to write",
        f"  verify        {found.verify_seconds:.2f} s: {found.verify_files_per_second} files/s; CPU "
        f"{found.verify_cpu_seconds:.2f} s, {_mib(found.verify_own_bytes)} of its own",
        f"  diff          {found.diff_seconds:.2f} s for {found.differences} differences; CPU "
        f"{found.diff_cpu_seconds:.2f} s, {_mib(found.diff_own_bytes)} of its own",
        f"  start         {found.start_seconds:.2f} s from the checkpoint (CPU "
        f"{found.start_cpu_seconds:.2f} s), {found.restart_seconds:.2f} s after kill -9",
        f"  master        {_mib(found.master_own_bytes)} of its own, "
        f"{_mib(found.master_mapped_bytes)} mapped",
    ]
    if (latency := found.latency) is not None:
        lines += [
            f"  create        p50 {latency.quiet_p50:.2f} ms, p99 {latency.quiet_p99:.2f} ms",
            f"    during {latency.checkpoints} checkpoints p50 {latency.during_p50:.2f} ms, "
            f"p99 {latency.during_p99:.2f} ms: {latency.added_p99:+.2f} ms",
        ]
    return lines


def drawn(sizes: Sequence[Figures]) -> str:
    """Seconds by the number of files."""
    kinds: dict[str, Callable[[Figures], float]] = {
        "write a checkpoint": lambda one: one.checkpoint_seconds,
        "start from it": lambda one: one.start_seconds,
        "restart after kill -9": lambda one: one.restart_seconds,
        "verify": lambda one: one.verify_seconds,
        "diff": lambda one: one.diff_seconds,
    }
    return plot.curve_chart(
        "States of many files",
        {name: [(float(one.files), max(value(one), 1e-3)) for one in sizes] for name, value in kinds.items()},
        x_label="files of one chunk",
        y_label="seconds",
        log_x=True,
        log_y=True,
        marks=[plot.Mark("checkpoint of 1 M: 1 s", y=1.0), plot.Mark("start with 10 M: 15 s", y=15.0)],
    )


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"
