"""Commands that walk trees: tree, find, du; and df, how full the cluster is. They change nothing."""

from __future__ import annotations

import fnmatch
import re
import time
from collections.abc import AsyncIterator, Iterable, Sequence

import click
import msgspec

from gfs.cli.cluster_address import consistency_option, remote_path, run_with_client
from gfs.cli.completion import complete_remote
from gfs.cli.files import walk
from gfs.cli.render import counted, emit_many, emit_one, human_bytes, text_table, visible
from gfs.client.client import AsyncClient
from gfs.errors import InvalidArgument
from gfs.messages.cluster import ClusterStatusReply
from gfs.messages.namespace import Entry
from gfs.vocabulary import split_path

DEPTH_MAX = 1000
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB|TiB)?", re.IGNORECASE)
_AGE = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_UNITS = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def size_bytes(text: str) -> int:
    """`4096`, `64KiB`, `1 GiB`. Raises: InvalidArgument."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f"{text!r} is no size", hint="For example: 4096, 64KiB, 1GiB.")
    return int(match[1]) * _UNITS[(match[2] or "B").lower()]


def age_seconds(text: str) -> float:
    """`90s`, `15m`, `12h`, `7d`. Raises: InvalidArgument."""
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f"{text!r} is no span of time", hint="For example: 90s, 15m, 12h, 7d.")
    return float(match[1]) * _SECONDS[match[2]]


# --- find -------------------------------------------------------------------------------------------


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What `find` looks for; all of it must be true of an entry."""

    name: str = ""  # a shell pattern for the last name
    kind: str = ""  # file or directory
    larger_bytes: int = -1
    smaller_bytes: int = -1
    newer_ms: int = -1  # changed after
    older_ms: int = -1  # changed before

    def fits(self, entry: Entry) -> bool:
        last = (split_path(entry.path) or ("",))[-1]
        is_file = entry.kind == "file"
        return (
            (not self.name or fnmatch.fnmatchcase(last, self.name))
            and (not self.kind or entry.kind == self.kind)
            and (self.larger_bytes < 0 or (is_file and entry.length_bytes > self.larger_bytes))
            and (self.smaller_bytes < 0 or (is_file and entry.length_bytes < self.smaller_bytes))
            and (self.newer_ms < 0 or entry.modified_ms > self.newer_ms)
            and (self.older_ms < 0 or entry.modified_ms < self.older_ms)
        )


@click.command(epilog="Example: gfs find /data --name '*.parquet' --larger 1GiB --older 30d")
@click.argument("path", default="/", shell_complete=complete_remote)
@click.option("--name", default="", metavar="PATTERN", help="The last name fits: * ? [abc].")
@click.option("--type", "kind", type=click.Choice(["f", "d"]), help="Only files, or only directories.")
@click.option("--larger", metavar="SIZE", help="Files with more bytes: 4096, 64KiB, 1GiB.")
@click.option("--smaller", metavar="SIZE", help="Files with fewer bytes.")
@click.option("--newer", metavar="SPAN", help="Changed less than that long ago: 90s, 15m, 12h, 7d.")
@click.option("--older", metavar="SPAN", help="Changed more than that long ago.")
@click.option("-0", "--print0", is_flag=True, help="Paths end in a NUL byte, for 'xargs -0'.")
@consistency_option
@click.pass_context
def find(
    ctx: click.Context,
    path: str,
    name: str,
    kind: str | None,
    larger: str | None,
    smaller: str | None,
    newer: str | None,
    older: str | None,
    print0: bool,
) -> None:
    """List what is below PATH and fits all that is asked for; each path as it is found."""
    now_ms = int(time.time() * 1000)
    wanted = Wanted(
        name=name,
        kind={"f": "file", "d": "directory"}.get(kind or "", ""),
        larger_bytes=size_bytes(larger) if larger else -1,
        smaller_bytes=size_bytes(smaller) if smaller else -1,
        newer_ms=now_ms - int(age_seconds(newer) * 1000) if newer else -1,
        older_ms=now_ms - int(age_seconds(older) * 1000) if older else -1,
    )
    output = ctx.obj.output

    async def work(client: AsyncClient) -> None:
        found: list[Entry] = []
        async for entry in _with_top(client, path):
            if not wanted.fits(entry):
                continue
            if output == "json":
                found.append(entry)
            elif output == "jsonl":
                click.echo(msgspec.json.encode(entry).decode())
            else:
                click.echo(entry.path + "\0" if print0 else visible(entry.path), nl=not print0)
        if output == "json":
            emit_many(found, output, [], [])

    run_with_client(ctx, work)


async def _with_top(client: AsyncClient, path: str) -> AsyncIterator[Entry]:
    top = await client.stat(remote_path(path))
    yield top
    if top.kind == "directory":
        async for entry in walk(client, top.path):
            yield entry


# --- tree -------------------------------------------------------------------------------------------


@click.command(epilog="Example: gfs tree -L 2 /data")
@click.argument("path", default="/", shell_complete=complete_remote)
@click.option("-L", "--depth", type=click.IntRange(1, DEPTH_MAX), default=DEPTH_MAX, help="No deeper.")
@click.option("-d", "--directories", is_flag=True, help="Directories only.")
@consistency_option
@click.pass_context
def tree(ctx: click.Context, path: str, depth: int, directories: bool) -> None:
    """Draw what is below PATH as a tree, with the sizes of files."""

    async def work(client: AsyncClient) -> None:
        top = await client.stat(remote_path(path))
        if ctx.obj.output != "table":
            entries = [entry async for entry in _no_deeper(client, top, depth, directories)]
            emit_many(entries, ctx.obj.output, [], [])
            return
        click.echo(visible(top.path))
        seen = {"file": 0, "directory": 0}
        if top.kind == "directory":
            await _draw(client, top, "", depth, directories, seen)
        made = "1 directory" if seen["directory"] == 1 else f"{seen['directory']} directories"
        click.echo(f"\n{made}" + ("" if directories else f", {counted(seen['file'], 'file')}"))

    run_with_client(ctx, work)


