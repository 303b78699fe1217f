"""The map from files to chunks, and each chunk's version, replica set and seal (GFS §2.6.1, §4.5). No names.

Where replicas are is not here (it is never logged); this says which servers *may* hold the version.

Invariants: a file's chunks are 0 … chunk_count - 1 without gaps; each has a row whose `references` counts the
files that name it; versions only rise; a replica set is never empty, names no server twice and contains the
primary; the content of a sealed chunk changes no more. A version is quiet until it is granted to a writer.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gfs.errors import ChunkSealed, InvalidArgument, NotFound, StaleVersion
from gfs.master.core.digest import DigestedTables
from gfs.master.core.incarnation import Incarnations
from gfs.master.core.lookup import handle_of, live_file, server_by_number
from gfs.master.core.quotas import Quotas
from gfs.master.core.records import (
    FILE_CHUNKS_MAX,
    ID_MAX,
    Counters,
    InodeRecord,
    StoredChunk,
    decode_chunk,
    encode_chunk,
    encode_inode,
    file_chunk_key,
    handle_value,
    id_key,
    inode_share,
    server_id_key,
    server_number_key,
)
from gfs.master.core.tables import Table
from gfs.master.core.tenure import check_server_id, refuse_leaving
from gfs.messages.operations import (
    AddChunk,
    AdoptReplicas,
    ChangeReplicas,
    ChunkGranted,
    GrantLease,
    SealChunk,
    SetLengthHint,
)
from gfs.vocabulary import CHUNK_BYTES, REPLICATION_GOAL_MAX, ChunkHandle, ChunkVersion, ServerId

VERSION_MAX = 2**62


class ChunkTable:
    """Every method checks first and writes after: when it raises, nothing was written."""

    def __init__(
        self, tables: DigestedTables, counters: Counters, quotas: Quotas, incarnations: Incarnations
    ) -> None:
        self._tables = tables
        self._incarnations = incarnations
        self._quotas = quotas
        self._counters = counters

    def require_settled(self, handle: ChunkHandle) -> None:
        """Raises: Unavailable; see core/incarnation."""
        self._incarnations.require_settled(handle)

    def add_chunk(self, operation: AddChunk, *, at_ms: int) -> ChunkGranted:
        """Raises: InvalidArgument, NotFound, IsADirectory, QuotaExceeded."""
        _check_set(operation.replicas, operation.primary)
        row, file = live_file(self._tables, operation.inode)
        if 0 <= operation.index < file.chunk_count:
            return self._present_grant(handle_of(self._tables, operation.inode, file, operation.index))
        if operation.index != file.chunk_count or operation.index >= FILE_CHUNKS_MAX:
            raise InvalidArgument(
                f"chunk {operation.index} cannot be added to the {file.chunk_count} of the file"
            )
        refuse_leaving(self._tables, operation.replicas)
        # The chunks so far are charged in full from now on.
        more_bytes = max(0, file.chunk_count * CHUNK_BYTES - inode_share(row)[2])
        self._quotas.check_chunk(file.parent, more_bytes)
        handle = self._counters.next_handle
        assert handle <= ID_MAX
        self._counters.next_handle = handle + 1
        self._counters.chunks += 1
        numbers = tuple([self._number_of(server) for server in operation.replicas])
        chunk = StoredChunk(
            version=1,
            references=1,
            held_version=0,
            primary=operation.replicas.index(operation.primary),
            servers=numbers,
        )
        self._tables.insert(Table.CHUNKS, id_key(handle), encode_chunk(chunk))
        if operation.index > 0:
            key = file_chunk_key(operation.inode, operation.index)
            self._tables.insert(Table.FILE_CHUNKS, key, handle_value(handle))
        grown = InodeRecord(
            is_directory=False,
            parent=file.parent,
            created_ms=file.created_ms,
            modified_ms=at_ms,
            length_bytes=file.length_bytes,
            length_exact=False,
            chunk_count=file.chunk_count + 1,
            replication_goal=file.replication_goal,
            first_chunk=file.first_chunk or handle,
            mode=file.mode,
            ownership=file.ownership,
            goal_inherited=file.goal_inherited,
        )
        self._rewrite_file(operation.inode, row, grown)
        return ChunkGranted(
            handle=ChunkHandle(handle),
            version=ChunkVersion(1),
            replicas=operation.replicas,
            primary=operation.primary,
        )

    def grant_lease(self, operation: GrantLease, *, at_ms: int) -> ChunkGranted:
        """Raises: InvalidArgument, NotFound, IsADirectory, ChunkSealed, StaleVersion; Unavailable while the
        chunk is not settled (core/incarnation)."""
        _check_set(operation.replicas, operation.primary)
        self._incarnations.require_settled(operation.handle)
        file_row, file = live_file(self._tables, operation.inode)
        if (
            not 0 <= operation.index < file.chunk_count
            or handle_of(self._tables, operation.inode, file, operation.index) != operation.handle
        ):
            raise NotFound(f"chunk {operation.index} of the file is not {operation.handle}")
        row, chunk = self._chunk(operation.handle)
        if chunk.references > 1:
            # Also of a leader that began this grant before the snapshot, was replaced, and leads again.
            raise StaleVersion(
                f"chunk {operation.handle} is shared: it is copied before it is written (§3.4)"
            )
        if chunk.sealed:
            raise ChunkSealed(f"chunk {operation.handle} is sealed at {chunk.length_bytes} bytes")
        _check_follows(operation, chunk)
        members = {self._server(number) for number in chunk.servers}
        strangers = [server for server in operation.replicas if server not in members]
        # Only members of the set hold every acknowledged mutation, so only they may follow it (I2). A
        # fresh chunk has none acknowledged: the leader has made sure of that, and vouches for it.
        if strangers and not operation.fresh:
            raise InvalidArgument(f"{', '.join(strangers)} held no replica of version {chunk.version}")
        refuse_leaving(self._tables, strangers)
        granted = StoredChunk(
            version=self._next_version(chunk),
            references=chunk.references,
            # A fresh grant's servers have yet to make their replicas: of them nothing is known.
            held_version=0 if operation.fresh else max(chunk.held_version, operation.held_version),
            primary=operation.replicas.index(operation.primary),
            servers=tuple([self._number_of(server) for server in operation.replicas]),
        )
        self._tables.replace(Table.CHUNKS, id_key(operation.handle), old=row, new=encode_chunk(granted))
        changed = msgspec.structs.replace(file, modified_ms=at_ms, length_exact=False)
        self._rewrite_file(operation.inode, file_row, changed)
        return ChunkGranted(
            handle=operation.handle,
            version=ChunkVersion(granted.version),
            replicas=operation.replicas,
            primary=operation.primary,
        )

    def change_replicas(self, operation: ChangeReplicas) -> ChunkGranted:
        """Raises: InvalidArgument, NotFound, StaleVersion; Unavailable when who joins is to leave, or while
        the chunk is not settled."""
        _check_set(operation.replicas, operation.primary)
        self._incarnations.require_settled(operation.handle)
        row, chunk = self._chunk(operation.handle)
        _check_follows(operation, chunk)
        members = {self._server(number) for number in chunk.servers}
        joined, named = set(operation.joined), set(operation.replicas)
        if strangers := sorted(named - members - joined):
            raise InvalidArgument(f"{', '.join(strangers)} held no replica of version {chunk.version}")
        if not joined <= named or joined & members:
            raise InvalidArgument("who joins a set is in it afterwards, and not before")
        if not named & members:
            raise InvalidArgument(f"nobody of version {chunk.version} would stay")
        if joined and not (chunk.quiet and operation.held_version == chunk.version):
            raise InvalidArgument(f"version {chunk.version} is not fenced: nobody can join")
        refuse_leaving(self._tables, operation.joined)
        changed = StoredChunk(
            version=self._next_version(chunk),
            references=chunk.references,
            held_version=max(chunk.held_version, operation.held_version),
            primary=operation.replicas.index(operation.primary),
            servers=tuple([self._number_of(server) for server in operation.replicas]),
            sealed=chunk.sealed,
            length_bytes=chunk.length_bytes,
            quiet=1,
        )
        self._tables.replace(Table.CHUNKS, id_key(operation.handle), old=row, new=encode_chunk(changed))
        return ChunkGranted(
            handle=operation.handle,
            version=ChunkVersion(changed.version),
            replicas=operation.replicas,
            primary=operation.primary,
        )

    def adopt_replicas(self, operation: AdoptReplicas) -> None:
        """Take over what servers hold at a higher version than this state knows of (GFS §4.5).

        Why it is safe: whoever holds a version was of its set, and holds all acknowledged under it and before
        (core/grants); of what is adopted nothing was granted in this life.
        Raises: InvalidArgument, NotFound, StaleVersion.
        """
        _check_set(operation.replicas, operation.primary)
        row, chunk = self._chunk(operation.handle)
        if chunk.version != operation.from_version:
            raise StaleVersion(
                f"chunk {operation.handle} has version {chunk.version}, not {operation.from_version}"
            )
        if not self._incarnations.may_adopt(
            operation.handle, logged=chunk.version, version=operation.version
        ):
            raise InvalidArgument(f"version {operation.version} is not from before this life of the cluster")
        adopted = StoredChunk(
            version=operation.version,
            references=chunk.references,
            held_version=operation.version,
            primary=operation.replicas.index(operation.primary),
            servers=tuple([self._number_of(server) for server in operation.replicas]),
            sealed=chunk.sealed,
            length_bytes=chunk.length_bytes,
        )
        self._tables.replace(Table.CHUNKS, id_key(operation.handle), old=row, new=encode_chunk(adopted))

    def seal_chunk(self, operation: SealChunk) -> None:
        """Raises: InvalidArgument, NotFound, StaleVersion, ChunkSealed (already, at another length);
        Unavailable while the chunk is not settled."""
        self._incarnations.require_settled(operation.handle)
        if not 0 <= operation.length_bytes <= CHUNK_BYTES:
            raise InvalidArgument(f"a chunk cannot be {operation.length_bytes} bytes long")
        row, chunk = self._chunk(operation.handle)
        if chunk.sealed:
            if chunk.length_bytes == operation.length_bytes:
                return
            raise ChunkSealed(f"chunk {operation.handle} is sealed at {chunk.length_bytes} bytes")
        if chunk.version != operation.version:
            raise StaleVersion(
                f"chunk {operation.handle} has version {chunk.version}, not {operation.version}"
            )
        sealed = msgspec.structs.replace(chunk, sealed=1, length_bytes=operation.length_bytes)
        self._tables.replace(Table.CHUNKS, id_key(operation.handle), old=row, new=encode_chunk(sealed))

    def set_length_hint(self, operation: SetLengthHint, *, at_ms: int) -> None:
        """A later, smaller word never hides what an earlier one has shown: the longest counts.

        Raises: InvalidArgument, NotFound, IsADirectory.
        """
        row, file = live_file(self._tables, operation.inode)
        length_max = file.chunk_count * CHUNK_BYTES
        if not 0 <= operation.length_bytes <= length_max:
            raise InvalidArgument(
                f"a file of {file.chunk_count} chunks cannot be {operation.length_bytes} bytes long"
            )
        if operation.closed:
            exact = True
        else:
            exact = file.length_exact and operation.length_bytes <= file.length_bytes
        appended = file.appended or operation.appending
        changed = msgspec.structs.replace(
            file,
            length_bytes=max(file.length_bytes, operation.length_bytes),
            length_exact=exact and not appended,
            appended=appended,
            modified_ms=at_ms,
        )
        self._rewrite_file(operation.inode, row, changed)

    def chunk_of_copy(
        self, shared: StoredChunk, replicas: Sequence[ServerId], primary: ServerId
    ) -> StoredChunk:
        """The row of a chunk that `replicas`, members of the set of `shared`, have copied from it (§3.4).

        It goes on from the version of what it copies, which its servers hold. Raises: InvalidArgument.
        """
        _check_set(replicas, primary)
        members = {self._server(number): number for number in shared.servers}
        strangers = [server for server in replicas if server not in members]
        if strangers:
            raise InvalidArgument(f"{', '.join(strangers)} held no replica of version {shared.version}")
        return StoredChunk(
            version=shared.version,
            references=1,
            held_version=shared.version,
            primary=list(replicas).index(primary),
            servers=tuple([members[server] for server in replicas]),
        )

    def _present_grant(self, handle: ChunkHandle) -> ChunkGranted:
        _, chunk = self._chunk(handle)
        replicas = tuple([self._server(number) for number in chunk.servers])
        return ChunkGranted(
            handle=handle,
            version=ChunkVersion(chunk.version),
            replicas=replicas,
            primary=replicas[chunk.primary],
            existed=True,
        )

    def _next_version(self, chunk: StoredChunk) -> int:
        """Above every version of any earlier life, of which this state may not know."""
        return max(chunk.version + 1, self._incarnations.first_version)

    def _chunk(self, handle: int) -> tuple[bytes, StoredChunk]:
        row = self._tables.get(Table.CHUNKS, id_key(handle)) if 0 < handle <= ID_MAX else None
        if row is None:
            raise NotFound(f"there is no chunk {handle}")
        return row, decode_chunk(row)

    def _rewrite_file(self, inode: int, old: bytes, file: InodeRecord) -> None:
        new = encode_inode(file)
        if new != old:
            self._tables.replace(Table.INODES, id_key(inode), old=old, new=new)

    def _server(self, number: int) -> ServerId:
        return server_by_number(self._tables, number, {})

    def _number_of(self, server: ServerId) -> int:
        """The number that stands for a server in chunk rows; its first mention gives it one.

        Ids are long and chunks are many: a number takes one or two bytes where an id takes twenty.
        """
        key = server_id_key(server)
        row = self._tables.get(Table.SERVERS, key)
        if row is not None:
            return int.from_bytes(row, "big")
        number = self._counters.next_server
        self._counters.next_server = number + 1
        self._tables.insert(Table.SERVERS, key, id_key(number))
        self._tables.insert(Table.SERVERS, server_number_key(number), server.encode("utf-8"))
        return number


def _check_follows(operation: GrantLease | ChangeReplicas, chunk: StoredChunk) -> None:
    """Raises: StaleVersion, InvalidArgument, when it was meant for another version of the chunk."""
    if chunk.version != operation.from_version:
        raise StaleVersion(
            f"chunk {operation.handle} has version {chunk.version}, not {operation.from_version}"
        )
    assert chunk.version < VERSION_MAX
    if not 0 <= operation.held_version <= chunk.version:
        raise InvalidArgument(f"no replica can hold version {operation.held_version} yet")


def _check_set(replicas: Sequence[ServerId], primary: ServerId) -> None:
    if not 0 < len(replicas) <= REPLICATION_GOAL_MAX:
        raise InvalidArgument(f"{len(replicas)} replicas are not within 1..{REPLICATION_GOAL_MAX}")
    if len(set(replicas)) != len(replicas):
        raise InvalidArgument("the replica set names a server twice")
    if primary not in replicas:
        raise InvalidArgument("the primary is not a member of its replica set")
    for server in replicas:
        check_server_id(server)
