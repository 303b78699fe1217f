"""The namespace as clients call it: stat, list, glob, mkdir, create, delete, rename, length hints (GFS §4.1).

Checks what comes from outside and picks the view. What operations do is MasterState's, what reads find
core/lookup's.
"""

from __future__ import annotations

from collections.abc import Awaitable

from gfs.clock import Clock
from gfs.errors import GfsError, InvalidArgument
from gfs.master.callers import Callers, everybody
from gfs.master.commit import Commits
from gfs.master.core.access import READ, SEARCH
from gfs.master.core.glob import glob_page
from gfs.master.core.lookup import NamePath, list_page, names_of, stat
from gfs.master.core.policies import InheritedPolicies, policy_at, trash_expiry
from gfs.master.core.tables import ReadTables
from gfs.master.reads import Reads
from gfs.messages import operations
from gfs.messages.base import ErrorReply, Reply, Request
from gfs.messages.namespace import (
    CreateFile,
    DeletePath,
    EntriesReply,
    EntryReplies,
    EntryReply,
    Glob,
    ListDirectory,
    MakeDirectory,
    MutationReply,
    RenamePath,
    SetLengthHint,
    Stat,
    StatMany,
)
from gfs.messages.operations import AnyOperation, ChunkGranted, Done, RequestId
from gfs.settings import STATS_TOGETHER_MAX
from gfs.transport.frames import error_reply
from gfs.transport.interface import CallContext
from gfs.vocabulary import REPLICATION_GOAL_MAX


class NamespaceService:
    """Handlers of one master. Mutations need the leader; reads are answered as their consistency allows."""

    def __init__(
        self,
        commits: Commits,
        reads: Reads,
        clock: Clock,
        *,
        replication_goal: int,
        trash_seconds: float,
        callers: Callers | None = None,
    ) -> None:
        assert 0 < replication_goal <= REPLICATION_GOAL_MAX
        self._commits = commits
        self._reads = reads
        self._clock = clock
        self._callers = callers or everybody()
        self._replication_goal = replication_goal
        self._trash_ms = round(trash_seconds * 1000)

    def stat(self, request: Request, context: CallContext) -> Awaitable[Reply]:
        assert isinstance(request, Stat)
        path = request.path

        def read(tables: ReadTables) -> EntryReply:
            self._callers.require_path(tables, context, path)
            return EntryReply(entry=stat(tables, path))

        return self._reads.replied(request.consistency, request.min_applied_index, read)

    def stat_many(self, request: Request, context: CallContext) -> Awaitable[Reply]:
        assert isinstance(request, StatMany)
        paths = request.paths
        if len(paths) > STATS_TOGETHER_MAX:
            raise InvalidArgument(f"{len(paths)} paths at once are over the limit of {STATS_TOGETHER_MAX}")

        def read(tables: ReadTables) -> EntryReplies:
            access, policies = self._callers.access(tables, context), InheritedPolicies(tables)
            replies: list[EntryReply | ErrorReply] = []
            for path in paths:
                try:
                    if access is not None:
                        access.require_path(names_of(path))
                    replies.append(EntryReply(entry=stat(tables, path, policies)))
                except GfsError as error:
                    replies.append(error_reply(error))
            return EntryReplies(replies=replies)

        return self._reads.replied("linearizable", 0, read)

    async def list_directory(self, request: Request, context: CallContext) -> Reply:
        assert isinstance(request, ListDirectory)
        tables = await self._reads.view(request.consistency, request.min_applied_index)
        self._callers.require_path(tables, context, request.path, READ | SEARCH)
        entries, next_after = list_page(tables, request.path, after=request.after, limit=request.limit)
        return self._reads.stamp(EntriesReply(entries=entries, next_after=next_after), request.consistency)

    async def glob(self, request: Request, context: CallContext) -> Reply:
        assert isinstance(request, Glob)
        tables = await self._reads.view(request.consistency, request.min_applied_index)
        entries, next_after = glob_page(
            tables,
            request.pattern,
            after=request.after,
            limit=request.limit,
            access=self._callers.access(tables, context),
        )
        return self._reads.stamp(EntriesReply(entries=entries, next_after=next_after), request.consistency)

    def make_directory(self, request: Request, context: CallContext) -> Awaitable[Reply]:
        assert isinstance(request, MakeDirectory)
        names_of(request.path)
        owner, group = self._callers.owner(context)
        operation = operations.MakeDirectory(
            path=request.path, parents=request.parents, owner=owner, group=group
        )
        return self._mutate(operation, request.request, context)

    def create(self, request: Request, context: CallContext) -> Awaitable[Reply]:
        assert isinstance(request, CreateFile)
        names = names_of(request.path)
        goal = request.replication_goal or self._goal_at(names)
        if not 0 < goal <= REPLICATION_GOAL_MAX:
            raise InvalidArgument(f"the replication goal {goal} is not within 1..{REPLICATION_GOAL_MAX}")
        owner, group = self._callers.owner(context)
        operation = operations.CreateFile(
            path=request.path,
            replication_goal=goal,
            replace=request.replace,
            expires_at_ms=self._expires_at_ms(names) if request.replace else 0,
            inherits_goal=request.replication_goal == 0,
            owner=owner,
            group=group,
        )
        return self._mutate(operation, request.request, context)

    def delete(self, request: Request, context: CallContext) -> Awaitable[Reply]:
        assert isinstance(request, DeletePath)
        names = names_of(request.path)
        operation = operations.DeletePath(
            path=request.path, recursive=request.recursive, expires_at_ms=self._expires_at_ms(names)
        )
        return self._mutate(operation, request.request, context)

    def rename(self, request: Request, context: CallContext) -> Awaitable[Reply]:
        assert isinstance(request, RenamePath)
        names_of(request.source)
        replaced = names_of(request.destination)
        operation = operations.RenamePath(
            source=request.source,
            destination=request.destination,
            replace=request.replace,
            expires_at_ms=self._expires_at_ms(replaced),
        )
        return self._mutate(operation, request.request, context)

    def set_length_hint(self, request: Request, context: CallContext) -> Awaitable[Reply]:
        assert isinstance(request, SetLengthHint)
        if request.length_bytes < 0:
            raise InvalidArgument(f"a file cannot be {request.length_bytes} bytes long")
        operation = operations.SetLengthHint(
            inode=request.inode,
            length_bytes=request.length_bytes,
            closed=request.closed,
            appending=request.appending,
        )
        return self._mutate(operation, request.request, context)

    def _mutate(
        self, operation: AnyOperation, request: RequestId | None, context: CallContext
    ) -> Awaitable[Reply]:
        caller = self._callers.to_check(context)
        return self._commits.replied(operation, request, self._reply, caller=caller)

    def _reply(self, outcome: Done | ChunkGranted) -> MutationReply:
        assert isinstance(outcome, Done), outcome
        return MutationReply(inode=outcome.inode, applied_index=self._reads.applied_index())

    def _goal_at(self, names: NamePath) -> int:
        """How many replicas a new file at this path gets when its creator does not care."""
        return policy_at(self._reads.now(), names).replicas or self._replication_goal

    def _expires_at_ms(self, names: NamePath) -> int:
        """Until when the trash keeps what is deleted at this path now."""
        return trash_expiry(self._reads.now(), names, at_ms=self._clock.wall_ms(), default_ms=self._trash_ms)
