"""`gfs bench`: the measuring programs of gfs.bench, each loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import click


@click.group()
def bench() -> None:
    """Measure this machine, or play a recorded log back against a cluster."""


def _run(work: Coroutine[Any, Any, None]) -> None:  # Any: what the coroutine passes to the loop
    from gfs.transport.event_loop import run

    run(work, loop="auto")


@bench.command()
@click.option("--runs", type=click.IntRange(1), default=20, show_default=True)
def failover(runs: int) -> None:
    """How long a killed leader is missed, on a cluster of its own."""
    from gfs.bench import failover as program

    _run(program.report(runs))


@bench.command()
def metadata() -> None:
    """Namespace operations a second, beside the echo rate of the same run."""
    from gfs.bench import metadata as program

    _run(program.report())


@bench.command(name="io")
def io_() -> None:
    """Streaming write and read, beside the limit of the same run."""
    from gfs.bench import io as program

    _run(program.report())
