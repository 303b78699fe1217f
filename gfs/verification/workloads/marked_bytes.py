"""Bytes that say whose they are: records for appends, cells for regions. How they are found again. Pure.

record:  "GFSREC01" | length of the whole | writer | sequence | filler … | CRC32C of all before it
cell:    tag | tag with all bits turned over            (8 bytes, at multiples of 8 in the file)
numbers are u32, big-endian
"""

from __future__ import annotations

import random
import re
import struct

from gfs.checksums import crc32c

FIRST_BYTES = b"GFSREC01"
_HEAD = struct.Struct(">8sIII")
_SUM = struct.Struct(">I")
RECORD_BYTES_MIN = _HEAD.size + _SUM.size
CELL_BYTES = 8
_CELL = struct.Struct(">II")
_NOT_ZERO = re.compile(rb"[^\0]")
_ALL_BITS = 0xFFFFFFFF

Found = tuple[int, str, int, int]  # offset, id, length, CRC32C of the whole
Span = tuple[int, int, int]  # offset, length, tag: 0 zeros, -1 no cell


def record(writer: int, sequence: int, length: int, chance: random.Random) -> bytes:
    assert length >= RECORD_BYTES_MIN
    head = _HEAD.pack(FIRST_BYTES, length, writer, sequence) + chance.randbytes(length - RECORD_BYTES_MIN)
    return head + _SUM.pack(crc32c(head))


def record_id(writer: int, sequence: int) -> str:
    return f"{writer}-{sequence}"


def records_in(data: bytes, first_offset: int) -> tuple[list[Found], list[tuple[int, int]]]:
    """The records of these bytes, in order, and what is neither zeros nor a record: [(offset, length), …]."""
    found: list[Found] = []
    strange: list[tuple[int, int]] = []
    position = 0
    while (match := _NOT_ZERO.search(data, position)) is not None:
        position = match.start()
        length = _record_at(data, position)
        if length:
            _, _, writer, sequence = _HEAD.unpack_from(data, position)
            crc = crc32c(data[position : position + length])
            found.append((first_offset + position, record_id(writer, sequence), length, crc))
            position += length
            continue
        following = data.find(FIRST_BYTES, position + 1)
        end = following if following >= 0 else len(data)
        strange.append((first_offset + position, end - position))
        position = end
    return found, strange


def _record_at(data: bytes, position: int) -> int:
    """Length of the whole record that begins here, or 0."""
    if position + RECORD_BYTES_MIN > len(data) or not data.startswith(FIRST_BYTES, position):
        return 0
    length = _HEAD.unpack_from(data, position)[1]
    end = position + length
    if length < RECORD_BYTES_MIN or end > len(data):
        return 0
    (told,) = _SUM.unpack_from(data, end - _SUM.size)
    return length if told == crc32c(data[position : end - _SUM.size]) else 0


def cells(tag: int, length: int) -> bytes:
    """`length` bytes, all of this tag."""
    assert length % CELL_BYTES == 0 and 0 < tag < _ALL_BITS
    return _CELL.pack(tag, tag ^ _ALL_BITS) * (length // CELL_BYTES)


def spans_in(data: bytes, first_offset: int) -> list[Span]:
    """What tag each byte carries, neighbours of one tag together."""
    spans: list[Span] = []
    for start in range(0, len(data), CELL_BYTES):
        cell = data[start : start + CELL_BYTES]
        tag = _tag_of(cell)
        if spans and spans[-1][2] == tag:
            offset, length, _ = spans[-1]
            spans[-1] = (offset, length + len(cell), tag)
        else:
            spans.append((first_offset + start, len(cell), tag))
    return spans


def _tag_of(cell: bytes) -> int:
    if not any(cell):
        return 0
    if len(cell) < CELL_BYTES:
        return -1
    tag, turned = _CELL.unpack(cell)
    return tag if tag ^ _ALL_BITS == turned else -1
