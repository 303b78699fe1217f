"""The list of failpoints is of the code: each name by the programs that pass it, none left out."""

from __future__ import annotations

from click.testing import CliRunner

from chaos.cli import cli
from chaos.failpoints import EVERY, PROGRAMS, places
from chaos.faults.programs import CHUNKSERVER_FAILPOINTS, MASTER_FAILPOINTS
from gfs import failpoints


def test_every_failpoint_is_listed_under_whoever_passes_it() -> None:
    found = places()
    assert {place.failpoint for place in found} == failpoints.NAMES
    by_program = {program: {p.failpoint for p in found if p.program == program} for program in PROGRAMS}
    assert set(MASTER_FAILPOINTS) <= by_program["master"] | by_program[EVERY]
    assert set(CHUNKSERVER_FAILPOINTS) <= by_program["chunkserver"] | by_program[EVERY]


def test_the_command_names_program_failpoint_and_module() -> None:
    result = CliRunner().invoke(cli, ["failpoints"])
    lines = result.output.splitlines()
    assert result.exit_code == 0 and [line[:-1] for line in lines if line.endswith(":")] == list(PROGRAMS)
    assert any(line.split() == ["oplog.synced", "gfs.master.replication.log"] for line in lines)
