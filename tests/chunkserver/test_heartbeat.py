"""Heartbeats: every master told on its own, full report then increments, and only a leader obeyed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

import gfs.chunkserver.heartbeat as heartbeat_room
from gfs.checksums import piece_checksums
from gfs.chunkserver.heartbeat import Announcement, Heartbeats
from gfs.chunkserver.known_masters import KnownMasters
from gfs.disk import SystemDisk
from gfs.errors import ChecksumMismatch, GfsError, WrongCluster
from gfs.master.core.locations import Locations
from gfs.messages.base import Reply, Request
from gfs.messages.heartbeat import GarbageReplica, Heartbeat, HeartbeatReply
from gfs.transport.interface import CallContext
from gfs.vocabulary import Address, ChunkHandle, ChunkVersion, ClusterId, Term
from tests.chunkserver.rig import CLUSTER, HANDLE, LEASE_SECONDS, Node, Rig
from tests.fakes.network import FakeServer
from tests.paper.boxes import keeps

INTERVAL = 0.5
V1, V2 = ChunkVersion(1), ChunkVersion(2)
T = TypeVar("T")


class Master:
    """A master as far as heartbeats go: the real table of locations, and what the test wants it to answer."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.rig = rig
        self.name = name
        self.cluster = CLUSTER
        self.term = Term(1)
        self.is_leader = False
        self.garbage: list[GarbageReplica] = []
        self.names: list[str] = []  # the masters, as it has them
        self.extends = True
        self.refusal: GfsError | None = None
        self.beats: list[Heartbeat] = []
        self.locations = Locations(dead_seconds=5.0)
        self.server: FakeServer = rig.network.server(name, {Heartbeat: self._hear}, name=name, role="master")

    @property
    def last(self) -> Heartbeat:
        return self.beats[-1]

    def forget(self) -> None:
        self.locations = Locations(dead_seconds=5.0)

    def knows(self, node: Node, handle: ChunkHandle = HANDLE) -> ChunkVersion:
        return self.locations.version_at(node.name, handle)

    async def _hear(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, Heartbeat)
        self.beats.append(request)
        if self.refusal is not None:
            raise self.refusal
        if request.cluster not in ("", self.cluster):
            raise WrongCluster(f"this is cluster {self.cluster}")
        wanted = self.locations.hear(request, now=self.rig.clock.monotonic())
        return HeartbeatReply(
            cluster=self.cluster,
            term=self.term,
            is_leader=self.is_leader,
            report_wanted=wanted,
            extended=[lease.handle for lease in request.leases if lease.active] if self.extends else [],
            lease_seconds=LEASE_SECONDS,
            garbage=self.garbage,
            masters=[Address(name) for name in self.names],
        )


async def at_once(work: Callable[[], T]) -> T:
    return work()


class Beating:
    """Heartbeats of node a to masters m1, m2, m3."""

    def __init__(self, rig: Rig, node: Node, *masters: str) -> None:
        """`masters` of those that answer; m1, m2, m3 are the seeds."""
        self.masters = [Master(rig, name) for name in masters]
        self.heartbeats = self._make(rig, node)

    def _make(self, rig: Rig, node: Node) -> Heartbeats:
        return Heartbeats(
            KnownMasters(
                SystemDisk(),
                str(rig.directory / node.name),
                seeds=[Address(name) for name in ("m1", "m2", "m3")],
                cluster=node.identity.cluster,
            ),
            Announcement(
                incarnation="first", control=node.control, data=Address("d:1"), rack="r", version="0"
            ),
            node.identity,
            node.replicas,  # type: ignore[arg-type]
            node.service.orders,
            rig.network.caller(node.name),
            rig.clock,
            in_worker=at_once,
            collect=node.service.collect,
            heartbeat_seconds=INTERVAL,
            registered_seconds=5.0,
            join=node.service.join,
        )


@pytest.fixture
def begin(rig: Rig) -> Callable[..., Beating]:
    def make(node: Node) -> Beating:
        beating = Beating(rig, node, "m1", "m2", "m3")
        beating.heartbeats.start()
        return beating

    return make


@keeps("master-duties")
async def test_all_masters_know_the_server_and_its_chunks_at_once(
    rig: Rig, begin: Callable[..., Beating]
) -> None:
    a, *_ = await rig.three()
    await rig.put(b"data")
    beating = begin(a)
    assert beating.heartbeats.readiness()[0] is False
    await rig.clock.advance(0.01)
    for master in beating.masters:
        assert master.knows(a) == V1
        known = master.locations.get(a.name)
        assert known is not None and known.reported and known.control == a.control and known.rack == "r"
    assert beating.heartbeats.readiness() == (True, "")
    await beating.heartbeats.stop()


