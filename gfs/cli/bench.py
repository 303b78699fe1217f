"""`gfs bench`: the measuring programs of gfs.bench, each loaded when it is asked for."""

from __future__ import annotations

import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click

from gfs.cli.command_group import CommandGroup


@click.group(cls=CommandGroup)
def bench() -> None:
    """Measure this machine, or play a recorded log back against a cluster."""


def _run(work: Coroutine[Any, Any, None]) -> None:  # Any: what the coroutine passes to the loop
    from gfs.transport.event_loop import run

    run(work, loop="auto")


@bench.command()
@click.option(
    "--runs", type=click.IntRange(1), default=20, show_default=True, help="Losses of the leader of each kind."
)
@click.option(
    "--kind",
    "kinds",
    type=click.Choice(["kill", "stop", "partition"]),
    multiple=True,
    help="Kill -9, SIGSTOP, or cut off from the other masters; may be given several times. Default: all.",
)
@click.option(
    "--plot", type=click.Path(dir_okay=False), help="Write the distribution of the gaps as an SVG picture."
)
@click.pass_context
def failover(ctx: click.Context, runs: int, kinds: tuple[str, ...], plot: str | None) -> None:
    """How long a lost leader is missed, and whether anything acknowledged is lost or any read stale.

    On a cluster of its own for each kind, in a temporary directory. With -o json one document says every gap.
    Ends with status 7 when an acknowledged write is gone or a linearizable read was older than it may be.

    \b
    Example:
      gfs bench failover --runs 100 --plot failover.svg
      gfs -o json bench failover --kind partition
    """
    from gfs.bench import failover as program
    from gfs.cli.render import emit_one
    from gfs.errors import CorruptState
    from gfs.transport.event_loop import run

    as_table = ctx.obj.output == "table"
    found = run(
        program.report(
            runs,
            kinds or program.KINDS,
            say=click.echo if as_table else lambda line: click.echo(line, err=True),
        ),
        loop="auto",
    )
    if not as_table:
        emit_one(found, ctx.obj.output, "")
    if plot is not None:
        with open(plot, "w", encoding="utf-8") as file:
            file.write(program.chart(found))
    wrong = [told for kind in found.kinds for told in (*kind.lost_acknowledgements, *kind.stale_reads)]
    if wrong:
        raise CorruptState(f"{len(wrong)} writes were lost or reads stale, the first: {wrong[0]}")


@bench.command()
@click.option(
    "--in-flight", type=click.IntRange(1, 1024), default=256, show_default=True, help="Calls at a time."
)
@click.option(
    "--rounds", type=click.IntRange(1), default=5, show_default=True, help="Each measures everything."
)
@click.option(
    "--seconds", type=click.FloatRange(0.1), default=2.0, show_default=True, help="For each kind of call."
)
@click.option(
    "--plot", type=click.Path(dir_okay=False), help="Write the shares of all rounds as an SVG picture."
)
@click.pass_context
def metadata(ctx: click.Context, in_flight: int, rounds: int, seconds: float, plot: str | None) -> None:
    """Creates and linearizable stats a second, beside the echo rate of the same round.

    One create alone is told beside one bare fdatasync and one bare round trip. With -o json one document says
    all of it, CPU time by program and the machine included.

    \b
    Example:
      gfs bench metadata --rounds 9 --plot metadata.svg
      gfs -o json bench metadata --in-flight 64
    """
    from gfs.bench import metadata as program
    from gfs.cli.render import emit_one
    from gfs.transport.event_loop import run

    as_table = ctx.obj.output == "table"
    found = run(
        program.measure(
            in_flight=in_flight,
            rounds=rounds,
            seconds=seconds,
            say=click.echo if as_table else lambda line: click.echo(line, err=True),
        ),
        loop="auto",
    )
    emit_one(found, ctx.obj.output, program.in_words(found))
    if plot is not None:
        with open(plot, "w", encoding="utf-8") as file:
            file.write(program.chart(found))


@bench.command()
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1), default=1.0, show_default=True, help="Of each load.")
@click.pass_context
def security(ctx: click.Context, rounds: int, seconds: float) -> None:
    """What tokens, capabilities and TLS cost: the same calls of clusters with and without, in turns.

    \b
    Example:
      gfs bench security --rounds 9
    """
    from gfs.bench import security as program
    from gfs.cli.render import emit_one
    from gfs.transport.event_loop import run

    as_table = ctx.obj.output == "table"
    say = click.echo if as_table else lambda line: click.echo(line, err=True)
    found = run(program.measure(rounds=rounds, seconds=seconds, say=say), loop="auto")
    emit_one(found, ctx.obj.output, program.in_words(found))


