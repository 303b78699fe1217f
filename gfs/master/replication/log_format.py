"""The operation log's bytes: how a segment file is laid out and read back. No files, no decisions.

    segment  = header, record, record, …      all integers little-endian
    header   = "GFSOPLOG", u32 format version, u32 segment number
    record   = u32 body length, u32 CRC32C of the body (seeded with the segment number), body
    body     = u8 kind, u64 synced bytes, then by kind
               START     u64 index, u64 term   the entry this segment continues after; first in each
               ENTRY     u64 index, u64 term, payload
               VOTE      u64 term, name        as of now; no name: no vote in this term
               TRUNCATE  u64 index, u64 term   drop what is after this entry
               RESET     u64 index, u64 term   drop all: a checkpoint holds everything up to this entry
               CLOSED                          orderly stop

`synced bytes` is the length of this file that was known to be on the disk before the record was written.
It tells a power cut from damage: after a cut any part of the last unsynced write may be missing, even in
front of parts that are there, but nothing below a `synced bytes` can be, unless the disk has lost it.
"""

from __future__ import annotations

import re
import struct
from enum import IntEnum
from typing import NamedTuple

import crc32c

from gfs.vocabulary import LogIndex, Term

MAGIC = b"GFSOPLOG"
LOG_FORMAT = 1
RECORD_BYTES_MAX = 16 * 2**20

HEADER = struct.Struct("<8sII")
FRAME = struct.Struct("<II")
BODY = struct.Struct("<BQ")
POSITION = struct.Struct("<QQ")
TERM = struct.Struct("<Q")

_PLACED = struct.Struct("<BQQQ")  # BODY and POSITION in one step, for the hot path
assert _PLACED.size == BODY.size + POSITION.size


class Kind(IntEnum):
    START = 1
    ENTRY = 2
    VOTE = 3
    TRUNCATE = 4
    RESET = 5
    CLOSED = 6


class Record(NamedTuple):
    kind: Kind
    # The tuple method this hides is never called.
    index: LogIndex  # type: ignore[assignment]  # START, ENTRY, TRUNCATE, RESET
    term: Term  # all but CLOSED
    payload: bytes  # ENTRY; VOTE: the name, UTF-8


class NewerFormat(Exception):
    """The header names a format this program does not know. args: that format."""


class Scan(NamedTuple):
    """What one segment file holds up to `valid_bytes`; reading stopped there for `fault` (None: the end)."""

    records: list[Record]
    valid_bytes: int
    fault: str | None
    damaged: bool  # the fault lies below bytes that were synced: no crash can do that


def encode_header(segment_number: int) -> bytes:
    return HEADER.pack(MAGIC, LOG_FORMAT, segment_number)


def encode_records(records: list[Record], *, segment_number: int, synced_bytes: int) -> bytes:
    """Frame records that will be written, and synced, together."""
    pieces: list[bytes] = []
    for kind, index, term, payload in records:
        if kind is Kind.VOTE:
            front = BODY.pack(kind, synced_bytes) + TERM.pack(term)
        elif kind is Kind.CLOSED:
            front = BODY.pack(kind, synced_bytes)
        else:
            front = _PLACED.pack(kind, synced_bytes, index, term)
        checksum = crc32c.crc32c(front, segment_number)
        if payload:
            checksum = crc32c.crc32c(payload, checksum)
        length = len(front) + len(payload)
        assert length <= RECORD_BYTES_MAX
        pieces.append(FRAME.pack(length, checksum))
        pieces.append(front)
        if payload:
            pieces.append(payload)
    return b"".join(pieces)


class HeaderFault(NamedTuple):
    what: str
    damaged: bool  # as in Scan


def scan_segment(content: bytes, *, segment_number: int) -> Scan:
    """Read a segment up to its end or its first fault, and judge that fault.

    Raises: NewerFormat.
    """
    header = header_fault(content, segment_number=segment_number)
    if header is not None:
        return Scan([], 0, *header)
    records: list[Record] = []
    offset = HEADER.size
    while offset < len(content):
        found = _record_at(content, offset, segment_number)
        if found is None:
            fault = f"record {len(records) + 1} at byte {offset} is cut short or fails its checksum"
            damaged = proves_sync(content, offset, segment_number=segment_number)
            return Scan(records, offset, fault, damaged)
        record, _, offset = found
        records.append(record)
    return Scan(records, offset, None, False)


def header_fault(content: bytes, *, segment_number: int) -> HeaderFault | None:
    """What is wrong with a segment's header.

    Raises: NewerFormat.
    """
    if len(content) < HEADER.size:
        return HeaderFault("the header is cut short", False)
    if content[: HEADER.size] == encode_header(segment_number):
        return None
    magic, version, _ = HEADER.unpack_from(content)
    first_record = _record_at(content, HEADER.size, segment_number)
    if magic == MAGIC and version > LOG_FORMAT and first_record is None:
        raise NewerFormat(version)
    # A sector is written whole or not at all, so a crash can leave a header of zeros but not a wrong one.
    damaged = any(content[: HEADER.size]) or proves_sync(content, 0, segment_number=segment_number)
    return HeaderFault("the header is not that of this operation log segment", damaged)


def record_at(content: bytes, offset: int, *, segment_number: int) -> tuple[Record, int] | None:
    """The record that starts at `offset` and where the next one does; None when no valid one starts here."""
    found = _record_at(content, offset, segment_number)
    return None if found is None else (found[0], found[2])


def next_record_offset(content: bytes, after: int, *, segment_number: int) -> int | None:
    """Where the first valid record behind `after` starts, for whoever looks past damage."""
    for match in _RECORD_START.finditer(content, after + 1):
        if _record_at(content, match.start(), segment_number) is not None:
            return match.start()
    return None


def _record_at(content: bytes, offset: int, segment_number: int) -> tuple[Record, int, int] | None:
    """(record, its synced bytes, where the next one starts), or None when no valid record starts here."""
    body = offset + FRAME.size
    if body + BODY.size > len(content):
        return None
    length, checksum = FRAME.unpack_from(content, offset)
    end = body + length
    if not BODY.size <= length <= RECORD_BYTES_MAX or end > len(content):
        return None
    if crc32c.crc32c(memoryview(content)[body:end], segment_number) != checksum:
        return None
    number, synced_bytes = BODY.unpack_from(content, body)
    fields = body + BODY.size
    if number == Kind.VOTE and length >= BODY.size + TERM.size:
        (term,) = TERM.unpack_from(content, fields)
        record = Record(Kind.VOTE, LogIndex(0), Term(term), content[fields + TERM.size : end])
    elif number == Kind.CLOSED:
        record = Record(Kind.CLOSED, LogIndex(0), Term(0), b"")
    elif number in (Kind.START, Kind.ENTRY, Kind.TRUNCATE, Kind.RESET) and length >= _PLACED.size:
        index, term = POSITION.unpack_from(content, fields)
        record = Record(Kind(number), LogIndex(index), Term(term), content[body + _PLACED.size : end])
    else:
        return None
    return record, synced_bytes, end


# A record's first bytes as far as they are known: a length below 2^25, any checksum, a kind.
_RECORD_START = re.compile(rb"(?s)(?=...[\x00\x01]....[\x01-\x06])")
assert RECORD_BYTES_MAX < 2**25


def proves_sync(content: bytes, fault_offset: int, *, segment_number: int) -> bool:
    """Whether a valid record after the fault was written when the fault's bytes were already synced."""
    for match in _RECORD_START.finditer(content, fault_offset + 1):
        found = _record_at(content, match.start(), segment_number)
        if found is not None and found[1] > fault_offset:
            return True
    return False
