"""Where the primary puts records, decision by decision (GFS §3.3)."""

from __future__ import annotations

import pytest

from gfs.chunkserver.core.mutations import Acknowledged, AppendAt, ChunkFull, Mutation, PadChunk
from gfs.chunkserver.core.primary_order import PrimaryOrder
from gfs.errors import (
    ChunkSealed,
    InvalidArgument,
    LeaseExpired,
    Overloaded,
    ReplicaFailed,
    StaleVersion,
    Unavailable,
)
from gfs.messages.replicas import AppendedRecord
from gfs.settings import APPEND_BYTES_MAX, MUTATIONS_IN_FLIGHT_MAX
from gfs.vocabulary import CHUNK_BYTES, ClientId, PushId, SerialNumber
from tests.core.test_mutation_order import V1, V2, A, B, C, admit, primary_order


def place(
    order: PrimaryOrder, push: str, record_bytes: int = 100, *, now: float = 101.0
) -> AppendAt | PadChunk | ChunkFull:
    placed = order.place_records([anonymous(record_bytes)], push=PushId(push), version=V1, now=now)
    order.check_invariants()
    return placed


def anonymous(record_bytes: int) -> AppendedRecord:
    return AppendedRecord(ClientId(0), 0, 0, record_bytes)


def acknowledge(order: PrimaryOrder, serial: SerialNumber) -> Acknowledged | None:
    end = order.ordered(serial).end_bytes
    order.applied_on(serial, B)
    order.applied_on(serial, C)
    return order.applied_here(serial, length_bytes=end)


def test_the_first_record_goes_behind_what_is_committed() -> None:
    assert place(primary_order(length_bytes=4321), "x") == AppendAt(SerialNumber(1), 4321)


def test_after_an_alignment_it_goes_behind_the_length_all_members_have() -> None:
    order = primary_order(length_bytes=4321)
    order.align(4000)
    assert place(order, "x") == AppendAt(SerialNumber(1), 4000)


def test_records_stand_behind_each_other_though_none_is_acknowledged_yet() -> None:
    order = primary_order(length_bytes=10)
    places = [place(order, push, size) for push, size in (("x", 5), ("y", 7), ("z", 1))]
    assert places == [AppendAt(SerialNumber(n), offset) for n, offset in ((1, 10), (2, 15), (3, 22))]


def test_a_record_goes_behind_writes_that_are_under_way_and_not_into_gaps() -> None:
    order = primary_order()
    order.admit(PushId("far"), version=V1, offset_bytes=5000, length_bytes=10, now=101.0)
    admit(order, "near")
    assert place(order, "x") == AppendAt(SerialNumber(3), 5010)


def test_a_record_that_fits_to_the_last_byte_is_appended_and_then_the_chunk_is_full() -> None:
    order = primary_order(length_bytes=CHUNK_BYTES - 100)
    assert place(order, "x", 100) == AppendAt(SerialNumber(1), CHUNK_BYTES - 100)
    assert place(order, "y", 1) == ChunkFull()
    assert order.outstanding_count == 1


def test_a_record_that_would_cross_the_end_pads_the_chunk_once() -> None:
    order = primary_order(length_bytes=CHUNK_BYTES - 100)
    assert place(order, "x", 101) == PadChunk(SerialNumber(1), CHUNK_BYTES - 100)
    assert order.ordered(SerialNumber(1)) == Mutation(
        SerialNumber(1), CHUNK_BYTES - 100, 100, PushId("x"), "pad"
    )
    assert place(order, "y", 101) == ChunkFull()
    assert place(order, "z", 1) == ChunkFull()


@pytest.mark.parametrize("length_bytes", [0, CHUNK_BYTES - 100])
def test_a_repeat_is_told_the_same_place_before_and_after_the_acknowledgement(length_bytes: int) -> None:
    order = primary_order(length_bytes=length_bytes)
    placed = place(order, "x", 200)
    assert not isinstance(placed, ChunkFull)
    assert order.recall_record(PushId("x"), record_bytes=200) == placed
    assert acknowledge(order, placed.serial) is not None
    assert order.recall_record(PushId("x"), record_bytes=200) == placed
    assert order.recall_record(PushId("y"), record_bytes=200) is None


def test_a_push_ordered_as_something_else_is_refused() -> None:
    order = primary_order()
    place(order, "record", 200)
    admit(order, "write")
    with pytest.raises(InvalidArgument):
        order.recall_record(PushId("record"), record_bytes=201)
    with pytest.raises(InvalidArgument):
        order.recall_record(PushId("write"), record_bytes=10)
    with pytest.raises(InvalidArgument):
        order.recall(PushId("record"), offset_bytes=0, length_bytes=200)


def test_records_obey_the_lease_the_version_and_the_seal_as_writes_do() -> None:
    with pytest.raises(LeaseExpired):
        place(primary_order(), "x", now=160.0)
    with pytest.raises(StaleVersion):
        primary_order().place_records([anonymous(1)], push=PushId("x"), version=V2, now=101.0)
    sealed = primary_order()
    sealed.seal()
    with pytest.raises(ChunkSealed):
        place(sealed, "x")


def test_after_a_member_failed_no_record_is_placed_any_more() -> None:
    order = primary_order()
    first = place(order, "x")
    assert isinstance(first, AppendAt)
    assert order.member_failed(B, Unavailable("b is gone")) == (first.serial,)
    with pytest.raises(ReplicaFailed):
        place(order, "y")
    assert order.recall_record(PushId("x"), record_bytes=100) is None
    assert order.applied_on(first.serial, A) is None


def test_a_refused_record_leaves_no_hole() -> None:
    order = primary_order()
    for number in range(MUTATIONS_IN_FLIGHT_MAX):
        place(order, f"p{number}", 10)
    with pytest.raises(Overloaded):
        place(order, "x", APPEND_BYTES_MAX)
    acknowledge(order, SerialNumber(1))
    assert place(order, "x") == AppendAt(
        SerialNumber(MUTATIONS_IN_FLIGHT_MAX + 1), 10 * MUTATIONS_IN_FLIGHT_MAX
    )
