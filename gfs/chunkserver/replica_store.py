"""The replicas one chunk server holds, for the service: bytes and index together. No network, no leases.

Here they are written, read and deleted. What else is done with them has its own place: `versions` (raised,
cut, sealed, copied as the master orders), `reports` (told to the masters), `verifier` (looked through for
damage), `guests` (copies that are no replicas yet); all of them work through replica_access.
How bytes get in is told by appender and overwriter, how they get out by block_reader, when they are on the
disk by chunk_index and durable_commits, what a start finds by replica_recovery.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Literal

from gfs import failpoints
from gfs.chunkserver.appender import Appender
from gfs.chunkserver.chunk_index import ChunkIndex, open_index
from gfs.chunkserver.chunk_state import Change, ChunkState
from gfs.chunkserver.core.append_window import AppendWindow, encode_window
from gfs.chunkserver.core.chunk_record import ChunkHeader, Deleted
from gfs.chunkserver.core.versions import (
    held,
    require_writable,
)
from gfs.chunkserver.disk_health import DiskHealth, disk_error, undone_on_error
from gfs.chunkserver.guest_store import GuestStore
from gfs.chunkserver.last_uses import LastUses
from gfs.chunkserver.overwriter import Overwriter
from gfs.chunkserver.replica_access import ReplicaAccess, failpoint
from gfs.chunkserver.replica_mover import ReplicaMover
from gfs.chunkserver.replica_recovery import Recovered, recover
from gfs.chunkserver.replica_reports import ReplicaReports
from gfs.chunkserver.replica_tiering import ReplicaTiering
from gfs.chunkserver.replica_verifier import ReplicaVerifier, all_checksums
from gfs.chunkserver.replica_versions import ANY_TERM, ReplicaStatus, ReplicaVersions, status_of
from gfs.chunkserver.stores.interface import BytesUnreachable, ChunkStore, StoreUsage
from gfs.chunkserver.stores.moving import MovingStore
from gfs.chunkserver.stores.tiered import TieredStore
from gfs.disk import Bytes, Disk
from gfs.errors import (
    ChecksumMismatch,
    CorruptState,
    DataUnavailable,
    InvalidArgument,
    NotFound,
    OutcomeUnknown,
)
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
        uses: LastUses | None = None,
    ) -> None:
        self._uses = uses
        self._access = access = ReplicaAccess(
            index, store, recovered.corrupt, health, free_bytes_min=free_bytes_min
        )
        is_durable = durability == "sync"
        self._appender = Appender(index, store, access.commits, is_durable=is_durable)
        self._overwriter = Overwriter(
            index,
            store,
            access.reader,
            access.commits,
            health,
            is_durable=is_durable,
            on_damage=access.damage.mark,
            on_cut_short=self._cut_short,
        )
        self.reports = ReplicaReports(access, recovered.unsettled)
        self.verifier = ReplicaVerifier(
            index,
            store,
            access.reader,
            access.damage,
            health,
            load=access.load,
            read=self._read_into,
            on_mended=access.feed.changed,
        )
        self.guests = GuestStore(
            access, self._appender, self._overwriter, recovered.guests, delete=self.delete
        )
        self.versions = ReplicaVersions(access, self._appender, self.guests)
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
        uses: LastUses | None = None,
    ) -> ReplicaStore:
        """Recover from whatever the last stop left.

        Args:
            directory: of the index; a real directory, whatever `disk` is (LMDB maps its file).
            durability: what an acknowledged write() survives: `flush` a kill, `sync` a power cut too.
            free_bytes_min: space that writes leave free; more is refused with NoSpace.
            on_fatal: called once when a sync has failed; the process must end (it is not retried).
            uses: told of every write and read of clients.
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
            uses=uses,
        )

    # --- mutations ------------------------------------------------------------------------------

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
        self._access.health.require()
        if self._access.index.journal_bytes > JOURNAL_BYTES_MAX:
            self.flush()
        self._note_use(handle)
        state = self._access.load(handle)
        with state.lock:
            header = held(state.header, handle, version)
            require_writable(header, handle)
            self._access.require_undamaged(state)
            self._access.require_space(len(data))
            if records and offset < header.length_bytes:
                raise InvalidArgument(
                    f"chunk {handle:x} has {header.length_bytes} bytes: no record is appended at {offset}"
                )
            try:
                with undone_on_error(f"making chunk {handle:x} local"):
                    self._access.store.make_local(handle, offset, len(data))
                if offset >= header.length_bytes:
                    self._appender.append(state, offset, memoryview(data), checksums, records)
                else:
                    failpoint("chunk.before_write")
                    self._overwriter.overwrite(state, offset, memoryview(data), checksums)
            except KeyError as error:
                raise self._access.missing(handle) from error
            self._access.feed.changed(handle)
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
        committed = held(self._access.load(handle).header, handle, version).length_bytes
        if committed > offset:
            raise InvalidArgument(f"chunk {handle:x} has {committed} bytes: no padding from {offset} on")
        return self.write(handle, version, CHUNK_BYTES - 1, b"\0")

    def delete(
        self, handle: ChunkHandle, *, up_to: ChunkVersion | None = None, master_term: Term = ANY_TERM
    ) -> bool:
        """Forget a replica for good; no error when there is none. Returns whether it is gone.

        Args:
            up_to: keep it if it is held at a higher version, or obeys a master of a higher term than
                `master_term` (I6). 0: delete it only if its version cannot be read.
        Raises: NoSpace, Unavailable.
        """
        self._access.health.require()
        try:
            state = self._access.index.load(handle)
        except CorruptState:
            if up_to:
                return False
            self._access.index.drop_damaged(handle)
            state = self._access.index.load(handle)
        with state.lock:
            header = state.header
            if header is not None and up_to is not None and _is_newer(header, up_to, master_term):
                return False
            failpoint("chunk.before_delete")
            if header is not None:
                with undone_on_error(f"deleting chunk {handle:x}"):
                    self._access.commits.commit(Change(state, Deleted(handle)), sync_bytes=False)
            failpoint("chunk.delete_recorded")
            # The record is on the disk before the bytes go: bytes without a record are dropped at start,
            # a record without bytes would be reported as damage.
            with undone_on_error(f"deleting chunk {handle:x}"):
                self._access.store.delete(handle)
                failpoints.hit("chunk.deleted")
            state.broken = state.has_surplus = False
            self.guests.forget(handle)
            self._access.damage.clear(handle)
            self._access.feed.changed(handle)
            return True

    # --- reading --------------------------------------------------------------------------------

    def read_into(self, handle: ChunkHandle, version: ChunkVersion, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` with verified committed bytes; short only at the end, 0 at or past it.

        Raises: NotFound, StaleVersion, ChecksumMismatch (then corrupt() lists the chunk), Unavailable.
        """
        self._note_use(handle)
        return self._read_into(handle, version, offset, buffer)

    def _read_into(self, handle: ChunkHandle, version: ChunkVersion, offset: int, buffer: memoryview) -> int:
        if offset < 0:
            raise InvalidArgument(f"chunk {handle:x}: offset {offset}")
        state = self._access.load(handle)
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
            is_stored = self._access.store.is_stored(handle)
            what = f"block {bad} does not verify" if is_stored else "its bytes are missing"
            self._access.damage.mark(handle, what)
        raise ChecksumMismatch(
            f"chunk {handle:x} version {version}: block {bad} does not verify",
            details={"handle": str(handle), "block": str(bad)},
        )

    def checksums(
        self, handle: ChunkHandle, version: ChunkVersion, offset: int, length: int
    ) -> Sequence[int] | None:
        """Sums for a reader that verifies what send() sends: of each block touched, over these bytes alone.

        They are those of one moment, under `version`. Bytes that are overwritten or cut off in the next one
        do not fit them: then the reader asks for verified ones, and only read_into() says what is damage.
        None: not all these bytes are here, or not good.
        Raises: NotFound, StaleVersion.
        """
        state = self._access.load(handle)
        header = held(state.header, handle, version)
        if offset < 0 or length <= 0 or offset + length > header.length_bytes:
            return None
        self._note_use(handle)
        try:
            return self._access.reader.sums(handle, header, state.full, offset, length)
        except (KeyError, OSError):
            return None

    def send(self, handle: ChunkHandle, out: int, offset: int, length: int) -> int:
        """Send bytes as they are on the disk to the socket `out`: see checksums().

        Returns: bytes sent; 0 when the disk does not give them. Raises: OSError, of the socket.
        """
        try:
            return self._access.store.send(handle, out, offset, length)
        except (ConnectionError, BlockingIOError, TimeoutError):
            raise
        except (KeyError, OSError):
            return 0  # of the disk, most likely; a verified read finds out

    def status(
        self,
        handle: ChunkHandle,
        version: ChunkVersion,
        *,
        with_checksums: bool = False,
        with_append_window: bool = False,
    ) -> ReplicaStatus:
        """Raises: NotFound, StaleVersion."""
        state = self._access.load(handle)
        if not with_checksums and not with_append_window:
            return status_of(held(state.header, handle, version))
        with state.lock:
            header = held(state.header, handle, version)
            return status_of(
                header,
                all_checksums(state, header) if with_checksums else (),
                encode_window(state.window) if with_append_window else b"",
            )

    def append_window(self, handle: ChunkHandle, version: ChunkVersion) -> AppendWindow:
        """A copy of what is known of the identified records in the chunk. Raises: NotFound, StaleVersion."""
        state = self._access.load(handle)
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
        state = self._access.load(handle)
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
        header = held(self._access.load(handle).header, handle, version)
        if header.short_version and wanted_bytes > header.length_bytes:
            raise DataUnavailable(
                f"chunk {handle:x} version {version} may lack bytes after the first {header.length_bytes} "
                "since a power cut"
            )
        return header.length_bytes

    # --- reporting ------------------------------------------------------------------------------

    def corrupt(self) -> list[ChunkHandle]:
        """Replicas found damaged and not deleted yet."""
        return self._access.damage.handles()

    def corruption(self, handle: ChunkHandle) -> str:
        """What is wrong with a replica that corrupt() lists; "" for others."""
        return self._access.damage.what(handle)

    def on_damage(self, tell: Callable[[ChunkHandle], None]) -> None:
        """Call `tell` whenever a replica is found to be damaged, on the thread that found it."""
        self._access.on_damage(tell)

    def usage(self) -> StoreUsage:
        """Raises: Unavailable."""
        return self._access.usage()

    @property
    def chunk_count(self) -> int:
        return self._access.index.chunk_count

    def _note_use(self, handle: ChunkHandle) -> None:
        if self._uses is not None:
            self._uses.note(handle)

    def tiering(self, tier: TieredStore) -> ReplicaTiering:
        """What moves replicas to the object service that `tier`, this store, knows."""
        return ReplicaTiering(self._access, tier, flush=self.flush)

    def mover(self, store: MovingStore) -> ReplicaMover:
        """What moves replicas within `store`, which is this store or the one below it."""
        return ReplicaMover(self._access, store)

    # --- durability -----------------------------------------------------------------------------

    def flush(self) -> None:
        """Everything acknowledged before this call is on the disk when it returns.

        Raises: NoSpace (nothing is lost, call it again), OutcomeUnknown (a sync failed), Unavailable.
        """
        self._flush(clean=False)

    def close(self) -> None:
        """Flush and let go. After this a start knows that nothing was lost."""
        try:
            if not self._access.health.failure:
                self._flush(clean=True)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go without a flush, as a crash would."""
        self._access.index.abandon()
        self._access.store.close()

    def check_invariants(self) -> None:
        """For tests, while nothing else is going on."""
        self._access.index.check_invariants()

    # --- private --------------------------------------------------------------------------------

    def _read(self, state: ChunkState, header: ChunkHeader, offset: int, buffer: memoryview) -> int:
        try:
            return self._access.reader.read(state.handle, header, state.full, offset, buffer)
        except KeyError:
            return offset // CHECKSUM_BLOCK_BYTES
        except BytesUnreachable as error:
            raise disk_error(error, f"reading chunk {state.handle:x}") from error
        except OSError as error:
            self._access.damage.mark(state.handle, f"cannot be read: {error.strerror}")
            raise disk_error(error, f"reading chunk {state.handle:x}") from error

    def _cut_short(self, handle: ChunkHandle) -> None:
        # Not for long: the redo record finishes the overwrite at the next start.
        self._access.damage.mark(handle, "an overwrite was cut short", is_lasting=False)

    def _flush(self, *, clean: bool) -> None:
        self._access.health.require()
        try:
            with undone_on_error("flushing the chunk index"):
                self._access.index.flush(self._access.sync_chunks, clean=clean)
                self._access.note_free_space()
            self._access.damage.save()
        except CorruptState as error:
            raise self._access.health.fail("writing the chunk index", error) from error


def _is_newer(header: ChunkHeader, version: ChunkVersion, master_term: Term) -> bool:
    return header.version > version or header.master_term > master_term
