"""Mutation order, decision by decision: serials, acknowledgement, gaps, repeats, the end of a version."""

from __future__ import annotations

import pytest

from gfs.chunkserver.core.mutations import Acknowledged, Mutation, UnderWay
from gfs.chunkserver.core.primary_order import PrimaryOrder
from gfs.chunkserver.core.secondary_order import Receipt, SecondaryOrder
from gfs.errors import (
    ChunkSealed,
    InvalidArgument,
    LeaseExpired,
    NoSpace,
    NotPrimary,
    Overloaded,
    ReplicaFailed,
    StaleVersion,
    Unavailable,
)
from gfs.settings import APPLIED_MUTATIONS_KEPT, MUTATION_RUN_MAX, MUTATIONS_IN_FLIGHT_MAX
from gfs.vocabulary import ChunkHandle, ChunkVersion, PushId, SerialNumber, ServerId

HANDLE = ChunkHandle(0xC0FFEE)
V1, V2 = ChunkVersion(1), ChunkVersion(2)
A, B, C = ServerId("a"), ServerId("b"), ServerId("c")


def primary_order(*members: ServerId, lease_seconds: float = 60.0, length_bytes: int = 0) -> PrimaryOrder:
    return PrimaryOrder(
        handle=HANDLE,
        version=V1,
        me=A,
        members=members or (A, B, C),
        length_bytes=length_bytes,
        now=100.0,
        lease_seconds=lease_seconds,
    )


def admit(order: PrimaryOrder, push: str, *, now: float = 101.0, version: ChunkVersion = V1) -> Mutation:
    mutation = order.admit(PushId(push), version=version, offset_bytes=0, length_bytes=10, now=now)
    order.check_invariants()
    return mutation


def secondary_order() -> SecondaryOrder:
    return SecondaryOrder(handle=HANDLE, version=V1, me=B, primary=A)


def mutation(serial: int, push: str = "") -> Mutation:
    return Mutation(SerialNumber(serial), 0, 10, PushId(push or f"p{serial}"))


def receive(order: SecondaryOrder, *serials: int) -> list[Receipt]:
    receipts = [order.receive(mutation(serial), version=V1, primary=A) for serial in serials]
    order.check_invariants()
    return receipts


# --- the primary --------------------------------------------------------------------------------


def test_serial_numbers_are_consecutive_from_one() -> None:
    order = primary_order()
    assert [admit(order, push).serial for push in "xyz"] == [1, 2, 3]


def test_a_mutation_is_acknowledged_by_the_last_member_and_by_no_other() -> None:
    order = primary_order()
    serial = admit(order, "x").serial
    assert order.applied_on(serial, B) is None
    assert order.applied_here(serial, length_bytes=10) is None
    assert order.applied_on(serial, B) is None  # the same one again does not count twice
    assert order.applied_on(serial, C) == Acknowledged(serial, 10)
    order.check_invariants()


def test_a_set_of_one_acknowledges_with_its_own_copy() -> None:
    order = primary_order(A)
    assert order.applied_here(admit(order, "x").serial, length_bytes=7) == Acknowledged(SerialNumber(1), 7)


def test_after_a_member_failed_nothing_is_acknowledged_and_the_member_is_named() -> None:
    order = primary_order()
    first, second = admit(order, "x").serial, admit(order, "y").serial
    order.applied_here(first, length_bytes=10)
    assert order.member_failed(B, Unavailable("b is gone")) == (first, second)
    assert order.applied_on(first, B) is None
    assert order.applied_on(first, C) is None
    with pytest.raises(ReplicaFailed) as failure:
        admit(order, "z")
    assert failure.value.details["servers"] == "b"
    assert failure.value.details["reasons"] == "unavailable"
    order.member_failed(C, Unavailable("c is gone too"))
    assert order.verdict().details["servers"] == "b,c"
    order.check_invariants()


def test_a_version_that_was_fenced_names_nobody() -> None:
    order = primary_order()
    serial = admit(order, "x").serial
    assert order.supersede("a newer version") == (serial,)
    assert isinstance(order.verdict(), ReplicaFailed)
    assert order.verdict().details["servers"] == ""
    assert not order.verdict().definite


def test_a_full_disk_on_the_only_member_is_a_definite_refusal() -> None:
    order = primary_order(A)
    admit(order, "x")
    order.member_failed(A, NoSpace("full"))
    assert isinstance(order.verdict(), NoSpace)
    shared = primary_order(A, B)
    admit(shared, "x")
    shared.member_failed(A, NoSpace("full"))
    assert isinstance(shared.verdict(), ReplicaFailed)  # b may hold it


def test_the_lease_ends_on_time_and_an_extension_prolongs_it() -> None:
    order = primary_order(lease_seconds=10.0)
    admit(order, "x", now=109.9)
    with pytest.raises(LeaseExpired):
        admit(order, "y", now=110.0)
    order.extend(now=110.0, lease_seconds=10.0)
    admit(order, "y", now=119.9)
    order.extend(now=111.0, lease_seconds=1.0)  # an answer that took long does not shorten it
    admit(order, "z", now=119.9)
    with pytest.raises(LeaseExpired):
        admit(order, "w", now=120.0)


def test_a_write_for_another_version_is_refused_with_ours() -> None:
    with pytest.raises(StaleVersion) as refusal:
        admit(primary_order(), "x", version=V2)
    assert refusal.value.details["version"] == "1"