async def test_after_the_report_only_differences_are_told(rig: Rig, begin: Callable[..., Beating]) -> None:
    a, *_ = await rig.three()
    beating = begin(a)
    await rig.clock.advance(2 * INTERVAL)
    (m1, *_) = beating.masters
    assert m1.last.report_page == -1 and not m1.last.changed and not m1.last.removed
    await rig.grant(2, "a", "b", "c")
    await rig.clock.advance(INTERVAL)
    assert [(chunk.handle, chunk.version) for chunk in m1.last.changed] == [(HANDLE, 2)]
    await rig.clock.advance(INTERVAL)
    assert not m1.last.changed  # it has been acknowledged
    a.replicas.delete(HANDLE)
    await rig.clock.advance(INTERVAL)
    assert m1.last.removed == [HANDLE]
    assert m1.knows(a) == 0
    await beating.heartbeats.stop()


async def test_what_a_master_has_not_acknowledged_is_told_again(
    rig: Rig, begin: Callable[..., Beating]
) -> None:
    a, *_ = await rig.three()
    beating = begin(a)
    await rig.clock.advance(INTERVAL)
    m1, m2, _ = beating.masters
    rig.network.cut("a", "m1")
    await rig.grant(2, "a", "b", "c")
    await rig.clock.advance(3 * INTERVAL)
    assert (m1.knows(a), m2.knows(a)) == (V1, V2)
    rig.network.heal("a", "m1")
    await rig.clock.advance(INTERVAL + 0.01)
    assert m1.knows(a) == V2
    assert m1.last.report_page == -1  # by increment, not by another full report
    await beating.heartbeats.stop()


async def test_a_silent_master_delays_no_other(rig: Rig, begin: Callable[..., Beating]) -> None:
    a, *_ = await rig.three()
    rig.network.drop("a", "m1", requests=1000)
    beating = begin(a)
    _, m2, m3 = beating.masters
    await rig.clock.advance(10 * INTERVAL)
    assert len(m2.beats) >= 10 and len(m3.beats) >= 10
    assert beating.heartbeats.readiness()[0]
    await beating.heartbeats.stop()


async def test_a_restarted_master_gets_the_full_report_again(rig: Rig, begin: Callable[..., Beating]) -> None:
    a, *_ = await rig.three()
    beating = begin(a)
    await rig.clock.advance(2 * INTERVAL)
    m1 = beating.masters[0]
    m1.forget()
    await rig.clock.advance(INTERVAL)
    assert m1.knows(a) == V1
    await beating.heartbeats.stop()


async def test_a_long_report_goes_page_by_page_without_waiting(
    rig: Rig, begin: Callable[..., Beating], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat_room, "REPORT_PAGE_CHUNKS", 2)
    (a,) = rig.start("a")
    for number in range(5):
        a.replicas.versions.bump(
            ChunkHandle(number + 1), V1, oldest_version=ChunkVersion(0), create=True, master_term=Term(1)
        )
    beating = begin(a)
    await rig.clock.advance(0.01)
    m1 = beating.masters[0]
    assert [(beat.report_page, beat.report_last) for beat in m1.beats] == [(0, False), (1, False), (2, True)]
    assert all(m1.knows(a, ChunkHandle(number + 1)) == V1 for number in range(5))
    # More changes than fit a page: a new report says the same in bounded pieces.
    for number in range(5):
        a.replicas.versions.bump(
            ChunkHandle(number + 1), V2, oldest_version=ChunkVersion(0), create=False, master_term=Term(1)
        )
    await rig.clock.advance(INTERVAL)
    assert all(m1.knows(a, ChunkHandle(number + 1)) == V2 for number in range(5))
    assert all(len(beat.report) <= 2 and len(beat.changed) <= 2 for beat in m1.beats)
    await beating.heartbeats.stop()


async def test_a_fresh_disk_joins_the_cluster_that_answers(rig: Rig, begin: Callable[..., Beating]) -> None:
    (rig.directory / "fresh").mkdir()
    (rig.directory / "fresh" / "identity.json").write_text('{"format":1,"server":"fresh","cluster":""}')
    (node,) = rig.start("fresh")
    beating = begin(node)
    await rig.clock.advance(0.01)
    assert node.identity.cluster == CLUSTER
    assert rig.joined == [CLUSTER]
    await rig.clock.advance(INTERVAL)
    assert all(master.last.cluster == CLUSTER for master in beating.masters)
    assert beating.heartbeats.readiness()[0]
    await beating.heartbeats.stop()


async def test_a_server_of_another_cluster_stays_out_of_service_and_says_why(
    rig: Rig, begin: Callable[..., Beating], caplog: pytest.LogCaptureFixture
) -> None:
    a, *_ = await rig.three()
    beating = begin(a)
    for master in beating.masters:
        master.cluster = ClusterId("cluster-2")
    await rig.clock.advance(3 * INTERVAL)
    is_ready, why = beating.heartbeats.readiness()
    assert not is_ready and "cluster-2" in why and "m1" in why
    assert a.identity.cluster == CLUSTER
    await beating.heartbeats.stop()


