"""`gfs checkpoint`: questions to a master's checkpoints on disk, read-only and without any server."""

from __future__ import annotations

from collections.abc import Sequence

import click

from gfs.cli.command_group import CommandGroup
from gfs.cli.render import emit_many, emit_one, human_bytes, human_time, text_table
from gfs.inspect.checkpoint_files import find_checkpoint, list_checkpoints
from gfs.inspect.verify import Verdict
from gfs.inspect.verify import verify as verify_file

EXIT_DAMAGE = 7
FINDINGS_SHOWN = 50


@click.group(cls=CommandGroup)
def checkpoint() -> None:
    """Ask checkpoints on disk: no server is needed, and nothing is written.

    FILE is a checkpoint (.lmdb), its manifest, or a master's directory, which stands for its newest sound
    checkpoint. Before it is asked, its length and checksum are compared with its manifest's.
    """


@checkpoint.command("ls")
@click.argument("directory")
@click.pass_context
def list_(ctx: click.Context, directory: str) -> None:
    """List the checkpoints of a master's DIRECTORY: which are whole, which are not, and why.

    Reads each to its end, to compare its checksum. Exits 7 when there is none that is whole.
    """
    rows = list_checkpoints(directory)
    emit_many(
        rows,
        ctx.obj.output,
        [">index", ">term", "made at (UTC)", ">size", "state", "file"],
        (
            [
                str(row.index),
                str(row.term),
                human_time(row.made_at_ms) if row.made_at_ms else "-",
                human_bytes(row.length_bytes),
                f"{row.wholeness}: {row.why}" if row.why else row.wholeness,
                row.path,
            ]
            for row in rows
        ),
    )
    if not any(row.wholeness == "whole" for row in rows):
        ctx.exit(EXIT_DAMAGE)


@checkpoint.command("verify")
@click.argument("files", metavar="FILE…", nargs=-1, required=True)
@click.pass_context
def verify(ctx: click.Context, files: Sequence[str]) -> None:
    """Check everything a checkpoint can show, and name all that is wrong. Exits 7 when anything is.

    Manifest, length, checksum; then each row: entries and inodes, chunks and the files that share them,
    sums and quotas, policies, trash, snapshots, sessions, counters; and the digest of all rows, which finds
    any change that the other rules cannot.
    """
    verdicts: list[Verdict] = []
    for file in files:
        verdict = verify_file(find_checkpoint(file))
        verdicts.append(verdict)
        if ctx.obj.output != "json":
            emit_one(verdict, ctx.obj.output, _verdict_text(verdict))
    if ctx.obj.output == "json":
        emit_one(verdicts, ctx.obj.output, "")
    if not all(verdict.is_sound for verdict in verdicts):
        ctx.exit(EXIT_DAMAGE)


def _verdict_text(verdict: Verdict) -> str:
    entries = verdict.rows.get("inodes", 0)
    rate = f"{entries / verdict.seconds:,.0f} a second" if verdict.seconds else "at once"
    lines = [f"{verdict.path}: {entries} files and directories, {verdict.rows.get('chunks', 0)} chunks"]
    if verdict.is_sound:
        lines.append(f"  sound: nothing is wrong ({verdict.seconds:.1f} s, {rate})")
        return "\n".join(lines)
    lines.append(f"  damaged: {sum(verdict.counts.values())} findings")
    rows = [[f.rule, f.table or "file", f.key, f.message] for f in verdict.findings[:FINDINGS_SHOWN]]
    lines.append(text_table(["rule", "table", "row", "what is wrong"], rows).rstrip("\n"))
    if sum(verdict.counts.values()) > len(rows):
        counted = ", ".join(f"{rule}: {count}" for rule, count in sorted(verdict.counts.items()))
        lines.append(f"… all by rule: {counted}; '-o json' shows more of them")
    return "\n".join(lines)
