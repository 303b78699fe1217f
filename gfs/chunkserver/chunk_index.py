"""The chunk index: version, length, seal, checksums and append window of every chunk, durable. Not its bytes.

`chunks.lmdb` (index_tables) holds what has been flushed. It is only ever committed with sync (without
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

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence

from gfs import failpoints
from gfs.chunkserver.chunk_state import Change, ChunkState
from gfs.chunkserver.core.chunk_record import (
    SUMS_PER_ROW,
    ChunkHeader,
    check_header,
    encode_records,
)
from gfs.chunkserver.index_journal import JournalSegment, segment_path, segment_sequences
from gfs.chunkserver.index_tables import IndexTables, SetAside, seal_header, seal_window
from gfs.disk import Disk
from gfs.errors import CorruptState, GfsError
from gfs.vocabulary import ChunkHandle

CACHED_CHUNKS_MAX = 4096  # clean chunks kept in memory, at most 4 KiB each


class ChunkIndex:
    """Thread-safe. Created by open_index(); replay of what the journal held is replica_recovery's.

    Invariants:
    - a handle has at most one ChunkState at a time;
    - what is neither dirty nor being flushed is in LMDB as it is in memory;
    - the overlay is what the live segments hold beyond LMDB.
    """

    def __init__(self, tables: IndexTables, disk: Disk, directory: str, *, durable_segments: bool) -> None:
        self._tables, self._disk, self._directory = tables, disk, directory
        self._durable_segments = durable_segments
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
        self._chunk_count = tables.count()

    # --- start ----------------------------------------------------------------------------------

    @property
    def is_new(self) -> bool:
        return self._tables.is_new

    @property
    def flushed_sequence(self) -> int:
        """The last segment whose contents are in LMDB."""
        return self._tables.flushed_sequence

    @property
    def clean_sequence(self) -> int:
        """The segment that was live, and stayed empty, when the index was last closed in order."""
        return self._tables.clean_sequence

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
        self._tables.write(aside, flushed=sequence - 1)
        self._flushing = {}
        self._remove_segments(sequence)
        self._chunk_count = self._tables.count()

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
                state = self._tables.read_state(handle)
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
            page, is_last = self._tables.header_page(ChunkHandle(after + 1))
            last = ChunkHandle(2**64 - 1) if is_last else max(page)
            found: dict[ChunkHandle, ChunkHeader | None] = dict(page)
            for handle, state in overlay.items():
                if after < handle <= last:
                    if state.header is None:
                        found.pop(handle, None)
                    else:
                        found[handle] = state.header
            for handle in sorted(found):
                yield handle, found[handle]
            if is_last:
                return
            after = last

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
        self._tables.drop(handle)
        self._chunk_count -= 1

    def noted_damage(self) -> dict[ChunkHandle, str]:
        """What note_damage() was last told of each replica."""
        return self._tables.noted_damage()

    def note_damage(self, found: Mapping[ChunkHandle, str]) -> None:
        """Note replicas as damaged, or, with "", as whole again; on the disk when this returns.

        Raises: NoSpace, CorruptState.
        """
        self._tables.note_damage(found)

    # --- damage -----------------------------------------------------------------------------------

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
                self._tables.write(aside, flushed=following.sequence - 1)
                failpoints.hit("chunk.index_flushed")
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
            failpoints.hit("chunk.journal_removed")

    def _set_aside(self) -> SetAside:
        aside = SetAside()
        self._flushing = {**self._flushing, **self._dirty}
        self._dirty = {}
        for handle, state in self._flushing.items():
            if state.header is None:
                aside.headers[handle] = None
                continue
            aside.headers[handle] = seal_header(handle, state.header)
            aside.windows[handle] = seal_window(handle, state.window)
            rows_used = -(-len(state.full) // SUMS_PER_ROW)
            for row in sorted(state.rows_changed):
                if row < rows_used:
                    sums = state.full[row * SUMS_PER_ROW : (row + 1) * SUMS_PER_ROW]
                    aside.rows.append((handle, row, sums.tobytes()))
            state.rows_changed.clear()
        return aside

    def _remove_segments(self, before: int) -> None:
        for sequence in segment_sequences(self._disk, self._directory):
            if sequence < before:
                self._disk.unlink(segment_path(self._directory, sequence))

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
        self._tables.close()


def open_index(directory: str, disk: Disk, *, durable_segments: bool) -> ChunkIndex:
    """Open `chunks.lmdb` in `directory`, a real directory; `disk` carries the journal.

    Raises: CorruptState, UnsupportedVersion, NoSpace, Unavailable.
    """
    return ChunkIndex(IndexTables.open(directory), disk, directory, durable_segments=durable_segments)
