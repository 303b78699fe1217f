"""`gfs admin chunkservers|rebalance|replication` and `gfs explain`: where replicas are, and where they go."""

from __future__ import annotations

import asyncio
import re

import click

from gfs.cli.cluster_address import remote_path, run_with_client
from gfs.cli.command_group import CommandGroup
from gfs.cli.render import counted, emit_many, emit_one, human_bytes, note
from gfs.client.client import AsyncClient
from gfs.errors import InvalidArgument, Superseded
from gfs.messages.placement import (
    ChunkServerRow,
    ChunkServersReply,
    ExplainedChunk,
    PlannedMove,
    QueueRow,
    RebalanceReply,
    ReplicationQueueReply,
    TenureReply,
)

DRAIN_LOOK_SECONDS = 0.5  # between two looks at a server that is waited for
DRAIN_ROWS = 50

_HANDLE = re.compile(r"^(?:0x)?([0-9a-fA-F]{1,16})$")


@click.group(cls=CommandGroup)
def chunkservers() -> None:
    """The chunk servers: see them, empty them, let them go."""


@chunkservers.command("ls")
@click.pass_context
def list_servers(ctx: click.Context) -> None:
    """List all chunk servers, with the chunks that depend on each."""

    async def work(client: AsyncClient) -> ChunkServersReply:
        return await client.operator.chunkservers()

    servers = run_with_client(ctx, work).servers
    emit_many(
        servers,
        ctx.obj.output,
        ["chunk server", "tenure", "state", ">chunks", ">only here", ">free", ">of", "rack", "placement"],
        (
            [
                s.id,
                s.tenure,
                {"good": "alive"}.get(s.state, s.state),
                str(s.chunks) if s.chunks >= 0 else "?",
                str(s.last_replicas) if s.last_replicas >= 0 else "?",
                human_bytes(s.disk_free_bytes),
                human_bytes(s.disk_total_bytes),
                s.rack or "-",
                s.placement,
            ]
            for s in servers
        ),
    )


@chunkservers.command()
@click.argument("server")
@click.option("--wait", is_flag=True, help="Return when it is empty; Ctrl-C ends only the waiting.")
@click.pass_context
def drain(ctx: click.Context, server: str, *, wait: bool) -> None:
    """Move all replicas off SERVER, and place no new ones there. It is used until it is empty."""
    if not wait:
        _set_tenure(ctx, server, "draining")
        return

    async def work(client: AsyncClient) -> ChunkServerRow:
        done = await client.operator.set_tenure(server, "draining")
        for text in done.notes:
            note(text)
        return await _until_empty(client, server)

    row = run_with_client(ctx, work)
    emit_one(
        row,
        ctx.obj.output,
        f"chunk server {server} is empty: 'gfs admin chunkservers remove {server}' lets it go",
    )


async def _until_empty(client: AsyncClient, server: str) -> ChunkServerRow:
    """Tell how it goes whenever that changes. Raises: Superseded when somebody keeps the server after all."""
    told = ""
    while True:
        [row] = [one for one in (await client.operator.chunkservers()).servers if one.id == server]
        if row.tenure == "serving":
            raise Superseded(f"{server} is not draining any more", hint="Somebody has said undrain.")
        if row.chunks == 0:
            return row
        text = f"{counted(row.chunks, 'replica')} left"
        if row.chunks < 0:
            text = "its replicas are being counted"
        queue = await client.operator.replication_queue(limit=DRAIN_ROWS)
        if queue.failed:
            why = next((f": {one.failure}" for one in queue.rows if one.failure), "")
            text += f"; {counted(queue.failed, 'chunk')} cannot be moved for now{why}"
        if text != told:
            note(f"{server}: {text}")
            told = text
        await asyncio.sleep(DRAIN_LOOK_SECONDS)


@chunkservers.command()
@click.argument("server")
@click.pass_context
def undrain(ctx: click.Context, server: str) -> None:
    """Keep SERVER after all, or take a removed one back with its replicas."""
    _set_tenure(ctx, server, "serving")


@chunkservers.command()
@click.argument("server")
@click.option("--force", is_flag=True, help="Also when it still has replicas: they count as lost then.")
@click.pass_context
def remove(ctx: click.Context, server: str, *, force: bool) -> None:
    """Let SERVER go once it is drained; it is not listened to any more."""
    _set_tenure(ctx, server, "removed", force=force)


