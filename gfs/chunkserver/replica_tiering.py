"""Moves one replica's bytes to the tier, beside its writers and readers. Which one, and when, others decide.

A replica goes out only as the index knows it to be, and only if it is at rest: sealed or full, no guest, not
damaged, nothing in doubt after a power cut. Its journal records are flushed before: a start must not need the
object service to repeat an overwrite. The upload takes long and holds no lock; what a writer did meanwhile
shows in the header, and then the object is given up. A replica that is written to comes back by itself.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

from gfs.chunkserver.core.chunk_record import ChunkHeader
from gfs.chunkserver.disk_health import undone_on_error
from gfs.chunkserver.replica_access import ReplicaAccess
from gfs.chunkserver.stores.tiered import TieredStore
from gfs.vocabulary import CHUNK_BYTES, ChunkHandle


class ReplicaTiering:
    """Blocking; one move at a time bounds the memory and the traffic it takes."""

    def __init__(self, access: ReplicaAccess, tier: TieredStore, *, flush: Callable[[], None]) -> None:
        """`flush`: as ReplicaStore.flush."""
        assert access.store is tier
        self._access, self._tier, self._flush = access, tier, flush

    def move_out(self, handle: ChunkHandle) -> bool:
        """Have the object service keep this replica's bytes; False: it is not at rest, or there already.

        Raises: ChecksumMismatch (the replica's own bytes, or what the service gave back), NoSpace,
            Unavailable (the service, or the disk): the replica is where it was, and as good.
        """
        self._access.health.require()
        state = self._access.load(handle)
        with state.lock:
            header = state.header
            if not self._is_at_rest(header, handle) or self._access.is_damaged(state) or state.has_surplus:
                return False
            assert header is not None
            sums = array("I", state.full)
        if header.tail_bytes:
            sums.append(header.tail_sum)
        self._flush()  # whatever made the replica what `header` says
        what = f"moving chunk {handle:x} to the object service"
        try:
            with undone_on_error(what):
                row = self._tier.upload(handle, header.version, header.length_bytes, sums)
        except KeyError as error:
            raise self._access.missing(handle) from error
        with state.lock:
            if state.header != header or self._access.is_damaged(state):
                self._tier.give_up(row)
                return False
            with undone_on_error(what):
                self._tier.let_go(row)
        return True

    def _is_at_rest(self, header: ChunkHeader | None, handle: ChunkHandle) -> bool:
        if header is None or header.guest or header.short_version or not header.length_bytes:
            return False
        return (header.sealed or header.length_bytes == CHUNK_BYTES) and handle not in self._tier.tiered()
