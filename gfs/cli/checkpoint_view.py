"""`gfs checkpoint serve`: one checkpoint in a browser. The pages are gfs.inspect.web_view's."""

from __future__ import annotations

import click

from gfs.cli.checkpoint_answers import open_noted

HOST_DEFAULT = "127.0.0.1"


@click.command("serve")
@click.argument("file")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="0, the default: any free one, which is told."
)
@click.option("--host", default=HOST_DEFAULT, show_default=True, help="A loopback address.")
def serve(file: str, port: int, host: str) -> None:
    """Show a checkpoint in a browser on this machine: a map of its tree, sizes, files and their chunks.

    Nothing is loaded but what is looked at. Ctrl-C ends it.

    For example: gfs checkpoint serve /var/lib/gfs/m1 --port 8080
    """
    from gfs.inspect.web_view import WebView
    from gfs.transport.event_loop import run

    found = open_noted(file)
    view = WebView(found)

    async def work() -> None:
        server = view.server(host, port)
        click.echo(f"{found.path}: {await server.start()}   Ctrl-C ends it")
        try:
            await server.serve_for_ever()
        finally:
            await server.stop()

    run(work(), loop="asyncio")
