"""Identified records through real services: each is in the chunk once, whatever is repeated (I9)."""

from __future__ import annotations

import asyncio

import pytest

from gfs.checksums import crc32c
from gfs.chunkserver.core.append_window import decode_window
from gfs.errors import ChecksumMismatch, ChunkSealed, InvalidArgument, NoSpace, RecordForgotten, ReplicaFailed
from gfs.messages.base import Ack
from gfs.messages.replicas import (
    AlignReplica,
    AppendRecord,
    AppendReply,
    ChunkStatus,
    ChunkStatusReply,
    FindRecord,
    FindRecordReply,
    SealReplica,
)
from gfs.settings import INLINE_RECORD_BYTES_MAX
from gfs.vocabulary import CHUNK_BYTES, KIB, ChunkVersion, ClientId, PushId, Term
from tests.chunkserver.rig import CLUSTER, HANDLE, Rig

V1, V2, V3 = ChunkVersion(1), ChunkVersion(2), ChunkVersion(3)
ME = ClientId(77)


async def append(
    rig: Rig,
    data: bytes,
    sequence: int,
    *,
    repeated: bool = False,
    version: int = 1,
    to: str = "abc",
    pushed: bool = False,
    client: ClientId = ME,
    settled_below: int = 0,
    not_before: int = 0,
) -> AppendReply:
    request = AppendRecord(
        handle=HANDLE,
        version=ChunkVersion(version),
        length_bytes=len(data),
        push=rig.push(data, 0, to) if pushed else PushId(""),
        data=b"" if pushed else data,
        checksum=0 if pushed else crc32c(data),
        client=client,
        sequence=sequence,
        settled_below=settled_below,
        repeated=repeated,
        not_before=not_before,
    )
    reply: AppendReply = await rig.ask(to[0], request, AppendReply)
    return reply


async def find(rig: Rig, name: str, sequence: int, *, not_before: int = 0) -> FindRecordReply:
    request = FindRecord(handle=HANDLE, client=ME, sequence=sequence, not_before=not_before)
    reply: FindRecordReply = await rig.ask(name, request, FindRecordReply)
    return reply


async def seal(rig: Rig, names: str, version: int, length: int) -> None:
    for name in names:
        request = SealReplica(
            cluster=CLUSTER,
            master_term=Term(1),
            handle=HANDLE,
            version=ChunkVersion(version),
            length_bytes=length,
        )
        await rig.ask(name, request, Ack)


async def align(rig: Rig, name: str, version: int, length: int) -> None:
    request = AlignReplica(
        cluster=CLUSTER,
        master_term=Term(1),
        handle=HANDLE,
        version=ChunkVersion(version),
        length_bytes=length,
    )
    await rig.ask(name, request, Ack)


async def test_records_that_wait_go_to_the_secondaries_as_one_mutation(rig: Rig) -> None:
    nodes = await rig.three()
    rig.network.delay("a", "b", 0.01)
    records = [bytes([65 + n]) * (n + 1) for n in range(10)]
    appends = [rig.begin(append(rig, data, n + 1)) for n, data in enumerate(records)]
    await rig.clock.advance(0.1)
    replies = [await one for one in appends]
    assert {reply.serial for reply in replies} == {1, 2}  # the first, then those that came meanwhile
    assert [reply.offset_bytes for reply in replies] == [sum(range(n + 1)) for n in range(10)]
    assert {node.content(V1) for node in nodes} == {b"".join(records)}


@pytest.mark.parametrize("pushed", [False, True])
async def test_a_repeat_under_one_version_is_answered_with_the_first_offset(rig: Rig, pushed: bool) -> None:
    nodes = await rig.three()
    await append(rig, b"before", 1)
    rig.network.delay("a", "b", 0.1)
    both = [rig.begin(append(rig, b"once", 2, pushed=pushed, repeated=n > 0)) for n in range(2)]
    await rig.clock.advance(0.3)
    assert [(await one).offset_bytes for one in both] == [6, 6]
    late = rig.begin(append(rig, b"once", 2, repeated=True, pushed=pushed))
    await rig.clock.advance(0.3)
    assert (await late).offset_bytes == 6
    assert {node.content(V1) for node in nodes} == {b"beforeonce"}


