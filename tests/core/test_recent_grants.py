"""Which chunks count as perhaps leased: whatever is not known not to be."""

from __future__ import annotations

from gfs.master.core.leases import LeaseTable
from gfs.master.core.recent_grants import RecentGrants
from gfs.messages.heartbeat import HeldLease
from gfs.vocabulary import ChunkHandle, ChunkVersion, ServerId

ONE, TWO, THREE = ChunkHandle(1), ChunkHandle(2), ChunkHandle(3)
LEASE = 60.0


def recent(kept_max: int = 100) -> tuple[RecentGrants, LeaseTable]:
    return RecentGrants(now=0.0, lease_seconds=LEASE, kept_max=kept_max), LeaseTable()


def test_just_after_a_start_every_chunk_may_be_leased() -> None:
    grants, leases = recent()
    assert grants.may_be_leased(ONE, leases, now=119.0)
    assert not grants.may_be_leased(ONE, leases, now=120.0)


def test_a_grant_counts_for_twice_the_time_of_a_lease() -> None:
    grants, leases = recent()
    grants.note(ONE, now=200.0)
    assert grants.may_be_leased(ONE, leases, now=319.0)
    assert not grants.may_be_leased(ONE, leases, now=320.0)
    assert not grants.may_be_leased(TWO, leases, now=201.0)


def test_a_lease_that_was_prolonged_counts_until_a_lease_after_its_end() -> None:
    grants, leases = recent()
    held = HeldLease(ONE, ChunkVersion(2), 60.0, True)
    leases.adopt(ServerId("cs"), [held], now=1000.0)
    assert grants.may_be_leased(ONE, leases, now=1119.0)
    assert not grants.may_be_leased(ONE, leases, now=1121.0)


def test_what_was_forgotten_for_want_of_room_is_taken_for_leased() -> None:
    grants, leases = recent(kept_max=2)
    for at, handle in ((200.0, ONE), (210.0, TWO), (220.0, THREE)):
        grants.note(handle, now=at)
    assert grants.may_be_leased(ONE, leases, now=319.0)
    assert grants.may_be_leased(ChunkHandle(9), leases, now=319.0)
    assert not grants.may_be_leased(ChunkHandle(9), leases, now=321.0)
    assert grants.may_be_leased(THREE, leases, now=321.0)


def test_after_a_state_from_another_master_nothing_is_known() -> None:
    grants, leases = recent()
    grants.forget_all(now=500.0)
    assert grants.may_be_leased(ONE, leases, now=600.0)
    assert not grants.may_be_leased(ONE, leases, now=620.0)
