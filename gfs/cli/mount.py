"""`gfs mount` and `gfs umount`: the cluster's tree as a directory of this machine. See the room mount."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import click

from gfs.cli.cluster_address import load_settings, master_addresses, remote_path
from gfs.cli.completion import complete_remote
from gfs.cli.render import note
from gfs.errors import AlreadyExists, InvalidArgument, NotADirectory, NotFound, Unavailable

START_SECONDS_MAX = 30.0
LOOK_SECONDS = 0.05


@click.command(epilog="Example: gfs mount / /mnt/gfs")
@click.argument("path", shell_complete=complete_remote)
@click.argument("directory")
@click.option("-f", "--foreground", is_flag=True, help="Stay; Ctrl-C unmounts.")
@click.option("--allow-other", is_flag=True, help="Other users of this machine see it, too, as you.")
@click.option("--skip-trash", is_flag=True, help="What is deleted through the mount is gone at once.")
@click.option("--log", default="", metavar="FILE", help="Where what goes wrong is told; default: nowhere.")
@click.pass_context
def mount(
    ctx: click.Context,
    path: str,
    directory: str,
    foreground: bool,
    allow_other: bool,
    skip_trash: bool,
    log: str,
) -> None:
    """Show PATH of the cluster as the empty local DIRECTORY, until 'gfs umount DIRECTORY'.

    Programs read, write, append and rename as on a disk; README tells the differences.
    """
    remote, local = remote_path(path), os.path.abspath(directory)
    _check(local)
    if foreground:
        _serve(ctx, remote, local, allow_other=allow_other, skip_trash=skip_trash)
        return
    _start(ctx, sys.argv, local, log)
    if not ctx.obj.quiet:
        note(f"{remote} is mounted at {local}; 'gfs umount {local}' ends it")


def _check(local: str) -> None:
    if not os.path.isdir(local):
        raise NotADirectory(f"{local} is not a directory", hint=f"Make it first: mkdir -p {local}")
    if os.path.ismount(local):
        raise AlreadyExists(f"something is mounted at {local}", hint=f"gfs umount {local}")
    if os.listdir(local):
        raise AlreadyExists(f"{local} is not empty: what is in it would be hidden")
    if not os.path.exists("/dev/fuse"):
        raise Unavailable(
            "this machine has no /dev/fuse", hint="Install fuse3; in a container, pass the device."
        )


def _serve(ctx: click.Context, remote: str, local: str, *, allow_other: bool, skip_trash: bool) -> None:
    from gfs import aio
    from gfs.client.loop_thread import LoopThread
    from gfs.mount.tree import MountedTree

    try:
        from gfs.mount.fuse_door import serve
    except (ImportError, OSError) as error:
        raise Unavailable(
            f"cannot use FUSE on this machine: {error}",
            hint="pip install 'pygfs[fuse]', and the system's fuse3 package.",
        ) from error
    settings = load_settings(ctx.obj)
    thread = LoopThread()
    try:
        client = thread.run(
            aio.connect(
                master_addresses(ctx.obj, settings),
                settings=settings.client,
                cluster=settings.cluster.id,
                consistency=ctx.obj.consistency,
            )
        )
        try:
            if thread.run(client.stat(remote)).kind != "directory":
                raise NotADirectory(f"{remote} is not a directory of the cluster")
            tree = MountedTree(client, remote, skip_trash=skip_trash)
            try:
                serve(tree, thread, local, name=f"gfs:{remote}", allow_other=allow_other)
            except RuntimeError as error:
                raise Unavailable(f"cannot mount at {local}: FUSE ends with status {error}") from error
        finally:
            thread.run(client.close())
    finally:
        thread.stop()


def _start(ctx: click.Context, arguments: list[str], local: str, log: str) -> None:
    """The same command in a session of its own; returns when the directory is mounted."""
    command = [sys.executable, "-m", "gfs", *arguments[1:], "--foreground"]
    with open(log or os.devnull, "ab") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, start_new_session=True
        )
    deadline = time.monotonic() + START_SECONDS_MAX
    while not os.path.ismount(local):
        if process.poll() is not None:
            assert process.stderr is not None
            sys.stderr.write(process.stderr.read().decode("utf-8", "replace"))
            ctx.exit(process.returncode or 1)
        if time.monotonic() > deadline:
            process.kill()
            raise Unavailable(f"{local} is not mounted after {START_SECONDS_MAX:g} s")
        time.sleep(LOOK_SECONDS)


@click.command(epilog="Example: gfs umount /mnt/gfs")
@click.argument("directory")
def umount(directory: str) -> None:
    """End a mount; files that are open in it keep it until they are closed."""
    local = os.path.abspath(directory)
    if not os.path.ismount(local):
        raise NotFound(f"nothing is mounted at {local}")
    tool = shutil.which("fusermount3") or shutil.which("fusermount")
    command = [tool, "-u", local] if tool else ["umount", local]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS_MAX)
    if ran.returncode:
        raise InvalidArgument(
            f"{local} stays mounted: {ran.stderr.strip()}",
            hint="Close what is open there: fuser -vm names it.",
        )
