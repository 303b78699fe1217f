"""CloneChunk from request to replica: what is fetched from whom, and what stands in the way (GFS §4.3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gfs.errors import DataUnavailable, GfsError, InvalidArgument, NotFound, StaleVersion, Superseded
from gfs.messages.cluster import DiskStatus, DiskStatusReply
from gfs.messages.heartbeat import GarbageReplica
from gfs.messages.replicas import AppendedRecord, CloneChunk, CloneReply
from gfs.settings import CLONE_PIECE_BYTES, GUEST_IDLE_SECONDS
from gfs.vocabulary import MIB, ChunkVersion, ClientId, Term
from tests.chunkserver.rig import CLUSTER, HANDLE, Rig, control_address, replica
from tests.chunkserver.test_service_exactly_once import append
from tests.fakes.clock import settle

SOME = bytes(range(256)) * 8000  # 1.95 MiB: two pieces, the last block partial


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """Servers a, b, c hold version 1 of a chunk with SOME in it; d holds nothing."""
    here = Rig(tmp_path)
    await here.three()
    await here.put(SOME)
    here.start("d")
    yield here
    await here.stop()


async def clone(
    rig: Rig, version: int = 1, *, to: str = "d", sources: str = "abc", **fields: Any
) -> CloneReply:
    request = CloneChunk(
        cluster=CLUSTER,
        master_term=Term(fields.pop("master_term", 1)),
        handle=HANDLE,
        version=ChunkVersion(version),
        sources=[replica(name) for name in sources],
        **fields,
    )
    return await rig.master.call(control_address(to), request, CloneReply, deadline_seconds=60.0)


async def join(rig: Rig, version: int = 3) -> None:
    """The fence is version `version` - 1: all members hold it; then d comes in."""
    await rig.grant(version - 1, "a", "b", "c")
    await clone(rig, version - 1, fenced_bytes=rig.nodes["a"].replicas.committed_length(HANDLE, version - 1))
    for name in "abcd":
        await rig.bump(name, version, ["a", "b", "c", "d"], oldest_version=version - 1)


async def test_copy_joins_and_takes_part_in_writes(rig: Rig) -> None:
    reply = await clone(rig)
    assert reply == CloneReply(fetched_bytes=len(SOME), length_bytes=len(SOME))
    await join(rig)
    await rig.put(b"more", len(SOME), version=3, to="abcd")
    assert rig.nodes["d"].content(ChunkVersion(3)) == SOME + b"more"


async def test_what_was_copied_before_is_not_fetched_under_the_fence(rig: Rig) -> None:
    await clone(rig)
    await rig.put(b"more", len(SOME))
    rig.pieces_read.clear()
    await join(rig)
    assert sum(length for _, length in rig.pieces_read) < 70_000
    assert rig.nodes["d"].content(ChunkVersion(3)) == SOME + b"more"


async def test_new_replica_knows_the_records_it_took_over_and_orders_none_twice(rig: Rig) -> None:
    await clone(rig)
    first = await append(rig, b"a record", 1)
    await join(rig)
    await rig.grant(4, "d", "a", "b", "c")
    again = await append(rig, b"a record", 1, repeated=True, version=4, to="dabc")
    assert again.offset_bytes == first.offset_bytes
    assert rig.nodes["d"].content(ChunkVersion(4)) == SOME + b"a record"


async def test_records_of_a_stale_replica_are_forgotten_with_its_bytes(rig: Rig) -> None:
    """Server c alone has a record that was never acknowledged: a copy made there must not believe in it."""
    stale = AppendedRecord(ClientId(77), 1, 0, 8)
    rig.nodes["c"].replicas.write(HANDLE, ChunkVersion(1), len(SOME), b"a record", records=[stale])
    for name in "ab":
        await rig.bump(name, 2, ["a", "b"])
    await clone(rig, 2, to="c", sources="ab", fenced_bytes=len(SOME))
    await rig.bump("c", 3, ["a", "b", "c"], oldest_version=2)
    assert len(rig.nodes["c"].replicas.append_window(HANDLE, ChunkVersion(3))) == 0


async def test_copy_of_an_unfenced_version_never_becomes_a_replica(rig: Rig) -> None:
    await clone(rig)
    for name in "abc":
        await rig.bump(name, 2, ["a", "b", "c", "d"])
    with pytest.raises(NotFound):
        await rig.bump("d", 2, ["a", "b", "c", "d"])


async def test_next_source_is_asked_when_one_is_away_or_damaged(rig: Rig) -> None:
    await rig.nodes["a"].server.stop()
    rig.nodes["b"].store.write_at(HANDLE, b"rot", CLONE_PIECE_BYTES + 5)
    reply = await clone(rig, fenced_bytes=len(SOME))
    assert reply.length_bytes == len(SOME)
    assert rig.nodes["b"].replicas.corrupt() == [HANDLE]
    await rig.nodes["c"].server.stop()
    with pytest.raises(DataUnavailable, match="could not be copied"):
        await clone(rig, 2, sources="ac")


async def test_source_of_another_version_is_no_source(rig: Rig) -> None:
    await rig.grant(2, "a", "b", "c")
    with pytest.raises(StaleVersion):
        await clone(rig, 1)


async def test_source_of_another_length_than_the_fence_is_refused(rig: Rig) -> None:
    with pytest.raises(StaleVersion, match="fenced"):
        await clone(rig, fenced_bytes=len(SOME) - 1)


async def test_stale_replica_is_brought_up_by_what_it_lacks(rig: Rig) -> None:
    for name in "ab":
        await rig.bump(name, 2, ["a", "b"])
    await rig.put(b"new bytes", len(SOME), version=2, to="ab")
    rig.pieces_read.clear()
    await clone(rig, 2, to="c", sources="ab")
    assert sum(length for _, length in rig.pieces_read) < 70_000


async def test_member_is_never_overwritten_by_a_copy(rig: Rig) -> None:
    with pytest.raises(StaleVersion):
        await clone(rig, 1, to="c", sources="ab")
    assert rig.nodes["c"].content(ChunkVersion(1)) == SOME
    with pytest.raises(InvalidArgument):
        await clone(rig, 2, to="c", sources="c")


async def test_master_that_was_superseded_has_no_copies_made(rig: Rig) -> None:
    await clone(rig, master_term=4)
    with pytest.raises(Superseded):
        await clone(rig, master_term=3)


async def test_copy_keeps_to_its_speed_and_tells_how_far_it_is(rig: Rig) -> None:
    copying = asyncio.ensure_future(clone(rig, bytes_per_second=MIB // 4))
    await settle()
    status = await rig.ask("d", DiskStatus(), DiskStatusReply)
    assert [(c.handle, c.source, c.copied_bytes, c.to_copy_bytes) for c in status.clones] == [
        (HANDLE, "a", MIB, len(SOME))
    ]
    await rig.clock.advance(3.0)
    assert not copying.done()
    await rig.clock.advance(2.0)
    assert (await copying).fetched_bytes == len(SOME)
    assert (await rig.ask("d", DiskStatus(), DiskStatusReply)).clones == []


async def test_newer_order_ends_an_older_copy(rig: Rig) -> None:
    slow = asyncio.ensure_future(clone(rig, bytes_per_second=1))
    await settle()
    fast = await clone(rig)
    assert fast.length_bytes == len(SOME) and fast.fetched_bytes < len(SOME)
    with pytest.raises(Superseded, match="another copy"):
        await slow


async def test_of_three_orders_at_once_the_last_is_carried_out(rig: Rig) -> None:
    orders = [asyncio.ensure_future(clone(rig, bytes_per_second=speed)) for speed in (1, 2, 3 * MIB)]
    await rig.clock.advance(5.0)
    outcomes = await asyncio.gather(*orders, return_exceptions=True)
    assert [isinstance(outcome, Superseded) for outcome in outcomes] == [True, True, False]
    assert (await rig.ask("d", DiskStatus(), DiskStatusReply)).clones == []


async def test_leaders_word_from_before_a_copy_does_not_delete_it(rig: Rig) -> None:
    told_at = rig.clock.monotonic()
    await rig.clock.advance(1.0)
    await clone(rig, fenced_bytes=len(SOME))
    d = rig.nodes["d"]
    garbage = GarbageReplica(HANDLE, ChunkVersion(1))
    assert not await d.service.collect(garbage, term=Term(1), known_at=told_at)
    assert d.replicas.guests.whole()
    await rig.clock.advance(1.0)
    assert await d.service.collect(garbage, term=Term(1), known_at=rig.clock.monotonic())
    assert not d.replicas.guests.whole()


async def test_copy_nobody_goes_on_with_is_swept_away_unless_it_is_whole(rig: Rig) -> None:
    d = rig.nodes["d"]
    await clone(rig)
    await d.service.clones.sweep()
    assert d.replicas.chunk_count == 1
    await rig.clock.advance(GUEST_IDLE_SECONDS + 1)
    await d.service.clones.sweep()
    assert d.replicas.chunk_count == 0
    await clone(rig, fenced_bytes=len(SOME))
    await rig.clock.advance(GUEST_IDLE_SECONDS + 1)
    await d.service.clones.sweep()
    assert d.replicas.guests.whole()


async def test_target_that_starts_anew_after_the_fence_still_joins(rig: Rig) -> None:
    await rig.grant(2, "a", "b", "c")
    await clone(rig, 2, fenced_bytes=len(SOME))
    await rig.restart("d")
    for name in "abcd":
        await rig.bump(name, 3, ["a", "b", "c", "d"], oldest_version=2)
    assert rig.nodes["d"].content(ChunkVersion(3)) == SOME


async def test_target_that_starts_anew_before_it_is_whole_begins_anew(rig: Rig) -> None:
    copying = asyncio.ensure_future(clone(rig, bytes_per_second=1))
    await settle()
    await rig.restart("d")
    with pytest.raises(GfsError):
        await copying
    assert rig.nodes["d"].replicas.chunk_count == 0
    await clone(rig)
    await join(rig)
    assert rig.nodes["d"].content(ChunkVersion(3)) == SOME


@pytest.mark.parametrize("seed", range(25))
async def test_no_interleaving_of_writes_with_a_copy_makes_the_replicas_differ(rig: Rig, seed: int) -> None:
    """Writes, overwrites and record appends before, during and after each round of copying."""
    chance = Random(seed)
    acknowledged = bytearray(SOME)
    sequence = 0

    async def mutate(version: int, members: str) -> None:
        nonlocal sequence
        data = bytes([chance.randrange(256)]) * chance.choice((1, 700, 65_536, 200_000))
        if chance.random() < 0.3:
            sequence += 1
            placed = await append(rig, data[:700], sequence, version=version, to=members)
            assert placed.offset_bytes == len(acknowledged)
            acknowledged.extend(data[:700])
        else:
            offset = chance.randrange(len(acknowledged) + 1)
            await rig.put(data, offset, version=version, to=members)
            acknowledged[offset : offset + len(data)] = data

    version = 1
    for _ in range(chance.randrange(1, 4)):
        copying = asyncio.ensure_future(
            clone(rig, version, bytes_per_second=chance.choice((MIB // 2, MIB, 4 * MIB)))
        )
        await settle()
        while not copying.done():
            if chance.random() < 0.6:
                await mutate(version, "abc")
            if chance.random() < 0.1:
                version += 1
                await rig.grant(version, "a", "b", "c")
            await rig.clock.advance(chance.choice((0.05, 0.5)))
        await asyncio.gather(copying, return_exceptions=True)
    await mutate(version, "abc")
    await join(rig, version + 2)
    await mutate(version + 2, "abcd")
    contents = {name: rig.nodes[name].content(ChunkVersion(version + 2)) for name in "abcd"}
    assert all(content == acknowledged for content in contents.values()), seed
