"""Record appends through real services: one offset everywhere, padding, at least once (GFS §3.3)."""

from __future__ import annotations

import asyncio
import random

import pytest

from gfs.errors import (
    ChecksumMismatch,
    ChunkSealed,
    InvalidArgument,
    LeaseExpired,
    NoSpace,
    NotPrimary,
    PushMissing,
    ReplicaFailed,
    StaleVersion,
    Superseded,
)
from gfs.messages.base import Ack
from gfs.messages.replicas import AlignReplica, AppendRecord, AppendReply, ApplyMutation, SealReplica
from gfs.settings import APPEND_BYTES_MAX
from gfs.vocabulary import (
    CHECKSUM_BLOCK_BYTES,
    CHUNK_BYTES,
    KIB,
    MIB,
    ChunkVersion,
    PushId,
    SerialNumber,
    ServerId,
    Term,
)
from tests.chunkserver.rig import CLUSTER, FORWARD_SECONDS, HANDLE, LEASE_SECONDS, Rig
from tests.fakes.clock import settle

V1, V2 = ChunkVersion(1), ChunkVersion(2)


def record(number: int, length: int) -> bytes:
    return random.Random(number).randbytes(length)


async def fill(rig: Rig, length: int, *, to: str = "abc") -> None:
    """Make the chunk `length` bytes long by writing its last one."""
    await rig.put(b"|", length - 1, to=to)


async def test_two_appenders_interleave_and_each_record_is_whole_where_its_answer_says(rig: Rig) -> None:
    nodes = await rig.three()
    rig.network.delay("a", "b", 0.01)
    rig.network.delay("a", "c", 0.03)
    records = [record(n, 1 + n * 7919 % (3 * CHECKSUM_BLOCK_BYTES)) for n in range(20)]
    appends = [rig.begin(rig.append(data)) for data in records]
    await rig.clock.advance(0.3)
    replies = [await append for append in appends]
    assert [reply.serial for reply in replies] == list(range(1, 21))
    (content,) = {node.content(V1) for node in nodes}  # read through the verified path, so the sums are right
    for data, reply in zip(records, replies, strict=True):
        assert not reply.padded
        assert content[reply.offset_bytes : reply.offset_bytes + len(data)] == data
    assert len(content) == sum(map(len, records))
    assert all(node.pushes.used_bytes == 0 for node in nodes)


async def test_records_and_writes_take_their_places_in_one_order(rig: Rig) -> None:
    nodes = await rig.three()
    writing = rig.begin(rig.put(b"w" * 100, 50))
    appending = rig.begin(rig.append(b"r" * 10))
    assert (await writing).serial == 1 and (await appending).offset_bytes == 150
    assert [node.content(V1) for node in nodes] == [bytes(50) + b"w" * 100 + b"r" * 10] * 3


async def test_a_block_that_was_summed_for_another_place_is_verified_and_summed_again(rig: Rig) -> None:
    (a,) = rig.start("a")
    await rig.grant(1, "a", create=True)
    await rig.append(b"x" * 100, to="a")
    data = record(1, 2 * CHECKSUM_BLOCK_BYTES)
    push = rig.push(data, 0, "a")
    pushed = a.pushes.take(push)
    pushed.data[70_000] ^= 1  # in memory, after it was received and summed
    a.pushes.release(pushed, used=False)
    with pytest.raises(ReplicaFailed) as failure:
        await rig.append(data, to="a", push=push)
    assert failure.value.details["reasons"] == ChecksumMismatch.code
    assert a.content(V1) == b"x" * 100


async def test_a_record_that_would_cross_the_end_pads_every_replica_with_zeros(rig: Rig) -> None:
    nodes = await rig.three()
    await fill(rig, CHUNK_BYTES - 70_000)
    reply = await rig.append(record(1, 70_001))
    assert (reply.padded, reply.serial, reply.offset_bytes) == (True, 2, CHUNK_BYTES - 70_000)
    for node in nodes:
        assert node.replicas.committed_length(HANDLE, V1) == CHUNK_BYTES
        tail = bytearray(70_001)
        assert node.replicas.read_into(HANDLE, V1, CHUNK_BYTES - 70_001, memoryview(tail)) == 70_001
        assert tail == b"|" + bytes(70_000)
    again = await rig.append(b"small")
    assert (again.padded, again.serial, again.offset_bytes) == (True, 0, CHUNK_BYTES)


async def test_a_record_that_fits_to_the_last_byte_is_not_padded(rig: Rig) -> None:
    nodes = await rig.three()
    await fill(rig, CHUNK_BYTES - MIB)
    data = record(1, MIB)
    reply = await rig.append(data)
    assert (reply.padded, reply.offset_bytes) == (False, CHUNK_BYTES - MIB)
    for node in nodes:
        tail = bytearray(MIB)
        assert node.replicas.read_into(HANDLE, V1, CHUNK_BYTES - MIB, memoryview(tail)) == MIB
        assert tail == data


@pytest.mark.parametrize("from_the_end", [1, 100, CHECKSUM_BLOCK_BYTES, CHECKSUM_BLOCK_BYTES + 1])
async def test_padding_survives_a_kill(rig: Rig, from_the_end: int) -> None:
    rig.start("a")
    await rig.grant(1, "a", create=True)
    await fill(rig, CHUNK_BYTES - from_the_end, to="a")
    assert (await rig.append(record(1, from_the_end + 1), to="a")).padded
    a = await rig.restart("a")
    tail = bytearray(from_the_end + 1)
    assert a.replicas.read_into(HANDLE, V1, CHUNK_BYTES - len(tail), memoryview(tail)) == len(tail)
    assert tail == b"|" + bytes(from_the_end)


