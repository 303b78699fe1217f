"""The chunk index's journal: checksummed frames in segment files, through the Disk seam. Not what they mean.

    chunks-0000000000000001.journal
    +--------+-------+-------+-------+-------
    | header | frame | frame | frame | …
    +--------+-------+-------+-------+-------
    header: magic "GFSJRNL1", sequence u64, salt u32, durable u8, boot id (64 bytes, zero-padded), CRC32C
    frame:  magic "FRM1", payload bytes u32, synced_through u64, payload CRC32C, frame-header CRC32C; payload
    all numbers little-endian; the frame-header's sum starts from the salt and the frame's offset, so a
    frame copied from elsewhere (a journal stored as a user's data, in a redo record) is none here.

A segment's file is complete and synced, with its header, before it has its name. Appends are single writes
at the end, so a kill leaves at most an incomplete last frame. A power cut may lose any unsynced part;
`synced_through` (how far this segment was synced when the frame was written) tells later what was not: a
damaged frame that some later frame calls synced is damage, not a crash.
"""

from __future__ import annotations

import os
import secrets
import struct
import threading
from dataclasses import dataclass

from gfs.checksums import crc32c
from gfs.disk import Disk, OpenFile, read_whole_file, write_file_durably
from gfs.errors import CorruptState, UnsupportedVersion

SEGMENT_MAGIC = b"GFSJRNL1"
FRAME_MAGIC = b"FRM1"
BOOT_ID_BYTES = 64
_SEGMENT_HEADER = struct.Struct(f"<8sQIB{BOOT_ID_BYTES}s")
_FRAME_HEADER = struct.Struct("<4sIQI")
_FRAME_SEED = struct.Struct("<IQ")
_SUM = struct.Struct("<I")
SEGMENT_HEADER_BYTES = _SEGMENT_HEADER.size + _SUM.size
FRAME_HEADER_BYTES = _FRAME_HEADER.size + _SUM.size
_PREFIX, _SUFFIX = "chunks-", ".journal"


def segment_path(directory: str, sequence: int) -> str:
    return os.path.join(directory, f"{_PREFIX}{sequence:016d}{_SUFFIX}")


def segment_sequences(disk: Disk, directory: str) -> list[int]:
    """Sequences of the segments in `directory`, oldest first."""
    return sorted(
        int(name[len(_PREFIX) : -len(_SUFFIX)])
        for name in disk.listdir(directory)
        if name.startswith(_PREFIX) and name.endswith(_SUFFIX)
    )


class JournalSegment:
    """One segment being written. append() is called under the index's lock; sync() by anyone."""

    def __init__(self, file: OpenFile, sequence: int, salt: int) -> None:
        self.sequence = sequence
        self.end = SEGMENT_HEADER_BYTES
        self._file, self._salt = file, salt
        self._synced_through = 0
        self._sync_lock = threading.Lock()
        self._leftover = False  # bytes of a failed append may lie past the end

    @classmethod
    def create(cls, disk: Disk, directory: str, sequence: int, *, durable: bool) -> JournalSegment:
        """`durable`: frames will be synced before what they record is acknowledged. Raises: OSError."""
        salt = secrets.randbits(32)
        boot_id = disk.boot_id().encode("ascii")
        assert len(boot_id) <= BOOT_ID_BYTES, boot_id
        head = _SEGMENT_HEADER.pack(SEGMENT_MAGIC, sequence, salt, durable, boot_id)
        path = segment_path(directory, sequence)
        write_file_durably(disk, path, head + _SUM.pack(crc32c(head)))
        return cls(disk.open(path), sequence, salt)

    @property
    def is_empty(self) -> bool:
        return self.end == SEGMENT_HEADER_BYTES

    @property
    def is_synced(self) -> bool:
        return self.is_empty or self._synced_through >= self.end

    def append(self, payload: bytes) -> None:
        """Write one frame to the page cache. After OSError the segment is as it was before."""
        head = _FRAME_HEADER.pack(FRAME_MAGIC, len(payload), self._synced_through, crc32c(payload))
        frame = b"".join((head, _SUM.pack(_head_sum(self._salt, self.end, head)), payload))
        self.trim()
        self._leftover = True
        self._file.pwrite(frame, self.end)
        self._leftover = False
        self.end += len(frame)

    def trim(self) -> None:
        """Cut off what a failed append left behind; also before the next segment is written to."""
        if self._leftover:
            self._file.truncate(self.end)
            self._leftover = False

    def sync(self) -> None:
        """Every frame appended before this call is on the disk when it returns. A failure is fatal."""
        wanted = self.end
        with self._sync_lock:
            if self._synced_through >= wanted:
                return
            end = self.end
            self._file.sync()
            self._synced_through = end

    def retire(self) -> None:
        """Close it; all its records are durable in the index. Who still waits to sync it need not any more:
        to sync a closed file would fail, and pass for a failed disk."""
        with self._sync_lock:
            self._synced_through = self.end
            self._file.close()

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class SegmentContents:
    """What is left of a segment. `torn`: its end was cut off by a crash. `durable`: as at its creation."""

    sequence: int
    durable: bool
    power_cut: bool
    payloads: list[tuple[int, bytes]]  # offset of the frame, payload
    torn: bool
    says_synced: bool  # some frame was written after a sync of this segment, hence of all before it


