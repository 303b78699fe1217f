"""The checksum of a file as HDFS tells it: MD5 of the blocks' MD5s of CRC32C sums. No requests, no files."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

from crc32c import crc32c

from gfs.vocabulary import CHUNK_BYTES

SUM_BYTES = 512  # of content that one CRC is of, as HDFS has it unless configured otherwise
_BUFFER_BYTES_MIN = 32
assert CHUNK_BYTES % SUM_BYTES == 0  # a sum never spans two blocks


class FileChecksum:
    """Fed with all bytes of a file in order. The same as of a file in HDFS whose blocks have 64 MiB."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._block = hashlib.md5(usedforsecurity=False)
        self._block_bytes = 0
        self._rest = b""

    def feed(self, data: bytes) -> None:
        data = self._rest + data
        whole = len(data) - len(data) % SUM_BYTES
        view = memoryview(data)
        for start in range(0, whole, SUM_BYTES):
            self._add(view[start : start + SUM_BYTES])
        self._rest = data[whole:]

    def _add(self, piece: bytes | memoryview) -> None:
        self._block.update(struct.pack(">I", crc32c(piece)))
        self._block_bytes += len(piece)
        if self._block_bytes == CHUNK_BYTES:
            self._end_block()

    def _end_block(self) -> None:
        self._blocks.append(self._block.digest())
        self._block, self._block_bytes = hashlib.md5(usedforsecurity=False), 0

    def answer(self) -> dict[str, Any]:  # Any: what JSON can hold
        """The members of FileChecksum. Nothing is fed after it."""
        if self._rest:
            self._add(self._rest)
        if self._block_bytes:
            self._end_block()
        joined = b"".join(self._blocks)
        # HDFS digests its buffer to the end, which doubles as it grows, and not only what is in it.
        buffer_bytes = _BUFFER_BYTES_MIN
        while buffer_bytes < len(joined):
            buffer_bytes *= 2
        digest = hashlib.md5(joined.ljust(buffer_bytes, b"\0"), usedforsecurity=False).digest()
        sum_bytes, kind = (SUM_BYTES, "CRC32C") if self._blocks else (0, "CRC32")
        sums_per_block = CHUNK_BYTES // SUM_BYTES if len(self._blocks) > 1 else 0
        told = struct.pack(">IQ", sum_bytes, sums_per_block) + digest
        return {
            "algorithm": f"MD5-of-{sums_per_block}MD5-of-{sum_bytes}{kind}",
            "bytes": told.hex(),
            "length": len(told),
        }
