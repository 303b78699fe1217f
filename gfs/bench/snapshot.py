"""How long a snapshot takes: on a cluster, and each record of one in the state alone (GFS §3.4)."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable

from gfs.bench.fixture import local_cluster
from gfs.master.core.snapshots import STEP_ROWS_MAX
from gfs.master.core.state import MasterState
from gfs.master.lmdb_tables import LmdbTables
from gfs.messages import operations
from gfs.vocabulary import ChunkIndex, InodeId, ServerId

TREE_FILES = 20_000
TREE_SECONDS_GOAL = 1.0
APPLY_SECONDS_GOAL = 0.010
WRITTEN_FILES = 500  # of the tree on the cluster: they have a chunk, and a lease that has to be taken back
DIRECTORY_FILES = 1000
IN_FLIGHT = 64
COMMIT_RECORDS = 200
STATE_BYTES_MAX = 8 * 2**30


async def report(entries: int) -> None:
    """`entries`: files of the tree in the state alone."""
    await report_cluster()
    report_state(TREE_FILES)
    report_state(entries)


async def report_cluster() -> None:
    async with local_cluster() as (_, client):
        for number in range(TREE_FILES // DIRECTORY_FILES):
            await client.mkdir(f"/tree/{number}", parents=True)

        async def make(number: int) -> None:
            path = f"/tree/{number // DIRECTORY_FILES}/{number}"
            if number % (TREE_FILES // WRITTEN_FILES):
                await client.create(path)
            else:
                await client.write_bytes(path, b"written")

        await _side_by_side(make, TREE_FILES)
        began = time.monotonic()
        await client.snapshot("/tree", "/copy")
        seconds = time.monotonic() - began
        again = time.monotonic()
        await client.snapshot("/copy", "/copy of the copy")
        print(
            f"cluster: a tree of {TREE_FILES} files, {WRITTEN_FILES} of them under a lease: {seconds:.3f} s, "
            f"and the copy of the copy {time.monotonic() - again:.3f} s (goal {TREE_SECONDS_GOAL} s)"
        )


async def _side_by_side(do: Callable[[int], Awaitable[None]], count: int) -> None:
    numbers = iter(range(count))

    async def loop() -> None:
        for number in numbers:
            await do(number)

    await asyncio.gather(*(loop() for _ in range(IN_FLIGHT)))


def report_state(entries: int) -> None:
    """Files of one chunk each. A record counts with save() and commit(); other programs make it longer."""
    with tempfile.TemporaryDirectory(prefix="gfs-bench-") as directory:
        tables = LmdbTables(os.path.join(directory, "state.lmdb"), bytes_max=STATE_BYTES_MAX)
        try:
            state = MasterState(tables)
            _fill(state, tables, entries)
            wall, processor = _snapshot(state, tables)
        finally:
            tables.close()
    print(
        f"state: a tree of {entries} files in {len(wall)} records of up to {STEP_ROWS_MAX} rows: "
        f"{sum(wall):.3f} s in all; a record {_told(wall)}, of the processor {_told(processor)} "
        f"(goal {1000 * APPLY_SECONDS_GOAL:.0f} ms)"
    )


def _told(seconds: list[float]) -> str:
    ranked = [1000 * second for second in sorted(seconds)]
    median, nearly_all = ranked[len(ranked) // 2], ranked[len(ranked) * 99 // 100]
    return f"median {median:.2f} ms, p99 {nearly_all:.2f} ms, longest {ranked[-1]:.2f} ms"


def _apply(state: MasterState, operation: operations.AnyOperation) -> operations.AnyOutcome:
    return state.apply(operations.LogRecord(at_ms=1, operation=operation))


def _fill(state: MasterState, tables: LmdbTables, entries: int) -> None:
    servers = tuple(ServerId(f"cs{number}") for number in range(3))
    _apply(state, operations.MakeDirectory(path="/tree"))
    for number in range(entries):
        top = f"/tree/{number // DIRECTORY_FILES}"
        if number % DIRECTORY_FILES == 0:
            _apply(state, operations.MakeDirectory(path=top))
        made = _apply(state, operations.CreateFile(path=f"{top}/{number}", replication_goal=3))
        assert isinstance(made, operations.Done), made
        _apply(
            state,
            operations.AddChunk(inode=made.inode, index=ChunkIndex(0), replicas=servers, primary=servers[0]),
        )
        if number % COMMIT_RECORDS == 0:
            state.save()
            tables.commit()
    state.save()
    tables.commit()


def _snapshot(state: MasterState, tables: LmdbTables) -> tuple[list[float], list[float]]:
    begun = _apply(state, operations.BeginSnapshot(source="/tree", target="/copy"))
    assert isinstance(begun, operations.Done), begun
    step = operations.CopySnapshot(copy=begun.inode, rows=STEP_ROWS_MAX)
    wall: list[float] = []
    processor: list[float] = []
    whole = InodeId(0)
    while not whole:
        began, busy = time.perf_counter(), time.thread_time()
        outcome = _apply(state, step)
        state.save()
        tables.commit()
        wall.append(time.perf_counter() - began)
        processor.append(time.thread_time() - busy)
        assert isinstance(outcome, operations.Done), outcome
        whole = outcome.inode
    return wall, processor
