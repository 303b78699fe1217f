"""The push buffer: bounded, recycled, least recently used first (GFS §3.1)."""

from __future__ import annotations

import random
import threading

import pytest

from gfs.chunkserver.push_buffer import SLOT_BYTES_MIN, PushBuffer, Pushed
from gfs.errors import Overloaded, PushMissing
from gfs.settings import PUSH_BYTES_MAX
from gfs.vocabulary import PushId
from tests.fakes.clock import VirtualClock
from tests.paper.boxes import keeps

SLOT = SLOT_BYTES_MIN


def fill(buffer: PushBuffer, name: str, content: bytes, offset: int = 0) -> None:
    reservation = buffer.reserve(PushId(name), len(content), offset)
    reservation.memory[:] = content
    buffer.complete(reservation, [len(content)])


def new_buffer(slots: int = 4, clock: VirtualClock | None = None) -> PushBuffer:
    return PushBuffer(slots * SLOT, 60.0, clock or VirtualClock())


def holds(buffer: PushBuffer, name: str) -> bool:
    try:
        buffer.release(buffer.take(PushId(name)), used=False)
    except PushMissing:
        return False
    return True


def test_a_completed_piece_is_taken_as_it_was_received() -> None:
    buffer = new_buffer()
    fill(buffer, "a", b"hello", offset=70_000)
    piece = buffer.take(PushId("a"))
    assert (bytes(piece.data), piece.offset, piece.checksums) == (b"hello", 70_000, (5,))


def test_a_piece_is_missing_until_it_is_complete() -> None:
    buffer = new_buffer()
    reservation = buffer.reserve(PushId("a"), 5, 0)
    with pytest.raises(PushMissing):
        buffer.take(PushId("a"))
    buffer.complete(reservation, [])
    assert holds(buffer, "a")


def test_a_piece_may_be_taken_twice_and_again_until_it_was_used() -> None:
    buffer = new_buffer()
    fill(buffer, "a", b"hello")
    first, second = buffer.take(PushId("a")), buffer.take(PushId("a"))
    buffer.release(first, used=False)
    assert bytes(second.data) == b"hello"
    buffer.release(second, used=True)
    assert not holds(buffer, "a")


def test_a_piece_used_by_one_taker_stays_readable_to_the_other() -> None:
    buffer = new_buffer(slots=1)
    fill(buffer, "a", b"hello")
    first, second = buffer.take(PushId("a")), buffer.take(PushId("a"))
    buffer.release(first, used=True)
    assert bytes(second.data) == b"hello"
    with pytest.raises(Overloaded):  # its memory is given to nobody else
        buffer.reserve(PushId("b"), 5, 0)
    buffer.release(second, used=True)
    fill(buffer, "b", b"world")


def test_memory_that_was_recycled_cannot_be_read_through_an_old_view() -> None:
    buffer = new_buffer()
    fill(buffer, "a", b"hello")
    piece = buffer.take(PushId("a"))
    buffer.release(piece, used=True)
    with pytest.raises(ValueError, match="released"):
        bytes(piece.data)


@keeps("push-buffer")
def test_the_least_recently_used_piece_gives_way() -> None:
    buffer = new_buffer(slots=2)
    fill(buffer, "a", b"a")
    fill(buffer, "b", b"b")
    assert holds(buffer, "a")  # which also touches it
    fill(buffer, "c", b"c")
    assert [holds(buffer, name) for name in "abc"] == [True, False, True]


def test_a_reservation_is_refused_when_everything_is_in_use() -> None:
    buffer = new_buffer(slots=2)
    fill(buffer, "a", b"a")
    taken = buffer.take(PushId("a"))
    receiving = buffer.reserve(PushId("b"), 1, 0)
    with pytest.raises(Overloaded):
        buffer.reserve(PushId("c"), 1, 0)
    buffer.cancel(receiving)
    buffer.reserve(PushId("c"), 1, 0)
    assert bytes(taken.data) == b"a"


def test_small_slots_make_room_for_a_large_piece() -> None:
    buffer = new_buffer(slots=4)
    for name in "abcd":
        fill(buffer, name, name.encode())
    fill(buffer, "large", b"x" * (3 * SLOT))
    assert [holds(buffer, name) for name in "abcd"] == [False] * 4
    assert holds(buffer, "large")
    buffer.check_invariants()


