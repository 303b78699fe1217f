"""The `gfs` command in this process: exit status, standard output and error."""

from __future__ import annotations

from click.testing import CliRunner, Result

from gfs.cli.app import cli


def gfs(*arguments: str) -> Result:
    """Errors of ours are left in `exception`, as main() would find them."""
    return CliRunner().invoke(cli, list(arguments))
