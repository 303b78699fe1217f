"""`gfs top`: what a cluster is doing, again and again. Rates are differences of what 'gfs status' counts."""

from __future__ import annotations

import asyncio
import sys
import time

import click
import msgspec

from gfs.cli.cluster_address import run_with_client
from gfs.cli.render import emit_one, human_bytes, text_table
from gfs.client.client import AsyncClient
from gfs.messages.cluster import ClusterStatusReply

SECONDS_DEFAULT = 2.0
SECONDS_MIN = 0.1
_CLEAR = "\x1b[H\x1b[2J"


class ServerRate(msgspec.Struct, frozen=True, kw_only=True):
    """`grown_bytes_per_second`: of what is taken on its disk, by whatever; below zero when it got emptier."""

    server: str
    alive: bool
    chunks: int
    free_bytes: int
    grown_bytes_per_second: float


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster between two looks, `seconds` apart."""

    seconds: float
    health: str
    leader: str
    log_entries_per_second: float
    files: int
    files_per_second: float
    chunks: int
    chunks_per_second: float
    chunkservers: list[ServerRate]


@click.command(epilog="Example: gfs -o jsonl top --every 5 -n 12")
@click.option(
    "--every",
    "seconds",
    type=click.FloatRange(min=SECONDS_MIN),
    default=SECONDS_DEFAULT,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("-n", "--count", type=click.IntRange(min=1), help="End after so many; else Ctrl-C does.")
@click.pass_context
def top(ctx: click.Context, seconds: float, count: int | None) -> None:
    """Show what the cluster is doing: log entries, files and chunks a second, and where disks fill.

    A log entry holds all that clients changed in the namespace at about the same time, and leases.
    """
    clears = ctx.obj.output == "table" and sys.stdout.isatty()

    async def work(client: AsyncClient) -> None:
        before, looked_at, shown = await client.cluster_status(), time.monotonic(), 0
        while shown != count:
            await asyncio.sleep(seconds)
            now, at = await client.cluster_status(), time.monotonic()
            found = activity(before, now, seconds=at - looked_at)
            emit_one(found, ctx.obj.output, (_CLEAR if clears else "") + _as_text(found))
            before, looked_at, shown = now, at, shown + 1

    run_with_client(ctx, work)


def activity(before: ClusterStatusReply, now: ClusterStatusReply, *, seconds: float) -> Activity:
    """What happened between two looks at a cluster. A server that was not there before has no rate yet."""
    assert seconds > 0
    taken = {s.id: s.disk_total_bytes - s.disk_free_bytes for s in before.chunkservers}
    return Activity(
        seconds=seconds,
        health=now.health,
        leader=now.leader,
        log_entries_per_second=max(0, _applied(now) - _applied(before)) / seconds,
        files=now.files,
        files_per_second=(now.files - before.files) / seconds,
        chunks=now.chunks,
        chunks_per_second=(now.chunks - before.chunks) / seconds,
        chunkservers=[
            ServerRate(
                server=s.id,
                alive=s.alive,
                chunks=s.chunk_count,
                free_bytes=s.disk_free_bytes,
                grown_bytes_per_second=(
                    (s.disk_total_bytes - s.disk_free_bytes - taken[s.id]) / seconds if s.id in taken else 0.0
                ),
            )
            for s in now.chunkservers
        ],
    )


def _applied(status: ClusterStatusReply) -> int:
    return max((master.applied_index for master in status.masters), default=0)


def _as_text(found: Activity) -> str:
    servers = text_table(
        ["chunk server", "state", ">chunks", ">free", ">disk grows by"],
        (
            [
                one.server,
                "alive" if one.alive else "away",
                str(one.chunks),
                human_bytes(one.free_bytes),
                f"{'-' if one.grown_bytes_per_second < 0 else ''}"
                f"{human_bytes(abs(round(one.grown_bytes_per_second)))}/s",
            ]
            for one in found.chunkservers
        ),
    )
    head = (
        f"{found.health}, {found.leader or 'no master'} leads: "
        f"{found.log_entries_per_second:.1f} log entries/s, "
        f"{found.files} files ({found.files_per_second:+.1f}/s), {found.chunks} chunks "
        f"({found.chunks_per_second:+.1f}/s)"
    )
    return f"{head}\n\n{servers}"
