"""The latest changes of the namespace, noted as the log is applied. Who hears of them is watch_service's.

Each master notes for itself, and all note the same: what a record has done is known only while it is applied,
because the log does not hold outcomes. It begins with the first record applied since this master started.

Invariants: `noted` is in the order of the log; whatever was noted from `begin` on is still there.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import msgspec

from gfs.errors import ChangesForgotten
from gfs.messages import operations as op
from gfs.messages.changes import ChangeKind
from gfs.vocabulary import InodeId, LogIndex

PATH_BYTES_EXTRA = 300  # what a noted change takes besides its paths, about
NAMES_KEPT_MAX = 16_384
REQUESTS_KEPT_MAX = 16_384


class Noted(msgspec.Struct, gc=False):
    """As messages.changes.Change; without a `path` it is of `inode`, wherever that is."""

    index: LogIndex
    at_ms: int
    kind: ChangeKind
    path: str
    source: str
    inode: InodeId
    length_bytes: int = -1
    superseded: bool = False  # a later step of the same snapshot has been noted

    @property
    def weight_bytes(self) -> int:
        return PATH_BYTES_EXTRA + len(self.path) + len(self.source)


class RecentChanges:
    """Bounded by number and by bytes; the oldest are forgotten first."""

    def __init__(self, *, begin: LogIndex, next_inode: int, kept_max: int, kept_bytes_max: int) -> None:
        """`begin`: the first entry that will be noted. `next_inode`: of the state before it."""
        assert kept_max > 0 and kept_bytes_max > 0
        self.begin = begin
        self._next_inode = next_inode
        self._kept_max, self._kept_bytes_max = kept_max, kept_bytes_max
        self._bytes = 0
        self.noted: list[Noted] = []
        # Two generations each, the younger first: to forget the oldest one by one costs more than to apply.
        self._names: dict[InodeId, str] = {}  # where files were when last heard of
        self._former_names: dict[InodeId, str] = {}
        self._requests: set[tuple[int, int]] = set()
        self._former_requests: set[tuple[int, int]] = set()
        self._copies: dict[int, Noted] = {}  # snapshots: their last step noted

    def forget_all(self, *, begin: LogIndex, next_inode: int) -> None:
        """The state was replaced by one further on: what led there is not known."""
        self.noted.clear()
        self._names, self._former_names = {}, {}
        self._requests, self._former_requests = set(), set()
        self._copies.clear()
        self.begin, self._next_inode, self._bytes = begin, next_inode, 0

    def note(self, index: LogIndex, record: op.LogRecord, outcome: op.AnyOutcome, *, next_inode: int) -> bool:
        """Take up one record just applied; `next_inode` of the state after it. True if there is news."""
        assert next_inode >= self._next_inode and (not self.noted or index >= self.noted[-1].index)
        made, self._next_inode = next_inode - self._next_inode, next_inode
        if isinstance(outcome, op.Refused) or self._is_repeat(record):
            return False
        before = len(self.noted)
        self._note(index, record.at_ms, record.operation, outcome, made)
        changed = len(self.noted) > before
        if changed and record.request is not None:
            self._requests.add((record.request.client, record.request.sequence))
            if len(self._requests) > REQUESTS_KEPT_MAX:
                self._requests, self._former_requests = set(), self._requests
        self._trim()
        return changed

    def page(self, from_index: int, *, through: LogIndex, limit: int) -> tuple[list[Noted], int]:
        """Whole entries within from_index..through, about `limit` changes; and where to go on.

        Raises: ChangesForgotten.
        """
        if from_index < self.begin:
            raise ChangesForgotten(
                f"this master remembers what changed since log entry {self.begin}, not since {from_index}",
                details={"begin": str(self.begin), "next": str(through + 1)},
            )
        if from_index > through:
            return [], from_index
        first = bisect_left(self.noted, LogIndex(from_index), key=_index_of)
        end = bisect_right(self.noted, through, key=_index_of)
        if end - first <= limit:
            return self.noted[first:end], through + 1
        cut = self.noted[first + limit].index  # the entry that does not fit as a whole
        last = bisect_left(self.noted, cut, key=_index_of)
        if last == first:  # it is the only one, and longer than a page
            last = bisect_right(self.noted, cut, key=_index_of)
            cut = LogIndex(cut + 1)
        return self.noted[first:last], cut

    def name_of(self, inode: InodeId) -> str:
        """Where it was when a record named it last; to be verified. "" when that was too long ago."""
        return self._names.get(inode) or self._former_names.get(inode, "")

    def keep_name(self, inode: InodeId, path: str) -> None:
        self._names[inode] = path
        if len(self._names) > NAMES_KEPT_MAX:
            self._names, self._former_names = {}, self._names

    def check_invariants(self) -> None:
        indexes = [change.index for change in self.noted]
        assert indexes == sorted(indexes) and all(index >= self.begin for index in indexes)
        assert len(indexes) <= self._kept_max
        assert self._bytes == sum(change.weight_bytes for change in self.noted)

    # --- what a record has changed ----------------------------------------------------------------

    def _note(
        self, index: LogIndex, at_ms: int, operation: op.AnyOperation, outcome: op.AnyOutcome, made: int
    ) -> None:
        inode = outcome.inode if isinstance(outcome, op.Done) else InodeId(0)

        def add(kind: ChangeKind, path: str = "", *, source: str = "", inode: InodeId = inode) -> Noted:
            change = Noted(index, at_ms, kind, path, source, inode)
            self.noted.append(change)
            self._bytes += PATH_BYTES_EXTRA + len(path) + len(source)
            return change

        match operation:
            case op.CreateFile():
                path = _plain(operation.path)
                self.keep_name(inode, path)
                add("created", path)
            case op.MakeDirectory():
                for path in _last_of(_plain(operation.path), made):
                    add("created", path, inode=InodeId(0))
            case op.DeletePath():
                add("deleted", _plain(operation.path))
            case op.RenamePath():
                self.keep_name(inode, _plain(operation.destination))
                add("renamed", _plain(operation.destination), source=_plain(operation.source))
            case op.Undelete():
                path = _plain(operation.path)
                for parent in _last_of(path.rpartition("/")[0], made):
                    add("created", parent, inode=InodeId(0))
                add("undeleted", path)
            case op.SetLengthHint():
                change = add("written", inode=operation.inode)
                change.length_bytes = -1 if operation.appending else operation.length_bytes
            case op.AddChunk() if isinstance(outcome, op.ChunkGranted) and not outcome.existed:
                add("extended", inode=operation.inode)
            case op.CopySnapshot():
                if (former := self._copies.pop(operation.copy, None)) is not None:
                    former.superseded = True
                self._copies[operation.copy] = add("snapshot", inode=InodeId(operation.copy))
                if len(self._copies) > REQUESTS_KEPT_MAX:
                    del self._copies[next(iter(self._copies))]
            case op.SetPolicy() | op.ChangeMode() | op.ChangeOwner():
                add("attributes", _plain(operation.path))
            case _:
                pass

    def _is_repeat(self, record: op.LogRecord) -> bool:
        """A retry of a request that was noted: it was answered as at first, and did nothing."""
        request = record.request
        if request is None:
            return False
        key = request.client, request.sequence
        return key in self._requests or key in self._former_requests

    def _trim(self) -> None:
        if len(self.noted) <= self._kept_max and self._bytes <= self._kept_bytes_max:
            return
        # A tenth at once, so that the list is not moved for each change; then the rest of a cut entry, for
        # a part of an entry is never told.
        few = max(1, self._kept_max // 10)
        gone = min(few, len(self.noted))
        last = self.noted[gone - 1].index
        gone = bisect_right(self.noted, last, key=_index_of)
        self._bytes -= sum(change.weight_bytes for change in self.noted[:gone])
        del self.noted[:gone]
        self.begin = LogIndex(last + 1)
        self._trim()


def concerns(path: str, watched: str, *, tree: bool) -> bool:
    """Whether a change at `path` is one of `watched` or below it; with `tree` also of what holds it."""
    if watched == "/" or path == watched or path.startswith(watched + "/"):
        return True
    return tree and (path == "/" or watched.startswith(path + "/"))


def _index_of(change: Noted) -> LogIndex:
    return change.index


def _last_of(path: str, count: int) -> list[str]:
    """The `count` last directories of a path, the highest first: those that were missing until now."""
    names = path.split("/")[1:]
    return ["/" + "/".join(names[:depth]) for depth in range(max(0, len(names) - count) + 1, len(names) + 1)]


def _plain(path: str) -> str:
    if "//" not in path and path[-1:] != "/":
        return path
    return "/" + "/".join(name for name in path.split("/") if name)
