"""Masters of the cluster that 'gfs up' runs here: `up --masters N` and `admin members add|remove` on it."""

from __future__ import annotations

import os
import signal

import click

from gfs.cli.cluster_address import data_directory, run_with_client
from gfs.cli.render import note
from gfs.client.client import AsyncClient
from gfs.errors import Unavailable
from gfs.local import layout as local_layout
from gfs.local.layout import SupervisorLock
from gfs.local.resizing import LocalMasters

RELOAD_SIGNAL = signal.SIGUSR1  # to a supervisor: gfs.toml has gained or lost a master


def is_local(ctx: click.Context) -> bool:
    """Whether the cluster meant is the one of this machine's data directory."""
    options = ctx.obj
    return not (options.master or options.config) and local_layout.exists(data_directory(options))


def resize(ctx: click.Context, masters: int) -> None:
    """Grow or shrink the running local cluster to so many masters, and say how it goes."""

    async def work(client: AsyncClient) -> None:
        await _masters_of(ctx, client).resize(masters)

    run_with_client(ctx, work)


def add(ctx: click.Context, name: str) -> str:
    """One more master for the running local cluster. Returns: its name."""

    async def work(client: AsyncClient) -> str:
        return await _masters_of(ctx, client).add(name)

    return run_with_client(ctx, work)


def remove(ctx: click.Context, name: str) -> None:
    async def work(client: AsyncClient) -> None:
        await _masters_of(ctx, client).remove(name)

    run_with_client(ctx, work)


def _masters_of(ctx: click.Context, client: AsyncClient) -> LocalMasters:
    directory = data_directory(ctx.obj)

    def reload() -> None:
        holder = SupervisorLock(directory).holder()
        if not holder:
            raise Unavailable(
                f"the cluster in {directory} is not running", hint="Start it with 'gfs up', then ask again."
            )
        os.kill(holder, RELOAD_SIGNAL)

    return LocalMasters(directory, client.operator, reload=reload, say=note)
