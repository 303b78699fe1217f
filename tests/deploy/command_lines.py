"""Whether `gfs` has the command lines that files of the deployment give to it; runs none of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click
from click.testing import CliRunner

from gfs.cli.app import cli

_IN_TEXT = re.compile(
    r"(?:`|^\s*#?\s*(?:\$ )?|&& |; |do )gfs ((?:--?[a-z-]+ \S+ )*[a-z][a-z-]*(?: [a-z][a-z-]*)*)", re.M
)


def parse(words: Sequence[str]) -> tuple[str, dict[str, object]]:
    """The command that `words` begin with, and the parameters of the one that is run.

    Raises: click.UsageError as the program would.
    """
    context = cli.make_context("gfs", list(words))
    rest = [*context._protected_args, *context.args]
    name, command, rest = cli.resolve_command(context, rest)
    assert name is not None and command is not None
    made = command.make_context(name, rest, parent=context)
    while isinstance(command, click.Group):
        within, command, rest = command.resolve_command(made, [*made._protected_args, *made.args])
        assert within is not None and command is not None
        made = command.make_context(within, rest, parent=made)
    return name, made.params


def commands_in(text: str) -> list[list[str]]:
    """The words of every command line in `text` as far as they may be names of commands."""
    return [found.split() for found in _IN_TEXT.findall(text)]


def assert_known(words: Sequence[str]) -> None:
    """`words` lead through groups to a command; what follows it may be its arguments."""
    command: click.Command | None = cli
    context = click.Context(cli, info_name="gfs")
    path: list[str] = []
    rest = list(words)
    while rest and rest[0].startswith("-"):
        rest = rest[2:]
    for word in rest:
        if not isinstance(command, click.Group):
            break
        command = command.get_command(context, word)
        path.append(word)
        assert command is not None, f"there is no 'gfs {' '.join(path)}'"
    judged = CliRunner().invoke(cli, [*path, "--help"])
    assert judged.exit_code == 0, judged.output
