"""Log records in words, and which paths they name. Reads no files; the records are messages/operations'."""

from __future__ import annotations

import datetime
from typing import assert_never

from gfs.credentials import token_id
from gfs.messages import operations as op
from gfs.vocabulary import InodeId


def operation_kind(operation: op.AnyOperation) -> str:
    """The name of the operation in the log: create, grant, rename …"""
    tag = operation.__struct_config__.tag
    assert isinstance(tag, str)
    return tag


def paths_of(operation: op.AnyOperation) -> tuple[str, ...]:
    """The paths an operation names; most chunk operations name an inode or a handle instead."""
    match operation:
        case op.RenamePath():
            return operation.source, operation.destination
        case op.BeginSnapshot():
            return operation.source, operation.target
        case (
            op.MakeDirectory()
            | op.CreateFile()
            | op.DeletePath()
            | op.Undelete()
            | op.SetPolicy()
            | op.ChangeMode()
            | op.ChangeOwner()
        ):
            return (operation.path,)
        case _:
            return ()


def touches(operation: op.AnyOperation, path: str) -> bool:
    """Whether an operation names `path`, something below it, or a directory above it that moves."""
    wanted = _plain(path)
    below = wanted.rstrip("/") + "/"
    moves = isinstance(operation, op.RenamePath | op.DeletePath | op.Undelete | op.BeginSnapshot)
    for named in map(_plain, paths_of(operation)):
        if named == wanted or named.startswith(below):
            return True
        if moves and wanted.startswith(named.rstrip("/") + "/"):
            return True
    return False


def inode_of(operation: op.AnyOperation) -> InodeId | None:
    """The file that a chunk operation is about, when it says so."""
    match operation:
        case (
            op.AddChunk() | op.GrantLease() | op.SetLengthHint() | op.ReserveChunkCopy() | op.AdoptChunkCopy()
        ):
            return operation.inode
        case _:
            return None


def handles_of(operation: op.AnyOperation) -> tuple[int, ...]:
    match operation:
        case (
            op.GrantLease()
            | op.ChangeReplicas()
            | op.SealChunk()
            | op.ReserveChunkCopy()
            | op.AdoptReplicas()
        ):
            return (operation.handle,)
        case op.AdoptChunkCopy():
            return (operation.copy,)
        case op.ForgetChunkCopies():
            return operation.copies
        case _:
            return ()


def record_in_words(record: op.LogRecord) -> str:
    """One line: when, what, for whom."""
    words = operation_in_words(record.operation)
    if record.caller is not None and record.caller.user:
        words += f", for user {record.caller.user}"
    if record.request is not None:
        words += f" (request {record.request.client:x}/{record.request.sequence})"
    return words


