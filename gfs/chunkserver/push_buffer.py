"""The push buffer: pushed pieces that wait for the order to use them (GFS §3.1). No sockets, no chunks.

An LRU with a limit on bytes and on age. Memory is recycled by size class, because the first touch of
fresh memory costs more than receiving into it.
"""

from __future__ import annotations

import mmap
import threading
from collections import OrderedDict
from collections.abc import Sequence

from gfs.clock import Clock
from gfs.errors import Overloaded, PushMissing
from gfs.settings import PUSH_BYTES_MAX
from gfs.vocabulary import KIB, MIB, PushId

SLOT_BYTES_MIN = 64 * KIB
HUGE_PAGE_BYTES = 2 * MIB
assert SLOT_BYTES_MIN & (SLOT_BYTES_MIN - 1) == 0  # slots are powers of two


class Reservation:
    """Memory for one piece that is being received. `memory` is exactly the piece's length."""

    __slots__ = ("_slot", "memory", "offset", "push_id")

    def __init__(self, push_id: PushId, offset: int, memory: memoryview, slot: mmap.mmap) -> None:
        self.push_id, self.offset, self.memory = push_id, offset, memory
        self._slot: mmap.mmap | None = slot


class Pushed:
    """One whole piece. `data` is valid from take() to release(); `checksums`: CRC32C per touched block."""

    __slots__ = ("_forgotten", "_slot", "_takers", "_used_at", "checksums", "data", "offset", "push_id")

    def __init__(
        self,
        push_id: PushId,
        offset: int,
        data: memoryview,
        checksums: Sequence[int],
        slot: mmap.mmap,
        now: float,
    ) -> None:
        self.push_id, self.offset, self.data, self.checksums = push_id, offset, data, tuple(checksums)
        self._slot, self._used_at, self._takers, self._forgotten = slot, now, 0, False


