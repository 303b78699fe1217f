"""Framed records: how one is written, and found among padding, fragments and garbage (GFS §2.7.2).

    +--------+----------------+-----------+-------------------+------------------+---------
    | "GFR1" | payload length | id (16 B) | CRC32C of payload | CRC32C of header | payload
    +--------+----------------+-----------+-------------------+------------------+---------
    numbers are u32, little-endian

No I/O: a RecordScanner is fed with a file's bytes in order, and says which of them are records. A fragment of
a record whose payload itself holds framed records may show those: who stores such payloads escapes the mark.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from gfs.checksums import crc32c
from gfs.errors import InvalidArgument
from gfs.settings import APPEND_BYTES_MAX
from gfs.vocabulary import CHUNK_BYTES

MARK = b"GFR1"
RECORD_ID_BYTES = 16
_HEAD = struct.Struct(f"<4sI{RECORD_ID_BYTES}sI")
_SUM = struct.Struct("<I")
FRAME_BYTES = _HEAD.size + _SUM.size
PAYLOAD_BYTES_MAX = APPEND_BYTES_MAX - FRAME_BYTES
assert PAYLOAD_BYTES_MAX > 0


@dataclass(frozen=True, slots=True)
class FramedRecord:
    """A record that verifies. `offset_bytes` is where its frame begins in the file."""

    offset_bytes: int
    id: bytes
    payload: bytes

    @property
    def end_bytes(self) -> int:
        return self.offset_bytes + FRAME_BYTES + len(self.payload)


def frame(payload: bytes | bytearray | memoryview, id: bytes) -> bytes:
    """The bytes to append for one record. `id` is its own, kept when it is appended again.

    Raises: InvalidArgument when the payload is longer than a record can be.
    """
    assert len(id) == RECORD_ID_BYTES, id
    length = len(payload)
    if length > PAYLOAD_BYTES_MAX:
        raise InvalidArgument(
            f"a record of {length} bytes: at most {PAYLOAD_BYTES_MAX} fit into one",
            hint="Cut it into several records, or write it to a file of its own and append its path.",
        )
    head = _HEAD.pack(MARK, length, id, crc32c(payload))
    return b"".join((head, _SUM.pack(crc32c(head)), payload))


class RecordScanner:
    """Finds records in bytes that come piece by piece, from a chunk's start or from any place in it.

    Invariants: all before `position` is decided, as records or as none; no record crosses a chunk's end.
    """

    def __init__(self, offset_bytes: int = 0) -> None:
        self.position = offset_bytes
        self._pending = bytearray()
        self._at = 0  # of `position` within the pending bytes

    @property
    def end_bytes(self) -> int:
        """Where the bytes to feed next begin in the file."""
        return self.position + len(self._pending) - self._at

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """The bytes from `end_bytes` on."""
        if self._at:
            del self._pending[: self._at]
            self._at = 0
        self._pending += data

    def next(self, *, is_all: bool = False) -> FramedRecord | None:
        """The next record; None when more bytes must be fed first.

        `is_all`: no more bytes follow before skip_to(), so what is not whole by now is a fragment.
        """
        while True:
            mark = self._pending.find(MARK, self._at)
            if mark < 0:
                # The end may hold the beginning of a mark.
                self._decide(max(self._at, len(self._pending) - (0 if is_all else len(MARK) - 1)))
                return None
            self._decide(mark)
            found = self._record_here()
            if isinstance(found, FramedRecord):
                self._decide(self._at + FRAME_BYTES + len(found.payload))
                return found
            if found is None and not is_all:
                return None
            self._decide(mark + 1)

    def skip_to(self, offset_bytes: int) -> None:
        """Nothing before `offset_bytes` is a record: the chunk ends before, or has a hole."""
        assert offset_bytes >= self.position, (offset_bytes, self.position)
        self._pending.clear()
        self._at, self.position = 0, offset_bytes

    def _decide(self, at: int) -> None:
        self.position += at - self._at
        self._at = at

    def _record_here(self) -> FramedRecord | bool | None:
        """The record at `position`; False when there is none, None when more bytes must tell."""
        if len(self._pending) - self._at < FRAME_BYTES:
            return None
        with memoryview(self._pending) as view:
            head = view[self._at : self._at + _HEAD.size]
            _, length, id, payload_sum = _HEAD.unpack(head)
            (head_sum,) = _SUM.unpack_from(view, self._at + _HEAD.size)
            is_head = crc32c(head) == head_sum and length <= PAYLOAD_BYTES_MAX
            head.release()
            if not is_head or self.position % CHUNK_BYTES + FRAME_BYTES + length > CHUNK_BYTES:
                return False
            start = self._at + FRAME_BYTES
            if len(view) - start < length:
                return None
            payload = bytes(view[start : start + length])
        return FramedRecord(self.position, id, payload) if crc32c(payload) == payload_sum else False
