"""What holds of all inodes and chunks: fields, counts, whose each chunk is. The tree is entry_rules'.

INODES and FILE_CHUNKS are read side by side, as both are in the order of inodes.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import compress

from gfs.errors import CorruptState
from gfs.master.core.columns import InodeColumns, column
from gfs.master.core.records import (
    COUNTERS_KEY,
    FILE_CHUNKS_MAX,
    ID_MAX,
    INODE_ROW_BYTES,
    Counters,
    InodeRecord,
    StoredChunk,
    decode_chunk,
    decode_copy,
    decode_inode,
    file_chunk_key,
    id_key,
    inode_share,
    read_file_chunk_key,
    read_handle,
    read_id,
)
from gfs.master.core.soundness import Fingerprint, ManyTables, Report, Sorter, batches, counted
from gfs.master.core.tables import Table
from gfs.master.core.tree_print import TreePrint, sum_below
from gfs.vocabulary import CHUNK_BYTES, REPLICATION_GOAL_MAX, ROOT_INODE

FILES_NAMED_MAX = 100  # chunks whose files are searched, to say which they are
SOUND_ROWS_MAX = 50_000
_HANDLE_BYTES = 6
_KNOWN_FLAGS = 0b1111
_IS_PLAIN = bytes(not kind & ~_KNOWN_FLAGS and not kind & 1 for kind in range(256))  # by flags: a file
_EXACT = 2


def check_inodes(
    tables: ManyTables, counters: Counters, report: Report, *, tree: TreePrint, named: Fingerprint
) -> None:
    """Fields of all inodes, and their chunks in FILE_CHUNKS. Adds what each says of the tree, and handles."""
    rows = _FileChunks(tables, report, named)
    files = directories = 0
    root_is_there = False
    for batch in batches(tables, Table.INODES):
        # Nearly all rows are those of plain files of one chunk, and are judged together, by the same rules.
        others, handles = _take_plain_files(batch, counters, tree)
        files += len(batch) - len(others)
        for key, row in others:
            if len(key) != 8:
                report("key", Table.INODES, key, "the key of an inode cannot be read")
                continue
            inode = read_id(key)
            if rows.ahead < key:
                rows.skip_to(key)
            if inode == ROOT_INODE:
                root_is_there = True
            try:
                record = decode_inode(row)
            except CorruptState as error:
                report("inode", Table.INODES, key, f"inode {inode}: {error.message}")
                continue
            if record.is_directory:
                directories += 1
            else:
                files += 1
            if inode != ROOT_INODE:
                _add_to(tree, tables, inode, row)
            if record.first_chunk:
                handles.append(record.first_chunk)
            if record.chunk_count > 1 or rows.ahead == key:
                rows.check(key, inode, record.chunk_count)
            if fault := _inode_fault(inode, record, row[0], counters):
                report("inode", Table.INODES, key, f"inode {inode} {fault}")
        named.add(handles)
    rows.skip_to(None)
    if not root_is_there:
        report("no root", Table.INODES, id_key(ROOT_INODE), "there is no root directory")
    _compare("files", counters.files, files, report)
    _compare("directories", counters.directories, directories, report)


def _take_plain_files(
    batch: list[tuple[bytes, bytes]], counters: Counters, tree: TreePrint
) -> tuple[list[tuple[bytes, bytes]], array[int]]:
    """Take out the rows of files of one chunk, if they are sound, and say what they say of the tree.

    Returns: the rows that are left; the handles of those that are not.
    """
    nothing_taken = batch, array("Q")
    rows = [row for _, row in batch]
    keys = [key for key, _ in batch]
    if set(map(len, rows)) != {INODE_ROW_BYTES} or set(map(len, keys)) != {8}:
        return nothing_taken
    columns = InodeColumns(rows)
    flags, counts = columns.flags(), columns.chunk_counts()
    plain = bytearray(flags.translate(_IS_PLAIN))
    if counts.count(1) != len(rows):
        for at, count in enumerate(counts):
            if count != 1:
                plain[at] = 0
    others: list[tuple[bytes, bytes]] = []
    if at_other := [at for at, is_plain in enumerate(plain) if not is_plain]:
        if len(at_other) == len(rows):
            return nothing_taken
        others = [batch[at] for at in at_other]
        keys, rows = list(compress(keys, plain)), list(compress(rows, plain))
        columns = InodeColumns(rows)
        flags = columns.flags()
    lengths: Sequence[int] = columns.lengths()
    handles = columns.first_chunks()
    joined = b"".join(keys)
    inodes = column(joined, 8, 0, 8)
    if not (
        max(columns.replication_goals()) <= REPLICATION_GOAL_MAX
        and max(lengths) <= CHUNK_BYTES
        and max(columns.accesses()) >> 9 <= counters.ownerships
        and min(handles) > 0
        and inodes[0] > ROOT_INODE
        and inodes[-1] < min(counters.next_inode, ID_MAX + 1)
    ):
        return nothing_taken
    if not all(kind & _EXACT for kind in set(flags)):
        lengths = [
            length if kind & _EXACT else CHUNK_BYTES for kind, length in zip(flags, lengths, strict=True)
        ]
    # As entries name them, twice the inode: all of them doubled as one large number, as none overflows.
    numbers = column((int.from_bytes(joined, "big") << 1).to_bytes(len(joined), "big"), 8, 0, 8)
    parents: Sequence[int] = columns.parents()
    if parents.count(parents[0]) == len(parents):
        parents = parents[:1]
    tree.add_plain_files(numbers, parents, lengths)
    return others, handles


def _add_to(tree: TreePrint, tables: ManyTables, inode: int, row: bytes) -> None:
    is_directory, parent, _ = inode_share(row)
    try:
        tree.add_inode(inode, parent, is_directory, sum_below(tables, inode, row))
    except CorruptState:
        tree.add_holder(inode, parent, is_directory)  # the sum's own row cannot be read, which is found there


def _compare(what: str, kept: int, found: int, report: Report) -> None:
    if kept != found:
        report("counter", Table.META, COUNTERS_KEY, f"{kept} {what} are counted, {found} are there")


def _inode_fault(inode: int, record: InodeRecord, flags: int, counters: Counters) -> str:
    """What is wrong with it, or nothing."""
    if not 0 < inode < counters.next_inode:
        return f"is not below the next id, {counters.next_inode}"
    if flags & ~_KNOWN_FLAGS:
        return f"has unknown flags {flags:#04x}"
    if record.ownership > counters.ownerships:
        return f"belongs to owner {record.ownership}, who has no name"
    if record.is_directory:
        if record.chunk_count or record.first_chunk or record.length_bytes or record.replication_goal:
            return "is a directory and has content"
        return "is the root and no child of itself" if inode == ROOT_INODE != record.parent else ""
    if inode == ROOT_INODE:
        return "is the root and no directory"
    if record.replication_goal > REPLICATION_GOAL_MAX:
        return f"has a replication goal out of range: {record.replication_goal}"
    if record.chunk_count > FILE_CHUNKS_MAX:
        return f"has {record.chunk_count} chunks"
    if bool(record.first_chunk) != bool(record.chunk_count):
        return f"has {record.chunk_count} chunks, the first one being {record.first_chunk}"
    if record.length_bytes > record.chunk_count * CHUNK_BYTES:
        return f"is {record.length_bytes} bytes long in {record.chunk_count} chunks"
    return ""


class _FileChunks:
    """The rows of FILE_CHUNKS, taken by the inodes as these come by. `ahead`: whose the next is."""

    def __init__(self, tables: ManyTables, report: Report, named: Fingerprint) -> None:
        self._tables, self._report, self._named = tables, report, named
        self._rows = (row for batch in batches(tables, Table.FILE_CHUNKS) for row in batch)
        self._key: bytes | None
        self.ahead = b""
        self._advance()

    def check(self, key: bytes, inode: int, chunk_count: int) -> None:
        """The rows of `inode` are chunks 1 up to `chunk_count`, without a gap."""
        handles: list[int] = []
        expected = 1
        while self._key is not None and self.ahead == key:
            if expected < chunk_count and self._key == file_chunk_key(inode, expected):
                expected += 1
            else:
                self._report_misplaced(inode, expected, chunk_count)
                try:
                    expected = read_file_chunk_key(self._key)[1] + 1
                except struct.error:
                    pass
            if len(self._value) == _HANDLE_BYTES:
                handles.append(read_handle(self._value))
            else:
                self._report(
                    "file's chunk", Table.FILE_CHUNKS, self._key, "no handle can be read from the row"
                )
            self._advance()
        if expected < chunk_count:
            missing = file_chunk_key(inode, expected)
            told = f"inode {inode} has {chunk_count} chunks, but lacks chunk {expected} and those after it"
            self._report("missing chunk of a file", Table.FILE_CHUNKS, missing, told)
        self._named.add(handles)

    def skip_to(self, key: bytes | None) -> None:
        while self._key is not None and (key is None or self.ahead < key):
            if self._tables.get(Table.INODES, self.ahead) is None:
                told = "a chunk is that of a missing inode"
                self._report("chunk of nothing", Table.FILE_CHUNKS, self._key, told)
            else:
                told = f"inode {read_id(self._key)} has a row for a chunk, and no such chunk"
                self._report("missing chunk of a file", Table.FILE_CHUNKS, self._key, told)
            if len(self._value) == _HANDLE_BYTES:
                self._named.add((read_handle(self._value),))
            self._advance()

    def _report_misplaced(self, inode: int, expected: int, chunk_count: int) -> None:
        assert self._key is not None
        try:
            index: int | str = read_file_chunk_key(self._key)[1]
        except struct.error:
            index = "unreadable"
        told = f"inode {inode} of {chunk_count} chunks has a row for chunk {index} where {expected} was due"
        self._report("missing chunk of a file", Table.FILE_CHUNKS, self._key, told)

    def _advance(self) -> None:
        self._key, self._value = next(self._rows, (None, b""))
        self.ahead = b"\xff" * 9 if self._key is None else self._key[:8]


def check_chunks(tables: ManyTables, counters: Counters, report: Report, counted_names: Fingerprint) -> None:
    """Fields of all chunks. Adds each as often as it says that files name it."""
    total = 0
    sound: set[bytes] = set()  # rows of unshared chunks that were found sound: few rows of many differ
    for batch in batches(tables, Table.CHUNKS):
        total += len(batch)
        if len(sound) > SOUND_ROWS_MAX:
            sound.clear()
        if (many := _sound_handles(batch, counters, sound)) is not None:
            counted_names.add(many)
            continue
        handles: list[int] = []
        for key, row in batch:
            if len(key) != 8:
                report("key", Table.CHUNKS, key, "the key of a chunk cannot be read")
                continue
            handle = read_id(key)
            if row in sound and 0 < handle < counters.next_handle:
                handles.append(handle)
                continue
            try:
                chunk = decode_chunk(row)
            except CorruptState as error:
                report("chunk", Table.CHUNKS, key, f"chunk {handle}: {error.message}")
                continue
            counted_names.add_times(handle, chunk.references)
            if fault := _chunk_fault(handle, chunk, counters):
                report("chunk", Table.CHUNKS, key, f"chunk {handle} {fault}")
            elif chunk.references == 1:
                sound.add(row)
        counted_names.add(handles)
    _compare("chunks", counters.chunks, total, report)
    for key, row in tables.scan(Table.UNFINISHED):
        if key[:1] == b"c":
            _check_copy(tables, key, row, counters, report)
        elif key[:1] != b"s":
            report("unfinished", Table.UNFINISHED, key, "the row is neither a snapshot's nor a copy's")


def _sound_handles(
    batch: list[tuple[bytes, bytes]], counters: Counters, sound: set[bytes]
) -> Sequence[int] | None:
    """The handles, if all rows are sound and of chunks that are not shared; adds to `sound`."""
    keys = [key for key, _ in batch]
    if set(map(len, keys)) != {8}:
        return None
    handles = column(b"".join(keys), 8, 0, 8)
    if not (handles[0] > 0 and handles[-1] < counters.next_handle):
        return None
    for row in {row for _, row in batch} - sound:
        try:
            chunk = decode_chunk(row)
        except CorruptState:
            return None
        if chunk.references != 1 or _chunk_fault(handles[0], chunk, counters):
            return None
        sound.add(row)
    return handles


def _chunk_fault(handle: int, chunk: StoredChunk, counters: Counters) -> str:
    """What is wrong with it, or nothing."""
    servers = chunk.servers
    if not 0 < handle < counters.next_handle:
        return f"is not below the next handle, {counters.next_handle}"
    if chunk.references < 1:
        return "counts no file"
    if chunk.version < 1:
        return "has no version"
    if not 0 <= chunk.held_version <= chunk.version:
        return f"of version {chunk.version} is held at version {chunk.held_version}"
    if not 0 < len(servers) <= REPLICATION_GOAL_MAX or len(set(servers)) != len(servers):
        return f"has a replica set that is none: {servers}"
    if not 0 <= chunk.primary < len(servers):
        return "has a primary outside of its replica set"
    if min(servers) < 1 or max(servers) >= counters.next_server:
        return f"is on unknown servers: {servers}"
    if not 0 <= chunk.length_bytes <= CHUNK_BYTES:
        return f"has a length out of range: {chunk.length_bytes}"
    if chunk.quiet not in (0, 1) or chunk.version < 1 + chunk.quiet:
        return "is oddly quiet"
    if chunk.sealed not in (0, 1) or (chunk.length_bytes and not chunk.sealed):
        return "has a length but no seal"
    return ""


def _check_copy(tables: ManyTables, key: bytes, row: bytes, counters: Counters, report: Report) -> None:
    if len(key) != 9:
        report("copy", Table.UNFINISHED, key, "the key of a chunk's copy cannot be read")
        return
    copy = read_id(key[1:])
    try:
        decode_copy(row)
    except CorruptState as error:
        report("copy", Table.UNFINISHED, key, error.message)
    if not 0 < copy < counters.next_handle:
        report("copy", Table.UNFINISHED, key, f"reserved chunk {copy} is not below the next handle")
    elif tables.get(Table.CHUNKS, id_key(copy)) is not None:
        report("copy", Table.UNFINISHED, key, f"chunk {copy} is there and reserved")


def name_chunks(tables: ManyTables, report: Report, sorter: Callable[[], Sorter]) -> None:
    """Files and chunks do not agree on which file has which chunk: say which do not."""
    names = sorter()
    for batch in batches(tables, Table.INODES):
        names.add(record.first_chunk for _, record in _readable(batch) if record.first_chunk)
    for batch in batches(tables, Table.FILE_CHUNKS):
        names.add(read_handle(value) for _, value in batch if len(value) == _HANDLE_BYTES)
    wrong = list(_disagreements(tables, report, counted(names.in_order())))
    _report_with_files(tables, wrong, report)


def _disagreements(
    tables: ManyTables, report: Report, names: Iterator[tuple[int, int]]
) -> Iterator[tuple[int, str, str]]:
    """Handle, rule and what is wrong; those beyond FILES_NAMED_MAX are reported without their files."""
    found = 0
    for handle, times, references in _side_by_side(tables, names):
        if times == references:
            continue
        if references == 0:
            rule, told = "lost chunk", f"chunk {handle} is missing and {times} times part of a file"
        elif times == 0:
            rule, told = "orphan chunk", f"chunk {handle} counts {references} files and is part of none"
        elif times > references:
            rule, told = (
                "shared chunk",
                f"chunk {handle} is {times} times part of a file, counts {references}",
            )
        else:
            rule, told = "reference count", f"chunk {handle} counts {references} files, {times} have it"
        found += 1
        if found <= FILES_NAMED_MAX:
            yield handle, rule, told
        else:
            report(rule, Table.CHUNKS, id_key(handle), told)


def _side_by_side(tables: ManyTables, names: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Each handle with how often files name it, and how often its row says so (0: no row)."""
    behind_all = ID_MAX + 1
    handle, times = next(names, (behind_all, 0))
    for batch in batches(tables, Table.CHUNKS):
        for key, row in batch:
            if len(key) != 8:
                continue
            number = read_id(key)
            while handle < number:
                yield handle, times, 0
                handle, times = next(names, (behind_all, 0))
            here = 0
            if handle == number:
                here = times
                handle, times = next(names, (behind_all, 0))
            try:
                yield number, here, max(1, decode_chunk(row).references)
            except CorruptState:
                continue
    while handle < behind_all:
        yield handle, times, 0
        handle, times = next(names, (behind_all, 0))


def _report_with_files(tables: ManyTables, wrong: list[tuple[int, str, str]], report: Report) -> None:
    if not wrong:
        return
    files: dict[int, list[str]] = {handle: [] for handle, _, _ in wrong}
    for batch in batches(tables, Table.INODES):
        for key, record in _readable(batch):
            if record.first_chunk in files:
                files[record.first_chunk].append(f"chunk 0 of inode {read_id(key)}")
    for batch in batches(tables, Table.FILE_CHUNKS):
        for key, value in batch:
            if len(key) == 12 and read_handle(value) in files:
                inode, index = read_file_chunk_key(key)
                files[read_handle(value)].append(f"chunk {index} of inode {inode}")
    for handle, rule, told in wrong:
        where = f" ({', '.join(files[handle][:5])})" if files[handle] else ""
        report(rule, Table.CHUNKS, id_key(handle), told + where)


def _readable(batch: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, InodeRecord]]:
    for key, row in batch:
        try:
            yield key, decode_inode(row)
        except CorruptState:
            continue