class PushBuffer:
    """Holds pushed pieces by push id, from any thread.

    Invariants:
    - memory held, in use or kept for reuse, is at most `bytes_max`;
    - memory that a reservation or a taker can see belongs to no other piece.
    Source: GFS §3.1 ("an internal LRU buffer cache until the data is used or aged out").
    """

    def __init__(self, bytes_max: int, seconds_max: float, clock: Clock) -> None:
        assert bytes_max > 0 and seconds_max > 0, (bytes_max, seconds_max)
        self._bytes_max, self._seconds_max, self._clock = bytes_max, seconds_max, clock
        self._lock = threading.Lock()
        self._pieces: OrderedDict[PushId, Pushed] = OrderedDict()  # least recently used first
        self._free: dict[int, list[mmap.mmap]] = {}  # by slot bytes; the last one is the hottest
        self._held_bytes = 0  # all slots, free or not
        self._free_bytes = 0

    @property
    def used_bytes(self) -> int:
        """Bytes of memory taken by pieces, whole or being received."""
        with self._lock:
            return self._held_bytes - self._free_bytes

    def reserve(self, push_id: PushId, length: int, offset: int) -> Reservation:
        """Memory to receive `length` bytes into, that will go to `offset` of a chunk.

        The least recently used pieces that nobody has taken give way. End with complete() or cancel().
        Raises: Overloaded when all memory is being received into or taken.
        """
        assert 0 < length <= PUSH_BYTES_MAX, length
        slot_bytes = max(SLOT_BYTES_MIN, 1 << (length - 1).bit_length())
        with self._lock:
            self._drop_old()
            slot = self._find_slot(slot_bytes)
        return Reservation(push_id, offset, memoryview(slot)[:length], slot)

    def complete(self, reservation: Reservation, checksums: Sequence[int]) -> None:
        """The bytes are all there and may be taken. A piece of the same id is replaced."""
        with self._lock:
            slot, reservation._slot = reservation._slot, None
            assert slot is not None  # a reservation ends once
            self._forget(reservation.push_id)
            self._pieces[reservation.push_id] = Pushed(
                reservation.push_id,
                reservation.offset,
                reservation.memory,
                checksums,
                slot,
                self._clock.monotonic(),
            )

    def cancel(self, reservation: Reservation) -> None:
        """Nothing is kept. No effect on a reservation that has ended."""
        with self._lock:
            slot, reservation._slot = reservation._slot, None
            if slot is not None:
                self._recycle(slot, reservation.memory)

    def take(self, push_id: PushId) -> Pushed:
        """The piece, pinned until release(); a retried write may take it a second time meanwhile.

        Raises: PushMissing when it never came whole, was used, aged out or gave way to others.
        """
        with self._lock:
            self._drop_old()
            piece = self._pieces.get(push_id)
            if piece is None:
                raise PushMissing(f"push {push_id} is not, or no longer, in the push buffer")
            piece._takers += 1
            self._touch(piece)
            return piece

    def release(self, piece: Pushed, *, used: bool) -> None:
        """End one take(). `used`: the bytes are in their chunk, forget them; else keep them for a retry."""
        with self._lock:
            assert piece._takers > 0, piece.push_id
            piece._takers -= 1
            if piece._forgotten:
                if piece._takers == 0:
                    self._recycle(piece._slot, piece.data)
            elif used:
                self._forget(piece.push_id)
            else:
                self._touch(piece)

    def drop_old(self) -> None:
        """Forget pieces nobody asked for in time. reserve() and take() do so too."""
        with self._lock:
            self._drop_old()

    def check_invariants(self) -> None:
        """For tests: every byte of memory is accounted for once."""
        with self._lock:
            free = [slot for slots in self._free.values() for slot in slots]
            slots = [*free, *(piece._slot for piece in self._pieces.values())]
            assert len({id(slot) for slot in slots}) == len(slots)
            assert self._free_bytes == sum(map(len, free))
            assert sum(map(len, slots)) <= self._held_bytes <= self._bytes_max
            ages = [piece._used_at for piece in self._pieces.values()]
            assert ages == sorted(ages)

    def _touch(self, piece: Pushed) -> None:
        piece._used_at = self._clock.monotonic()
        self._pieces.move_to_end(piece.push_id)

    def _drop_old(self) -> None:
        oldest_allowed = self._clock.monotonic() - self._seconds_max
        while self._pieces:
            piece = next(iter(self._pieces.values()))
            if piece._used_at >= oldest_allowed:
                return
            self._forget(piece.push_id)

    def _forget(self, push_id: PushId) -> None:
        piece = self._pieces.pop(push_id, None)
        if piece is None:
            return
        piece._forgotten = True
        if piece._takers == 0:
            self._recycle(piece._slot, piece.data)

    def _recycle(self, slot: mmap.mmap, view: memoryview) -> None:
        # Whoever still holds the view gets an error instead of the bytes of another piece.
        view.release()
        self._free.setdefault(len(slot), []).append(slot)
        self._free_bytes += len(slot)

    def _find_slot(self, slot_bytes: int) -> mmap.mmap:
        while True:
            fitting = self._free.get(slot_bytes)
            if fitting:
                self._free_bytes -= slot_bytes
                return fitting.pop()
            if self._held_bytes + slot_bytes <= self._bytes_max:
                self._held_bytes += slot_bytes
                return _fresh_slot(slot_bytes)
            if not self._give_back_slot() and not self._evict():
                raise Overloaded(
                    f"all {self._bytes_max} bytes of the push buffer are in use",
                    hint="Send fewer pieces at a time, or raise chunkserver.push_buffer_bytes.",
                )

    def _give_back_slot(self) -> bool:
        """Return one unused slot of another class to the system, the largest first."""
        for size in sorted(self._free, reverse=True):
            if self._free[size]:
                self._free[size].pop()
                self._free_bytes -= size
                self._held_bytes -= size
                return True
        return False

    def _evict(self) -> bool:
        for push_id, piece in self._pieces.items():
            if piece._takers == 0:
                self._forget(push_id)
                return True
        return False


def _fresh_slot(slot_bytes: int) -> mmap.mmap:
    # Private, because shared anonymous memory is tmpfs: small pages, and slower to fill.
    slot = mmap.mmap(-1, slot_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if slot_bytes >= HUGE_PAGE_BYTES:
        try:
            slot.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass  # a kernel without huge pages: only speed is lost
    return slot
