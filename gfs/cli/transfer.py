"""Commands that move bytes: put, get, cat. Trees are walked here; one file's bytes are the SDK's affair."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import click

from gfs.cli.cluster_address import consistency_option, remote_path, run_with_client
from gfs.cli.completion import complete_remote
from gfs.cli.files import is_directory, walk
from gfs.cli.render import counted, emit_one, human_bytes, note, on_terminal
from gfs.client.client import AsyncClient
from gfs.errors import (
    AlreadyExists,
    GfsError,
    InvalidArgument,
    InvalidPath,
    IsADirectory,
    NotFound,
    PartlyDone,
)
from gfs.vocabulary import MIB, split_path

FILES_IN_FLIGHT = 12
STREAM_BYTES = 4 * MIB

Advance = Callable[[int], None]


class Job(NamedTuple):
    source: str
    destination: str
    length_bytes: int


@contextmanager
def progress(total_bytes: int, label: str, *, quiet: bool) -> Iterator[Advance]:
    """A progress bar on a terminal, nothing elsewhere; yields a function taking bytes done."""
    if quiet or not on_terminal():
        yield lambda _: None
        return
    from rich import progress as bars
    from rich.console import Console

    with bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(binary_units=True),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task(label, total=total_bytes or None)
        yield lambda count: bar.advance(task, count)


async def transfer_all(jobs: Sequence[Job], do: Callable[[Job], Awaitable[None]]) -> list[str]:
    """Run all jobs, FILES_IN_FLIGHT at a time; returns one sentence for each that failed."""
    failures: list[str] = []
    waiting = iter(jobs)

    async def worker() -> None:
        for job in waiting:
            try:
                await do(job)
            except GfsError as error:
                failures.append(f"{job.source}: {error.message}")
            except OSError as error:
                failures.append(f"{job.source}: {error.strerror or error}")

    async with asyncio.TaskGroup() as group:
        for _ in range(min(FILES_IN_FLIGHT, max(1, len(jobs)))):
            group.create_task(worker())
    return failures


@click.command()
@click.argument("sources", nargs=-1, required=True)
@click.argument("destination")
@click.option("-r", "--recursive", is_flag=True, help="Directories with everything in them.")
@click.option("-f", "--force", is_flag=True, help="Replace existing files (the old ones go to the trash).")
@click.pass_context
def put(ctx: click.Context, sources: Sequence[str], destination: str, recursive: bool, force: bool) -> None:
    """Store local files in the cluster; '-' is standard input.

    Into DESTINATION when that is a directory. A file appears under its name only when it is whole.
    """
    target = remote_path(destination)

    async def work(client: AsyncClient) -> None:
        into = await is_directory(client, target)
        if list(sources) == ["-"]:
            if into:
                raise IsADirectory(
                    f"{destination} is a directory", hint="Standard input has no name: give the whole path."
                )
            await _put_stream(client, target, force)
            return
        if len(sources) > 1 and not into:
            raise InvalidArgument(
                f"{destination} is not a directory in the cluster, so it cannot take {len(sources)} sources",
                hint=f"Make it first: gfs mkdir -p {destination}",
            )
        await put_tree(client, sources, target, into=into, recursive=recursive, replace=force, ctx=ctx)

    run_with_client(ctx, work)


async def _put_stream(client: AsyncClient, target: str, force: bool) -> None:
    async with await client.open(target, "wb" if force else "xb", atomic=True) as file:
        while data := await read_input():
            await file.write(data)


async def read_input() -> bytes:
    """The next bytes of standard input; none at its end. Nothing waits for the thread: it may not return."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()

    def tell(data: bytes, error: OSError | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(data)

    def read() -> None:
        data, error = bytearray(), None
        try:
            while len(data) < STREAM_BYTES and (more := os.read(0, STREAM_BYTES - len(data))):
                data += more
        except OSError as failed:
            error = failed
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(tell, bytes(data), error)

    threading.Thread(target=read, daemon=True, name="standard input").start()
    return await answer


async def put_tree(
    client: AsyncClient,
    sources: Sequence[str],
    target: str,
    *,
    into: bool,
    recursive: bool,
    replace: bool,
    ctx: click.Context,
) -> None:
    """Store local files and trees; directories first, then all files with several in flight."""
    jobs: list[Job] = []
    unread: list[str] = []
    for source in sources:
        name = os.path.basename(os.path.abspath(source))
        final = f"{target.rstrip('/')}/{name}" if into else target
        if os.path.isdir(source):
            if not recursive:
                raise IsADirectory(f"{source} is a directory", hint="Add -r to store everything in it.")
            await client.mkdir(final, parents=True)
            jobs += [job async for job in _local_tree(client, source, final, unread)]
        elif os.path.exists(source):
            jobs.append(Job(source, final, os.path.getsize(source)))
        else:
            raise NotFound(f"there is no local file {source!r}")
    total = sum(job.length_bytes for job in jobs)
    with progress(total, f"put {counted(len(jobs), 'file')}", quiet=ctx.obj.quiet) as advance:

        async def store(job: Job) -> None:
            await client.put_file(job.source, job.destination, replace=replace, progress=advance)

        if len(jobs) == 1 and not unread:
            await store(jobs[0])
            failures = []
        else:
            failures = unread + await transfer_all(jobs, store)
    _conclude(failures, len(jobs) + len(unread), total, "stored", ctx)


async def _local_tree(client: AsyncClient, source: str, final: str, unread: list[str]) -> AsyncIterator[Job]:
    """Files below `source`, their directories made; a sentence in `unread` for each that cannot be taken."""

    def note_unread(error: OSError) -> None:
        unread.append(f"{error.filename}: {error.strerror}")

    for folder, below, files in os.walk(source, onerror=note_unread):
        relative = os.path.relpath(folder, source)
        remote = final if relative == "." else f"{final}/{relative}"
        for name in sorted(below):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                note(f"gfs: left out {path}: a link to a directory")
                continue
            try:
                await client.mkdir(f"{remote}/{name}", parents=True)
            except InvalidPath as error:
                unread.append(f"{path}: {error.message}")
                below.remove(name)  # and nothing in it has a path either
        for name in sorted(files):
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                yield Job(path, f"{remote}/{name}", os.path.getsize(path))
            else:
                note(f"gfs: left out {path}: not a regular file")


@click.command()
@click.argument("sources", nargs=-1, required=True)
@click.argument("destination")
@click.option("-r", "--recursive", is_flag=True, help="Directories with everything in them.")
@click.option("-f", "--force", is_flag=True, help="Replace existing local files.")
@consistency_option
@click.pass_context
def get(ctx: click.Context, sources: Sequence[str], destination: str, recursive: bool, force: bool) -> None:
    """Fetch files to this machine; '-' is standard output.

    A local file appears under its name only when every byte has come and was verified.
    """

    async def work(client: AsyncClient) -> None:
        if destination == "-":
            for source in sources:
                await _stream_out(client, remote_path(source), 0, None)
            return
        into = os.path.isdir(destination)
        if len(sources) > 1 and not into:
            raise InvalidArgument(
                f"{destination} is not a local directory, so it cannot take several sources"
            )
        jobs: list[Job] = []
        for source in sources:
            top = await client.stat(remote_path(source))
            final = os.path.join(destination, *split_path(top.path)[-1:]) if into else destination
            if top.kind == "directory":
                if not recursive:
                    raise IsADirectory(f"{source} is a directory", hint="Add -r to fetch everything in it.")
                jobs += [job async for job in _remote_tree(client, top.path, final)]
            else:
                jobs.append(Job(top.path, final, top.length_bytes))
        await _fetch(client, jobs, force, ctx)

    run_with_client(ctx, work)


async def _remote_tree(client: AsyncClient, top: str, final: str) -> AsyncIterator[Job]:
    os.makedirs(final, exist_ok=True)
    async for entry in walk(client, top):
        local = os.path.join(final, os.path.relpath(entry.path, top))
        if entry.kind == "directory":
            os.makedirs(local, exist_ok=True)
        else:
            yield Job(entry.path, local, entry.length_bytes)


async def _fetch(client: AsyncClient, jobs: list[Job], force: bool, ctx: click.Context) -> None:
    total = sum(job.length_bytes for job in jobs)
    with progress(total, f"get {counted(len(jobs), 'file')}", quiet=ctx.obj.quiet) as advance:

        async def fetch(job: Job) -> None:
            if not force and os.path.lexists(job.destination):
                raise AlreadyExists(f"the local file {job.destination} exists", hint="Add -f to replace it.")
            if os.path.exists(job.destination) and not os.path.isfile(job.destination):
                raise AlreadyExists(f"{job.destination} is not a regular file, so it is not replaced")
            await client.get_file(job.source, job.destination, progress=advance)

        if len(jobs) == 1:
            await fetch(jobs[0])
            failures = []
        else:
            failures = await transfer_all(jobs, fetch)
    _conclude(failures, len(jobs), total, "fetched", ctx)


def _conclude(failures: list[str], files: int, total: int, verb: str, ctx: click.Context) -> None:
    for failure in failures[:20]:
        note(f"gfs: {failure}")
    if len(failures) > 20:
        note(f"gfs: … and {len(failures) - 20} more")
    if failures:
        raise PartlyDone(f"{len(failures)} of {files} files failed, as said above")
    summary = {"files": files, "bytes": total}
    if not ctx.obj.quiet:
        emit_one(summary, ctx.obj.output, f"{verb} {counted(files, 'file')}, {human_bytes(total)}")


@click.command()
@click.argument("paths", nargs=-1, required=True, shell_complete=complete_remote)
@click.option("--offset", type=click.IntRange(min=0), default=0, help="First byte.")
@click.option("--length", type=click.IntRange(min=0), default=None, help="How many bytes.")
@click.option("--records", is_flag=True, help="The records that 'append --record' made, a line for each.")
@click.option("-f", "--follow", is_flag=True, help="With --records: wait for more; end it with Ctrl-C.")
@consistency_option
@click.pass_context
def cat(
    ctx: click.Context, paths: Sequence[str], offset: int, length: int | None, records: bool, follow: bool
) -> None:
    """Write the bytes of files to standard output, or their records: each once, whole and verified."""
    if follow and (not records or len(paths) > 1):
        raise click.UsageError("--follow needs --records and a single file.")
    if records and length is not None:
        raise click.UsageError("--length counts bytes, and --records does not show all of them.")

    async def work(client: AsyncClient) -> None:
        for path in paths:
            if records:
                from gfs.cli.records import show_records

                await show_records(client, remote_path(path), offset, follow=follow, output=ctx.obj.output)
            else:
                await _stream_out(client, remote_path(path), offset, length)

    run_with_client(ctx, work)


async def _stream_out(client: AsyncClient, path: str, offset: int, length: int | None) -> None:
    out = sys.stdout.buffer
    async with await client.open(path, "rb") as file:
        file.seek(offset)
        left = length
        while left is None or left > 0:
            data = await file.read(STREAM_BYTES if left is None else min(left, STREAM_BYTES))
            if not data:
                break
            await asyncio.to_thread(out.write, data)
            left = None if left is None else left - len(data)
    await asyncio.to_thread(out.flush)
