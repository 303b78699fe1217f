"""The nouns of the system: ids, sizes and the path grammar. No behaviour beyond checking a value."""

from __future__ import annotations

from typing import NewType

ChunkHandle = NewType("ChunkHandle", int)  # 64 bit, immutable, never reused (GFS §2.3)
ChunkVersion = NewType("ChunkVersion", int)  # raised at each lease grant (GFS §4.5); 0 = no replica yet
ChunkIndex = NewType("ChunkIndex", int)  # position of a chunk within its file
InodeId = NewType("InodeId", int)
SerialNumber = NewType("SerialNumber", int)  # order of mutations under one lease (GFS §3.1), from 1
LogIndex = NewType("LogIndex", int)
Term = NewType("Term", int)
MasterId = NewType("MasterId", str)
ServerId = NewType("ServerId", str)  # a chunk server; made once per disk, kept on that disk
ClientId = NewType("ClientId", int)  # 63 bit, random, one per connected client
ClusterId = NewType("ClusterId", str)
PushId = NewType("PushId", str)  # names bytes that were pushed but not yet ordered (GFS §3.2)
Address = NewType("Address", str)  # "host:port"

KIB = 2**10
MIB = 2**20

CHUNK_BYTES = 64 * MIB
CHECKSUM_BLOCK_BYTES = 64 * KIB
BLOCKS_PER_CHUNK = CHUNK_BYTES // CHECKSUM_BLOCK_BYTES
RECORD_BYTES_MAX = CHUNK_BYTES // 4
assert CHUNK_BYTES % CHECKSUM_BLOCK_BYTES == 0  # a block never spans two chunks

NAME_BYTES_MAX = 255
PATH_BYTES_MAX = 4096
PATH_DEPTH_MAX = 128
assert NAME_BYTES_MAX < PATH_BYTES_MAX

ROOT_INODE = InodeId(1)
TRASH_DIRECTORY = (
    "/.trash"  # what was deleted can be read at /.trash/<inode> until it is reclaimed (GFS §4.4)
)
REPLICATION_GOAL_DEFAULT = 3
REPLICATION_GOAL_MAX = 16

FILE_MODE_DEFAULT = 0o644  # rw-r--r--
DIRECTORY_MODE_DEFAULT = 0o755  # rwxr-xr-x

BAD_PATH_HINT = "Paths are absolute, UTF-8 and '/'-separated, like /data/part-0."


def path_fault(path: str) -> str | None:
    """Say what is wrong with `path`, or None when it is a valid absolute path.

    A trailing slash and doubled slashes are accepted (they name the same entry); `.` and `..` are
    not, because what they name would depend on who resolves them.
    """
    if not path:
        return "the path is empty"
    if not path.startswith("/"):
        return f"the path {path!r} is relative; it must start with '/'"
    try:
        encoded = path.encode("utf-8")
    except UnicodeEncodeError:
        return "the path is not valid UTF-8"
    if len(encoded) > PATH_BYTES_MAX:
        return f"the path is {len(encoded)} bytes long; at most {PATH_BYTES_MAX} are allowed"
    if "\0" in path:
        return "the path contains a NUL byte"
    names = [name for name in path.split("/") if name]
    if len(names) > PATH_DEPTH_MAX:
        return f"the path is {len(names)} levels deep; at most {PATH_DEPTH_MAX} are allowed"
    for name in names:
        if name in (".", ".."):
            return f"the path contains {name!r}, which is not resolved here"
        name_bytes = len(name.encode("utf-8"))
        if name_bytes > NAME_BYTES_MAX:
            return f"the name {name[:20]!r}… is {name_bytes} bytes long; at most {NAME_BYTES_MAX} are allowed"
    return None


def split_path(path: str) -> tuple[str, ...]:
    """Split a valid path into its names; the root gives ()."""
    assert path.startswith("/"), path
    return tuple(name for name in path.split("/") if name)


def join_path(names: tuple[str, ...]) -> str:
    return "/" + "/".join(names)


def split_address(address: Address) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    assert host and port.isdigit(), address
    return host.strip("[]"), int(port)