@bench.command()
@click.option(
    "--peer",
    "wanted",
    multiple=True,
    metavar="NAME",
    help="local, moosefs, seaweedfs, juicefs. Default: all.",
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1), default=1.0, show_default=True, help="Of each load.")
@click.option("--plot", type=click.Path(dir_okay=False), help="Write the ratios as an SVG picture.")
@click.pass_context
def compare(
    ctx: click.Context, wanted: tuple[str, ...], rounds: int, seconds: float, plot: str | None
) -> None:
    """The same work on gfs, the local disk, MooseFS, SeaweedFS and JuiceFS, in turns.

    Each is started for it, in temporary directories, and ended afterwards. Who is not installed is left out,
    and named with how to get it.

    \b
    Example:
      gfs bench compare --peer moosefs --peer local --plot compare.svg
    """
    from gfs.bench import compare as program
    from gfs.cli.render import emit_one
    from gfs.transport.event_loop import run

    # As an interrupt does: programs and mounts of peers are to end with this one.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    as_table = ctx.obj.output == "table"
    say = click.echo if as_table else lambda line: click.echo(line, err=True)
    names = wanted or tuple(program.PEERS)
    found = run(program.measure(wanted=names, rounds=rounds, seconds=seconds, say=say), loop="auto")
    emit_one(found, ctx.obj.output, program.in_words(found))
    if plot is not None:
        with open(plot, "w", encoding="utf-8") as file:
            file.write(program.chart(found))


@bench.command()
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    default=25.0,
    show_default=True,
    metavar="PERCENT",
    help="How much dearer any work may be.",
)
@click.option(
    "--baseline",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Default: the one that gfs comes with.",
)
@click.option("--write", "rewrite", is_flag=True, help="Make what is measured now the baseline.")
@click.pass_context
def guard(ctx: click.Context, rounds: int, tolerance: float, baseline: Path | None, rewrite: bool) -> None:
    """Whether any work costs more CPU time than it did at the baseline, each beside a yardstick.

    Cheap enough for before a release, on any machine. Ends with status 1 when something is dearer.

    \b
    Example:
      gfs bench guard
      gfs bench guard --write --baseline mine.json
    """
    from gfs.bench import guard as program
    from gfs.cli.render import emit_one
    from gfs.transport.event_loop import run

    path = baseline or program.BASELINE
    before = None if rewrite else program.read(path)
    say = click.echo if ctx.obj.output == "table" else lambda line: click.echo(line, err=True)
    now = run(program.measure(rounds=rounds, say=say), loop="auto")
    if before is None:
        program.write(now, path)
        before = now
    found = program.compare(now, before, tolerance_percent=tolerance)
    emit_one(found, ctx.obj.output, program.in_words(found))
    if not found.held:
        ctx.exit(1)


@bench.command()
def append() -> None:
    """Record appends a second, from several programs and from one, each record read back."""
    from gfs.bench import append as program

    _run(program.report())


@bench.command()
def recovery() -> None:
    """How fast lost replicas are made anew under a cap, and in which order."""
    from gfs.bench import recovery as program

    _run(program.report())


