"""What a person at a terminal sees while a run goes on: lines that stay, and one that changes."""

from __future__ import annotations

import shutil
import sys

import click


class Terminal:
    """A `Progress`. Where standard error is no terminal only the lines that stay are written."""

    def __init__(self) -> None:
        self._changes = sys.stderr.isatty()
        self._shown = False

    def says(self, text: str) -> None:
        self._clear()
        click.echo(text, err=True)

    def shows(self, text: str) -> None:
        if self._changes:
            width = shutil.get_terminal_size().columns - 1
            click.echo("\r\x1b[K" + text[:width], nl=False, err=True)
            self._shown = True

    def _clear(self) -> None:
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)
            self._shown = False