async def _no_deeper(client: AsyncClient, top: Entry, depth: int, directories: bool) -> AsyncIterator[Entry]:
    if top.kind == "file":
        yield top
        return
    async for entry in client.list(top.path):
        if entry.kind == "directory" or not directories:
            yield entry
        if entry.kind == "directory" and depth > 1:
            async for below in _no_deeper(client, entry, depth - 1, directories):
                yield below


async def _draw(
    client: AsyncClient, top: Entry, indent: str, depth: int, directories: bool, seen: dict[str, int]
) -> None:
    """One line an entry, each as soon as the next one is known: only then is it known not to be the last."""
    before: Entry | None = None
    async for entry in client.list(top.path):
        if directories and entry.kind == "file":
            continue
        if before is not None:
            await _draw_entry(client, before, indent, "├── ", "│   ", depth, directories, seen)
        before = entry
    if before is not None:
        await _draw_entry(client, before, indent, "└── ", "    ", depth, directories, seen)


async def _draw_entry(
    client: AsyncClient,
    entry: Entry,
    indent: str,
    branch: str,
    below: str,
    depth: int,
    directories: bool,
    seen: dict[str, int],
) -> None:
    seen[entry.kind] += 1
    name = visible(split_path(entry.path)[-1])
    size = "/" if entry.kind == "directory" else f"  ({human_bytes(entry.length_bytes)})"
    click.echo(f"{indent}{branch}{name}{size}")
    if entry.kind == "directory" and depth > 1:
        await _draw(client, entry, indent + below, depth - 1, directories, seen)


# --- du, df -----------------------------------------------------------------------------------------


class Used(msgspec.Struct, kw_only=True):
    """What lies below a path. `raw_bytes` counts each wanted copy; what snapshots share counts for each."""

    path: str
    files: int = 0
    directories: int = 0
    bytes: int = 0
    raw_bytes: int = 0

    def add(self, entry: Entry) -> None:
        if entry.kind == "directory":
            self.directories += 1
        else:
            self.files += 1
            self.bytes += entry.length_bytes
            self.raw_bytes += entry.length_bytes * entry.replication_goal


@click.command(epilog="Example: gfs du /data | sort -k1 -h")
@click.argument("paths", nargs=-1, shell_complete=complete_remote)
@click.option("-s", "--summarize", is_flag=True, help="One line for each PATH, not for what is in it.")
@click.option("-b", "--bytes", "exact", is_flag=True, help="Sizes in bytes.")
@consistency_option
@click.pass_context
def du(ctx: click.Context, paths: Sequence[str], summarize: bool, exact: bool) -> None:
    """Add up files and bytes below PATH, for each entry in it and in all.

    RAW counts every copy that is wanted. What snapshots share is counted for each of them, and what is in the
    trash is not. Files that are being written count with the length that masters know.
    """

    async def work(client: AsyncClient) -> list[Used]:
        rows: list[Used] = []
        for path in paths or ("/",):
            rows += await _used(client, path, summarize)
        return rows

    rows = run_with_client(ctx, work)
    shown = str if exact else human_bytes
    emit_many(
        rows,
        ctx.obj.output,
        [">size", ">raw", ">files", ">directories", "path"],
        ([shown(u.bytes), shown(u.raw_bytes), str(u.files), str(u.directories), u.path] for u in rows),
    )


async def _used(client: AsyncClient, path: str, summarize: bool) -> Iterable[Used]:
    top = await client.stat(remote_path(path))
    total = Used(path=top.path)
    parts: dict[str, Used] = {}
    if top.kind == "file":
        total.add(top)
        return [total]
    depth = len(split_path(top.path))
    async for entry in walk(client, top.path):
        total.add(entry)
        if not summarize:
            below = "/" + "/".join(split_path(entry.path)[: depth + 1])
            part = parts.setdefault(below, Used(path=below))
            if entry.path != below or entry.kind == "file":
                part.add(entry)
    return [*parts.values(), total]


@click.command(epilog="Example: gfs df")
@click.pass_context
def df(ctx: click.Context) -> None:
    """Show how full the chunk servers' disks are, and how much more fits."""

    async def work(client: AsyncClient) -> ClusterStatusReply:
        return await client.cluster_status()

    found = run_with_client(ctx, work)
    servers = [server for server in found.chunkservers if server.alive]
    total = sum(server.disk_total_bytes for server in servers)
    free = sum(server.disk_free_bytes for server in servers)
    document = {
        "total_bytes": total,
        "free_bytes": free,
        "chunk_servers": [msgspec.to_builtins(server) for server in found.chunkservers],
    }
    rows = [
        _disk_row(s.id + ("" if s.alive else " (away)"), s.disk_total_bytes, s.disk_free_bytes)
        for s in found.chunkservers
    ]
    rows.append(_disk_row("all that are alive", total, free))
    table = text_table(["chunk server", ">size", ">used", ">free", ">use%"], rows)
    fits = f"With 3 replicas of each file {human_bytes(free // 3)} more fit, on disks of their own."
    emit_one(document, ctx.obj.output, table + fits)


def _disk_row(name: str, total: int, free: int) -> list[str]:
    used = total - free
    share = f"{100 * used / total:.0f}%" if total else "-"
    return [name, human_bytes(total), human_bytes(used), human_bytes(free), share]
