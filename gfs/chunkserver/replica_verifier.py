"""Looking for damage in replicas, block by block, and mending it when no replica is whole (GFS §5.2).

What follows from damage is not here: damage_marks keeps it, heartbeats tell it, the master acts on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from gfs import failpoints
from gfs.checksums import crc32c
from gfs.chunkserver.block_reader import BlockReader
from gfs.chunkserver.chunk_index import ChunkIndex
from gfs.chunkserver.chunk_state import ChunkState
from gfs.chunkserver.core.chunk_record import ChunkHeader
from gfs.chunkserver.core.versions import held, require_term
from gfs.chunkserver.damage_marks import DamageMarks
from gfs.chunkserver.disk_health import DiskHealth, disk_error, undone_on_error
from gfs.chunkserver.stores.interface import BytesUnreachable, ChunkStore
from gfs.errors import NotFound, Unavailable
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, ChunkHandle, ChunkVersion, Term

FetchBlock = Callable[[int, memoryview], bool]
"""Fill the buffer with a chunk's bytes from an offset on, from elsewhere; False when nobody has them."""


class ReadVerified(Protocol):
    """ReplicaStore.read_into."""

    def __call__(
        self, handle: ChunkHandle, version: ChunkVersion, offset: int, buffer: memoryview
    ) -> int: ...


@dataclass(frozen=True, slots=True)
class Verified:
    """One replica after every block was read: `block_checksums` are those noted, `bad_blocks` differ."""

    version: ChunkVersion
    length_bytes: int
    sealed: bool
    block_checksums: tuple[int, ...]
    bad_blocks: list[int]


class ReplicaVerifier:
    """Blocking, from any thread. Reads without hindering mutations of the chunk, but for a second look at a
    bad block while nobody writes: an overwrite in the same moment looks like damage."""

    def __init__(
        self,
        index: ChunkIndex,
        store: ChunkStore,
        reader: BlockReader,
        marks: DamageMarks,
        health: DiskHealth,
        *,
        load: Callable[[ChunkHandle], ChunkState],
        read: ReadVerified,
        on_mended: Callable[[ChunkHandle], None],
    ) -> None:
        self._index, self._store, self._reader = index, store, reader
        self._marks, self._health = marks, health
        self._load, self._read, self._on_mended = load, read, on_mended

    def handles_after(self, handle: ChunkHandle, *, limit: int) -> list[ChunkHandle]:
        """The next handles of replicas here, at most `limit`; fewer only at the end. Raises: CorruptState."""
        return [found for found, _ in islice(self._index.headers(after=handle), limit)]

    def verify(self, handle: ChunkHandle, offset: int, buffer: memoryview) -> int:
        """Check committed bytes from `offset` on, as many as fit in `buffer`; returns how many, 0 at the end.

        Raises: NotFound; StaleVersion (it was granted anew in this moment: try again); ChecksumMismatch,
            CorruptState, Unavailable (it cannot be read): then the replica is marked.
        """
        state = self._load(handle)
        if offset == 0:
            self._require_stored(state)
        header = state.header
        if header is None:
            raise NotFound(f"chunk {handle:x} is not here")
        return self._read(handle, header.version, offset, buffer)

    def bad_blocks(self, handle: ChunkHandle, version: ChunkVersion) -> Verified:
        """Check every block; one that is bad marks the replica.

        Raises: NotFound, StaleVersion, CorruptState; Unavailable when its bytes are missing.
        """
        state = self._load(handle)
        held(state.header, handle, version)
        self._require_stored(state)
        bad: list[int] = []
        block = 0
        while block * CHECKSUM_BLOCK_BYTES < held(state.header, handle, version).length_bytes:
            if not self._verifies(state, held(state.header, handle, version), block):
                with state.lock:
                    header = held(state.header, handle, version)
                    is_there = block * CHECKSUM_BLOCK_BYTES < header.length_bytes
                    if is_there and not self._verifies(state, header, block):
                        bad.append(block)
            block += 1
        if bad:
            self._marks.mark(handle, f"block {bad[0]} does not verify")
        with state.lock:
            header = held(state.header, handle, version)
            return Verified(
                header.version, header.length_bytes, header.sealed, all_checksums(state, header), bad
            )

    def mend(
        self, handle: ChunkHandle, version: ChunkVersion, fetch: FetchBlock, *, master_term: Term
    ) -> tuple[int, list[int]]:
        """Put back the bad blocks of a damaged replica; (how many were mended, those that are still bad).

        A block is written only with bytes that have the checksum the index has for it. With none bad any
        more the replica counts as undamaged. For when no replica of the chunk is whole: each may have what
        another lacks.
        Raises: NotFound, StaleVersion, Superseded; CorruptState, Unavailable (its bytes are missing
            altogether, an overwrite waits to be finished, it cannot be read); NoSpace, OutcomeUnknown.
        """
        self._health.require()
        found = self.bad_blocks(handle, version)
        state = self._load(handle)
        left: list[int] = []
        for block in found.bad_blocks:
            start = block * CHECKSUM_BLOCK_BYTES
            fetched = memoryview(bytearray(min(CHECKSUM_BLOCK_BYTES, found.length_bytes - start)))
            if not fetch(start, fetched) or crc32c(fetched) != found.block_checksums[block]:
                left.append(block)
                continue
            with state.lock:
                header = held(state.header, handle, version)
                require_term(header, handle, master_term)
                if state.broken or all_checksums(state, header) != found.block_checksums:
                    raise Unavailable(f"chunk {handle:x} has changed while it was mended")
                with undone_on_error(f"mending chunk {handle:x}"):
                    self._store.make_local(handle, start, len(fetched))
                    self._store.write_at(handle, fetched, start)
        self._conclude_mending(state, version, left)
        return len(found.bad_blocks) - len(left), left

    def _conclude_mending(self, state: ChunkState, version: ChunkVersion, left: Sequence[int]) -> None:
        with state.lock:
            try:
                failpoints.hit("chunk.before_sync")
                self._store.sync(state.handle)
            except OSError as error:
                raise self._health.fail("syncing a mended chunk", error) from error
        # Only what the disk gives back is believed, and only of a replica that is whole.
        if not left and not state.broken and not self.bad_blocks(state.handle, version).bad_blocks:
            self._marks.clear(state.handle)
            self._on_mended(state.handle)

    def _require_stored(self, state: ChunkState) -> None:
        """By its name: a file that was deleted under us can still be read through its open descriptor."""
        with state.lock:
            if state.header is not None and not self._store.is_stored(state.handle):
                raise missing_bytes(self._marks, state.handle)

    def _verifies(self, state: ChunkState, header: ChunkHeader, block: int) -> bool:
        try:
            return self._reader.block(state.handle, header, state.full, block) is not None
        except KeyError:
            return False
        except BytesUnreachable as error:
            raise disk_error(error, f"verifying chunk {state.handle:x}") from error
        except OSError as error:
            self._marks.mark(state.handle, f"cannot be read: {error.strerror}")
            return False


def all_checksums(state: ChunkState, header: ChunkHeader) -> tuple[int, ...]:
    """Of all blocks, also of the partial last one; the chunk's lock is held."""
    return (*state.full, *((header.tail_sum,) if header.tail_bytes else ()))


def missing_bytes(marks: DamageMarks, handle: ChunkHandle) -> Unavailable:
    """Mark a replica whose bytes are not there; the error for whoever wanted them."""
    marks.mark(handle, "its bytes are missing")
    return Unavailable(f"chunk {handle:x}: its bytes are missing")