async def test_a_record_on_all_that_are_left_is_found_by_the_next_primary(rig: Rig) -> None:
    a, b, _ = await rig.three()
    await a_half_done_append(rig, failing="c")
    assert a.content(V1) == b.content(V1) == b"beforehalf"
    await rig.grant(2, "b", "a")
    assert (await append(rig, b"half", 2, repeated=True, version=2, to="ba")).offset_bytes == 6
    assert a.content(V2) == b.content(V2) == b"beforehalf"


async def test_a_record_that_was_cut_off_is_appended_anew(rig: Rig) -> None:
    a, b, _ = await rig.three()
    await a_half_done_append(rig, failing="bc")
    assert a.content(V1) == b"beforehalf" and b.content(V1) == b"before"
    await rig.grant(2, "a", "b")
    await align(rig, "a", 2, 6)
    assert (await append(rig, b"half", 2, repeated=True, version=2, to="ab")).offset_bytes == 6
    assert a.content(V2) == b.content(V2) == b"beforehalf"
    await rig.grant(3, "b", "a")  # and both know of it
    assert (await append(rig, b"half", 2, repeated=True, version=3, to="ba")).offset_bytes == 6


async def a_half_done_append(rig: Rig, *, failing: str) -> None:
    await append(rig, b"before", 1)
    for name in failing:
        rig.nodes[name].replicas.write_failure = NoSpace("full")
    with pytest.raises(ReplicaFailed):
        await append(rig, b"half", 2)
    for name in failing:
        rig.nodes[name].replicas.write_failure = None
    with pytest.raises(ReplicaFailed):  # under the broken version nothing is told to be done
        await append(rig, b"half", 2, repeated=True)


@pytest.mark.parametrize("flushed", [False, True])
async def test_replicas_that_were_killed_know_their_records_again(rig: Rig, flushed: bool) -> None:
    await rig.three()
    for sequence in range(1, 6):
        await append(rig, b"x" * sequence, sequence)
    for name in "abc":
        if flushed:
            rig.nodes[name].replicas.flush()
        await rig.restart(name)
    await rig.grant(2, "c", "b")
    for sequence in range(1, 6):
        offset = sum(range(sequence))
        reply = await append(rig, b"x" * sequence, sequence, repeated=True, version=2, to="cb")
        assert reply.offset_bytes == offset
    assert rig.nodes["c"].content(V2) == b"x" * 15


async def test_after_a_seal_every_replica_says_whether_the_record_is_there(rig: Rig) -> None:
    _, b, _ = await rig.three()
    await append(rig, b"before", 1)
    assert not (await find(rig, "b", 1)).final  # as long as it is not sealed nobody can say
    b.replicas.write_failure = NoSpace("full")
    with pytest.raises(ReplicaFailed):
        await append(rig, b"half", 2)
    b.replicas.write_failure = None
    await rig.grant(2, "c", "b")
    await align(rig, "c", 2, 6)
    await seal(rig, "bc", 2, 6)
    for name in "bc":
        await rig.restart(name)
        assert await find(rig, name, 1) == FindRecordReply(final=True, offset_bytes=0)
        assert await find(rig, name, 2) == FindRecordReply(final=True, offset_bytes=-1)
    with pytest.raises(ChunkSealed):
        await append(rig, b"half", 2, repeated=True, version=2, to="cb")


async def test_a_record_that_had_no_room_is_not_in_the_chunk_however_often_it_is_repeated(rig: Rig) -> None:
    await rig.three()
    await rig.put(b"|", CHUNK_BYTES - 11)
    assert (await append(rig, b"ten bytes!", 1)).offset_bytes == CHUNK_BYTES - 10
    for repeated in (False, True):
        assert (await append(rig, b"more", 2, repeated=repeated)).padded
    # What is there is found although the chunk is full.
    assert (await append(rig, b"ten bytes!", 1, repeated=True)).offset_bytes == CHUNK_BYTES - 10
    await rig.grant(2, "b", "a", "c")
    assert (await append(rig, b"more", 2, repeated=True, version=2, to="bac")).padded
    assert not (await append(rig, b"ten bytes!", 1, repeated=True, version=2, to="bac")).padded


