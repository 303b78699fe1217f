"""Writes past the committed length. Overwrites are overwriter's.

Order: bytes to the store, beyond the committed length → (synced) → record in the journal → committed. Until
the record is there the bytes do not exist: a failure cuts them off at once, a crash at the next start.
"""

from __future__ import annotations

from collections.abc import Sequence

from gfs import failpoints
from gfs.chunkserver.chunk_index import ChunkIndex
from gfs.chunkserver.chunk_state import Change, ChunkState
from gfs.chunkserver.core.checksums import sums_after_gap, sums_of_written_blocks
from gfs.chunkserver.core.chunk_record import ChunkHeader, Mutated
from gfs.chunkserver.core.versions import settled_short_version
from gfs.chunkserver.disk_health import disk_error
from gfs.chunkserver.durable_commits import DurableCommits
from gfs.chunkserver.stores.interface import ChunkStore
from gfs.messages.replicas import AppendedRecord
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES


class Appender:
    """`is_durable`: bytes and record are on the disk when append() returns, not only those of chunks whose
    header says so."""

    def __init__(
        self, index: ChunkIndex, store: ChunkStore, commits: DurableCommits, *, is_durable: bool
    ) -> None:
        self._index, self._store, self._commits = index, store, commits
        self._is_durable = is_durable

    def append(
        self,
        state: ChunkState,
        offset: int,
        data: memoryview,
        given: Sequence[int] | None,
        records: Sequence[AppendedRecord] = (),
    ) -> None:
        """Write `data` at or past the committed length (a gap is zeros); the chunk's lock is held.

        `records`: what `data` consists of, as far as it is identified.
        Raises: NoSpace, Unavailable, ChecksumMismatch, InvalidArgument: the chunk is as it was.
            KeyError: the chunk's bytes are missing. OutcomeUnknown: a sync failed.
        """
        header = state.header
        assert header is not None and offset >= header.length_bytes, (offset, header)
        sums, prefix_sum = sums_after_gap(header.length_bytes, header.tail_sum, offset)
        sums.extend(sums_of_written_blocks(offset, data, prefix_sum=prefix_sum, given=given))
        length = offset + len(data)
        tail_sum = sums.pop() if length % CHECKSUM_BLOCK_BYTES else 0
        following = ChunkHeader(
            version=header.version,
            length_bytes=length,
            tail_sum=tail_sum,
            revision=header.revision + 1,
            master_term=header.master_term,
            replaced_version=header.replaced_version,
            sealed=header.sealed,
            short_version=settled_short_version(header),
            guest=header.guest,
            durable=header.durable,
        )
        is_durable = self._is_durable or header.durable
        record = Mutated(
            state.handle,
            following,
            header.full_blocks,
            sums.tobytes(),
            is_durable,
            tuple(records) if any(record.client for record in records) else (),
        )
        try:
            failpoints.hit("chunk.before_write")
            if state.has_surplus:
                self._store.truncate(state.handle, header.length_bytes)
            state.has_surplus = True
            self._store.write_at(state.handle, data, offset)
            failpoints.hit("chunk.data_written")
            if is_durable:
                self._commits.commit(Change(state, record), sync_bytes=True)
            else:
                self._index.commit([Change(state, record)])
        except OSError as error:
            self.cut_surplus(state, header.length_bytes)
            raise disk_error(error, f"writing chunk {state.handle:x}") from error
        state.has_surplus = False

    def cut_surplus(self, state: ChunkState, length: int) -> None:
        """Cut off what was never committed, or is no longer; if the disk refuses, later."""
        try:
            self._store.truncate(state.handle, length)
            state.has_surplus = False
        except OSError:
            state.has_surplus = True  # the next append, or the next start, tries again
