"""The volatile lease table: what may be handed out, what is adopted, what is extended (GFS §3.1)."""

from __future__ import annotations

from gfs.master.core.leases import LeaseTable
from gfs.messages.heartbeat import HeldLease
from gfs.vocabulary import ChunkHandle, ChunkVersion, ServerId

H = ChunkHandle(7)
P, Q = ServerId("p"), ServerId("q")
V1, V2 = ChunkVersion(1), ChunkVersion(2)


def held(version: ChunkVersion, seconds_left: float = 10.0, *, active: bool) -> list[HeldLease]:
    return [HeldLease(H, version, seconds_left, active)]


def test_confirmed_lease_is_found_until_it_runs_out_and_only_for_its_version() -> None:
    leases = LeaseTable()
    leases.confirm(H, V1, P, expires_at=60.0)
    assert leases.find(H, V1, now=59.9) is not None
    assert leases.find(H, V1, now=60.0) is None
    assert leases.find(H, V2, now=1.0) is None


def test_lease_forgotten_for_a_new_grant_is_not_handed_out() -> None:
    leases = LeaseTable()
    leases.confirm(H, V1, P, expires_at=60.0)
    leases.forget(H)
    assert leases.find(H, V1, now=1.0) is None


def test_new_leader_keeps_a_living_primary_that_proves_its_grant_complete() -> None:
    leases = LeaseTable()
    leases.adopt(P, held(V1, active=True), now=100.0)
    found = leases.find(H, V1, now=105.0)
    assert found is not None and found.primary == P and found.expires_at == 110.0


def test_adopted_lease_without_proof_is_never_handed_out() -> None:
    leases = LeaseTable()
    leases.adopt(P, held(V1, active=False), now=0.0)
    assert leases.find(H, V1, now=1.0) is None
    assert not leases.was_confirmed(H, V1)
    assert leases.extend(P, held(V1, active=True), now=1.0, lease_seconds=60.0) == []
    leases.adopt(P, held(V1, active=True), now=2.0)
    assert leases.find(H, V1, now=3.0) is not None


def test_idle_heartbeat_does_not_take_back_a_confirmation() -> None:
    leases = LeaseTable()
    leases.confirm(H, V1, P, expires_at=60.0)
    leases.adopt(P, held(V1, 3.0, active=False), now=1.0)
    found = leases.find(H, V1, now=50.0)
    assert found is not None and found.expires_at == 60.0


def test_old_primary_does_not_displace_a_newer_grant_and_a_newer_grant_displaces_it() -> None:
    leases = LeaseTable()
    leases.confirm(H, V2, Q, expires_at=60.0)
    leases.adopt(P, held(V1, active=True), now=1.0)
    assert leases.find(H, V2, now=2.0) is not None
    leases.adopt(P, held(ChunkVersion(3), active=True), now=3.0)
    assert leases.find(H, V2, now=4.0) is None
    leases.confirm(H, V2, Q, expires_at=99.0)
    assert leases.find(H, V2, now=4.0) is None


def test_only_the_primary_of_a_mutated_chunk_gets_its_lease_extended() -> None:
    leases = LeaseTable()
    leases.confirm(H, V1, P, expires_at=60.0)
    assert leases.extend(Q, held(V1, active=True), now=50.0, lease_seconds=60.0) == []
    assert leases.extend(P, held(V1, active=False), now=50.0, lease_seconds=60.0) == []
    assert leases.extend(P, held(V2, active=True), now=50.0, lease_seconds=60.0) == []
    assert leases.extend(P, held(V1, active=True), now=50.0, lease_seconds=60.0) == [H]
    assert leases.find(H, V1, now=109.0) is not None


def test_lease_run_out_long_ago_is_dropped_and_still_proves_confirmation_until_then() -> None:
    leases = LeaseTable()
    leases.confirm(H, V1, P, expires_at=60.0)
    assert leases.expire(now=100.0, keep_seconds=60.0) == 0
    assert leases.was_confirmed(H, V1)
    assert leases.expire(now=120.0, keep_seconds=60.0) == 1
    assert len(leases) == 0
