"""Which log records made a path what it is: through renames, of itself or above, deletes, snapshots, grants.

The log is applied once more, so that a refused operation is told from one that had an effect. It is gone
through twice: first to learn which inode the path leads to in the end, then to see what touched that inode.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from gfs.errors import GfsError, NotFound
from gfs.inspect.oplog_entries import EntryReader, LogEntry
from gfs.inspect.oplog_replay import Replay, open_replay
from gfs.inspect.oplog_words import handles_of, inode_of, paths_of, record_in_words
from gfs.master.core.lookup import find, handle_of, inode_record, names_of
from gfs.master.core.records import TRASH_INODE, decode_inode, id_key
from gfs.master.core.tables import ReadTables, Table
from gfs.messages import operations as op
from gfs.vocabulary import PATH_DEPTH_MAX, ROOT_INODE, InodeId

NO_LIMIT = 2**64
_NAMESPACE = (
    op.MakeDirectory,
    op.CreateFile,
    op.DeletePath,
    op.RenamePath,
    op.Undelete,
    op.CopySnapshot,
    op.Reclaim,
)


class BlameLine(msgspec.Struct, frozen=True, kw_only=True):
    """One record that had a part in it. `effect`: made, moved, deleted, undeleted, removed (reclaimed),
    published (a snapshot that is whole), changed, chunk, content."""

    index: int
    term: int
    at_ms: int
    effect: str
    words: str
    record: op.LogRecord


class Blame(msgspec.Struct, kw_only=True):
    """`known_from`: entries up to here are not in the log any more; `existed`: it was there by then.

    `is_there`: the path leads to this inode at the log's end. Otherwise it is the last one that it led to.
    """

    path: str
    inode: int
    known_from: int
    existed: bool
    is_there: bool
    lines: list[BlameLine]


def blame(directory: str, path: str, *, work: str | None = None) -> Blame:
    """The records of the log in `directory` that made `path` what it is, oldest first.

    Raises: InvalidPath; NotFound when the path has never led anywhere; those of open_replay() and run().
    """
    names = names_of(path)
    log = EntryReader(directory)
    with open_replay(directory, log=log, work=work) as replay:
        replay.run(to=NO_LIMIT)
        inode = _at(replay.tables, names)
        chunks = set() if inode is None else set(_chunks(replay.tables, inode))
    is_there = inode is not None
    if inode is None:
        inode, chunks = _last_at(directory, log, names, path, work)
    with open_replay(directory, log=log, oldest=True, work=work) as replay:
        witness = _Witness(replay, inode, chunks)
        existed = inode_record(replay.tables, inode) is not None
        began_at = replay.began_at
        replay.run(to=NO_LIMIT, watch=witness.see)
    return Blame(
        path=path,
        inode=inode,
        known_from=began_at,
        existed=existed,
        is_there=is_there,
        lines=witness.lines,
    )


def _last_at(
    directory: str, log: EntryReader, names: tuple[bytes, ...], path: str, work: str | None
) -> tuple[InodeId, set[int]]:
    """The inode that the path led to last, and its chunks then."""
    found: InodeId | None = None
    chunks: set[int] = set()
    with open_replay(directory, log=log, oldest=True, work=work) as replay:
        found = _at(replay.tables, names)

        def see(_: LogEntry, record: op.LogRecord, outcome: op.AnyOutcome) -> None:
            nonlocal found
            if isinstance(record.operation, _NAMESPACE) and not isinstance(outcome, op.Refused):
                now = _at(replay.tables, names)
                found = found if now is None else now

        replay.run(to=NO_LIMIT, watch=see)
        if found is None:
            raise NotFound(
                f"{path} leads nowhere, and never did in the entries that the log in {directory} still has",
                hint=f"Those begin after {replay.began_at}; 'gfs checkpoint inspect' shows older states.",
            )
        chunks.update(_chunks(replay.tables, found))
    return found, chunks


@dataclass(slots=True)
class _Witness:
    """Sees every record applied, and keeps those that touched one inode."""

    replay: Replay
    inode: InodeId
    chunks: set[int]
    lines: list[BlameLine] = field(default_factory=list)
    _row: bytes | None = None
    _place: tuple[int, ...] = ()
    _told: set[tuple[int, int]] = field(default_factory=set)  # requests
    _snapshots: dict[int, tuple[LogEntry, op.LogRecord]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._row, self._place = self._now()

    def see(self, entry: LogEntry, record: op.LogRecord, outcome: op.AnyOutcome) -> None:
        if isinstance(outcome, op.Refused) or self._is_repeat(record):
            return
        operation = record.operation
        if isinstance(operation, op.BeginSnapshot) and isinstance(outcome, op.Done):
            self._snapshots[outcome.inode] = (entry, record)
        effect = self._effect_on_chunks(operation, outcome) or self._effect_on_place(operation, outcome)
        if not effect:
            return
        if effect == "made" and isinstance(operation, op.CopySnapshot):
            begun = self._snapshots.get(operation.copy)
            if begun is not None:
                self._tell(begun[0], "made", begun[1])
        self._tell(entry, effect, record)

    def _is_repeat(self, record: op.LogRecord) -> bool:
        """Of a request told already: it was answered with the first outcome, and did nothing."""
        request = record.request
        return request is not None and (request.client, request.sequence) in self._told

    def _effect_on_chunks(self, operation: op.AnyOperation, outcome: op.AnyOutcome) -> str:
        handles = set(handles_of(operation))
        if isinstance(outcome, op.ChunkGranted):
            handles.add(outcome.handle)
        if inode_of(operation) != self.inode:
            return "chunk" if self.chunks & handles else ""  # of a file it shares the chunk with
        self.chunks |= handles
        self._row, self._place = self._now()
        return "content" if isinstance(operation, op.SetLengthHint) else "chunk"

    def _effect_on_place(self, operation: op.AnyOperation, outcome: op.AnyOutcome) -> str:
        if not isinstance(operation, _NAMESPACE) and not paths_of(operation):
            return ""
        before, place = self._row, self._place
        self._row, self._place = self._now()
        if before is None or self._row is None:
            return "made" if self._row is not None else "removed" if before is not None else ""
        named = outcome.inode if isinstance(outcome, op.Done) else InodeId(0)
        if isinstance(operation, op.RenamePath) and (named == self.inode or named in place):
            return "moved"  # within one directory neither row nor place tells it: the name is in neither
        if _in_trash(place) != _in_trash(self._place):
            if _in_trash(self._place):
                return "deleted"
            return "published" if isinstance(operation, op.CopySnapshot) else "undeleted"
        if place != self._place:
            return "moved"
        # A policy does not stand in the inode's row.
        is_policy = isinstance(operation, op.SetPolicy) and named == self.inode
        return "changed" if is_policy or before != self._row else ""

    def _now(self) -> tuple[bytes | None, tuple[int, ...]]:
        """The inode's row, and the inodes above it: equal before and after means it has not moved."""
        tables = self.replay.tables
        row = tables.get(Table.INODES, id_key(self.inode))
        place: list[int] = []
        above = row
        while above is not None and len(place) <= PATH_DEPTH_MAX:
            parent = decode_inode(above).parent
            place.append(parent)
            if parent in (ROOT_INODE, TRASH_INODE):
                break
            above = tables.get(Table.INODES, id_key(parent))
        return row, tuple(place)

    def _tell(self, entry: LogEntry, effect: str, record: op.LogRecord) -> None:
        if record.request is not None:
            self._told.add((record.request.client, record.request.sequence))
        self.lines.append(
            BlameLine(
                index=entry.index,
                term=entry.term,
                at_ms=record.at_ms,
                effect=effect,
                words=record_in_words(record),
                record=record,
            )
        )


def _in_trash(place: tuple[int, ...]) -> bool:
    return bool(place) and place[-1] == TRASH_INODE


def _at(tables: ReadTables, names: tuple[bytes, ...]) -> InodeId | None:
    try:
        return find(tables, names)[0]
    except GfsError:
        return None


def _chunks(tables: ReadTables, inode: InodeId) -> Iterator[int]:
    record = inode_record(tables, inode)
    if record is None or record.is_directory:
        return
    for index in range(record.chunk_count):
        yield handle_of(tables, inode, record, index)
