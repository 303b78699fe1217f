"""The guides for operators: every command in them is one of ours, with parameters it has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from tests.deploy.command_lines import assert_known, commands_in, parse
from tests.deploy.places import DEPLOY

GUIDES = ("backup.md", "upgrade.md")
_BLOCK = re.compile(r"^ *```sh\n(.*?)^ *```", re.M | re.S)
_UNITS = re.compile(r"gfs-(?:master|chunkserver)@")


def guide(name: str) -> str:
    return (Path(DEPLOY) / name).read_text()


def lines_of(text: str) -> list[str]:
    """The lines of all shell blocks that begin with our program."""
    lines = [line.strip() for block in _BLOCK.findall(text) for line in block.splitlines()]
    return [line for line in lines if line.startswith("gfs ")]


@pytest.mark.parametrize("name", GUIDES)
def test_every_command_line_of_a_guide_is_understood(name: str) -> None:
    found = lines_of(guide(name))
    assert len(found) >= 4
    for line in found:
        words = shlex.split(line)[1:]
        try:
            parse(words)
        except click.ClickException as error:
            raise AssertionError(f"{name}: {line}: {error.format_message()}") from error


@pytest.mark.parametrize("name", GUIDES)
def test_every_command_that_a_guide_speaks_of_exists(name: str) -> None:
    found = commands_in(guide(name))
    assert found
    for words in found:
        assert_known(words)


@pytest.mark.parametrize("name", GUIDES)
def test_the_units_a_guide_starts_and_stops_are_shipped(name: str) -> None:
    units = set(_UNITS.findall(guide(name)))
    assert units
    for unit in units:
        assert (Path(DEPLOY) / "systemd" / f"{unit}.service").exists(), unit


def test_what_is_wrong_in_a_guide_would_be_seen() -> None:
    with pytest.raises(click.ClickException):
        parse(shlex.split("backup create /mnt/backups --keeps 48"))
    with pytest.raises(AssertionError):
        assert_known(["backup", "undo"])
