"""What a run leaves for people: the judgement's rules, the picture, what soaks and regressions keep."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from chaos import regressions
from chaos.judge import RUN, judge, outcome_of
from chaos.plan import Configuration, Plan
from chaos.soak import Soak
from chaos.timeline import ROLE_COLOURS, timeline
from gfs.errors import CorruptState
from gfs.verification.checkers.interface import Finding, Verdict, Violation
from gfs.verification.history import Audit, Fault, Header, History, Operation, Phase, Sighting
from tests.chaos.cluster_of_notes import ListLayer, NotesKept

S = 1_000_000_000


@pytest.mark.parametrize(
    ("findings", "outcome"),
    [
        (("held", "held"), "held"),
        (("held", "undecided"), "undecided"),
        (("undecided", "violated"), "violated"),
        (("idle", "held"), "undecided"),
        (("held", "idle"), "held"),  # the second may find nothing to judge
        (("held", "violated"), "violated"),
    ],
)
def test_one_violation_decides_and_nothing_to_say_is_not_held(
    findings: tuple[Finding, Finding], outcome: str
) -> None:
    verdicts = [Verdict(name, finding) for name, finding in zip(("a", "b"), findings, strict=True)]
    assert outcome_of(verdicts, may_be_idle=["b"]) == outcome


def test_a_history_without_a_measured_floor_is_undecided(notes: ListLayer) -> None:
    assert judge(History(), ["notes-kept"]).outcome == "undecided"
    slow = History([Audit(S, RUN, "calm_rate", {"of": "notes", "per_second": 1.0, "floor": 2.0})])
    judgement = judge(slow, ["notes-kept"])
    assert judgement.outcome == "undecided" and "1.00/s, wanted 2.00/s" in judgement.verdicts[0].remark


def test_a_client_that_never_got_its_answer_is_a_violation(notes: ListLayer) -> None:
    history = History(
        [
            Audit(S, RUN, "calm_rate", {"of": "notes", "per_second": 3.0, "floor": 2.0}),
            Audit(9 * S, RUN, "last_write", {"of": "notes", "seconds": 0.5}),
            Audit(9 * S, RUN, "did_not_end", {"of": "notes", "seconds": 90.0}),
        ]
    )
    assert judge(history, []).verdicts[1].finding == "violated"


def test_a_checker_that_breaks_decides_nothing_and_stops_nothing(
    notes: ListLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: NotesKept, history: History) -> Verdict:
        raise KeyError("chunk")

    monkeypatch.setattr(NotesKept, "check", broken)
    enough = History([Audit(S, RUN, "calm_rate", {"of": "notes", "per_second": 3.0, "floor": 2.0})])
    assert judge(enough, ["notes-kept"]).verdicts[-1].remark == "the checker broke: KeyError('chunk')"


def _history() -> History:
    return History(
        [
            Header(layer="sim", scenario="a <b> & c", seed=4),
            Phase(0, "calm"),
            Phase(10 * S, "faults"),
            Sighting(1 * S, "m2", "role", {"role": "leader"}),
            Sighting(20 * S, "m2", "died"),
            Sighting(30 * S, "m2", "started"),
            Fault("kill", 20 * S, 30 * S, ["m2"]),
            Fault("slow", 20 * S, 40 * S, ["c1", "client-1"]),
            Operation(1, 1, "append", "append", 11 * S, 12 * S, "ok"),
            Operation(2, 1, "append", "append", 21 * S, 22 * S, "info"),
        ]
    )


def test_a_picture_has_a_lane_for_each_node_and_each_kind_of_work() -> None:
    picture = timeline(_history(), [Violation("lost <it>", 22 * S), Violation("without a time")])
    root = ElementTree.fromstring(picture)
    words = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"m2", "c1", "append", "calm", "faults", "kill m2"} <= set(words)
    assert "client-1" not in words and "lost <it>" in words
    states = [t.text for t in root.iter("{http://www.w3.org/2000/svg}title")]
    assert [s for s in states if s and s.startswith("m2: ")] == [
        "m2: follower",
        "m2: leader",
        "m2: down",
        "m2: follower",
    ]
    assert ROLE_COLOURS["leader"] in picture


def test_a_picture_of_nothing_is_a_picture() -> None:
    ElementTree.fromstring(timeline(History()))


def test_a_regression_is_kept_under_its_name(tmp_path: Path) -> None:
    plan = Plan(seed=1, layer="sim", scenario="calm", configuration=Configuration())
    one = regressions.Regression(name="lost-rename", what="w", where="gfs.x", found_by=("a",), plan=plan)
    regressions.save(one, tmp_path)
    assert regressions.load_all(tmp_path) == [one]
    (tmp_path / "other.json").write_bytes((tmp_path / "lost-rename.json").read_bytes())
    with pytest.raises(CorruptState, match="calls itself 'lost-rename'"):
        regressions.load_all(tmp_path)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(CorruptState, match="no regression"):
        regressions.load_all(tmp_path)


def test_what_is_kept_in_the_tree_can_be_read() -> None:
    for one in regressions.load_all():
        assert one.what and one.where and one.found_by


def test_a_soak_that_cannot_read_what_it_kept_says_so(tmp_path: Path) -> None:
    (tmp_path / "soak.json").write_text('{"next_seed": "many"}')
    with pytest.raises(CorruptState, match=r"soak\.json"):
        Soak.resumed(tmp_path)
    assert list(Soak.resumed(tmp_path / "elsewhere").seeds(0)) == []
