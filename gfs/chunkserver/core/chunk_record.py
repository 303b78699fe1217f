"""What the index keeps about one chunk, and the journal's records that change it. No I/O.

A chunk is described by a header and the sums of its *full* blocks. The sum of the partial last block is in
the header, next to the length it belongs to: one immutable object always fits the bytes it describes, so a
reader that holds it can verify the committed prefix while an append goes on behind it.
"""

from __future__ import annotations

from array import array

import msgspec

from gfs.chunkserver.core.append_window import AppendWindow, decode_window
from gfs.chunkserver.core.checksums import SUM_BYTES
from gfs.messages.replicas import AppendedRecord
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, CHUNK_BYTES, ChunkHandle, ChunkVersion, Term

SUMS_PER_ROW = 64  # 256 bytes: cheap to read and rewrite for an append, 16 rows for a full chunk
ROW_BYTES = SUMS_PER_ROW * SUM_BYTES
FILLING, WHOLE = 1, 2  # kinds of guests; core/guests says what they are


class ChunkHeader(msgspec.Struct, frozen=True, array_like=True):
    """`revision` counts the records of this chunk: a replay that misses one notices.

    `tail_sum`: CRC32C of the bytes past the last full block, 0 when there are none.
    `replaced_version`: what the last bump found here, so that a repeated bump is answered alike.
    `short_version`: under this version a power cut may have taken acknowledged bytes; 0: none may be missing.
    It stays through bumps, whose grants may come to nothing, until a later version is written to.
    `guest`: 0 for a replica, else FILLING or WHOLE, and `version` is that of the replica copied.
    `durable`: whatever is acknowledged under this version is on the disk, as was all that was before it.
    """

    version: ChunkVersion
    length_bytes: int
    tail_sum: int
    revision: int
    master_term: Term
    replaced_version: ChunkVersion
    sealed: bool = False
    short_version: ChunkVersion = ChunkVersion(0)
    guest: int = 0
    durable: bool = False

    @property
    def full_blocks(self) -> int:
        return self.length_bytes // CHECKSUM_BLOCK_BYTES

    @property
    def tail_bytes(self) -> int:
        return self.length_bytes % CHECKSUM_BLOCK_BYTES


class Mutated(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The chunk now has `header`; `sums` are those of full blocks from `first_block` on that changed.

    `data_synced`: every byte below the header's length was on the disk before this record was written.
    `appended`: the identified records that the chunk's last bytes consist of. `window`: what a copy of a
    chunk took over of the records it holds; empty in all other records.
    """

    handle: ChunkHandle
    header: ChunkHeader
    first_block: int = 0
    sums: bytes = b""
    data_synced: bool = False
    appended: tuple[AppendedRecord, ...] = ()
    window: bytes = b""


class Redo(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """`data` is about to be written at `offset` over committed bytes; with it the chunk is `outcome`.

    On the disk before the first byte changes, so that a half-done overwrite can always be finished.
    """

    outcome: Mutated
    offset: int
    data: bytes


class RedoDropped(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The overwrite announced by the last Redo of this chunk failed and was undone."""

    handle: ChunkHandle


class Deleted(msgspec.Struct, frozen=True, array_like=True, tag=4):
    handle: ChunkHandle


Record = Mutated | Redo | RedoDropped | Deleted

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Record])
_header_decoder = msgspec.msgpack.Decoder(ChunkHeader)


def encode_records(records: list[Record]) -> bytes:
    return _encoder.encode(records)


def decode_records(payload: bytes | memoryview) -> list[Record]:
    """Raises: msgspec.MsgspecError for bytes that are no records."""
    return _decoder.decode(payload)


def encode_header(header: ChunkHeader) -> bytes:
    return _encoder.encode(header)


def decode_header(content: bytes | memoryview) -> ChunkHeader:
    return _header_decoder.decode(content)


def apply_sums(full: array[int], record: Mutated) -> None:
    """Bring the sums of the full blocks to what `record` says, in place."""
    if record.sums:
        changed = array("I")
        changed.frombytes(record.sums)
        assert record.first_block <= len(full), (record.first_block, len(full))
        full[record.first_block : record.first_block + len(changed)] = changed
    del full[record.header.full_blocks :]
    assert len(full) == record.header.full_blocks, (len(full), record.header)


def window_after(window: AppendWindow, record: Mutated) -> AppendWindow:
    """The append window once `record` is taken over; `window` is changed in place, or replaced."""
    if record.window:
        window = decode_window(record.window)
    window.cut(record.header.length_bytes)
    if record.appended:
        window.note(record.appended, end_bytes=record.header.length_bytes)
    return window


def check_header(header: ChunkHeader) -> None:
    """Assert what is true of every header."""
    assert 0 <= header.length_bytes <= CHUNK_BYTES, header
    assert header.version > header.replaced_version >= 0, header
    assert header.tail_bytes or header.tail_sum == 0, header
    assert header.revision > 0, header
