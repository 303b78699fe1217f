"""Replicas as the master orders them: raised to a version, cut, sealed, copied (I1, I3, I5). No mutations.

What a version allows is core/versions; when the master may order it, chunk_orders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from gfs.checksums import crc32c
from gfs.chunkserver.appender import Appender
from gfs.chunkserver.chunk_state import Change, ChunkState
from gfs.chunkserver.core.append_window import encode_window
from gfs.chunkserver.core.chunk_record import ChunkHeader, Mutated
from gfs.chunkserver.core.versions import (
    check_cut,
    header_after_bump,
    header_after_cut,
    header_to_copy,
    held,
)
from gfs.chunkserver.disk_health import undone_on_error
from gfs.chunkserver.guest_store import GuestStore
from gfs.chunkserver.replica_access import ReplicaAccess, failpoint
from gfs.errors import ChecksumMismatch
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, ChunkHandle, ChunkVersion, Term

ANY_TERM = Term(0)


class Bumped(NamedTuple):
    """What a replica held before a bump: its version (0: it held none) and its committed length.

    `may_be_short`: as in ReplicaStatus; such a replica must not be in a set with a longer one.
    """

    replaced_version: ChunkVersion
    length_bytes: int
    may_be_short: bool = False


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """`may_be_short`: a power cut may have taken acknowledged bytes, and no newer set has settled it."""

    version: ChunkVersion
    length_bytes: int
    sealed: bool
    block_checksums: tuple[int, ...] = ()
    may_be_short: bool = False
    append_window: bytes = b""


class ReplicaVersions:
    """Part of a ReplicaStore. Every method blocks and may be called from any thread."""

    def __init__(self, access: ReplicaAccess, appender: Appender, guests: GuestStore) -> None:
        self._access, self._appender, self._guests = access, appender, guests

    def bump(
        self,
        handle: ChunkHandle,
        version: ChunkVersion,
        *,
        oldest_version: ChunkVersion,
        create: bool,
        master_term: Term,
        durable: bool = False,
    ) -> Bumped:
        """Raise a replica to `version` (I1, I3, I5); version and bytes are on the disk when this returns.

        The same version under the same or a newer term is answered as the first time. `durable`: what is
        written under it is on the disk before it is acknowledged, whatever the store's own durability.
        Raises: NotFound (none held, and not `create`), Superseded, StaleVersion, ChecksumMismatch (the
            replica is damaged: it must not be in the set), NoSpace, Unavailable.
        """
        failpoint("chunk.before_bump")
        self._access.health.require()
        state = self._access.load(handle)
        with state.lock:
            header = state.header
            following = header_after_bump(
                header,
                handle,
                version,
                oldest_version=oldest_version,
                create=create,
                master_term=master_term,
                durable=durable,
            )
            if header is None:
                with self._access.making(state):
                    self._access.create(state)
                    self._access.commit_durably(state, Mutated(handle, following, data_synced=True))
            else:
                self._access.require_undamaged(state)
                if following is not header:
                    self._access.commit_durably(state, Mutated(handle, following, data_synced=True))
            if following is not header:
                self._access.feed.changed(handle)
                self._guests.forget(handle)
            failpoint("chunk.bumped")
            return Bumped(following.replaced_version, following.length_bytes, following.short_version > 0)

    def align(
        self, handle: ChunkHandle, version: ChunkVersion, length: int, *, master_term: Term = ANY_TERM
    ) -> None:
        """Cut a replica back to `length`; on the disk when this returns.

        Raises: NotFound, StaleVersion (also when it holds fewer bytes), Superseded, ChunkSealed,
            ChecksumMismatch, NoSpace, Unavailable.
        """
        self._cut(handle, version, length, master_term, seal=False)

    def seal(
        self, handle: ChunkHandle, version: ChunkVersion, length: int, *, master_term: Term = ANY_TERM
    ) -> None:
        """Cut back to `length` and accept no mutation any more. Errors as for align()."""
        self._cut(handle, version, length, master_term, seal=True)

    def copy_replica(
        self,
        handle: ChunkHandle,
        copy: ChunkHandle,
        version: ChunkVersion,
        *,
        oldest_version: ChunkVersion,
        master_term: Term,
    ) -> ReplicaStatus:
        """Make `copy` a replica like that of `handle`, at `version`; on the disk when this returns (§3.4).

        The checksums come along unverified: a block that does not fit them is found when it is read.
        Nothing else changes either chunk meanwhile. A copy that is there already is answered as the first.
        Raises: NotFound, StaleVersion (`handle` is not within the versions), Superseded, ChecksumMismatch
            (known damage), NoSpace, Unavailable.
        """
        assert handle < copy, (handle, copy)  # the order in which their locks are taken
        failpoint("chunk.before_copy")
        self._access.health.require()
        source, target = self._access.load(handle), self._access.load(copy)
        with source.lock, target.lock:
            header = header_to_copy(
                source.header,
                handle,
                version,
                oldest_version=oldest_version,
                master_term=master_term,
            )
            if target.header is not None:
                return status_of(held(target.header, copy, version))
            self._access.require_undamaged(source)
            self._access.require_space(header.length_bytes)
            with self._access.making(target):
                self._copy(source, target, header)
            failpoint("chunk.copy_recorded")
            self._access.feed.changed(copy)
            return status_of(header)

    def _copy(self, source: ChunkState, target: ChunkState, header: ChunkHeader) -> None:
        handle, copy, store = source.handle, target.handle, self._access.store
        try:
            with undone_on_error(f"copying chunk {handle:x} to {copy:x}"):
                store.clone(handle, copy)
                if store.length(copy) > header.length_bytes:
                    # The surplus of an append that was never committed.
                    store.truncate(copy, header.length_bytes)
        except KeyError as error:
            raise self._access.missing(handle) from error
        target.broken = target.has_surplus = False
        failpoint("chunk.copied")
        record = Mutated(
            copy,
            header,
            sums=source.full.tobytes(),
            data_synced=True,
            window=encode_window(source.window),
        )
        with undone_on_error(f"recording chunk {copy:x}"):
            self._access.commits.commit(Change(target, record), sync_bytes=True)

    def _cut(
        self, handle: ChunkHandle, version: ChunkVersion, length: int, master_term: Term, *, seal: bool
    ) -> None:
        self._access.health.require()
        state = self._access.load(handle)
        with state.lock:
            header = held(state.header, handle, version)
            check_cut(header, handle, length, master_term)
            following = header_after_cut(
                header,
                length,
                tail_sum=self._tail_sum(state, header, length),
                master_term=master_term,
                seal=seal,
            )
            if following is header:
                return
            failpoint("chunk.before_cut")
            self._access.commit_durably(state, Mutated(handle, following, data_synced=True))
            failpoint("chunk.cut_recorded")
            # After the record: bytes past the committed length are no harm, missing ones would be.
            self._appender.cut_surplus(state, length)
            failpoint("chunk.cut")
            self._access.feed.changed(handle)

    def _tail_sum(self, state: ChunkState, header: ChunkHeader, length: int) -> int:
        """The sum of the partial block that ends at `length`, from verified bytes."""
        in_block = length % CHECKSUM_BLOCK_BYTES
        if length == header.length_bytes or not in_block:
            return header.tail_sum if length == header.length_bytes else 0
        with undone_on_error(f"cutting chunk {state.handle:x}"):
            block = length // CHECKSUM_BLOCK_BYTES
            try:
                found = self._access.reader.block(state.handle, header, state.full, block)
            except KeyError:
                found = None
        if found is None:
            self._access.damage.mark(state.handle, f"block {block} does not verify")
            raise ChecksumMismatch(f"chunk {state.handle:x}: block {block} does not verify")
        return crc32c(found[:in_block])


def status_of(header: ChunkHeader, checksums: tuple[int, ...] = (), window: bytes = b"") -> ReplicaStatus:
    return ReplicaStatus(
        version=header.version,
        length_bytes=header.length_bytes,
        sealed=header.sealed,
        block_checksums=checksums,
        may_be_short=header.short_version > 0,
        append_window=window,
    )
