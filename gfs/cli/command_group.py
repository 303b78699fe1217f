"""Groups of commands whose help tells each command's first sentence to its end. No commands."""

from __future__ import annotations

import click

_WHOLE = 1000  # characters: more than any first sentence has


class CommandGroup(click.Group):
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # As click does it, but for the summaries: click cuts them off where the line ends.
        names = self.list_commands(ctx)
        commands = [(name, command) for name in names if (command := self.get_command(ctx, name)) is not None]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(_WHOLE)) for name, command in commands])
