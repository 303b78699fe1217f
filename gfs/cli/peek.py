"""Commands that read a part of a file or sum it up: head, tail, checksum. Whole files are transfer's."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Sequence

import click
import msgspec

from gfs.checksums import crc32c
from gfs.cli.cluster_address import consistency_option, remote_path, run_with_client
from gfs.cli.completion import complete_remote
from gfs.cli.files import each_path
from gfs.cli.render import emit_many
from gfs.client.client import AsyncClient
from gfs.client.file import AsyncReader
from gfs.errors import Superseded
from gfs.vocabulary import MIB

PIECE_BYTES = MIB
LOOK_SECONDS = 0.5  # how often a followed file is asked for more
_lines = click.option("-n", "--lines", type=click.IntRange(min=0), help="So many lines.  [default: 10]")
_count = click.option("-c", "--bytes", "count", type=click.IntRange(min=0), help="So many bytes instead.")
LINES = 10


@click.command(epilog="Example: gfs head -n 3 /data/part-0.csv")
@click.argument("path", shell_complete=complete_remote)
@_lines
@_count
@consistency_option
@click.pass_context
def head(ctx: click.Context, path: str, lines: int | None, count: int | None) -> None:
    """Write the first lines, or bytes, of a file to standard output."""
    _one_of(lines, count)

    async def work(client: AsyncClient) -> None:
        async with await client.open(remote_path(path), "rb") as file:
            left = LINES if lines is None else lines
            bytes_left = count
            while (bytes_left is None and left) or bytes_left:
                data = await file.read(PIECE_BYTES if bytes_left is None else min(bytes_left, PIECE_BYTES))
                if not data:
                    break
                if bytes_left is None:
                    end = _after_lines(data, left)
                    left -= data.count(b"\n", 0, end)
                    data = data[:end]
                else:
                    bytes_left -= len(data)
                await _out(data)

    run_with_client(ctx, work)


@click.command(epilog="Example: gfs tail -f /data/log")
@click.argument("path", shell_complete=complete_remote)
@_lines
@_count
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written later; Ctrl-C ends it.")
@consistency_option
@click.pass_context
def tail(ctx: click.Context, path: str, lines: int | None, count: int | None, follow: bool) -> None:
    """Write the last lines, or bytes, of a file to standard output.

    These are the file's bytes. Of a file of records, 'gfs cat --records --follow' shows the records, each
    once and whole. A file that another one replaces ends --follow.
    """
    _one_of(lines, count)

    remote = remote_path(path)

    async def work(client: AsyncClient) -> None:
        async with await client.open(remote, "rb") as file:
            end = await file.length()
            if count is None:
                start = await _lines_from_end(file, end, LINES if lines is None else lines)
            else:
                start = max(0, end - count)
            inode = file.entry.inode
            upto = await _show_from(file, start)
        while follow:
            await asyncio.sleep(LOOK_SECONDS)
            # Opened anew: a reader may take the end it knows for the end for as long as it keeps places.
            async with await client.open(remote, "rb") as file:
                if file.entry.inode != inode:
                    raise Superseded(
                        f"{remote} was replaced by another file", hint="Start again to follow it."
                    )
                upto = await _show_from(file, upto)

    run_with_client(ctx, work)


async def _show_from(file: AsyncReader, offset: int) -> int:
    """Where the file ended."""
    file.seek(offset)
    while data := await file.read(PIECE_BYTES):
        await _out(data)
    return file.tell()


def _one_of(lines: int | None, count: int | None) -> None:
    if lines is not None and count is not None:
        raise click.UsageError("Lines or bytes: --lines and --bytes cannot both be given.")


def _after_lines(data: bytes, lines: int) -> int:
    """Where the first `lines` lines of `data` end."""
    end = 0
    for _ in range(lines):
        found = data.find(b"\n", end)
        if found < 0:
            return len(data)
        end = found + 1
    return end


async def _lines_from_end(file: AsyncReader, end: int, lines: int) -> int:
    """Where the last `lines` lines begin. A line that has not ended yet is one, too."""
    if lines == 0:
        return end
    left = lines
    upto = end
    while upto > 0:
        start = max(0, upto - PIECE_BYTES)
        piece = await file.pread(start, upto - start)
        found = len(piece)
        if upto == end and piece.endswith(b"\n"):
            found -= 1  # it ends the last line, and begins none
        while (found := piece.rfind(b"\n", 0, found)) >= 0:
            left -= 1
            if left == 0:
                return start + found + 1
        upto = start
    return 0


async def _out(data: bytes) -> None:
    def write() -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    await asyncio.to_thread(write)


class Sum(msgspec.Struct, frozen=True):
    path: str
    length_bytes: int
    algorithm: str
    checksum: str


@click.command(epilog="Example: gfs checksum --sha256 /data/part-0 /data/part-1")
@click.argument("paths", nargs=-1, required=True, shell_complete=complete_remote)
@click.option("--sha256", is_flag=True, help="SHA-256, as 'sha256sum' of a local copy tells it.")
@consistency_option
@click.pass_context
def checksum(ctx: click.Context, paths: Sequence[str], sha256: bool) -> None:
    """Read files and show one checksum of all their bytes: CRC32C, or SHA-256.

    Every block is compared with its own checksum on the way: a sum that is shown is of good bytes.
    """
    found: list[Sum] = []

    async def work(client: AsyncClient) -> None:
        async def one(path: str) -> None:
            found.append(await _sum(client, path, sha256))

        try:
            await each_path(paths, one)
        finally:
            rows = ([s.checksum, str(s.length_bytes), s.path] for s in found)
            emit_many(found, ctx.obj.output, [_title(sha256), ">bytes", "path"], rows)

    run_with_client(ctx, work)


def _title(sha256: bool) -> str:
    return "sha256" if sha256 else "crc32c"


async def _sum(client: AsyncClient, path: str, sha256: bool) -> Sum:
    async with await client.open(path, "rb") as file:
        strong, weak, length = hashlib.sha256(), 0, 0
        while data := await file.read(PIECE_BYTES):
            length += len(data)
            if sha256:
                strong.update(data)
            else:
                weak = crc32c(data, weak)
    text = strong.hexdigest() if sha256 else f"{weak:08x}"
    return Sum(path, length, _title(sha256), text)
