"""`gfs sync`: make a directory here, or in the cluster, like one on the other side. Decided by sync_plan."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

import click
import msgspec

from gfs.cli.cluster_address import remote_path, run_with_client
from gfs.cli.files import walk
from gfs.cli.render import counted, emit_one, human_bytes, note, visible
from gfs.cli.sync_plan import Item, Plan, make_plan
from gfs.cli.transfer import Job, progress, transfer_all
from gfs.client.client import AsyncClient
from gfs.errors import InvalidArgument, NotADirectory, NotFound, PartlyDone

SCHEME = "gfs://"
NAMED_MAX = 20  # failures that are told one by one


class Synced(msgspec.Struct, frozen=True, kw_only=True):
    copied: int
    bytes: int
    unchanged: int
    deleted: int
    dry_run: bool


@click.command(
    epilog="Example: gfs sync --delete --dry-run ./dataset gfs:///data/dataset",
)
@click.argument("source")
@click.argument("destination")
@click.option(
    "--delete", is_flag=True, help="Delete what is in DESTINATION only (in the cluster: to the trash)."
)
@click.option("-n", "--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@click.pass_context
def sync(ctx: click.Context, source: str, destination: str, delete: bool, dry_run: bool) -> None:
    """Make the directory DESTINATION like the directory SOURCE; one of them is gfs:///in/the/cluster.

    Copied are files that are missing, of another length, or older than their source. A file appears only when
    it is whole. Nothing is deleted when something could not be copied.
    """
    up = destination.startswith(SCHEME)
    if up == source.startswith(SCHEME):
        raise InvalidArgument(
            "one of SOURCE and DESTINATION has to be in the cluster, and the other one here",
            hint="Write the one in the cluster as gfs:///a/b. Within the cluster there is 'gfs cp'.",
        )

    async def work(client: AsyncClient) -> Synced:
        local, remote = (source, remote_path(destination)) if up else (destination, remote_path(source))
        unread: list[str] = []
        here = _local(local, unread, must_exist=up)
        there = await _remote(client, remote, must_exist=not up)
        plan = make_plan(here, there) if up else make_plan(there, here)
        sizes = here if up else there
        if dry_run:
            _show(plan, delete)
            failures = unread
        else:
            side = _Side(client, local, remote, up)
            failures = unread + await _carry_out(side, plan, sizes, delete and not unread, ctx)
        failures += [f"{path}: a file on one side and a directory on the other" for path in plan.conflicts]
        _tell(failures)
        wanted = [*plan.new, *plan.changed]
        return Synced(
            copied=len(wanted),
            bytes=sum(sizes[path].length_bytes for path in wanted),
            unchanged=plan.unchanged,
            deleted=len(plan.surplus) if delete else 0,
            dry_run=dry_run,
        )

    done = run_with_client(ctx, work)
    verb = "would copy" if dry_run else "copied"
    gone = f", {'would delete' if dry_run else 'deleted'} {done.deleted}" if delete else ""
    text = (
        f"{verb} {counted(done.copied, 'file')} ({human_bytes(done.bytes)}), {done.unchanged} unchanged{gone}"
    )
    if not ctx.obj.quiet or ctx.obj.output != "table":
        emit_one(done, ctx.obj.output, text)


def _tell(failures: Sequence[str]) -> None:
    for failure in failures[:NAMED_MAX]:
        note(f"gfs: {failure}")
    if len(failures) > NAMED_MAX:
        note(f"gfs: … and {len(failures) - NAMED_MAX} more")
    if failures:
        raise PartlyDone(
            f"{counted(len(failures), 'path')} could not be made alike, as said above",
            hint="What could be copied was. The same command goes on where this one ended.",
        )


def _show(plan: Plan, delete: bool) -> None:
    for path in plan.directories:
        note(f"+ {visible(path)}/")
    for path in plan.new:
        note(f"+ {visible(path)}")
    for path in plan.changed:
        note(f"~ {visible(path)}")
    for path in plan.surplus if delete else ():
        note(f"- {visible(path)}")


# --- listings ---------------------------------------------------------------------------------------


def _local(top: str, unread: list[str], *, must_exist: bool) -> dict[str, Item]:
    """What is below `top` by relative path; a sentence in `unread` for what cannot be read."""
    if not os.path.isdir(top):
        if os.path.lexists(top):
            raise NotADirectory(f"{top} is not a directory", hint="Single files: gfs put, gfs get.")
        if must_exist:
            raise NotFound(f"there is no local directory {top!r}")
        return {}
    found: dict[str, Item] = {}
    for folder, below, files in os.walk(top, onerror=lambda e: unread.append(f"{e.filename}: {e.strerror}")):
        for name in list(below):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                below.remove(name)
                note(f"gfs: left out {path}: a link to a directory")
            else:
                found[_relative(path, top)] = Item("directory")
        for name in files:
            path = os.path.join(folder, name)
            if not os.path.isfile(path):
                note(f"gfs: left out {path}: not a regular file")
                continue
            try:
                status = os.stat(path)
            except OSError as error:
                unread.append(f"{path}: {error.strerror}")
                continue
            found[_relative(path, top)] = Item("file", status.st_size, status.st_mtime_ns // 1_000_000)
    return found


def _relative(path: str, top: str) -> str:
    return os.path.relpath(path, top).replace(os.sep, "/")


async def _remote(client: AsyncClient, top: str, *, must_exist: bool) -> dict[str, Item]:
    try:
        entry = await client.stat(top)
    except NotFound:
        if must_exist:
            raise
        return {}
    if entry.kind == "file":
        raise NotADirectory(f"{top} is not a directory", hint="Single files: gfs put, gfs get.")
    prefix = len(entry.path.rstrip("/")) + 1
    return {
        below.path[prefix:]: Item(below.kind, below.length_bytes, below.modified_ms)
        async for below in walk(client, entry.path)
    }


# --- doing it ---------------------------------------------------------------------------------------


class _Side:
    """The target of a sync: a directory of the cluster, or one of this machine."""

    def __init__(self, client: AsyncClient, local: str, remote: str, up: bool) -> None:
        self._client, self._local, self._remote, self._up = client, local, remote.rstrip("/"), up

    def here(self, path: str) -> str:
        return os.path.join(self._local, *path.split("/")) if path else self._local

    def there(self, path: str) -> str:
        return f"{self._remote}/{path}" if path else self._remote or "/"

    async def make_directory(self, path: str) -> None:
        if self._up:
            await self._client.mkdir(self.there(path), parents=True)
        else:
            os.makedirs(self.here(path), exist_ok=True)

    async def copy(self, path: str) -> None:
        if self._up:
            await self._client.put_file(self.here(path), self.there(path), replace=True)
        else:
            await self._client.get_file(self.there(path), self.here(path))

    async def delete(self, path: str) -> None:
        if self._up:
            await self._client.delete(self.there(path), recursive=True)
        elif os.path.isdir(self.here(path)) and not os.path.islink(self.here(path)):
            shutil.rmtree(self.here(path))
        else:
            os.remove(self.here(path))


async def _carry_out(
    side: _Side, plan: Plan, sizes: dict[str, Item], delete: bool, ctx: click.Context
) -> list[str]:
    """A sentence for each path that failed."""
    for path in ("", *plan.directories):
        await side.make_directory(path)
    jobs = [Job(path, path, sizes[path].length_bytes) for path in (*plan.new, *plan.changed)]
    total = sum(job.length_bytes for job in jobs)
    with progress(total, f"sync {counted(len(jobs), 'file')}", quiet=ctx.obj.quiet) as advance:

        async def copy(job: Job) -> None:
            await side.copy(job.source)
            advance(job.length_bytes)

        failures = await transfer_all(jobs, copy)
    if delete and not failures:
        doomed = [Job(path, path, 0) for path in plan.surplus]
        failures += await transfer_all(doomed, lambda job: side.delete(job.source))
    return failures
