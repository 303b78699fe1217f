"""What is known of one chunk's replicas, and how urgent and where the next one is (GFS §4.2, §4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import pytest

from gfs.master.core.placement import Candidate
from gfs.master.core.repair import (
    choose_needless,
    choose_source,
    choose_target,
    leaves_set,
    priority_of,
    reason_of,
)
from gfs.master.core.replica_survey import MemberState, Survey
from gfs.vocabulary import ChunkHandle, ServerId

GIB = 2**30


def survey(states: str, *, goal: int = 3, leaving: str = "") -> Survey:
    """`states`: "g a l x n s c" for good, away, late, lost, absent, stale, corrupt members m0, m1, …"""
    names: Mapping[str, MemberState] = {
        "g": "good",
        "a": "away",
        "l": "late",
        "x": "lost",
        "n": "absent",
        "s": "stale",
        "c": "corrupt",
    }
    members = {ServerId(f"m{i}"): names[letter] for i, letter in enumerate(states)}
    return Survey(ChunkHandle(1), goal, 2, members, frozenset(ServerId(name) for name in leaving.split()))


@pytest.mark.parametrize(
    ("states", "goal", "missing"),
    [
        ("ggg", 3, 0),
        ("ggx", 3, 1),
        ("gga", 3, 0),  # it may come back
        ("ggl", 3, 0),
        ("gaa", 3, 0),  # the last good one: away ones are waited for, late ones are not
        ("gll", 3, 2),
        ("gal", 3, 1),
        ("g", 1, 0),
        ("ggc", 3, 1),
        ("ggs", 3, 1),
        ("ggn", 3, 1),
        ("gg", 3, 1),
        ("gggg", 3, 0),
    ],
)
def test_who_may_come_back_is_waited_for(states: str, goal: int, missing: int) -> None:
    assert survey(states, goal=goal).missing == missing


def urgency(states: str, *, deleted: bool = False, blocks: bool = False, goal: int = 3) -> int:
    found = priority_of(survey(states, goal=goal), deleted=deleted, blocks_client=blocks)
    assert found is not None
    return found


def test_order_of_urgency() -> None:
    order = [
        urgency("gxx", blocks=True),
        urgency("gxx"),
        urgency("gxx", deleted=True),
        urgency("ggx", blocks=True),
        urgency("ggxxx", goal=5),
        urgency("ggggx", goal=6),
        urgency("ggx"),
        urgency("ggx", deleted=True),
    ]
    assert order == sorted(order, reverse=True) and len(set(order)) == len(order)
    drained = priority_of(survey("ggg", leaving="m0"), deleted=False, blocks_client=False)
    assert drained is not None and drained < order[-1]


def test_nothing_is_done_for_what_is_well_or_beyond_help() -> None:
    for states in ("ggg", "xxx", "aaa", "cxx"):
        assert priority_of(survey(states), deleted=False, blocks_client=True) is None


@pytest.mark.parametrize(
    ("states", "leaving", "reason", "drop"),
    [
        ("ggx", "", "lost replica", "m2"),
        ("gcg", "", "corrupt replica", "m1"),
        ("gsx", "", "lost replica", "m1"),
        ("gg", "", "goal raised", None),
        ("ggg", "m1", "drain", "m1"),
        ("ggx", "m0", "lost replica", "m2"),
    ],
)
def test_why_and_in_whose_place(states: str, leaving: str, reason: str, drop: str | None) -> None:
    found = survey(states, leaving=leaving)
    assert (reason_of(found, was_more=False), leaves_set(found)) == (reason, drop)


def candidate(name: str, rack: str = "r", *, free: float = 0.5, alive: bool = True) -> Candidate:
    return Candidate(ServerId(name), rack, 100 * GIB, int(free * 100 * GIB), alive, 0.0)


def target(found: Survey, *candidates: Candidate, old: str = "", busy: str = "") -> ServerId | None:
    return choose_target(
        found,
        candidates,
        holds_old=lambda server: server in old.split(),
        busy=lambda server: server in busy.split(),
        chance=Random(1),
    )


def test_a_new_replica_goes_where_none_is_to_another_rack_first() -> None:
    found = survey("ggx")
    members = candidate("m0", "a"), candidate("m1", "a"), candidate("m2", "a", alive=False)
    assert target(found, *members, candidate("n", "a"), candidate("o", "b")) == "o"
    assert target(found, *members, candidate("n", "a"), candidate("o", "b"), busy="o") == "n"
    assert target(found, *members) is None


def test_old_bytes_are_replaced_only_where_there_is_no_better_place() -> None:
    found = survey("ggx")
    members = candidate("m0", "a"), candidate("m1", "a")
    assert target(found, *members, candidate("n", "a"), candidate("o", "a"), old="n") == "o"
    assert target(found, *members, candidate("n", "a"), old="n") == "n"
    assert target(found, *members, candidate("n", "a"), candidate("o", "b"), old="o") == "o", "another rack"


def test_a_living_member_with_a_useless_replica_is_the_last_resort() -> None:
    found = survey("ggc")
    members = candidate("m0"), candidate("m1"), candidate("m2")
    assert target(found, *members) == "m2"
    assert target(found, *members, candidate("n")) == "n"


def test_the_source_is_the_good_member_that_does_least() -> None:
    load = {"m0": 2, "m1": 0, "m2": 1}
    assert choose_source(survey("gxg"), lambda server: load[server]) == "m2"
    assert choose_source(survey("xxx"), lambda _: 0) is None


def test_what_is_too_much_is_given_up_on_the_fullest_disk_but_no_rack() -> None:
    found = survey("gggg")
    candidates = [
        candidate("m0", "a", free=0.1),
        candidate("m1", "b", free=0.4),
        candidate("m2", "b", free=0.3),
        candidate("m3", "c", free=0.2),
    ]
    assert choose_needless(found, candidates) == "m2"
    assert choose_needless(survey("ggg"), candidates) is None
    assert choose_needless(survey("gggg", leaving="m1"), candidates) == "m1"
