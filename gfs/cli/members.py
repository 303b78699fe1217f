"""`gfs admin members`: the masters as Raft members: list, add, remove, hand leadership over, readmit."""

from __future__ import annotations

import click

from gfs.cli import local_masters
from gfs.cli.cluster_address import run_with_client
from gfs.cli.command_group import CommandGroup
from gfs.cli.render import emit_many, emit_one, note
from gfs.client.client import AsyncClient
from gfs.client.operating import Progress
from gfs.messages.members import MemberChangeReply, MemberRow, MembersReply
from gfs.vocabulary import MasterId


@click.group(cls=CommandGroup)
def members() -> None:
    """The masters as Raft members: see them, add, remove and replace them, choose the leader."""


@members.command("ls")
@click.pass_context
def list_members(ctx: click.Context) -> None:
    """List the masters: who leads, who votes, how far behind they are, how many more may fail.

    \b
    Example:
      gfs admin members ls
      gfs admin members ls -o json
    """

    async def work(client: AsyncClient) -> MembersReply:
        return await client.operator.members()

    found = run_with_client(ctx, work)
    if ctx.obj.output == "json":
        emit_one(found, "json", "")
        return
    emit_many(
        found.members,
        ctx.obj.output,
        ["master", "role", "votes", ">applied", ">behind", ">heard leader", "control", "raft", "disk", "why"],
        (_cells(row) for row in found.members),
    )
    if ctx.obj.output == "table":
        for sentence in found.notes:
            click.echo(sentence)


def _cells(row: MemberRow) -> list[str]:
    is_away = row.role == "unreachable"
    heard = "never" if row.lag_seconds < 0 else f"{row.lag_seconds:.2f} s ago"
    return [
        row.id,
        row.role,
        "yes" if row.voter else "no",
        "-" if is_away else str(row.applied_index),
        "-" if is_away else str(row.lag_entries),
        "-" if is_away or row.role == "leader" else heard,
        row.control,
        row.raft,
        row.disk[:8] or "-",
        row.reason or "-",
    ]


def say_once() -> Progress:
    """Tells the person how far a change is, whenever that is news."""
    told = ""

    def say(state: str) -> None:
        nonlocal told
        if state != told:
            note(state)
        told = state

    return say


@members.command()
@click.argument("master", default="")
@click.option("--control", metavar="HOST:PORT", default="", help="Where clients dial it, as in its gfs.toml.")
@click.option("--raft", metavar="HOST:PORT", default="", help="Where masters dial it, as in its gfs.toml.")
@click.pass_context
def add(ctx: click.Context, master: str, control: str, raft: str) -> None:
    """Make the running MASTER a voter: it learns the log first, and votes once it has caught up.

    Its gfs.toml names the present masters and itself, itself with 'joins = true'; its directory is empty.
    The change goes on when this command is interrupted; to say it again is harmless. In a cluster of
    'gfs up' no addresses are needed, nor a name: the new master is made and started, too.

    \b
    Example:
      gfs --config m4.toml master m4 &
      gfs --master 10.0.0.1:9500 admin members add m4 --control 10.0.0.4:9500 --raft 10.0.0.4:9510
    """
    if not (control or raft) and local_masters.is_local(ctx):
        name = local_masters.add(ctx, master)
        _tell(ctx, MemberChangeReply(member=MasterId(name), done=True, state=f"{name} is a voter"))
        return
    if not (master and control and raft):
        raise click.UsageError("A master that is not of 'gfs up' here needs MASTER, --control and --raft.")

    async def work(client: AsyncClient) -> MemberChangeReply:
        return await client.operator.add_member(master, control=control, raft=raft, progress=say_once())

    _tell(ctx, run_with_client(ctx, work))


@members.command()
@click.argument("master")
@click.pass_context
def remove(ctx: click.Context, master: str) -> None:
    """Let MASTER go, dead or alive; a leader hands over first. Refused when the rest could write nothing.

    Its process stays up and sends whoever asks to the others, until you stop it; in a cluster of 'gfs up' it
    is stopped, too.

    \b
    Example, replacing m2, which is lost for good, by m4:
      gfs admin members add m4 --control 10.0.0.4:9500 --raft 10.0.0.4:9510
      gfs admin members remove m2
    """

    if local_masters.is_local(ctx):
        local_masters.remove(ctx, master)
        done = MemberChangeReply(member=MasterId(master), done=True, state=f"{master} is no member any more")
        _tell(ctx, done)
        return

    async def work(client: AsyncClient) -> MemberChangeReply:
        return await client.operator.remove_member(master, progress=say_once())

    _tell(ctx, run_with_client(ctx, work))


@members.command()
@click.argument("master", default="")
@click.pass_context
def transfer(ctx: click.Context, master: str) -> None:
    """Have MASTER lead, or without one whoever has most of the log. No call fails for it.

    \b
    Example, before the leader's machine is maintained:
      gfs admin members transfer m2
    """

    async def work(client: AsyncClient) -> MemberChangeReply:
        return await client.operator.transfer_leadership(master, progress=say_once())

    _tell(ctx, run_with_client(ctx, work))


def _tell(ctx: click.Context, done: MemberChangeReply) -> None:
    emit_one(done, ctx.obj.output, done.state)


@members.command()
@click.argument("master")
@click.pass_context
def readmit(ctx: click.Context, master: str) -> None:
    """Let MASTER vote again after it came back with an empty disk.

    A master that has lost its disk is refused under its old name: it has forgotten what it promised.
    Empty its directory, start it, and readmit it while all other masters are up; it then catches up.

    \b
    Example:
      gfs admin members readmit m2
    """

    async def work(client: AsyncClient) -> None:
        await client.readmit_master(master)

    run_with_client(ctx, work)
    note(f"{master} is readmitted and catches up; see 'gfs status'")
