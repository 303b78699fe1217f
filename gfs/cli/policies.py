"""`gfs policy set|unset|show` and `setrep`: what holds below a directory. Values as people write them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import click
import msgspec

from gfs.cli.cluster_address import remote_path, run_with_client
from gfs.cli.command_group import CommandGroup
from gfs.cli.render import emit_one, human_bytes, note, text_table
from gfs.client.client import AsyncClient
from gfs.errors import InvalidArgument, NotADirectory
from gfs.messages.policies import PolicyFields, PolicyReply
from gfs.vocabulary import REPLICATION_GOAL_MAX

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_BYTES = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "pib": 2**50}
VALUE_LENGTH_MAX = 100  # digits that are a finite number whatever the unit
AMOUNT_MAX = 2**63 - 1  # the masters, which see it next, have narrower limits for most keys
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


@click.group(cls=CommandGroup)
def policy() -> None:
    """Show or set what holds for a directory and all below it.

    A policy has: replicas=1…16; racks=any or the number of racks the replicas lie in at least; trash=3d, how
    long deleted files are kept; durability=flush or sync (on disk before a write is acknowledged); and
    quotas: files=1000 (directories count, too), bytes=10GiB.
    """


@policy.command("set")
@click.argument("path")
@click.argument("values", nargs=-1, required=True, metavar="KEY=VALUE…")
@click.pass_context
def set_(ctx: click.Context, path: str, values: Sequence[str]) -> None:
    """Set some keys of the policy of directory PATH; the others stay.

    What is below PATH follows at once, files that exist too: replicas are added or removed in the background,
    unless a file was made with a number of its own. A quota takes nothing away.
    """
    fields = parse_values(values)

    async def work(client: AsyncClient) -> None:
        await client.set_policy(remote_path(path), fields)

    run_with_client(ctx, work)
    note(f"set for {path}; see 'gfs policy show {path}'")


@policy.command("unset")
@click.argument("path")
@click.argument("keys", nargs=-1, required=True)
@click.pass_context
def unset(ctx: click.Context, path: str, keys: Sequence[str]) -> None:
    """Let PATH inherit these keys again from the directories above it, or have no quota."""
    for key in keys:
        _field_of(key)

    async def work(client: AsyncClient) -> None:
        await client.set_policy(remote_path(path), PolicyFields(), unset=[_field_of(key) for key in keys])

    run_with_client(ctx, work)


@policy.command("show")
@click.argument("path", default="/")
@click.pass_context
def show(ctx: click.Context, path: str) -> None:
    """Show what holds at PATH, where that was set, and what counts against quotas."""

    async def work(client: AsyncClient) -> PolicyReply:
        return await client.policy(remote_path(path))

    found = run_with_client(ctx, work)
    rows = [
        [key, effective_text(found)[key], _origin(found, field)]
        for key, (field, _, _) in _KEYS.items()
        if key not in ("files", "bytes")
    ]
    table = text_table(["policy", "value", "set at"], rows)
    uses = [
        [
            use.path,
            _of(str(use.files + use.directories), "" if use.files_max < 0 else str(use.files_max)),
            _of(human_bytes(use.content_bytes), "" if use.bytes_max < 0 else human_bytes(use.bytes_max)),
        ]
        for use in found.quotas
    ]
    table += "\n" + text_table(["quota of", "files and directories", "bytes"], uses)
    emit_one(found, ctx.obj.output, table.rstrip("\n"))


def parse_values(values: Sequence[str]) -> PolicyFields:
    """Raises: InvalidArgument naming the key that makes no sense, and what would."""
    given: dict[str, int | str] = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals:
            raise InvalidArgument(f"{text!r} is not KEY=VALUE", hint="For example: replicas=2 trash=1d")
        field = _field_of(key)
        if field in given:
            raise InvalidArgument(f"{key} is given twice")
        if len(text) > VALUE_LENGTH_MAX:
            raise InvalidArgument(f"the value of {key} is longer than any value can be")
        amount = _KEYS[key][1](key, value.strip())
        if isinstance(amount, int) and amount > AMOUNT_MAX:
            raise InvalidArgument(f"{text}: that is too much to be meant")
        given[field] = amount
    return msgspec.convert(given, PolicyFields)


def effective_text(found: PolicyReply) -> dict[str, str]:
    """What holds, each key in words."""
    return {key: text(getattr(found.effective, field)) for key, (field, _, text) in _KEYS.items()}


def _field_of(key: str) -> str:
    row = _KEYS.get(key)
    if row is None:
        raise InvalidArgument(f"a policy has no {key!r}", hint=f"It has: {', '.join(_KEYS)}.")
    return row[0]


def _origin(found: PolicyReply, field: str) -> str:
    return found.set_at.get(field, "the cluster's default")


def _of(used: str, limit: str) -> str:
    return f"{used} of {limit}" if limit else f"{used}, no limit"


def _count(key: str, value: str) -> int:
    if not value.isdecimal():
        raise InvalidArgument(f"{key}={value}: {value!r} is not a whole number")
    return int(value)


def _racks(key: str, value: str) -> int:
    return 1 if value == "any" else _count(key, value)


def _duration_ms(key: str, value: str) -> int:
    match = _AMOUNT.fullmatch(value)
    if match is None or match[2].lower() not in _SECONDS:
        raise InvalidArgument(f"{key}={value}: {value!r} is not a duration", hint="For example: 12h, 3d, 0s.")
    return round(float(match[1]) * _SECONDS[match[2].lower()] * 1000)


def _size(key: str, value: str) -> int:
    match = _AMOUNT.fullmatch(value)
    if match is None or match[2].lower() not in _BYTES:
        raise InvalidArgument(
            f"{key}={value}: {value!r} is not a size",
            hint="For example: 500MiB, 10GiB, or a number of bytes.",
        )
    return int(float(match[1]) * _BYTES[match[2].lower()])


def _durability(key: str, value: str) -> str:
    if value not in ("flush", "sync"):
        raise InvalidArgument(f"{key}={value}: it is flush or sync")
    return value


def _duration_text(milliseconds: int) -> str:
    for unit in ("w", "d", "h", "m", "s"):
        amount, rest = divmod(milliseconds, _SECONDS[unit] * 1000)
        if amount and not rest:
            return f"{int(amount)}{unit}"
    return f"{milliseconds}ms" if milliseconds else "0s (reclaimed at once)"


def _quota_text(limit: int) -> str:
    return "no limit" if limit < 0 else str(limit)


# Key as typed -> field of PolicyFields, how it is read, how it is shown.
_KEYS: dict[str, tuple[str, Callable[[str, str], int | str], Callable[..., str]]] = {
    "replicas": ("replicas", _count, str),
    "racks": ("racks", _racks, lambda racks: "any" if racks <= 1 else f"{racks} at least"),
    "trash": ("trash_ms", _duration_ms, _duration_text),
    "durability": ("durability", _durability, str),
    "files": ("files_max", _count, _quota_text),
    "bytes": ("bytes_max", _size, _quota_text),
}


@click.command(epilog="Example: gfs setrep 2 /data/scratch")
@click.argument("replicas", type=click.IntRange(1, REPLICATION_GOAL_MAX))
@click.argument("path")
@click.pass_context
def setrep(ctx: click.Context, replicas: int, path: str) -> None:
    """Have so many REPLICAS of every chunk below the directory PATH: 'gfs policy set PATH replicas=N'.

    Files that exist follow in the background, unless they were made with a number of their own.
    """

    async def work(client: AsyncClient) -> None:
        checked = remote_path(path)
        if (await client.stat(checked)).kind == "file":
            raise NotADirectory(
                f"{path} is a file: how many replicas there are is said of directories",
                hint=f"Name the directory it is in, or copy it to one of its own: 'gfs cp {path} DIR'.",
            )
        await client.set_policy(checked, PolicyFields(replicas=replicas))

    run_with_client(ctx, work)
    note(f"set for {path}; 'gfs fsck {path}' tells what is still to be done")
