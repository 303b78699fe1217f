"""`gfs oplog`: a master's operation log, read from its files. The reading itself is gfs.inspect's."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import click

from gfs.cli.command_group import CommandGroup
from gfs.cli.render import emit_many, emit_one, emit_schema, emit_stream, human_bytes, note, text_table
from gfs.inspect.oplog_blame import Blame
from gfs.inspect.oplog_blame import blame as blame_path
from gfs.inspect.oplog_lines import LogLine, Tail, in_words, select_lines
from gfs.inspect.oplog_replay import replay_to
from gfs.inspect.oplog_segments import Fault, LogWalk
from gfs.inspect.oplog_stats import LogStatistics, SegmentRow, count_log, segment_rows
from gfs.inspect.oplog_verify import LogFinding, LogSummary, LogVerdict, LogVerifier
from gfs.inspect.oplog_words import moment
from gfs.master.replication.checkpoints import CheckpointManifest

EXIT_DAMAGE = 7
FOLLOW_SECONDS = 0.2
TAIL_LINES_DEFAULT = 20

_DOCUMENTS: dict[str, type] = {
    "ls": SegmentRow,
    "inspect, tail": LogLine,
    "verify -o json": LogVerdict,
    "verify -o jsonl": LogFinding,
    "stats": LogStatistics,
    "blame": Blame,
    "replay": CheckpointManifest,
}
_directory_argument = click.argument("directory", metavar="DIR")
_path_option = click.option(
    "--path", metavar="PATH", help="Only operations that name this path or what is below it."
)


@click.group(cls=CommandGroup)
def oplog() -> None:
    """Read a master's operation log: offline, changing nothing, also beside a running master.

    DIR is a master's directory or its log/. 'gfs oplog verify' says whether a log is sound.
    """


@oplog.command()
@_directory_argument
@click.pass_context
def ls(ctx: click.Context, directory: str) -> None:
    """List the segments: entries, terms, bytes, and whether they are closed, torn or damaged."""
    rows = list(segment_rows(directory))
    headers = [">segment", ">entries", ">first", ">last", "terms", ">bytes", "state"]
    emit_many(rows, ctx.obj.output, headers, map(_segment_cells, rows))
    for row in rows:
        if row.fault:
            note(f"{row.file}: {row.fault}")
    if any(row.state in ("damaged", "newer") for row in rows):
        ctx.exit(EXIT_DAMAGE)


def _segment_cells(row: SegmentRow) -> list[str]:
    terms = f"{row.first_term}" if row.first_term == row.last_term else f"{row.first_term}-{row.last_term}"
    first, last = (str(row.first_index), str(row.last_index)) if row.entries else ("-", "-")
    return [str(row.segment), str(row.entries), first, last, terms, human_bytes(row.bytes), row.state]


@oplog.command()
@_directory_argument
@click.option("--from", "first", type=int, metavar="INDEX", help="From this entry on.")
@click.option("--to", "last", type=int, metavar="INDEX", help="Up to this entry.")
@_path_option
@click.pass_context
def inspect(
    ctx: click.Context, directory: str, first: int | None, last: int | None, path: str | None
) -> None:
    """Show the log's records, one a line: index, term, when, what.

    Without --from, --to and --path also votes, and where entries were dropped. With -o jsonl every field.
    What one entry carries for several clients is numbered: 17.1, 17.2.
    """
    walk = LogWalk(directory)
    lines = select_lines(walk, first=first, last=last, path=path)
    emit_stream(lines, ctx.obj.output, in_words)
    _end_with_faults(ctx, walk.faults)


@oplog.command()
@_directory_argument
@click.pass_context
def verify(ctx: click.Context, directory: str) -> None:
    """Check every segment: framing, checksums, order of entries, terms and votes, and that records decode.

    All findings are told. A torn tail is what a power cut leaves, and no damage. Exit status 7: damage.
    """
    verifier = LogVerifier(directory)
    if ctx.obj.output == "json":
        findings = list(verifier.findings())
        emit_one(LogVerdict(summary=verifier.summary, findings=findings), "json", "")
    else:
        emit_stream(verifier.findings(), ctx.obj.output, _finding_line)
        _tell_summary(verifier.summary, to_terminal=ctx.obj.output == "table")
    if verifier.summary.damage:
        ctx.exit(EXIT_DAMAGE)


def _finding_line(finding: LogFinding) -> str:
    what = finding.kind.replace("_", " ")
    return f"{'DAMAGE' if finding.is_damage else 'note'}  {finding.segment}  {what}: {finding.what}"


def _tell_summary(summary: LogSummary, *, to_terminal: bool) -> None:
    read = (
        f"{summary.segments} segments, {human_bytes(summary.bytes)}, {summary.entries} entries "
        f"({summary.first_index} to {summary.last_index}), {summary.records} operations"
    )
    verdict = f"{summary.damage} damaged places" if summary.damage else "sound"
    (click.echo if to_terminal else note)(f"{read}: {verdict}")
    if summary.damage:
        note(
            "     A master will not start from this log. Leave it as it is, start the other masters, and let "
            "this one in again with an empty directory: 'gfs admin members readmit'."
        )


@oplog.command()
@_directory_argument
@click.option(
    "-n",
    "--lines",
    "count",
    type=click.IntRange(0, 100_000),
    default=TAIL_LINES_DEFAULT,
    show_default=True,
    help="How many of the last records to begin with.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes; Ctrl-C ends it.")
@click.pass_context
def tail(ctx: click.Context, directory: str, count: int, follow: bool) -> None:
    """Show the last records of the log, and with --follow what a running master adds."""
    end = Tail(directory)
    output = "jsonl" if ctx.obj.output == "json" else ctx.obj.output
    emit_stream(end.last_lines(count), output, in_words)
    if not follow:
        _end_with_faults(ctx, end.faults)
        return
    emit_stream(_following(end), output, in_words)


def _following(end: Tail) -> Iterator[LogLine]:
    while True:
        yield from end.new_lines()
        time.sleep(FOLLOW_SECONDS)


@oplog.command()
@_directory_argument
@click.pass_context
def stats(ctx: click.Context, directory: str) -> None:
    """Count operations by kind and client, their bytes and rate."""
    found, walk = count_log(directory)
    emit_one(found, ctx.obj.output, _statistics_text(found))
    _end_with_faults(ctx, walk.faults)


def _statistics_text(found: LogStatistics) -> str:
    per_second = f", {found.operations / found.seconds:.1f} a second" if found.seconds else ""
    lines = [
        f"{found.segments} segments, {human_bytes(found.bytes)}, {found.entries} entries, "
        f"{found.operations} operations ({found.operations_per_entry:.1f} an entry{per_second})",
    ]
    if found.operations:
        lines.append(f"from {moment(found.first_at_ms)} to {moment(found.last_at_ms)}")
    lines.append(
        f"{found.elections} elections, {found.votes} records of terms and votes, {found.truncations} "
        f"truncations, {found.resets} resets by a checkpoint, {found.readmissions} readmissions, "
        f"{found.configurations} changes of the masters"
    )
    if found.undecodable:
        lines.append(f"{found.undecodable} records this program cannot read")
    kinds = [[kind.kind, str(kind.count), human_bytes(kind.bytes)] for kind in found.kinds]
    clients = [[client.client, str(client.count)] for client in found.busiest_clients]
    parts = ["\n".join(lines), text_table(["operation", ">count", ">bytes"], kinds).rstrip("\n")]
    if clients:
        parts.append(f"{found.clients} clients; the busiest:")
        parts.append(text_table(["client", ">operations"], clients).rstrip("\n"))
    return "\n".join(part for part in parts if part)


@oplog.command()
@_directory_argument
@click.argument("path")
@click.pass_context
def blame(ctx: click.Context, directory: str, path: str) -> None:
    """Show which records made a path what it is: through renames, deletes, snapshots and grants.

    The log is applied once more to a copy of a checkpoint, so operations that were refused are left out.
    """
    found = blame_path(directory, path)
    if ctx.obj.output != "table":
        emit_one(found, ctx.obj.output, "")
        return
    if found.existed:
        note(f"inode {found.inode} was there at entry {found.known_from} already; older entries are gone")
    rows = [[str(line.index), moment(line.at_ms), line.effect, line.words] for line in found.lines]
    emit_many([], "table", [">entry", "when", "effect", "what"], rows)
    if not found.is_there:
        note(f"{path} leads nowhere now; this is of inode {found.inode}, which it led to last")


@oplog.command()
@_directory_argument
@click.option("--to", "index", type=int, required=True, metavar="INDEX", help="The last entry that is in it.")
@click.option(
    "--out",
    required=True,
    metavar="FILE",
    type=click.Path(),
    help="The new checkpoint, or a directory for it; its manifest goes beside it.",
)
@click.pass_context
def replay(ctx: click.Context, directory: str, index: int, out: str) -> None:
    """Make a checkpoint as of any entry still in the log, from an older checkpoint and the log between.

    Digests that the leader logged on the way are compared; a difference writes nothing and exits with 7.
    The log does not tell how far it is committed: its very last entries may still be overruled.
    """
    manifest, done = replay_to(directory, index=index, out=out)
    began = f"checkpoint {done.began_at}" if done.began_at else "the beginning"
    emit_one(
        manifest,
        ctx.obj.output,
        f"{out}: the state at entry {manifest.index} of term {manifest.term}, "
        f"{human_bytes(manifest.length_bytes)}; from {began} on {done.records} operations, "
        f"{done.digests_compared} digests compared, all equal",
    )


@oplog.command()
def schema() -> None:
    """Print the JSON Schema of what the other commands answer with '-o json' and '-o jsonl'."""
    emit_schema(_DOCUMENTS)


def _end_with_faults(ctx: click.Context, faults: Iterable[Fault]) -> None:
    """What could not be read is said on standard error; damage gives the exit status."""
    is_damaged = False
    for fault in faults:
        is_damaged |= fault.is_damage
        note(f"{'damage' if fault.is_damage else 'note'}: {fault.segment}: {fault.what}")
    if is_damaged:
        ctx.exit(EXIT_DAMAGE)
