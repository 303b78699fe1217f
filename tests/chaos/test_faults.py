"""The vocabulary of faults: whom each meets, what it uses, that it ends, and what the scene refuses."""

from __future__ import annotations

import random

import pytest

from chaos.faults.interface import HEALING_SECONDS, NotNow, Scene
from chaos.faults.registry import FAULTS
from chaos.faults.targets import ROLES, resolve
from chaos.plan import Configuration, Plan, Step
from chaos.scenarios.interface import Blow
from chaos.scenarios.registry import SCENARIOS
from chaos.stage import Stage
from gfs.verification.history import History, Operation
from tests.chaos.cluster_of_notes import ListTestbed


def _scene(
    masters: int = 3, goal: int = 3, durability: str = "flush", seed: int = 1
) -> tuple[Scene, ListTestbed]:
    testbed = ListTestbed(masters)
    configuration = Configuration(
        masters=masters,
        replication_goal=goal,
        durability=durability,  # type: ignore[arg-type]  # a literal, spelt out by each test
    )
    return Scene(testbed, configuration, random.Random(seed), History()), testbed  # type: ignore[arg-type]


async def _play(scene: Scene, *steps: Step, seconds: float = 60) -> tuple[Stage, list[str]]:
    said: list[str] = []
    plan = Plan(
        seed=1,
        layer="sim",
        scenario="trial",
        configuration=scene.configuration,
        fault_seconds=seconds,
        steps=tuple(steps),
    )
    stage = Stage(scene, plan, said.append)
    await stage.play()
    return stage, said


@pytest.mark.parametrize("name", FAULTS)
async def test_every_fault_uses_its_power_and_leaves_nothing_behind(name: str) -> None:
    scene, testbed = _scene(masters=5)
    fault = FAULTS[name]
    stage, said = await _play(scene, Step(fault=name, at_seconds=1, seconds=2, beyond_quorum=True), seconds=5)
    assert stage.begun[name] == 1, said
    used = {"membership": "add_master", "failpoint": "arm"}
    assert {used.get(power, power) for power in fault.powers} <= set(testbed.powers_used())
    [record] = scene.history.faults
    assert record.name == name and record.nodes and record.began_ns >= 1_000_000_000
    assert not scene.out and not testbed.out
    healed = {frozenset(entry[1:3]) for entry in testbed.done if entry[0] == "heal"}
    spoilt = {
        frozenset(entry[1:3])
        for entry in testbed.done
        if entry[0] in ("cut", "drop", "hold", "slow", "throttle", "slice", "limit", "slow_close", "packets")
    }
    assert spoilt <= healed


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.takes_out])
async def test_a_fault_that_takes_nodes_out_never_takes_the_majority(name: str) -> None:
    scene, _testbed = _scene()
    stage, said = await _play(
        scene,
        Step(fault=name, at_seconds=0, seconds=8, target="m1"),
        Step(fault=name, at_seconds=1, seconds=5, target="m2"),
        Step(fault=name, at_seconds=9, seconds=2, target="m2"),
        seconds=12,
    )
    assert stage.begun[name] == 2 and stage.not_begun[name] == 1
    assert any("m1, m2 of 3 masters would be out" in line for line in said)


async def test_beyond_quorum_it_takes_whom_it_is_told_to() -> None:
    scene, testbed = _scene()
    await _play(scene, Step(fault="kill", at_seconds=0, seconds=1, target="masters", beyond_quorum=True))
    assert [entry for entry in testbed.done if entry[0] == "kill"] == [
        ("kill", m) for m in ("m1", "m2", "m3")
    ]


async def test_chunk_servers_out_are_always_fewer_than_replicas() -> None:
    scene, _testbed = _scene(goal=2)
    stage, said = await _play(
        scene,
        Step(fault="pause", at_seconds=0, seconds=9, target="c1"),
        Step(fault="kill", at_seconds=1, seconds=1, target="c2"),
        seconds=10,
    )
    assert stage.begun["kill"] == 0 and "as many as there are replicas" in " ".join(said)


async def test_bytes_that_may_be_the_last_ones_are_not_lost_on_purpose() -> None:
    scene, _testbed = _scene()
    steps = [Step(fault="power-cut", at_seconds=n, seconds=0.5, target=f"c{n + 1}") for n in range(3)]
    stage, said = await _play(scene, *steps, seconds=5)
    assert stage.begun["power-cut"] == 2 and "might be the last ones" in " ".join(said)
    stage, _ = await _play(scene, Step(fault="power-cut", at_seconds=HEALING_SECONDS, seconds=1, target="c3"))
    assert stage.begun["power-cut"] == 1


async def test_under_sync_durability_all_chunk_servers_may_lose_power() -> None:
    scene, _ = _scene(durability="sync")
    step = Step(fault="power-cut", at_seconds=0, seconds=1, target="chunkservers", beyond_quorum=True)
    stage, _ = await _play(scene, step)
    assert stage.begun["power-cut"] == 1
    scene, _testbed = _scene(durability="flush")
    stage, _ = await _play(scene, step)
    assert stage.begun["power-cut"] == 0