async def test_readiness_ends_when_no_master_has_been_heard_of_for_long(
    rig: Rig, begin: Callable[..., Beating]
) -> None:
    a, *_ = await rig.three()
    beating = begin(a)
    await rig.clock.advance(INTERVAL)
    assert beating.heartbeats.readiness()[0]
    for master in beating.masters:
        rig.network.cut("a", master.name)
    await rig.clock.advance(6.0)
    assert not beating.heartbeats.readiness()[0]
    rig.network.heal_all()
    await rig.clock.advance(2.0)
    assert beating.heartbeats.readiness()[0]
    await beating.heartbeats.stop()


# --- leases -------------------------------------------------------------------------------------


async def test_a_lease_in_use_is_extended_by_a_leader_and_by_nobody_else(
    rig: Rig, begin: Callable[..., Beating]
) -> None:
    a, *_ = await rig.three()
    beating = begin(a)
    for _ in range(70):
        await rig.put(b"x")
        await rig.clock.advance(1.0)
        if rig.clock.monotonic() >= 1000 + LEASE_SECONDS - 2:
            break
    order = a.service.orders.find(HANDLE)
    assert order is not None and order.lead is not None
    assert order.lead.lease_until == 1000 + LEASE_SECONDS  # followers extend nothing
    beating.masters[1].is_leader = True
    await rig.put(b"x")
    await rig.clock.advance(1.0)
    assert order.lead.lease_until > 1000 + LEASE_SECONDS + 50
    await rig.clock.advance(LEASE_SECONDS / 2)
    await rig.put(b"still")
    await beating.heartbeats.stop()


async def test_an_idle_lease_is_told_as_such(rig: Rig, begin: Callable[..., Beating]) -> None:
    a, *_ = await rig.three()
    beating = begin(a)
    m1 = beating.masters[0]
    await rig.clock.advance(INTERVAL)
    assert [lease.active for lease in m1.last.leases] == [False]
    await rig.put(b"x")
    await rig.clock.advance(INTERVAL)
    assert [lease.active for lease in m1.last.leases] == [True]
    await rig.clock.advance(INTERVAL)
    assert [lease.active for lease in m1.last.leases] == [False]
    await beating.heartbeats.stop()


async def test_a_broken_version_is_not_told_as_a_lease(rig: Rig, begin: Callable[..., Beating]) -> None:
    a, b, _ = await rig.three()
    beating = begin(a)
    await b.server.stop()
    with pytest.raises(GfsError):
        await rig.put(b"x")
    await rig.clock.advance(INTERVAL)
    assert beating.masters[0].last.leases == []
    await beating.heartbeats.stop()


async def test_a_deposed_leader_extends_nothing(rig: Rig, begin: Callable[..., Beating]) -> None:
    a, *_ = await rig.three()
    beating = begin(a)
    m1, m2, _ = beating.masters
    m1.is_leader = m2.is_leader = True
    m1.term, m2.term, m2.extends = Term(1), Term(2), False
    await rig.clock.advance(INTERVAL)
    order = a.service.orders.find(HANDLE)
    assert order is not None and order.lead is not None
    before = order.lead.lease_until
    await rig.put(b"x")
    await rig.clock.advance(2 * INTERVAL)
    assert m1.last.leases  # it did name the lease as extended
    assert order.lead.lease_until == before
    await beating.heartbeats.stop()


# --- deletion and corruption --------------------------------------------------------------------


@keeps("master-duties")
async def test_chunks_are_deleted_on_a_leaders_word_only(rig: Rig, begin: Callable[..., Beating]) -> None:
    a, *_ = await rig.three()
    await rig.clock.advance(0.1)
    beating = begin(a)
    m1, m2, _ = beating.masters
    m1.garbage = [GarbageReplica(HANDLE, V1)]
    await rig.clock.advance(3 * INTERVAL)
    assert a.replicas.chunk_count == 1  # a follower said so
    m2.garbage = [GarbageReplica(HANDLE, V1), GarbageReplica(ChunkHandle(99), V1)]
    m2.is_leader = True
    await rig.clock.advance(INTERVAL + 0.01)
    assert a.replicas.chunk_count == 0
    await rig.clock.advance(INTERVAL)
    assert m1.knows(a) == 0
    await beating.heartbeats.stop()


