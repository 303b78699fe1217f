"""Commands that tell what happened: rpclog, trace, events. Reading the rings is program_logs'."""

from __future__ import annotations

import asyncio
import datetime
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, NamedTuple

import click
import msgspec

from gfs.cli.program_logs import ProgramLogs, open_program_logs
from gfs.cli.render import emit_many, note, rfc3339
from gfs.diagnosis.timeline import Step, timeline
from gfs.errors import InvalidArgument, NotFound
from gfs.messages.diagnosis import EventPage, EventRecord, ReadEvents, ReadRpcLog, RpcLogPage, RpcRecord

FOLLOW_SECONDS = 0.5
SHOWN_DEFAULT = 200
CALLS_OF_A_REQUEST_MAX = 2000
_AGO = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class _Line(NamedTuple):
    """A record with the node it is from."""

    node: str
    record: RpcRecord | EventRecord


_since_option = click.option(
    "--since", metavar="WHEN", default="", help="Only later ones: 90s, 5m, 2h, or 2026-01-31T12:00:00Z."
)
_node_option = click.option(
    "--node", "nodes", multiple=True, metavar="NODE", help="Only this program (m1, c2 …); may be repeated."
)
_limit_option = click.option(
    "-n",
    "--limit",
    type=click.IntRange(1, 2000),
    default=SHOWN_DEFAULT,
    show_default=True,
    help="At most so many of each program, the newest.",
)
_follow_option = click.option("-f", "--follow", is_flag=True, help="Go on with what comes; Ctrl-C ends it.")


@click.command()
@_node_option
@_since_option
@click.option("--method", "methods", multiple=True, metavar="NAME", help="Only this method: stat, create …")
@_limit_option
@_follow_option
@click.pass_context
def rpclog(
    ctx: click.Context, nodes: tuple[str, ...], since: str, methods: tuple[str, ...], limit: int, follow: bool
) -> None:
    """Show the calls that programs have answered: requests and replies, all but file data.

    Of a program that is not running its directory is read. With -o jsonl one call a line, which
    'gfs bench replay' can play back.
    """
    query = ReadRpcLog(newest=True, limit=limit, since_us=_moment(since), methods=list(methods))

    async def pages(logs: ProgramLogs, after: dict[str, int]) -> tuple[list[_Line], dict[str, int]]:
        found = await logs.rpc_pages(_queries(logs, query, after))
        if not after:
            _tell_dropped(found)
        lines = [_Line(node, record) for node, page in found.items() for record in page.records]
        return lines, {node: page.next_after for node, page in found.items()}

    _show(ctx, nodes, pages, _call_row, _CALL_HEADERS, follow=follow)


@click.command()
@_node_option
@_since_option
@_limit_option
@_follow_option
@click.pass_context
def events(ctx: click.Context, nodes: tuple[str, ...], since: str, limit: int, follow: bool) -> None:
    """Show what happened: leaders elected, servers lost and found, grants, checkpoints, damage."""
    query = ReadEvents(newest=True, limit=limit, since_us=_moment(since))

    async def pages(logs: ProgramLogs, after: dict[str, int]) -> tuple[list[_Line], dict[str, int]]:
        found = await logs.event_pages(_queries(logs, query, after))
        if not after:
            _tell_dropped(found)
        lines = [_Line(node, record) for node, page in found.items() for record in page.records]
        return lines, {node: page.next_after for node, page in found.items()}

    _show(ctx, nodes, pages, _event_row, _EVENT_HEADERS, follow=follow)


@click.command()
@click.argument("request_id")
@click.pass_context
def trace(ctx: click.Context, request_id: str) -> None:
    """Show everything that was done for one request, at all programs, as one timeline.

    A request id is in every log line and error of the request; 'gfs rpclog' shows those of the latest calls.
    """
    query = ReadRpcLog(newest=True, limit=CALLS_OF_A_REQUEST_MAX, trace=request_id)

    async def work() -> tuple[list[Step], dict[str, str]]:
        logs = await open_program_logs(ctx.obj, ())
        try:
            found = await logs.rpc_pages(_queries(logs, query, {}))
            return timeline({node: page.records for node, page in found.items()}), logs.missing
        finally:
            await logs.close()

    steps, missing = _run(work())
    _tell_missing(missing)
    if not steps:
        raise NotFound(
            f"no program remembers a request {request_id!r}",
            hint="Rings are of limited size (telemetry.rpc_log_bytes); 'gfs rpclog' shows what they hold.",
        )
    began = min(step.record.at_us for step in steps)
    emit_many(
        [_document(_Line(step.node, step.record), depth=step.depth) for step in steps],
        ctx.obj.output,
        [">at ms", "program", "call", ">took ms", "outcome", "from", "what"],
        ([f"{(step.record.at_us - began) / 1000:.3f}", *_step_row(step)] for step in steps),
    )


