"""Plans: drawn from seeds, kept as JSON, read by people; and what scenarios may be drawn where."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos import plan as plans
from chaos.drawing import CannotPlay, draw, playable
from chaos.scenarios.interface import Between, Blow, OneOf, Scenario
from gfs.errors import CorruptState

SCENARIO = Scenario(
    name="trial",
    says="For tests.",
    rounds=(
        (Blow("isolate", seconds=Between(1, 3)),),
        (Blow("kill", target="replica"), Blow("pause", target="leader", after=Between(1, 2))),
        (Blow("bit-rot", seconds=0.0, arguments={"bits": OneOf((1, 5))}),),
    ),
    workloads=("namespace", "append", "regions"),
    holds=("durability",),
    layers=("sim", "toxi"),
    gap=Between(0.5, 4),
    masters=(3, 5),
    chunkservers=(3, 5),
    goals=(2, 3),
    tunings={"raft.checkpoint_log_bytes": OneOf((4096, 65536)), "master.lease_seconds": Between(2, 9)},
)


def test_the_same_seed_gives_the_same_plan_and_another_seed_another() -> None:
    one, same, other = (draw(SCENARIO, seed=s, layer="sim", fault_seconds=60) for s in (7, 7, 8))
    assert one == same and one.steps != other.steps
    assert one.checkers == ("durability",) and one.configuration.workloads == SCENARIO.workloads


def test_faults_stand_in_order_and_end_with_their_phase() -> None:
    for seed in range(50):
        plan = draw(SCENARIO, seed=seed, layer="sim", fault_seconds=40)
        times = [step.at_seconds for step in plan.steps]
        assert times and times == sorted(times)
        assert all(s.at_seconds >= 0 and s.at_seconds + s.seconds <= 40.001 for s in plan.steps), seed
        assert plan.configuration.replication_goal <= plan.configuration.chunkservers


def test_a_swarm_leaves_something_out_and_every_part_comes_in_some_seed() -> None:
    import dataclasses

    swarm = dataclasses.replace(SCENARIO, swarm=True)
    plans_ = [draw(swarm, seed=seed, layer="toxi", fault_seconds=100) for seed in range(60)]
    assert {len(plan.configuration.workloads) for plan in plans_} == {1, 2, 3}
    faults = [{step.fault for step in plan.steps} for plan in plans_]
    assert any(seen == {"isolate"} for seen in faults) and any(len(seen) == 4 for seen in faults)
    assert {len(plan.configuration.tunings) for plan in plans_} == {0, 1, 2}


def test_a_plan_comes_back_from_its_file_and_a_person_can_read_it(tmp_path: Path) -> None:
    plan = draw(SCENARIO, seed=3, layer="toxi", fault_seconds=60, masters=5)
    plans.save(plan, tmp_path / "plan.json")
    assert plans.load(tmp_path / "plan.json") == plan
    lines = plans.describe(plan)
    assert "trial, seed 3, layer toxi: 5 masters" in lines[0] and len(lines) == 2 + len(plan.steps)


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"version": 99}', '{"seed": 1, "layer": "moon", "scenario": "x"}', "\xff"]
)
def test_what_is_no_plan_is_refused_with_the_reason(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text, encoding="latin-1")
    with pytest.raises(CorruptState, match=r"plan\.json"):
        plans.load(tmp_path / "plan.json")


def test_a_plan_of_a_later_format_is_refused(tmp_path: Path) -> None:
    plan = draw(SCENARIO, seed=3, layer="toxi", fault_seconds=60)
    plans.save(plan, tmp_path / "plan.json")
    text = (tmp_path / "plan.json").read_text().replace('"version": 1', '"version": 2')
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(CorruptState, match="format 2"):
        plans.load(tmp_path / "plan.json")


def test_a_layer_without_the_power_plays_it_not_at_all_unless_the_scenario_says_so() -> None:
    import dataclasses

    powers = frozenset({"cut", "kill"})
    with pytest.raises(CannotPlay, match="bit_rot, pause"):
        playable(SCENARIO, "sim", powers)  # type: ignore[arg-type]  # a set of literals
    mixture = dataclasses.replace(SCENARIO, as_far_as_possible=True)
    assert len(playable(mixture, "sim", powers).rounds) == 1  # type: ignore[arg-type]
    with pytest.raises(CannotPlay, match="not made for layer kernel"):
        playable(SCENARIO, "kernel", powers)  # type: ignore[arg-type]
