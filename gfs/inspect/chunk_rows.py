"""What a chunk server's index says of its replicas, journal included. Not whether the bytes agree.

Reading happens in a child process (see guarded). A running server moves what its journal holds to the index
all the time; whoever finds a contradiction therefore looks again before believing it.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

import msgspec

from gfs.chunkserver.core.chunk_record import ChunkHeader, Deleted, Redo, decode_records
from gfs.chunkserver.core.recovery import ChunkReplay
from gfs.chunkserver.index_journal import SegmentContents, read_segment, segment_path, segment_sequences
from gfs.chunkserver.index_tables import IndexTables
from gfs.errors import CorruptState, InvalidArgument, NotFound, Unavailable
from gfs.inspect.guarded import guarded
from gfs.inspect.read_only import ReadOnlyDisk
from gfs.vocabulary import ChunkHandle

JOURNAL_READS_MAX = 20  # tries to read the journal between two flushes of a running server
ROWS_PER_LOOK = 256  # entries read in one step: their checksums fill a MiB
READS_MAX = 4  # how often what looks like damage is read before it is believed
READ_AGAIN_SECONDS = 0.2
INDEX_FILE = "chunks.lmdb"


class IndexRow(msgspec.Struct, frozen=True, array_like=True):
    """One replica as the index has it. `header` None with a `fault`: its entry is damaged; without: none.

    `sums`: CRC32C of the full blocks, 4 bytes each. Bytes before `synced_bytes` were on the disk. An
    overwrite that was begun covers `redo_bytes` from `redo_offset`. `power_cut`: the machine has restarted
    since.
    """

    handle: ChunkHandle
    header: ChunkHeader | None
    sums: bytes = b""
    records: int = 0
    fault: str = ""
    marked: str = ""
    redo_offset: int = 0
    redo_bytes: int = 0
    synced_bytes: int = 0
    power_cut: bool = False
    is_from_journal: bool = False  # told before its turn; it may come again from the index


class IndexFault(msgspec.Struct, frozen=True, array_like=True):
    """Damage of the index as a whole: of its journal, or of the order of its entries."""

    what: str


class _Told(msgspec.Struct, array_like=True):
    row: IndexRow | None = None
    fault: IndexFault | None = None


def chunkserver_directory(path: str) -> tuple[str, ChunkHandle | None]:
    """The directory that `path` is or is in, and the handle when it is a chunk's file.

    Raises: NotFound, InvalidArgument.
    """
    if not os.path.exists(path):
        raise NotFound(f"{path} does not exist")
    directory = os.path.abspath(path)
    handle = None
    if os.path.isfile(directory):
        name, directory = os.path.basename(directory), os.path.dirname(directory)
        if name != INDEX_FILE:
            handle = _handle_of(name, path)
    start = directory
    while not os.path.exists(os.path.join(directory, INDEX_FILE)):
        above = os.path.dirname(directory)
        if above == directory or handle is None:
            raise NotFound(
                f"there is no {INDEX_FILE} in {start}",
                hint="Name a chunk server's directory, or one of its files under chunks/.",
            )
        directory = above
    return directory, handle


def _handle_of(name: str, path: str) -> ChunkHandle:
    stem, dot, suffix = name.partition(".")
    try:
        if dot and suffix == "chunk":
            return ChunkHandle(int(stem, 16))
    except ValueError:
        pass
    raise InvalidArgument(f"{path} is no chunk's file", hint="They have names like 00000000000001a5.chunk.")


def index_rows(directory: str) -> Iterator[IndexRow | IndexFault]:
    """Every replica in the index, and faults of the index itself.

    What is found at most once, because a server was writing, is told all the same: look_up() and
    lasting_faults() say what is still so. A replica may come twice when it had to be read again.
    Raises: CorruptState, UnsupportedVersion, NotFound; Unavailable when it cannot be read beside its server.
    """
    last, failures = -1, 0
    while True:
        try:
            for found in _produced(directory, partial(_all_rows, directory, last)):
                if isinstance(found, IndexRow) and not found.is_from_journal:
                    last, failures = max(last, found.handle), 0
                yield found
            return
        except CorruptState:
            # A page that a running server has used anew looks like damage; damage stays where it is.
            failures += 1
            if failures >= READS_MAX:
                raise
            time.sleep(READ_AGAIN_SECONDS)


def lasting_faults(directory: str, found: Sequence[IndexFault]) -> list[IndexFault]:
    """Those of `found` that are still there."""
    for _ in range(READS_MAX):
        if not found:
            break
        now = [
            told for told in _produced(directory, lambda: _faults(directory)) if isinstance(told, IndexFault)
        ]
        if now == list(found):
            break
        found = now
        time.sleep(READ_AGAIN_SECONDS)
    return list(found)


def look_up(directory: str, handles: Sequence[ChunkHandle]) -> dict[ChunkHandle, IndexRow]:
    """The rows of these handles as of now. Raises: as index_rows()."""
    for failures in range(1, READS_MAX + 1):
        try:
            produced = _produced(directory, lambda: _some_rows(directory, handles))
            return {row.handle: row for row in produced if isinstance(row, IndexRow)}
        except CorruptState:
            if failures == READS_MAX:
                raise
            time.sleep(READ_AGAIN_SECONDS)
    raise AssertionError("unreachable")


def _produced(directory: str, produce: Callable[[], Iterator[bytes]]) -> Iterator[IndexRow | IndexFault]:
    decoder = msgspec.msgpack.Decoder(_Told)
    try:
        for content in guarded(produce, os.path.join(directory, INDEX_FILE)):
            told = decoder.decode(content)
            found = told.row or told.fault
            assert found is not None
            yield found
    except CorruptState as error:
        hint = "Its replicas are lost with it; empty the directory, and the others' copies are cloned to it."
        raise CorruptState(error.message, hint=hint) from error


# --- in the child --------------------------------------------------------------------------------------

_encode = msgspec.msgpack.Encoder().encode


def _all_rows(directory: str, after: int) -> Iterator[bytes]:
    index = IndexTables.open_to_read(directory)
    journal = _Journal(index, directory)
    for fault in journal.faults:
        yield _encode(_Told(fault=IndexFault(fault)))
    marks = index.noted_damage()
    for handle in sorted(journal.replays):
        row = _row(index, journal, handle, marks)
        if row.header is not None:
            yield _encode(_Told(row=msgspec.structs.replace(row, is_from_journal=True)))
    walk = _handles(index, after)
    while True:
        try:
            page = list(islice(walk, ROWS_PER_LOOK))
        except CorruptState as error:
            yield _encode(_Told(fault=IndexFault(error.message)))
            return
        if not page:
            return
        for row in [_row(index, journal, handle, marks) for handle in page]:
            yield _encode(_Told(row=row))


def _handles(index: IndexTables, after: int) -> Iterator[ChunkHandle]:
    """Raises: CorruptState."""
    is_last = False
    while not is_last:
        page, is_last = index.header_page(ChunkHandle(after + 1))
        yield from page
        after = max(page, default=after)


def _faults(directory: str) -> Iterator[bytes]:
    index = IndexTables.open_to_read(directory)
    for fault in _Journal(index, directory).faults:
        yield _encode(_Told(fault=IndexFault(fault)))
    try:
        for _ in _handles(index, -1):
            pass
    except CorruptState as error:
        yield _encode(_Told(fault=IndexFault(error.message)))


def _some_rows(directory: str, handles: Sequence[ChunkHandle]) -> Iterator[bytes]:
    index = IndexTables.open_to_read(directory)
    journal = _Journal(index, directory)
    marks = index.noted_damage()
    for row in [_row(index, journal, handle, marks) for handle in handles]:
        yield _encode(_Told(row=row))


def _row(
    index: IndexTables, journal: _Journal, handle: ChunkHandle, marks: dict[ChunkHandle, str]
) -> IndexRow:
    """What the journal says goes before what the index does, unless a flush has overtaken it."""
    marked = marks.get(handle, "")
    replay = journal.replays.get(handle)
    try:
        state = index.read_state(handle)
    except CorruptState as error:
        if replay is None or not replay.deleted:
            return IndexRow(handle, None, fault=error.message, marked=marked)
        state = None
    header = state.header if state is not None else None
    if replay is not None and (
        header is None or _revision(replay.header) >= header.revision or replay.deleted
    ):
        redo = replay.redo
        return IndexRow(
            handle,
            replay.header,
            sums=replay.full.tobytes(),
            records=len(replay.window),
            marked=marked,
            redo_offset=redo.offset if redo else 0,
            redo_bytes=len(redo.data) if redo else 0,
            synced_bytes=replay.synced_bytes,
            power_cut=journal.power_cut,
        )
    if state is None or header is None:
        return IndexRow(handle, None, marked=marked)
    return IndexRow(
        handle,
        header,
        sums=state.full.tobytes(),
        records=len(state.window),
        marked=marked,
        synced_bytes=header.length_bytes,
    )


def _revision(header: ChunkHeader | None) -> int:
    return header.revision if header is not None else 0


class _Journal:
    """What the segments that are not in the index yet say, replayed over what it has."""

    def __init__(self, index: IndexTables, directory: str) -> None:
        """Raises: Unavailable when the server flushes faster than this can read."""
        self.replays: dict[ChunkHandle, ChunkReplay] = {}
        self.faults: list[str] = []
        self.power_cut = False
        for _ in range(JOURNAL_READS_MAX):
            self.replays, self.faults = {}, []
            flushed = index.flushed_sequence
            self._read(index, directory, flushed)
            if index.flushed_sequence == flushed:
                return
        raise Unavailable(
            f"the index in {directory} changed each time its journal was read",
            hint="Try again when the chunk server has less to do.",
        )

    def _read(self, index: IndexTables, directory: str, flushed: int) -> None:
        disk = ReadOnlyDisk()
        live = [sequence for sequence in segment_sequences(disk, directory) if sequence > flushed]
        for expected, sequence in enumerate(live, start=flushed + 1):
            if sequence != expected:
                self.faults.append(f"{segment_path(directory, expected)} is missing")
                return
        if not live and not index.is_new:
            self.faults.append(f"{segment_path(directory, flushed + 1)} is missing")
        for sequence in live:
            try:
                segment = read_segment(disk, directory, sequence)
                self.power_cut |= segment.power_cut
                self._replay(index, segment, segment_path(directory, sequence))
            except FileNotFoundError:
                return  # flushed and removed meanwhile
            except (CorruptState, UnicodeDecodeError) as error:
                self.faults.append(str(error))
                return
            if segment.torn:
                return

    def _replay(self, index: IndexTables, segment: SegmentContents, path: str) -> None:
        for number, (offset, payload) in enumerate(segment.payloads):
            where = f"{path}: record {number} at offset {offset}"
            try:
                for record in decode_records(payload):
                    handle = record.outcome.handle if isinstance(record, Redo) else record.handle
                    replay = self.replays.get(handle) or _begun(index, handle, isinstance(record, Deleted))
                    if replay is not None:
                        self.replays[handle] = replay
                        replay.feed(record)
            except msgspec.MsgspecError as error:
                raise CorruptState(f"{where} is not understood: {error}") from error
            except CorruptState as error:
                raise CorruptState(f"{where}: {error.message}") from error


def _begun(index: IndexTables, handle: ChunkHandle, is_deletion: bool) -> ChunkReplay | None:
    """What the journal's records of a chunk go on from; None when its entry is damaged."""
    try:
        state = index.read_state(handle)
    except CorruptState:
        return ChunkReplay(handle, None, array("I")) if is_deletion else None
    return ChunkReplay(handle, state.header, array("I", state.full), state.window.copy())
