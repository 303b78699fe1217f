"""The trash as clients call it: what was deleted, getting it back, getting rid of it (GFS §4.4).

Finding the entries that a path means is done here, by the leader; the operations name them, so that applying
one looks at nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gfs import failpoints
from gfs.errors import NotFound
from gfs.master.callers import Callers, everybody
from gfs.master.commit import Commits
from gfs.master.core.trash import (
    Wants,
    above,
    below,
    exactly,
    name_of,
    owned,
    trash_id_of,
    trash_page,
    with_id,
)
from gfs.master.namespace_service import NamespaceService
from gfs.master.reads import Reads
from gfs.messages import operations
from gfs.messages.base import Reply, Request
from gfs.messages.namespace import DeletePath, MutationReply
from gfs.messages.operations import TrashName
from gfs.messages.trash import (
    ListTrash,
    PurgeReply,
    PurgeTrash,
    TrashEntry,
    TrashReply,
    Undelete,
    UndeleteReply,
)
from gfs.settings import PURGE_ENTRIES_MAX
from gfs.telemetry import logger
from gfs.transport.interface import CallContext
from gfs.vocabulary import InodeId

_log = logger("master.trash")
_NO_ENTRY = TrashName(0, InodeId(0))


class TrashService:
    """Handlers of one master. A mutation that finds nothing is proposed all the same: it may be the retry of
    one that did, and then the log answers it as the first time."""

    def __init__(
        self,
        commits: Commits,
        reads: Reads,
        namespace: NamespaceService,
        *,
        deletion_rank: Callable[[InodeId], int],
        callers: Callers | None = None,
    ) -> None:
        """`deletion_rank`: of what was deleted lately, see core/trash.DeletionOrder."""
        self._commits = commits
        self._reads = reads
        self._namespace = namespace
        self._deletion_rank = deletion_rank
        self._callers = callers or everybody()

    async def list_trash(self, request: Request, context: CallContext) -> Reply:
        """Where callers are checked, each is shown what is theirs."""
        assert isinstance(request, ListTrash)
        tables = await self._reads.view(request.consistency, request.min_applied_index)
        wants, access = below(request.under), self._callers.access(tables, context)
        if access is not None:
            wants = owned(wants, access.owns)
        entries, next_after = trash_page(tables, wants, after=request.after, limit=request.limit)
        return self._reads.stamp(TrashReply(entries=entries, next_after=next_after), request.consistency)

    async def undelete(self, request: Request, context: CallContext) -> Reply:
        """Raises: NotFound, saying what was deleted with the path in it; AlreadyExists, NotADirectory …"""
        assert isinstance(request, Undelete)
        wants = self._wants(request.path)
        found = (await self._find(wants, limit=None))[0]
        newest = max(found, key=self._order, default=None)
        destination = request.destination or (newest.path if newest is not None else request.path)
        entry = name_of(newest) if newest is not None else _NO_ENTRY
        owner, group = self._callers.owner(context)
        try:
            failpoints.hit("trash.before_undelete")
            outcome = await self._commits.commit_in_turn(
                operations.Undelete(entry=entry, path=destination, owner=owner, group=group),
                request.request,
                caller=self._callers.to_check(context),
            )
        except NotFound as error:
            raise await self._not_in_trash(request.path) from error
        assert isinstance(outcome, operations.Done), outcome
        failpoints.hit("trash.undeleted")
        path = destination if newest is not None else self._reads.path_of(outcome.inode)
        return UndeleteReply(path=path, inode=outcome.inode, applied_index=self._reads.applied_index())

    async def purge(self, request: Request, context: CallContext) -> Reply:
        """Raises: NotFound, but not for `everything`: then there may be nothing."""
        assert isinstance(request, PurgeTrash)
        wants = below(request.path) if request.everything else self._wants(request.path)
        found, more = await self._find(wants, limit=PURGE_ENTRIES_MAX)
        inode = InodeId(0)
        if found or not request.everything:
            operation = operations.PurgeTrash(entries=tuple(name_of(entry) for entry in found))
            try:
                failpoints.hit("trash.before_purge")
                await self._commits.commit(operation, request.request, caller=self._callers.to_check(context))
            except NotFound as error:
                raise await self._not_in_trash(request.path) from error
            if found:
                _log.info("deleted files are purged", path=request.path, entries=len(found))
            inode = found[0].entry.inode if len(found) == 1 else inode
        return PurgeReply(
            inode=inode, entries=len(found), more=more, applied_index=self._reads.applied_index()
        )

    async def delete(self, request: Request, context: CallContext) -> Reply:
        """Into the trash; what is there already is purged: deleting it again expedites that (GFS §4.4)."""
        assert isinstance(request, DeletePath)
        inode = trash_id_of(request.path)
        if not inode:
            return await self._namespace.delete(request, context)
        await self.purge(PurgeTrash(path=request.path, request=request.request), context)
        return MutationReply(inode=inode, applied_index=self._reads.applied_index())

    def _order(self, entry: TrashEntry) -> tuple[int, int, int]:
        inode = entry.entry.inode
        return self._deletion_rank(inode), entry.deleted_ms, inode

    def _wants(self, path: str) -> Wants:
        inode = trash_id_of(path)
        return with_id(inode) if inode else exactly(path)

    async def _find(self, wants: Wants, *, limit: int | None) -> tuple[list[TrashEntry], bool]:
        """Entries of the whole trash, and whether there may be more than `limit` of them."""
        await self._reads.linearizable()
        found: list[TrashEntry] = []
        after = ""
        while True:
            page, after = trash_page(self._reads.now(), wants, after=after)
            found += page
            if limit is not None and len(found) > limit:
                return found[:limit], True
            if not after:
                return found, False
            await asyncio.sleep(0)  # a trash may be long: others have their turn between two pages

    async def _not_in_trash(self, path: str) -> NotFound:
        if trash_id_of(path):
            return NotFound(
                f"the trash does not hold {path}, or not any more",
                hint="'gfs trash ls' shows what can be had back.",
            )
        found = (await self._find(above(path), limit=1))[0]
        if not found:
            return NotFound(
                f"nothing that was deleted from {path} is in the trash",
                hint="'gfs trash ls' shows what can be had back.",
            )
        inside = path[len(found[0].path) :]
        return NotFound(
            f"nothing was deleted from {path} by itself, but {found[0].path} with everything in it",
            hint=f"Undelete {found[0].path}, or read {found[0].entry.path}{inside} where it is.",
        )
