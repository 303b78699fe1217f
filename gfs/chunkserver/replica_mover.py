"""Moves one replica's bytes to the store that this server goes over to, beside its writers and readers.

The bytes are copied without the chunk's lock first. What writers did meanwhile shows in the checksums, and
only that is copied again under the lock: so a write waits for what has changed, not for the whole chunk.
Which replica, and when, others decide (store_migration); what a crash leaves, stores/moving tells.
"""

from __future__ import annotations

from gfs import failpoints
from gfs.chunkserver.chunk_state import ChunkState
from gfs.chunkserver.core.tier_object import EXTENT_BYTES
from gfs.chunkserver.disk_health import undone_on_error
from gfs.chunkserver.replica_access import ReplicaAccess, failpoint
from gfs.chunkserver.replica_verifier import all_checksums
from gfs.chunkserver.stores.moving import MovingStore
from gfs.errors import ChecksumMismatch
from gfs.vocabulary import ChunkHandle


class ReplicaMover:
    """Blocking; one replica at a time bounds the memory and the traffic it takes."""

    def __init__(self, access: ReplicaAccess, store: MovingStore) -> None:
        self._access, self._store = access, store

    def move(self, handle: ChunkHandle) -> int:
        """Have the new store keep this replica; returns its bytes, 0 also for one that is gone or has moved.

        Raises: ChecksumMismatch, CorruptState, Unavailable (it is damaged, and is told of; or the disk
            refuses), NoSpace: the replica is where it was, and as good.
        """
        self._access.health.require()
        state = self._access.load(handle)
        done: tuple[int, ...] | None = None
        with state.lock:
            header = state.header
            sums = all_checksums(state, header) if header is not None else ()
        if header is not None:
            self._make_local(state, header.length_bytes)
            try:
                with undone_on_error(f"moving chunk {handle:x}"):
                    self._store.copy(handle, header.length_bytes, sums)
                done = sums
            except (ChecksumMismatch, KeyError):
                pass  # a writer may have been there; the next look is believed
        failpoint("move.copied")
        with state.lock, undone_on_error(f"moving chunk {handle:x}"):
            if self._store.has_left(handle):
                return 0
            if state.header is None:
                self._store.delete(handle)  # the rest of a deletion that was cut short
                return 0
            length = state.header.length_bytes
            self._access.require_undamaged(state)
            sums = all_checksums(state, state.header)
            if sums != done or header is None or length != header.length_bytes:
                try:
                    self._store.copy(handle, length, sums, done)
                except ChecksumMismatch:
                    self._access.damage.mark(handle, "a block does not verify")
                    raise
                except KeyError as error:
                    raise self._access.missing(handle) from error
            failpoints.hit("move.compared")
            self._store.depart(handle)
            failpoints.hit("move.departed")
            return length

    def _make_local(self, state: ChunkState, length_bytes: int) -> None:
        """Fetch what a tier above has elsewhere, by pieces: a writer waits for one of them at most."""
        handle = state.handle
        for start in range(0, length_bytes, EXTENT_BYTES):
            with state.lock, undone_on_error(f"moving chunk {handle:x}"):
                if self._store.has_left(handle):
                    return
                try:
                    self._access.store.make_local(handle, start, 1)
                except KeyError as error:
                    raise self._access.missing(handle) from error

    def settle(self) -> None:
        """What has moved so far stays moved. Raises: OutcomeUnknown: a sync, and so the disk, has failed."""
        try:
            self._store.settle()
        except OSError as error:
            raise self._access.health.fail("syncing chunks that were moved", error) from error
