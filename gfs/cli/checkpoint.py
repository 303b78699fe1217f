"""`gfs checkpoint`: questions to a master's checkpoints on disk, read-only and without any server."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

import click

from gfs.cli.checkpoint_answers import EXIT_DAMAGE, emit_rows, find_noted, open_noted
from gfs.cli.checkpoint_view import serve
from gfs.cli.checkpoint_what_if import what_if
from gfs.cli.command_group import CommandGroup
from gfs.cli.oplog import blame, replay
from gfs.cli.render import emit_many, emit_one, emit_schema, human_bytes, human_time, note, text_table
from gfs.errors import InvalidArgument
from gfs.inspect import diff as differences
from gfs.inspect import export as exporting
from gfs.inspect import query as querying
from gfs.inspect import summary as summaries
from gfs.inspect.checkpoint_files import CheckpointRow, list_checkpoints
from gfs.inspect.oplog_blame import Blame
from gfs.inspect.relations import RELATIONS, documentation, row_type
from gfs.inspect.verify import Verdict
from gfs.inspect.verify import verify as verify_file
from gfs.inspect.what_if import AffectedFile, Outlook
from gfs.master.replication.checkpoints import CheckpointManifest

FINDINGS_SHOWN = 50

_HANDLE = re.compile(r"^(?:0x)?([0-9a-fA-F]{1,16})$")
_DOCUMENTS: dict[str, type] = {
    "ls": CheckpointRow,
    "verify": Verdict,
    "inspect": summaries.Summary,
    "inspect --path": summaries.PathDetail,
    "inspect --handle": summaries.HandleDetail,
    "diff": differences.Difference,
    "blame": Blame,
    "replay": CheckpointManifest,
    "what-if, first": Outlook,
    "what-if, then": AffectedFile,
}


@click.group(cls=CommandGroup)
def checkpoint() -> None:
    """Ask checkpoints on disk: no server is needed, and nothing is written.

    FILE is a checkpoint (.lmdb), its manifest, or a master's directory, which stands for its newest sound
    checkpoint. Before it is asked, its length and checksum are compared with its manifest's.
    """


checkpoint.add_command(serve)
checkpoint.add_command(what_if)
checkpoint.add_command(blame)  # of log and checkpoints together: looked for in either place
checkpoint.add_command(replay)


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
        verdict = verify_file(find_noted(file))
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


@checkpoint.command("inspect")
@click.argument("file")
@click.option("--path", metavar="PATH", help="One file with its chunks, or one directory.")
@click.option("--handle", metavar="HEX", help="One chunk, with the files that share it.")
@click.pass_context
def inspect(ctx: click.Context, file: str, path: str | None, handle: str | None) -> None:
    """Show what a checkpoint holds: totals, sizes of files, the biggest directories."""
    if path is not None and handle is not None:
        raise InvalidArgument("--path and --handle ask for different things: give one of them")
    found = open_noted(file)
    if path is not None:
        detail = summaries.detail_of_path(found, path)
        emit_one(detail, ctx.obj.output, _path_text(detail))
    elif handle is not None:
        match = _HANDLE.match(handle)
        if match is None:
            raise InvalidArgument(
                f"{handle!r} is no chunk handle", hint="It is hexadecimal: 00000000000002a1."
            )
        chunk = summaries.detail_of_handle(found, int(match[1], 16))
        emit_one(chunk, ctx.obj.output, _handle_text(chunk))
    else:
        summary = summaries.summarize(found)
        emit_one(summary, ctx.obj.output, _summary_text(summary))


@checkpoint.command("diff")
@click.argument("first")
@click.argument("second")
@click.option("--chunks", is_flag=True, help="Compare chunks, their versions and replica sets, not paths.")
@click.pass_context
def diff(ctx: click.Context, first: str, second: str, chunks: bool) -> None:
    """Show what differs from checkpoint FIRST to checkpoint SECOND, by path or by chunk.

    What moved is shown where it was and where it is, under the same inode. What is deleted lies in the trash.
    """
    work = differences.diff_chunks if chunks else differences.diff_paths
    found = work(open_noted(first), open_noted(second))
    title = ["change", "chunk" if chunks else "path", "what"]
    rows = (
        (one, [one.change, f"{one.handle:016x}" if chunks else one.path, _difference_text(one)])
        for one in found
    )
    if not emit_rows(ctx.obj.output, title, rows) and ctx.obj.output == "table":
        note("no difference")


@checkpoint.command("export")
@click.argument("file")
@click.option("--table", type=click.Choice(list(RELATIONS)), default="files", show_default=True)
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv", "parquet"]),
    default="jsonl",
    show_default=True,
    help="Parquet needs pyarrow.",
)
@click.pass_context
def export(ctx: click.Context, file: str, table: str, form: exporting.Format) -> None:
    """Write one table of a checkpoint to standard output. 'query --help' lists the columns of each."""
    for piece in exporting.export(open_noted(file), table, form):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


class _Documented(click.Command):
    """A command whose help ends with the tables and their columns."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_paragraph()
        formatter.write("Tables and their columns:\n\n")
        formatter.write("".join(f"  {line}\n" for line in documentation().splitlines()))