@bench.command(name="small-files")
@click.option("--in-flight", type=click.IntRange(1, 256), default=12, show_default=True, help="At a time.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
def small_files(in_flight: int, rounds: int) -> None:
    """Files of 4 KiB created and written, opened and read a second: gfs bench small-files --in-flight 64"""
    from gfs.bench import small_files as program

    _run(program.report(in_flight=in_flight, rounds=rounds))


@bench.command()
@click.option("--directory", metavar="DIR", help="On the disk that is meant (default: for temporary files).")
@click.option(
    "--chunks", type=click.IntRange(1, 100_000), default=2000, show_default=True, help="Of a round."
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.pass_context
def stores(ctx: click.Context, directory: str | None, chunks: int, rounds: int) -> None:
    """Chunks of 4 KiB in the stores file and lmdb, in turns: created and written, and read, a second.

    For example: gfs -o json bench stores --directory /disks/c1
    """
    from gfs.bench import stores as program
    from gfs.transport.event_loop import run

    is_table = ctx.obj.output == "table"
    found = run(
        program.report(
            directory=directory,
            chunks=chunks,
            rounds=rounds,
            as_json=not is_table,
            say=click.echo if is_table else lambda line: click.echo(line, err=True),
        ),
        loop="auto",
    )
    click.echo(found)


@bench.command()
@click.option(
    "--mebibytes", type=click.IntRange(1, 4096), default=256, show_default=True, help="Of the file."
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.pass_context
def gateways(ctx: click.Context, mebibytes: int, rounds: int) -> None:
    """A file read and written by HTTP, WebHDFS and S3, beside the SDK, in turns.

    For example: gfs -o json bench gateways --rounds 9
    """
    from gfs.bench import gateways as program
    from gfs.transport.event_loop import run
    from gfs.vocabulary import MIB

    is_table = ctx.obj.output == "table"
    found = run(
        program.report(
            file_bytes=mebibytes * MIB,
            rounds=rounds,
            as_json=not is_table,
            say=click.echo if is_table else lambda line: click.echo(line, err=True),
        ),
        loop="auto",
    )
    click.echo(found)


@bench.command()
@click.option("--files", type=click.IntRange(1), default=1_000_000, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=20, show_default=True)
@click.option("--directory", metavar="DIR", help="Where the state lies (default: for temporary files).")
@click.option("--plot", default="", metavar="FILE", help="Draw the figures into FILE (SVG).")
@click.pass_context
def console(ctx: click.Context, files: int, rounds: int, directory: str | None, plot: str) -> None:
    """Pages of the web console of a master with many files, and how long others wait for it.

    For example: gfs -o json bench console --files 1000000 --plot console.svg
    """
    from gfs.bench import console as program
    from gfs.transport.event_loop import run

    is_table = ctx.obj.output == "table"
    found = run(
        program.report(
            files=files,
            rounds=rounds,
            directory=directory,
            picture=plot,
            as_json=not is_table,
            say=click.echo if is_table else lambda line: click.echo(line, err=True),
        ),
        loop="auto",
    )
    click.echo(found)


@bench.command(name="io")
def io_() -> None:
    """Streaming write and read, beside the limit of the same run."""
    from gfs.bench import io as program

    _run(program.report())


@bench.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--speed",
    default=0.0,
    type=click.FloatRange(min=0.0),
    help="1 as recorded, 2 twice as fast; 0 (default) as fast as the order of things allows.",
)
@click.option("--under", default="", metavar="DIR", help="Play below this directory of the cluster.")
@click.pass_context
def replay(ctx: click.Context, file: str, speed: float, under: str) -> None:
    """Play FILE, made by 'gfs -o jsonl rpclog', back against a cluster, and compare how long calls took.

    It creates, renames and deletes what was created, renamed and deleted then: use a cluster of its own, or
    --under.
    """
    from gfs.bench import replay as program
    from gfs.cli.cluster_address import load_settings, master_addresses, remote_path
    from gfs.transport.event_loop import run

    settings = load_settings(ctx.obj)
    lines, document = run(
        program.run(
            file,
            master_addresses(ctx.obj, settings),
            settings=settings.client,
            cluster=settings.cluster.id,
            speed=speed,
            under=remote_path(under),
        ),
        loop="auto",
    )
    if ctx.obj.output == "table":
        click.echo("\n".join(lines))
    else:
        click.echo(document)


@bench.command()
@click.option(
    "--files",
    type=click.IntRange(1000),
    multiple=True,
    default=(100_000, 1_000_000),
    show_default=True,
    help="How many files of one chunk; give it once for each size.",
)
@click.option("--directory", metavar="DIR", help="Where the states lie meanwhile: some 400 bytes a file.")
@click.option("--plot", metavar="FILE", default="", help="Draw the times into this SVG file.")
@click.pass_context
def state(ctx: click.Context, files: tuple[int, ...], directory: str | None, plot: str) -> None:
    """What many files cost: checkpoint, start, memory, verify, diff.

    For example: gfs -o json bench state --files 1000000 --files 10000000 --plot state.svg
    """
    from gfs.bench import state as program

    _run(program.report(files, directory=directory, picture=plot, as_json=ctx.obj.output != "table"))