def test_a_piece_larger_than_the_buffer_is_refused() -> None:
    with pytest.raises(Overloaded):
        new_buffer(slots=2).reserve(PushId("a"), 3 * SLOT, 0)


@keeps("push-buffer")
async def test_pieces_nobody_ordered_age_out() -> None:
    clock = VirtualClock()
    buffer = new_buffer(clock=clock)
    fill(buffer, "old", b"old")
    await clock.advance(59.0)
    fill(buffer, "new", b"new")
    await clock.advance(2.0)
    buffer.drop_old()
    assert buffer.used_bytes == SLOT
    assert [holds(buffer, name) for name in ("old", "new")] == [False, True]


async def test_a_piece_that_ages_out_while_taken_stays_readable() -> None:
    clock = VirtualClock()
    buffer = new_buffer(clock=clock)
    fill(buffer, "a", b"hello")
    piece = buffer.take(PushId("a"))
    await clock.advance(61.0)
    buffer.drop_old()
    assert bytes(piece.data) == b"hello"
    buffer.release(piece, used=True)
    assert buffer.used_bytes == 0


def test_a_repeated_push_replaces_the_piece_but_not_under_its_taker() -> None:
    buffer = new_buffer()
    fill(buffer, "a", b"first")
    piece = buffer.take(PushId("a"))
    fill(buffer, "a", b"again")
    assert bytes(piece.data) == b"first"
    buffer.release(piece, used=True)  # speaks of the old piece: the new one stays
    assert bytes(buffer.take(PushId("a")).data) == b"again"


def test_memory_is_recycled_not_allocated_anew() -> None:
    buffer = new_buffer(slots=1)
    for turn in range(50):
        fill(buffer, f"p{turn}", bytes([turn]) * SLOT)
        piece = buffer.take(PushId(f"p{turn}"))
        assert bytes(piece.data[:2]) == bytes([turn]) * 2
        buffer.release(piece, used=True)
    buffer.check_invariants()
    assert buffer.used_bytes == 0


def test_cancelling_after_the_end_does_nothing() -> None:
    buffer = new_buffer()
    reservation = buffer.reserve(PushId("a"), 5, 0)
    reservation.memory[:] = b"hello"
    buffer.complete(reservation, [])
    buffer.cancel(reservation)
    assert bytes(buffer.take(PushId("a")).data) == b"hello"


@pytest.mark.parametrize("seed", range(4))
def test_no_piece_ever_shows_the_bytes_of_another(seed: int) -> None:
    """Threads receive, take and release at random; every view shows its own piece's bytes throughout."""
    buffer = PushBuffer(12 * SLOT, 60.0, VirtualClock())
    faults: list[str] = []

    def worker(number: int) -> None:
        rng = random.Random(f"{seed}-{number}")
        taken: list[Pushed] = []
        for turn in range(300):
            name = f"{rng.randrange(8)}"
            mark = int(name) + 1
            try:
                match rng.randrange(4):
                    case 0 | 1:
                        reservation = buffer.reserve(PushId(name), rng.choice([1, SLOT, 2 * SLOT]), mark)
                        reservation.memory[:] = bytes([mark]) * len(reservation.memory)
                        if rng.random() < 0.9:
                            buffer.complete(reservation, [])
                        else:
                            buffer.cancel(reservation)
                    case 2:
                        taken.append(buffer.take(PushId(name)))
                    case _:
                        if taken:
                            buffer.release(taken.pop(0), used=rng.random() < 0.5)
            except PushMissing:
                pass
            except Overloaded:
                pass  # the others hold it all
            if len(taken) > 2:
                buffer.release(taken.pop(), used=False)
            for piece in taken:
                if piece.data[0] != piece.offset or piece.data[-1] != piece.offset:
                    faults.append(f"seed {seed}, worker {number}, turn {turn}: {piece.push_id}")
        for piece in taken:
            buffer.release(piece, used=False)

    workers = [threading.Thread(target=worker, args=(number,)) for number in range(3)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    assert not faults
    buffer.check_invariants()


def test_the_largest_push_fits_one_slot() -> None:
    buffer = PushBuffer(PUSH_BYTES_MAX, 60.0, VirtualClock())
    assert len(buffer.reserve(PushId("a"), PUSH_BYTES_MAX, 0).memory) == PUSH_BYTES_MAX
