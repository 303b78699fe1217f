"""Decisions at start: what a journal says of a chunk, what to redo, cut, make, drop or report. No I/O.

Two kinds of stop are told apart by the disk's boot id. After a kill the page cache is whole: every record in
the journal is true, and what does not verify was damaged later. After a power cut records and bytes that
were not synced may be missing in any order, so what was not synced is believed only where it verifies.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from gfs.chunkserver.core.append_window import AppendWindow
from gfs.chunkserver.core.chunk_record import (
    ChunkHeader,
    Deleted,
    Mutated,
    Record,
    Redo,
    apply_sums,
    window_after,
)
from gfs.errors import CorruptState
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, CHUNK_BYTES, ChunkHandle, ChunkVersion

BlockCheck = Callable[[int, int, int], bool]
"""(block, length of its committed bytes, their sum) -> whether the store's bytes have that sum."""


class ChunkReplay:
    """One chunk while the journal is replayed over what the index database holds of it.

    `header` None: no such chunk (any more). `redo`: an overwrite that was begun and not concluded.
    """

    def __init__(
        self,
        handle: ChunkHandle,
        header: ChunkHeader | None,
        full: array[int],
        window: AppendWindow | None = None,
    ) -> None:
        self.handle, self.header, self.full = handle, header, full
        self.window = AppendWindow() if window is None else window
        self.redo: Redo | None = None
        self.deleted = False
        self._synced = (header.length_bytes, header.tail_sum) if header else (0, 0)
        self._appended: list[tuple[int, int]] = []  # (length, tail sum) after each append not known synced

    def feed(self, record: Record) -> None:
        """Take the next record of this chunk.

        Raises: CorruptState when one before it is missing: a torn journal ends, it has no holes.
        """
        if isinstance(record, Deleted):
            self.header, self.redo, self.full, self.deleted = None, None, array("I"), True
            self._synced, self._appended = (0, 0), []
            self.window = AppendWindow()
            return
        outcome = record.outcome if isinstance(record, Redo) else record
        if not isinstance(outcome, Mutated):
            self.redo = None
            return
        begun = self.header.revision if self.header else 0
        if outcome.header.revision != begun + 1:
            raise CorruptState(
                f"chunk {self.handle:x}: the journal goes from revision {begun} to {outcome.header.revision}"
            )
        if isinstance(record, Redo):
            self.redo = record
            return
        self._take(outcome)

    def concluded_redo(self) -> Mutated | None:
        """Conclude the overwrite that was cut short; its bytes must be in the store, synced."""
        redo, self.redo = self.redo, None
        if redo is None:
            return None
        self._take(redo.outcome)
        return redo.outcome

    def _take(self, outcome: Mutated) -> None:
        self.redo = None
        self.header = outcome.header
        apply_sums(self.full, outcome)
        self.window = window_after(self.window, outcome)
        tail = (outcome.header.length_bytes, outcome.header.tail_sum)
        if outcome.data_synced:
            self._synced, self._appended = tail, []
        else:
            self._appended.append(tail)

    @property
    def synced_bytes(self) -> int:
        """Length up to which the bytes were on the disk; less than that in the store is damage."""
        return self._synced[0]

    def unverified_blocks(self) -> list[tuple[int, int, int]]:
        """(block, committed bytes, sum) of each block with bytes that were not known to be synced."""
        if self.header is None or not self._appended:
            return []
        blocks = [
            (block, CHECKSUM_BLOCK_BYTES, self.full[block])
            for block in range(self.synced_bytes // CHECKSUM_BLOCK_BYTES, self.header.full_blocks)
        ]
        if self.header.tail_bytes:
            blocks.append((self.header.full_blocks, self.header.tail_bytes, self.header.tail_sum))
        return blocks

    def cut_to_verified(self, verifies: BlockCheck) -> None:
        """After a power cut: fall back to the newest length whose bytes all verify.

        Never below what was synced, so nothing acknowledged durably is given up.
        """
        bad = next((found for found in self.unverified_blocks() if not verifies(*found)), None)
        if bad is None:
            return
        assert self.header is not None
        bad_start = bad[0] * CHECKSUM_BLOCK_BYTES
        length, tail_sum = self._synced
        for candidate, candidate_sum in reversed(self._appended):
            if candidate <= bad_start:
                # Blocks before the bad one verified with their later sums, so their prefixes are right too.
                length, tail_sum = candidate, candidate_sum
                break
            in_block = candidate - bad_start
            if in_block < CHECKSUM_BLOCK_BYTES and verifies(bad[0], in_block, candidate_sum):
                length, tail_sum = candidate, candidate_sum
                break
        length, tail_sum = max((length, tail_sum), self._synced)
        self.header = msgspec.structs.replace(self.header, length_bytes=length, tail_sum=tail_sum)
        del self.full[self.header.full_blocks :]
        self.window.cut(length)
        self._appended = []


@dataclass(frozen=True, slots=True)
class Repair:
    """What to do about one chunk before it is served. At most one of the fields is set."""

    make: bool = False
    cut_to: int | None = None
    corrupt: str = ""
    drop: bool = False


def repair_of(header: ChunkHeader | None, stored_bytes: int | None) -> Repair:
    """Compare one chunk of the index with the store; `stored_bytes` None: the store has no such chunk.

    Bytes past the committed length were never acknowledged; a chunk the index does not know is the rest of
    a creation or deletion cut short (its record was on the disk first).
    """
    if header is None:
        return Repair(drop=stored_bytes is not None)
    if stored_bytes is None:
        if header.length_bytes == 0:
            return Repair(make=True)
        return Repair(corrupt=f"its {header.length_bytes} bytes are missing")
    if stored_bytes < header.length_bytes:
        return Repair(corrupt=f"{stored_bytes} of its {header.length_bytes} bytes are there")
    if stored_bytes > header.length_bytes:
        return Repair(cut_to=header.length_bytes)
    return Repair()


def may_have_lost_bytes(header: ChunkHeader) -> bool:
    """Whether a power cut without sync-before-acknowledge may have taken acknowledged bytes of this chunk.

    The lost records cannot say which chunks they were of, so every chunk that could still grow is doubted.
    """
    may_grow = not header.guest and not header.sealed and header.length_bytes < CHUNK_BYTES
    return may_grow and not header.durable


def doubted(header: ChunkHeader) -> ChunkHeader:
    version: ChunkVersion = header.version
    return msgspec.structs.replace(header, short_version=version, revision=header.revision + 1)