@checkpoint.command("query", cls=_Documented)
@click.argument("file")
@click.argument("sql")
@click.pass_context
def query(ctx: click.Context, file: str, sql: str) -> None:
    """Answer one SQL query (SQLite's dialect) about a checkpoint. Nothing but reading is let through.

    For example: SELECT server, count(*) FROM replicas GROUP BY server
    """
    answer = querying.query(open_noted(file), sql)
    rows = (
        (dict(zip(answer.columns, row, strict=True)), ["" if cell is None else str(cell) for cell in row])
        for row in answer.rows
    )
    emit_rows(ctx.obj.output, answer.columns, rows)


@checkpoint.command("schema")
def schema() -> None:
    """Print the JSON Schema of what the other commands answer with '-o json' and '-o jsonl'."""
    rows = {f"export --table {name}": row_type(relation) for name, relation in RELATIONS.items()}
    emit_schema(_DOCUMENTS | rows)


# --- what a person sees ---------------------------------------------------------------------------


def _summary_text(found: summaries.Summary) -> str:
    replicas = ", ".join(f"{count} with {size}" for size, count in found.replicas.items())
    lines = [
        f"{found.path}: the state at log entry {found.index} of term {found.term}",
        f"  {found.files} files and {found.directories} directories, {human_bytes(found.content_bytes)}",
        f"  {found.chunks} chunks ({found.shared_chunks} shared, {found.sealed_chunks} sealed)",
        f"  replicas: {replicas or 'none'}; {found.servers} chunk servers",
        f"  {found.in_trash} entries were deleted, and lie in the trash with all below them",
        f"  {found.sessions} client sessions",
        "",
    ]
    sizes = ([human_bytes(s.bytes_max), str(s.files), human_bytes(s.content_bytes)] for s in found.sizes)
    lines.append(text_table([">files up to", ">count", ">together"], sizes))
    tree = (
        ["  " * d.depth + d.path, str(d.files), str(d.directories), human_bytes(d.content_bytes)]
        for d in found.biggest
    )
    lines.append(text_table(["the biggest directories", ">files", ">directories", ">bytes"], tree))
    return "\n".join(lines).rstrip("\n")


def _path_text(found: summaries.PathDetail) -> str:
    head = f"{found.path}: {found.kind}, inode {found.inode}, mode {found.mode}"
    owner = f"{found.owner or 'superuser'}:{found.group}"
    lines = [f"{head}, owner {owner}, modified {human_time(found.modified_ms)} UTC"]
    if found.kind == "directory":
        below = f"{found.files_below} files and {found.directories_below} directories"
        return f"{lines[0]}\n  {below}, {human_bytes(found.length_bytes)} below it"
    exact = "" if found.length_exact else " at least (it was being written)"
    lines.append(
        f"  {found.length_bytes} bytes{exact}, {found.chunk_count} chunks, goal {found.replication_goal}"
    )
    rows = ([str(chunk.index), *_chunk_cells(chunk)] for chunk in found.chunks)
    lines.append(text_table([">chunk", *_CHUNK_TITLES], rows).rstrip("\n"))
    if found.chunk_count > len(found.chunks):
        lines.append(f"… and {found.chunk_count - len(found.chunks)} more chunks")
    return "\n".join(lines)


def _handle_text(found: summaries.HandleDetail) -> str:
    chunk = text_table(_CHUNK_TITLES, [_chunk_cells(found.chunk)])
    files = text_table([">chunk", "of file"], ([str(file.index), file.path] for file in found.files))
    return f"{chunk}\n{files}".rstrip("\n")


_CHUNK_TITLES = ["handle", ">version", ">files", "state", "primary", "replicas"]


def _chunk_cells(chunk: summaries.ToldChunk) -> list[str]:
    return [
        f"{chunk.handle:016x}",
        str(chunk.version),
        str(chunk.files),
        f"sealed at {chunk.length_bytes}" if chunk.sealed else "open",
        chunk.primary,
        " ".join(chunk.replicas),
    ]


def _difference_text(one: differences.Difference) -> str:
    if one.change in ("moved away", "moved here"):
        return f"inode {one.inode}"
    return ", ".join(
        f"{name}: {was} -> {now}" if was else f"{name}: {now}" for name, (was, now) in one.fields.items()
    )
