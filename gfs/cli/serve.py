"""Commands that run programs: up, down, master, chunkserver."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from gfs.cli import local_masters
from gfs.cli.cluster_address import data_directory, load_settings, master_addresses
from gfs.cli.command_group import CommandGroup
from gfs.cli.migrate import migrate
from gfs.cli.render import counted, note
from gfs.cli.tier import tier
from gfs.errors import GfsError, InvalidArgument, Unavailable, WrongCluster
from gfs.local import layout as local_layout
from gfs.local.layout import CONTROL_PORT_FIRST, Layout, SupervisorLock
from gfs.local.resizing import LocalMasters, check_masters
from gfs.settings import ChunkServerNode, MasterNode

if TYPE_CHECKING:
    from gfs.client.client import AsyncClient
    from gfs.local.supervisor import Supervisor

DOWN_SECONDS_MAX = 20.0


@click.command()
@click.option(
    "--masters",
    type=int,
    default=None,
    help="Masters: 1, 3 or 5 (default: 3, or as many as there are; others are added or removed).",
)
@click.option("--chunkservers", type=int, default=None, help="Chunk servers of a new cluster (default 4).")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=CONTROL_PORT_FIRST,
    show_default=True,
    help="First of its ports; 0: any.",
)
@click.option("--detach", is_flag=True, help="Return when the cluster is ready; it runs on.")
@click.pass_context
def up(ctx: click.Context, masters: int | None, chunkservers: int | None, port: int, detach: bool) -> None:
    """Start a whole cluster on this machine, under one supervisor, on loopback only.

    The data directory (--data) is made at the first start and kept by every later one. With --masters, a
    cluster that is there grows or shrinks while it serves, whether it ran already or is started by this.

    \b
    Example, a small cluster that becomes one which survives the loss of a master:
      gfs up --masters 1 --chunkservers 1 --detach
      gfs up --masters 3
    """
    if masters is not None:
        check_masters(masters)
    directory = data_directory(ctx.obj)
    layout = _layout(directory, masters, chunkservers, port)
    wanted = masters or len(layout.settings.masters)
    if wanted != len(layout.settings.masters) and SupervisorLock(directory).holder():
        local_masters.resize(ctx, wanted)
    elif detach:
        _detach(layout)
        if wanted != len(layout.settings.masters):
            local_masters.resize(ctx, wanted)
    else:
        asyncio.run(_supervise(layout, wanted))


def _layout(directory: str, masters: int | None, chunkservers: int | None, port: int) -> Layout:
    if not local_layout.exists(directory):
        return local_layout.make_layout(
            directory,
            masters=3 if masters is None else masters,
            chunkservers=4 if chunkservers is None else chunkservers,
            first_port=port,
            tokens=True,
        )
    layout = local_layout.open_layout(directory)
    there = len(layout.settings.chunkservers)
    if chunkservers not in (None, there):
        raise InvalidArgument(
            f"the cluster in {directory} has {there} chunk servers, not {chunkservers}",
            hint="Leave the flag out to start it as it is, or give another --data directory.",
        )
    return layout


async def _supervise(layout: Layout, wanted: int) -> None:
    """Run the cluster until it is to stop; once it is ready, make it one of `wanted` masters."""
    from gfs import aio
    from gfs.local.supervisor import Supervisor, wait_until_ready

    lock = SupervisorLock(layout.directory)
    lock.acquire()
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked_to_stop.set)
    supervisor = Supervisor(layout, restart=True, say=note)
    asked_to_follow = asyncio.Event()
    loop.add_signal_handler(local_masters.RELOAD_SIGNAL, asked_to_follow.set)
    following = loop.create_task(_follow_for_ever(supervisor, asked_to_follow))
    try:
        began = time.monotonic()
        await supervisor.start()
        masters = [node.control for node in layout.settings.masters.values()]
        client = await aio.connect(
            masters, settings=layout.settings.client, cluster=layout.settings.cluster.id
        )
        try:
            ready = asyncio.create_task(
                wait_until_ready(
                    client.cluster_status,
                    chunkservers=len(layout.settings.chunkservers),
                    supervisor=supervisor,
                )
            )
            stop = asyncio.create_task(asked_to_stop.wait())
            await asyncio.wait({ready, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                ready.cancel()
                return
            found = ready.result()
            note(
                f"cluster ready in {time.monotonic() - began:.1f} s: "
                f"{counted(len(found.masters), 'master')}, "
                f"{counted(len(found.chunkservers), 'chunk server')}, leader {found.leader}"
            )
            note(f"  data     {layout.directory}")
            note(f"  connect  gfs://{','.join(masters)}")
            if layout.settings.client.token_file:
                note(f"  token    {layout.settings.client.token_file}")
            note("  stop     Ctrl-C here, or 'gfs down'")
            if wanted != len(layout.settings.masters):
                await _resize(layout, client, asked_to_follow, wanted)
        finally:
            await client.close()
        await asked_to_stop.wait()
        note("stopping …")
    except WrongCluster as error:
        where = os.path.join(layout.directory, "gfs.toml")
        error.hint = (
            f"A program of another cluster has taken one of its ports: stop that, or change ports in {where}."
        )
        raise
    finally:
        following.cancel()
        await supervisor.stop()
        lock.release()


async def _follow_for_ever(supervisor: Supervisor, asked: asyncio.Event) -> None:
    """Whenever it is asked for: gfs.toml has gained or lost a master."""
    while True:
        await asked.wait()
        asked.clear()
        try:
            await supervisor.follow(local_layout.open_layout(supervisor.layout.directory))
        except (GfsError, OSError) as error:
            note(f"the changed gfs.toml is not followed: {error}")


async def _resize(layout: Layout, client: AsyncClient, asked_to_follow: asyncio.Event, wanted: int) -> None:
    masters = LocalMasters(layout.directory, client.operator, reload=asked_to_follow.set, say=note)
    try:
        await masters.resize(wanted)
    except GfsError as error:
        note(f"gfs: the number of masters was not changed to {wanted}: {error.message}")
        note(f"     {error.hint or 'The cluster runs as it is.'}")


def _detach(layout: Layout) -> None:
    """Start the supervisor as a process of its own and wait until the cluster is ready."""
    lock = SupervisorLock(layout.directory)
    lock.acquire()  # only to say clearly that it runs already
    lock.release()
    log_path = os.path.join(layout.directory, "logs", "supervisor.log")
    with open(log_path, "ab") as log:
        log_start = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "gfs", "--data", layout.directory, "up"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_until_said(process, log_path, log_start)
    except KeyboardInterrupt:
        process.terminate()
        process.wait(DOWN_SECONDS_MAX)
        raise


def _wait_until_said(process: subprocess.Popen[bytes], log_path: str, log_start: int) -> None:
    while True:
        with open(log_path, encoding="utf-8", errors="replace") as log_text:
            log_text.seek(log_start)
            said = log_text.read()
        if "cluster ready" in said:
            note(said.rstrip())
            return
        if process.poll() is not None:
            error = said.rpartition("gfs: ")[2].strip()  # all it said, if it did not end with an error
            raise Unavailable(
                f"the cluster did not start: {error or 'its supervisor died'}", hint=f"See {log_path}."
            )
        time.sleep(0.05)


@click.command()
@click.pass_context
def down(ctx: click.Context) -> None:
    """Stop the cluster on this machine. Its data stays; 'gfs up' starts it again."""
    directory = data_directory(ctx.obj)
    local_layout.open_layout(directory)
    lock = SupervisorLock(directory)
    holder = lock.holder()
    if not holder:
        note(f"the cluster in {directory} is not running")
        return
    os.kill(holder, signal.SIGTERM)
    deadline = time.monotonic() + DOWN_SECONDS_MAX
    while lock.holder():
        if time.monotonic() > deadline:
            raise Unavailable(
                f"the supervisor, process {holder}, has not stopped in {DOWN_SECONDS_MAX:.0f} s"
            )
        time.sleep(0.05)
    note("stopped")


_DIRECTORY = click.option(
    "--directory", metavar="DIR", help="Where it keeps its state (default: from the configuration)."
)


@click.command()
@click.argument("node")
@_DIRECTORY
@click.pass_context
def master(ctx: click.Context, node: str, directory: str | None) -> None:
    """Run the master NODE of the configuration in the foreground."""
    from gfs.master.process import run_master

    settings = load_settings(ctx.obj)
    run_master(settings, node, _directory_of("master", node, settings.masters, directory))


class _NodeGroup(CommandGroup):
    """`gfs chunkserver cs1` runs a server; `gfs chunkserver migrate cs1` is one of the commands about it."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands:
            return "run", self.commands["run"], args
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in ctx.help_option_names and args[0] not in self.commands:
            args = ["run", *args]  # also when its options come first
        return super().parse_args(ctx, args)


