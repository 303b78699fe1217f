"""The replicas one chunk server holds: bytes and index together, for the service. No network, no leases.

How bytes get in is told by appender and overwriter, how they get out by block_reader, when they are on the
disk by chunk_index and durable_commits, what a start finds by replica_recovery; versions by core/versions.
Which replicas are damaged is said in damage_marks, and looked for by replica_verifier. Copies that are no
replicas yet are guest_store's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gfs import failpoints
from gfs.checksums import crc32c
from gfs.chunkserver.appender import Appender
from gfs.chunkserver.block_reader import BlockReader
from gfs.chunkserver.change_feed import ChangeFeed
from gfs.chunkserver.chunk_index import ChunkIndex, open_index
from gfs.chunkserver.chunk_state import Change, ChunkState
from gfs.chunkserver.core.append_window import AppendWindow, encode_window
from gfs.chunkserver.core.chunk_record import ChunkHeader, Deleted, Mutated
from gfs.chunkserver.core.versions import (
    check_cut,
    header_after_bump,
    header_after_cut,
    header_to_copy,
    held,
    require_writable,
)
from gfs.chunkserver.damage_marks import DamageMarks
from gfs.chunkserver.disk_health import DiskHealth, disk_error, undone_on_error
from gfs.chunkserver.durable_commits import DurableCommits
from gfs.chunkserver.guest_store import GuestStore
from gfs.chunkserver.overwriter import Overwriter
from gfs.chunkserver.replica_recovery import Recovered, recover
from gfs.chunkserver.replica_verifier import ReplicaVerifier, all_checksums, missing_bytes
from gfs.chunkserver.stores.interface import ChunkStore, StoreUsage
from gfs.disk import Bytes, Disk
from gfs.errors import (
    ChecksumMismatch,
    CorruptState,
    DataUnavailable,
    InvalidArgument,
    NoSpace,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from gfs.messages.heartbeat import HeldChunk
from gfs.messages.replicas import AppendedRecord
from gfs.vocabulary import (
    CHECKSUM_BLOCK_BYTES,
    CHUNK_BYTES,
    MIB,
    ChunkHandle,
    ChunkVersion,
    ClientId,
    Term,
)

Durability = Literal["flush", "sync"]
JOURNAL_BYTES_MAX = 64 * MIB  # a mutation that finds more flushes first
_ANY_TERM = Term(0)


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


@dataclass(frozen=True, slots=True)
class Changes:
    """`complete` False: the cursor is too far back; send a full report, then go on from `cursor`."""

    cursor: int
    changed: list[HeldChunk]
    removed: list[ChunkHandle]
    complete: bool


class ReplicaStore:
    """Every method blocks and may be called from any thread; one chunk never sees two mutations at once.

    Readers do not wait for an append to their chunk: they see its committed prefix.
    """

    def __init__(
        self,
        index: ChunkIndex,
        store: ChunkStore,
        recovered: Recovered,
        *,
        durability: Durability,
        free_bytes_min: int,
        health: DiskHealth,
    ) -> None:
        self._index, self._store, self._health = index, store, health
        self._free_bytes_min = free_bytes_min
        self._free_bytes = 0  # an estimate from above: refreshed before anything is refused
        self._reader = BlockReader(store)
        self._commits = DurableCommits(index, store, health)
        self._appender = Appender(index, store, self._commits, is_durable=durability == "sync")
        self._overwriter = Overwriter(
            index,
            store,
            self._reader,
            self._commits,
            health,
            is_durable=durability == "sync",
            on_damage=self._damaged,
            on_cut_short=self._cut_short,
        )
        self._feed = ChangeFeed()
        self._damage = DamageMarks(index, recovered.corrupt, on_marked=self._tell_of_damage)
        self._on_damage: Callable[[ChunkHandle], None] | None = None
        self.verifier = ReplicaVerifier(
            index,
            store,
            self._reader,
            self._damage,
            health,
            load=self._load,
            read=self.read_into,
            on_mended=self._feed.changed,
        )
        self.guests = GuestStore(
            index,
            self._appender,
            self._overwriter,
            health,
            recovered.guests,
            create=self._create,
            commit=self._commit_durably,
            delete=self.delete,
            is_damaged=lambda state: state.broken or bool(self.corruption(state.handle)),
            require_space=self._require_space,
            sync=self._sync_chunks,
            on_hidden=self._feed.changed,
        )
        self.recovered = recovered

    @classmethod
    def open(
        cls,
        directory: str,
        store: ChunkStore,
        disk: Disk,
        *,
        durability: Durability = "flush",
        free_bytes_min: int = 0,
        on_fatal: Callable[[str], None],
    ) -> ReplicaStore:
        """Recover from whatever the last stop left.

        Args:
            directory: of the index; a real directory, whatever `disk` is (LMDB maps its file).
            durability: what an acknowledged write() survives: `flush` a kill, `sync` a power cut too.
            free_bytes_min: space that writes leave free; more is refused with NoSpace.
            on_fatal: called once when a sync has failed; the process must end (it is not retried).
        Raises: CorruptState, UnsupportedVersion, NoSpace, Unavailable.
        """
        os.makedirs(directory, mode=0o700, exist_ok=True)
        disk.make_directory(directory)
        index = open_index(directory, disk, durable_segments=durability == "sync")
        try:
            with undone_on_error("starting the chunk index"):
                recovered = recover(index, store, disk, directory)
        except BaseException:
            index.abandon()
            raise
        return cls(
            index,
            store,
            recovered,
            durability=durability,
            free_bytes_min=free_bytes_min,
            health=DiskHealth(on_fatal),
        )

    # --- mutations ------------------------------------------------------------------------------

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
        self._health.require()
        state = self._load(handle)
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
                self._create(state)
            else:
                self._require_undamaged(state)
            if following is not header:
                self._commit_durably(state, Mutated(handle, following, data_synced=True))
                self._feed.changed(handle)
                self.guests.forget(handle)
            failpoint("chunk.bumped")
            return Bumped(following.replaced_version, following.length_bytes, following.short_version > 0)

    def write(
        self,
        handle: ChunkHandle,
        version: ChunkVersion,
        offset: int,
        data: Bytes,
        checksums: Sequence[int] | None = None,
        records: Sequence[AppendedRecord] = (),
    ) -> int:
        """Write `data` at `offset`: append, overwrite, both, or past the end (the gap is zeros).

        Args:
            checksums: CRC32C of the piece per chunk block it touches; spares summing it again.
            records: those that `data` consists of; they go behind all that is committed (§3.3).
        Returns: the committed length after it. Acknowledged as `durability` says.
        Raises:
            NotFound, StaleVersion, ChunkSealed, InvalidArgument: nothing was written.
            ChecksumMismatch: `checksums` do not fit, or a block to be written in part is damaged.
            NoSpace, Unavailable (the disk refused): the replica is as it was.
            ReplicaFailed, OutcomeUnknown: it may or may not be written.
        """
        if not data or offset < 0 or offset + len(data) > CHUNK_BYTES:
            raise InvalidArgument(f"chunk {handle:x}: {len(data)} bytes at offset {offset}")
        self._health.require()
        if self._index.journal_bytes > JOURNAL_BYTES_MAX:
            self.flush()
        state = self._load(handle)
        with state.lock:
            header = held(state.header, handle, version)
            require_writable(header, handle)
            self._require_undamaged(state)
            self._require_space(len(data))
            if records and offset < header.length_bytes:
                raise InvalidArgument(
                    f"chunk {handle:x} has {header.length_bytes} bytes: no record is appended at {offset}"
                )
            try:
                if offset >= header.length_bytes:
                    self._appender.append(state, offset, memoryview(data), checksums, records)
                else:
                    failpoint("chunk.before_write")
                    self._overwriter.overwrite(state, offset, memoryview(data), checksums)
            except KeyError as error:
                raise self._missing(handle) from error
            self._feed.changed(handle)
            try:
                failpoints.hit("chunk.index_committed")
                failpoints.hit("chunk.before_ack")
            except OSError as error:
                raise OutcomeUnknown(f"chunk {handle:x}: {error}") from error
            assert state.header is not None
            return state.header.length_bytes

    def pad(self, handle: ChunkHandle, version: ChunkVersion, offset: int) -> int:
        """Fill a chunk that ends at or before `offset` with zeros, up to the chunk's end (GFS §3.3).

        The last byte is written, what is before it is a gap. Returns: CHUNK_BYTES. Errors as for write();
            InvalidArgument when bytes behind `offset` are committed.
        """
        committed = held(self._load(handle).header, handle, version).length_bytes
        if committed > offset:
            raise InvalidArgument(f"chunk {handle:x} has {committed} bytes: no padding from {offset} on")
        return self.write(handle, version, CHUNK_BYTES - 1, b"\0")

    def align(
        self, handle: ChunkHandle, version: ChunkVersion, length: int, *, master_term: Term = _ANY_TERM
    ) -> None:
        """Cut a replica back to `length`; on the disk when this returns.

        Raises: NotFound, StaleVersion (also when it holds fewer bytes), Superseded, ChunkSealed,
            ChecksumMismatch, NoSpace, Unavailable.
        """
        self._cut(handle, version, length, master_term, seal=False)

    def seal(
        self, handle: ChunkHandle, version: ChunkVersion, length: int, *, master_term: Term = _ANY_TERM
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
        self._health.require()
        source, target = self._load(handle), self._load(copy)
        with source.lock, target.lock:
            header = header_to_copy(
                source.header,
                handle,
                version,
                oldest_version=oldest_version,
                master_term=master_term,
            )
            if target.header is not None:
                return _status(held(target.header, copy, version), ())
            self._require_undamaged(source)
            self._require_space(header.length_bytes)
            try:
                with undone_on_error(f"copying chunk {handle:x} to {copy:x}"):
                    self._store.clone(handle, copy)
                    if self._store.length(copy) > header.length_bytes:  # an append that was never committed
                        self._store.truncate(copy, header.length_bytes)
            except KeyError as error:
                raise self._missing(handle) from error
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
                self._commits.commit(Change(target, record), sync_bytes=True)
            self._feed.changed(copy)
            return _status(header, ())

    def delete(
        self, handle: ChunkHandle, *, up_to: ChunkVersion | None = None, master_term: Term = _ANY_TERM
    ) -> bool:
        """Forget a replica for good; no error when there is none. Returns whether it is gone.

        Args:
            up_to: keep it if it is held at a higher version, or obeys a master of a higher term than
                `master_term` (I6). 0: delete it only if its version cannot be read.
        Raises: NoSpace, Unavailable.
        """
        self._health.require()
        try:
            state = self._index.load(handle)
        except CorruptState:
            if up_to:
                return False
            self._index.drop_damaged(handle)
            state = self._index.load(handle)
        with state.lock:
            header = state.header
            if header is not None and up_to is not None and _is_newer(header, up_to, master_term):
                return False
            if header is not None:
                with undone_on_error(f"deleting chunk {handle:x}"):
                    self._commits.commit(Change(state, Deleted(handle)), sync_bytes=False)
            failpoint("chunk.delete_recorded")
            # The record is on the disk before the bytes go: bytes without a record are dropped at start,
            # a record without bytes would be reported as damage.
            with undone_on_error(f"deleting chunk {handle:x}"):
                self._store.delete(handle)
            state.broken = state.has_surplus = False
            self.guests.forget(handle)
            self._damage.clear(handle)
            self._feed.changed(handle)
            return True

    # --- reading --------------------------------------------------------------------------------

    def read_into(self, handle: ChunkHandle, version: ChunkVersion, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` with verified committed bytes; short only at the end, 0 at or past it.

        Raises: NotFound, StaleVersion, ChecksumMismatch (then corrupt() lists the chunk), Unavailable.
        """
        if offset < 0:
            raise InvalidArgument(f"chunk {handle:x}: offset {offset}")
        state = self._load(handle)
        header = held(state.header, handle, version)
        length = min(len(buffer), header.length_bytes - offset)
        if length <= 0:
            return 0
        if self._read(state, header, offset, buffer[:length]) < 0:
            return length
        # An overwrite or a cut in the same moment looks like damage: believe it only when nobody writes.
        with state.lock:
            header = held(state.header, handle, version)
            length = min(len(buffer), header.length_bytes - offset)
            if length <= 0:
                return 0
            bad = self._read(state, header, offset, buffer[:length])
            if bad < 0:
                return length
            is_stored = self._store.is_stored(handle)
            self._damaged(handle, f"block {bad} does not verify" if is_stored else "its bytes are missing")
        raise ChecksumMismatch(
            f"chunk {handle:x} version {version}: block {bad} does not verify",
            details={"handle": str(handle), "block": str(bad)},
        )

    def status(
        self,
        handle: ChunkHandle,
        version: ChunkVersion,
        *,
        with_checksums: bool = False,
        with_append_window: bool = False,
    ) -> ReplicaStatus:
        """Raises: NotFound, StaleVersion."""
        state = self._load(handle)
        if not with_checksums and not with_append_window:
            return _status(held(state.header, handle, version), ())
        with state.lock:
            header = held(state.header, handle, version)
            return _status(
                header,
                all_checksums(state, header) if with_checksums else (),
                encode_window(state.window) if with_append_window else b"",
            )

    def append_window(self, handle: ChunkHandle, version: ChunkVersion) -> AppendWindow:
        """A copy of what is known of the identified records in the chunk. Raises: NotFound, StaleVersion."""
        state = self._load(handle)
        with state.lock:
            held(state.header, handle, version)
            return state.window.copy()

    def find_record(
        self,
        handle: ChunkHandle,
        client: ClientId,
        sequence: int,
        *,
        not_before: int,
        sealed_version: ChunkVersion,
    ) -> tuple[bool, int]:
        """(it is the last word, offset of that record in the chunk or -1): final once the chunk is sealed.

        `sealed_version`: as in FindRecord. Raises: NotFound; RecordForgotten.
        """
        state = self._load(handle)
        with state.lock:
            if state.header is None or state.header.guest:
                raise NotFound(f"chunk {handle:x} is not here")
            holds_seal = 0 < sealed_version <= state.header.version
            if not state.header.sealed and not holds_seal:
                return False, -1
            place = state.window.find(client, sequence, repeated=True, not_before=not_before)
            return True, -1 if place is None else place.offset_bytes

    def committed_length(self, handle: ChunkHandle, version: ChunkVersion, *, wanted_bytes: int = 0) -> int:
        """The length, for a reader that wants the first `wanted_bytes`.

        Raises: NotFound, StaleVersion; DataUnavailable when that is more than is here, and a power cut may
            have taken the rest: a reader would take the missing bytes for a hole, or for the end.
        """
        header = held(self._load(handle).header, handle, version)
        if header.short_version and wanted_bytes > header.length_bytes:
            raise DataUnavailable(
                f"chunk {handle:x} version {version} may lack bytes after the first {header.length_bytes} "
                "since a power cut"
            )
        return header.length_bytes

    # --- reporting ------------------------------------------------------------------------------

    def inventory(self) -> Iterator[HeldChunk]:
        """All replicas by handle; one whose index entry is damaged has version 0, and corrupt() lists it.

        Changes meanwhile may be missing: take changes_since()'s cursor before.
        Raises: OutcomeUnknown when the index cannot be read: the disk is out of service.
        """
        headers = self._index.headers()
        while True:
            try:
                handle, header = next(headers)
            except StopIteration:
                return
            except CorruptState as error:
                # What is here can no longer be told: better leave the cluster than tell it of a part.
                raise self._health.fail("reading the chunk index", error) from error
            if header is None:
                self._damaged(handle, "its index entry is damaged")
                yield _unreadable(handle)
            elif not header.guest:
                yield HeldChunk(handle, header.version, header.length_bytes)

    def changes_since(self, cursor: int) -> Changes:
        """What changed or was found damaged after `cursor` (0: the start), each chunk once, as it is now."""
        following, handles, complete = self._feed.since(cursor)
        changed: list[HeldChunk] = []
        removed: list[ChunkHandle] = []
        for handle in handles:
            try:
                header = self._load(handle).header
            except CorruptState:
                changed.append(_unreadable(handle))
                continue
            if header is None or header.guest:
                removed.append(handle)
            else:
                changed.append(HeldChunk(handle, header.version, header.length_bytes))
        return Changes(following, changed, removed, complete)

    def corrupt(self) -> list[ChunkHandle]:
        """Replicas found damaged and not deleted yet."""
        return self._damage.handles()

    def corruption(self, handle: ChunkHandle) -> str:
        """What is wrong with a replica that corrupt() lists; "" for others."""
        return self._damage.what(handle)

    def on_damage(self, tell: Callable[[ChunkHandle], None]) -> None:
        """Call `tell` whenever a replica is found to be damaged, on the thread that found it."""
        self._on_damage = tell

    @property
    def chunk_count(self) -> int:
        return self._index.chunk_count

    def usage(self) -> StoreUsage:
        """Raises: Unavailable."""
        with undone_on_error("asking for free space"):
            return self._store.usage()

    # --- durability -----------------------------------------------------------------------------

    def flush(self) -> None:
        """Everything acknowledged before this call is on the disk when it returns.

        Raises: NoSpace (nothing is lost, call it again), OutcomeUnknown (a sync failed), Unavailable.
        """
        self._flush(clean=False)

    def close(self) -> None:
        """Flush and let go. After this a start knows that nothing was lost."""
        try:
            if not self._health.failure:
                self._flush(clean=True)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go without a flush, as a crash would."""
        self._index.abandon()
        self._store.close()

    def check_invariants(self) -> None:
        """For tests, while nothing else is going on."""
        self._index.check_invariants()

    # --- private --------------------------------------------------------------------------------

    def _cut(
        self, handle: ChunkHandle, version: ChunkVersion, length: int, master_term: Term, *, seal: bool
    ) -> None:
        self._health.require()
        state = self._load(handle)
        with state.lock:
            header = held(state.header, handle, version)
            check_cut(header, handle, length, master_term)
            following = header_after_cut(
                header,
                handle,
                length,
                tail_sum=self._tail_sum(state, header, length),
                master_term=master_term,
                seal=seal,
            )
            if following is header:
                return
            self._commit_durably(state, Mutated(handle, following, data_synced=True))
            # After the record: bytes past the committed length are no harm, missing ones would be.
            self._appender.cut_surplus(state, length)
            self._feed.changed(handle)

    def _tail_sum(self, state: ChunkState, header: ChunkHeader, length: int) -> int:
        """The sum of the partial block that ends at `length`, from verified bytes."""
        in_block = length % CHECKSUM_BLOCK_BYTES
        if length == header.length_bytes or not in_block:
            return header.tail_sum if length == header.length_bytes else 0
        with undone_on_error(f"cutting chunk {state.handle:x}"):
            block = length // CHECKSUM_BLOCK_BYTES
            try:
                found = self._reader.block(state.handle, header, state.full, block)
            except KeyError:
                found = None
        if found is None:
            self._damaged(state.handle, f"block {block} does not verify")
            raise ChecksumMismatch(f"chunk {state.handle:x}: block {block} does not verify")
        return crc32c(found[:in_block])

    def _create(self, state: ChunkState) -> None:
        with undone_on_error(f"creating chunk {state.handle:x}"):
            self._store.create(state.handle)
            if self._store.length(state.handle):  # a deletion cut short
                self._store.truncate(state.handle, 0)
        state.broken = state.has_surplus = False

    def _commit_durably(self, state: ChunkState, record: Mutated) -> None:
        """It is on the disk when this returns, and so are the chunk's bytes before it."""
        sync_bytes = state.header is not None and state.header.length_bytes > 0
        try:
            with undone_on_error(f"recording chunk {state.handle:x}"):
                self._commits.commit(Change(state, record), sync_bytes=sync_bytes)
        except KeyError as error:
            raise self._missing(state.handle) from error

    def _read(self, state: ChunkState, header: ChunkHeader, offset: int, buffer: memoryview) -> int:
        try:
            return self._reader.read(state.handle, header, state.full, offset, buffer)
        except KeyError:
            return offset // CHECKSUM_BLOCK_BYTES
        except OSError as error:
            self._damaged(state.handle, f"cannot be read: {error.strerror}")
            raise disk_error(error, f"reading chunk {state.handle:x}") from error

    def _flush(self, *, clean: bool) -> None:
        self._health.require()
        try:
            with undone_on_error("flushing the chunk index"):
                self._index.flush(self._sync_chunks, clean=clean)
                self._free_bytes = self._store.usage().free_bytes
            self._damage.save()
        except CorruptState as error:
            raise self._health.fail("writing the chunk index", error) from error

    def _sync_chunks(self, states: Sequence[ChunkState]) -> None:
        try:
            failpoints.hit("chunk.before_sync")
            for state in states:
                if state.header is None:
                    continue
                try:
                    self._store.sync(state.handle)
                except KeyError:
                    if state.header is not None:  # else it was deleted in this moment
                        self._damaged(state.handle, "its bytes are missing")
            self._store.sync_names()
            failpoints.hit("chunk.synced")
        except OSError as error:
            raise self._health.fail("syncing chunk bytes", error) from error

    def _load(self, handle: ChunkHandle) -> ChunkState:
        try:
            return self._index.load(handle)
        except CorruptState as error:
            self._damaged(handle, error.message)
            raise

    def _missing(self, handle: ChunkHandle) -> Unavailable:
        return missing_bytes(self._damage, handle)

    def _damaged(self, handle: ChunkHandle, what: str) -> None:
        self._damage.mark(handle, what)

    def _tell_of_damage(self, handle: ChunkHandle) -> None:
        self._feed.changed(handle)  # after the mark: who reads of the change finds it
        if self._on_damage is not None:
            self._on_damage(handle)

    def _cut_short(self, handle: ChunkHandle) -> None:
        # Not for long: the redo record finishes the overwrite at the next start.
        self._damage.mark(handle, "an overwrite was cut short", is_lasting=False)

    def _require_undamaged(self, state: ChunkState) -> None:
        if state.broken or state.handle in self._damage:
            raise ChecksumMismatch(f"chunk {state.handle:x} is damaged: {self.corruption(state.handle)}")

    def _require_space(self, wanted_bytes: int) -> None:
        self._free_bytes -= wanted_bytes
        if self._free_bytes < self._free_bytes_min:
            self._free_bytes = self.usage().free_bytes - wanted_bytes
            if self._free_bytes < self._free_bytes_min:
                raise NoSpace(
                    f"{self._free_bytes + wanted_bytes} bytes are free, {self._free_bytes_min} must stay so"
                )


def failpoint(name: str) -> None:
    """A failpoint where nothing has happened yet, or all can be repeated: its OSError becomes ours."""
    with undone_on_error(name):
        failpoints.hit(name)


def _is_newer(header: ChunkHeader, version: ChunkVersion, master_term: Term) -> bool:
    return header.version > version or header.master_term > master_term


def _unreadable(handle: ChunkHandle) -> HeldChunk:
    """A replica whose version cannot be told."""
    return HeldChunk(handle, ChunkVersion(0), 0)


def _status(header: ChunkHeader, checksums: tuple[int, ...], window: bytes = b"") -> ReplicaStatus:
    return ReplicaStatus(
        version=header.version,
        length_bytes=header.length_bytes,
        sealed=header.sealed,
        block_checksums=checksums,
        may_be_short=header.short_version > 0,
        append_window=window,
    )
