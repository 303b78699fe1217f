"""`gfs ui`: where the web console is. Each master serves one; what it shows is in web/."""

from __future__ import annotations

import os

import click

from gfs.cli.cluster_address import load_settings, run_with_client
from gfs.cli.render import emit_one, note
from gfs.client.client import AsyncClient
from gfs.credentials import TOKEN_FILE_VARIABLE
from gfs.errors import Unavailable
from gfs.messages.cluster import ClusterStatusReply

_AWAY = ("unreachable", "removed")


@click.command()
@click.pass_context
def ui(ctx: click.Context) -> None:
    """Say where the web console of the cluster is: the leader's first, which is the one to act at.

    Any other master shows its own view, and how far it is behind. Where the cluster wants tokens, as one of
    'gfs up' does, sign in with one; elsewhere reading takes none, and to act, show the cluster's secret.

    \b
    gfs ui
    xdg-open $(gfs ui -o json | jq -r .url)
    """

    async def work(client: AsyncClient) -> ClusterStatusReply:
        return await client.cluster_status()

    found = run_with_client(ctx, work)
    there = [master for master in found.masters if master.role not in _AWAY]
    if not there:
        raise Unavailable("no master can be reached, so there is no console", hint="'gfs status' tells more.")
    there.sort(key=lambda master: (master.id != found.leader, master.id))
    settings = load_settings(ctx.obj)
    scheme = "https" if settings.tls.ca_file else "http"
    consoles = {master.id: f"{scheme}://{master.control}/ui/" for master in there}
    lines = [f"{consoles[master.id]}  {master.id}, {master.role}" for master in there]
    token_file = os.environ.get(TOKEN_FILE_VARIABLE, "") or settings.client.token_file
    if token_file and ctx.obj.output == "table":
        note(f"Sign in with the token in {token_file}")
    emit_one({"url": consoles[there[0].id], "consoles": consoles}, ctx.obj.output, "\n".join(lines))
