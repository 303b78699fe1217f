"""Pieces of a chunk are ordered one after another, also when some have to be sent again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gfs.client.core.write_order import WriteOrder
from gfs.vocabulary import ChunkVersion

V1, V2 = ChunkVersion(1), ChunkVersion(2)


def test_a_piece_waits_for_those_before_it_to_be_on_their_way() -> None:
    order = WriteOrder()
    order.add(0)
    order.add(4)
    assert not order.may_send(4, V1)
    order.sent(0, V1)
    assert order.may_send(4, V1)


def test_under_a_new_version_a_piece_waits_for_those_before_it_to_be_sent_again() -> None:
    order = WriteOrder()
    order.add(0)
    order.add(4)
    order.sent(0, V1)
    assert not order.may_send(4, V2)
    order.failed(0)
    order.sent(0, V2)
    assert order.may_send(4, V2)


def test_an_acknowledged_piece_holds_nobody_up() -> None:
    order = WriteOrder()
    order.add(0)
    order.add(4)
    order.sent(0, V1)
    order.acknowledged(0)
    assert order.may_send(4, V2)
    assert len(order) == 1


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["send", "fail", "acknowledge"])), max_size=60))
def test_the_first_piece_that_is_not_acknowledged_may_always_be_sent(steps: list[tuple[int, str]]) -> None:
    order = WriteOrder()
    for offset in range(5):
        order.add(offset)
    waiting = dict.fromkeys(range(5), 0)
    version = V1
    for offset, action in steps:
        if offset not in waiting:
            continue
        if action == "fail":
            version = ChunkVersion(version + 1)
            order.failed(offset)
            waiting[offset] = 0
        elif action == "acknowledge" and waiting[offset]:
            order.acknowledged(offset)
            del waiting[offset]
        elif action == "send" and order.may_send(offset, version):
            order.sent(offset, version)
            waiting[offset] = version
            # Whatever was before it is on its way under the same version: no gap can be left.
            assert all(sent == version for earlier, sent in waiting.items() if earlier < offset)
        if waiting:
            assert order.may_send(min(waiting), version)
