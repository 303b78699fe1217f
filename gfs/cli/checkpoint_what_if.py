"""`gfs checkpoint what-if`: what would be lost with some chunk servers. gfs.inspect.what_if judges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from gfs.cli.checkpoint_answers import EXIT_DAMAGE, emit_rows, open_noted
from gfs.cli.command_group import CommandGroup
from gfs.cli.render import text_table
from gfs.errors import InvalidArgument
from gfs.inspect.what_if import AffectedFile, Outlook, read_racks
from gfs.inspect.what_if import what_if as look_ahead

_FATES = {
    "lost": "lost",
    "last_replica": "one failure from loss: a single replica left",
    "one_rack": "one rack from loss: all that is left in one rack",
    "short": "fewer replicas than before",
    "untouched": "untouched",
}


@click.group("what-if", cls=CommandGroup)
def what_if() -> None:
    """Say what would be lost with some chunk servers, by the replica sets in a checkpoint.

    Servers that were removed count as lost. The checkpoint knows neither racks nor what disks really hold:
    --servers takes a FILE made by 'gfs -o json admin chunkservers ls', --inventory chunk servers'
    directories, or what 'gfs chunk inventory' made of them. Servers without an inventory are believed to
    hold what they should.

    For example: gfs checkpoint what-if lose-server m1/ cs-1a2b3c4d --inventory c1/ --inventory others.jsonl
    """


_servers_option = click.option("--servers", "report", metavar="FILE", help="In which rack each server is.")


_inventory_option = click.option(
    "--inventory",
    "inventories",
    metavar="DIR|FILE",
    multiple=True,
    help="A chunk server's directory, or a report of some; may be given many times.",
)


@what_if.command("lose-server")
@click.argument("file")
@click.argument("servers", metavar="ID…", nargs=-1, required=True)
@_servers_option
@_inventory_option
@click.pass_context
def lose_server(
    ctx: click.Context, file: str, servers: Sequence[str], report: str | None, inventories: Sequence[str]
) -> None:
    """Chunks and files lost, or one failure from loss, without chunk servers ID. Exits 7 when any is lost."""
    rack_of = read_racks(report) if report is not None else {}
    _tell_outlook(
        ctx, *look_ahead(open_noted(file), servers=servers, rack_of=rack_of, inventories=inventories)
    )


@what_if.command("lose-rack")
@click.argument("file")
@click.argument("racks", metavar="RACK…", nargs=-1, required=True)
@_servers_option
@_inventory_option
@click.pass_context
def lose_rack(
    ctx: click.Context, file: str, racks: Sequence[str], report: str | None, inventories: Sequence[str]
) -> None:
    """As lose-server, for all chunk servers of some racks; needs --servers."""
    if report is None:
        hint = "Give --servers FILE, made by 'gfs -o json admin chunkservers ls > FILE'."
        raise InvalidArgument("a checkpoint does not know which server is in which rack", hint=hint)
    _tell_outlook(
        ctx, *look_ahead(open_noted(file), racks=racks, rack_of=read_racks(report), inventories=inventories)
    )


def _tell_outlook(ctx: click.Context, outlook: Outlook, files: Iterator[AffectedFile]) -> None:
    """In JSON the outlook comes first, then the files."""
    if ctx.obj.output == "table":
        click.echo(f"without {', '.join(outlook.servers_lost)}, {outlook.servers_left} chunk servers left:")
        if outlook.inventories:
            absent, surplus = outlook.absent_replicas, outlook.surplus_replicas
            click.echo(
                f"disks asked: {len(outlook.inventories)}; {absent} replicas missing there, "
                f"{surplus} came later"
            )
        counts = ([f"{count}", _FATES[fate]] for fate, count in outlook.chunks.items())
        click.echo(text_table([">chunks", "what becomes of them"], counts))
        rows = ((None, [one.fate, f"{one.chunks} of {one.of_chunks}", one.path]) for one in files)
        emit_rows("table", ["worst", ">chunks", "file"], rows)
    else:
        emit_rows(ctx.obj.output, [], ((one, []) for one in _with_first(outlook, files)))
    if outlook.chunks["lost"]:
        ctx.exit(EXIT_DAMAGE)


def _with_first(first: Outlook, others: Iterator[AffectedFile]) -> Iterator[Outlook | AffectedFile]:
    yield first
    yield from others
