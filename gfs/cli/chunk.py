"""`gfs chunk`: a chunk server's disk, read without its server or beside it. The reading is gfs.inspect's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click
import msgspec

from gfs.cli.command_group import CommandGroup
from gfs.cli.render import emit_one, emit_schema, emit_stream, human_bytes, note
from gfs.errors import NotFound
from gfs.inspect.chunk_rows import IndexFault, chunkserver_directory
from gfs.inspect.chunk_verify import (
    ChunkFinding,
    ChunkSummary,
    ChunkVerdict,
    ChunkVerifier,
    ReplicaRow,
    replica_rows,
)
from gfs.inspect.inventories import InventoryRow, inventory_rows
from gfs.vocabulary import ChunkHandle

EXIT_DAMAGE = 7


def _parse_handle(_: click.Context, __: click.Parameter, value: str | None) -> ChunkHandle | None:
    if value is None:
        return None
    try:
        found = int(value, 16)
    except ValueError:
        found = -1
    if not 0 <= found < 2**64:
        raise click.BadParameter(f"{value!r} is no chunk handle; they are hexadecimal, as 'gfs chunks' shows")
    return ChunkHandle(found)


_DOCUMENTS: dict[str, type] = {
    "inspect": ReplicaRow,
    "inventory": InventoryRow,
    "verify -o json": ChunkVerdict,
    "verify -o jsonl": ChunkFinding,
}
_place_argument = click.argument("place", metavar="FILE|DIR")
_handle_option = click.option("--handle", callback=_parse_handle, metavar="HEX", help="Only this replica.")


@click.group(cls=CommandGroup)
def chunk() -> None:
    """Look at a chunk server's disk: offline, changing nothing, also beside a running server.

    DIR is a chunk server's directory, FILE one chunk's file in it.
    """


@chunk.command()
@_place_argument
@_handle_option
@click.pass_context
def inspect(ctx: click.Context, place: str, handle: ChunkHandle | None) -> None:
    """List the replicas: handle, version, length, seal, remembered records, known damage."""
    directory, named = chunkserver_directory(place)
    only = handle if handle is not None else named
    faults: list[IndexFault] = []
    shown = 0

    def rows() -> Iterator[ReplicaRow]:
        nonlocal shown
        for row in replica_rows(directory, only):
            if isinstance(row, IndexFault):
                faults.append(row)
                continue
            shown += 1
            yield row

    emit_stream(rows(), ctx.obj.output, _replica_line)
    for fault in faults:
        note(f"damage: {fault.what}")
    if faults:
        ctx.exit(EXIT_DAMAGE)
    if only is not None and not shown:
        raise NotFound(f"{directory} holds no replica of chunk {only:x}")


def _replica_line(row: ReplicaRow) -> str:
    if row.fault:
        return f"{row.handle:>16x}  DAMAGED ENTRY: {row.fault}"
    words = [
        "sealed" if row.sealed else "",
        f"guest ({row.guest})" if row.guest else "",
        f"{row.records} records" if row.records else "",
        "durable" if row.durable else "",
        "an overwrite waits to be finished" if row.overwrite_waits else "",
        f"may lack bytes of version {row.short_version}" if row.short_version else "",
        "NO FILE" if row.path and row.stored_bytes < 0 and row.length_bytes else "",
        f"MARKED DAMAGED: {row.marked}" if row.marked else "",
    ]
    said = ", ".join(word for word in words if word)
    return f"{row.handle:>16x}  v{row.version:<5}  {row.length_bytes:>9} bytes  {said}".rstrip()


@chunk.command()
@_place_argument
@_handle_option
@click.pass_context
def verify(ctx: click.Context, place: str, handle: ChunkHandle | None) -> None:
    """Read every replica's bytes and compare all blocks with their checksums; find lost and surplus files.

    Nothing is changed, and nothing reported to the masters: a running server's scrubber does that. Exit
    status 7: damage.
    """
    directory, named = chunkserver_directory(place)
    only = handle if handle is not None else named
    verifier = ChunkVerifier(directory, only)
    if ctx.obj.output == "json":
        findings = list(verifier.findings())
        emit_one(ChunkVerdict(summary=verifier.summary, findings=findings), "json", "")
    else:
        emit_stream(verifier.findings(), ctx.obj.output, _finding_line)
        told = _summary_text(verifier.summary)
        (click.echo if ctx.obj.output == "table" else note)(told)
    if only is not None and not verifier.summary.replicas + verifier.summary.guests:
        raise NotFound(f"{directory} holds no replica of chunk {only:x}")
    if verifier.summary.damage:
        note(
            "     A running server's masters clone what is damaged from good copies and delete it here; 'gfs "
            "fsck' tells whether any file is in danger."
        )
        ctx.exit(EXIT_DAMAGE)


@chunk.command()
@click.argument("places", metavar="DIR…", nargs=-1, required=True)
def inventory(places: Sequence[str]) -> None:
    """Tell which replicas chunk servers' disks hold, one JSON document a line, for 'gfs checkpoint what-if'.

    A running server's disk may be read, too.

    For example: gfs chunk inventory /disks/c1 /disks/c2 > inventory.jsonl
    """
    for place in places:
        for row in inventory_rows(place):
            click.echo(msgspec.json.encode(row).decode())


@chunk.command()
def schema() -> None:
    """Print the JSON Schema of what the other commands answer with '-o json' and '-o jsonl'."""
    emit_schema(_DOCUMENTS)


def _finding_line(finding: ChunkFinding) -> str:
    where = f"chunk {finding.handle:x}" if finding.handle else finding.path
    what = finding.kind.replace("_", " ")
    return f"{'DAMAGE' if finding.is_damage else 'note'}  {where}  {what}: {finding.what}"


def _summary_text(summary: ChunkSummary) -> str:
    guests = f" and {summary.guests} copies being made" if summary.guests else ""
    verdict = f"{summary.damage} damaged" if summary.damage else "sound"
    return (
        f"{summary.replicas} replicas{guests}, {human_bytes(summary.verified_bytes)} in "
        f"{summary.verified_blocks} blocks verified: {verdict}"
    )
