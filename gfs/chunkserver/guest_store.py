"""Guests on the disk: copies of chunks that are no replicas yet, filled block by block (GFS §4.3).

What a guest is, core/guests says; where its bytes come from, clone_receiver. Guests share index and store
with the replicas, so that one becomes a replica by a new header alone (replica_versions.bump).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from gfs.chunkserver.appender import Appender
from gfs.chunkserver.chunk_state import ChunkState
from gfs.chunkserver.core.append_window import NO_RECORDS
from gfs.chunkserver.core.chunk_record import FILLING, WHOLE, Mutated
from gfs.chunkserver.core.guests import header_to_fill, ranges_missing, require_filling, whole_header
from gfs.chunkserver.overwriter import Overwriter
from gfs.chunkserver.replica_access import ReplicaAccess, failpoint
from gfs.errors import ChecksumMismatch, StaleVersion, Unavailable
from gfs.messages.heartbeat import HeldChunk
from gfs.settings import CLONE_PIECE_BYTES
from gfs.vocabulary import ChunkHandle, ChunkVersion, Term


class GuestStore:
    """Every method blocks and may be called from any thread. Part of a ReplicaStore, which lends its means.

    Invariants: a whole guest is changed by nothing but a copy of a later version, a bump and a deletion; a
    piece is taken only by the copy it was fetched for.
    """

    def __init__(
        self,
        access: ReplicaAccess,
        appender: Appender,
        overwriter: Overwriter,
        whole: Mapping[ChunkHandle, HeldChunk],
        *,
        delete: Callable[[ChunkHandle], bool],
    ) -> None:
        """`whole`: guests found at the start."""
        self._access, self._appender, self._overwriter = access, appender, overwriter
        self._delete = delete
        self._lock = threading.Lock()
        self._whole = dict(whole)

    def whole(self) -> list[HeldChunk]:
        """Guests that may be members of a set without having been told."""
        with self._lock:
            return list(self._whole.values())

    def forget(self, handle: ChunkHandle) -> None:
        """It is a replica now, or deleted."""
        with self._lock:
            self._whole.pop(handle, None)

    def begin(
        self,
        handle: ChunkHandle,
        version: ChunkVersion,
        wanted: Sequence[int],
        source_bytes: int,
        *,
        master_term: Term,
    ) -> list[tuple[int, int]]:
        """Get ready for a copy of `version`, whose blocks have the sums `wanted`; (offset, length) to fetch.

        A replica here that has missed mutations becomes a guest; what is damaged is deleted first.
        Raises: Superseded; StaleVersion (this server holds the version, or a later one); CorruptState (what
            is here cannot be told); NoSpace, Unavailable.
        """
        self._access.health.require()
        state = self._access.index.load(handle)
        if state.header is not None and self._access.is_damaged(state):
            header_to_fill(state.header, handle, version, source_bytes=0, master_term=master_term)
            self._delete(handle)
            state = self._access.index.load(handle)
        with state.lock:
            header = state.header
            following = header_to_fill(
                header, handle, version, source_bytes=source_bytes, master_term=master_term
            )
            if header is not None and following is header:
                have = (*state.full, header.tail_sum) if header.tail_bytes else tuple(state.full)
                if have != tuple(wanted) or header.length_bytes != source_bytes:
                    raise StaleVersion(f"chunk {handle:x}: version {version} was copied before its fence")
                return []
            self.forget(handle)
            record = Mutated(handle, following, data_synced=True, window=NO_RECORDS)
            if header is None:
                with self._access.making(state):
                    self._access.create(state)
                    self._access.commit_durably(state, record)
            else:
                self._access.commit_durably(state, record)
            failpoint("clone.begun")
            if header is not None:
                self._appender.cut_surplus(state, following.length_bytes)
                self._access.feed.changed(handle)
            missing = ranges_missing(state.full, wanted, source_bytes, piece_bytes=CLONE_PIECE_BYTES)
            return list(missing)

    def put(self, handle: ChunkHandle, version: ChunkVersion, offset: int, data: memoryview) -> None:
        """Take one piece: whole blocks of the guest, or what follows its last one.

        Raises: StaleVersion (another copy has begun, or the guest is gone); NoSpace, Unavailable.
        """
        self._access.health.require()
        state = self._access.index.load(handle)
        try:
            with state.lock:
                self._put(state, version, offset, data)
        except KeyError as error:
            self.drop_unfinished(handle)
            raise Unavailable(f"chunk {handle:x}: the bytes of its copy are missing") from error

    def _put(self, state: ChunkState, version: ChunkVersion, offset: int, data: memoryview) -> None:
        header = require_filling(state.header, state.handle, version)
        self._access.require_space(len(data))
        if offset + len(data) <= header.length_bytes:
            self._overwriter.overwrite(state, offset, data, None)
        elif offset == header.length_bytes:
            self._appender.append(state, offset, data, None)
        else:
            raise StaleVersion(f"chunk {state.handle:x}: {offset} is not where the copy goes on")

    def sync(self, handle: ChunkHandle, version: ChunkVersion) -> None:
        """The bytes so far are on the disk: what the last, fenced piece need not wait for."""
        state = self._access.index.load(handle)
        with state.lock:
            require_filling(state.header, handle, version)
            self._access.sync_chunks([state])

    def finish(
        self,
        handle: ChunkHandle,
        version: ChunkVersion,
        wanted: Sequence[int],
        source_bytes: int,
        *,
        sealed: bool,
        append_window: bytes,
    ) -> None:
        """The copy is equal to the source, block by block; it is whole, and on the disk, when this returns.

        Raises: StaleVersion (it is not equal, or not being made any more); NoSpace, Unavailable.
        """
        self._access.health.require()
        state = self._access.index.load(handle)
        with state.lock:
            if state.header is not None and state.header.guest == WHOLE and state.header.version == version:
                return  # begin() has compared it
            header = require_filling(state.header, handle, version)
            if self._access.is_damaged(state):
                raise ChecksumMismatch(f"chunk {handle:x}: its copy is damaged; it will be made anew")
            have = (*state.full, header.tail_sum) if header.tail_bytes else tuple(state.full)
            if have != tuple(wanted) or header.length_bytes != source_bytes:
                raise StaleVersion(f"chunk {handle:x}: the copy of version {version} differs from its source")
            following = whole_header(header, sealed=sealed)
            self._access.commit_durably(
                state, Mutated(handle, following, data_synced=True, window=append_window or NO_RECORDS)
            )
            with self._lock:
                self._whole[handle] = HeldChunk(handle, version, source_bytes)

    def drop_unfinished(self, handle: ChunkHandle) -> None:
        """Delete a guest that is not whole; what is anything else stays."""
        state = self._access.index.load(handle)
        if state.header is not None and state.header.guest == FILLING:
            self._delete(handle)
