"""Start after any stop: journal over LMDB, store compared with index. Decisions are core/recovery's.

Order: redo bytes and all bytes that the replayed journal speaks of are synced → one LMDB transaction with
what was recovered → a new segment → the old segments go. A stop in between starts over with the same
journal; each step can be repeated.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from gfs import failpoints
from gfs.checksums import crc32c
from gfs.chunkserver.chunk_index import ChunkIndex
from gfs.chunkserver.chunk_state import ChunkState
from gfs.chunkserver.core.append_window import AppendWindow
from gfs.chunkserver.core.chunk_record import FILLING, WHOLE, Deleted, Mutated, Record, Redo, decode_records
from gfs.chunkserver.core.recovery import ChunkReplay, doubted, may_have_lost_bytes, repair_of
from gfs.chunkserver.index_journal import SegmentContents, read_segment, segment_path, segment_sequences
from gfs.chunkserver.index_tables import ROWS_PER_CHUNK
from gfs.chunkserver.stores.interface import ChunkStore
from gfs.disk import Disk
from gfs.errors import CorruptState
from gfs.messages.heartbeat import HeldChunk
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, CHUNK_BYTES, ChunkHandle


@dataclass(slots=True)
class Recovered:
    """What the start found, for the log and the first heartbeat."""

    corrupt: dict[ChunkHandle, str] = field(default_factory=dict)
    power_cut: bool = False
    replayed_records: int = 0
    redone: int = 0
    cut: int = 0
    dropped: int = 0
    doubted: int = 0
    unsettled: set[ChunkHandle] = field(default_factory=set)  # doubted now, or at an earlier start and since
    guests: dict[ChunkHandle, HeldChunk] = field(default_factory=dict)  # whole ones


def recover(index: ChunkIndex, store: ChunkStore, disk: Disk, directory: str) -> Recovered:
    """Bring index and store to one state that is on the disk, and start the index.

    Raises: CorruptState for damage no crash can have done; OSError, NoSpace.
    """
    found = Recovered()
    sequences = segment_sequences(disk, directory)
    live = [sequence for sequence in sequences if sequence > index.flushed_sequence]
    segments = _read_live(index, disk, directory, live)
    stored = set(store.handles())
    if index.is_new and (stored or any(segment.payloads for segment in segments)):
        raise CorruptState(
            f"{directory}: chunks.lmdb is missing or empty, but there are chunks",
            hint="Restore chunks.lmdb, or empty the directory to start over as a new chunk server.",
        )
    found.power_cut = any(segment.power_cut for segment in segments)
    is_clean = live == [index.clean_sequence] and not segments[0].payloads
    may_be_short = found.power_cut and not is_clean and not all(segment.durable for segment in segments)

    recovered: dict[ChunkHandle, ChunkState] = {}
    for replay in _replay(index, segments, directory, found):
        _finish_redo(replay, store, found)
        _verify(replay, store, found)
        state = index.load(replay.handle)
        state.header, state.full, state.window = replay.header, replay.full, replay.window
        state.rows_changed.update(range(ROWS_PER_CHUNK))
        recovered[replay.handle] = state
    if may_be_short:
        _doubt(index, recovered, found)
    _repair(index, recovered, store, stored, found)
    for handle, state in recovered.items():
        if state.header is not None and handle not in found.corrupt:
            store.sync(handle)
    store.sync_names()
    failpoints.hit("chunk.recovered")
    index.start(list(recovered.values()), max(sequences, default=0) + 1)
    return found


def _read_live(index: ChunkIndex, disk: Disk, directory: str, live: Sequence[int]) -> list[SegmentContents]:
    first = index.flushed_sequence + 1
    if list(live) != list(range(first, first + len(live))) or (not live and not index.is_new):
        missing = next(sequence for sequence in range(first, first + len(live) + 1) if sequence not in live)
        raise CorruptState(f"{segment_path(directory, missing)} is missing")
    segments: list[SegmentContents] = []
    torn = False
    for sequence in live:
        segment = read_segment(disk, directory, sequence)
        if not torn:
            segments.append(segment)
            torn = segment.torn
        elif segment.says_synced or (segment.payloads and not segment.power_cut):
            path = segment_path(directory, segments[-1].sequence)
            raise CorruptState(f"{path}: its end is missing, though segment {sequence} was written after it")
    return segments


def _replay(
    index: ChunkIndex, segments: Sequence[SegmentContents], directory: str, found: Recovered
) -> list[ChunkReplay]:
    replays: dict[ChunkHandle, ChunkReplay] = {}
    for segment in segments:
        for number, (offset, payload) in enumerate(segment.payloads):
            where = f"{segment_path(directory, segment.sequence)}: record {number} at offset {offset}"
            try:
                for record in decode_records(payload):
                    handle = _handle_of(record)
                    replay = replays.get(handle) or _begin(index, handle, record, found)
                    if replay is None:
                        continue
                    replays[handle] = replay
                    replay.feed(record)
                    found.replayed_records += 1
            except msgspec.MsgspecError as error:
                raise CorruptState(f"{where} is not understood: {error}") from error
            except CorruptState as error:
                raise CorruptState(f"{where}: {error.message}") from error
    return list(replays.values())


def _begin(index: ChunkIndex, handle: ChunkHandle, record: Record, found: Recovered) -> ChunkReplay | None:
    """What the journal's records of a chunk go on from; None when its entry is damaged: that costs this chunk
    alone, and only a deletion can still be replayed."""
    try:
        state = index.load(handle)
    except CorruptState as error:
        found.corrupt[handle] = error.message
        if not isinstance(record, Deleted):
            return None
        index.drop_damaged(handle)
        del found.corrupt[handle]
        state = index.load(handle)
    return ChunkReplay(handle, state.header, array("I", state.full), state.window.copy())


def _handle_of(record: Record) -> ChunkHandle:
    return record.outcome.handle if isinstance(record, Redo) else record.handle


def _finish_redo(replay: ChunkReplay, store: ChunkStore, found: Recovered) -> None:
    redo = replay.redo
    if redo is None:
        return
    try:
        store.write_at(replay.handle, redo.data, redo.offset)
        failpoints.hit("chunk.redo_repeated")
        store.sync(replay.handle)
    except KeyError:
        pass  # the comparison with the store reports it
    concluded = replay.concluded_redo()
    assert isinstance(concluded, Mutated)
    found.redone += 1


def _verify(replay: ChunkReplay, store: ChunkStore, found: Recovered) -> None:
    buffer = memoryview(bytearray(CHECKSUM_BLOCK_BYTES))

    def verifies(block: int, committed: int, expected: int) -> bool:
        part = buffer[:committed]
        try:
            got = store.read_into(replay.handle, part, block * CHECKSUM_BLOCK_BYTES)
        except KeyError:
            return False
        return got == committed and crc32c(part) == expected

    if found.power_cut:
        before = replay.header
        replay.cut_to_verified(verifies)
        found.cut += replay.header is not before
        return
    bad = next((block[0] for block in replay.unverified_blocks() if not verifies(*block)), None)
    if bad is not None:
        found.corrupt[replay.handle] = f"block {bad} does not verify after a restart"


def _doubt(index: ChunkIndex, recovered: dict[ChunkHandle, ChunkState], found: Recovered) -> None:
    for handle, header in index.headers():
        if handle not in recovered and header is not None and may_have_lost_bytes(header):
            try:
                recovered[handle] = index.load(handle)
            except CorruptState as error:
                found.corrupt[handle] = error.message
    for state in recovered.values():
        if state.header is not None and may_have_lost_bytes(state.header):
            state.header = doubted(state.header)
            found.doubted += 1


def _repair(
    index: ChunkIndex,
    recovered: dict[ChunkHandle, ChunkState],
    store: ChunkStore,
    stored: set[ChunkHandle],
    found: Recovered,
) -> None:
    known = dict(index.headers()) | {handle: state.header for handle, state in recovered.items()}
    for handle, header in known.items():
        if header is None and handle not in recovered:
            found.corrupt[handle] = "its index entry is damaged"
            continue
        if header is not None and header.short_version:
            found.unsettled.add(handle)
        if header is not None and header.guest == WHOLE:
            found.guests[handle] = HeldChunk(handle, header.version, header.length_bytes)
        if header is not None and header.guest == FILLING:
            recovered[handle] = _without_guest(index, handle, store)
            found.corrupt.pop(handle, None)
            found.dropped += 1
            continue
        if header is not None and header.length_bytes == CHUNK_BYTES and handle in stored:
            continue  # a full chunk has nothing to cut; missing bytes show when it is read
        repair = repair_of(header, store.length(handle) if handle in stored else None)
        if repair.make:
            store.create(handle)
        elif repair.drop:
            store.delete(handle)
            found.dropped += 1
        elif repair.cut_to is not None:
            store.truncate(handle, repair.cut_to)
            found.cut += 1
        elif repair.corrupt:
            found.corrupt[handle] = repair.corrupt
    for handle in stored - known.keys():
        store.delete(handle)
        found.dropped += 1


def _without_guest(index: ChunkIndex, handle: ChunkHandle, store: ChunkStore) -> ChunkState:
    """Throw away a copy that was being made: it is cheaper to begin anew than to know how far it is right."""
    store.delete(handle)
    try:
        state = index.load(handle)
    except CorruptState:
        index.drop_damaged(handle)
        state = index.load(handle)
    state.header, state.full, state.window = None, array("I"), AppendWindow()
    state.rows_changed.clear()
    return state
