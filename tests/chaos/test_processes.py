"""Programs of a cluster that are killed, paused and armed, as the real layers do it."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chaos.processes import Programs
from gfs.local.layout import make_layout
from tests.waiting import eventually

pytestmark = pytest.mark.processes


@pytest.fixture
async def programs(tmp_path: Path) -> AsyncIterator[Programs]:
    made = Programs(make_layout(str(tmp_path / "cluster"), masters=1, chunkservers=1, first_port=0))
    yield made
    await made.stop()


async def answers(programs: Programs) -> None:
    async def started() -> bool | None:
        return True if "master started" in programs.last_words("m1") else None

    await eventually(started, "m1 starts", programs.state_of_all)


async def test_a_program_is_killed_at_once_and_started_again(programs: Programs) -> None:
    programs.start("m1")
    await answers(programs)
    await programs.kill(["m1", "c1"])  # c1 has never run
    assert programs.exit_status("m1") == -signal.SIGKILL
    programs.start("m1")
    assert programs.runs("m1") and not programs.runs("c1")


async def test_a_paused_program_runs_on_when_it_is_resumed_and_can_be_stopped_while_paused(
    programs: Programs,
) -> None:
    programs.start("m1")
    await answers(programs)
    programs.pause("m1")
    assert programs.is_paused("m1")

    async def stands() -> bool | None:
        state = Path(f"/proc/{programs.process_id('m1')}/stat").read_text().rpartition(")")[2].split()[0]
        return True if state == "T" else None

    await eventually(stands, "m1 stands")
    programs.resume("m1")
    assert not programs.is_paused("m1") and programs.runs("m1")
    programs.pause("m1")
    await programs.stop()
    assert programs.exit_status("m1") is not None


async def test_an_armed_program_dies_at_its_failpoint_and_not_after_the_next_start(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GFS_FAILPOINTS", "chunk.synced=kill")  # ours are nobody's
    programs.start("m1", failpoint="oplog.synced=kill")
    assert await programs.ended("m1", 30) == -signal.SIGKILL
    programs.start("m1")
    await answers(programs)
    environment = Path(f"/proc/{programs.process_id('m1')}/environ").read_bytes()
    assert b"GFS_FAILPOINTS" not in environment and os.environ["GFS_FAILPOINTS"]
