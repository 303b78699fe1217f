"""How many masters may still fail: numbers and sentences for every shape of a cluster."""

from __future__ import annotations

import pytest

from gfs.master.core.quorum import removal_hindrance, spare_voters, what_it_means
from gfs.messages.members import MemberRow
from gfs.vocabulary import Address, MasterId


def rows(said: str) -> list[MemberRow]:
    """`m1 leader, m2 follower, m3 unreachable, m4 learner` …"""
    found = []
    for part in said.split(", "):
        name, role = part.split(" ", 1)
        found.append(
            MemberRow(
                id=MasterId(name),
                role=role,
                control=Address(f"{name}:1"),
                raft=Address(f"{name}:2"),
                voter=role != "learner",
            )
        )
    return found


@pytest.mark.parametrize(
    ("said", "spare", "words"),
    [
        ("m1 leader", 0, "there is one voter"),
        ("m1 leader, m2 follower", 0, "2 of 2 voters take part: none of them may fail now"),
        ("m1 leader, m2 follower, m3 follower", 1, "3 of 3 voters take part: 1 more may fail"),
        ("m1 leader, m2 follower, m3 unreachable", 0, "2 of 3 voters take part: none of them may fail now"),
        ("m1 follower, m2 refused, m3 unreachable", -1, "no quorum: 1 of 3 voters take part and 2 must"),
        ("m1 leader, m2 follower, m3 follower, m4 disk full", 0, "3 of 4 voters take part: none"),
        ("m1 leader, m2 follower, m3 follower, m4 follower, m5 follower", 2, "2 more may fail"),
        ("m1 leader, m2 learner, m3 learner", 0, "there is one voter"),
    ],
)
def test_how_many_more_may_fail(said: str, spare: int, words: str) -> None:
    assert spare_voters(rows(said)) == spare
    assert words in what_it_means(rows(said))[0]


def test_a_learner_an_absent_one_and_an_even_number_are_told_of() -> None:
    told = " ".join(what_it_means(rows("m1 leader, m2 follower, m3 follower, m4 unreachable, m5 learner")))
    assert "taking no part: m4" in told
    assert "4 voters survive no more failures than 3" in told
    assert "m5 is a learner" in told and "gfs admin members add m5" in told


@pytest.mark.parametrize(
    ("said", "member", "hindrance"),
    [
        ("m1 leader", "m1", "m1 is the last voter"),
        ("m1 leader, m2 learner", "m1", "m1 is the last voter"),
        ("m1 leader, m2 follower", "m2", ""),
        ("m1 leader, m2 unreachable", "m2", ""),  # whether it can be committed is another question
        ("m1 leader, m2 follower, m3 unreachable", "m2", "m3 must be back, or be removed, first"),
        ("m1 leader, m2 follower, m3 unreachable", "m3", ""),
        ("m1 leader, m2 follower, m3 follower", "m1", ""),
        ("m1 leader, m2 unreachable, m3 unreachable, m4 learner", "m4", ""),
    ],
)
def test_what_speaks_against_a_removal(said: str, member: str, hindrance: str) -> None:
    found = removal_hindrance(rows(said), MasterId(member))
    assert hindrance in found and bool(found) == bool(hindrance)