@click.group(cls=_NodeGroup, subcommand_metavar="NODE | COMMAND [ARGS]…")
def chunkserver() -> None:
    """Run the chunk server NODE of the configuration in the foreground, or operate one that runs.

    \b
    Example:
      gfs chunkserver cs1
      gfs chunkserver migrate cs1 --to lmdb
      gfs chunkserver tier cs1
    """


@chunkserver.command()
@click.argument("node")
@_DIRECTORY
@click.pass_context
def run(ctx: click.Context, node: str, directory: str | None) -> None:
    """Run the chunk server NODE in the foreground; the word 'run' may be left out."""
    from gfs.chunkserver.process import run_chunkserver

    settings = load_settings(ctx.obj)
    chosen = _directory_of("chunk server", node, settings.chunkservers, directory)
    master_addresses(ctx.obj, settings)  # without masters it could only wait for ever
    run_chunkserver(settings, node, chosen)


chunkserver.add_command(migrate)
chunkserver.add_command(tier)


def _directory_of(
    what: str, node: str, known: Mapping[str, MasterNode | ChunkServerNode], flag: str | None
) -> str:
    if node not in known:
        raise InvalidArgument(
            f"the configuration has no {what} {node!r}", hint=f"It has: {', '.join(known) or 'none'}."
        )
    chosen = flag or known[node].directory
    if not chosen:
        raise InvalidArgument(
            f"nothing says where {node} keeps its state",
            hint="Set 'directory' in gfs.toml or give --directory.",
        )
    return os.path.abspath(chosen)
