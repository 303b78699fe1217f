"""Writes through real services: acknowledged only from every replica, in one order, repeated safely."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from gfs.errors import (
    ChecksumMismatch,
    DeadlineExceeded,
    InvalidArgument,
    LeaseExpired,
    NoSpace,
    NotFound,
    NotPrimary,
    PushMissing,
    ReplicaFailed,
    StaleVersion,
    Unavailable,
)
from gfs.messages.base import Ack
from gfs.messages.chunks import Replica
from gfs.messages.replicas import ApplyMutation, WriteChunk, WriteReply
from gfs.settings import INLINE_WRITE_BYTES_MAX, PUSH_BYTES_MAX
from gfs.vocabulary import CHUNK_BYTES, MIB, ChunkVersion, PushId, SerialNumber, ServerId
from tests.chunkserver.rig import FORWARD_SECONDS, HANDLE, LEASE_SECONDS, Rig, block_checksums
from tests.fakes.clock import settle
from tests.paper.boxes import keeps

V1, V2 = ChunkVersion(1), ChunkVersion(2)


def apply_mutation(
    serial: int, push: PushId, length: int, offset: int = 0, version: int = 1
) -> ApplyMutation:
    return ApplyMutation(
        handle=HANDLE,
        version=ChunkVersion(version),
        serial=SerialNumber(serial),
        primary=ServerId("a"),
        offset_bytes=offset,
        length_bytes=length,
        push=push,
    )


async def test_an_acknowledged_write_is_on_all_three_replicas(rig: Rig) -> None:
    nodes = await rig.three()
    data = bytes(range(256)) * 1000
    reply = await rig.put(data)
    assert (reply.serial, reply.length_bytes) == (1, len(data))
    assert [node.content(V1) for node in nodes] == [data] * 3
    assert all(node.pushes.used_bytes == 0 for node in nodes)  # used pushes are forgotten


def with_bytes(data: bytes, offset: int = 0, name: str = "w-1", **other: Any) -> WriteChunk:
    return WriteChunk(
        handle=HANDLE,
        version=V1,
        offset_bytes=offset,
        length_bytes=other.get("length_bytes", len(data)),
        push=PushId(name),
        data=data,
        checksums=other.get("checksums", block_checksums(data, offset)),
    )


async def test_a_write_that_brings_its_bytes_is_on_all_replicas_and_nothing_was_pushed(rig: Rig) -> None:
    nodes = await rig.three()
    first, second = b"1" * INLINE_WRITE_BYTES_MAX, b"2" * 5000
    await rig.ask("a", with_bytes(first), WriteReply)
    reply = await rig.ask("a", with_bytes(second, len(first) - 100, "w-2"), WriteReply)
    assert (reply.serial, reply.length_bytes) == (2, len(first) + 4900)
    assert [node.content(V1) for node in nodes] == [first[:-100] + second] * 3
    assert all(node.pushes.used_bytes == 0 for node in nodes)


async def test_a_repeated_write_that_brings_its_bytes_is_applied_once(rig: Rig) -> None:
    nodes = await rig.three()
    first = await rig.ask("a", with_bytes(b"abc"), WriteReply)
    await rig.ask("a", with_bytes(b"xyz", 3, "w-2"), WriteReply)
    assert await rig.ask("a", with_bytes(b"abc"), WriteReply) == first
    assert [node.content(V1) for node in nodes] == [b"abcxyz"] * 3


async def test_bytes_that_changed_on_the_way_to_the_primary_are_refused_and_nothing_is_ordered(
    rig: Rig,
) -> None:
    nodes = await rig.three()
    with pytest.raises(ChecksumMismatch):
        await rig.ask("a", with_bytes(b"abd", checksums=block_checksums(b"abc", 0)), WriteReply)
    assert (await rig.ask("a", with_bytes(b"abc"), WriteReply)).serial == 1
    assert [node.content(V1) for node in nodes] == [b"abc"] * 3


async def test_bytes_that_changed_on_the_way_to_a_secondary_fail_it_and_are_not_acknowledged(
    rig: Rig,
) -> None:
    _, b, _ = await rig.three()
    mutation = msgspec.structs.replace(
        apply_mutation(1, PushId("w-1"), 3), kind="record", data=b"abd", checksums=block_checksums(b"abc", 0)
    )
    with pytest.raises(ChecksumMismatch):
        await rig.ask("b", mutation, Ack)
    assert b.content(V1) == b""


@pytest.mark.parametrize("length, said", [(INLINE_WRITE_BYTES_MAX + 1, 0), (10, 11), (10, 9)])
async def test_bytes_that_came_with_a_write_are_all_of_it_and_not_too_many(
    rig: Rig, length: int, said: int
) -> None:
    await rig.three()
    with pytest.raises(InvalidArgument):
        await rig.ask("a", with_bytes(bytes(length), length_bytes=said or length), WriteReply)


async def test_bytes_that_came_with_a_write_go_on_as_earlier_secondaries_take_them(rig: Rig) -> None:
    await rig.three()
    passed_on: list[ApplyMutation] = []
    send = rig.nodes["a"].service._primary._call

    async def call(replica: Replica, request: ApplyMutation) -> None:
        passed_on.append(request)
        await send(replica, request)

    rig.nodes["a"].service._primary._call = call  # type: ignore[method-assign]  # in front of the real one
    await rig.ask("a", with_bytes(b"abc"), WriteReply)
    assert [(one.kind, one.data, one.records) for one in passed_on] == [("record", b"abc", [])] * 2


async def test_a_set_of_one_replica_writes(rig: Rig) -> None:
    (node,) = rig.start("a")
    await rig.grant(1, "a", create=True)
    await rig.put(b"alone", to="a")
    assert node.content(V1) == b"alone"


@keeps("mutation-order")
async def test_pipelined_overlapping_writes_end_the_same_everywhere(rig: Rig) -> None:
    nodes = await rig.three()
    rig.network.delay("a", "b", 0.01)
    rig.network.delay("a", "c", 0.03)
    writes = []
    for number in range(20):
        data = bytes([number]) * (1000 + number)
        writes.append(asyncio.ensure_future(rig.write(rig.push(data, 0), len(data), 0)))
    await rig.clock.advance(0.2)
    replies = [await write for write in writes]
    assert [reply.serial for reply in replies] == list(range(1, 21))
    expected = bytes([19]) * 1019
    assert [node.content(V1) for node in nodes] == [expected] * 3


async def test_pieces_of_one_chunk_overlap_in_flight(rig: Rig) -> None:
    await rig.three()
    rig.network.delay("a", "b", 0.1)
    writes = [asyncio.ensure_future(rig.write(rig.push(b"x" * 100, 100 * n), 100, 100 * n)) for n in range(3)]
    await rig.clock.advance(0.21)  # one round trip, not three
    assert all(write.done() for write in writes)
    assert [(await write).length_bytes for write in writes] == [100, 200, 300]


async def test_a_secondary_holds_what_comes_too_early_and_applies_in_order(rig: Rig) -> None:
    _, b, _ = await rig.three()
    first, second = rig.push(b"1" * 10, to="b"), rig.push(b"2" * 10, to="b")
    early = asyncio.ensure_future(rig.ask("b", apply_mutation(2, second, 10), Ack))
    await settle()
    assert not early.done() and b.content(V1) == b""
    await rig.ask("b", apply_mutation(1, first, 10), Ack)
    await early
    assert b.content(V1) == b"2" * 10


async def test_a_gap_is_waited_for_and_never_applied_over(rig: Rig) -> None:
    _, b, _ = await rig.three()
    second = rig.push(b"2" * 10, to="b")
    early = asyncio.ensure_future(rig.ask("b", apply_mutation(2, second, 10), Ack))
    await rig.clock.advance(FORWARD_SECONDS + 0.1)
    with pytest.raises(DeadlineExceeded):
        await early
    assert b.content(V1) == b""
    first = rig.push(b"1" * 10, to="b")
    await rig.ask("b", apply_mutation(1, first, 10), Ack)
    assert b.content(V1) == b"1" * 10


async def test_a_repeated_mutation_is_acknowledged_and_not_applied_again(rig: Rig) -> None:
    _, b, _ = await rig.three()
    first, second = rig.push(b"1" * 10, to="b"), rig.push(b"2" * 10, to="b")
    await rig.ask("b", apply_mutation(1, first, 10), Ack)
    await rig.ask("b", apply_mutation(2, second, 10), Ack)
    await rig.ask("b", apply_mutation(1, first, 10), Ack)
    assert b.content(V1) == b"2" * 10
    with pytest.raises(NotPrimary):
        await rig.ask("b", apply_mutation(1, PushId("another"), 10), Ack)


async def test_a_silent_secondary_is_named_and_the_write_succeeds_without_it(rig: Rig) -> None:
    a, b, c = await rig.three()
    await rig.put(b"before", 0)
    await b.server.stop()
    push = rig.push(b"after!", 6)
    with pytest.raises(ReplicaFailed) as failure:
        await rig.write(push, 6, 6)
    assert failure.value.details["servers"] == "b"
    with pytest.raises(ReplicaFailed):  # nothing more under this version
        await rig.put(b"more", 12, to="ac")

    bumped = await rig.grant(2, "c", "a")
    assert [reply.replaced_version for reply in bumped] == [1, 1]
    # The very bytes pushed before: c has used its copy, a has kept it.
    push = rig.push(b"after!", 6, to="c")
    reply = await rig.write(push, 6, 6, version=2, to="c")
    assert reply.serial == 1
    assert a.content(V2) == c.content(V2) == b"beforeafter!"


async def test_after_a_failure_the_primary_still_has_the_bytes_for_the_next_version(rig: Rig) -> None:
    a, b, c = await rig.three()
    await b.server.stop()
    push = rig.push(b"again")
    with pytest.raises(ReplicaFailed):
        await rig.write(push, 5)
    await rig.grant(2, "a", "c")
    await rig.write(push, 5, version=2)  # nothing is pushed again; c, which used its copy, gets a's
    assert a.content(V2) == c.content(V2) == b"again"


async def test_a_secondary_that_answers_too_late_has_failed(rig: Rig) -> None:
    await rig.three()
    rig.network.delay("a", "b", FORWARD_SECONDS)
    write = asyncio.ensure_future(rig.put(b"data"))
    await rig.clock.advance(FORWARD_SECONDS + 0.1)
    with pytest.raises(ReplicaFailed) as failure:
        await write
    assert failure.value.details["servers"] == "b"


async def test_all_writes_under_way_fail_with_the_one_that_failed(rig: Rig) -> None:
    a, _, c = await rig.three()
    rig.network.drop("a", "b", requests=1)
    writes = [asyncio.ensure_future(rig.put(b"x" * 10, 10 * n)) for n in range(4)]
    await rig.clock.advance(FORWARD_SECONDS + 0.1)
    for write in writes:
        with pytest.raises(ReplicaFailed):
            await write
    assert rig.nodes["b"].content(V1) == b""
    assert a.content(V1) == c.content(V1) == b"x" * 40  # inconsistent, and nobody was told otherwise


async def test_an_old_primary_is_powerless_once_a_secondary_has_a_newer_version(rig: Rig) -> None:
    _, b, c = await rig.three()
    await rig.bump("b", 2, ["b", "c"])
    await rig.bump("c", 2, ["b", "c"])
    with pytest.raises(ReplicaFailed) as failure:
        await rig.put(b"late")
    assert failure.value.details["servers"] == ""  # they are well; it is the version that is over
    assert b.content(V2) == c.content(V2) == b""
    await rig.put(b"new", version=2, to="bc")
    assert b.content(V2) == c.content(V2) == b"new"


async def test_writes_stop_when_the_lease_has_run_out_and_not_before(rig: Rig) -> None:
    await rig.three()
    await rig.clock.advance(LEASE_SECONDS - 0.1)
    await rig.put(b"in time")
    await rig.clock.advance(0.2)
    push = rig.push(b"late", 7)
    with pytest.raises(LeaseExpired):
        await rig.write(push, 4, 7)
    rig.nodes["a"].service.orders.extend(HANDLE, V1, now=rig.clock.monotonic(), lease_seconds=60.0)
    await rig.write(push, 4, 7)  # the refused write left its bytes in place


async def test_a_write_repeated_after_its_answer_was_lost_is_answered_the_same(rig: Rig) -> None:
    a, b, c = await rig.three()
    push = rig.push(b"once")
    rig.network.drop("client", "a", replies=1)
    lost = asyncio.ensure_future(rig.write(push, 4, seconds=1.0))
    await rig.clock.advance(1.1)
    with pytest.raises(DeadlineExceeded):
        await lost
    await rig.put(b"TWO!", 0)
    again = await rig.write(push, 4)
    assert (again.serial, again.length_bytes) == (1, 4)
    assert [node.content(V1) for node in (a, b, c)] == [b"TWO!"] * 3  # not applied a second time
    with pytest.raises(InvalidArgument):
        await rig.write(push, 4, 100)


async def test_a_write_repeated_while_under_way_shares_its_outcome(rig: Rig) -> None:
    await rig.three()
    rig.network.delay("a", "c", 0.1)
    push = rig.push(b"once")
    both = [asyncio.ensure_future(rig.write(push, 4)) for _ in range(2)]
    await rig.clock.advance(0.3)
    assert [(await write).serial for write in both] == [1, 1]
    rig.network.heal_all()
    assert (await rig.put(b"next", 4)).serial == 2


async def test_a_client_that_goes_away_leaves_no_gap(rig: Rig) -> None:
    nodes = await rig.three()
    rig.network.delay("a", "b", 0.1)
    push = rig.push(b"gone")
    gone = asyncio.ensure_future(rig.write(push, 4))
    await settle()
    gone.cancel()
    await rig.clock.advance(0.3)
    write = asyncio.ensure_future(rig.put(b"next", 4))
    await rig.clock.advance(0.3)
    assert (await write).serial == 2
    assert (await rig.write(push, 4)).serial == 1  # it was carried out, and is answered when asked again
    assert all(node.pushes.used_bytes == 0 for node in nodes)
    assert [node.content(V1) for node in nodes] == [b"gonenext"] * 3


async def test_bytes_missing_at_the_primary_are_asked_for_before_anything_is_ordered(rig: Rig) -> None:
    await rig.three()
    push = rig.push(b"data", to="bc")
    with pytest.raises(PushMissing):
        await rig.write(push, 4)
    rig._receive(rig.nodes["a"], push, b"data", 0)
    assert (await rig.write(push, 4)).serial == 1


async def test_bytes_missing_at_a_secondary_are_pushed_again_by_the_primary(rig: Rig) -> None:
    nodes = await rig.three()
    data = b"d" * 100_000
    push = rig.push(data, 5, to="ac")
    assert (await rig.write(push, len(data), 5)).serial == 1
    assert [node.content(V1) for node in nodes] == [bytes(5) + data] * 3


async def test_a_secondary_that_cannot_be_pushed_to_either_has_failed(rig: Rig) -> None:
    await rig.three()

    async def refuse(*_: object) -> None:
        raise Unavailable("the data port is closed")

    rig.nodes["a"].service._primary._push_copy = refuse
    push = rig.push(b"data", to="ac")
    with pytest.raises(ReplicaFailed) as failure:
        await rig.write(push, 4)
    assert failure.value.details["servers"] == "b"


async def test_a_full_disk_fails_the_write_and_names_its_server(rig: Rig) -> None:
    _, _, c = await rig.three()
    c.replicas.write_failure = OSError(28, "No space left on device")
    with pytest.raises(ReplicaFailed) as failure:
        await rig.put(b"data")
    assert failure.value.details["servers"] == "c"
    assert failure.value.details["reasons"] == "no_space"


async def test_a_full_disk_at_the_primary_fails_the_write_and_names_it(rig: Rig) -> None:
    a, _, _ = await rig.three()
    a.replicas.write_failure = OSError(28, "No space left on device")
    with pytest.raises(ReplicaFailed) as failure:
        await rig.put(b"data")
    assert failure.value.details["servers"] == "a"


async def test_a_full_disk_on_the_only_replica_is_told_as_such(rig: Rig) -> None:
    (a,) = rig.start("a")
    await rig.grant(1, "a", create=True)
    a.replicas.write_failure = OSError(28, "No space left on device")
    with pytest.raises(NoSpace):
        await rig.put(b"data", to="a")


async def test_full_disks_everywhere_are_a_definite_refusal_of_this_write_and_those_behind_it(
    rig: Rig,
) -> None:
    nodes = await rig.three()
    assert (await rig.put(b"first")).serial == 1
    for node in nodes:
        node.replicas.write_failure = OSError(28, "No space left on device")
    writes = [asyncio.ensure_future(rig.put(b"more", offset=5 + 4 * n)) for n in range(3)]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [NoSpace] * 3
    assert all(outcome.details["servers"] == "a,b,c" for outcome in outcomes)  # type: ignore[union-attr]
    for node in nodes:
        node.replicas.write_failure = None
        assert node.content(V1) == b"first"
    await rig.grant(2, "a", "b", "c")
    assert (await rig.put(b"again", offset=5, version=2)).serial == 1


async def test_a_write_that_one_of_them_still_had_room_for_may_be_there(rig: Rig) -> None:
    a, b, c = await rig.three()
    for node in (a, c):
        node.replicas.write_failure = OSError(28, "No space left on device")
    with pytest.raises(ReplicaFailed) as failure:
        await rig.put(b"data")
    assert failure.value.details["servers"] == "a,c"
    assert b.content(V1) == b"data"


async def test_no_space_after_another_failure_is_not_definite(rig: Rig) -> None:
    a, b, c = await rig.three()
    a.replicas.write_failure = c.replicas.write_failure = OSError(28, "No space left on device")
    b.replicas.write_failure = ZeroDivisionError("a bug, somewhere in the middle of it")
    with pytest.raises(ReplicaFailed) as failure:
        await rig.put(b"data")
    assert "b" in failure.value.details["servers"].split(",")


async def test_an_unexpected_fault_in_a_worker_fails_the_write_and_ends_nothing_else(rig: Rig) -> None:
    _, b, _ = await rig.three()
    b.replicas.write_failure = ZeroDivisionError("a bug")
    with pytest.raises(ReplicaFailed) as failure:
        await rig.put(b"data")
    assert failure.value.details["servers"] == "b"
    b.replicas.write_failure = None
    await rig.grant(2, "b", "a", "c")
    assert (await rig.put(b"data", version=2, to="bac")).serial == 1


async def test_requests_outside_their_bounds_are_refused(rig: Rig) -> None:
    a, _, _ = await rig.three()
    push = rig.push(b"data", 0)
    for offset, length in (
        (CHUNK_BYTES - 3, 4),
        (-1, 4),
        (0, 0),
        (0, -4),
        (0, PUSH_BYTES_MAX + 1),
        (2**62, 4),
    ):
        with pytest.raises(InvalidArgument):
            await rig.write(push, length, offset)
    for offset, length in ((1, 4), (0, 3)):  # not what was pushed
        with pytest.raises(InvalidArgument):
            await rig.write(push, length, offset)
    with pytest.raises(InvalidArgument):
        await rig.ask("b", apply_mutation(0, push, 4), Ack)
    with pytest.raises(NotPrimary) as refusal:
        await rig.write(push, 4, to="b")
    assert refusal.value.details["primary"] == "a"
    for version in (0, 2):
        with pytest.raises(StaleVersion):
            await rig.write(push, 4, version=version)
    unknown = WriteChunk(
        handle=HANDLE + 1,
        version=V1,
        offset_bytes=0,
        length_bytes=4,
        push=push,  # type: ignore[arg-type]
    )
    with pytest.raises(NotFound):
        await rig.ask("a", unknown, WriteReply)
    assert (await rig.write(push, 4)).serial == 1  # nothing of all that was ordered
    assert a.content(V1) == b"data"


async def test_a_chunk_can_be_filled_to_its_very_end(rig: Rig) -> None:
    (a,) = rig.start("a")
    await rig.grant(1, "a", create=True)
    reply = await rig.put(b"end", CHUNK_BYTES - 3, to="a")
    assert reply.length_bytes == CHUNK_BYTES
    assert a.replicas.committed_length(HANDLE, V1) == CHUNK_BYTES


async def test_large_pieces_are_not_copied_by_the_service(rig: Rig) -> None:
    (a,) = rig.start("a")
    await rig.grant(1, "a", create=True)
    push = rig.push(b"z" * (4 * MIB), to="a")
    seen: list[object] = []
    inner = a.replicas._inner

    class Recording:
        write_failure = None

        def write(self, handle, version, offset, data, checksums=None, records=()):  # type: ignore[no-untyped-def]
            seen.append((type(data), tuple(checksums)))
            return inner.write(handle, version, offset, data, checksums, records)

    a.service._writer._replicas = Recording()
    await rig.write(push, 4 * MIB, to="a")
    ((kind, checksums),) = seen
    assert kind is memoryview and len(checksums) == 64  # the pushed memory itself, already summed


async def test_stopping_lets_ordered_writes_end_and_takes_no_more(rig: Rig) -> None:
    nodes = await rig.three()
    rig.network.delay("a", "b", 0.1)
    write = asyncio.ensure_future(rig.put(b"last"))
    await settle()
    stopping = asyncio.ensure_future(nodes[0].service.stop())
    await settle()
    with pytest.raises(Unavailable):
        await rig.put(b"more", 4)
    assert not stopping.done()
    await rig.clock.advance(0.3)
    await stopping
    assert (await write).serial == 1
