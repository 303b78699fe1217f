"""The units as systemd itself reads them, and how much they let a program do."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.deploy.command_lines import parse
from tests.deploy.places import DEPLOY, judge

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
EXPOSURE_MAX = 2.5  # of 10, as systemd-analyze security rates it


def program_in(unit: Path) -> list[str]:
    found = re.search(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
    assert found is not None
    return found[1].split()


def installed(unit: Path, directory: Path) -> Path:
    """A copy that names a program which is there: whether the file exists is not what is judged."""
    for other in (DEPLOY / "systemd").glob("gfs*.*"):
        shutil.copy(other, directory)
    copy = directory / unit.name.replace("@", "@one")
    copy.write_text(unit.read_text().replace(program_in(unit)[0], "/bin/true"))
    return copy


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_has_nothing_to_say_against_a_unit(unit: Path, tmp_path: Path) -> None:
    judged = judge("systemd-analyze", "verify", "--man=no", installed(unit, tmp_path))
    assert judged.returncode == 0
    ours = [line for line in judged.stderr.splitlines() if "gfs" in line]
    assert ours == [], "an unknown key is told on standard error, with exit status 0"


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_leaves_its_program_little_to_do_harm_with(unit: Path, tmp_path: Path) -> None:
    judged = judge("systemd-analyze", "security", "--offline=true", "--no-pager", installed(unit, tmp_path))
    found = re.search(r"exposure level for \S+: ([0-9.]+)", judged.stdout)
    assert found is not None, judged.stderr
    assert float(found[1]) <= EXPOSURE_MAX


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_command_of_a_unit_is_one_that_gfs_has(unit: Path) -> None:
    words = program_in(unit)[1:]
    role = unit.name.removeprefix("gfs-").removesuffix("@.service")
    assert parse(words) == (role, {"node": "%i", "directory": "/var/lib/gfs/%i"})
