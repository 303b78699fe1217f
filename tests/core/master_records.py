"""Short ways for tests to write log records."""

from __future__ import annotations

from gfs.messages import operations as op
from gfs.vocabulary import ChunkHandle, ChunkIndex, ChunkVersion, ClientId, InodeId, ServerId

A, B, C, D = (ServerId(name) for name in ("cs-a", "cs-b", "cs-c", "cs-d"))
NOW_MS = 1_700_000_000_000


def record(
    operation: op.AnyOperation,
    *,
    at_ms: int = NOW_MS,
    sequence: int | None = None,
    client: int = 7,
    first_open: int = 0,
) -> op.LogRecord:
    request = None if sequence is None else op.RequestId(ClientId(client), sequence, first_open)
    return op.LogRecord(at_ms=at_ms, operation=operation, request=request)


def mkdir(path: str, *, parents: bool = False) -> op.MakeDirectory:
    return op.MakeDirectory(path=path, parents=parents)


def create(path: str, *, goal: int = 3, replace: bool = False) -> op.CreateFile:
    return op.CreateFile(path=path, replication_goal=goal, replace=replace)


def delete(path: str, *, recursive: bool = False, expires_at_ms: int = NOW_MS + 1000) -> op.DeletePath:
    return op.DeletePath(path=path, recursive=recursive, expires_at_ms=expires_at_ms)


def rename(source: str, destination: str, *, replace: bool = False) -> op.RenamePath:
    return op.RenamePath(source=source, destination=destination, replace=replace, expires_at_ms=NOW_MS + 1000)


def add_chunk(inode: int, index: int, *servers: ServerId) -> op.AddChunk:
    servers = servers or (A, B, C)
    return op.AddChunk(inode=InodeId(inode), index=ChunkIndex(index), replicas=servers, primary=servers[0])


def grant(
    inode: int,
    index: int,
    handle: int,
    from_version: int,
    *servers: ServerId,
    fresh: bool = False,
    held_version: int = 0,
) -> op.GrantLease:
    return op.GrantLease(
        inode=InodeId(inode),
        index=ChunkIndex(index),
        handle=ChunkHandle(handle),
        from_version=ChunkVersion(from_version),
        replicas=servers,
        primary=servers[0] if servers else A,
        fresh=fresh,
        held_version=ChunkVersion(held_version),
    )


def change(
    handle: int, from_version: int, *servers: ServerId, joined: tuple[ServerId, ...] = (), held: int = 0
) -> op.ChangeReplicas:
    return op.ChangeReplicas(
        handle=ChunkHandle(handle),
        from_version=ChunkVersion(from_version),
        replicas=servers,
        primary=servers[0] if servers else A,
        joined=joined,
        held_version=ChunkVersion(held),
    )


def undelete(inode: int, path: str, *, expires_at_ms: int = NOW_MS + 1000) -> op.Undelete:
    return op.Undelete(entry=op.TrashName(expires_at_ms, InodeId(inode)), path=path)


def purge(*inodes: int, expires_at_ms: int = NOW_MS + 1000) -> op.PurgeTrash:
    return op.PurgeTrash(entries=tuple(op.TrashName(expires_at_ms, InodeId(inode)) for inode in inodes))


def reclaim(now_ms: int = 0, rows_max: int = 500) -> op.Reclaim:
    return op.Reclaim(now_ms=now_ms, rows_max=rows_max)


def seal(handle: int, version: int, length_bytes: int) -> op.SealChunk:
    return op.SealChunk(handle=ChunkHandle(handle), version=ChunkVersion(version), length_bytes=length_bytes)


def hint(inode: int, length_bytes: int, *, closed: bool = False) -> op.SetLengthHint:
    return op.SetLengthHint(inode=InodeId(inode), length_bytes=length_bytes, closed=closed)
