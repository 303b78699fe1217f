"""How the rows of the state's tables are laid out: keys, values, and what they say in full. No decisions.

Keys begin with big-endian integers, so that a directory's entries and a file's chunks lie together and in
order. Inode rows have a fixed length: a row that grows in its full page splits it, and half-empty pages would
cost more than short numbers save. The other rows seldom change, and are msgpack arrays.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import cast

import msgspec

from gfs.errors import CorruptState
from gfs.vocabulary import (
    CHUNK_BYTES,
    FILE_MODE_DEFAULT,
    ROOT_INODE,
    ChunkHandle,
    ChunkIndex,
    ChunkVersion,
    InodeId,
    ServerId,
)

STATE_FORMAT = 2

TRASH_INODE = InodeId(0)  # parent of what was deleted: an inode under it cannot be reached from the root
CONDEMNED_MS = 0  # the deadline of what is being reclaimed: such rows are the first of the trash
assert TRASH_INODE != ROOT_INODE

# Ids fit in six bytes, so that a value naming one is short: 2**47 creations are 4,000 years at 1,000/s.
ID_MAX = 2**47 - 1
FILE_CHUNKS_MAX = 2**22 - 1  # a file just under 256 TiB, whose length still fits in six bytes
SEQUENCE_MAX = 2**63 - 1
OWNERSHIP_MAX = 2**15 - 1  # pairs of owner and group; with nine bits of mode they fill three bytes
MODE_MAX = 0o777
TIME_MS_MAX = 2**48 - 1
assert FILE_CHUNKS_MAX * CHUNK_BYTES < 2**48

_ID_BYTES = 6
_U64 = struct.Struct(">Q")
_U64_U32 = struct.Struct(">QI")
_U64_U64 = struct.Struct(">QQ")
# Flags, replication goal, chunk count, access (three bytes); then six bytes each: parent, created, modified,
# length, first chunk.
_INODE = struct.Struct(">BBIHBHIHIHIHIHI")
_SHARE = struct.Struct(">BxI3xHI12xHI")  # of an inode row: flags, chunk count, parent, length
INODE_ROW_BYTES = _INODE.size
_LOW = 2**32 - 1

COUNTERS_KEY = b"counters"
DIGEST_KEY = b"digest"
DIGEST_MARK_KEY = b"digest_mark"
APPLIED_KEY = b"applied"
FORMAT_KEY = b"format"

id_key = _U64.pack  # inode, handle or client id as a key, or the beginning of one


class InodeRecord(msgspec.Struct, frozen=True, gc=False):
    """A file or a directory. Directories leave the fields about content at zero.

    `parent` is the directory that holds its entry, TRASH_INODE once deleted. `first_chunk` is the handle of
    chunk 0 (0: none): most files have one chunk, and need no row in `file_chunks` then. `ownership` is the
    number of its owner and group (see `Owners`), `mode` nine bits rwxrwxrwx. `goal_inherited`: a policy that
    says how many replicas to have goes before `replication_goal` (see `policies`). `appended`: records are
    appended to it, so that only its last chunk knows where it ends.
    """

    is_directory: bool
    parent: int
    created_ms: int
    modified_ms: int
    length_bytes: int = 0
    length_exact: bool = False
    chunk_count: int = 0
    replication_goal: int = 0
    first_chunk: int = 0
    mode: int = FILE_MODE_DEFAULT
    ownership: int = 0
    goal_inherited: bool = False
    appended: bool = False


class StoredChunk(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A chunk's row; servers by number (see `ChunkTable`), the primary by its position among them.

    `quiet`: no client was or will be told of this version; see `ChangeReplicas`.
    """

    version: int
    references: int
    held_version: int
    primary: int
    servers: tuple[int, ...]
    sealed: int = 0
    length_bytes: int = 0
    quiet: int = 0


