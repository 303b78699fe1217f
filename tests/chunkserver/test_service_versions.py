"""Versions through real services: fencing, alignment, seals, restarts, clusters, deletion."""

from __future__ import annotations

import asyncio

import lmdb
import pytest

from gfs.chunkserver.disk_identity import DiskIdentity
from gfs.disk import SystemDisk
from gfs.errors import (
    ChunkSealed,
    InvalidArgument,
    LeaseExpired,
    NotFound,
    ReplicaFailed,
    StaleVersion,
    Superseded,
    Unavailable,
    WrongCluster,
)
from gfs.messages.base import Ack, Ping
from gfs.messages.cluster import DiskStatus, DiskStatusReply
from gfs.messages.heartbeat import GarbageReplica
from gfs.messages.replicas import AlignReplica, ApplyMutation, ChunkStatus, ChunkStatusReply, SealReplica
from gfs.vocabulary import MIB, ChunkVersion, ClusterId, SerialNumber, ServerId, Term
from tests.chunkserver.rig import CLUSTER, FORWARD_SECONDS, HANDLE, Node, Rig, block_checksums
from tests.fakes.clock import settle

V1, V2 = ChunkVersion(1), ChunkVersion(2)


def align(length: int, version: int = 1, term: int = 1, cluster: str = CLUSTER) -> AlignReplica:
    return AlignReplica(
        cluster=ClusterId(cluster),
        master_term=Term(term),
        handle=HANDLE,
        version=ChunkVersion(version),
        length_bytes=length,
    )


def seal(length: int, version: int = 1, term: int = 1) -> SealReplica:
    return SealReplica(
        cluster=CLUSTER,
        master_term=Term(term),
        handle=HANDLE,
        version=ChunkVersion(version),
        length_bytes=length,
    )


# --- bumps --------------------------------------------------------------------------------------


async def test_a_bump_answers_what_it_replaced_and_serial_numbers_start_again(rig: Rig) -> None:
    await rig.three()
    await rig.put(b"one")
    await rig.put(b"two", 3)
    replies = await rig.grant(2, "a", "b", "c")
    assert {(reply.replaced_version, reply.length_bytes) for reply in replies} == {(1, 6)}
    assert (await rig.put(b"three", 6, version=2)).serial == 1


async def test_a_bump_waits_for_what_is_being_applied_and_nothing_older_follows_it(rig: Rig) -> None:
    a, b, c = await rig.three()
    b.workers.is_held = True
    running = asyncio.ensure_future(rig.put(b"x" * 10))
    await settle()
    assert b.workers.waiting == 1  # in the worker's hands
    next_one = asyncio.ensure_future(rig.put(b"y" * 10))
    await settle()
    bump = asyncio.ensure_future(rig.bump("b", 2, ["b", "c"]))
    await settle()
    assert not bump.done()
    b.workers.release()
    reply = await bump
    assert reply.length_bytes == 10  # with all that was applied before it
    with pytest.raises(ReplicaFailed):
        await next_one
    await asyncio.wait({running})
    assert b.content(V2) == b"x" * 10
    assert a.content(V1) == c.content(V1) == b"y" * 10


async def test_a_bump_is_finished_although_the_master_that_asked_has_gone(rig: Rig) -> None:
    a, _, _ = await rig.three()
    a.workers.is_held = True
    bump = asyncio.ensure_future(rig.bump("a", 2, ["a"]))
    await settle()
    bump.cancel()
    await settle()
    a.workers.release()
    await settle()
    # On the disk and in memory alike: or else the version would be there without an order.
    assert (await rig.put(b"data", version=2, to="a")).serial == 1


async def test_mutations_waiting_for_a_gap_are_refused_when_a_bump_fences_them(rig: Rig) -> None:
    _, b, _ = await rig.three()
    push = rig.push(b"2" * 10, to="b")
    early = ApplyMutation(
        handle=HANDLE,
        version=V1,
        serial=SerialNumber(2),
        primary=ServerId("a"),
        offset_bytes=0,
        length_bytes=10,
        push=push,
    )
    waiting = asyncio.ensure_future(rig.ask("b", early, Ack))
    await settle()
    await rig.bump("b", 2, ["b"])
    with pytest.raises(StaleVersion) as refusal:
        await waiting
    assert refusal.value.details["version"] == "2"
    with pytest.raises(StaleVersion):
        await rig.ask("b", early, Ack)
    assert b.content(V2) == b""


