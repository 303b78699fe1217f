"""The majority of the masters that vote says whose state is right; without one nobody is trusted."""

from __future__ import annotations

from gfs.master.core.digest_vote import Ballot, Verdict, judge
from gfs.vocabulary import MasterId

A, B, C, D, E = (MasterId(name) for name in "abcde")
THREE = (A, B, C)


def said(**digests: str) -> dict[MasterId, Ballot]:
    return {MasterId(name): Ballot(digest) for name, digest in digests.items()}


def test_the_odd_one_of_three_is_outvoted_whoever_it_is() -> None:
    for odd in "abc":
        ballots = said(**{name: "wrong" if name == odd else "right" for name in "abc"})
        assert judge(ballots, THREE) == Verdict("right", 2)


def test_equal_states_agree_even_with_one_master_away() -> None:
    assert judge(said(a="x", b="x", c="x"), THREE) == Verdict("x", 3)
    assert judge(said(a="x", b="x"), THREE) == Verdict("x", 2)


def test_one_answer_of_three_says_nothing() -> None:
    assert judge(said(a="x"), THREE) == Verdict()


def test_two_that_differ_are_a_split_until_a_third_decides() -> None:
    assert judge(said(a="x", b="y"), THREE) == Verdict(split=True)
    assert judge(said(a="x", b="y"), (A, B)) == Verdict(split=True)
    assert judge(said(a="x", b="y", c="z"), THREE) == Verdict(split=True)
    assert judge(said(a="x", b="x", c="y", d="y"), (A, B, C, D)) == Verdict(split=True)


def test_two_against_one_of_five_are_no_majority() -> None:
    assert judge(said(a="x", b="x", c="y"), (A, B, C, D, E)) == Verdict(split=True)
    assert judge(said(a="x", b="x", c="x", d="y"), (A, B, C, D, E)) == Verdict("x", 3)


def test_learners_have_no_vote() -> None:
    assert judge(said(a="x", b="y", c="y"), (A,)) == Verdict("x", 1)


def test_a_copy_of_the_leader_cannot_outvote_the_other_original() -> None:
    ballots = said(a="x", b="y") | {C: Ballot("x", copied=True)}
    assert judge(ballots, THREE) == Verdict(split=True)


def test_a_copy_is_confirmed_by_the_originals() -> None:
    ballots = said(a="x", b="x") | {C: Ballot("x", copied=True)}
    assert judge(ballots, THREE) == Verdict("x", 3)
    assert judge(ballots | {D: Ballot("x")}, (A, B, C, D, E)) == Verdict("x", 3), "one is away"


def test_copies_count_where_all_that_vote_are_there_and_equal() -> None:
    copies = {B: Ballot("x", copied=True), C: Ballot("x", copied=True)}
    assert judge(said(a="x") | copies, THREE) == Verdict("x", 3), "grown from one master"
    assert judge(said(a="x") | copies, (A, B, C, D)) == Verdict(), "the one that is away may have another"
    assert judge(said(a="x") | {B: Ballot("x", copied=True)}, THREE) == Verdict()
    assert judge({name: Ballot("x", copied=True) for name in THREE}, THREE) == Verdict("x", 3)


def test_a_copy_that_differs_where_no_originals_decide_is_a_split() -> None:
    assert judge(said(a="x") | {B: Ballot("y", copied=True)}, (A, B)) == Verdict(split=True)
    assert judge(said(a="x", b="x") | {C: Ballot("y", copied=True)}, THREE) == Verdict("x", 2)


def test_whose_rows_are_not_those_of_its_digest_is_named_and_the_digest_still_counts() -> None:
    ballots = said(a="x", b="x") | {C: Ballot("x", sound=False)}
    assert judge(ballots, THREE) == Verdict("x", 3, unsound=(C,))
    assert judge(said(a="x") | {B: Ballot("x", sound=False)}, (A, B)) == Verdict("x", 2, unsound=(B,))


def test_a_majority_of_which_nobody_is_sound_is_not_to_be_trusted() -> None:
    ballots = {name: Ballot("x", sound=False) for name in THREE}
    assert judge(ballots, THREE) == Verdict(split=True, unsound=THREE)
    assert judge({A: Ballot("x", sound=False)}, (A,)) == Verdict(split=True, unsound=(A,))
    assert judge(said(a="x"), (A,)) == Verdict("x", 1)


def test_an_operators_word_stands_for_a_majority_but_not_for_an_absent_master() -> None:
    assert judge(said(a="x", b="y"), (A, B), trust=B) == Verdict("y", 1)
    assert judge(said(a="x"), (A, B), trust=B) == Verdict()
    assert judge({A: Ballot("x", sound=False)}, (A,), trust=A) == Verdict("x", 1)