async def test_a_corrupt_block_is_never_served_and_is_reported_to_every_master(
    rig: Rig, begin: Callable[..., Beating]
) -> None:
    a, *_ = await rig.three()
    await rig.put(b"precious" * 10_000)
    beating = begin(a)
    await rig.clock.advance(INTERVAL)
    assert beating.masters[0].last.corrupt == []
    a.store.write_at(HANDLE, b"X", 70_000)  # a bit rots
    buffer = memoryview(bytearray(80_000))
    with pytest.raises(ChecksumMismatch):
        a.replicas.read_into(HANDLE, V1, 0, buffer)
    await rig.clock.advance(INTERVAL)
    for master in beating.masters:
        assert master.last.corrupt == [HANDLE]
        assert master.knows(a) == 0
    await beating.heartbeats.stop()


async def test_damage_is_told_to_every_master_at_once_and_not_in_a_tight_circle(
    rig: Rig, begin: Callable[..., Beating]
) -> None:
    a, *_ = await rig.three()
    await rig.put(b"precious" * 10_000)
    beating = begin(a)
    a.replicas.on_damage(lambda _: beating.heartbeats.hurry())
    await rig.clock.advance(INTERVAL + 0.1)
    counts = [len(master.beats) for master in beating.masters]
    a.store.write_at(HANDLE, b"X", 70_000)
    with pytest.raises(ChecksumMismatch):
        a.replicas.read_into(HANDLE, V1, 0, memoryview(bytearray(80_000)))
    await rig.clock.advance(heartbeat_room.HURRY_SECONDS_MIN)
    for master, before in zip(beating.masters, counts, strict=True):
        assert len(master.beats) == before + 1
        assert master.last.corrupt == [HANDLE] and master.last.changed
        assert master.knows(a) == 0
    for _ in range(100):
        beating.heartbeats.hurry()
        await rig.clock.advance(0.001)
    assert len(beating.masters[0].beats) <= counts[0] + 2 + 0.1 / heartbeat_room.HURRY_SECONDS_MIN
    await beating.heartbeats.stop()


async def test_more_damage_than_one_heartbeat_names_reaches_every_master(
    rig: Rig, begin: Callable[..., Beating], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat_room, "CORRUPT_NAMED_MAX", 2)
    (a,) = rig.start("a")
    handles = [ChunkHandle(number + 1) for number in range(6)]
    for handle in handles:
        a.replicas.versions.bump(handle, V1, oldest_version=ChunkVersion(0), create=True, master_term=Term(1))
    beating = begin(a)
    await rig.clock.advance(INTERVAL)
    for handle in handles:
        a.store.delete(handle)
        with pytest.raises(GfsError):
            a.replicas.verifier.verify(handle, 0, memoryview(bytearray(10)))
    await rig.clock.advance(INTERVAL)
    m1 = beating.masters[0]
    assert all(m1.locations.is_corrupt(a.name, handle) for handle in handles)
    m1.forget()
    await rig.clock.advance(2 * INTERVAL)
    assert all(m1.locations.is_corrupt(a.name, handle) for handle in handles)
    await beating.heartbeats.stop()


async def test_a_fault_in_gathering_the_news_does_not_end_the_heartbeats(
    rig: Rig, begin: Callable[..., Beating], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, *_ = await rig.three()
    beating = begin(a)
    await rig.clock.advance(INTERVAL)

    def fail() -> None:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(a.replicas._inner, "usage", fail)
        await rig.clock.advance(2 * INTERVAL)
    heard = len(beating.masters[0].beats)
    await rig.clock.advance(2 * INTERVAL)
    assert len(beating.masters[0].beats) > heard
    await beating.heartbeats.stop()


async def test_a_copy_that_never_joined_is_told_and_deleted_on_a_leaders_word(
    rig: Rig, begin: Callable[..., Beating]
) -> None:
    a, *_ = await rig.three()
    guest, content = ChunkHandle(7), b"copied" * 100
    sums = piece_checksums(0, content)
    a.replicas.guests.begin(guest, V2, sums, len(content), master_term=Term(1))
    beating = begin(a)
    m1 = beating.masters[0]
    await rig.clock.advance(INTERVAL)
    assert m1.last.guests == []  # it is not whole yet
    a.replicas.guests.put(guest, V2, 0, memoryview(content))
    a.replicas.guests.finish(guest, V2, sums, len(content), sealed=False, append_window=b"")
    await rig.clock.advance(INTERVAL)
    assert [(told.handle, told.version) for told in m1.last.guests] == [(guest, V2)]
    assert m1.knows(a, guest) == 0  # as a copy, not as a replica
    known = m1.locations.get(a.name)
    assert known is not None and known.guests == {guest: V2}
    m1.is_leader, m1.garbage = True, [GarbageReplica(guest, V2)]
    await rig.clock.advance(2 * INTERVAL)
    assert m1.last.guests == [] and known.guests == {}
    assert a.replicas.chunk_count == 1 and list(a.store.handles()) == [HANDLE]
    await beating.heartbeats.stop()
