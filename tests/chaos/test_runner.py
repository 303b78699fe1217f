"""A run from start to verdict, over a cluster of notes: phases, floors, findings, reports, commands."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from chaos import plan as plans
from chaos import report
from chaos.cli import cli
from chaos.conduct import conduct
from chaos.plan import Configuration, Plan, Step
from chaos.shrink import shrink
from gfs.verification import history as histories
from tests.chaos.cluster_of_notes import ListLayer, ListTestbed, NoteWorkload

POWER_CUT = Step(fault="power-cut", at_seconds=4, seconds=1, target="masters", beyond_quorum=True)


def _plan(*steps: Step, workloads: tuple[str, ...] = ("notes",)) -> Plan:
    return Plan(
        seed=5,
        layer="sim",
        scenario="trial",
        configuration=Configuration(workloads=workloads),
        checkers=("notes-kept",),
        calm_seconds=3,
        fault_seconds=10,
        steps=steps,
    )


def _forgetful() -> ListTestbed:
    testbed = ListTestbed()
    testbed.forgets = True
    return testbed


def test_a_run_that_held_says_so_and_leaves_its_report(notes: ListLayer, tmp_path: Path) -> None:
    plan = _plan(Step(fault="kill", at_seconds=1, seconds=2, target="leader"), POWER_CUT)
    result = conduct(plan, tmp_path / "run")
    assert result.outcome == "held", result
    assert [verdict.checker for verdict in result.verdicts] == ["traffic", "liveness", "notes-kept"]
    assert result.faults_begun == {"kill": 1, "power-cut": 1}
    history = histories.load(tmp_path / "run" / report.HISTORY)
    assert [phase.name for phase in history.phases] == ["calm", "faults", "settling", "audit"]
    assert any(operation.outcome == "fail" for operation in history.operations)
    assert plans.load(tmp_path / "run" / report.PLAN) == plan
    assert report.load_verdict(tmp_path / "run") == result
    assert notes.made[0].done[0] == ("start",) and notes.made[0].done[-1] == ("stop",)
    ElementTree.parse(tmp_path / "run" / report.TIMELINE)
    assert "All that was promised held" in (tmp_path / "run" / report.REPORT).read_text()


def test_a_lost_note_is_a_violation_that_is_shown_where_it_was(notes: ListLayer, tmp_path: Path) -> None:
    notes.make = _forgetful
    result = conduct(_plan(POWER_CUT), tmp_path / "run")
    assert result.outcome == "violated"
    assert "is lost" in (tmp_path / "run" / report.REPORT).read_text()
    assert "#d00000" in (tmp_path / "run" / report.TIMELINE).read_text()


def test_too_little_traffic_says_nothing(notes: ListLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoteWorkload, "floor_per_second", 1000.0)
    result = conduct(_plan(POWER_CUT), None)
    assert result.outcome == "undecided" and not result.faults_begun
    assert "too little traffic" in result.verdicts[0].remark


def test_a_cluster_that_does_not_come_back_breaks_its_promise(notes: ListLayer) -> None:
    def stuck() -> ListTestbed:
        testbed = ListTestbed()
        testbed.stuck = True
        return testbed

    notes.make = stuck
    result = conduct(_plan(POWER_CUT), None)
    assert result.outcome == "violated"
    assert "nothing acknowledged within 60 s" in result.verdicts[1].violations[0].says


def test_a_workload_that_breaks_is_a_fault_of_the_harness(
    notes: ListLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NoteWorkload, "breaks", True)
    result = conduct(_plan(POWER_CUT), None)
    assert result.outcome == "harness" and "ZeroDivisionError: planted" in result.harness_error
    assert notes.made[0].done[-1] == ("stop",)


def test_an_audit_that_fails_after_all_was_healed_is_a_violation(
    notes: ListLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gfs.errors import DataUnavailable

    async def audit(self: object, subject: object, recorder: object) -> None:
        raise DataUnavailable("no replica of chunk 7")

    monkeypatch.setattr(NoteWorkload, "audit", audit)
    result = conduct(_plan(POWER_CUT), None)
    assert result.outcome == "violated" and "no replica of chunk 7" in result.verdicts[1].violations[0].says


def test_names_that_nothing_has_are_told(notes: ListLayer) -> None:
    result = conduct(_plan(workloads=("notes", "songs")), None)
    assert result.outcome == "harness" and "'songs'" in result.harness_error
    plan = msgspec.structs.replace(_plan(), checkers=("notes-kept", "songs-kept"))
    assert conduct(plan, None).outcome == "undecided"


def test_what_does_not_matter_is_shrunk_away(notes: ListLayer) -> None:
    notes.make = _forgetful
    noise = tuple(
        Step(fault="kill", at_seconds=n / 2, seconds=0.4, target="chunkserver") for n in range(1, 8)
    )
    plan = _plan(*noise[:4], POWER_CUT, *noise[4:], workloads=("notes", "notes"))
    smallest = shrink(plan, lambda smaller: conduct(smaller, None).outcome == "violated", tries_max=60)
    assert [step.fault for step in smallest.steps] == ["power-cut"]
    assert smallest.configuration.workloads == ("notes",)
    assert smallest.steps[0].seconds < POWER_CUT.seconds and smallest.fault_seconds < plan.fault_seconds


def test_replay_and_check_on_the_command_line(notes: ListLayer, tmp_path: Path) -> None:
    notes.make = _forgetful
    conduct(_plan(POWER_CUT), tmp_path / "run")
    replayed = CliRunner().invoke(cli, ["replay", str(tmp_path / "run")])
    assert replayed.exit_code == 1, replayed.output
    assert replayed.output.rstrip().splitlines()[-1] == f"python -m chaos replay {tmp_path}/run-replay"
    checked = CliRunner().invoke(cli, ["check", str(tmp_path / "run")])
    assert checked.exit_code == 1 and "notes-kept: violated" in checked.output
    missing = CliRunner().invoke(cli, ["check", str(tmp_path)])
    assert missing.exit_code == 3 and "cannot read" in missing.output


def test_a_scenario_that_the_layer_cannot_play_is_skipped_by_name(notes: ListLayer, tmp_path: Path) -> None:
    notes.powers = frozenset({"cut"})
    result = CliRunner().invoke(cli, ["run", "--scenario", "bit-rot", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "bit-rot needs what layer sim cannot do here: bit_rot" in result.output
    unknown = CliRunner().invoke(cli, ["run", "--scenario", "nonsense"])
    assert unknown.exit_code == 2 and "python -m chaos list" in unknown.output


def test_a_sweep_counts_and_a_soak_goes_on_where_it_was(
    notes: ListLayer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    import chaos.cli
    from chaos.scenarios.registry import SCENARIOS

    trial = dataclasses.replace(SCENARIOS["pause-leader"], workloads=("notes",), holds=("notes-kept",))
    monkeypatch.setitem(SCENARIOS, "trial", trial)
    arguments = ["--scenario", "trial", "--minutes", "0.1", "--out", str(tmp_path)]
    swept = CliRunner().invoke(cli, ["sim", "--seeds", "0:3", *arguments])
    assert swept.exit_code == 0 and "3 runs: 3 held" in swept.output, swept.output
    assert not list(tmp_path.iterdir())
    first = CliRunner().invoke(cli, ["soak", "--hours", "0.00005", *arguments])
    played = chaos.cli.Tally
    assert first.exit_code == 0 and played is not None, first.output
    before = msgspec.json.decode((tmp_path / "soak.json").read_bytes())
    again = CliRunner().invoke(cli, ["soak", "--resume", "--hours", "0.00005", *arguments])
    after = msgspec.json.decode((tmp_path / "soak.json").read_bytes())
    assert again.exit_code == 0 and after["next_seed"] > before["next_seed"]
    assert after["outcomes"]["held"] == after["next_seed"]


def test_a_run_whose_time_stands_still_ends_and_says_where(
    notes: ListLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import chaos.conduct

    class Standing(ListTestbed):
        def now_ns(self) -> int:
            if self.done:
                while True:
                    pass
            return 0

    notes.make = Standing
    monkeypatch.setattr(chaos.conduct, "REAL_SECONDS_MAX", 0.3)
    monkeypatch.setattr(chaos.conduct, "REAL_SECONDS_PER_SECOND", 0.0)
    result = conduct(_plan(), None)
    assert result.outcome == "harness" and "in now_ns" in result.harness_error
