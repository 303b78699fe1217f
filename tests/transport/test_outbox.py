"""Frames gathered into messages: order, size, back-pressure, and senders that are cancelled."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from gfs.settings import SEND_QUEUE_BYTES_MAX
from gfs.transport.frames import COALESCE_BYTES_MAX, join_frames
from gfs.transport.outbox import Outbox


def frame(number: int, size: int = 10) -> bytes:
    return msgspec.msgpack.encode(f"{number}:".ljust(size, "."))


def numbers(message: bytes) -> list[int]:
    return [int(text.partition(":")[0]) for text in msgspec.msgpack.decode(message, type=list[str])]


class Peer:
    """Takes messages; while `reading` is clear, each send waits."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self.outbox = Outbox(self.send)

    async def send(self, message: bytes) -> None:
        self.messages.append(message)
        await self.reading.wait()


async def test_all_that_is_queued_goes_out_in_one_message_in_order() -> None:
    peer = Peer()
    for number in range(50):
        peer.outbox.put(frame(number))
    await peer.outbox.flush()
    assert [numbers(message) for message in peer.messages] == [list(range(50))]


async def test_large_frames_are_spread_over_messages_of_bounded_size() -> None:
    peer = Peer()
    sizes = [100, COALESCE_BYTES_MAX // 2, COALESCE_BYTES_MAX // 2, COALESCE_BYTES_MAX * 3, 100, 100]
    for number, size in enumerate(sizes):
        peer.outbox.put(frame(number, size))
    await peer.outbox.flush()
    assert [numbers(message) for message in peer.messages] == [[0, 1], [2], [3], [4, 5]]
    assert peer.outbox.queued_bytes == 0


async def test_waking_gathers_what_is_put_until_the_next_turn() -> None:
    peer = Peer()
    task = asyncio.create_task(peer.outbox.run())
    await asyncio.sleep(0)
    for number in range(3):
        peer.outbox.put(frame(number))
        peer.outbox.wake()
    assert peer.messages == []
    await asyncio.sleep(0)
    assert [numbers(message) for message in peer.messages] == [[0, 1, 2]]
    task.cancel()


async def test_while_the_peer_does_not_read_nothing_more_is_sent_and_room_is_waited_for() -> None:
    peer = Peer()
    peer.reading.clear()
    task = asyncio.create_task(peer.outbox.run())
    await asyncio.sleep(0)
    peer.outbox.put(frame(0))
    peer.outbox.wake()
    await asyncio.sleep(0)
    assert len(peer.messages) == 1
    peer.outbox.put(frame(1, SEND_QUEUE_BYTES_MAX + 1))
    peer.outbox.wake()
    room = asyncio.create_task(peer.outbox.room())
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(peer.messages) == 1
    assert not room.done()
    peer.reading.set()
    await asyncio.wait_for(room, 5)
    assert [numbers(message) for message in peer.messages] == [[0], [1]]
    task.cancel()


async def test_frames_a_cancelled_sender_leaves_behind_are_sent_by_the_next() -> None:
    peer = Peer()
    task = asyncio.create_task(peer.outbox.run())
    await asyncio.sleep(0)
    peer.reading.clear()
    peer.outbox.put(frame(0))
    impatient = asyncio.create_task(peer.outbox.flush())
    await asyncio.sleep(0)
    peer.outbox.put(frame(1))
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    peer.reading.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert [numbers(message) for message in peer.messages] == [[0], [1]]
    task.cancel()


async def test_an_abandoned_outbox_lets_go_whoever_waits_for_room() -> None:
    peer = Peer()
    peer.outbox.put(frame(0, SEND_QUEUE_BYTES_MAX + 1))
    room = asyncio.create_task(peer.outbox.room())
    await asyncio.sleep(0)
    assert not room.done()
    peer.outbox.abandon()
    await asyncio.wait_for(room, 5)
    assert peer.outbox.queued_bytes == 0


def test_an_empty_message_is_an_empty_array() -> None:
    assert msgspec.msgpack.decode(join_frames([])) == []
