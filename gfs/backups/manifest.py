"""What a backup is: the bytes of a checkpoint of the masters' state, and a manifest that proves them.

    backup-<UTC time>-<index>-<term>.lmdb   the state: all metadata, no byte of any file
    backup-<UTC time>-<index>-<term>.json   one line of JSON, then the CRC32C of that line in hexadecimal

The manifest comes last: a backup exists from the moment it is there. Bytes without one are an incomplete
backup, whatever they hold.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator

import msgspec
from crc32c import crc32c

from gfs.errors import CorruptState, UnsupportedVersion
from gfs.master.replication.checkpoints import CheckpointManifest
from gfs.messages.backup import BackupOpened
from gfs.vocabulary import ClusterId, LogIndex, MasterId, Term

BACKUP_FORMAT = 1
MANIFEST_BYTES_MAX = 2**20
STATE_SUFFIX, MANIFEST_SUFFIX = ".lmdb", ".json"
NAME = re.compile(r"^(backup-\d{8}T\d{6}\.\d{3}Z-\d{20}-\d+)(\.lmdb|\.json)")


class BackupManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`index` and `term` of the last log entry in it. Counts are -1 where the master did not know them."""

    format: int
    cluster: ClusterId
    index: LogIndex
    term: Term
    length_bytes: int
    crc32c: int
    taken_at_ms: int
    taken_from: MasterId
    masters: list[MasterId]
    checkpoint_format: int
    state_format: int
    files: int = -1
    directories: int = -1
    chunks: int = -1

    @property
    def name(self) -> str:
        moment = datetime.datetime.fromtimestamp(self.taken_at_ms / 1000, tz=datetime.UTC)
        stamp = f"{moment:%Y%m%dT%H%M%S}.{self.taken_at_ms % 1000:03}Z"
        return f"backup-{stamp}-{self.index:020}-{self.term}"

    def as_checkpoint(self) -> CheckpointManifest:
        """For who reads checkpoints."""
        return CheckpointManifest(
            format=self.checkpoint_format,
            cluster=self.cluster,
            index=self.index,
            term=self.term,
            length_bytes=self.length_bytes,
            crc32c=self.crc32c,
            members=dict.fromkeys(self.masters, ""),
            made_at_ms=self.taken_at_ms,
        )


def manifest_of(opened: BackupOpened, *, taken_at_ms: int) -> BackupManifest:
    return BackupManifest(
        format=BACKUP_FORMAT,
        cluster=opened.cluster,
        index=opened.index,
        term=opened.term,
        length_bytes=opened.length_bytes,
        crc32c=opened.crc32c,
        taken_at_ms=taken_at_ms,
        taken_from=opened.master,
        masters=opened.members,
        checkpoint_format=opened.format,
        state_format=opened.state_format,
        files=opened.files,
        directories=opened.directories,
        chunks=opened.chunks,
    )


def encode_manifest(manifest: BackupManifest) -> bytes:
    line = msgspec.json.encode(manifest) + b"\n"
    return line + b"%08x\n" % crc32c(line)


class _Format(msgspec.Struct):
    format: int


def decode_manifest(content: bytes) -> BackupManifest:
    """Raises: CorruptState, UnsupportedVersion."""
    line, newline, checksum = content.partition(b"\n")
    line += newline
    if checksum != b"%08x\n" % crc32c(line):
        raise CorruptState("the manifest does not have its checksum")
    try:
        found = msgspec.json.decode(line, type=_Format).format  # first, as a later format has other fields
        if found != BACKUP_FORMAT:
            raise UnsupportedVersion(f"the backup has format {found}; this gfs reads {BACKUP_FORMAT}")
        return msgspec.json.decode(line, type=BackupManifest)
    except msgspec.DecodeError as error:
        raise CorruptState(f"the manifest cannot be read: {error}") from error


def verified(pieces: Iterable[bytes], manifest: BackupManifest) -> Iterator[bytes]:
    """The same bytes. Raises: CorruptState at the end, unless they are those the manifest promises."""
    length = checksum = 0
    for piece in pieces:
        checksum = crc32c(piece, checksum)
        length += len(piece)
        yield piece
    if length != manifest.length_bytes:
        raise CorruptState(f"{manifest.name} is {length} bytes long, not {manifest.length_bytes}")
    if checksum != manifest.crc32c:
        raise CorruptState(f"{manifest.name} has checksum {checksum:08x}, not {manifest.crc32c:08x}")