async def test_a_batch_that_meets_the_end_is_split_and_the_rest_is_padded(rig: Rig) -> None:
    nodes = await rig.three()
    await rig.put(b"|", CHUNK_BYTES - 21)
    rig.network.delay("a", "b", 0.01)
    appends = [rig.begin(append(rig, b"%d" % n * 8, n)) for n in range(1, 6)]
    await rig.clock.advance(0.2)
    replies = [await one for one in appends]
    assert [reply.padded for reply in replies] == [False, False, True, True, True]
    assert [reply.offset_bytes for reply in replies[:2]] == [CHUNK_BYTES - 20, CHUNK_BYTES - 12]
    tail = bytearray(20)
    for node in nodes:
        node.replicas.read_into(HANDLE, V1, CHUNK_BYTES - 20, memoryview(tail))
        assert tail == b"1" * 8 + b"2" * 8 + bytes(4)


async def test_records_of_callers_without_an_identity_are_appended_each_time(rig: Rig) -> None:
    nodes = await rig.three()
    for _ in range(2):
        await append(rig, b"again", 0, client=ClientId(0))
    assert {node.content(V1) for node in nodes} == {b"againagain"}


async def test_a_status_carries_the_window_for_a_copy_of_the_chunk(rig: Rig) -> None:
    await rig.three()
    await append(rig, b"one", 1)
    status = await rig.ask(
        "b", ChunkStatus(handle=HANDLE, version=V1, with_append_window=True), ChunkStatusReply
    )
    place = decode_window(status.append_window).find(ME, 1, repeated=True)
    assert place is not None and place.offset_bytes == 0
    assert (await rig.ask("b", ChunkStatus(handle=HANDLE, version=V1), ChunkStatusReply)).append_window == b""


async def test_settled_records_are_forgotten_by_every_replica(rig: Rig) -> None:
    nodes = await rig.three()
    for sequence in range(1, 51):
        await append(rig, b"x", sequence, settled_below=sequence)
    for node in nodes:
        assert len(node.replicas.append_window(HANDLE, V1)) == 1


async def test_bytes_that_changed_on_the_way_are_refused(rig: Rig) -> None:
    a, _, _ = await rig.three()
    request = AppendRecord(
        handle=HANDLE, version=V1, length_bytes=3, data=b"abc", checksum=crc32c(b"abd"), client=ME, sequence=1
    )
    with pytest.raises(ChecksumMismatch):
        await rig.ask("a", request, AppendReply)
    assert a.content(V1) == b""


@pytest.mark.parametrize(
    "wrong",
    [
        {"data": b"abc", "length_bytes": 4},
        {"data": b"abc", "length_bytes": 3, "push": PushId("p")},
        {"data": bytes(INLINE_RECORD_BYTES_MAX + 1), "length_bytes": INLINE_RECORD_BYTES_MAX + 1},
        {"data": b"abc", "length_bytes": 3, "client": ME, "sequence": 1, "settled_below": 2},
    ],
)
async def test_a_request_that_contradicts_itself_is_refused(rig: Rig, wrong: dict[str, object]) -> None:
    await rig.three()
    with pytest.raises(InvalidArgument):
        await rig.ask("a", AppendRecord(handle=HANDLE, version=V1, **wrong), AppendReply)  # type: ignore[arg-type]


async def test_a_repeat_that_nobody_remembers_is_refused_as_unknown(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gfs.chunkserver.core.append_window.RECORDS_REMEMBERED_MAX", 16)
    a, _, _ = await rig.three()
    for client in range(1, 40):
        await append(rig, b"x", 1, client=ClientId(client))
    with pytest.raises(RecordForgotten):
        await append(rig, b"x", 1, client=ClientId(1), repeated=True)
    assert (await append(rig, b"new", 1, client=ClientId(1000))).offset_bytes == 39
    assert a.content(V1) == b"x" * 39 + b"new"


async def test_a_client_that_goes_away_leaves_its_record_once(rig: Rig) -> None:
    a, _, _ = await rig.three()
    rig.network.delay("a", "b", 0.1)
    leaving = rig.begin(append(rig, b"once", 1))
    await asyncio.sleep(0)
    leaving.cancel()
    again = rig.begin(append(rig, b"once", 1, repeated=True))
    await rig.clock.advance(0.5)
    await again
    assert a.content(V1) == b"once"


async def test_a_record_of_the_longest_kind_is_pushed_and_whole(rig: Rig) -> None:
    nodes = await rig.three()
    data = bytes(range(256)) * (4 * KIB)
    assert (await append(rig, data, 1, pushed=True)).offset_bytes == 0
    assert {node.content(V1) for node in nodes} == {data}
