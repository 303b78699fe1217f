"""Bytes of a chunk, verified block by block where they arrive. Who asks for them so: data_client."""

from __future__ import annotations

from collections.abc import Sequence

from gfs.checksums import crc32c
from gfs.errors import ChecksumMismatch
from gfs.transport.data_socket import DATA_WINDOW_BYTES, DataSocket
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES


def receive_verifying(connection: DataSocket, first: int, body: memoryview, checksums: Sequence[int]) -> None:
    """Fill `body`, the bytes of a chunk from `first` on, comparing each block while it is hot.

    Raises: ChecksumMismatch; OSError of the connection.
    """
    have = summed = 0
    block_end = CHECKSUM_BLOCK_BYTES - first % CHECKSUM_BLOCK_BYTES
    for expected in checksums:
        block_end = min(block_end, len(body))
        while have < block_end:
            got = connection.receive_into(body[have : have + DATA_WINDOW_BYTES])
            if got == 0:
                raise ConnectionResetError(f"closed after {have} of {len(body)} bytes")
            have += got
        if crc32c(body[summed:block_end]) != expected:
            block = (first + summed) // CHECKSUM_BLOCK_BYTES
            raise ChecksumMismatch(
                f"block {block} arrived with other bytes than its checksum is of",
                details={"block": str(block)},
            )
        summed, block_end = block_end, block_end + CHECKSUM_BLOCK_BYTES
    assert summed == have == len(body), (summed, have, len(body))