# --- asking ------------------------------------------------------------------------------------------

_Pages = Callable[[ProgramLogs, dict[str, int]], Awaitable[tuple[list[_Line], dict[str, int]]]]


def _queries(
    logs: ProgramLogs,
    query: Any,
    after: dict[str, int],  # Any: ReadRpcLog or ReadEvents, as it came
) -> dict[str, Any]:
    """The first query takes the newest; the following ones what came behind."""
    return {
        program.node: msgspec.structs.replace(query, newest=False, after=after[program.node])
        if program.node in after
        else query
        for program in logs.programs
    }


def _show(
    ctx: click.Context,
    nodes: tuple[str, ...],
    pages: _Pages,
    row: Callable[[_Line], list[str]],
    headers: list[str],
    *,
    follow: bool,
) -> None:
    output = "jsonl" if follow and ctx.obj.output == "json" else ctx.obj.output

    def emit(lines: list[_Line], *, first: bool) -> None:
        lines.sort(key=lambda line: line.record.at_us)
        documents = (_document(line) for line in lines)
        emit_many(documents, output, headers if first else [""] * len(headers), map(row, lines))

    async def work() -> None:
        logs = await open_program_logs(ctx.obj, nodes)
        try:
            lines, after = await pages(logs, {})
            _tell_missing(logs.missing)
            emit(lines, first=True)
            while follow:
                await asyncio.sleep(FOLLOW_SECONDS)
                lines, newer = await pages(logs, after)
                after |= newer
                if lines:
                    emit(lines, first=False)
        finally:
            await logs.close()

    _run(work())


def _run(work: Coroutine[Any, Any, Any]) -> Any:  # Any: what the coroutine gives
    from gfs.transport.event_loop import run

    return run(work, loop="auto")


def _tell_dropped(pages: Mapping[str, RpcLogPage | EventPage]) -> None:
    for node, page in pages.items():
        if page.dropped:
            note(f"gfs: {node} was too busy to record {page.dropped} of its calls or events")


def _tell_missing(missing: dict[str, str]) -> None:
    for node, why in missing.items():
        note(f"gfs: {node} is left out: {why}")


def _moment(text: str) -> int:
    """Unix time in microseconds of "5m" (ago) or an RFC 3339 time; 0 for nothing. Raises: InvalidArgument."""
    if not text:
        return 0
    if match := _AGO.fullmatch(text):
        return max(0, int((time.time() - float(match[1]) * _UNIT_SECONDS[match[2]]) * 1e6))
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidArgument(
            f"--since {text!r} is no time", hint="Use 90s, 5m, 2h, 1d, or 2026-01-31T12:00:00Z."
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp() * 1e6)


# --- showing -----------------------------------------------------------------------------------------

_CALL_HEADERS = ["time (UTC)", "node", "call", ">took ms", "outcome", "from", "request id", "what"]
_EVENT_HEADERS = ["time (UTC)", "node", "level", "event", "what"]


def _document(line: _Line, **more: object) -> dict[str, Any]:  # Any: as JSON
    """`-o json`: the record with its node, and its time also for people."""
    fields: dict[str, Any] = msgspec.to_builtins(line.record)
    return {"node": line.node, "at": rfc3339(line.record.at_us // 1000), **fields, **more}


def _call_row(line: _Line) -> list[str]:
    record = line.record
    assert isinstance(record, RpcRecord)
    return [
        _clock(record.at_us),
        line.node,
        record.method,
        f"{record.seconds * 1000:.2f}",
        record.code,
        record.peer,
        record.trace,
        _what(record.request.items() if isinstance(record.request, dict) else ()),
    ]


def _event_row(line: _Line) -> list[str]:
    record = line.record
    assert isinstance(record, EventRecord)
    return [_clock(record.at_us), line.node, record.level, record.event, _what(record.fields.items())]


def _step_row(step: Step) -> list[str]:
    record = step.record
    return [
        step.node,
        "  " * step.depth + record.method,
        f"{record.seconds * 1000:.3f}",
        record.code,
        record.peer,
        _what(record.request.items() if isinstance(record.request, dict) else ()),
    ]


def _clock(at_us: int) -> str:
    moment = datetime.datetime.fromtimestamp(at_us / 1e6, tz=datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _what(fields: Iterable[tuple[str, Any]]) -> str:  # Any: as in the record
    shown = []
    for key, value in fields:
        if key == "type":
            continue
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        shown.append(f"{key}={text if len(text) <= 60 else text[:57] + '…'}")
    return " ".join(shown)
