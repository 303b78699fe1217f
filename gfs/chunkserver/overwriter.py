"""Writes over committed bytes so that no crash leaves a block half-new. Appends are appender's.

Order: earlier bytes synced → redo record synced → bytes in place → bytes synced → record with the new sums.
Until the redo is on the disk not a byte changes; from then on the overwrite can be finished from it. A
block whose old sum is durable is therefore never half-new without its redo (GFS §5.2, and beyond it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

import msgspec

from gfs import failpoints
from gfs.checksums import crc32c
from gfs.chunkserver.block_reader import BlockReader
from gfs.chunkserver.chunk_index import ChunkIndex
from gfs.chunkserver.chunk_state import Change, ChunkState
from gfs.chunkserver.core.checksums import sums_of_written_blocks
from gfs.chunkserver.core.chunk_record import ChunkHeader, Mutated, Redo, RedoDropped
from gfs.chunkserver.core.versions import settled_short_version
from gfs.chunkserver.disk_health import DiskHealth, disk_error, undone_on_error
from gfs.chunkserver.durable_commits import DurableCommits
from gfs.chunkserver.stores.interface import ChunkStore
from gfs.errors import ChecksumMismatch, ReplicaFailed
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, ChunkHandle

_BLOCK = CHECKSUM_BLOCK_BYTES


class Overwriter:
    def __init__(
        self,
        index: ChunkIndex,
        store: ChunkStore,
        reader: BlockReader,
        commits: DurableCommits,
        health: DiskHealth,
        *,
        is_durable: bool,
        on_damage: Callable[[ChunkHandle, str], None],
        on_cut_short: Callable[[ChunkHandle], None],
    ) -> None:
        self._index, self._store, self._reader = index, store, reader
        self._commits, self._health = commits, health
        self._is_durable, self._on_damage, self._on_cut_short = is_durable, on_damage, on_cut_short

    def overwrite(
        self,
        state: ChunkState,
        offset: int,
        data: memoryview,
        given: Sequence[int] | None,
    ) -> None:
        """Write `data` from below the committed length on, maybe past it; the chunk's lock is held.

        Raises:
            ChecksumMismatch: the first or last block is damaged; nothing is written.
            NoSpace, Unavailable: nothing is changed. ReplicaFailed: neither done nor undone.
        """
        outcome = self._outcome(state, offset, data, given)
        header = state.header
        assert header is not None and offset < header.length_bytes
        old = bytearray(min(len(data), header.length_bytes - offset))
        with undone_on_error("reading what is overwritten"):
            self._store.read_into(state.handle, memoryview(old), offset)
        self._index.begin_overwrite()
        try:
            redo = Redo(outcome, offset, bytes(data))
            with undone_on_error("logging an overwrite"):
                self._commits.commit(Change(state, redo), sync_bytes=True)
            try:
                failpoints.hit("chunk.redo_logged")
                self._store.write_at(state.handle, data, offset)
                failpoints.hit("chunk.overwritten")
                self._conclude(state, outcome)
            except OSError as error:
                self._undo(state, header, offset, old, error)
        finally:
            self._index.end_overwrite()

    def _outcome(
        self, state: ChunkState, offset: int, data: memoryview, given: Sequence[int] | None
    ) -> Mutated:
        header = state.header
        assert header is not None
        stop = offset + len(data)
        first, last = offset // _BLOCK, (stop - 1) // _BLOCK
        prefix_sum = 0
        if offset % _BLOCK:
            prefix_sum = crc32c(self._old_block(state, header, first)[: offset % _BLOCK])
        suffix = b""
        if stop < min((last + 1) * _BLOCK, header.length_bytes):
            suffix = bytes(self._old_block(state, header, last)[stop - last * _BLOCK :])
        sums = sums_of_written_blocks(offset, data, prefix_sum=prefix_sum, suffix=suffix, given=given)

        length = max(header.length_bytes, stop)
        tail_sum = header.tail_sum if length == header.length_bytes else 0
        if last == length // _BLOCK:
            tail_sum = sums.pop()
        return Mutated(
            handle=state.handle,
            header=msgspec.structs.replace(
                header,
                length_bytes=length,
                tail_sum=tail_sum,
                revision=header.revision + 1,
                short_version=settled_short_version(header),
            ),
            first_block=first,
            sums=sums.tobytes(),
            data_synced=True,
        )

    def _old_block(self, state: ChunkState, header: ChunkHeader, block: int) -> memoryview:
        with undone_on_error("reading what is overwritten"):
            found = self._reader.block(state.handle, header, state.full, block)
        if found is None:
            self._on_damage(state.handle, f"block {block} does not verify")
            raise ChecksumMismatch(f"chunk {state.handle:x}: block {block} is damaged; nothing was written")
        return found

    def _conclude(self, state: ChunkState, outcome: Mutated) -> None:
        change = Change(state, outcome)
        if self._is_durable or outcome.header.durable:
            self._commits.commit(change, sync_bytes=True)
            return
        try:
            failpoints.hit("chunk.before_sync")
            self._store.sync(state.handle)
        except OSError as error:
            raise self._health.fail("syncing an overwritten chunk", error) from error
        self._index.commit([change])

    def _undo(
        self, state: ChunkState, header: ChunkHeader, offset: int, old: bytearray, cause: OSError
    ) -> NoReturn:
        """Put the old bytes back, verify them, and only then forget the redo.

        Raises: NoSpace, Unavailable: undone. ReplicaFailed: the chunk is half-new.
        """
        state.has_surplus = True
        try:
            self._store.write_at(state.handle, old, offset)
            self._store.truncate(state.handle, header.length_bytes)
            state.has_surplus = False
        except OSError:
            pass  # whether it worked all the same, the checksums say
        try:
            blocks = range(offset // _BLOCK, (offset + len(old) - 1) // _BLOCK + 1)
            if all(self._reader.block(state.handle, header, state.full, block) for block in blocks):
                self._commits.commit(Change(state, RedoDropped(state.handle)), sync_bytes=True)
                raise disk_error(cause, f"overwriting chunk {state.handle:x}") from cause
        except OSError:
            pass  # the redo stays: a restart finishes the overwrite
        state.broken = True
        self._on_cut_short(state.handle)
        raise ReplicaFailed(
            f"chunk {state.handle:x}: an overwrite failed half-way and could not be undone"
        ) from cause