async def test_writes_under_way_are_not_acknowledged_after_their_primary_was_fenced(rig: Rig) -> None:
    await rig.three()
    rig.network.delay("a", "b", 0.1)
    write = asyncio.ensure_future(rig.put(b"data"))
    await settle()
    await rig.bump("a", 2, ["a", "b", "c"])
    with pytest.raises(ReplicaFailed) as failure:
        await write
    assert failure.value.details["servers"] == ""
    assert not failure.value.definite
    await rig.clock.advance(0.3)


async def test_a_lower_version_and_a_lower_term_are_refused_and_change_nothing(rig: Rig) -> None:
    a, _, _ = await rig.three()
    await rig.bump("a", 3, ["a"], master_term=5)
    with pytest.raises(StaleVersion):
        await rig.bump("a", 2, ["a"], master_term=5)
    with pytest.raises(Superseded):
        await rig.bump("a", 4, ["a"], master_term=4)
    await rig.put(b"fine", version=3, to="a")
    assert a.content(ChunkVersion(3)) == b"fine"


async def test_a_replica_that_missed_too_much_is_refused(rig: Rig) -> None:
    await rig.three()
    with pytest.raises(StaleVersion):
        await rig.bump("a", 5, ["a"], oldest_version=3)


async def test_a_chunk_comes_into_being_only_when_the_master_says_so(rig: Rig) -> None:
    rig.start("a")
    with pytest.raises(NotFound):
        await rig.bump("a", 1, ["a"])
    assert (await rig.bump("a", 1, ["a"], create=True)).replaced_version == 0


async def test_a_repeated_bump_keeps_the_order_and_another_set_for_the_version_is_refused(rig: Rig) -> None:
    await rig.three()
    await rig.put(b"one")
    await rig.grant(1, "a", "b", "c", create=True)
    assert (await rig.put(b"two", 3)).serial == 2
    for members in (["a", "b"], ["b", "a", "c"]):
        with pytest.raises(StaleVersion):
            await rig.bump("a", 1, members)
    assert (await rig.put(b"six", 6)).serial == 3


async def test_impossible_bumps_are_refused(rig: Rig) -> None:
    rig.start("a", "b")
    with pytest.raises(InvalidArgument):
        await rig.bump("a", 1, ["b"], create=True)  # not a member itself
    with pytest.raises(InvalidArgument):
        await rig.bump("a", 1, ["a", "b"], primary="c", create=True)
    with pytest.raises(InvalidArgument):
        await rig.bump("a", 1, ["a", "a"], create=True)
    with pytest.raises(InvalidArgument):
        await rig.bump("a", 0, ["a"], create=True)
    assert rig.nodes["a"].replicas.chunk_count == 0


# --- restarts -----------------------------------------------------------------------------------


async def test_a_restarted_primary_has_no_lease(rig: Rig) -> None:
    await rig.three()
    await rig.put(b"kept")
    a = await rig.restart("a")
    assert a.content(V1) == b"kept"
    with pytest.raises(LeaseExpired):
        await rig.put(b"more", 4)
    await rig.grant(2, "a", "b", "c")
    await rig.put(b"more", 4, version=2)
    assert a.content(V2) == b"keptmore"


async def test_a_restarted_secondary_ends_the_version_and_is_blamed_for_nothing(rig: Rig) -> None:
    await rig.three()
    await rig.put(b"kept")
    b = await rig.restart("b")
    with pytest.raises(ReplicaFailed) as failure:
        await rig.put(b"more", 4)
    assert failure.value.details["servers"] == ""
    assert b.content(V1) == b"kept"
    await rig.grant(2, "a", "b", "c")
    await rig.put(b"more", 4, version=2)
    assert b.content(V2) == b"keptmore"


async def test_a_restarted_server_takes_no_order_from_a_repeat_of_its_old_bump(rig: Rig) -> None:
    a, b, c = await rig.three()
    await rig.put(b"first")
    a = await rig.restart("a")
    reply = await rig.bump("a", 1, ["a", "b", "c"], create=True)
    assert reply.may_be_short  # it cannot know what it said the first time
    # Counting from 1 again, its mutations would look like the ones b and c have applied.
    with pytest.raises(LeaseExpired):
        await rig.put(b"other")
    assert [node.content(V1) for node in (a, b, c)] == [b"first"] * 3


# --- align, seal, status ------------------------------------------------------------------------


