"""Many rows of one layout side by side: a field of all of them at once. What they mean is records'."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence

from gfs.master.core.records import INODE_ROW_BYTES


def column(joined: bytes, row_bytes: int, start: int, width: int) -> array[int]:
    """The big-endian numbers of `width` bytes, at most 8, at `start` of each of many joined rows.

    Copying slices is ten times as fast as taking row after row apart.
    """
    count = len(joined) // row_bytes
    assert width <= 8 and count * row_bytes == len(joined), (width, count, len(joined))
    gathered = bytearray(8 * count)
    for place in range(width):
        gathered[8 - width + place :: 8] = joined[start + place :: row_bytes]
    numbers = array("Q", bytes(gathered))
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


class InodeColumns:
    """Many inode rows side by side: every field of all of them at once, for a tenth of the cost."""

    def __init__(self, rows: Sequence[bytes]) -> None:
        """`rows`: all of them as long as an inode's."""
        self._joined = b"".join(rows)
        assert len(self._joined) == INODE_ROW_BYTES * len(rows)

    def flags(self) -> bytes:
        return self._joined[0::INODE_ROW_BYTES]

    def replication_goals(self) -> bytes:
        return self._joined[1::INODE_ROW_BYTES]

    def chunk_counts(self) -> array[int]:
        return column(self._joined, INODE_ROW_BYTES, 2, 4)

    def accesses(self) -> array[int]:
        """Mode in the lower nine bits, the number of owner and group above."""
        return column(self._joined, INODE_ROW_BYTES, 6, 3)

    def parents(self) -> array[int]:
        return column(self._joined, INODE_ROW_BYTES, 9, 6)

    def lengths(self) -> array[int]:
        return column(self._joined, INODE_ROW_BYTES, 27, 6)

    def first_chunks(self) -> array[int]:
        return column(self._joined, INODE_ROW_BYTES, 33, 6)
