"""Judging the answers to a version bump: who may be a member, and to which length all are cut (I2, I5)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gfs.master.core.grants import BumpAnswer, judge_answers, replicas_needed
from gfs.vocabulary import ChunkVersion, ServerId

A, B, C = ServerId("a"), ServerId("b"), ServerId("c")


def answer(version: int, length: int, *, short: bool = False) -> BumpAnswer:
    return BumpAnswer(ChunkVersion(version), length, short)


def test_all_are_cut_to_what_every_member_holds() -> None:
    judged = judge_answers([A, B, C], {A: answer(1, 7), B: answer(1, 5), C: answer(2, 9)})
    assert judged.members == (A, B, C)
    assert judged.align_to_bytes == 5 and judged.longer == (A, C)


def test_silent_replica_is_no_member() -> None:
    assert judge_answers([A, B, C], {C: answer(1, 5), A: answer(1, 5)}).members == (A, C)


def test_replica_made_by_this_bump_is_no_member_beside_one_that_has_bytes() -> None:
    judged = judge_answers([A, B], {A: answer(0, 0), B: answer(1, 5)})
    assert judged.members == (B,) and judged.align_to_bytes == 5 and not judged.empty


def test_replicas_made_by_this_bump_are_members_of_an_empty_chunk() -> None:
    judged = judge_answers([A, B], {A: answer(0, 0), B: answer(1, 0)})
    assert judged.members == (A, B) and judged.empty


def test_no_answer_proves_nothing_about_emptiness() -> None:
    assert not judge_answers([A, B], {}).empty


def test_replica_that_lost_power_sets_no_length_for_the_others() -> None:
    judged = judge_answers([A, B, C], {A: answer(1, 9), B: answer(1, 8), C: answer(1, 3, short=True)})
    assert judged.members == (A, B) and judged.align_to_bytes == 8


def test_when_all_lost_power_the_longest_lost_least() -> None:
    answers = {A: answer(1, 3, short=True), B: answer(1, 8, short=True)}
    assert judge_answers([A, B], answers).members == (B,)


def test_chunk_that_lost_power_is_not_taken_for_empty() -> None:
    assert not judge_answers([A], {A: answer(1, 0, short=True)}).empty


def test_replica_shorter_than_the_closed_file_is_left_out_unless_all_are() -> None:
    answers = {A: answer(1, 9), B: answer(1, 4)}
    assert judge_answers([A, B], answers, acknowledged_bytes=9).members == (A,)
    assert judge_answers([A, B], answers, acknowledged_bytes=20).members == (A, B)


@given(
    st.dictionaries(
        st.sampled_from([A, B, C]),
        st.builds(answer, st.integers(1, 2), st.integers(0, 9)) | st.just(answer(0, 0)),
        max_size=3,
    ),
    st.integers(0, 9),
)
def test_members_have_answered_hold_the_common_length_and_keep_their_order(
    answers: dict[ServerId, BumpAnswer], acknowledged: int
) -> None:
    judged = judge_answers([A, B, C], answers, acknowledged_bytes=acknowledged)
    assert set(judged.members) <= set(answers)
    assert list(judged.members) == sorted(judged.members)
    assert set(judged.longer) <= set(judged.members)
    assert all(answers[member].length_bytes >= judged.align_to_bytes for member in judged.members)
    assert all(
        answers[member].length_bytes == judged.align_to_bytes
        for member in set(judged.members) - set(judged.longer)
    )
    assert bool(answers) == bool(judged.members)


def test_two_replicas_are_needed_wherever_two_can_be_had() -> None:
    assert replicas_needed(goal=3, known_servers=4) == 2
    assert replicas_needed(goal=1, known_servers=4) == 1
    assert replicas_needed(goal=3, known_servers=1) == 1
    assert replicas_needed(goal=3, known_servers=0) == 1
