"""`gfs admin compare`: whether all masters have the same state, and whose it is when they do not."""

from __future__ import annotations

import click

from gfs.cli.cluster_address import run_with_client
from gfs.cli.render import emit_many, emit_one
from gfs.client.client import AsyncClient
from gfs.errors import CorruptState
from gfs.messages.cluster import CompareStatesReply


@click.command()
@click.option("--trust", default="", metavar="MASTER", help="Say that this master's state is the right one.")
@click.option("--rows", is_flag=True, help="Have every master read all its rows, too. Takes minutes.")
@click.pass_context
def compare(ctx: click.Context, trust: str, rows: bool) -> None:
    """Have all masters compare their states now.

    They do so by themselves every 10,000 log records. A master that differs from the majority is quarantined:
    it answers nothing, takes a new state from the leader, and is back after another comparison. Where no
    majority says who is right, all are quarantined, until masters that are away come back or --trust says it:
    then the others throw away what they have. Ends with status 7 when they differ.

    \b
    Example:
      gfs admin compare
      gfs admin compare --trust m2
    """

    async def work(client: AsyncClient) -> CompareStatesReply:
        return await client.operator.compare_states(trust=trust, read_rows=rows)

    found = run_with_client(ctx, work)
    if ctx.obj.output != "table":
        emit_one(found, ctx.obj.output, "")
    else:
        emit_many(
            found.masters,
            "table",
            ["master", "state", "votes", "digest"],
            ((row.id, row.verdict, "yes" if row.votes else "no", row.digest or "-") for row in found.masters),
        )
        click.echo(_sentence(found))
    if found.split or any(row.verdict in ("differs", "unsound") for row in found.masters):
        raise CorruptState(
            f"the masters' states differ at log index {found.index}",
            hint="'gfs status' says what becomes of it.",
        )


def _sentence(found: CompareStatesReply) -> str:
    at = f"at log index {found.index}"
    if found.split:
        return f"{at} no state has a majority of {found.voters} votes: nobody can say which one is right"
    if not found.agreed:
        return f"{at} too few masters have answered to compare: a majority of {found.voters} is needed"
    return f"{at} {found.agreed} of {found.voters} votes have one state"
