"""The lazy command table: it is true, and it is what keeps `gfs --help` quick."""

from __future__ import annotations

import importlib
import subprocess
import sys

import click
import pytest

from gfs.cli.app import COMMANDS

HEAVY = ("aiohttp", "rich", "msgspec", "lmdb", "structlog")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_row_of_the_command_table_imports_and_tells_the_commands_own_summary(name: str) -> None:
    row = COMMANDS[name]
    command = getattr(importlib.import_module(f"gfs.cli.{row.module}"), row.attribute)
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.help and row.summary


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys\n"
        f"sys.argv = ['gfs', *{arguments!r}]\n"
        "from gfs.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "HEAVY []"


def test_a_wrong_flag_and_a_wrong_command_exit_with_usage() -> None:
    for arguments in (["--nonsense"], ["nonsense"], ["ls", "--nonsense"], ["-o", "xml", "ls"]):
        ran = subprocess.run([sys.executable, "-m", "gfs", *arguments], capture_output=True, text=True)
        assert ran.returncode == 2, arguments
        assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_group_tells_each_summary_to_its_end(name: str) -> None:
    row = COMMANDS[name]
    command = getattr(importlib.import_module(f"gfs.cli.{row.module}"), row.attribute)
    groups = [command] if isinstance(command, click.Group) else []
    for group in groups:
        groups += [part for part in group.commands.values() if isinstance(part, click.Group)]
        _, told = group.get_help(click.Context(group, info_name=name)).split("Commands:\n")
        assert "..." not in told, told
