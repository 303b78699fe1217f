"""`gfs chunkserver tier`: how much of the chunks of running chunk servers is on their object service."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import click

from gfs.cli.program_logs import open_program_logs
from gfs.cli.render import counted, emit_one, human_bytes
from gfs.messages.stores import ShowTier, TierReply

if TYPE_CHECKING:
    from gfs.cli.app import GlobalOptions

ASK_SECONDS = 5.0


@click.command()
@click.argument("node")
@click.pass_context
def tier(ctx: click.Context, node: str) -> None:
    """Show how much of the chunk server NODE is on its object service, and whether it can be used.

    \b
    Example:
      gfs chunkserver tier cs1
    """
    found = asyncio.run(_ask(ctx.obj, node))
    emit_one(found, ctx.obj.output, _in_words(found))


async def _ask(options: GlobalOptions, node: str) -> TierReply:
    programs = await open_program_logs(options, (node,))
    try:
        return await programs.ask(node, ShowTier(), TierReply, seconds=ASK_SECONDS)
    finally:
        await programs.close()


def _in_words(found: TierReply) -> str:
    if not found.url:
        return "no object service: all chunks are on the server's own disk (chunkserver.tier.url names one)"
    lines = [
        f"{counted(found.out_chunks, 'chunk')} on {found.url}, {found.partly_out_chunks} more in part; "
        f"{human_bytes(found.object_bytes)} of objects",
        f"since the server's start {counted(found.moved_chunks, 'chunk')} ({human_bytes(found.moved_bytes)}) "
        f"went out, {human_bytes(found.back_bytes)} came back",
    ]
    if found.recall:
        lines.append("recall: nothing goes out any more, everything comes back")
    if found.problem:
        minutes = max(0, time.time() * 1000 - found.problem_since_ms) / 60_000
        lines.append(f"for {minutes:.0f} min the service cannot be used: {found.problem}")
        lines.append("nothing is lost by waiting: what is out is read from replicas that are not")
    return "\n".join(lines)