def read_segment(disk: Disk, directory: str, sequence: int) -> SegmentContents:
    """Read a segment after a stop of any kind.

    Raises: CorruptState naming file, frame and offset, for damage that no crash can have done;
        UnsupportedVersion.
    """
    path = segment_path(directory, sequence)
    content = read_whole_file(disk, path)
    if len(content) < SEGMENT_HEADER_BYTES:
        raise CorruptState(f"{path}: {len(content)} bytes; its header has {SEGMENT_HEADER_BYTES}")
    head = content[: _SEGMENT_HEADER.size]
    magic, own_sequence, salt, durable, boot_id = _SEGMENT_HEADER.unpack(head)
    (expected,) = _SUM.unpack_from(content, _SEGMENT_HEADER.size)
    is_newer = magic[:-1] == SEGMENT_MAGIC[:-1] and magic > SEGMENT_MAGIC
    if is_newer and crc32c(SEGMENT_MAGIC + head[len(magic) :]) != expected:  # else a bit of ours has flipped
        raise UnsupportedVersion(
            f"{path} has journal format {magic[-1:].decode('ascii', 'replace')}; this program reads format 1",
            hint="A newer gfs wrote it. Start that one, or upgrade this one.",
        )
    if magic != SEGMENT_MAGIC or crc32c(head) != expected or own_sequence != sequence:
        raise CorruptState(f"{path}: its header is damaged (offset 0)")
    power_cut = boot_id.rstrip(b"\0").decode("ascii") != disk.boot_id()

    payloads: list[tuple[int, bytes]] = []
    says_synced = False
    offset, torn = SEGMENT_HEADER_BYTES, False
    while offset < len(content) and not torn:
        frame = _frame_at(content, offset, salt)
        if frame is None:
            _check_torn(path, content, offset, salt, number=len(payloads), power_cut=power_cut)
            torn = True
            break
        payload, synced_through = frame
        payloads.append((offset, payload))
        says_synced = says_synced or synced_through > 0
        offset += FRAME_HEADER_BYTES + len(payload)
    return SegmentContents(sequence, bool(durable), power_cut, payloads, torn, says_synced)


def _head_sum(salt: int, offset: int, head: bytes | memoryview) -> int:
    return crc32c(head, crc32c(_FRAME_SEED.pack(salt, offset)))


def _payload_bytes_at(content: bytes, offset: int, salt: int) -> int | None:
    """Length of the payload that an undamaged frame header at `offset` announces."""
    head = content[offset : offset + _FRAME_HEADER.size]
    if offset + FRAME_HEADER_BYTES > len(content) or not head.startswith(FRAME_MAGIC):
        return None
    (expected,) = _SUM.unpack_from(content, offset + _FRAME_HEADER.size)
    if _head_sum(salt, offset, head) != expected:
        return None
    payload_bytes: int = _FRAME_HEADER.unpack(head)[1]
    return payload_bytes


def _frame_at(content: bytes, offset: int, salt: int) -> tuple[bytes, int] | None:
    payload_bytes = _payload_bytes_at(content, offset, salt)
    if payload_bytes is None:
        return None
    _, _, synced_through, expected = _FRAME_HEADER.unpack_from(content, offset)
    payload = content[offset + FRAME_HEADER_BYTES : offset + FRAME_HEADER_BYTES + payload_bytes]
    if len(payload) != payload_bytes or crc32c(payload) != expected:
        return None
    return payload, synced_through


def _check_torn(path: str, content: bytes, offset: int, salt: int, *, number: int, power_cut: bool) -> None:
    """Tell a tail cut off by a crash from damage.

    Raises: CorruptState.
    """
    where = f"{path}: record {number} at offset {offset} is damaged"
    later = content.find(FRAME_MAGIC, offset + 1)
    while later >= 0:
        frame = _frame_at(content, later, salt)
        if frame is not None and (not power_cut or frame[1] > offset):
            raise CorruptState(f"{where}, and whole records follow it", details={"offset": str(offset)})
        later = content.find(FRAME_MAGIC, later + 1)
    if power_cut:
        return
    payload_bytes = _payload_bytes_at(content, offset, salt)
    left = len(content) - offset
    is_incomplete = left < FRAME_HEADER_BYTES or (
        payload_bytes is not None and left < FRAME_HEADER_BYTES + payload_bytes
    )
    if not is_incomplete:
        raise CorruptState(f"{where}, though it was written whole", details={"offset": str(offset)})
