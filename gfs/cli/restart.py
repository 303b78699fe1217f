"""`gfs admin restart-masters`: all masters anew, one after the other, while the cluster serves."""

from __future__ import annotations

import asyncio
import os
import shlex

import click

from gfs.cli.cluster_address import data_directory, run_with_client
from gfs.cli.render import note
from gfs.client.client import AsyncClient
from gfs.errors import InvalidArgument, Unavailable
from gfs.local import layout as local_layout
from gfs.local.rolling import restart_here, restart_masters


@click.command("restart-masters")
@click.option(
    "--command",
    default="",
    metavar="TEXT",
    help="How to restart one master; {} stands for its id. Not needed on a cluster of 'gfs up'.",
)
@click.pass_context
def restart_masters_(ctx: click.Context, command: str) -> None:
    """Restart all masters, one after the other, without a call failing.

    Followers first, the leader last; the next one only when all take part and have caught up. A restart is a
    clean stop (SIGTERM: a leader hands over) and a start. It ends at the first that does not come back.

    \b
    Example:
      gfs admin restart-masters
      gfs admin restart-masters --command 'ssh {} systemctl restart gfs-master'
    """
    directory = data_directory(ctx.obj)
    is_local = not (ctx.obj.master or ctx.obj.config) and local_layout.exists(directory)
    if not command and not is_local:
        raise InvalidArgument(
            "how a master of this cluster is restarted must be said", hint="Give --command, see --help."
        )

    async def restart(node: str) -> None:
        if not command:
            await restart_here(local_layout.open_layout(directory), node)
            return
        parts = [part.replace("{}", node) for part in shlex.split(command)]
        try:
            process = await asyncio.create_subprocess_exec(*parts)
        except OSError as error:
            raise Unavailable(f"cannot run {parts[0]}: {os.strerror(error.errno or 0)}") from error
        if status := await process.wait():
            raise Unavailable(f"{shlex.join(parts)} ended with status {status}")

    async def work(client: AsyncClient) -> list[str]:
        return await restart_masters(client.cluster_status, restart, say=note)

    done = run_with_client(ctx, work)
    note(f"restarted: {', '.join(done)}")
