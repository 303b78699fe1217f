"""The chunk index: version, length, seal, checksums and append window of every chunk, durable. Not its bytes.

`chunks.lmdb` holds per chunk one header, its full blocks' checksums in rows of 64, its append window, and
which replicas are known to be damaged (damage_marks says which). It is only ever committed with sync (without
it a power cut can leave a meta page that points at pages never written), and never for a change on the
request path: such a one is one frame in the journal and one update of the overlay in memory. A flush moves
what gathered to LMDB.

Order of a flush, and why a stop at any point loses nothing:
 1. A new, empty segment n+1 is made durable under its name.
 2. Under the lock: no overwrite is between its redo and its conclusion (the redo gate); new changes go to
    segment n+1 from now on; the dirty overlay is set aside. It is exactly what segments … n hold.
 3. The chunk bytes of what was set aside are synced, and the names of new chunk files.
 4. One synced LMDB transaction: the set-aside headers and rows, and `flushed` = n.
 5. Segments … n are removed.
Stop before 4: LMDB is as before, `flushed` < n: segments … n and n+1 are replayed. Stop after 4: segments
up to `flushed` are ignored, so none is applied twice; n+1 continues from what LMDB holds. LMDB never
describes a byte that was not synced (3 before 4). A removal that a crash undoes is ignored like 5 undone.
Older segments are synced before newer ones count as synced, so a synced frame has all before it.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import lmdb
import msgspec

from gfs import failpoints
from gfs.checksums import crc32c
from gfs.chunkserver.chunk_state import Change, ChunkState
from gfs.chunkserver.core.append_window import AppendWindow, decode_window, encode_window
from gfs.chunkserver.core.checksums import SUM_BYTES
from gfs.chunkserver.core.chunk_record import (
    ROW_BYTES,
    SUMS_PER_ROW,
    ChunkHeader,
    check_header,
    decode_header,
    encode_header,
    encode_records,
)
from gfs.chunkserver.disk_health import undone_on_error
from gfs.chunkserver.index_journal import JournalSegment, segment_path, segment_sequences
from gfs.disk import Disk, reserve_lock_file
from gfs.errors import CorruptState, GfsError, NoSpace, UnsupportedVersion
from gfs.vocabulary import BLOCKS_PER_CHUNK, ChunkHandle

FORMAT_VERSION = 2  # 1 knew no append windows and no guests; its chunks have none
INDEX_BYTES_MAX = 16 * 2**30  # address space, not memory or disk
READERS_MAX = 512  # threads reading at one moment
CACHED_CHUNKS_MAX = 4096  # clean chunks kept in memory, at most 4 KiB each
PAGE_CHUNKS = 1024  # headers read in one transaction of a walk
HANDLE_BYTES = 8
ROWS_PER_CHUNK = BLOCKS_PER_CHUNK // SUMS_PER_ROW
assert BLOCKS_PER_CHUNK % SUMS_PER_ROW == 0

_FLUSHED, _CLEAN, _FORMAT = b"flushed", b"clean", b"format"


@dataclass(slots=True)
class _SetAside:
    """What one flush writes."""

    headers: dict[ChunkHandle, bytes | None] = field(default_factory=dict)
    rows: list[tuple[ChunkHandle, int, bytes]] = field(default_factory=list)
    windows: dict[ChunkHandle, bytes] = field(default_factory=dict)
    clean: bool = False


class ChunkIndex:
    """Thread-safe. Created by open_index(); replay of what the journal held is replica_recovery's.

    Invariants:
    - a handle has at most one ChunkState at a time;
    - what is neither dirty nor being flushed is in LMDB as it is in memory;
    - the overlay is what the live segments hold beyond LMDB.
    """

    def __init__(
        self, environment: lmdb.Environment, disk: Disk, directory: str, *, durable_segments: bool
    ) -> None:
        self._environment, self._disk, self._directory = environment, disk, directory
        self._durable_segments = durable_segments
        self._headers = environment.open_db(b"headers")
        self._rows = environment.open_db(b"rows")
        self._windows = environment.open_db(b"windows")
        self._meta = environment.open_db(b"meta")
        self._damage = environment.open_db(b"damage")
        self._lock = threading.Condition()
        self._flush_lock = threading.Lock()
        self._load_lock = threading.Lock()
        self._states: weakref.WeakValueDictionary[ChunkHandle, ChunkState] = weakref.WeakValueDictionary()
        self._cached: dict[ChunkHandle, ChunkState] = {}  # keeps clean states alive, oldest first
        self._dirty: dict[ChunkHandle, ChunkState] = {}
        self._flushing: dict[ChunkHandle, ChunkState] = {}
        self._segment: JournalSegment | None = None
        self._older: list[JournalSegment] = []  # set aside, not in LMDB yet
        self._open_redos = 0
        self._rotating = False
        with environment.begin() as transaction:
            self._chunk_count = int(transaction.stat(self._headers)["entries"])

    # --- start ----------------------------------------------------------------------------------

    @property
    def is_new(self) -> bool:
        with self._environment.begin() as transaction:
            return transaction.get(_FORMAT, db=self._meta) is None

    @property
    def flushed_sequence(self) -> int:
        """The last segment whose contents are in LMDB."""
        return self._read_meta(_FLUSHED)

    @property
    def clean_sequence(self) -> int:
        """The segment that was live, and stayed empty, when the index was last closed in order."""
        return self._read_meta(_CLEAN)

    def start(self, recovered: Sequence[ChunkState], sequence: int) -> None:
        """Make what recovery found durable, drop the segments before `sequence` and begin that one.

        The chunks' bytes must be on the disk. Raises: OSError, NoSpace, CorruptState.
        """
        assert self._segment is None
        self._segment = JournalSegment.create(
            self._disk, self._directory, sequence, durable=self._durable_segments
        )
        with self._lock:
            for state in recovered:
                self._dirty[state.handle] = state
            aside = self._set_aside()
        self._write(aside, flushed=sequence - 1)
        self._flushing = {}
        self._remove_segments(sequence)
        with self._environment.begin() as transaction:
            self._chunk_count = int(transaction.stat(self._headers)["entries"])

    # --- reading --------------------------------------------------------------------------------

    @property
    def chunk_count(self) -> int:
        return self._chunk_count

    @property
    def journal_bytes(self) -> int:
        assert self._segment is not None
        return self._segment.end

    def load(self, handle: ChunkHandle) -> ChunkState:
        """The chunk's state; its header is None when there is no such chunk.

        Raises: CorruptState when the index's entry is damaged.
        """
        state = self._states.get(handle)
        if state is not None:
            return state
        with self._load_lock:
            state = self._states.get(handle)
            if state is None:
                try:
                    state = self._read_state(handle)
                except lmdb.Error as error:
                    raise CorruptState(
                        f"chunks.lmdb: chunk {handle:x} cannot be looked up: {error}"
                    ) from error
                self._states[handle] = state
                if state.header is not None:
                    self._cached[handle] = state
                    if len(self._cached) > CACHED_CHUNKS_MAX:
                        del self._cached[next(iter(self._cached))]
        return state

    def holds(self, handle: ChunkHandle) -> bool:
        """Whether there is such a chunk, readable or not."""
        try:
            return self.load(handle).header is not None
        except CorruptState:
            return True

    def headers(self, *, after: int = -1) -> Iterator[tuple[ChunkHandle, ChunkHeader | None]]:
        """Every chunk behind `after`, by handle; changes made meanwhile may or may not be seen.

        None: a damaged entry.
        Raises: CorruptState when not even that can be read.
        """
        while True:
            with self._lock:  # before the page: what a flush moves to LMDB in between is in both
                overlay = {**self._flushing, **self._dirty}
            try:
                page = self._header_page(ChunkHandle(after + 1))
            except lmdb.Error as error:
                raise CorruptState(f"chunks.lmdb cannot be walked: {error}") from error
            full_page = len(page) == PAGE_CHUNKS
            last = max(page) if full_page else ChunkHandle(2**64 - 1)
            found: dict[ChunkHandle, ChunkHeader | None] = dict(page)
            for handle, state in overlay.items():
                if after < handle <= last:
                    if state.header is None:
                        found.pop(handle, None)
                    else:
                        found[handle] = state.header
            for handle in sorted(found):
                yield handle, found[handle]
            if not full_page:
                return
            after = last

    def _header_page(self, first: ChunkHandle) -> dict[ChunkHandle, ChunkHeader | None]:
        page: dict[ChunkHandle, ChunkHeader | None] = {}
        with self._environment.begin() as transaction, transaction.cursor(self._headers) as cursor:
            found = first < 2**64 and cursor.set_range(_header_key(first))
            while found and len(page) < PAGE_CHUNKS:
                key = cursor.key()
                if len(key) == HANDLE_BYTES:  # else it has rotted, and names no chunk any more
                    handle = ChunkHandle(int.from_bytes(key, "big"))
                    page[handle] = _unseal_header(handle, cursor.value())
                found = cursor.next()
        return page

    def _read_state(self, handle: ChunkHandle) -> ChunkState:
        with self._environment.begin() as transaction:
            sealed = transaction.get(_header_key(handle), db=self._headers)
            if sealed is None:
                return ChunkState(handle, None, array("I"))
            header = _unseal_header(handle, sealed)
            if header is None:
                raise CorruptState(f"chunks.lmdb: the entry of chunk {handle:x} is damaged")
            full = array("I")
            for row in range(-(-header.full_blocks // SUMS_PER_ROW)):
                sums = transaction.get(_row_key(handle, row), db=self._rows)
                if sums is None or len(sums) > ROW_BYTES or len(sums) % SUM_BYTES:
                    raise CorruptState(f"chunks.lmdb: checksum row {row} of chunk {handle:x} is damaged")
                full.frombytes(sums)
            window = _unseal_window(handle, transaction.get(_header_key(handle), db=self._windows))
        if len(full) < header.full_blocks:
            raise CorruptState(f"chunks.lmdb: checksums of chunk {handle:x} are missing")
        del full[header.full_blocks :]
        if window is None:
            raise CorruptState(f"chunks.lmdb: the append window of chunk {handle:x} is damaged")
        return ChunkState(handle, header, full, window)

    # --- changing -------------------------------------------------------------------------------

    def commit(self, changes: Sequence[Change]) -> None:
        """Journal changes of different chunks in one frame and take them over; each chunk's lock is held.

        They survive a kill from now on, and a power cut after sync_journal() or flush().
        Raises: OSError (ENOSPC, EIO): nothing is changed.
        """
        payload = encode_records([change.record for change in changes])
        with self._lock:
            assert self._segment is not None
            self._segment.append(payload)
            for change in changes:
                state = change.state
                existed = state.header is not None
                state.apply(change.record)
                self._chunk_count += (state.header is not None) - existed
                self._dirty[state.handle] = state

    def sync_journal(self) -> None:
        """Every change committed before this call is on the disk when it returns. A failure is fatal."""
        with self._lock:
            assert self._segment is not None
            segments = [*self._older, self._segment]
        for segment in segments:
            if not segment.is_synced:
                segment.sync()

    def begin_overwrite(self) -> None:
        """Enter the redo gate: until end_overwrite() no flush parts a redo from its conclusion."""
        with self._lock:
            while self._rotating:
                self._lock.wait()
            self._open_redos += 1

    def end_overwrite(self) -> None:
        with self._lock:
            self._open_redos -= 1
            assert self._open_redos >= 0
            self._lock.notify_all()

    def drop_damaged(self, handle: ChunkHandle) -> None:
        """Remove an entry that load() cannot read."""
        with self._environment.begin(write=True) as transaction:
            self._delete_entry(transaction, handle)
            self._chunk_count -= 1

    # --- damage -----------------------------------------------------------------------------------

    def noted_damage(self) -> dict[ChunkHandle, str]:
        """What note_damage() was last told of each replica."""
        with self._environment.begin() as transaction, transaction.cursor(self._damage) as cursor:
            return {
                ChunkHandle(int.from_bytes(key, "big")): what.decode("utf-8", "replace")
                for key, what in cursor
            }

    def note_damage(self, found: Mapping[ChunkHandle, str]) -> None:
        """Note replicas as damaged, or, with "", as whole again; on the disk when this returns.

        Raises: NoSpace, CorruptState.
        """
        try:
            with self._environment.begin(write=True) as transaction:
                for handle, what in found.items():
                    if what:
                        transaction.put(_header_key(handle), what.encode("utf-8"), db=self._damage)
                    else:
                        transaction.delete(_header_key(handle), db=self._damage)
        except lmdb.Error as error:
            raise _index_error(error) from error

    # --- flushing -------------------------------------------------------------------------------

    def flush(self, sync_chunks: Callable[[Sequence[ChunkState]], None], *, clean: bool = False) -> None:
        """Move everything committed so far to LMDB; see the module's docstring for the order.

        Args:
            sync_chunks: syncs the bytes and names of these chunks; its failure is fatal.
            clean: note that nothing follows; the next start then knows that nothing was lost.
        Raises: NoSpace (all is kept, flush again later), OSError.
        """
        with self._flush_lock:
            live = self._segment
            assert live is not None
            if live.is_empty and not self._older and not clean:
                return
            following = JournalSegment.create(
                self._disk, self._directory, live.sequence + 1, durable=self._durable_segments
            )
            with self._lock:
                self._rotating = True
                while self._open_redos:
                    self._lock.wait()
                self._rotating = False
                self._lock.notify_all()
                live.trim()
                self._older.append(live)
                self._segment = following
                aside = self._set_aside()
                aside.clean = clean
            failpoints.hit("chunk.journal_rotated")
            try:
                sync_chunks(list(self._flushing.values()))
                self._write(aside, flushed=following.sequence - 1)
            except (GfsError, OSError):
                with self._lock:  # kept for the next flush
                    for handle, row, _ in aside.rows:
                        self._flushing[handle].rows_changed.add(row)
                raise
            with self._lock:
                self._flushing = {}
                done, self._older = self._older, []
            for segment in done:
                segment.retire()
            self._remove_segments(following.sequence)

    def _set_aside(self) -> _SetAside:
        aside = _SetAside()
        self._flushing = {**self._flushing, **self._dirty}
        self._dirty = {}
        for handle, state in self._flushing.items():
            if state.header is None:
                aside.headers[handle] = None
                continue
            aside.headers[handle] = _seal_header(handle, state.header)
            aside.windows[handle] = _seal_window(handle, state.window)
            rows_used = -(-len(state.full) // SUMS_PER_ROW)
            for row in sorted(state.rows_changed):
                if row < rows_used:
                    sums = state.full[row * SUMS_PER_ROW : (row + 1) * SUMS_PER_ROW]
                    aside.rows.append((handle, row, sums.tobytes()))
            state.rows_changed.clear()
        return aside

    def _write(self, aside: _SetAside, *, flushed: int) -> None:
        try:
            with self._environment.begin(write=True) as transaction:
                for handle, header in aside.headers.items():
                    if header is None:
                        self._delete_entry(transaction, handle)
                    else:
                        transaction.put(_header_key(handle), header, db=self._headers)
                for handle, window in aside.windows.items():
                    if window:
                        transaction.put(_header_key(handle), window, db=self._windows)
                    else:
                        transaction.delete(_header_key(handle), db=self._windows)
                for handle, row, sums in aside.rows:
                    transaction.put(_row_key(handle, row), sums, db=self._rows)
                transaction.put(_FLUSHED, flushed.to_bytes(8, "big"), db=self._meta)
                transaction.put(_FORMAT, FORMAT_VERSION.to_bytes(8, "big"), db=self._meta)
                clean = flushed + 1 if aside.clean else 0
                transaction.put(_CLEAN, clean.to_bytes(8, "big"), db=self._meta)
        except lmdb.Error as error:
            raise _index_error(error) from error

    def _delete_entry(self, transaction: lmdb.Transaction, handle: ChunkHandle) -> None:
        transaction.delete(_header_key(handle), db=self._headers)
        transaction.delete(_header_key(handle), db=self._windows)
        for row in range(ROWS_PER_CHUNK):
            transaction.delete(_row_key(handle, row), db=self._rows)

    def _remove_segments(self, before: int) -> None:
        for sequence in segment_sequences(self._disk, self._directory):
            if sequence < before:
                self._disk.unlink(segment_path(self._directory, sequence))

    def _read_meta(self, key: bytes) -> int:
        with self._environment.begin() as transaction:
            return int.from_bytes(transaction.get(key, default=b"", db=self._meta), "big")

    def check_invariants(self) -> None:
        """For tests, while nothing else is going on."""
        with self._lock:
            for handle, state in {**self._cached, **self._flushing, **self._dirty}.items():
                assert self._states.get(handle) is state, handle
                if state.header is not None:
                    check_header(state.header)
                    assert len(state.full) == state.header.full_blocks, handle
            assert self._open_redos == 0 and not self._rotating

    def abandon(self) -> None:
        """Let go of the files without a flush, as a crash would."""
        for segment in (*self._older, self._segment):
            if segment is not None:
                segment.close()
        self._environment.close()


def open_index(directory: str, disk: Disk, *, durable_segments: bool) -> ChunkIndex:
    """Open `chunks.lmdb` in `directory`, a real directory; `disk` carries the journal.

    Raises: CorruptState, UnsupportedVersion, NoSpace, Unavailable.
    """
    path = os.path.join(directory, "chunks.lmdb")
    with undone_on_error(f"opening {path}"):
        reserve_lock_file(path, readers=READERS_MAX)
    environment: lmdb.Environment | None = None
    try:
        environment = lmdb.open(
            path, map_size=INDEX_BYTES_MAX, max_dbs=5, max_readers=READERS_MAX, mode=0o600, subdir=False
        )
        index = ChunkIndex(environment, disk, directory, durable_segments=durable_segments)
        found = index._read_meta(_FORMAT)
    except lmdb.Error as error:
        if environment is not None:
            environment.close()  # another try in this process opens it anew
        if _is_full(error):
            raise NoSpace(f"{path} cannot be written: {error}") from error
        raise CorruptState(f"{path}: cannot be opened as an index: {error}") from error
    if found > FORMAT_VERSION:
        environment.close()
        raise UnsupportedVersion(f"{path} has format {found}; this program knows up to {FORMAT_VERSION}")
    return index


def _header_key(handle: ChunkHandle) -> bytes:
    return handle.to_bytes(HANDLE_BYTES, "big")


def _row_key(handle: ChunkHandle, row: int) -> bytes:
    return handle.to_bytes(8, "big") + row.to_bytes(2, "big")


def _seal_header(handle: ChunkHandle, header: ChunkHeader) -> bytes:
    content = encode_header(header)
    return crc32c(content, crc32c(_header_key(handle))).to_bytes(SUM_BYTES, "little") + content


def _unseal_header(handle: ChunkHandle, sealed: bytes) -> ChunkHeader | None:
    content = sealed[SUM_BYTES:]
    if int.from_bytes(sealed[:SUM_BYTES], "little") != crc32c(content, crc32c(_header_key(handle))):
        return None
    try:
        return decode_header(content)
    except msgspec.MsgspecError:
        return None


def _seal_window(handle: ChunkHandle, window: AppendWindow) -> bytes:
    content = encode_window(window)
    if not content:
        return b""
    return crc32c(content, crc32c(_header_key(handle))).to_bytes(SUM_BYTES, "little") + content


def _unseal_window(handle: ChunkHandle, sealed: bytes | None) -> AppendWindow | None:
    if sealed is None:
        return AppendWindow()
    content = sealed[SUM_BYTES:]
    if int.from_bytes(sealed[:SUM_BYTES], "little") != crc32c(content, crc32c(_header_key(handle))):
        return None
    try:
        return decode_window(content)
    except msgspec.MsgspecError:
        return None


def _is_full(error: lmdb.Error) -> bool:
    return os.strerror(errno.ENOSPC) in str(error) or os.strerror(errno.EDQUOT) in str(error)


def _index_error(error: lmdb.Error) -> GfsError:
    if isinstance(error, lmdb.MapFullError | lmdb.DiskError) or _is_full(error):
        return NoSpace(f"chunks.lmdb cannot grow: {error}")
    return CorruptState(f"chunks.lmdb refuses a change: {error}")