async def test_replicas_are_aligned_before_the_first_mutation_and_never_after(rig: Rig) -> None:
    a, b, c = await rig.three()
    await rig.put(b"0123456789")
    await rig.grant(2, "a", "b", "c")
    for name in "abc":
        await rig.ask(name, align(4, version=2), Ack)
    assert [node.content(V2) for node in (a, b, c)] == [b"0123"] * 3
    await rig.put(b"new", 4, version=2)
    for name in "abc":
        with pytest.raises(Superseded):
            await rig.ask(name, align(4, version=2), Ack)
    with pytest.raises(Superseded):
        await rig.ask("a", align(4, version=1), Ack)
    with pytest.raises(InvalidArgument):
        await rig.ask("a", align(-1, version=2), Ack)
    assert [node.content(V2) for node in (a, b, c)] == [b"0123new"] * 3


async def test_an_align_that_comes_after_a_restart_is_refused(rig: Rig) -> None:
    await rig.three()
    await rig.put(b"0123456789")
    a = await rig.restart("a")
    with pytest.raises(Superseded):
        await rig.ask("a", align(4), Ack)
    assert a.content(V1) == b"0123456789"


async def test_a_sealed_chunk_takes_no_write_also_after_a_restart(rig: Rig) -> None:
    nodes = await rig.three()
    await rig.put(b"final")
    await rig.grant(2, "a", "b", "c")
    for name in "abc":
        await rig.ask(name, seal(5, version=2), Ack)
    with pytest.raises(ChunkSealed):
        await rig.put(b"more", 5, version=2)
    await rig.restart("a")
    with pytest.raises(ChunkSealed):
        await rig.put(b"more", 5, version=2)
    status = await rig.ask("a", ChunkStatus(handle=HANDLE, version=V2), ChunkStatusReply)
    assert status.sealed and status.length_bytes == 5
    assert nodes[1].content(V2) == b"final"


async def test_status_tells_length_and_checksums_of_the_version_asked_for(rig: Rig) -> None:
    await rig.three()
    data = bytes(100_000)
    await rig.put(data)
    status = await rig.ask("b", ChunkStatus(handle=HANDLE, version=V1, with_checksums=True), ChunkStatusReply)
    assert status.length_bytes == len(data)
    assert status.block_checksums == block_checksums(data, 0)
    with pytest.raises(StaleVersion):
        await rig.ask("b", ChunkStatus(handle=HANDLE, version=V2), ChunkStatusReply)
    assert await rig.ask("b", Ping(), Ack) == Ack()
    disk = await rig.ask("b", DiskStatus(), DiskStatusReply)
    assert (disk.server, disk.cluster, disk.chunk_count) == ("b", CLUSTER, 1)
    assert disk.disk_free_bytes > 0


# --- clusters -----------------------------------------------------------------------------------


async def test_requests_of_another_cluster_are_refused(rig: Rig) -> None:
    a, _, _ = await rig.three()
    await rig.put(b"mine")
    with pytest.raises(WrongCluster):
        await rig.bump("a", 2, ["a"], cluster="cluster-2")
    with pytest.raises(WrongCluster):
        await rig.ask("a", align(0, cluster="cluster-2"), Ack)
    with pytest.raises(InvalidArgument):
        await rig.bump("a", 2, ["a"], cluster="")
    assert a.content(V1) == b"mine"


async def test_a_fresh_disk_joins_the_first_cluster_that_speaks_to_it_for_good(rig: Rig) -> None:
    (rig.directory / "new").mkdir()
    fresh = DiskIdentity.load_or_create(SystemDisk(), str(rig.directory / "new"))
    (rig.directory / "new").rename(rig.directory / fresh.server)
    (node,) = rig.start(fresh.server)
    assert node.identity.cluster == ""
    await rig.bump(fresh.server, 1, [fresh.server], create=True)
    assert node.identity.cluster == CLUSTER
    node = await rig.restart(fresh.server)
    assert node.identity.cluster == CLUSTER
    with pytest.raises(WrongCluster):
        await rig.bump(fresh.server, 2, [fresh.server], cluster="cluster-2")


# --- deletion -----------------------------------------------------------------------------------


