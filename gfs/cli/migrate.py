"""`gfs chunkserver migrate`: has a running chunk server move its chunks to another store; tells how far."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from gfs.cli.program_logs import open_program_logs
from gfs.cli.render import counted, emit_one, human_bytes, note
from gfs.messages.stores import MigrateStore, MigrateStoreReply

if TYPE_CHECKING:
    from gfs.cli.app import GlobalOptions

ASK_SECONDS = 30.0  # the answer that begins a move waits for a few syncs
LOOK_SECONDS = 0.5  # between two questions how far it is


@click.command()
@click.argument("node")
@click.option(
    "--to", metavar="STORE", default="", help="The store to move to; without it, only say how far it is."
)
@click.option("--no-wait", is_flag=True, help="Return when it has begun; the server goes on by itself.")
@click.pass_context
def migrate(ctx: click.Context, node: str, to: str, no_wait: bool) -> None:
    """Move all chunks of the running chunk server NODE to another store.

    Files are read and written meanwhile. It may be interrupted, and the server killed: it goes on at its next
    start, without being asked again, and whatever gfs.toml says.

    \b
    Example:
      gfs chunkserver migrate cs1 --to lmdb
      gfs chunkserver migrate cs1
    """
    found = asyncio.run(_migrate(ctx.obj, node, to, wait=bool(to) and not no_wait))
    emit_one(found, ctx.obj.output, _in_words(found))
    if to and not found.leaving and ctx.obj.output == "table":
        note(
            f"Put it in gfs.toml, too: [chunkservers.{node}] store = {found.store!r}. Until then starts warn."
        )


async def _migrate(options: GlobalOptions, node: str, to: str, *, wait: bool) -> MigrateStoreReply:
    programs = await open_program_logs(options, (node,))
    try:
        found = await programs.ask(node, MigrateStore(to=to), MigrateStoreReply, seconds=ASK_SECONDS)
        problem = ""
        while wait and found.leaving:
            await asyncio.sleep(LOOK_SECONDS)
            found = await programs.ask(node, MigrateStore(), MigrateStoreReply, seconds=ASK_SECONDS)
            if options.output == "table" and not options.quiet and sys.stderr.isatty():
                note(_in_words(found))
            if found.problem and found.problem != problem:
                note(f"gfs: {found.problem}; it is tried again")
            problem = found.problem
        return found
    finally:
        await programs.close()


def _in_words(found: MigrateStoreReply) -> str:
    moved = f"{counted(found.moved_chunks, 'chunk')} ({human_bytes(found.moved_bytes)}) moved"
    if not found.leaving:
        return f"all chunks are in the store {found.store!r}; {moved}"
    stuck = (
        f", {found.stuck_chunks} of them cannot be moved yet: {found.problem}" if found.stuck_chunks else ""
    )
    return f"from {found.leaving!r} to {found.store!r}: {moved}, {found.left_chunks} to go{stuck}"
