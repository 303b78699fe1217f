"""The object that one tiered replica is on an object service: its name, its layout, its row. No I/O.

    OBJECT = the committed bytes | CRC32C of each block, 4 bytes, little | footer
    footer = magic "gfs tier" | handle u64 | version u64 | length u64 | CRC32C of sums and footer so far u32
    NAME   = SERVER/HANDLE/VERSION-TOKEN     16 hexadecimal digits each; TOKEN is drawn for each upload

Each replica has an object of its own. One object for all replicas of a chunk would cost a third, but then the
loss of it is the loss of all of them at once, while masters count three: "acknowledged when every replica has
it" would be an empty word. Objects of their own also keep every decision where it is without a tier: a server
deletes what it holds, a stale replica is deleted alone, nobody counts references across servers. Within one
server a copy of a chunk begins with the object of its source.

An object never changes. What a writer changes afterwards comes back to the local store, extent by extent:

    extents here  1 0 0 1        bit per EXTENT_BYTES: all of the extent is the local store's
    object        ========|      up to valid_bytes; zeros behind it, up to the chunk's length

No name is used twice, so nothing is ever written over: an object service need not be able to say what a
conditional overwrite has done, and a late answer to an upload that was given up harms nothing.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable

import msgspec

from gfs.checksums import blocks_touched, crc32c
from gfs.errors import CorruptState
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, CHUNK_BYTES, MIB, ChunkHandle, ChunkVersion

EXTENT_BYTES = MIB  # what comes back at once, and is asked of the service at once
EXTENTS = CHUNK_BYTES // EXTENT_BYTES
assert EXTENT_BYTES % CHECKSUM_BLOCK_BYTES == 0  # an extent verifies by whole blocks
assert CHUNK_BYTES % EXTENT_BYTES == 0

_MAGIC = b"gfs tier"
_FOOTER = struct.Struct("<8sQQQ")
_SUM = struct.Struct("<I")


class TierRow(msgspec.Struct, frozen=True, array_like=True):
    """Where the bytes of one replica are.

    `version`: the chunk's when it was uploaded; it may be higher now, because a grant alone changes no bytes.
    `length_bytes`, `sums`: of the bytes in the object, the last sum over what is in its block. `valid_bytes`:
    up to where they still are the chunk's. `here`: bits of the extents that the local store has instead.
    """

    handle: ChunkHandle
    version: ChunkVersion
    length_bytes: int
    name: str
    sums: bytes
    valid_bytes: int
    here: int = 0

    def is_here(self, extent: int) -> bool:
        return bool(self.here >> extent & 1)

    def elsewhere(self, offset: int, length: int) -> list[int]:
        """The extents of these bytes that are not in the local store."""
        return [extent for extent in extents_of(offset, length) if not self.is_here(extent)]

    @property
    def is_needless(self) -> bool:
        """Whether the object has nothing that the local store has not."""
        return not self.elsewhere(0, self.valid_bytes)

    def with_here(self, extents: Iterable[int]) -> TierRow:
        here = self.here
        for extent in extents:
            here |= 1 << extent
        return msgspec.structs.replace(self, here=here)

    def cut(self, length: int) -> TierRow:
        """For a chunk that was cut to `length`."""
        return msgspec.structs.replace(self, valid_bytes=min(self.valid_bytes, length))

    def block_sums(self, offset: int, length: int) -> array[int]:
        """Sums of the blocks that these bytes are: whole ones, but for the last of the chunk."""
        assert offset % CHECKSUM_BLOCK_BYTES == 0, offset
        first = offset // CHECKSUM_BLOCK_BYTES
        return self.all_sums()[first : first + blocks_touched(offset, length)]

    def all_sums(self) -> array[int]:
        sums = array("I")
        sums.frombytes(self.sums)
        return sums


def new_row(
    server: str, handle: ChunkHandle, version: ChunkVersion, length_bytes: int, sums: array[int], token: str
) -> TierRow:
    """The row of an object that is about to be uploaded under a name never used before."""
    name = f"{names_of(server, handle)}{version:016x}-{token}"
    row = TierRow(handle, version, length_bytes, name, sums.tobytes(), valid_bytes=length_bytes)
    check_row(row)
    return row


def names_of(server: str, handle: ChunkHandle) -> str:
    """What the names of all objects of one replica begin with."""
    return f"{server}/{handle:016x}/"


def extents_of(offset: int, length: int) -> range:
    """The extents that these bytes touch."""
    return range(offset // EXTENT_BYTES, -(-(offset + length) // EXTENT_BYTES) if length else 0)


def check_row(row: TierRow) -> None:
    """Assert what is true of every row."""
    assert 0 <= row.valid_bytes <= row.length_bytes, (row.valid_bytes, row.length_bytes)
    assert 0 <= row.here < 1 << EXTENTS, row.here
    assert 0 < row.length_bytes <= CHUNK_BYTES, row.length_bytes
    assert len(row.sums) == _SUM.size * blocks_touched(0, row.length_bytes), (len(row.sums), row.length_bytes)


def trailer(row: TierRow) -> bytes:
    """What follows the bytes in the object: enough to know, without any server's disk, what it is."""
    said = row.sums + _FOOTER.pack(_MAGIC, row.handle, row.version, row.length_bytes)
    return said + _SUM.pack(crc32c(said))


def object_bytes(row: TierRow) -> int:
    """The length of the whole object."""
    return row.length_bytes + len(row.sums) + _FOOTER.size + _SUM.size


def encode_row(row: TierRow) -> bytes:
    content = msgspec.msgpack.encode(row)
    return _SUM.pack(crc32c(content)) + content


def decode_row(content: bytes) -> TierRow:
    """Raises: CorruptState."""
    if len(content) < _SUM.size or _SUM.unpack_from(content)[0] != crc32c(content[_SUM.size :]):
        raise CorruptState("the row of a tiered replica does not have its checksum")
    try:
        row = msgspec.msgpack.decode(content[_SUM.size :], type=TierRow)
    except msgspec.MsgspecError as error:
        raise CorruptState(f"the row of a tiered replica is not understood: {error}") from error
    check_row(row)
    return row
