"""A chunk server's disk compared with itself: index, journal, files, every block's checksum. Changes nothing.

Beside a running server what is read at one moment and what at the next need not fit together. So nothing is
believed that was found only once: each suspicion is looked at again until it stays, or goes.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal

import msgspec

from gfs.checksums import crc32c
from gfs.chunkserver.core.chunk_record import FILLING, WHOLE
from gfs.chunkserver.stores.file import CHUNK_SUFFIX, CLONE_TEMPORARY, chunk_file_path
from gfs.inspect.chunk_bytes import ChunkBytes, StoredChunk
from gfs.inspect.chunk_rows import INDEX_FILE, IndexFault, IndexRow, index_rows, lasting_faults, look_up
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, ChunkHandle

LOOKS_MAX = 10
LOOK_SECONDS = 0.3  # between two looks at what keeps changing
SUSPECTS_MAX = 256  # looked at again together
BLOCKS_TOLD_MAX = 20
READ_BLOCKS = 16  # read at once
PAGE_ROWS = 128  # whose packed bytes are fetched at once

ChunkFindingKind = Literal[
    "damaged_index",
    "damaged_entry",
    "missing_file",
    "truncated_file",
    "bad_blocks",
    "unreadable_file",
    "marked_damaged",
    "unsynced_tail",
    "orphan_file",
    "surplus_bytes",
    "misplaced_file",
    "leftover_file",
    "stray_file",
    "keeps_changing",
]
_HARMLESS = ("unsynced_tail", "orphan_file", "surplus_bytes", "leftover_file", "stray_file", "keeps_changing")


class ChunkFinding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing found. `is_damage` False: a crash leaves it, and a start clears it up."""

    kind: ChunkFindingKind
    what: str
    is_damage: bool
    handle: int = 0
    path: str = ""
    blocks: list[int] = []


class ReplicaRow(msgspec.Struct, frozen=True, kw_only=True):
    """One replica, for `gfs chunk inspect`. `guest`: a copy that is no replica yet.

    `path`: of its file, or of the one it is packed in; empty if only its server can read its store.
    `stored_bytes`: there, -1 if it is not there. `records`: how many appended records its window remembers.
    `fault`: why its entry cannot be read.
    """

    handle: int
    version: int
    length_bytes: int
    sealed: bool
    guest: str
    durable: bool
    short_version: int
    revision: int
    master_term: int
    replaced_version: int
    records: int
    stored_bytes: int
    overwrite_waits: bool
    marked: str
    fault: str
    path: str


class ChunkSummary(msgspec.Struct, kw_only=True):
    directory: str
    replicas: int = 0
    guests: int = 0
    files: int = 0
    verified_bytes: int = 0
    verified_blocks: int = 0
    findings: int = 0
    damage: int = 0


class ChunkVerdict(msgspec.Struct, frozen=True, kw_only=True):
    summary: ChunkSummary
    findings: list[ChunkFinding]


def replica_rows(directory: str, only: ChunkHandle | None = None) -> Iterator[ReplicaRow | IndexFault]:
    """Raises: those of index_rows()."""
    rows: Iterator[IndexRow | IndexFault] = (
        index_rows(directory) if only is None else iter(look_up(directory, [only]).values())
    )
    kept = ChunkBytes(directory)
    seen: set[ChunkHandle] = set()
    for row in _fetched(rows, kept):
        if isinstance(row, IndexFault):
            yield row
        elif row.handle in seen:
            continue
        elif row.header is not None or row.fault:
            seen.add(row.handle)
            yield _replica_row(row, kept)


def _fetched(rows: Iterator[IndexRow | IndexFault], kept: ChunkBytes) -> Iterator[IndexRow | IndexFault]:
    """The same, a page at a time, with their bytes ready to be found."""
    while page := list(islice(rows, PAGE_ROWS)):
        kept.fetch([row.handle for row in page if isinstance(row, IndexRow)])
        yield from page


def _replica_row(row: IndexRow, kept: ChunkBytes) -> ReplicaRow:
    path, stored_bytes = _place_of(row.handle, kept)
    header = row.header
    guests = {0: "", FILLING: "filling", WHOLE: "whole"}
    return ReplicaRow(
        handle=row.handle,
        version=header.version if header else 0,
        length_bytes=header.length_bytes if header else 0,
        sealed=bool(header and header.sealed),
        guest=guests.get(header.guest, "unknown") if header else "",
        durable=bool(header and header.durable),
        short_version=header.short_version if header else 0,
        revision=header.revision if header else 0,
        master_term=header.master_term if header else 0,
        replaced_version=header.replaced_version if header else 0,
        records=row.records,
        stored_bytes=stored_bytes,
        overwrite_waits=row.redo_bytes > 0,
        marked=row.marked,
        fault=row.fault,
        path=path,
    )


def _place_of(handle: ChunkHandle, kept: ChunkBytes) -> tuple[str, int]:
    if not kept.is_readable:
        return "", -1
    try:
        found = kept.find(handle)
    except OSError:
        found = None
    if found is None:
        return kept.expected_path(handle), -1
    try:
        return found.path, found.length()
    finally:
        found.close()


