"""`gfs admin gc`: whether garbage is collected."""

from __future__ import annotations

import click

from gfs.cli.cluster_address import run_with_client
from gfs.cli.command_group import CommandGroup
from gfs.cli.render import note
from gfs.client.client import AsyncClient


@click.group(cls=CommandGroup)
def gc() -> None:
    """Whether garbage is collected: replicas nobody needs, and what was deleted."""


@gc.command()
@click.pass_context
def hold(ctx: click.Context) -> None:
    """Collect no garbage, and reclaim nothing that was deleted, until 'gfs admin gc resume'."""
    _hold_garbage(ctx, held=True)
    note("no garbage is collected and nothing deleted is reclaimed from now on")


@gc.command()
@click.pass_context
def resume(ctx: click.Context) -> None:
    """Collect garbage again.

    After a restore it is held, as chunk servers may hold chunks of files that only a newer state knows.
    From now on these are garbage, and are deleted. It is refused until all chunk servers were heard.
    """
    _hold_garbage(ctx, held=False)
    note("garbage is collected again")


def _hold_garbage(ctx: click.Context, *, held: bool) -> None:
    async def work(client: AsyncClient) -> bool:
        return await client.backups.hold_garbage(held)

    run_with_client(ctx, work)
