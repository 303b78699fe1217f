"""`gfs admin`: what an operator does to a running cluster."""

from __future__ import annotations

import click

from gfs.cli.cluster_address import run_with_client
from gfs.cli.command_group import CommandGroup
from gfs.cli.placement import chunkservers, rebalance, replication
from gfs.cli.render import note
from gfs.client.client import AsyncClient


@click.group(cls=CommandGroup)
def admin() -> None:
    """Operate the cluster: its masters, chunk servers and replicas."""


admin.add_command(chunkservers)
admin.add_command(rebalance)
admin.add_command(replication)


@admin.group()
def members() -> None:
    """The masters as Raft members."""


@members.command()
@click.argument("master")
@click.pass_context
def readmit(ctx: click.Context, master: str) -> None:
    """Let MASTER vote again after it came back with an empty disk.

    A master that has lost its disk is refused under its old name: it has forgotten what it promised.
    Empty its directory, start it, and readmit it while all other masters are up; it then catches up.
    """

    async def work(client: AsyncClient) -> None:
        await client.readmit_master(master)

    run_with_client(ctx, work)
    note(f"{master} is readmitted and catches up; see 'gfs status'")