async def test_padding_that_did_not_reach_every_replica_is_not_answered_as_done(rig: Rig) -> None:
    _, b, _ = await rig.three()
    await fill(rig, CHUNK_BYTES - 10)
    b.replicas.write_failure = NoSpace("full")
    with pytest.raises(ReplicaFailed) as failure:
        await rig.append(b"x" * 11)
    assert failure.value.details["servers"] == "b"


async def test_after_a_secondary_failed_the_record_goes_behind_the_aligned_end_of_a_newer_version(
    rig: Rig,
) -> None:
    a, b, c = await rig.three()
    await rig.append(b"before")
    await b.server.stop()
    with pytest.raises(ReplicaFailed) as failure:
        await rig.append(b"cut short")
    assert failure.value.details["servers"] == "b"
    with pytest.raises(ReplicaFailed):  # nothing more under this version
        await rig.append(b"more", to="ac")
    assert a.content(V1) == c.content(V1) == b"beforecut short"
    await rig.grant(2, "a", "c")
    reply = await rig.append(b"cut short", version=2, to="ac")
    assert (reply.serial, reply.offset_bytes) == (1, 15)  # at least once: the first try is there too
    assert a.content(V2) == c.content(V2) == b"before" + b"cut short" * 2


async def test_a_primary_that_was_cut_back_places_records_at_the_length_all_have(rig: Rig) -> None:
    a, b, _ = await rig.three()
    await rig.append(b"before")
    b.replicas.write_failure = NoSpace("full")
    with pytest.raises(ReplicaFailed):
        await rig.append(b"surplus")
    b.replicas.write_failure = None
    assert [reply.length_bytes for reply in await rig.grant(2, "a", "b")] == [13, 6]
    align = AlignReplica(cluster=CLUSTER, master_term=Term(1), handle=HANDLE, version=V2, length_bytes=6)
    await rig.ask("a", align, Ack)
    assert (await rig.append(b"after", version=2, to="ab")).offset_bytes == 6
    assert a.content(V2) == b.content(V2) == b"beforeafter"
    with pytest.raises(Superseded):  # it would cut off what has been acknowledged
        await rig.ask("a", align, Ack)


async def test_a_secondary_that_lost_the_piece_gets_the_primarys_copy(rig: Rig) -> None:
    nodes = await rig.three()
    await rig.append(b"first")
    await rig.append(b"second", push=rig.push(b"second", to="ab"))
    assert [node.content(V1) for node in nodes] == [b"firstsecond"] * 3


async def test_a_repeated_append_is_answered_as_the_first_was_and_not_done_again(rig: Rig) -> None:
    nodes = await rig.three()
    push = rig.push(b"once")
    rig.network.delay("a", "b", 0.1)
    both = [rig.begin(rig.append(b"once", push=push)) for _ in range(2)]
    await rig.clock.advance(0.3)
    first, second = [await append for append in both]
    assert first == second == await rig.append(b"once", push=push)
    assert [node.content(V1) for node in nodes] == [b"once"] * 3


async def test_without_a_lease_nothing_is_appended(rig: Rig) -> None:
    a, _, _ = await rig.three()
    await rig.clock.advance(LEASE_SECONDS)
    push = rig.push(b"late")
    with pytest.raises(LeaseExpired):
        await rig.append(b"late", push=push)
    with pytest.raises(NotPrimary):
        await rig.append(b"late", to="bca")
    with pytest.raises(StaleVersion):
        await rig.append(b"late", version=2)
    assert a.content(V1) == b""


async def test_a_primary_that_started_anew_knows_no_lease(rig: Rig) -> None:
    await rig.three()
    await rig.restart("a")
    with pytest.raises(LeaseExpired):
        await rig.append(b"x")


async def test_a_sealed_chunk_takes_no_record(rig: Rig) -> None:
    await rig.three()
    seal = SealReplica(cluster=CLUSTER, master_term=Term(1), handle=HANDLE, version=V1, length_bytes=0)
    await rig.ask("a", seal, Ack)
    with pytest.raises(ChunkSealed):
        await rig.append(b"x")


async def test_a_push_that_did_not_come_can_be_pushed_and_appended_later(rig: Rig) -> None:
    await rig.three()
    with pytest.raises(PushMissing):
        await rig.append(b"x", push=PushId("never"))
    assert (await rig.append(b"x")).serial == 1


@pytest.mark.parametrize("length", [0, APPEND_BYTES_MAX + 1])
async def test_a_record_of_a_length_that_cannot_be_is_refused(rig: Rig, length: int) -> None:
    await rig.three()
    request = AppendRecord(handle=HANDLE, version=V1, length_bytes=length, push=PushId("x"))
    with pytest.raises(InvalidArgument):
        await rig.ask("a", request, AppendReply)


async def test_padding_in_the_middle_of_a_chunk_is_refused(rig: Rig) -> None:
    await rig.three()
    request = ApplyMutation(
        handle=HANDLE,
        version=V1,
        serial=SerialNumber(1),
        primary=ServerId("a"),
        offset_bytes=0,
        length_bytes=64 * KIB,
        push=PushId("x"),
        kind="pad",
    )
    with pytest.raises(InvalidArgument):
        await rig.ask("b", request, Ack)


async def test_records_under_way_all_fail_with_the_secondary_that_answers_too_late(rig: Rig) -> None:
    await rig.three()
    rig.network.delay("a", "b", FORWARD_SECONDS)
    appends = [asyncio.ensure_future(rig.append(b"x" * 10)) for _ in range(3)]
    await rig.clock.advance(FORWARD_SECONDS + 0.1)
    await settle()
    for append in appends:
        with pytest.raises(ReplicaFailed) as failure:
            await append
        assert failure.value.details["servers"] == "b"
