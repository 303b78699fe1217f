"""`chaos check` of what is not, or not wholly, a run of this suite: said in words, with the exit status of a
harness that went wrong, and never as a verdict."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from chaos import plan as plans
from chaos.cli import cli
from chaos.judge import RUN
from chaos.plan import Configuration, Plan
from gfs.verification.history import Audit, Header, History, Operation

HEADER = Header(layer="sim", scenario="trial", seed=3)
CALM = Audit(1, RUN, "calm_rate", {"of": "append", "per_second": 9.0, "floor": 3.0})
SETTLED = Audit(9, RUN, "last_write", {"of": "append", "seconds": 0.1})
APPEND = Operation(1, 1, "append", "append", 2, 3, "ok", arguments={"path": "/a"}, result={"offset": 0})


def _checked(directory: Path, history: History, tail: str = "") -> tuple[int, str]:
    plan = Plan(seed=3, layer="sim", scenario="trial", configuration=Configuration(), checkers=("append",))
    plans.save(plan, directory / "plan.json")
    history.save(directory / "history.jsonl")
    with (directory / "history.jsonl").open("a") as file:
        file.write(tail)
    result = CliRunner().invoke(cli, ["check", str(directory)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("records", "tail", "says"),
    [
        ([HEADER, CALM], '{"kind":"op","number":', "line 3"),
        ([HEADER, CALM, SETTLED, APPEND], "", "operation append holds no 'id'"),
        ([HEADER, Audit(1, RUN, "calm_rate", {"of": "append"})], "", "calm_rate holds no 'per_second'"),
        (
            [HEADER, Audit(1, RUN, "calm_rate", {"of": "a", "per_second": "9", "floor": 3})],
            "",
            "values of the wrong kind",
        ),
        ([Header(layer="sim", scenario="another", seed=4)], "", "they belong to two runs"),
    ],
)
def test_a_torn_or_foreign_history_is_refused_in_words(
    tmp_path: Path, records: list[Header | Audit | Operation], tail: str, says: str
) -> None:
    status, output = _checked(tmp_path, History(records), tail)
    assert status == 3 and says in output and "Traceback" not in output
    assert not (tmp_path / "verdict.json").exists(), "a history that cannot be read has no verdict"


def test_a_spoilt_verdict_of_before_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "verdict.json").write_text("{")
    status, output = _checked(tmp_path, History([HEADER, CALM, SETTLED]))
    assert status == 3 and "no verdict of a run" in output
