"""Which identified records a chunk holds: what makes record append exactly once (I9, GFS §3.3). No I/O.

Each replica keeps such a window with the chunk's header, changed by the same journal record as the length:
it tells of exactly the bytes that are committed. A primary asks it before it orders a repeated append, a
client asks it after a seal.

Why that is enough. All replicas of a version begin it equally long, with the records below that length (cut()
forgets the others together with their bytes), and apply the same mutations. So whoever is primary finds a
record of an earlier try if and only if its bytes are below the common length, hence on every replica; and one
that is not found was cut off everywhere or never came, and may be ordered anew. Windows of one set may differ
only in what they have forgotten, and where that could matter they answer RecordForgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from gfs.errors import InvalidArgument, RecordForgotten
from gfs.messages.replicas import AppendedRecord
from gfs.settings import RECORDS_REMEMBERED_MAX
from gfs.vocabulary import CHUNK_BYTES, ClientId

RECORDS_FORGOTTEN_AT_ONCE = RECORDS_REMEMBERED_MAX // 8  # so that finding the oldest ones is rarely done


class RecordPlace(NamedTuple):
    offset_bytes: int
    length_bytes: int

    @property
    def end_bytes(self) -> int:
        return self.offset_bytes + self.length_bytes


class _ClientRecords:
    __slots__ = ("places", "settled_below")

    def __init__(self) -> None:
        self.settled_below = 0
        self.places: dict[int, RecordPlace] = {}  # by sequence, in the order they came


class AppendWindow:
    """The records of one chunk whose clients may still ask for them.

    Invariants:
        a record that ends behind `forgotten_bytes` and that its client has not settled is known;
        at most RECORDS_REMEMBERED_MAX are known, each within the chunk; no client is known without a record.
    """

    def __init__(self) -> None:
        self._clients: dict[ClientId, _ClientRecords] = {}
        self._count = 0
        self._reached = 0  # where the last record ever noted ended, and was not cut off
        self.forgotten_bytes = 0

    def __len__(self) -> int:
        return self._count

    def find(
        self, client: ClientId, sequence: int, *, repeated: bool, not_before: int = 0
    ) -> RecordPlace | None:
        """Where the record is; None when it is not in the chunk.

        Args:
            repeated: it may have come before. A first try can only be unknown.
            not_before: earlier tries cannot have got a lower offset.
        Raises:
            RecordForgotten: it may be among those that are forgotten.
            InvalidArgument: its client has said that it would not come back to it.
        """
        records = self._clients.get(client)
        if records is not None:
            place = records.places.get(sequence)
            if place is not None:
                return place
            if sequence < records.settled_below:
                raise InvalidArgument(f"record {sequence} of client {client:x} was settled long ago")
        if repeated and not_before < self.forgotten_bytes:
            raise RecordForgotten(
                f"whether record {sequence} of client {client:x} was appended is forgotten: of the chunk's "
                f"first {self.forgotten_bytes} bytes not all records are remembered",
            )
        return None

    def note(self, records: Sequence[AppendedRecord], *, end_bytes: int) -> None:
        """These records are in the chunk, behind each other, up to `end_bytes`."""
        offset = end_bytes - sum([record.length_bytes for record in records])
        assert 0 <= offset <= end_bytes <= CHUNK_BYTES, (offset, end_bytes)
        for record in records:
            if record.client:
                self._note(record, RecordPlace(offset, record.length_bytes))
            offset += record.length_bytes
        self._reached = max(self._reached, end_bytes)
        if self._count > RECORDS_REMEMBERED_MAX:
            self._forget_oldest()

    def cut(self, length_bytes: int) -> None:
        """The chunk was cut to `length_bytes`: records that are not whole below it are gone."""
        if length_bytes >= self._reached:
            return
        self._reached = length_bytes
        self.forgotten_bytes = min(self.forgotten_bytes, length_bytes)
        for client, records in list(self._clients.items()):
            for sequence, place in list(records.places.items()):
                if place.end_bytes > length_bytes:
                    self._drop(client, sequence)

    def copy(self) -> AppendWindow:
        return decode_window(encode_window(self))

    def check_invariants(self) -> None:
        assert self._count == sum(len(records.places) for records in self._clients.values())
        assert self._count <= RECORDS_REMEMBERED_MAX
        assert 0 <= self.forgotten_bytes <= self._reached <= CHUNK_BYTES
        for client, records in self._clients.items():
            assert client and records.places
            assert all(0 <= p.offset_bytes < p.end_bytes <= self._reached for p in records.places.values())

    def _note(self, record: AppendedRecord, place: RecordPlace) -> None:
        records = self._clients.get(record.client)
        if records is None:
            records = self._clients[record.client] = _ClientRecords()
        records.settled_below = max(records.settled_below, record.settled_below)
        # One that came out of turn stays until those before it go: a client has few under way at a time.
        while records.places and (oldest := next(iter(records.places))) < records.settled_below:
            del records.places[oldest]
            self._count -= 1
        # Known already only when the primary had forgotten it, and was told that this is its first try.
        self._count += record.sequence not in records.places
        records.places[record.sequence] = place

    def _drop(self, client: ClientId, sequence: int) -> None:
        records = self._clients[client]
        del records.places[sequence]
        self._count -= 1
        if not records.places:
            del self._clients[client]

    def _forget_oldest(self) -> None:
        known = [
            (place.end_bytes, client, sequence)
            for client, records in self._clients.items()
            for sequence, place in records.places.items()
        ]
        known.sort()
        for end_bytes, client, sequence in known[
            : max(RECORDS_FORGOTTEN_AT_ONCE, len(known) - RECORDS_REMEMBERED_MAX)
        ]:
            self._drop(client, sequence)
            self.forgotten_bytes = max(self.forgotten_bytes, end_bytes)


class _StoredClient(msgspec.Struct, frozen=True, array_like=True):
    client: ClientId
    settled_below: int
    records: list[tuple[int, int, int]]  # sequence, offset, length


class _StoredWindow(msgspec.Struct, frozen=True, array_like=True):
    forgotten_bytes: int
    clients: list[_StoredClient]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_StoredWindow).decode


NO_RECORDS = _encode(_StoredWindow(0, []))  # a window that knows none, said aloud: it replaces another


def encode_window(window: AppendWindow) -> bytes:
    """Bytes for the disk and for a copy of the chunk; empty for a window that has never known a record."""
    if not window._count and not window.forgotten_bytes:
        return b""
    clients = [
        _StoredClient(
            client,
            records.settled_below,
            [
                (sequence, place.offset_bytes, place.length_bytes)
                for sequence, place in records.places.items()
            ],
        )
        for client, records in window._clients.items()
    ]
    return _encode(_StoredWindow(window.forgotten_bytes, clients))


def decode_window(content: bytes) -> AppendWindow:
    """Raises: msgspec.MsgspecError for bytes that are no window."""
    window = AppendWindow()
    if not content:
        return window
    stored = _decode(content)
    window.forgotten_bytes = window._reached = stored.forgotten_bytes
    for item in stored.clients:
        records = window._clients[item.client] = _ClientRecords()
        records.settled_below = item.settled_below
        for sequence, offset_bytes, length_bytes in item.records:
            records.places[sequence] = RecordPlace(offset_bytes, length_bytes)
            window._count += 1
            window._reached = max(window._reached, offset_bytes + length_bytes)
    return window
