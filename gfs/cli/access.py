"""`gfs chmod` and `gfs chown`: who may do what with files and directories; and how a mode is shown."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence

import click

from gfs.cli.cluster_address import remote_path, run_with_client
from gfs.cli.files import each_path, walk
from gfs.client.client import AsyncClient
from gfs.errors import InvalidArgument
from gfs.messages.namespace import Entry

_OCTAL = re.compile(r"[0-7]{1,3}")
_SYMBOLIC = re.compile(r"([ugoa]*)([-+=])([rwx]*)")
_CLASSES = {"u": 0o700, "g": 0o070, "o": 0o007, "a": 0o777}
_BITS = {"r": 0o444, "w": 0o222, "x": 0o111}


@click.command(context_settings={"ignore_unknown_options": True})  # for modes like -w
@click.argument("mode")
@click.argument("paths", nargs=-1, required=True)
@click.option("-R", "--recursive", is_flag=True, help="Everything below as well.")
@click.pass_context
def chmod(ctx: click.Context, mode: str, paths: Sequence[str], recursive: bool) -> None:
    """Change who may read, write and enter: 640, u+w, go-rwx, a=r."""
    new_mode(0, mode)

    async def change(client: AsyncClient, entry: Entry) -> None:
        await client.chmod(entry.path, new_mode(entry.mode, mode))

    run_with_client(ctx, lambda client: _each_entry(client, paths, recursive, change))


@click.command()
@click.argument("owner", metavar="OWNER[:GROUP]")
@click.argument("paths", nargs=-1, required=True)
@click.option("-R", "--recursive", is_flag=True, help="Everything below as well.")
@click.pass_context
def chown(ctx: click.Context, owner: str, paths: Sequence[str], recursive: bool) -> None:
    """Change the owner, the group (as :GROUP), or both."""
    user, colon, group = owner.partition(":")
    if not user and not group:
        raise InvalidArgument(f"{owner!r} names neither an owner nor a group")

    async def change(client: AsyncClient, entry: Entry) -> None:
        await client.chown(entry.path, owner=user or None, group=group if colon else None)

    run_with_client(ctx, lambda client: _each_entry(client, paths, recursive, change))


def new_mode(present: int, text: str) -> int:
    """The mode that `text`, in octal or symbols, makes of `present`. Raises: InvalidArgument."""
    if _OCTAL.fullmatch(text):
        return int(text, 8)
    mode = present
    for part in text.split(","):
        match = _SYMBOLIC.fullmatch(part)
        if match is None:
            raise InvalidArgument(f"{text!r} is no mode", hint="For example: 640, u+w, go-rwx.")
        who = 0
        for letter in match[1] or "a":
            who |= _CLASSES[letter]
        bits = 0
        for letter in match[3]:
            bits |= _BITS[letter] & who
        if match[2] == "+":
            mode |= bits
        elif match[2] == "-":
            mode &= ~bits
        else:
            mode = mode & ~who | bits
    return mode


async def _each_entry(
    client: AsyncClient,
    paths: Sequence[str],
    recursive: bool,
    change: Callable[[AsyncClient, Entry], Awaitable[None]],
) -> None:
    async def one(path: str) -> None:
        top = await client.stat(path)
        # What is below first: the change may take away the right to look there.
        if recursive and top.kind == "directory":
            for entry in [entry async for entry in walk(client, top.path)][::-1]:
                await change(client, entry)
        await change(client, top)

    await each_path([remote_path(path) for path in paths], one)
