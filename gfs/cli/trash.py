"""Commands for what was deleted: undelete, trash ls, trash purge. Deleting is rm's (see files)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from gfs.cli.cluster_address import remote_path, run_with_client
from gfs.cli.command_group import CommandGroup
from gfs.cli.files import each_path
from gfs.cli.render import emit_many, human_bytes, human_time, note
from gfs.client.client import AsyncClient
from gfs.messages.trash import TrashEntry


@click.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--to", metavar="PATH", help="Where it is to go, instead of where it was.")
@click.pass_context
def undelete(ctx: click.Context, paths: Sequence[str], to: str | None) -> None:
    """Give back what was deleted, with everything that was in it.

    A path means what was deleted from there last; /.trash/ID, as 'gfs trash ls' shows it, any of several.
    Parents that are gone are made; what is there by now is never replaced.
    """
    if to is not None and len(paths) > 1:
        raise click.UsageError("Only one path can go to the place that --to names.")

    back: list[dict[str, str]] = []

    async def work(client: AsyncClient) -> None:
        async def give_back(path: str) -> None:
            there = await client.undelete(path, destination=remote_path(to) if to else "")
            note(f"{there} is back")
            back.append({"asked": path, "path": there})

        await each_path(paths, give_back)

    run_with_client(ctx, work)
    if ctx.obj.output != "table":
        emit_many(back, ctx.obj.output, [], [])


@click.group(cls=CommandGroup)
def trash() -> None:
    """Show what was deleted, or free its space before its time."""


@trash.command("ls")
@click.argument("path", default="/")
@click.pass_context
def list_trash(ctx: click.Context, path: str) -> None:
    """List what was deleted from PATH or from below it, and until when it can be had back.

    The name in the first column can be read like any other: gfs cat /.trash/17.
    """

    async def work(client: AsyncClient) -> list[TrashEntry]:
        return [entry async for entry in client.trash(remote_path(path))]

    entries = run_with_client(ctx, work)
    emit_many(
        entries,
        ctx.obj.output,
        ["name", ">size", "deleted (UTC)", "kept until (UTC)", "was"],
        (_columns(entry) for entry in entries),
    )


def _columns(found: TrashEntry) -> list[str]:
    return [
        found.entry.path,
        human_bytes(found.content_bytes),
        human_time(found.deleted_ms) if found.deleted_ms else "-",
        human_time(found.expires_ms),
        found.path + ("" if found.entry.kind == "file" else "/"),
    ]


@trash.command()
@click.argument("paths", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Also what was deleted from below PATHS.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def purge(ctx: click.Context, paths: Sequence[str], everything: bool, yes: bool) -> None:
    """Delete for good what was deleted from PATHS, or the entries /.trash/ID.

    --all without PATHS means the whole trash. Space is freed within seconds; nobody can have it back.
    """
    if not paths and not everything:
        raise click.UsageError("Name what to purge, or say --all for the whole trash.")
    if everything and not yes and not sys.stdin.isatty():
        raise click.UsageError("Nobody can be asked whether that is meant: say --yes.")
    if everything and not yes:
        where = " and ".join(paths) or "the whole cluster"
        click.confirm(f"Delete for good all that was ever deleted from {where}?", abort=True, err=True)

    done: list[dict[str, str | int]] = []

    async def work(client: AsyncClient) -> None:
        async def do(path: str) -> None:
            count = await client.purge(path, everything=everything)
            note(f"{path}: {count} deleted {'entry' if count == 1 else 'entries'} purged")
            done.append({"path": path, "entries": count})

        await each_path(paths or ["/"], do)

    run_with_client(ctx, work)
    if ctx.obj.output != "table":
        emit_many(done, ctx.obj.output, [], [])