class ChunkVerifier:
    """Goes through a chunk server's disk once. `summary` is complete when findings() has come to its end."""

    def __init__(self, directory: str, only: ChunkHandle | None = None) -> None:
        """`only`: one replica, and no file but its own."""
        self.summary = ChunkSummary(directory=directory)
        self._directory, self._only = directory, only
        self._kept = ChunkBytes(directory)
        self._known: set[ChunkHandle] = set()
        self._again = False  # what is looked at again is counted once

    def findings(self) -> Iterator[ChunkFinding]:
        """Raises: those of index_rows(); InvalidArgument when only their server can read the chunks."""
        self._kept.require_readable()
        for finding in self._walk():
            self.summary.findings += 1
            self.summary.damage += finding.is_damage
            yield finding

    def _walk(self) -> Iterator[ChunkFinding]:
        suspects: dict[ChunkHandle, _Look] = {}
        if self._only is not None:
            rows: Iterator[IndexRow | IndexFault] = iter(look_up(self._directory, [self._only]).values())
        else:
            rows = index_rows(self._directory)
        faults: list[IndexFault] = []
        for row in _fetched(rows, self._kept):
            if isinstance(row, IndexFault):
                faults.append(row)
                continue
            if row.handle in self._known:
                continue
            self._known.add(row.handle)
            self._count(row)
            found = self._judge(row)
            if found:
                suspects[row.handle] = _Look(row, found)
            if len(suspects) >= SUSPECTS_MAX:
                yield from self._confirmed(suspects)
                suspects = {}
        yield from self._confirmed(suspects)
        for fault in lasting_faults(self._directory, faults):
            yield _finding("damaged_index", fault.what, path=os.path.join(self._directory, INDEX_FILE))
        if self._only is None:
            yield from self._check_files()

    def _count(self, row: IndexRow) -> None:
        if row.header is not None and row.header.guest:
            self.summary.guests += 1
        elif row.header is not None or row.fault:
            self.summary.replicas += 1

    def _confirmed(self, suspects: dict[ChunkHandle, _Look]) -> Iterator[ChunkFinding]:
        """What is found again under the same revision."""
        self._again = True
        yield from self._look_again(suspects)
        self._again = False

    def _look_again(self, suspects: dict[ChunkHandle, _Look]) -> Iterator[ChunkFinding]:
        for look in range(LOOKS_MAX):
            if not suspects:
                return
            if look:
                time.sleep(LOOK_SECONDS)
            again = look_up(self._directory, list(suspects))
            self._kept.fetch(list(suspects))
            for handle in list(suspects):
                row = again[handle]
                seen, now = suspects[handle], _Look(row, self._judge(row))
                if not now.found:
                    del suspects[handle]
                elif now == seen:
                    del suspects[handle]
                    yield from now.found
                else:
                    suspects[handle] = now
        for handle in suspects:
            what = "it changed between all looks at it; ask again when it is written less"
            yield _finding("keeps_changing", what, handle=handle)

    # --- one replica ------------------------------------------------------------------------------

    def _judge(self, row: IndexRow) -> list[ChunkFinding]:
        if row.fault:
            return [_finding("damaged_entry", row.fault, handle=row.handle)]
        if row.header is None:
            path, stored_bytes = _place_of(row.handle, self._kept)
            if stored_bytes < 0:
                return []
            what = "the index knows no such replica: the rest of a creation or deletion"
            return [_finding("orphan_file", what, handle=row.handle, path=path)]
        found: list[ChunkFinding] = []
        if row.marked:
            what = f"the server knows that it is damaged: {row.marked}"
            found.append(_finding("marked_damaged", what, handle=row.handle))
        if row.header.guest != FILLING:  # such a one may hold anything, and a start throws it away
            try:
                found += self._judge_bytes(row, row.header.length_bytes)
            except OSError as error:
                what = f"it cannot be read: {error.strerror or error}"
                path = self._kept.expected_path(row.handle)
                found.append(_finding("unreadable_file", what, handle=row.handle, path=path))
        return found

    def _judge_bytes(self, row: IndexRow, length: int) -> Iterator[ChunkFinding]:
        kept = self._kept.find(row.handle)
        if kept is None:
            if length:
                path = self._kept.expected_path(row.handle)
                what = f"its {length} bytes are missing"
                yield _finding("missing_file", what, handle=row.handle, path=path)
            return
        path = kept.path
        try:
            stored = kept.length()
            if stored < length:
                what = f"{stored} of its {length} bytes are there"
                kind: ChunkFindingKind = "truncated_file"
                if row.power_cut and stored >= row.synced_bytes:
                    kind = "unsynced_tail"
                yield _finding(kind, what, handle=row.handle, path=path)
            bad = list(self._bad_blocks(row, kept, min(stored, length)))
        finally:
            kept.close()
        damaged = [block for block in bad if not self._may_be_unsynced(row, block)]
        if damaged:
            some = ", ".join(map(str, damaged[:BLOCKS_TOLD_MAX]))
            more = ", …" if len(damaged) > BLOCKS_TOLD_MAX else ""
            what = f"{len(damaged)} blocks of 64 KiB do not have their checksum: {some}{more}"
            yield _finding("bad_blocks", what, handle=row.handle, path=path, blocks=damaged)
        if len(damaged) < len(bad):
            what = f"from block {bad[len(damaged)]} on the power was cut before it was synced"
            yield _finding("unsynced_tail", what, handle=row.handle, path=path)
        if stored > length:
            what = f"{stored - length} bytes past its {length}, which were never acknowledged"
            yield _finding("surplus_bytes", what, handle=row.handle, path=path)

    def _may_be_unsynced(self, row: IndexRow, block: int) -> bool:
        return row.power_cut and (block + 1) * CHECKSUM_BLOCK_BYTES > row.synced_bytes

    def _bad_blocks(self, row: IndexRow, kept: StoredChunk, present: int) -> Iterator[int]:
        """Blocks that are there in full, as far as they are committed, and have another checksum."""
        header = row.header
        assert header is not None
        sums = array("I")
        sums.frombytes(row.sums)
        if header.tail_bytes:
            sums.append(header.tail_sum)
        position = 0
        while position < present:
            content = memoryview(kept.read(READ_BLOCKS * CHECKSUM_BLOCK_BYTES, position))
            for start in range(0, len(content), CHECKSUM_BLOCK_BYTES):
                block = (position + start) // CHECKSUM_BLOCK_BYTES
                first = block * CHECKSUM_BLOCK_BYTES
                stop = min(first + CHECKSUM_BLOCK_BYTES, header.length_bytes)
                if stop > present or first >= stop or _overlaps(row, first, stop):
                    continue
                if not self._again:
                    self.summary.verified_blocks += 1
                    self.summary.verified_bytes += stop - first
                if crc32c(content[start : start + stop - first]) != sums[block]:
                    yield block
            position += len(content)
            if not content:
                return

    # --- files ------------------------------------------------------------------------------------

    def _check_files(self) -> Iterator[ChunkFinding]:
        """Files, and packed chunks, that no replica of the index accounts for."""
        for top in self._kept.tops():
            yield from self._check_files_below(top)
        packed = [handle for handle in self._kept.packed_handles() if handle not in self._known]
        yield from self._new_or_orphans_in_pages(packed)

    def _check_files_below(self, top: str) -> Iterator[ChunkFinding]:
        unknown: list[ChunkHandle] = []
        for place, directories, names in os.walk(top):
            directories.sort()
            for name in sorted(names):
                self.summary.files += 1
                path = os.path.join(place, name)
                handle = _handle_of(name)
                if name.endswith(CLONE_TEMPORARY):
                    yield _finding("leftover_file", "a copy that was cut short", path=path)
                elif handle is None:
                    yield _finding("stray_file", "it is no chunk's file; no server reads it", path=path)
                elif path != chunk_file_path(top, handle):
                    what = "it lies where its server does not look for it"
                    yield _finding("misplaced_file", what, handle=handle, path=path)
                elif handle not in self._known:
                    unknown.append(handle)
            yield from self._new_or_orphans_in_pages(unknown)
            unknown.clear()

    def _new_or_orphans_in_pages(self, unknown: Sequence[ChunkHandle]) -> Iterator[ChunkFinding]:
        for first in range(0, len(unknown), PAGE_ROWS):
            yield from self._new_or_orphans(unknown[first : first + PAGE_ROWS])

    def _new_or_orphans(self, handles: Sequence[ChunkHandle]) -> Iterator[ChunkFinding]:
        suspects: dict[ChunkHandle, _Look] = {}
        self._kept.fetch(handles)
        for handle, row in look_up(self._directory, handles).items():
            self._count(row)  # a running server may have made it since
            if found := self._judge(row):
                suspects[handle] = _Look(row, found)
        yield from self._confirmed(suspects)


class _Look(msgspec.Struct, frozen=True):
    """What was found of one replica, and under which state of its index entry."""

    row: IndexRow
    found: list[ChunkFinding]


def _overlaps(row: IndexRow, first: int, stop: int) -> bool:
    """Whether an overwrite that was begun may have changed these bytes already."""
    return first < row.redo_offset + row.redo_bytes and row.redo_offset < stop


def _handle_of(name: str) -> ChunkHandle | None:
    stem = name.removesuffix(CHUNK_SUFFIX)
    try:
        return ChunkHandle(int(stem, 16)) if name.endswith(CHUNK_SUFFIX) and len(stem) == 16 else None
    except ValueError:
        return None


def _finding(
    kind: ChunkFindingKind, what: str, *, handle: int = 0, path: str = "", blocks: Sequence[int] = ()
) -> ChunkFinding:
    return ChunkFinding(
        kind=kind,
        what=what,
        is_damage=kind not in _HARMLESS,
        handle=handle,
        path=path,
        blocks=list(blocks),
    )
