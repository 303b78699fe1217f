"""The command that follows what changes in the namespace. What a change is, messages say."""

from __future__ import annotations

import sys

import click

from gfs.cli.cluster_address import remote_path, run_with_client
from gfs.cli.completion import complete_remote
from gfs.cli.render import emit_one, note, rfc3339, visible
from gfs.client.client import AsyncClient
from gfs.messages.changes import Change


@click.command(epilog="Example: gfs -o jsonl watch /logs --from 1234")
@click.argument("path", default="/", shell_complete=complete_remote)
@click.option(
    "--from",
    "since",
    type=click.IntRange(min=1),
    metavar="INDEX",
    help="Go on from this log entry, itself told.",
)
@click.option("-n", "--count", type=click.IntRange(min=1), help="End after so many changes.")
@click.pass_context
def watch(ctx: click.Context, path: str, since: int | None, count: int | None) -> None:
    """Show what changes at PATH and below, as it happens, until interrupted.

    Each line begins with the index of a log entry; --from INDEX goes on there later, also at other masters.
    Every change is shown at least once, in the order of the log, and only once a majority of masters has it.
    """

    async def work(client: AsyncClient) -> None:
        watched = remote_path(path)
        following = await client.watch(watched, since=since or 0)
        if not ctx.obj.quiet:
            note(f"gfs: watching {watched} from log entry {following.position}")
        shown = 0
        async for change in following:
            emit_one(change, ctx.obj.output, _line(change))
            sys.stdout.flush()
            shown += 1
            if shown == count:
                return

    run_with_client(ctx, work)


def _line(change: Change) -> str:
    where = change.path or (f"inode {change.inode}" if not change.source else "out of what is watched")
    moved = f"{change.source or 'from elsewhere'} -> {where}" if change.kind == "renamed" else where
    length = f" ({change.length_bytes} bytes)" if change.length_bytes >= 0 else ""
    return f"{change.index}  {rfc3339(change.at_ms)}  {change.kind:<10}  {visible(moved)}{length}"
