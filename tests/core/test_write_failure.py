"""What a failed write says about the lease and its replicas."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfs.client.core.write_failure import (
    AskForLease,
    Final,
    NewVersion,
    SameLease,
    diagnose,
    primary_of,
    push_failure,
    suspects_after_look,
)
from gfs.errors import (
    BY_CODE,
    ChunkSealed,
    ConnectionLost,
    DeadlineExceeded,
    InvalidArgument,
    LeaseExpired,
    NoSpace,
    NotPrimary,
    Overloaded,
    PushMissing,
    ReplicaFailed,
    StaleVersion,
    Unavailable,
)
from gfs.messages.chunks import ChunkLease, Replica
from gfs.vocabulary import Address, ChunkHandle, ChunkIndex, ChunkVersion, ServerId


def _lease(count: int = 3) -> ChunkLease:
    return ChunkLease(
        index=ChunkIndex(0),
        handle=ChunkHandle(7),
        version=ChunkVersion(4),
        primary=ServerId("cs0"),
        replicas=[Replica(ServerId(f"cs{n}"), Address(f"h{n}:1"), Address(f"h{n}:2")) for n in range(count)],
        lease_seconds=60.0,
    )


CS0, CS1 = ServerId("cs0"), ServerId("cs1")


def test_a_lease_that_ran_out_accuses_nobody() -> None:
    assert diagnose(LeaseExpired("over"), _lease(), CS0) == AskForLease()


def test_an_overloaded_server_is_a_good_replica() -> None:
    assert diagnose(Overloaded("no room"), _lease(), CS0) == SameLease()
    assert isinstance(push_failure({"h1:2": "overloaded: no room"}, _lease()), Overloaded)


@pytest.mark.parametrize(
    "error", [NotPrimary("x"), PushMissing("x"), StaleVersion("x", details={"version": "5"})]
)
def test_a_replica_that_is_ahead_or_lost_a_push_is_not_left_out(error: Exception) -> None:
    assert isinstance(error, NotPrimary | PushMissing | StaleVersion)
    assert diagnose(error, _lease(), CS0) == NewVersion((), certain=True)


def test_a_replica_behind_the_version_it_should_have_is_left_out() -> None:
    error = StaleVersion("old", details={"version": "3"})
    assert diagnose(error, _lease(), CS1) == NewVersion((CS1,), certain=True)


def test_the_servers_a_primary_names_are_left_out_and_not_the_primary() -> None:
    error = ReplicaFailed("cs1 did not answer", details={"servers": "cs1"})
    assert diagnose(error, _lease(), CS0) == NewVersion((CS1,), certain=True)


def test_a_push_names_the_hops_that_failed_by_their_servers() -> None:
    error = push_failure({"h1:2": "unavailable: refused"}, _lease())
    assert isinstance(error, ReplicaFailed)
    assert diagnose(error, _lease(), CS0) == NewVersion((CS1,), certain=True)


@pytest.mark.parametrize("error", [Unavailable("refused"), ConnectionLost("reset"), NoSpace("full")])
def test_a_server_that_is_gone_or_full_is_left_out(error: Exception) -> None:
    assert isinstance(error, Unavailable | ConnectionLost | NoSpace)
    assert diagnose(error, _lease(), CS1) == NewVersion((CS1,), certain=True)


def test_silence_takes_a_look_before_anybody_is_accused() -> None:
    diagnosis = diagnose(DeadlineExceeded("late"), _lease(), CS0)
    assert diagnosis == NewVersion((CS0,), certain=False)
    assert suspects_after_look((CS0,), (CS1,), _lease()) == (CS1,)
    assert suspects_after_look((CS0,), (), _lease()) == (CS0,)


@given(
    count=st.integers(1, 4),
    silent=st.sets(st.integers(0, 3)),
    code=st.sampled_from(["connection_lost", "unavailable", "replica_failed", "internal_fault"]),
    asked=st.integers(0, 3),
)
def test_never_are_all_replicas_accused_because_one_of_them_must_carry_on(
    count: int, silent: set[int], code: str, asked: int
) -> None:
    lease = _lease(count)
    everybody = {replica.server for replica in lease.replicas}
    names = tuple(ServerId(f"cs{n}") for n in sorted(silent) if n < count)
    assert set(suspects_after_look((), names, lease)) != everybody
    error = BY_CODE[code]("x", details={"servers": ",".join(names)})
    diagnosis = diagnose(error, lease, ServerId(f"cs{asked % count}"))
    assert isinstance(diagnosis, NewVersion)
    assert set(diagnosis.suspects) < everybody


def test_what_no_lease_can_cure_goes_to_the_caller() -> None:
    assert diagnose(ChunkSealed("sealed"), _lease(), CS0) == Final()
    assert diagnose(InvalidArgument("bug"), _lease(), CS0) == Final()


def test_the_primary_is_found_among_the_replicas_or_not_at_all() -> None:
    primary = primary_of(_lease())
    assert primary is not None and primary.server == "cs0"
    assert primary_of(_lease(count=0)) is None
