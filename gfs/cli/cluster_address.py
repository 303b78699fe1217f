"""Which cluster a command talks to: --master, else --config, else the local cluster's data directory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from gfs import settings as settings_module
from gfs.cli.render import note
from gfs.errors import DeadlineExceeded, GfsError, InvalidArgument, NoQuorum, NotFound
from gfs.settings import Settings

if TYPE_CHECKING:
    from gfs.cli.app import GlobalOptions
    from gfs.client.client import AsyncClient
    from gfs.messages.base import Consistency

T = TypeVar("T")
C = TypeVar("C", bound=Callable[..., Any])  # Any: a command's own arguments

RETRY_SHARE = 0.95  # the SDK gives up a little before --timeout does, as it can say what it tried
STOPPED_SECONDS = 2.0  # … at a cluster of this machine that 'gfs up' does not run
RETRY_SECONDS = 20.0  # how long a command goes on trying when --timeout does not say


def data_directory(options: GlobalOptions) -> str:
    """Absolute path of the local cluster's data directory; it need not exist."""
    if options.data:
        return os.path.abspath(options.data)
    return settings_module.local_data_directory()


def load_settings(options: GlobalOptions) -> Settings:
    """Settings of the cluster meant. Raises NotFound when there is no local cluster, ConfigInvalid."""
    if options.config:
        return settings_module.load(options.config)
    if options.master:
        return settings_module.load(None)
    path = os.path.join(data_directory(options), "gfs.toml")
    if not os.path.exists(path):
        raise NotFound(
            f"no cluster to talk to: there is no {path}",
            hint="Start one with 'gfs up', or name one with --master HOST:PORT or --config FILE.",
        )
    return settings_module.load(path)


def master_addresses(options: GlobalOptions, settings: Settings) -> list[str]:
    if options.master:
        return [part for part in options.master.removeprefix("gfs://").strip("/").split(",") if part]
    if not settings.masters:
        raise InvalidArgument("the configuration names no masters", hint="Add a [masters.m1] section.")
    return [node.control for node in settings.masters.values()]


def remote_path(text: str) -> str:
    """Accept /a/b and gfs:///a/b; a name without '/' at its start is refused by the path check later."""
    if text.startswith("gfs://"):
        rest = text.removeprefix("gfs://")
        host, slash, path = rest.partition("/")
        if host:
            raise InvalidArgument(
                f"{text!r} names the cell {host!r} inside a path",
                hint="Name the cluster with --master, and the path as gfs:///a/b or /a/b.",
            )
        return slash + path
    return text


def consistency_option(command: C) -> C:
    """`--consistency` behind a command that reads, as well as before it."""

    def keep(ctx: click.Context, _: click.Parameter, value: Consistency | None) -> None:
        if value is not None:
            ctx.obj = ctx.obj._replace(consistency=value)

    return click.option(
        "--consistency",
        type=click.Choice(["linearizable", "session", "stale"]),
        expose_value=False,
        callback=keep,
        help="'stale': by any master, also without a quorum; 'session': never older than this command saw.",
    )(command)


def _tell_freshness(client: AsyncClient, options: GlobalOptions) -> None:
    """A person who asked for an answer that may be old wants to know how old."""
    age = client.freshness
    if age is None or options.quiet:
        return
    behind = f"{age.lag_entries} log entries and " if age.lag_entries else ""
    if age.lag_seconds < 0:
        # It has heard no other leader since it started; it may have led itself until it lost the others.
        note(
            f"gfs: answered by {age.answered_by}, which knows no leader and cannot tell how old its state is"
        )
    else:
        note(f"gfs: answered by {age.answered_by}, at most {behind}{age.lag_seconds:.2f} s behind")


def run_with_client(ctx: click.Context, work: Callable[[AsyncClient], Awaitable[T]]) -> T:
    """Connect, run `work`, close. Raises whatever `work` raises; DeadlineExceeded after --timeout."""
    from gfs import aio
    from gfs.telemetry import new_trace_id, trace_id
    from gfs.transport.event_loop import run

    options: GlobalOptions = ctx.obj
    settings = load_settings(options)
    # A person waits less patiently than a program: a wrong address should not look like a hang.
    patience = min(settings.client.retry_seconds, RETRY_SECONDS if _may_run(options) else STOPPED_SECONDS)
    client_settings = msgspec.structs.replace(settings.client, retry_seconds=patience)
    if options.timeout is not None:
        if not options.timeout > 0:  # also when it is not a number
            raise InvalidArgument(f"--timeout {options.timeout:g} is not above zero")
        client_settings = msgspec.structs.replace(
            client_settings, retry_seconds=options.timeout * RETRY_SHARE
        )

    request_id = options.request_id or new_trace_id()

    async def session() -> T:
        # One id for all that this command asks, so that 'gfs trace' shows it as one.
        trace_id.set(request_id)
        client = await aio.connect(
            master_addresses(options, settings),
            settings=client_settings,
            cluster=settings.cluster.id,
            consistency=options.consistency,
        )
        try:
            return await work(client)
        finally:
            _tell_freshness(client, options)
            await client.close()

    async def bounded() -> T:
        try:
            async with asyncio.timeout(options.timeout):
                return await session()
        except TimeoutError as error:
            raise DeadlineExceeded(f"gave up after {options.timeout:g} s (--timeout)") from error

    try:
        return run(bounded(), loop="auto")
    except GfsError as error:
        if error.details.get("tries") == "0":
            if not isinstance(error, NoQuorum):  # whose own hint knows more
                error.hint = _why_nobody_answers(options) or error.hint
        else:
            error.details.setdefault("request_id", request_id)
        raise


def _may_run(options: GlobalOptions) -> bool:
    """False when the cluster meant is the one of this machine and has no supervisor."""
    from gfs.local.layout import SupervisorLock

    remote = bool(options.master or options.config)
    return remote or SupervisorLock(data_directory(options)).holder() != 0


def _why_nobody_answers(options: GlobalOptions) -> str:
    """What to do about it, when that can be seen from here; else ""."""
    if options.master or options.config:
        return ""
    directory = data_directory(options)
    if _may_run(options):
        return f"The logs in {os.path.join(directory, 'logs')} say what keeps the masters from electing one."
    return f"The cluster in {directory} is not running: 'gfs up --detach' starts it with all its data."