def test_a_repeated_write_is_recognised_under_way_and_when_answered() -> None:
    order = primary_order(A)
    serial = admit(order, "x").serial
    assert order.recall(PushId("x"), offset_bytes=0, length_bytes=10) == UnderWay(serial)
    order.applied_here(serial, length_bytes=10)
    assert order.recall(PushId("x"), offset_bytes=0, length_bytes=10) == Acknowledged(serial, 10)
    assert order.recall(PushId("y"), offset_bytes=0, length_bytes=10) is None
    with pytest.raises(InvalidArgument):
        order.recall(PushId("x"), offset_bytes=4, length_bytes=10)


def test_mutations_under_way_are_bounded() -> None:
    order = primary_order()
    for number in range(MUTATIONS_IN_FLIGHT_MAX):
        admit(order, f"p{number}")
    with pytest.raises(Overloaded):
        admit(order, "one too many")


def test_a_sealed_chunk_admits_nothing() -> None:
    order = primary_order()
    serial = admit(order, "x").serial
    assert order.seal() == (serial,)
    with pytest.raises(ChunkSealed):
        admit(order, "y")
    order.member_failed(B, Unavailable("late news"))
    with pytest.raises(ChunkSealed):
        admit(order, "y")


def test_an_order_is_idle_only_without_lease_and_mutations() -> None:
    order = primary_order(A, lease_seconds=10.0)
    assert not order.is_idle(now=105.0)
    serial = admit(order, "x").serial
    assert not order.is_idle(now=120.0)
    order.applied_here(serial, length_bytes=1)
    assert order.is_idle(now=120.0)


# --- every replica ------------------------------------------------------------------------------


def test_mutations_out_of_order_wait_and_run_together_when_the_gap_is_filled() -> None:
    order = secondary_order()
    assert receive(order, 3, 2) == [Receipt.ACCEPTED] * 2
    assert order.next_run() == ()
    receive(order, 1)
    run = order.next_run()
    assert [m.serial for m in run] == [1, 2, 3]
    assert order.next_run() == ()  # one run at a time
    order.finish_run(3)
    order.check_invariants()
    assert order.applied_through == 3


def test_a_gap_is_never_applied_over() -> None:
    order = secondary_order()
    receive(order, 1, 3)
    assert [m.serial for m in order.next_run()] == [1]
    order.finish_run(1)
    assert order.next_run() == ()
    assert order.withdraw(SerialNumber(3))
    assert not order.withdraw(SerialNumber(3))
    order.check_invariants()


def test_a_repeat_is_acknowledged_again_and_not_applied_again() -> None:
    order = secondary_order()
    receive(order, 1)
    assert receive(order, 1) == [Receipt.UNDER_WAY]
    order.next_run()
    assert receive(order, 1) == [Receipt.UNDER_WAY]
    assert not order.withdraw(SerialNumber(1))  # it is being applied
    order.finish_run(1)
    assert receive(order, 1) == [Receipt.APPLIED]
    assert order.next_run() == ()


def test_another_mutation_under_a_known_serial_is_no_repeat() -> None:
    order = secondary_order()
    receive(order, 1, 2)
    order.next_run()
    order.finish_run(2)
    receive(order, 3)
    for serial in (1, 3):
        with pytest.raises(NotPrimary):
            order.receive(mutation(serial, "from a primary that forgot"), version=V1, primary=A)


def test_a_repeat_too_old_to_be_recognised_is_refused() -> None:
    order = secondary_order()
    for serial in range(1, APPLIED_MUTATIONS_KEPT + 2):
        order.receive(mutation(serial), version=V1, primary=A)
        order.next_run()
        order.finish_run(1)
    assert receive(order, 2) == [Receipt.APPLIED]
    with pytest.raises(NotPrimary):
        receive(order, 1)


def test_one_primary_is_obeyed_and_only_for_this_version() -> None:
    order = secondary_order()
    with pytest.raises(NotPrimary):
        order.receive(mutation(1), version=V1, primary=C)
    with pytest.raises(StaleVersion) as refusal:
        order.receive(mutation(1), version=V2, primary=A)
    assert refusal.value.details["version"] == "1"
    assert order.is_idle and order.is_untouched


def test_after_a_failed_application_nothing_more_is_applied() -> None:
    order = secondary_order()
    receive(order, 1, 2, 3, 5)
    order.next_run()
    never = order.finish_run(1, failure="disk full")
    assert [m.serial for m in never] == [2, 3, 5]
    order.check_invariants()
    assert order.applied_through == 1
    assert receive(order, 1) == [Receipt.APPLIED]
    with pytest.raises(ReplicaFailed) as failure:
        receive(order, 2)
    assert failure.value.details["servers"] == "b"
    assert order.next_run() == ()


def test_runs_are_bounded_and_so_is_what_waits() -> None:
    order = secondary_order()
    receive(order, *range(1, MUTATIONS_IN_FLIGHT_MAX + 1))
    with pytest.raises(Overloaded):
        receive(order, MUTATIONS_IN_FLIGHT_MAX + 1)
    assert len(order.next_run()) == MUTATION_RUN_MAX


def test_a_newer_version_and_a_seal_end_the_order() -> None:
    for end, error in ((lambda o: o.supersede(V2), StaleVersion), (lambda o: o.seal(), ChunkSealed)):
        order = secondary_order()
        receive(order, 1, 3)
        assert [m.serial for m in end(order)] == [1, 3]
        assert order.next_run() == ()
        with pytest.raises(error):
            receive(order, 1)
        order.check_invariants()
