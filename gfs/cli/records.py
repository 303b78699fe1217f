"""Records at the command line: append, and what `cat --records` shows. Framing is the SDK's affair."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from gfs.cli.cluster_address import remote_path, run_with_client
from gfs.cli.render import emit_one
from gfs.cli.transfer import read_input
from gfs.errors import AlreadyExists, InvalidArgument, NotFound
from gfs.settings import APPEND_BYTES_MAX

if TYPE_CHECKING:
    from gfs.client.client import AsyncClient

STANDARD_INPUT = "-"


class Appended(NamedTuple):
    """What is printed of each record."""

    offset: int
    bytes: int


@click.command()
@click.argument("path")
@click.argument("sources", nargs=-1)
@click.option(
    "--record", is_flag=True, help="Frame records, so that 'cat --records' finds and verifies them."
)
@click.option("--create", is_flag=True, help="Make the file when there is none.")
@click.pass_context
def append(ctx: click.Context, path: str, sources: Sequence[str], record: bool, create: bool) -> None:
    """Append to a file while others do: exactly once, at an offset the cluster chooses, which is printed.

    Each of SOURCES, local files, goes in one piece. Without SOURCES standard input does: with --record one
    record for each line, in their order; else all of it as one piece.
    """
    target = remote_path(path)

    async def work(client: AsyncClient) -> None:
        if create:
            try:
                await client.create(target)
            except AlreadyExists:
                pass  # it is a file, or appending says that it is none
        async for name, data in _pieces(sources, by_line=record):
            if not data and not record:
                raise InvalidArgument(f"{name} is empty: there is nothing to append")
            try:
                offset = await client.record_append(target, data, framed=record)
            except InvalidArgument as error:
                raise InvalidArgument(f"{name}: {error.message}", hint=error.hint) from error
            if not ctx.obj.quiet:
                emit_one(Appended(offset, len(data))._asdict(), ctx.obj.output, str(offset))
                sys.stdout.flush()

    run_with_client(ctx, work)


async def _pieces(sources: Sequence[str], *, by_line: bool) -> AsyncIterator[tuple[str, bytes]]:
    """What to append, each with a name for messages. Raises: NotFound, InvalidArgument."""
    if not sources or list(sources) == [STANDARD_INPUT]:
        async for piece in _lines() if by_line else _whole_input():
            yield piece
        return
    for source in sources:
        try:
            with open(source, "rb") as file:
                data = await asyncio.to_thread(file.read, APPEND_BYTES_MAX + 1)
        except FileNotFoundError as error:
            raise NotFound(f"there is no local file {source!r}") from error
        yield source, data


async def _lines() -> AsyncIterator[tuple[str, bytes]]:
    rest, number = b"", 0
    while data := await read_input():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            number += 1
            yield f"line {number} of standard input", line
        if len(rest) > APPEND_BYTES_MAX:
            raise InvalidArgument(
                f"line {number + 1} of standard input is longer than a record: {APPEND_BYTES_MAX} bytes"
            )
    if rest:
        yield f"line {number + 1} of standard input", rest


async def _whole_input() -> AsyncIterator[tuple[str, bytes]]:
    data = bytearray()
    while len(data) <= APPEND_BYTES_MAX and (more := await read_input()):
        data += more
    yield "standard input", bytes(data)


async def show_records(client: AsyncClient, path: str, offset: int, *, follow: bool, output: str) -> None:
    """Each payload and a newline; for programs one JSON object a line, the payload in base64."""
    out = sys.stdout.buffer
    async for record in client.records(path, offset=offset, follow=follow):
        if output == "table":
            await asyncio.to_thread(out.write, record.payload + b"\n")
        else:
            emit_one({"offset": record.offset_bytes, "payload": record.payload}, output, "")
        if follow:
            await asyncio.to_thread(sys.stdout.flush)
    await asyncio.to_thread(out.flush)
