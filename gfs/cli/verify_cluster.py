"""`gfs verify-cluster`: does a running cluster keep its promises? Traffic and checkers are elsewhere."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click
import msgspec

from gfs.cli.cluster_address import load_settings, master_addresses, remote_path
from gfs.cli.render import emit_one, note, on_terminal, text_table
from gfs.errors import InvalidArgument, PermissionDenied

if TYPE_CHECKING:
    from gfs.client.client import AsyncClient
    from gfs.settings import ClientSettings, Settings
    from gfs.verification.operator_faults import OperatorFault
    from gfs.verification.verifying import Verification, Verifier
    from gfs.verification.workloads.interface import Workload

EXIT_STATUS = {"held": 0, "violated": 1, "undecided": 2}
DEFAULT_WORKLOADS = ("namespace", "append", "regions", "stream", "snapshot", "trash")
# Patience of the clients at most: under a fault they are to tell what became of a call, not to wait it out.
CALL_SECONDS, DATA_SECONDS, RETRY_SECONDS, QUORUM_SECONDS = 3.0, 5.0, 12.0, 8.0
FIGURES_SECONDS = 0.5
VIOLATIONS_SHOWN = 5


@click.command("verify-cluster")
@click.option(
    "--seconds",
    type=click.FloatRange(1),
    default=60.0,
    show_default=True,
    help="Of traffic, faults included.",
)
@click.option(
    "--workload",
    "names",
    multiple=True,
    metavar="NAME",
    help=f"May be given several times. Default: {', '.join(DEFAULT_WORKLOADS)}.",
)
@click.option("--clients", type=click.IntRange(1, 64), help="Of each workload. Default: its own number.")
@click.option("--seed", type=int, help="Of all chance; the same seed does the same things. Default: random.")
@click.option("--directory", metavar="PATH", help="To be made and taken away. Default: /.verify-XXXX.")
@click.option("--out", type=click.Path(file_okay=False), help="Keep history.jsonl and verdict.json there.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar='"NAME=BEGIN;END"',
    help="Your own shell commands that begin and end a fault during the run; may be given several times.",
)
@click.pass_context
def verify_cluster(
    ctx: click.Context,
    seconds: float,
    names: Sequence[str],
    clients: int | None,
    seed: int | None,
    directory: str | None,
    out: str | None,
    faults: Sequence[str],
) -> None:
    """Run traffic against a running cluster and judge whether it kept its promises.

    In a directory of its own, which is taken away at the end with all that the trash has of it, also after
    Ctrl-C. With --fault the operator's own commands hurt the cluster meanwhile: a quarter of the time is
    quiet, then each fault holds for a while and has a while to heal.

    Ends with status 0 when all promises held, 1 when one was broken, 2 when nothing can be said: too little
    traffic, a checker that gave up, a command of a fault that failed (or the command was used wrongly). What
    keeps it from beginning has its usual status.

    \b
    Example:
      gfs verify-cluster --seconds 30
      gfs verify-cluster --workload append --workload namespace --directory /tmp/verify -o json
      gfs verify-cluster --fault "pause m1=ssh m1 pkill -STOP gfs;ssh m1 pkill -CONT gfs" --out ./found
    """
    from gfs.transport.event_loop import run
    from gfs.verification.operator_faults import parse_fault
    from gfs.verification.workloads.registry import WORKLOADS

    unknown = sorted(set(names) - set(WORKLOADS))
    if unknown:
        raise InvalidArgument(
            f"no workload is called {', '.join(unknown)}", hint=f"There are {', '.join(sorted(WORKLOADS))}."
        )
    seed = secrets.randbits(32) if seed is None else seed
    where = remote_path(directory) if directory else f"/.verify-{secrets.token_hex(4)}"
    where = where.rstrip("/")
    if not where:
        raise InvalidArgument(
            "--directory / cannot be made and taken away", hint="Name one that is not there."
        )
    workloads: list[Workload] = []
    for name in dict.fromkeys(names or DEFAULT_WORKLOADS):
        workload = WORKLOADS[name](f"{where}/{name}", random.Random(f"{seed} {name}"))
        if clients is not None and hasattr(workload, "clients"):
            workload.clients = clients
        workloads.append(workload)
    if out is not None:
        os.makedirs(out, exist_ok=True)  # whether it can be made is told before the run, not after
    wanted = [parse_fault(text) for text in faults]
    found = run(_verify(ctx, workloads, where, seed, seconds, wanted, out), loop="auto")
    emit_one(found, ctx.obj.output, _table(found))
    ctx.exit(EXIT_STATUS[found.outcome])


async def _verify(
    ctx: click.Context,
    workloads: Sequence[Workload],
    directory: str,
    seed: int,
    seconds: float,
    faults: Sequence[OperatorFault],
    out: str | None,
) -> Verification:
    from gfs import aio
    from gfs.verification.running_cluster import RunningCluster
    from gfs.verification.verifying import Verifier, own_directory

    settings = load_settings(ctx.obj)
    addresses, client_settings = master_addresses(ctx.obj, settings), _impatient(settings)

    async def connect() -> AsyncClient:
        return await aio.connect(addresses, settings=client_settings, cluster=settings.cluster.id)

    def say(text: str) -> None:
        if not ctx.obj.quiet:
            note(f"gfs: {text}")

    verifier = Verifier(
        RunningCluster(connect),
        workloads,
        directory=directory,
        seed=seed,
        seconds=seconds,
        faults=faults,
        say=say,
    )
    # A polite kill is as an interrupt: the directory is taken away.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with await connect() as client:
        try:
            say(f"in {directory}, with seed {seed}")
            async with own_directory(client, directory, say), _figures(verifier, ctx.obj.quiet):
                found = await verifier.verify()
        except PermissionDenied as error:
            error.hint = error.hint or "Name a --directory below one in which you may make others."
            raise
        finally:
            if out is not None and verifier.history.operations:
                verifier.history.save(os.path.join(out, "history.jsonl"))
    if out is not None:
        with open(os.path.join(out, "verdict.json"), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    return found


def _impatient(settings: Settings) -> ClientSettings:
    own = settings.client
    return msgspec.structs.replace(
        own,
        call_seconds=min(own.call_seconds, CALL_SECONDS),
        data_seconds=min(own.data_seconds, DATA_SECONDS),
        retry_seconds=min(own.retry_seconds, RETRY_SECONDS),
        quorum_seconds=min(own.quorum_seconds, QUORUM_SECONDS),
    )


@asynccontextmanager
async def _figures(verifier: Verifier, quiet: bool) -> AsyncIterator[None]:
    """A line on the terminal that changes: what was acknowledged, refused, lost."""
    if quiet or not on_terminal():
        yield
        return

    async def show() -> None:
        while True:
            counted = verifier.counted()
            told = f"{counted['ok']} acknowledged, {counted['fail']} refused, {counted['info']} unknown"
            sys.stderr.write(f"\r\x1b[K{told}\r")
            sys.stderr.flush()
            await asyncio.sleep(FIGURES_SECONDS)

    showing = asyncio.create_task(show())
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)
        sys.stderr.write("\r\x1b[K")


def _table(found: Verification) -> str:
    work = text_table(
        ("workload", ">acknowledged", ">refused", ">unknown", ">a second", ">floor"),
        [
            (
                w.name,
                str(w.acknowledged),
                str(w.refused),
                str(w.unknown),
                f"{w.per_second:.1f}",
                f"{w.floor:.1f}",
            )
            for w in found.workloads
        ],
    )
    verdicts = text_table(
        ("promise", "finding", ">facts", "remark"),
        [(v.checker, v.finding, str(v.judged), v.remark) for v in found.verdicts],
    )
    lines = [work, verdicts]
    for verdict in found.verdicts:
        for violation in verdict.violations[:VIOLATIONS_SHOWN]:
            lines.append(f"{verdict.checker}: {violation.says}")
        if len(verdict.violations) > VIOLATIONS_SHOWN:
            lines.append(f"{verdict.checker}: and {len(verdict.violations) - VIOLATIONS_SHOWN} more")
    lines += found.remarks
    words = {
        "held": "EVERY PROMISE HELD",
        "violated": "A PROMISE WAS BROKEN",
        "undecided": "NOTHING CAN BE SAID",
    }
    return "\n".join([*lines, f"{words[found.outcome]} (seed {found.seed})"])