async def test_damage_that_stays_is_done_to_one_server_and_others_are_spared_then() -> None:
    scene, _testbed = _scene()
    stage, said = await _play(
        scene,
        Step(fault="bit-rot", at_seconds=0, target="c1"),
        Step(fault="bit-rot", at_seconds=1, target="c2"),
        Step(fault="kill", at_seconds=2, seconds=2, target="c2"),
        Step(fault="kill", at_seconds=3, seconds=2, target="c3"),
        seconds=6,
    )
    assert stage.begun == {"bit-rot": 1, "kill": 1}
    assert any("c1 was damaged before" in line for line in said)


@pytest.mark.parametrize("hindrance", ["slow-disk", "slow", "throttle"])
async def test_nothing_is_spoilt_where_the_other_replicas_may_have_missed_a_grant(hindrance: str) -> None:
    """A slow server may lose its place in a set: then the bytes of the others are the only ones."""
    scene, testbed = _scene()
    goal = scene.configuration.replication_goal
    slow = [
        Step(fault=hindrance, at_seconds=0, seconds=2, target=server)
        for server in testbed.chunkservers[1:goal]
    ]
    rot = Step(fault="bit-rot", at_seconds=3, target="c1")
    late = Step(fault="bit-rot", at_seconds=40, target="c1")
    stage, said = await _play(scene, *slow, rot, late, seconds=50)
    assert stage.begun[hindrance] == goal - 1
    assert stage.begun["bit-rot"] == 1 and stage.not_begun["bit-rot"] == 1
    assert any("may be behind or damaged" in line for line in said)


async def test_by_role_damage_goes_on_where_it_began() -> None:
    scene, _ = _scene()
    steps = [Step(fault="bit-rot", at_seconds=n, target="replica", arguments={"bits": 2}) for n in range(9)]
    await _play(scene, *steps, seconds=10)
    assert len(scene.history.faults) == 9 and len({f.nodes[0] for f in scene.history.faults}) == 1


async def test_roles_are_those_of_the_moment() -> None:
    scene, testbed = _scene(masters=5)
    scene.history.add(Operation(1, 1, "append", "append", 0, 1, "ok", arguments={"path": "/append-1/f"}))
    testbed.leads = "m4"
    assert await resolve(scene, "leader") == ["m4"]
    for _ in range(20):
        assert (await resolve(scene, "follower"))[0] != "m4"
        assert (await resolve(scene, "secondary"))[0] in ("c1", "c3")
        minority = await resolve(scene, "leader-minority")
        assert len(minority) == 2 and minority[0] == "m4"
    assert await resolve(scene, "primary") == ["c2"]
    assert await resolve(scene, "primary m1 client") == ["c2", "m1", "writer"]
    assert len(await resolve(scene, "all-but-one-replica")) == 2
    with pytest.raises(NotNow, match="no node, client or role 'm77'"):
        await resolve(scene, "m77")


@pytest.mark.parametrize("role", ROLES)
async def test_every_role_finds_somebody(role: str) -> None:
    scene, _ = _scene()
    scene.last_met = ["c1"]
    assert bool(await resolve(scene, role)) == (role != "nobody")


async def test_among_equals_those_that_are_well_are_met() -> None:
    scene, _ = _scene()
    scene.leave(FAULTS["kill"], ["m1", "m3"])
    assert [await resolve(scene, "master") for _ in range(5)] == [["m2"]] * 5


async def test_a_partition_has_its_shape() -> None:
    for name, links in (("halves", 6), ("ring", 5), ("bridge", 4)):
        scene, testbed = _scene(masters=5)
        await _play(scene, Step(fault=name, at_seconds=0, seconds=1, target="masters"), seconds=2)
        cuts = {frozenset(entry[1:]) for entry in testbed.done if entry[0] == "cut"}
        assert len(cuts) == links, name


def test_scenarios_use_words_that_exist() -> None:
    for scenario in SCENARIOS.values():
        for blow in (blow for round_ in scenario.rounds for blow in round_):
            assert blow.fault in FAULTS, scenario.name
            assert set(blow.target.split()) <= set(ROLES), scenario.name
            assert set(blow.arguments) <= set(FAULTS[blow.fault].arguments), (scenario.name, blow)
    assert len(SCENARIOS) >= 42
    assert isinstance(SCENARIOS["bit-rot"].rounds[0][0], Blow)


async def test_a_fault_whose_turn_comes_after_the_time_of_the_faults_is_left_out_and_counted() -> None:
    scene, testbed = _scene()
    as_it_was = testbed.__getattr__

    class SlowToKill(ListTestbed):
        async def kill(self, node: str) -> None:
            await self.sleep(40)
            await as_it_was("kill")(node)

    testbed.__class__ = SlowToKill
    stage, said = await _play(
        scene,
        Step(fault="kill", at_seconds=1, seconds=1, target="m1"),
        Step(fault="reset", at_seconds=5, seconds=1, target="m2"),
        seconds=20,
    )
    assert stage.begun["kill"] == 1 and stage.not_begun["reset"] == 1
    assert any("before its turn came" in line for line in said)
    assert not testbed.out
