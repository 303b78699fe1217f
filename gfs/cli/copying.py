"""`gfs cp` and `gfs touch`: new files from what is in the cluster. Between machines: transfer, syncing."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import click

from gfs.cli.cluster_address import remote_path, run_with_client
from gfs.cli.completion import complete_remote
from gfs.cli.files import each_path, is_directory
from gfs.client.client import AsyncClient
from gfs.errors import AlreadyExists, GfsError, InvalidArgument, IsADirectory, NotFound
from gfs.vocabulary import split_path


@click.command(epilog="Example: gfs cp -r /data/2025 /archive")
@click.argument("sources", nargs=-1, required=True, shell_complete=complete_remote)
@click.argument("destination", shell_complete=complete_remote)
@click.option("-r", "--recursive", is_flag=True, help="Directories with everything in them.")
@click.option("-f", "--force", is_flag=True, help="Replace an existing file (the old one goes to the trash).")
@click.pass_context
def cp(ctx: click.Context, sources: Sequence[str], destination: str, recursive: bool, force: bool) -> None:
    """Copy files or trees within the cluster; into DESTINATION when that is a directory.

    Each copy is a snapshot: of one moment, at once, and without new bytes on the disks until one of the two
    is written to.
    """

    async def work(client: AsyncClient) -> None:
        target = remote_path(destination)
        into = await is_directory(client, target)
        if len(sources) > 1 and not into:
            raise InvalidArgument(
                f"{destination} is not a directory, so it cannot take {len(sources)} copies",
                hint=f"Make it first: gfs mkdir -p {destination}",
            )

        async def copy(path: str) -> None:
            source = await client.stat(path)
            if source.kind == "directory" and not recursive:
                raise IsADirectory(f"{path} is a directory", hint="Add -r to copy everything in it.")
            names = split_path(source.path)
            final = f"{target.rstrip('/')}/{names[-1]}" if into and names else target
            if force and source.kind == "file":
                await _replace(client, source.path, final)
            else:
                await client.snapshot(source.path, final)

        await each_path(sources, copy)

    run_with_client(ctx, work)


async def _replace(client: AsyncClient, source: str, final: str) -> None:
    """Beside it and then into its place, so that a file is at `final` at every moment."""
    if source == final:
        raise InvalidArgument(f"{source} and its copy are the same file")
    folder, _, name = final.rpartition("/")
    beside = f"{folder}/.{name[:200]}.copy-{secrets.token_hex(6)}"
    await client.snapshot(source, beside)
    try:
        await client.rename(beside, final, replace=True)
    except GfsError as error:
        if error.definite:
            await client.delete(beside, skip_trash=True)
        raise


@click.command(epilog="Example: gfs touch /data/_SUCCESS")
@click.argument("paths", nargs=-1, required=True, shell_complete=complete_remote)
@click.pass_context
def touch(ctx: click.Context, paths: Sequence[str]) -> None:
    """Make empty files where there is nothing; what exists stays as it is, its times too."""

    async def work(client: AsyncClient) -> None:
        async def make(path: str) -> None:
            try:
                await client.create(path)
            except AlreadyExists:
                try:
                    found = await client.stat(path)
                except NotFound:  # it was deleted at this very moment; whoever did wanted it so
                    return
                if found.kind == "directory":
                    raise IsADirectory(f"{path} is a directory") from None

        await each_path(paths, make)

    run_with_client(ctx, work)
