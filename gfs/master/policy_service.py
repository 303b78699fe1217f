"""Policies, owners and modes as clients ask for them. What they mean is core/policies' and core/access'."""

from __future__ import annotations

import msgspec

from gfs.errors import InvalidArgument
from gfs.master.callers import Callers
from gfs.master.commit import Commits
from gfs.master.core.lookup import find, names_of, path_of
from gfs.master.core.policies import UNSET, own_policy, policy_of, set_at
from gfs.master.core.records import TRASH_INODE, PolicyRecord, decode_inode, id_key
from gfs.master.core.tables import ReadTables, Table
from gfs.master.core.usage import usage_of
from gfs.master.reads import Reads
from gfs.messages import operations
from gfs.messages.base import Reply, Request
from gfs.messages.namespace import MutationReply
from gfs.messages.operations import POLICY_FIELDS, AnyOperation, RequestId
from gfs.messages.policies import (
    ChangeMode,
    ChangeOwner,
    PolicyFields,
    PolicyReply,
    QuotaUse,
    SetPolicy,
    ShowPolicy,
)
from gfs.transport.interface import CallContext
from gfs.vocabulary import ROOT_INODE, InodeId


class PolicyService:
    """Handlers of one master. `defaults` hold where no directory sets anything."""

    def __init__(self, commits: Commits, reads: Reads, *, callers: Callers, defaults: PolicyRecord) -> None:
        assert defaults.replicas > 0 and defaults.racks > 0 and defaults.trash_ms >= 0 and defaults.durability
        self._commits = commits
        self._reads = reads
        self._callers = callers
        self._defaults = defaults

    async def set_policy(self, request: Request, context: CallContext) -> Reply:
        """Raises: InvalidPath, InvalidArgument, NotFound, NotADirectory, PermissionDenied."""
        assert isinstance(request, SetPolicy)
        names_of(request.path)
        given = request.fields
        operation = operations.SetPolicy(
            path=request.path,
            replicas=given.replicas,
            racks=given.racks,
            trash_ms=given.trash_ms,
            durability=given.durability,
            files_max=given.files_max,
            bytes_max=given.bytes_max,
            unset=tuple(request.unset),
        )
        if operation == operations.SetPolicy(path=request.path):
            raise InvalidArgument(f"nothing is to be set or unset; a policy has {', '.join(POLICY_FIELDS)}")
        return await self._mutate(operation, request.request, context)

    async def show_policy(self, request: Request, context: CallContext) -> Reply:
        assert isinstance(request, ShowPolicy)
        tables = await self._reads.view(request.consistency, request.min_applied_index)
        names = names_of(request.path)
        self._callers.require_path(tables, context, request.path)
        inode, is_directory = find(tables, names)
        directory = inode if is_directory else _parent_of(tables, inode)
        effective = policy_of(tables, inode)
        filled = {
            name: getattr(self._defaults, name)
            for name in POLICY_FIELDS
            if getattr(effective, name) == getattr(UNSET, name)
        }
        reply = PolicyReply(
            path=request.path,
            own=_fields(own_policy(tables, inode) if is_directory else UNSET),
            effective=_fields(msgspec.structs.replace(effective, **filled)),
            set_at={name: path_of(tables, at) for name, at in set_at(tables, directory).items()},
            quotas=_quotas(tables, directory),
        )
        return self._reads.stamp(reply, request.consistency)

    async def change_mode(self, request: Request, context: CallContext) -> Reply:
        """Raises: InvalidPath, InvalidArgument, NotFound, NotADirectory, PermissionDenied."""
        assert isinstance(request, ChangeMode)
        names_of(request.path)
        operation = operations.ChangeMode(path=request.path, mode=request.mode)
        return await self._mutate(operation, request.request, context)

    async def change_owner(self, request: Request, context: CallContext) -> Reply:
        """Raises: InvalidPath, InvalidArgument, NotFound, NotADirectory, PermissionDenied."""
        assert isinstance(request, ChangeOwner)
        names_of(request.path)
        operation = operations.ChangeOwner(
            path=request.path,
            owner=self._callers.stored(request.owner or ""),
            group=request.group or "",
            keep_owner=request.owner is None,
            keep_group=request.group is None,
        )
        if operation.keep_owner and operation.keep_group:
            raise InvalidArgument("neither an owner nor a group is named")
        return await self._mutate(operation, request.request, context)

    async def _mutate(
        self, operation: AnyOperation, request: RequestId | None, context: CallContext
    ) -> MutationReply:
        outcome = await self._commits.commit_in_turn(
            operation, request, caller=self._callers.to_check(context)
        )
        assert isinstance(outcome, operations.Done), outcome
        return MutationReply(inode=outcome.inode, applied_index=self._reads.applied_index())


def _parent_of(tables: ReadTables, inode: InodeId) -> InodeId:
    row = tables.get(Table.INODES, id_key(inode))
    assert row is not None, inode  # its entry was just found
    return InodeId(decode_inode(row).parent)


def _fields(policy: PolicyRecord) -> PolicyFields:
    """As the wire has it: there, what is not set is -1 or empty throughout."""
    return PolicyFields(
        replicas=policy.replicas or -1,
        racks=policy.racks or -1,
        trash_ms=policy.trash_ms,
        durability=policy.durability,
        files_max=policy.files_max,
        bytes_max=policy.bytes_max,
    )


def _quotas(tables: ReadTables, directory: InodeId) -> list[QuotaUse]:
    found: list[QuotaUse] = []
    at = directory
    while at != TRASH_INODE:
        own = own_policy(tables, at)
        if at == directory or (own.files_max, own.bytes_max) != (UNSET.files_max, UNSET.bytes_max):
            used = usage_of(tables, at)
            found.append(
                QuotaUse(
                    path=path_of(tables, at),
                    files=used.files,
                    directories=used.directories,
                    content_bytes=used.content_bytes,
                    files_max=own.files_max,
                    bytes_max=own.bytes_max,
                )
            )
        at = _parent_of(tables, at) if at != ROOT_INODE else TRASH_INODE
    return found