async def test_a_named_chunk_is_deleted_but_not_on_word_older_than_its_latest_grant(rig: Rig) -> None:
    a, _, _ = await rig.three()
    await rig.put(b"data")
    named_at = rig.clock.monotonic()
    await rig.clock.advance(1.0)
    await rig.grant(2, "a", "b", "c")
    assert not await collect(rig, a, V2, known_at=named_at)
    assert a.content(V2) == b"data"
    await rig.clock.advance(1.0)
    assert await collect(rig, a, V2)
    assert a.replicas.chunk_count == 0
    with pytest.raises(NotFound):
        await rig.put(b"more", 4, version=2)
    assert await collect(rig, a, V2)  # no error when it is gone


async def test_a_replica_newer_than_the_word_is_kept(rig: Rig) -> None:
    a, _, _ = await rig.three()
    await rig.put(b"data")
    for name in "abc":
        await rig.bump(name, 2, ["a", "b", "c"], master_term=5)
    await rig.clock.advance(1.0)
    assert not await collect(rig, a, V1)  # its version was raised since
    assert not await collect(rig, a, V2, term=4)  # by a later leader
    assert not await collect(rig, a, ChunkVersion(0))  # its version can be read
    assert a.content(V2) == b"data"
    await rig.put(b"more", 4, version=2)  # and the order of mutations goes on
    assert await collect(rig, a, V2, term=5)


async def test_a_replica_whose_version_cannot_be_read_is_deleted_only_when_named_as_such(rig: Rig) -> None:
    a, _, _ = await rig.three()
    await rig.clock.advance(1.0)
    await a.server.stop()
    a.replicas.close()
    environment = lmdb.open(str(a.directory / "chunks.lmdb"), max_dbs=4, subdir=False)
    with environment.begin(write=True) as transaction:
        transaction.put(HANDLE.to_bytes(8, "big"), b"rotten", db=environment.open_db(b"headers", transaction))
    environment.close()
    a = rig.start_again(a)
    assert a.replicas.corrupt() == [HANDLE]
    assert not await collect(rig, a, V1)
    assert a.replicas.corrupt() == [HANDLE]
    assert await collect(rig, a, ChunkVersion(0))
    assert a.replicas.corrupt() == [] and a.replicas.chunk_count == 0


async def test_deleted_bytes_are_free_again_and_a_restart_does_not_bring_them_back(rig: Rig) -> None:
    a, _, _ = await rig.three()
    await rig.put(b"x" * MIB)
    before = a.replicas.usage().free_bytes
    await rig.clock.advance(1.0)
    assert await collect(rig, a, V1)
    assert a.replicas.usage().free_bytes == before + MIB
    a = await rig.restart("a")
    assert a.replicas.chunk_count == 0 and not list(a.store.handles())


async def collect(
    rig: Rig, node: Node, version: ChunkVersion, *, term: int = 9, known_at: float | None = None
) -> bool:
    return await node.service.collect(
        GarbageReplica(HANDLE, version),
        term=Term(term),
        known_at=rig.clock.monotonic() if known_at is None else known_at,
    )


async def test_a_write_under_way_fails_when_its_replica_is_deleted(rig: Rig) -> None:
    a, _, _ = await rig.three()
    rig.network.delay("a", "b", 0.1)
    await rig.clock.advance(0.1)
    write = asyncio.ensure_future(rig.put(b"data"))
    await settle()
    assert await collect(rig, a, V1)
    with pytest.raises(ReplicaFailed):
        await write
    await rig.clock.advance(FORWARD_SECONDS)


async def test_orders_of_chunks_nobody_uses_are_not_kept(rig: Rig) -> None:
    (a,) = rig.start("a")
    with pytest.raises(NotFound):
        await rig.bump("a", 1, ["a"])
    assert len(a.service.orders) == 0
    await rig.bump("a", 1, ["a"], create=True)
    assert len(a.service.orders) == 1
    await rig.clock.advance(1.0)
    assert await collect(rig, a, V1)
    assert len(a.service.orders) == 0


# --- who is meant ---------------------------------------------------------------------------------


@pytest.mark.parametrize("question", [Ping, ChunkStatus])
async def test_nobody_answers_for_another_server_that_was_at_the_address(
    rig: Rig, question: type[Ping | ChunkStatus]
) -> None:
    """An empty disk that says of a chunk that it is not here would speak for the disk that had it."""
    await rig.three()
    about = {} if question is Ping else {"handle": HANDLE, "version": V1}
    with pytest.raises(Unavailable, match="old is gone"):
        await rig.ask("a", question(server=ServerId("old"), **about), question.reply)  # type: ignore[arg-type]
    await rig.ask("a", question(server=ServerId("a"), **about), question.reply)  # type: ignore[arg-type]