def _set_tenure(ctx: click.Context, server: str, tenure: str, *, force: bool = False) -> None:
    async def work(client: AsyncClient) -> TenureReply:
        return await client.operator.set_tenure(server, tenure, force=force)

    done = run_with_client(ctx, work)
    lines = [f"chunk server {done.server} is {done.tenure}"]
    if tenure == "draining":
        lines.append("see 'gfs admin chunkservers ls' for what is left on it")
    emit_one(done, ctx.obj.output, "\n".join([lines[0], *(f"  {text}" for text in done.notes), *lines[1:]]))


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would move.")
@click.pass_context
def rebalance(ctx: click.Context, *, dry_run: bool) -> None:
    """Level out disks and the number of replicas as far as it goes, gradually.

    The leader does so by itself for larger differences. A new leader forgets that it was asked.
    """

    async def work(client: AsyncClient) -> RebalanceReply:
        return await client.operator.rebalance(dry_run=dry_run)

    found = run_with_client(ctx, work)
    if not found.moves:
        text = "all chunk servers are level: nothing would move"
    else:
        total = sum(move.replicas for move in found.moves)
        move = "to move now" if found.begun else "would move"
        head = f"about {counted(total, 'replica')} {move}, a few at a time:"
        text = "\n".join([head, *(f"  {_move(one)}" for one in found.moves)])
        if found.begun:
            text += "\nsee 'gfs admin replication queue' for how it goes"
    emit_one(found, ctx.obj.output, text)


def _move(move: PlannedMove) -> str:
    return f"{move.replicas} from {move.giver} to {move.receiver}"


@click.group(cls=CommandGroup)
def replication() -> None:
    """Clones of replicas that are under way or due."""


@replication.command()
@click.option("--limit", default=50, show_default=True, help="Rows to show, the most urgent first.")
@click.pass_context
def queue(ctx: click.Context, *, limit: int) -> None:
    """Show which chunks are being cloned, which wait, why, and when all will be done."""

    async def work(client: AsyncClient) -> ReplicationQueueReply:
        return await client.operator.replication_queue(limit=limit)

    found = run_with_client(ctx, work)
    if ctx.obj.output == "json":
        emit_one(found, "json", "")
        return
    if ctx.obj.output == "table":
        note(_queue_in_words(found))
    emit_many(
        found.rows,
        ctx.obj.output,
        ["state", "chunk", ">index", "file", ">priority", ">seconds", "to", "why"],
        (
            [
                row.state,
                f"{row.handle:016x}",
                str(row.index),
                row.path,
                str(row.priority),
                f"{row.seconds:.1f}",
                row.target or "-",
                _why(row),
            ]
            for row in found.rows
        ),
    )


def _queue_in_words(found: ReplicationQueueReply) -> str:
    if not found.active and not found.waiting and not found.failed:
        return "every chunk has its replicas" if found.complete else "no chunk is known to need a replica yet"
    text = f"{found.active} being cloned, {found.waiting} wait, {found.failed} can get no replica for now"
    if found.seconds_left >= 0:
        text += f"; {found.per_second:.1f} clones a second: {'the others ' if found.failed else ''}"
        text += f"done in about {found.seconds_left:.0f} s"
    if not found.complete:
        text += "; the leader is still looking at all chunks"
    return text


def _why(row: QueueRow) -> str:
    if row.failure:
        return f"failed {row.tries} times: {row.failure}"
    return row.reason + (f", {row.drop} leaves" if row.drop else "") or "-"


@click.command()
@click.argument("target", metavar="PATH|HANDLE[:INDEX]")
@click.pass_context
def explain(ctx: click.Context, target: str) -> None:
    """Say where the replicas of a file's chunks are and why, what is missing, and when it will be there.

    PATH:INDEX is one chunk of a file; HANDLE is as 'gfs chunks' shows it.
    """

    async def work(client: AsyncClient) -> list[tuple[str, ExplainedChunk]]:
        handle = _HANDLE.match(target)
        if handle is not None:
            page = await client.operator.explain_chunk(int(handle[1], 16))
            return [(page.path, chunk) for chunk in page.chunks]
        path, index = _path_and_index(target)
        if index is not None and await client.exists(target):
            path, index = target, None  # a file whose name ends in a colon and a number
        return [(path, chunk) async for chunk in client.operator.explain(remote_path(path), index=index)]

    found = run_with_client(ctx, work)
    if ctx.obj.output != "table":
        emit_many([chunk for _, chunk in found], ctx.obj.output, [], [])
        return
    if not found:
        click.echo("the file is empty: it has no chunks")
    for path, chunk in found:
        click.echo(f"{path}, chunk {chunk.index} ({chunk.handle:016x})")
        for sentence in chunk.sentences:
            click.echo(f"  {sentence}")


def _path_and_index(target: str) -> tuple[str, int | None]:
    if not target.startswith(("/", "gfs://")):
        raise InvalidArgument(
            f"{target!r} is neither a path nor a chunk's handle",
            hint="A path begins with '/'; a handle is hexadecimal, as 'gfs chunks' shows it.",
        )
    path, colon, number = target.rpartition(":")
    return (path, int(number)) if colon and number.isdecimal() and path != "gfs" else (target, None)
