"""Namespace commands: ls, stat, mkdir, rm, mv, snapshot, glob. No file bytes pass here (see transfer)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import click
import msgspec

from gfs.cli.cluster_address import consistency_option, remote_path, run_with_client
from gfs.cli.completion import complete_remote
from gfs.cli.policies import effective_text
from gfs.cli.render import emit_many, emit_one, human_bytes, human_time, note, text_table
from gfs.client.client import AsyncClient
from gfs.errors import GfsError, PartlyDone
from gfs.messages.namespace import Entry
from gfs.messages.policies import PolicyReply
from gfs.vocabulary import split_path


@click.command()
@click.argument("path", default="/", shell_complete=complete_remote)
@click.option("-l", "--long", is_flag=True, help="Sizes, times and chunk counts.")
@click.option("-R", "--recursive", is_flag=True, help="Everything below as well.")
@click.option("-d", "--directory", is_flag=True, help="The entry itself, not what is in it.")
@consistency_option
@click.pass_context
def ls(ctx: click.Context, path: str, long: bool, recursive: bool, directory: bool) -> None:
    """List a directory."""

    async def work(client: AsyncClient) -> list[Entry]:
        top = await client.stat(remote_path(path))
        if directory or top.kind == "file":
            return [top]
        if recursive:
            return [entry async for entry in walk(client, top.path)]
        return [entry async for entry in client.list(top.path)]

    entries = run_with_client(ctx, work)
    output = ctx.obj.output
    if long or output != "table":
        headers = ["mode", "owner", "group", ">size", ">chunks", ">copies", "modified (UTC)", "path"]
        emit_many(entries, output, headers, ([*_columns(e), _shown(e, recursive)] for e in entries))
    else:
        click.echo(text_table([""], ([_shown(e, recursive)] for e in entries)), nl=False)


async def walk(client: AsyncClient, top: str) -> AsyncIterator[Entry]:
    """Every entry below `top`, parents before children."""
    async for entry in client.list(top):
        yield entry
        if entry.kind == "directory":
            async for below in walk(client, entry.path):
                yield below


def _columns(entry: Entry) -> list[str]:
    access = [mode_text(entry), owner_text(entry), entry.group or "-"]
    if entry.kind == "directory":
        return [*access, "-", "-", "-", human_time(entry.modified_ms)]
    size = human_bytes(entry.length_bytes) + ("" if entry.length_exact else "+")
    return [*access, size, str(entry.chunk_count), str(entry.replication_goal), human_time(entry.modified_ms)]


def mode_text(entry: Entry) -> str:
    """As `ls -l` of the system writes it: drwxr-x---."""
    kind = "d" if entry.kind == "directory" else "-"
    return kind + "".join(
        letter if entry.mode >> position & 1 else "-"
        for position, letter in zip(range(8, -1, -1), "rwx" * 3, strict=True)
    )


def owner_text(entry: Entry) -> str:
    return entry.owner or "(superuser)"


def _shown(entry: Entry, whole_path: bool) -> str:
    name = entry.path if whole_path else "/".join(split_path(entry.path)[-1:]) or "/"
    return name + ("/" if entry.kind == "directory" and name != "/" else "")


@click.command()
@click.argument("path", shell_complete=complete_remote)
@consistency_option
@click.pass_context
def stat(ctx: click.Context, path: str) -> None:
    """Show one file or directory, with its exact length and the policy that holds for it."""

    async def work(client: AsyncClient) -> tuple[Entry, PolicyReply]:
        entry = await client.stat(remote_path(path))
        return entry, await client.policy(entry.path)

    entry, policy = run_with_client(ctx, work)
    rows = [["path", entry.path], ["kind", entry.kind], ["inode", str(entry.inode)]]
    if entry.kind == "file":
        still_open = "" if entry.length_exact else " (being written; at least)"
        rows += [
            ["length", f"{entry.length_bytes} bytes ({human_bytes(entry.length_bytes)}){still_open}"],
            ["chunks", str(entry.chunk_count)],
            ["copies wanted", str(entry.replication_goal)],
        ]
    rows += [
        ["created", human_time(entry.created_ms) + " UTC"],
        ["modified", human_time(entry.modified_ms) + " UTC"],
    ]
    rows += [["owner", owner_text(entry)], ["group", entry.group or "-"]]
    rows += [["mode", f"{mode_text(entry)} ({entry.mode:03o})"]]
    holds = effective_text(policy)
    rows += [[f"policy: {key}", holds[key]] for key in ("replicas", "racks", "trash", "durability")]
    for use in policy.quotas:
        if use.files_max >= 0:
            count = use.files + use.directories
            rows += [["quota", f"{count} of {use.files_max} files and directories below {use.path}"]]
        if use.bytes_max >= 0:
            used, limit = human_bytes(use.content_bytes), human_bytes(use.bytes_max)
            rows += [["quota", f"{used} of {limit} below {use.path}"]]
    document = {**msgspec.to_builtins(entry), "policy": policy.effective, "quotas": policy.quotas}
    emit_one(document, ctx.obj.output, text_table(["", ""], rows).rstrip("\n"))


@click.command()
@click.argument("paths", nargs=-1, required=True, shell_complete=complete_remote)
@click.option("-p", "--parents", is_flag=True, help="Make missing parents; an existing directory is fine.")
@click.pass_context
def mkdir(ctx: click.Context, paths: Sequence[str], parents: bool) -> None:
    """Make directories."""

    async def work(client: AsyncClient) -> None:
        await each_path(paths, lambda path: client.mkdir(path, parents=parents))

    run_with_client(ctx, work)


@click.command()
@click.argument("paths", nargs=-1, required=True, shell_complete=complete_remote)
@click.option("-r", "--recursive", is_flag=True, help="Directories with everything in them.")
@click.option("--skip-trash", is_flag=True, help="Nobody can have it back; its space is freed at once.")
@click.pass_context
def rm(ctx: click.Context, paths: Sequence[str], recursive: bool, skip_trash: bool) -> None:
    """Move files or directories to the trash, where they are kept for three days by default.

    What is in the trash already (/.trash/ID, see 'gfs trash ls') is deleted for good.
    """

    async def work(client: AsyncClient) -> None:
        await each_path(paths, lambda path: client.delete(path, recursive=recursive, skip_trash=skip_trash))

    run_with_client(ctx, work)


@click.command()
@click.argument("sources", nargs=-1, required=True, shell_complete=complete_remote)
@click.argument("destination", shell_complete=complete_remote)
@click.option("-n", "--no-clobber", is_flag=True, help="Refuse to replace an existing file.")
@click.pass_context
def mv(ctx: click.Context, sources: Sequence[str], destination: str, no_clobber: bool) -> None:
    """Rename a file or a whole tree in one step; into DESTINATION when that is a directory."""

    async def work(client: AsyncClient) -> None:
        target = remote_path(destination)
        into = await is_directory(client, target)
        if len(sources) > 1 and not into:
            raise click.UsageError(
                f"{destination} is not a directory, so only one source can be moved there."
            )

        async def move(path: str) -> None:
            names = split_path(path) if path.startswith("/") else (path,)
            final = f"{target.rstrip('/')}/{names[-1]}" if into and names else target
            await client.rename(path, final, replace=not no_clobber)

        await each_path(sources, move)

    run_with_client(ctx, work)


@click.command()
@click.argument("source", shell_complete=complete_remote)
@click.argument("target", shell_complete=complete_remote)
@click.pass_context
def snapshot(ctx: click.Context, source: str, target: str) -> None:
    """Make TARGET a copy of the file or tree SOURCE, as it is at one moment.

    No bytes are copied now: both share their chunks until one of them is written to. Who writes below SOURCE
    meanwhile waits, and goes on afterwards. TARGET must not exist.
    """

    async def work(client: AsyncClient) -> None:
        await client.snapshot(remote_path(source), remote_path(target))

    run_with_client(ctx, work)


async def is_directory(client: AsyncClient, path: str) -> bool:
    from gfs.errors import NotADirectory, NotFound

    try:
        return (await client.stat(path)).kind == "directory"
    except (NotFound, NotADirectory):
        return False


@click.command("glob")
@click.argument("pattern")
@click.option("-l", "--long", is_flag=True, help="Sizes, times and chunk counts.")
@consistency_option
@click.pass_context
def glob(ctx: click.Context, pattern: str, long: bool) -> None:
    """List the paths that match PATTERN: * ? [abc] within a name, ** across directories."""

    async def work(client: AsyncClient) -> list[Entry]:
        return [entry async for entry in client.glob(remote_path(pattern))]

    entries = run_with_client(ctx, work)
    if long or ctx.obj.output != "table":
        headers = ["mode", "owner", "group", ">size", ">chunks", ">copies", "modified (UTC)", "path"]
        emit_many(entries, ctx.obj.output, headers, ([*_columns(e), _shown(e, True)] for e in entries))
    else:
        click.echo(text_table([""], ([_shown(e, True)] for e in entries)), nl=False)


async def each_path(paths: Sequence[str], do: Callable[[str], Awaitable[object]]) -> None:
    """Do all of them although some fail; with one path, its own error is the command's."""
    failures: list[GfsError] = []
    for path in paths:
        try:
            await do(remote_path(path))
        except GfsError as error:
            if len(paths) == 1:
                raise
            failures.append(error)
            note(f"gfs: {error.message}")
    if failures:
        raise PartlyDone(f"{len(failures)} of {len(paths)} paths failed, as said above")
