"""What changed in the namespace, for who asks this master: waits, filters, names. Noting is the core's.

A watcher costs this master one request that waits, and nothing between two: it keeps its own place. What it
is told was committed, because only committed records are applied, and is in the tables by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gfs.clock import Clock
from gfs.errors import GfsError, InvalidArgument, Overloaded
from gfs.master.callers import Callers, everybody
from gfs.master.core.access import READ, SEARCH, Access
from gfs.master.core.lookup import NamePath, find, inode_record, names_of, path_of, spell
from gfs.master.core.recent_changes import Noted, RecentChanges, concerns
from gfs.master.core.records import TRASH_INODE, job_key
from gfs.master.core.tables import ReadTables, Table
from gfs.master.reads import Reads
from gfs.messages.base import Reply, Request
from gfs.messages.changes import Change, ChangesReply, WatchChanges
from gfs.messages.operations import AnyOutcome, LogRecord
from gfs.settings import (
    CHANGES_KEPT_BYTES_MAX,
    CHANGES_KEPT_MAX,
    CHANGES_PAGE_MAX,
    WATCH_SECONDS_MAX,
    WATCHERS_MAX,
)
from gfs.transport.interface import CallContext, Handlers
from gfs.vocabulary import PATH_DEPTH_MAX, ROOT_INODE, InodeId, LogIndex

NAMES_SEARCHED_MAX = 8  # on one page, each among PATH_SEARCH_ROWS_MAX entries; of more, among a few
FEW_ROWS = 100
COMMIT_POLL_SECONDS = 0.002  # a record is in the tables at the end of the turn of the loop that applies it
DEADLINE_SHARE = 0.8  # of the time its caller waits, after which there is an answer, if an empty one
_TREES = frozenset(("deleted", "renamed", "undeleted", "snapshot"))


class WatchService:
    """Handler of one master. note() hears of every record applied there, forget_all() of a replaced state."""

    def __init__(
        self,
        reads: Reads,
        clock: Clock,
        *,
        applied: Callable[[], LogIndex],
        next_inode: Callable[[], int],
        callers: Callers | None = None,
        kept_max: int = CHANGES_KEPT_MAX,
    ) -> None:
        """`applied`, `next_inode`: of the live state, with what is applied and not committed yet."""
        self._reads, self._clock, self._callers = reads, clock, callers or everybody()
        self._applied, self._next_inode = applied, next_inode
        self.recent = RecentChanges(
            begin=LogIndex(applied() + 1),
            next_inode=next_inode(),
            kept_max=kept_max,
            kept_bytes_max=CHANGES_KEPT_BYTES_MAX,
        )
        self._news = asyncio.Event()
        self._watchers = 0

    def handlers(self) -> Handlers:
        return {WatchChanges: self.watch}

    def note(self, index: LogIndex, record: LogRecord, outcome: AnyOutcome) -> None:
        if self.recent.note(index, record, outcome, next_inode=self._next_inode()):
            self._wake()

    def forget_all(self) -> None:
        self.recent.forget_all(begin=LogIndex(self._applied() + 1), next_inode=self._next_inode())
        self._wake()

    async def watch(self, request: Request, context: CallContext) -> Reply:
        """Raises: ChangesForgotten; InvalidArgument for an index that the log has not come to; Overloaded."""
        assert isinstance(request, WatchChanges)
        watched = spell(names_of(request.path), whole=True)
        if request.from_index <= 0:
            self._require_listing(await self._reads.linearizable(), context, watched)
            reply = ChangesReply(changes=[], next_index=self._reads.applied_index() + 1)
            return self._reads.stamp(reply, "linearizable")
        self._require_listing(await self._reads.view("session", 0), context, watched)
        await self._require_reached(request.from_index)
        if self._watchers >= WATCHERS_MAX:
            raise Overloaded(
                f"{WATCHERS_MAX} watchers wait at this master already", hint="Another master may have room."
            )
        seconds = min(request.wait_seconds, WATCH_SECONDS_MAX, context.seconds_left * DEADLINE_SHARE)
        self._watchers += 1
        try:
            return await self._first_page(request.from_index, watched, context, seconds)
        finally:
            self._watchers -= 1

    async def _first_page(self, at: int, watched: str, context: CallContext, seconds: float) -> Reply:
        """The first page with something on it; an empty one when the time is over."""
        give_up_at = self._clock.monotonic() + seconds
        while True:
            tables = await self._reads.view("session", 0)
            through = self._reads.applied_index()
            noted, at = self.recent.page(at, through=through, limit=CHANGES_PAGE_MAX)
            view = _View(tables, watched, self._callers.access(tables, context), self.recent)
            changes = list(view.shown(noted))
            left = give_up_at - self._clock.monotonic()
            if changes or left <= 0:
                reply = ChangesReply(changes=changes, next_index=at)
                return self._reads.stamp(reply, "session")
            if at <= through:
                await asyncio.sleep(0)  # others come in between two pages of what is not for this one
            elif self._applied() > through:
                await self._clock.sleep(COMMIT_POLL_SECONDS)
            else:
                await self._news_within(left)

    async def _news_within(self, seconds: float) -> None:
        news = asyncio.ensure_future(self._news.wait())
        alarm = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait((news, alarm), return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
            alarm.cancel()

    async def _require_reached(self, from_index: int) -> None:
        if from_index <= self._reads.applied_index() + 1:
            return
        # This master is behind, or the index is of another cluster or life: the leader knows.
        await self._reads.linearizable()
        if from_index > (end := self._reads.applied_index() + 1):
            raise InvalidArgument(
                f"the operation log has not come to entry {from_index}: the next one is {end}",
                hint="The index is of another cluster, or of before its state was restored: list again, and "
                "watch from the index that a new watch begins with.",
            )

    def _require_listing(self, tables: ReadTables, context: CallContext, watched: str) -> None:
        self._callers.require_path(tables, context, watched, READ | SEARCH)

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


@dataclass(slots=True)
class _View:
    """One caller's view of noted changes, in one view of the tables."""

    tables: ReadTables
    watched: str
    access: Access | None
    recent: RecentChanges
    _searched: int = 0

    def shown(self, noted: list[Noted]) -> Iterator[Change]:
        """Those that concern what is watched, and that this caller may see."""
        top = self._top()
        for change in noted:
            if change.superseded:
                continue
            found = self._by_path(change) if change.path else self._by_inode(change, top)
            if found is not None:
                yield found

    def _by_path(self, change: Noted) -> Change | None:
        tree = change.kind in _TREES
        path = change.path if self._is_visible(change.path, tree=tree) else ""
        source = change.source if change.source and self._is_visible(change.source, tree=tree) else ""
        return _told(change, path, source) if path or source else None

    def _by_inode(self, change: Noted, top: InodeId) -> Change | None:
        if not self._is_below(change.inode, top):
            return None
        if change.kind == "snapshot" and self.tables.get(Table.UNFINISHED, job_key(change.inode)) is not None:
            return None
        path = self._name(change.inode)
        if self.access is not None and not self._is_visible(path, tree=False):
            return None
        return _told(change, path, "")

    def _is_visible(self, path: str, *, tree: bool) -> bool:
        if not concerns(path, self.watched, tree=tree):
            return False
        if self.access is None:
            return True
        try:
            self.access.require_path(names_of(path)[:-1], READ | SEARCH)
        except GfsError:
            return False
        return True

    def _top(self) -> InodeId:
        try:
            return find(self.tables, names_of(self.watched))[0]
        except GfsError:
            return TRASH_INODE  # there is nothing now

    def _is_below(self, inode: InodeId, top: InodeId) -> bool:
        at = inode
        for _ in range(PATH_DEPTH_MAX + 2):
            if at == top:
                return top != TRASH_INODE
            record = inode_record(self.tables, at)
            if record is None or at == ROOT_INODE or record.parent == TRASH_INODE:
                return False
            at = InodeId(record.parent)
        return False

    def _name(self, inode: InodeId) -> str:
        """Where the file is now; "" when it is in a directory too large to look through."""
        remembered = self.recent.name_of(inode)
        if remembered and self._leads_to(names_of(remembered), inode):
            return remembered
        self._searched += 1
        if self._searched > NAMES_SEARCHED_MAX:
            path = path_of(self.tables, inode, rows_max=FEW_ROWS)
        else:
            path = path_of(self.tables, inode)
        if not path.startswith("/") or not self._leads_to(names_of(path), inode):
            return ""
        self.recent.keep_name(inode, path)
        return path

    def _leads_to(self, names: NamePath, inode: InodeId) -> bool:
        try:
            return find(self.tables, names)[0] == inode
        except GfsError:
            return False


def _told(change: Noted, path: str, source: str) -> Change:
    return Change(
        index=change.index,
        at_ms=change.at_ms,
        kind=change.kind,
        path=path,
        source=source,
        inode=change.inode,
        length_bytes=change.length_bytes,
    )
