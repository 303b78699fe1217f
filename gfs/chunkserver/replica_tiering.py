"""Moves one replica's bytes to the tier and back, beside its writers and readers. Not which one, nor when.

A replica goes out only as the index knows it to be, and only if it is at rest: no guest, not damaged, nothing
in doubt after a power cut. Its journal records are flushed before: a start must not need the object service
to repeat an overwrite. The upload takes long and holds no lock; what a writer did meanwhile shows in the
header, and then the object is given up.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

from gfs.chunkserver.core.chunk_record import ChunkHeader
from gfs.chunkserver.core.tier_object import EXTENT_BYTES
from gfs.chunkserver.disk_health import undone_on_error
from gfs.chunkserver.replica_access import ReplicaAccess
from gfs.chunkserver.stores.tiered import TieredStore
from gfs.vocabulary import ChunkHandle


class ReplicaTiering:
    """Blocking; one move at a time bounds the memory and the traffic it takes."""

    def __init__(self, access: ReplicaAccess, tier: TieredStore, *, flush: Callable[[], None]) -> None:
        """`flush`: as ReplicaStore.flush."""
        assert access.store is tier
        self._access, self._tier, self._flush = access, tier, flush

    def move_out(self, handle: ChunkHandle, *, bytes_min: int = 1) -> int:
        """Have the object service keep this replica's bytes, how many; 0: it stays as it is, being out
        already, not at rest, or shorter than `bytes_min`.

        Raises: ChecksumMismatch (the replica's own bytes, or what the service gave back), NoSpace,
            Unavailable (the service, or the disk): the replica is where it was, and as good.
        """
        self._access.health.require()
        state = self._access.load(handle)
        with state.lock:
            header = state.header
            if header is None or not self._is_at_rest(header, handle):
                return 0
            if header.length_bytes < max(1, bytes_min) or self._access.is_damaged(state) or state.has_surplus:
                return 0
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
                return 0
            with undone_on_error(what):
                self._tier.let_go(row)
        return header.length_bytes

    def bring_back(self, handle: ChunkHandle) -> int:
        """Make one extent of this replica local again, how many bytes of it; 0: all of it is.

        Raises: Unavailable (the service, the disk, or the object is lost), NoSpace: nothing has changed.
        """
        self._access.health.require()
        row = self._tier.row(handle)
        elsewhere = [] if row is None else row.elsewhere(0, row.valid_bytes)
        if row is None or not elsewhere:
            return 0
        state = self._access.load(handle)
        with state.lock:
            try:
                with undone_on_error(f"bringing chunk {handle:x} back from the object service"):
                    self._tier.make_local(handle, elsewhere[0] * EXTENT_BYTES, 1)
            except KeyError as error:
                raise self._access.missing(handle) from error
        return EXTENT_BYTES

    def collect(self) -> int:
        """Have needless objects deleted, how many; replicas whose object is lost become damaged ones.

        Raises: Unavailable.
        """
        with undone_on_error("looking through the object service"):
            deleted, lost = self._tier.collect()
        for handle in lost:
            self._access.damage.mark(handle, "its object is lost")
        return deleted

    def partly_back(self) -> list[ChunkHandle]:
        """Chunks with bytes on either side."""
        return [handle for handle, row in self._tier.tiered().items() if row.here]

    def out(self) -> list[ChunkHandle]:
        """Chunks with bytes on the object service."""
        return list(self._tier.tiered())

    def _is_at_rest(self, header: ChunkHeader, handle: ChunkHandle) -> bool:
        row = self._tier.row(handle)
        return not header.guest and not header.short_version and (row is None or row.here > 0)