def moment(at_ms: int) -> str:
    """RFC 3339, UTC; a stamp no clock can have is shown as it is."""
    try:
        found = datetime.datetime.fromtimestamp(at_ms / 1000, tz=datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return f"@{at_ms}ms"
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def operation_in_words(operation: op.AnyOperation) -> str:
    """One line, for people; the JSON form has every field."""
    match operation:
        case op.MakeDirectory():
            return f"make directory {operation.path}" + (" with its parents" if operation.parents else "")
        case op.CreateFile():
            replacing = ", replacing what is there" if operation.replace else ""
            return f"create {operation.path} with {operation.replication_goal} replicas{replacing}"
        case op.DeletePath():
            everything = " with everything in it" if operation.recursive else ""
            return f"delete {operation.path}{everything}, kept until {moment(operation.expires_at_ms)}"
        case op.RenamePath():
            return f"rename {operation.source} to {operation.destination}" + (
                ", replacing a file" if operation.replace else ""
            )
        case op.Undelete():
            return f"undelete inode {operation.entry.inode} as {operation.path}"
        case op.SetPolicy():
            return f"set policy of {operation.path}: {_policy(operation)}"
        case op.ChangeMode():
            return f"change mode of {operation.path} to {operation.mode:o}"
        case op.ChangeOwner():
            owner = "" if operation.keep_owner else operation.owner or "the superuser"
            group = "" if operation.keep_group else f":{operation.group}"
            return f"change owner of {operation.path} to {owner}{group}"
        case op.BeginSnapshot():
            return f"begin a snapshot of {operation.source} at {operation.target}"
        case op.CopySnapshot():
            return f"copy up to {operation.rows} rows of the snapshot with inode {operation.copy}"
        case op.AbandonSnapshot():
            return f"abandon the snapshot with inode {operation.copy}"
        case op.PurgeTrash():
            return f"purge {len(operation.entries)} entries of the trash"
        case op.Reclaim():
            return f"reclaim what has expired by {moment(operation.now_ms)}, up to {operation.rows_max} rows"
        case op.ForgetSessions():
            since = moment(operation.idle_since_ms)
            return f"forget up to {operation.limit} outcomes of clients idle since {since}"
        case op.CheckDigest():
            if operation.index == 0:
                return "note the digest of the state"
            if operation.split:
                return f"no digest of index {operation.index} has a majority: no master is to be trusted"
            by = f", which {operation.agreed} masters have" if operation.agreed else ""
            return f"compare the digest {operation.digest or '-'} of index {operation.index}{by}"
        case op.SetTenure():
            return f"chunk server {operation.server} is {operation.tenure or 'serving'}"
        case op.BeginIncarnation():
            return f"begin life {operation.name} of the cluster, number {operation.number}"
        case op.SettleIncarnation():
            return "chunks from before this life of the cluster are settled"
        case op.AddToken():
            until = f" until {moment(operation.expires_at_ms)}" if operation.expires_at_ms else ""
            of = f" of {operation.user}" if operation.user else ""
            return f"token {token_id(operation.digest)}{of} is {operation.role} of {operation.prefix}{until}"
        case op.RevokeToken():
            return f"revoke token {token_id(operation.digest)}"
        case op.RotateKeys():
            return "sign chunk capabilities by a new key"
        case op.HoldGarbage():
            return "hold the collection of garbage" if operation.held else "go on collecting garbage"
        case _:
            return _chunk_operation_in_words(operation)


_ChunkOperation = (
    op.AddChunk
    | op.GrantLease
    | op.ChangeReplicas
    | op.SealChunk
    | op.SetLengthHint
    | op.ReserveChunkCopy
    | op.AdoptChunkCopy
    | op.ForgetChunkCopies
    | op.AdoptReplicas
)


def _chunk_operation_in_words(operation: _ChunkOperation) -> str:
    match operation:
        case op.AddChunk():
            return (
                f"add chunk {operation.index} to inode {operation.inode}, version 1 "
                f"{_set(operation.replicas, operation.primary)}"
            )
        case op.GrantLease():
            fresh = ", anywhere: it has no byte yet" if operation.fresh else ""
            return (
                f"grant chunk {operation.index} of inode {operation.inode}, handle {operation.handle:x}, "
                f"the version after {operation.from_version} "
                f"{_set(operation.replicas, operation.primary)}{fresh}"
            )
        case op.ChangeReplicas():
            joined = f", {', '.join(operation.joined)} joining" if operation.joined else ""
            return (
                f"change replicas of chunk {operation.handle:x} to the version after "
                f"{operation.from_version} {_set(operation.replicas, operation.primary)}{joined}"
            )
        case op.SealChunk():
            version, length = operation.version, operation.length_bytes
            return f"seal chunk {operation.handle:x} version {version} at {length} bytes"
        case op.SetLengthHint():
            what = "ends" if operation.closed else "is now"
            appending = ", records are being appended" if operation.appending else ""
            return f"length of inode {operation.inode} {what} at {operation.length_bytes} bytes{appending}"
        case op.ReserveChunkCopy():
            return (
                f"reserve a handle for a copy of chunk {operation.index} of inode {operation.inode} "
                f"(handle {operation.handle:x}, version {operation.version})"
            )
        case op.AdoptChunkCopy():
            return (
                f"inode {operation.inode} takes the copy {operation.copy:x} "
                f"{_set(operation.replicas, operation.primary)} for the shared chunk"
            )
        case op.ForgetChunkCopies():
            return f"forget the reserved copies {', '.join(f'{handle:x}' for handle in operation.copies)}"
        case op.AdoptReplicas():
            return (
                f"adopt version {operation.version} of chunk {operation.handle:x} in place of "
                f"{operation.from_version} {_set(operation.replicas, operation.primary)}"
            )
        case _:
            assert_never(operation)


def _set(replicas: tuple[str, ...], primary: str) -> str:
    return f"on {', '.join(replicas)} (primary {primary})"


def _policy(operation: op.SetPolicy) -> str:
    said = [
        f"{name}={getattr(operation, name)}"
        for name in op.POLICY_FIELDS
        if getattr(operation, name) not in (-1, "")
    ]
    return ", ".join(said + [f"{name} unset" for name in operation.unset]) or "nothing"


def _plain(path: str) -> str:
    return "/" + "/".join(name for name in path.split("/") if name)
