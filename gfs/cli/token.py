"""`gfs token` and `gfs secret`: users' tokens, which stand in files only, and the keys of capabilities."""

from __future__ import annotations

import datetime
import re
import time

import click

from gfs.cli.cluster_address import remote_path, run_with_client
from gfs.cli.command_group import CommandGroup
from gfs.cli.render import emit_many, emit_one, human_time
from gfs.client.client import AsyncClient
from gfs.credentials import new_token, read_token, token_digest, token_id, write_token
from gfs.errors import InvalidArgument
from gfs.identity import system_identity
from gfs.messages.base import Ack
from gfs.messages.security import TokenRow, TokensReply

_LIFE = re.compile(r"^(\d+)([smhd])$")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.group(cls=CommandGroup)
def token() -> None:
    """Make, list and revoke users' tokens: who may do what, and below which directory.

    A token is a line in a file that only its owner can read. Commands and programs find it through
    GFS_TOKEN_FILE, or client.token_file in gfs.toml.
    """


@token.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option(
    "--role",
    type=click.Choice(["reader", "writer", "admin"]),
    default="reader",
    show_default=True,
    help="Each may do what the ones before it may.",
)
@click.option(
    "--prefix", default="/", show_default=True, metavar="PATH", help="Only this, and what is below."
)
@click.option(
    "--user",
    metavar="NAME",
    help="On whose behalf its requests are (default: you; an admin's: as the caller says).",
)
@click.option("--expires", default="", metavar="30d", help="Stop being good after so many s, m, h or d.")
@click.option("--note", default="", help="What it is for, for 'gfs token ls'.")
@click.pass_context
def create(
    ctx: click.Context, file: str, role: str, prefix: str, user: str | None, expires: str, note: str
) -> None:
    """Make a token and write it to FILE, which must not be there yet. The cluster learns its SHA-256 only.

    \b
    Example, a crawler that may write below /crawl for a month:
      gfs token create crawler.token --role writer --prefix /crawl --expires 30d
      GFS_TOKEN_FILE=crawler.token gfs put pages /crawl/pages
    """
    made = new_token()
    digest = token_digest(made)
    on_behalf = ("" if role == "admin" else system_identity().user) if user is None else user
    seconds = _seconds(expires)
    write_token(file, made)

    async def work(client: AsyncClient) -> None:
        await client.operator.create_token(
            digest.hex(), role=role, prefix=remote_path(prefix), user=on_behalf, note=note, seconds=seconds
        )

    run_with_client(ctx, work)
    row = TokenRow(id=token_id(digest), role=role, prefix=prefix, user=on_behalf, note=note)
    emit_one(row, ctx.obj.output, f"token {row.id} is in {file}: {role} of {prefix}")


@token.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.pass_context
def first(ctx: click.Context, file: str) -> None:
    """Make an admin's token for a cluster that has none yet, in FILE, without asking any cluster.

    \b
    Example: what is printed goes into [access] of every host's gfs.toml.
      gfs token first admin.token
    """
    made = new_token()
    write_token(file, made)
    digest = token_digest(made)
    row = TokenRow(id=token_id(digest), role="admin", prefix="/", note=f"first_token_sha256={digest.hex()}")
    emit_one(row, ctx.obj.output, f'first_token_sha256 = "{digest.hex()}"')


@token.command("ls")
@click.pass_context
def list_tokens(ctx: click.Context) -> None:
    """List all tokens, the oldest first. What they are is known to nobody but their owners."""

    async def work(client: AsyncClient) -> TokensReply:
        return await client.operator.tokens()

    _emit(ctx, run_with_client(ctx, work).tokens)


@token.command()
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False))
@click.pass_context
def inspect(ctx: click.Context, file: str | None) -> None:
    """Show what the token in use is good for; of the one in FILE, only its id, without asking anybody."""
    if file is not None:
        row = TokenRow(id=token_id(token_digest(read_token(file))), role="", prefix="")
        emit_one(row, ctx.obj.output, row.id)
        return

    async def work(client: AsyncClient) -> TokensReply:
        return await client.operator.inspect_token()

    _emit(ctx, run_with_client(ctx, work).tokens)


@token.command()
@click.argument("id")
@click.pass_context
def revoke(ctx: click.Context, id: str) -> None:
    """Make the token ID open nothing any more, from now on."""

    async def work(client: AsyncClient) -> TokensReply:
        return await client.operator.revoke_token(id)

    done = run_with_client(ctx, work)
    emit_one(done, ctx.obj.output, f"token {id} is revoked")


@click.group(cls=CommandGroup)
def secret() -> None:
    """The keys that sign chunk capabilities."""


@secret.command()
@click.option("--now", "drop_former", is_flag=True, help="What the key before has signed is refused at once.")
@click.pass_context
def rotate(ctx: click.Context, *, drop_former: bool) -> None:
    """Sign chunk capabilities by a new key. Masters do so by themselves every access.key_rotation_seconds.

    The key before holds until the next rotation, so that nobody notices. With --now, clients ask the masters
    once more for each chunk that they use.
    """

    async def work(client: AsyncClient) -> Ack:
        return await client.operator.rotate_keys(drop_former=drop_former)

    emit_one(run_with_client(ctx, work), ctx.obj.output, "chunk capabilities are signed by a new key")


def _seconds(text: str) -> float:
    if not text:
        return 0.0
    match = _LIFE.match(text)
    if match is None or int(match[1]) == 0:
        raise InvalidArgument(f"--expires {text!r} is not a time like 12h or 30d")
    return float(int(match[1]) * _UNIT_SECONDS[match[2]])


def _emit(ctx: click.Context, rows: list[TokenRow]) -> None:
    now_ms = time.time() * 1000
    emit_many(
        rows,
        ctx.obj.output,
        ["token", "role", "prefix", "user", "made", "expires", "note"],
        (
            [
                row.id,
                row.role,
                row.prefix,
                row.user or "-",
                human_time(row.created_ms) if row.created_ms else "-",
                _expiry(row.expires_ms, now_ms),
                row.note,
            ]
            for row in rows
        ),
    )


def _expiry(expires_ms: int, now_ms: float) -> str:
    if not expires_ms:
        return "never"
    left = datetime.timedelta(seconds=round((expires_ms - now_ms) / 1000))
    return "expired" if left.total_seconds() <= 0 else f"in {left}"