class SnapshotFrame(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A directory or file that a snapshot has not copied to its end.

    `after`: of a directory, the name after which to go on; of a file, the chunk to go on with.
    """

    source: int
    copy: int
    after: bytes | int


class SnapshotJob(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A snapshot under way, kept by the inode of its copy, whose parent is TRASH_INODE until it is whole.

    `frames`: what is left to copy, the next one last.
    """

    source: int
    source_path: str
    target_path: str
    frames: tuple[SnapshotFrame, ...]
    begun: bool = False  # a step has been made, so the leases below the source had been revoked


class ChunkCopy(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A reserved handle: of a copy of `handle` as it was at `version`, for chunk `index` of `inode`."""

    inode: int
    index: int
    handle: int
    version: int


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """What the log says of one chunk: identity, version, and the replica set of that version.

    `held_version`: every member of the set is known to hold this version or a later one (0: nothing known).
    `length_bytes` is known only when `sealed`, else -1. `references` counts the files that share the chunk.
    `quiet`: no client was or will be told of this version, so nothing is acknowledged under it.
    """

    handle: ChunkHandle
    version: ChunkVersion
    replicas: tuple[ServerId, ...]
    primary: ServerId
    held_version: ChunkVersion
    sealed: bool
    length_bytes: int
    references: int
    quiet: bool = False


class PolicyRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is set at one directory; the defaults mean "not set". `racks` 1: any racks will do.

    `racks`: in how many different racks at least the replicas of a chunk lie. `files_max` counts directories,
    too. Sizes in bytes, `trash_ms` in milliseconds (0: what is deleted is reclaimed at once).
    """

    replicas: int = 0
    racks: int = 0
    trash_ms: int = -1
    durability: str = ""
    files_max: int = -1
    bytes_max: int = -1


class SessionHeader(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """One client's window of remembered outcomes.

    `floor`: requests below it are too old to be told from new ones. `highest`: none above it was ever seen.
    `kept`: how many outcomes are in the table, some of them perhaps already below the floor.
    """

    last_ms: int
    floor: int
    highest: int
    kept: int


class Counters(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Next ids and totals. Inodes and chunks count until their space is reclaimed, so also in the trash.
    `trash` counts what can be undeleted.

    `forget_after`: the client at which the search for idle sessions goes on. `ownerships`: pairs of owner and
    group that have a number.
    """

    next_inode: int = ROOT_INODE + 1
    next_handle: int = 1
    next_server: int = 1
    files: int = 0
    directories: int = 1
    chunks: int = 0
    trash: int = 0
    sessions: int = 0
    forget_after: int = 0
    ownerships: int = 0


class DigestMark(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The digest this state had just before the log entry at `index`; see `CheckDigest`."""

    index: int
    digest: str


_encode = msgspec.msgpack.Encoder().encode
encode_chunk = encode_session = encode_counters = encode_mark = _encode
encode_job = encode_copy = encode_policy = _encode
_decode_chunk = msgspec.msgpack.Decoder(StoredChunk).decode
_decode_session = msgspec.msgpack.Decoder(SessionHeader).decode
_decode_policy = msgspec.msgpack.Decoder(PolicyRecord).decode
_decode_counters = msgspec.msgpack.Decoder(Counters).decode
_decode_mark = msgspec.msgpack.Decoder(DigestMark).decode
_decode_job = msgspec.msgpack.Decoder(SnapshotJob).decode
_decode_copy = msgspec.msgpack.Decoder(ChunkCopy).decode


def encode_inode(record: InodeRecord) -> bytes:
    access = record.ownership << 9 | record.mode
    return _INODE.pack(
        record.is_directory | record.length_exact << 1 | record.goal_inherited << 2 | record.appended << 3,
        record.replication_goal,
        record.chunk_count,
        access >> 8,
        access & 0xFF,
        record.parent >> 32,
        record.parent & _LOW,
        record.created_ms >> 32,
        record.created_ms & _LOW,
        record.modified_ms >> 32,
        record.modified_ms & _LOW,
        record.length_bytes >> 32,
        record.length_bytes & _LOW,
        record.first_chunk >> 32,
        record.first_chunk & _LOW,
    )


def decode_inode(row: bytes) -> InodeRecord:
    try:
        flags, goal, count, a1, a0, p1, p0, c1, c0, m1, m0, l1, l0, f1, f0 = _INODE.unpack(row)
    except struct.error as error:
        raise CorruptState(f"an inode row cannot be read: {error}") from error
    return InodeRecord(
        is_directory=bool(flags & 1),
        parent=p1 << 32 | p0,
        created_ms=c1 << 32 | c0,
        modified_ms=m1 << 32 | m0,
        length_bytes=l1 << 32 | l0,
        length_exact=bool(flags & 2),
        chunk_count=count,
        replication_goal=goal,
        first_chunk=f1 << 32 | f0,
        mode=(a1 << 8 | a0) & MODE_MAX,
        ownership=a1 >> 1,
        goal_inherited=bool(flags & 4),
        appended=bool(flags & 8),
    )


def inode_share(row: bytes) -> tuple[bool, int, int]:
    """Of an inode's row: whether it is a directory, its parent, and the bytes it is charged with.

    A file is charged with its length where that is exact. While it is written, or records are appended, the
    master does not know how far its last chunk is full, and charges all of them in full.
    """
    try:
        flags, count, p1, p0, l1, l0 = _SHARE.unpack_from(row)
    except struct.error as error:
        raise CorruptState(f"an inode row cannot be read: {error}") from error
    return bool(flags & 1), p1 << 32 | p0, l1 << 32 | l0 if flags & 2 else count * CHUNK_BYTES


def decode_chunk(row: bytes) -> StoredChunk:
    try:
        return _decode_chunk(row)
    except msgspec.DecodeError as error:
        raise CorruptState(f"a chunk row cannot be read: {error}") from error


def decode_session(row: bytes) -> SessionHeader:
    try:
        return _decode_session(row)
    except msgspec.DecodeError as error:
        raise CorruptState(f"a session row cannot be read: {error}") from error


def decode_policy(row: bytes) -> PolicyRecord:
    try:
        return _decode_policy(row)
    except msgspec.DecodeError as error:
        raise CorruptState(f"a policy's row cannot be read: {error}") from error


def decode_counters(row: bytes) -> Counters:
    try:
        return _decode_counters(row)
    except msgspec.DecodeError as error:
        raise CorruptState(f"the row of counters cannot be read: {error}") from error


def decode_mark(row: bytes) -> DigestMark:
    try:
        return _decode_mark(row)
    except msgspec.DecodeError as error:
        raise CorruptState(f"the row of the last digest cannot be read: {error}") from error


def decode_job(row: bytes) -> SnapshotJob:
    try:
        return _decode_job(row)
    except msgspec.DecodeError as error:
        raise CorruptState(f"the row of a snapshot under way cannot be read: {error}") from error


def decode_copy(row: bytes) -> ChunkCopy:
    try:
        return _decode_copy(row)
    except msgspec.DecodeError as error:
        raise CorruptState(f"the row of a chunk's copy cannot be read: {error}") from error


def job_key(copy: int) -> bytes:
    return b"s" + _U64.pack(copy)


def chunk_copy_key(handle: int) -> bytes:
    return b"c" + _U64.pack(handle)


def dentry_key(parent: int, name: bytes) -> bytes:
    return id_key(parent) + name


def dentry_value(inode: int, *, is_directory: bool) -> bytes:
    """Inode and kind in one number, the kind in the lowest bit: a lookup of a long path reads no inodes."""
    return (inode << 1 | is_directory).to_bytes(_ID_BYTES, "big")


def read_dentry(value: bytes) -> tuple[InodeId, bool]:
    """The inode, and whether it is a directory."""
    both = int.from_bytes(value, "big")
    return cast(InodeId, both >> 1), both & 1 == 1


def file_chunk_key(inode: int, index: int) -> bytes:
    return _U64_U32.pack(inode, index)


def read_file_chunk_key(key: bytes) -> tuple[InodeId, ChunkIndex]:
    inode, index = _U64_U32.unpack(key)
    return InodeId(inode), ChunkIndex(index)


def handle_value(handle: int) -> bytes:
    return handle.to_bytes(_ID_BYTES, "big")


def read_handle(value: bytes) -> ChunkHandle:
    return ChunkHandle(int.from_bytes(value, "big"))


def trash_key(expires_at_ms: int, inode: int) -> bytes:
    return _U64_U64.pack(expires_at_ms, inode)


def read_trash_key(key: bytes) -> tuple[int, InodeId]:
    expires_at_ms, inode = _U64_U64.unpack(key)
    return expires_at_ms, InodeId(inode)


def trash_value(path: bytes, *, deleted_at_ms: int) -> bytes:
    return path + b"\0" + _U64.pack(deleted_at_ms)


def read_trash_value(value: bytes) -> tuple[bytes, int]:
    """The original path, and when it was deleted; 0 where the row does not say."""
    path, mark, deleted_at = value.partition(b"\0")  # no path holds a NUL
    return path, _U64.unpack(deleted_at)[0] if mark else 0


def outcome_key(client: int, sequence: int) -> bytes:
    return _U64_U64.pack(client, sequence)


def read_outcome_key(key: bytes) -> tuple[int, int]:
    client, sequence = _U64_U64.unpack(key)
    return client, sequence


def read_id(key: bytes) -> int:
    """The number a key begins with."""
    number: int = _U64.unpack_from(key)[0]
    return number


def server_number_key(number: int) -> bytes:
    return b"#" + _U64.pack(number)


def server_id_key(server: str) -> bytes:
    return b"=" + server.encode("utf-8")


ownership_number_key = server_number_key


def ownership_names(owner: str, group: str) -> bytes:
    """Owner and group as one row; neither holds a colon."""
    return f"{owner}:{group}".encode()


def read_ownership_names(row: bytes) -> tuple[str, str]:
    owner, _, group = row.decode("utf-8").partition(":")
    return owner, group


def ownership_key(names: bytes) -> bytes:
    return b"=" + names
