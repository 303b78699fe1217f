"""Bytes that say who wrote them: records with an id, and cells that carry a write's tag. No cluster here.

    record  "GVR1" | client u32 | sequence u32 | payload length u32 | CRC32C of all others | payload
    cell    "GVC1" | tag u32 ; a write's bytes are its cell, again and again

Numbers are little-endian. A framed record (client/core/record_framing) has one of ours as its payload.
"""

from __future__ import annotations

import random
import struct
from typing import NamedTuple

from gfs.checksums import crc32c
from gfs.client.core.record_framing import FRAME_BYTES
from gfs.client.core.record_framing import MARK as FRAME_MARK

RECORD_BEGINS = b"GVR1"
_HEAD = struct.Struct("<4sIII")
_SUM = struct.Struct("<I")
RECORD_HEAD_BYTES = _HEAD.size + _SUM.size
_FRAME_LENGTH = struct.Struct("<4sI")

CELL_BEGINS = b"GVC1"
_CELL = struct.Struct("<4sI")
CELL_BYTES = _CELL.size
_ZEROS = bytes(CELL_BYTES)
_MANY_ZEROS = bytes(2**20)

Spans = list[tuple[int, int, int]]  # offset, length, tag; 0: zeros; -1: bytes that carry no tag


class MarkedRecord(NamedTuple):
    """As it was found: where, whose, and the length and CRC32C of our bytes (without a frame)."""

    offset: int
    id: str
    length: int
    crc: int


class FoundRecords(NamedTuple):
    records: list[MarkedRecord]
    strange: list[tuple[int, int]]  # offset, length: neither zeros nor part of a record


def record_id(client: int, sequence: int) -> str:
    return f"{client:x}.{sequence}"


def make_record(client: int, sequence: int, payload_bytes: int, chance: random.Random) -> bytes:
    payload = chance.randbytes(payload_bytes)
    head = _HEAD.pack(RECORD_BEGINS, client, sequence, payload_bytes)
    return head + _SUM.pack(crc32c(head + payload)) + payload


def find_records(data: bytes, start: int = 0) -> FoundRecords:
    """All records in `data`, whose first byte is at `start` of the file."""
    found: list[MarkedRecord] = []
    strange: list[tuple[int, int]] = []
    at = 0
    while at < len(data):
        if data[at] == 0:
            at = _zeros_end(data, at)
            continue
        framed = data.startswith(FRAME_MARK, at)
        record = _record_at(data, at + (FRAME_BYTES if framed else 0))
        if framed and record is not None:
            # The frame must be this record's, and not that of one which was overwritten.
            (_, payload_bytes) = _FRAME_LENGTH.unpack_from(data, at)
            record = record if payload_bytes == record.length else None
        if record is None:
            end = _next_mark(data, at + 1)
            strange.append((start + at, end - at))
            at = end
            continue
        found.append(record._replace(offset=start + at))
        at += record.length + (FRAME_BYTES if framed else 0)
    return FoundRecords(found, strange)


def _record_at(data: bytes, at: int) -> MarkedRecord | None:
    if not data.startswith(RECORD_BEGINS, at) or at + RECORD_HEAD_BYTES > len(data):
        return None
    _, client, sequence, payload_bytes = _HEAD.unpack_from(data, at)
    (expected,) = _SUM.unpack_from(data, at + _HEAD.size)
    end = at + RECORD_HEAD_BYTES + payload_bytes
    if end > len(data):
        return None
    if crc32c(data[at : at + _HEAD.size] + data[at + RECORD_HEAD_BYTES : end]) != expected:
        return None
    return MarkedRecord(at, record_id(client, sequence), end - at, crc32c(data[at:end]))


def _next_mark(data: bytes, at: int) -> int:
    places = [place for mark in (RECORD_BEGINS, FRAME_MARK) if (place := data.find(mark, at)) >= 0]
    return min(places, default=len(data))


def _zeros_end(data: bytes, at: int) -> int:
    # Compared, not copied: holes are long.
    while data.startswith(_MANY_ZEROS, at):
        at += len(_MANY_ZEROS)
    step = 4096
    while at < len(data):
        part = data[at : at + step]
        rest = part.lstrip(b"\0")
        if rest:
            return at + len(part) - len(rest)
        at += len(part)
        step = min(2 * step, 2**20)
    return at


def make_cells(tag: int, length: int) -> bytes:
    """The bytes of a write; `length` is a multiple of CELL_BYTES."""
    assert tag > 0 and length % CELL_BYTES == 0, (tag, length)
    return _CELL.pack(CELL_BEGINS, tag) * (length // CELL_BYTES)


def find_spans(data: bytes, start: int = 0) -> Spans:
    """Whose cells `data` is made of; its first byte is at `start` of the file, a multiple of CELL_BYTES."""
    assert start % CELL_BYTES == 0, start
    spans: Spans = []
    at = 0
    while at < len(data):
        cell = data[at : at + CELL_BYTES]
        tag = _tag_of(cell)
        end = _zeros_end(data, at) // CELL_BYTES * CELL_BYTES if tag == 0 else _same_end(data, at, cell)
        end = min(max(end, at + CELL_BYTES), len(data))
        if spans and spans[-1][2] == tag and (tag <= 0 or len(cell) == CELL_BYTES):
            spans[-1] = (spans[-1][0], spans[-1][1] + end - at, tag)
        else:
            spans.append((start + at, end - at, tag))
        at = end
    return spans


def _tag_of(cell: bytes) -> int:
    if cell == _ZEROS[: len(cell)]:
        return 0
    if len(cell) < CELL_BYTES or not cell.startswith(CELL_BEGINS):
        return -1
    tag: int = _CELL.unpack(cell)[1]
    return tag or -1


def _same_end(data: bytes, at: int, cell: bytes) -> int:
    """Where the run of equal cells that begins at `at` ends."""
    run = cell * 512
    while data.startswith(run, at):
        at += len(run)
    while data.startswith(cell, at) and len(cell) == CELL_BYTES:
        at += CELL_BYTES
    return at
