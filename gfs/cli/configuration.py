"""`gfs config`: check, show and describe gfs.toml."""

from __future__ import annotations

import os

import click
import msgspec

from gfs import settings as settings_module
from gfs.cli.cluster_address import data_directory, load_settings
from gfs.cli.command_group import CommandGroup
from gfs.cli.render import emit_one


@click.group(cls=CommandGroup)
def config() -> None:
    """Check, show or describe gfs.toml."""


@config.command()
@click.argument("file", required=False)
@click.pass_context
def check(ctx: click.Context, file: str | None) -> None:
    """Read a configuration as a program would and say what is wrong with it, if anything."""
    path = file or ctx.obj.config or os.path.join(data_directory(ctx.obj), "gfs.toml")
    found = settings_module.load(path)
    masters, chunkservers = sorted(found.masters), sorted(found.chunkservers)
    emit_one(
        {"path": path, "good": True, "masters": masters, "chunkservers": chunkservers},
        ctx.obj.output,
        f"{path}: good; {len(masters)} masters, {len(chunkservers)} chunk servers",
    )


@config.command()
@click.pass_context
def show(ctx: click.Context) -> None:
    """Show every setting in force: defaults, file and environment together, as JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(load_settings(ctx.obj)), indent=2).decode())


@config.command()
def schema() -> None:
    """Print the JSON schema of gfs.toml."""
    click.echo(msgspec.json.format(msgspec.json.encode(settings_module.schema()), indent=2).decode())
