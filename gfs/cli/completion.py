"""`gfs completion bash|zsh|fish`, and how paths in the cluster are completed. Imports nothing heavy."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

_ENTRIES_MAX = 500  # offered at once; a shell asks before it shows so many
_SECONDS = 1.0  # a person has pressed TAB and waits

_INSTALL = {
    "bash": 'eval "$(gfs completion bash)"    # in ~/.bashrc',
    "zsh": 'eval "$(gfs completion zsh)"    # in ~/.zshrc, behind compinit',
    "fish": "gfs completion fish | source    # in ~/.config/fish/config.fish",
}


@click.command(epilog="Example: " + _INSTALL["bash"])
@click.argument("shell", type=click.Choice(list(_INSTALL)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what SHELL needs to complete commands, options and paths in the cluster.

    \b
    bash: eval "$(gfs completion bash)"    # in ~/.bashrc
    zsh:  eval "$(gfs completion zsh)"     # in ~/.zshrc, behind compinit
    fish: gfs completion fish | source     # in ~/.config/fish/config.fish
    """
    made = get_completion_class(shell)
    assert made is not None, shell
    root = ctx.find_root()
    click.echo(made(root.command, {}, "gfs", "_GFS_COMPLETE").source())


def complete_remote(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What a path in the cluster can go on with. Nothing when the cluster does not answer at once."""
    if not incomplete.startswith("/"):
        return [CompletionItem("/", type="plain")] if not incomplete else []
    try:
        return _listed(ctx, incomplete)
    except Exception:  # a traceback in the middle of a line that somebody types helps nobody
        return []


def _listed(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    from gfs.cli.app import GlobalOptions
    from gfs.cli.cluster_address import run_with_client
    from gfs.client.client import AsyncClient

    root = ctx.find_root()
    given = {name: root.params.get(name) for name in GlobalOptions._fields}
    options = GlobalOptions(**given)  # type: ignore[arg-type]  # as click has parsed them
    root.obj = options._replace(timeout=_SECONDS, quiet=True, consistency="stale")
    ctx.obj = root.obj
    folder, _, start = incomplete.rpartition("/")

    async def work(client: AsyncClient) -> list[CompletionItem]:
        found: list[CompletionItem] = []
        async for entry in client.list(folder or "/"):
            name = entry.path.rpartition("/")[2]
            if name.startswith(start):
                slash = "/" if entry.kind == "directory" else ""
                found.append(CompletionItem(f"{folder}/{name}{slash}", type="plain"))
                if len(found) == _ENTRIES_MAX:
                    break
        return found

    return run_with_client(ctx, work)
